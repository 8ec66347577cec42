// The same calls over a real Prefect server, as a user has it: `captionacc setup`, `captionacc deploy`, a worker, the web
// app beside them; and what callers are told when the server is away or refuses.

import { existsSync } from 'node:fs';
import path from 'node:path';

import {
  cancelFlowRun,
  getFlowRun,
  getLineage,
  listFlowRuns,
  OrchestratorError,
  queuePrefectFlow,
  retryFlowRun,
  waitForFlowRun,
  watchFlowRun,
  type FlowRunEvent,
  type OrchestratorErrorCode,
  type Progress,
  type QueueOptions,
} from '@captionacc/orchestrator';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { someArguments } from './support/home.js';
import { captionacc, freshPrefectUser, PrefectServer, setUp, Wire } from './support/prefect.js';
import { isAlive } from './support/processes.js';
import { filmWith, latinFont, WebApp, Worker } from './support/web-app.js';

const bounds = { left: 100, top: 200, right: 540, bottom: 260 };

let server: PrefectServer;
beforeAll(async () => {
  server = await PrefectServer.shared();
});
afterAll(() => server.stop());

let home: string;
let name: string;
beforeEach(() => {
  ({ home, name } = freshPrefectUser());
});

/** A declared flow, whose name the types do not know. */
const queueDeclared = queuePrefectFlow as (flow: string, given: Record<string, string>, options?: QueueOptions) => Promise<{ flowRunId: string }>;

async function failureOf(promise: Promise<unknown>, code: OrchestratorErrorCode): Promise<OrchestratorError> {
  const error: unknown = await promise.then(
    (value) => {
      throw new Error(`it succeeded: ${JSON.stringify(value)}`);
    },
    (failure: unknown) => failure,
  );
  expect(error).toBeInstanceOf(OrchestratorError);
  expect(error).toMatchObject({ code });
  return error as OrchestratorError;
}

interface ApiFlowRun {
  id: string;
  tags: string[];
  state_type: string;
  work_queue_name: string;
  work_pool_name: string;
}

/** Every run of this test's deployments, as the server has them. */
function runsAtServer(): Promise<ApiFlowRun[]> {
  return server.ask('POST', '/flow_runs/filter', { deployments: { name: { any_: [name] } }, limit: 200 });
}

test('both flows run beside the app, and the server has all of it', async () => {
  await setUp(server.apiUrl, home);
  const film = filmWith([{ text: 'HELLO WORLD 2026', font: latinFont, size: 28, x: 150, y: 215, from: 0, to: 20 }]);
  const app = new WebApp();
  const worker = await Worker.start();

  const full = await queuePrefectFlow('full-frames', { ...app.arguments(film), 'frame-rate': 0.5 });
  expect(full).toMatchObject({ status: 'queued', priority: 'background' });
  const progress: Progress[] = [];
  const run = await waitForFlowRun(full.flowRunId, { onProgress: (step) => progress.push(step) });
  expect(run.state, worker.running.stderr).toMatchObject({ type: 'COMPLETED' });
  expect(run).toMatchObject({
    flowRunId: full.flowRunId,
    flowName: 'full-frames',
    deployment: `full-frames/${name}`,
    tags: expect.arrayContaining(['full-frames', 'background', 'video:video-1']),
    attempt: 1,
    failedAttempts: 0,
    parameters: { 'db-path': app.databasePath, 'frame-rate': 0.5 },
  });
  expect(run.states.map((state) => state.type)).toEqual(['SCHEDULED', 'PENDING', 'RUNNING', 'COMPLETED']);
  expect(run.taskRuns.map((task) => [task.name, task.state.name])).toEqual([
    ['open_annotations', 'Completed'],
    ['sample_video', 'Completed'],
    ['recognize_text', 'Completed'],
    ['write_frames', 'Completed'],
  ]);
  expect(run.artifacts.map((artifact) => artifact.type)).toContain('table');
  expect(progress.length).toBeGreaterThan(0);
  const fractions = progress.map(({ fraction }) => fraction);
  expect(fractions).toEqual(fractions.toSorted((a, b) => a - b));
  expect(app.statuses('processing_status').at(-1)).toBe('processing_complete');
  expect(app.all('SELECT count(*) AS frames FROM full_frames')).toEqual([{ frames: 5 }]);

  const crop = await queuePrefectFlow('crop-frames', { ...app.arguments(film), 'crop-bounds': bounds, 'crop-bounds-version': 2 });
  expect(crop.priority).toBe('user-initiated');
  const events: FlowRunEvent[] = [];
  for await (const event of watchFlowRun(crop.flowRunId)) events.push(event);
  const names = events.flatMap((event) => (event.type === 'state' ? [event.state.name] : []));
  expect(names, worker.running.stderr).toEqual(['Scheduled', 'Pending', 'Running', 'Completed']);
  expect(events.some((event) => event.type === 'progress')).toBe(true);
  expect(events.at(-1)).toMatchObject({ type: 'state', state: { type: 'COMPLETED' } });
  expect(app.all('SELECT count(*) AS strips FROM cropped_frames')).toEqual([{ strips: 100 }]);

  expect((await listFlowRuns()).map((listed) => listed.flowRunId)).toEqual([crop.flowRunId, full.flowRunId]);
  expect((await listFlowRuns({ flowName: 'full-frames', videoId: 'video-1', stateTypes: ['COMPLETED'] })).map((listed) => listed.flowRunId)).toEqual([
    full.flowRunId,
  ]);
  expect(Object.keys((await getLineage()).assets)).toEqual(
    expect.arrayContaining(['annotations://video-1/full_frames', 'annotations://video-1/cropped_frames']),
  );
  const known = await runsAtServer();
  expect(known.find((one) => one.id === full.flowRunId)).toMatchObject({ state_type: 'COMPLETED', work_queue_name: 'background', work_pool_name: name });
  expect(known.find((one) => one.id === crop.flowRunId)).toMatchObject({ state_type: 'COMPLETED', work_queue_name: 'user-initiated' });

  await worker.stop();
  app.expectWhole();
  expect(existsSync(path.join(app.folder, 'scratch'))).toBe(false);
});

test('a run that works is cancelled, queued again and cancelled while it waits', async () => {
  await setUp(server.apiUrl, home);
  const film = filmWith([], 'bigbuckbunny.mp4');
  const app = new WebApp();
  const worker = await Worker.start();
  const { flowRunId } = await queuePrefectFlow('full-frames', { ...app.arguments(film), 'frame-rate': 10 });
  await app.untilStatus('processing_status', 'running_ocr');
  const { pid } = await getFlowRun(flowRunId);
  expect(isAlive(pid ?? 0)).toBe(true);
  expect(['CANCELLING', 'CANCELLED']).toContain((await cancelFlowRun(flowRunId)).state.type);
  const run = await waitForFlowRun(flowRunId);
  expect(run.state.type, worker.running.stderr).toBe('CANCELLED');
  expect(isAlive(pid ?? 0)).toBe(false);
  await app.untilStatus('processing_status', 'error');
  await worker.stop();

  await failureOf(retryFlowRun('01932f2b-7d5c-7000-8000-000000000000'), 'ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND');
  expect((await retryFlowRun(flowRunId)).state.type).toBe('SCHEDULED');
  expect((await listFlowRuns({ stateTypes: ['SCHEDULED'] })).map((listed) => listed.flowRunId)).toEqual([flowRunId]);
  expect((await cancelFlowRun(flowRunId)).state.type).toBe('CANCELLED');
  expect((await cancelFlowRun(flowRunId)).state.type).toBe('CANCELLED');
  app.expectWhole();
});

test('calls with one key, and equal full-frames that wait, are one run', async () => {
  await setUp(server.apiUrl, home);
  const options = { idempotencyKey: `${name}-upload` };
  const given = { ...someArguments(), 'crop-bounds': JSON.stringify(bounds) };
  const [first, second] = await Promise.all([
    queuePrefectFlow('crop-frames', given, options),
    queuePrefectFlow('crop-frames', given, options),
  ]);
  expect(second).toEqual(first);
  const other = { ...given, 'crop-bounds-version': 2 };
  const error = await failureOf(queuePrefectFlow('crop-frames', other, options), 'ERR_CAPTIONACC_INVALID_ARGUMENT');
  expect(error.message).toContain(first.flowRunId);
  const waiting = await queuePrefectFlow('full-frames', someArguments());
  expect(await queuePrefectFlow('full-frames', someArguments())).toEqual(waiting);
  expect((await runsAtServer()).map(({ id }) => id).toSorted()).toEqual([first.flowRunId, waiting.flowRunId].toSorted());
});

test('whom a person waits for goes first, and programs are flows with logs', async () => {
  const declared = (flow: string, queue: string) => `
    [flows.${flow}]
    command = ["echo", "it is {word}"]
    work-queue = "${queue}"
    [flows.${flow}.parameters.word]
    type = "text"
  `;
  await setUp(server.apiUrl, home, declared('later', 'background') + declared('sooner', 'user-initiated'));
  const later = await queueDeclared('later', { word: 'late' });
  const sooner = await queueDeclared('sooner', { word: 'soon' });
  await captionacc('worker', '--once', '--limit', '1');
  const [first, second] = await Promise.all([waitForFlowRun(sooner.flowRunId), waitForFlowRun(later.flowRunId)]);
  expect([first.state.type, second.state.type]).toEqual(['COMPLETED', 'COMPLETED']);
  expect(Date.parse(first.endedAt ?? '')).toBeLessThanOrEqual(Date.parse(second.startedAt ?? ''));
  const events: FlowRunEvent[] = [];
  for await (const event of watchFlowRun(later.flowRunId)) events.push(event);
  expect(events.flatMap((event) => (event.type === 'log' ? [event.log.message] : []))).toContain('it is late');
  expect(events.at(-1)).toMatchObject({ type: 'state', state: { type: 'COMPLETED' } });
  expect(await captionacc('runs', 'logs', sooner.flowRunId, '--follow')).toContain('it is soon');
  expect(await captionacc('runs', 'logs', later.flowRunId)).toContain('it is late');
});

describe('a server that is away', () => {
  const flow = '[flows.short]\ncommand = ["true"]\n';

  test.each(['cut', 'stall'] as const)('%s: the call is refused within its time, naming the address, and nothing is kept', async (how) => {
    const wire = await Wire.to(server);
    await setUp(wire.apiUrl, home, flow);
    wire.play(how);
    const error = await failureOf(queueDeclared('short', {}, { timeoutMs: 2000 }), 'ERR_CAPTIONACC_PREFECT_UNREACHABLE');
    expect(error.message).toContain(wire.apiUrl);
    expect(error.retryable).toBe(true);
    expect(await runsAtServer()).toEqual([]);
  });

  test.each(['cut', 'stall', 'lose-answers-of-creates'] as const)('%s: a run that is to be stored is queued once, when the server is back', async (how) => {
    const wire = await Wire.to(server);
    await setUp(wire.apiUrl, home, flow);
    wire.play(how);
    const options: QueueOptions = { timeoutMs: 2000, whenUnreachable: 'store', idempotencyKey: `${name}-stored` };
    const { flowRunId } = await queueDeclared('short', {}, options);
    expect(await queueDeclared('short', {}, options)).toMatchObject({ flowRunId });
    await wire.mend();
    const worker = await Worker.start();
    expect((await waitForFlowRun(flowRunId)).state.type, worker.running.stderr).toBe('COMPLETED');
    await worker.stop();
    expect((await runsAtServer()).map((run) => run.state_type)).toEqual(['COMPLETED']);
  });

  test('the settings say what to do unless the call does', async () => {
    const wire = await Wire.to(server);
    await setUp(wire.apiUrl, home, `${flow}\n[prefect]\nwhen-unreachable = "store"\n`);
    wire.play('cut');
    const { flowRunId } = await queueDeclared('short', {});
    expect(await getFlowRun(flowRunId)).toMatchObject({ state: { name: 'Scheduled', message: expect.stringContaining(wire.apiUrl) } });
    await failureOf(queueDeclared('short', {}, { whenUnreachable: 'reject' }), 'ERR_CAPTIONACC_PREFECT_UNREACHABLE');
  });
});

describe('a server that refuses', () => {
  test('without a deployment it is said how to make one', async () => {
    await captionacc('setup', '--orchestrator', 'server', '--api-url', server.apiUrl);
    const error = await failureOf(queuePrefectFlow('full-frames', someArguments()), 'ERR_CAPTIONACC_PREFECT_NOT_FOUND');
    expect(error.message).toContain(`full-frames/${name}`);
    expect(error.message).toContain('captionacc deploy');
    expect(error.retryable).toBe(false);
  });

  test('an auth string that is not its own is named, and never shown', async () => {
    const guarded = await PrefectServer.start({ PREFECT_SERVER_API_AUTH_STRING: 'admin:right' });
    try {
      process.env.PREFECT_API_URL = guarded.apiUrl;
      process.env.PREFECT_API_AUTH_STRING = 'admin:wrong-pass';
      const error = await failureOf(queuePrefectFlow('full-frames', someArguments()), 'ERR_CAPTIONACC_PREFECT_UNAUTHORIZED');
      expect(error.message).toContain('auth string');
      expect(error.message).not.toContain('wrong-pass');
      delete process.env.PREFECT_API_AUTH_STRING;
      await failureOf(listFlowRuns(), 'ERR_CAPTIONACC_PREFECT_UNAUTHORIZED');
      process.env.PREFECT_API_AUTH_STRING = 'admin:right';
      expect(await listFlowRuns()).toEqual([]);
    } finally {
      guarded.stop();
    }
  });
});
