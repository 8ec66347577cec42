import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
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
} from '@captionacc/orchestrator';
import { beforeEach, describe, expect, test } from 'vitest';

import { freshHome, someArguments, temporaryFolder } from './support/home.js';
import { Running, runNode } from './support/processes.js';
import { lock, sql } from './support/queue-db.js';

const bounds = { left: 10, top: 20, right: 110, bottom: 60 };
const unknownId = '01932f2b-7d5c-7000-8000-000000000000';

let home: string;
beforeEach(() => {
  home = freshHome();
});

/** Any call at all: what the types forbid is given here on purpose. */
// oxlint-disable-next-line no-explicit-any
const anyhow = queuePrefectFlow as (...given: any[]) => Promise<unknown>;

async function expectFailure(
  promise: Promise<unknown>,
  code: OrchestratorErrorCode,
  message: string | RegExp = '',
): Promise<OrchestratorError> {
  const error: unknown = await promise.then(
    (value) => {
      throw new Error(`it succeeded: ${JSON.stringify(value)}`);
    },
    (failure: unknown) => failure,
  );
  expect(error).toBeInstanceOf(OrchestratorError);
  expect(error).toBeInstanceOf(Error);
  expect(error).toMatchObject({ name: 'OrchestratorError', code });
  expect((error as Error).message).toMatch(message);
  return error as OrchestratorError;
}

describe('queuePrefectFlow', () => {
  test('a run is stored when it resolves, with complete arguments and absolute paths', async () => {
    const queued = await queuePrefectFlow('full-frames', someArguments({ 'video-path': 'videos/a b.mp4' }));
    expect(queued).toStrictEqual({ flowRunId: expect.stringMatching(/^[0-9a-f-]{36}$/), status: 'queued', priority: 'background' });
    // Seen by another process at once: it is in the file and not in this process.
    expect(sql(path.join(home, 'queue.db'), 'SELECT id, state_type FROM flow_run')).toEqual([
      { id: queued.flowRunId, state_type: 'SCHEDULED' },
    ]);
    const run = await getFlowRun(queued.flowRunId);
    expect(run).toMatchObject({
      flowRunId: queued.flowRunId,
      flowName: 'full-frames',
      deployment: 'full-frames/production',
      state: { type: 'SCHEDULED', name: 'Scheduled' },
      parameters: { 'video-path': path.resolve('videos/a b.mp4'), 'frame-rate': 0.1 },
      attempt: 0,
      startedAt: null,
      tags: ['full-frames', 'background', 'video:video-1'],
      taskRuns: [],
      artifacts: [],
    });
    expect(Date.parse(run.createdAt)).toBeLessThanOrEqual(Date.now());
  });

  test('crop-frames goes to the people who wait, with bounds as text or object', async () => {
    for (const cropBounds of [bounds, JSON.stringify(bounds)]) {
      const queued = await queuePrefectFlow('crop-frames', {
        ...someArguments(),
        'crop-bounds': cropBounds,
        'crop-bounds-version': 7,
        'frame-rate': undefined,
      });
      expect(queued.priority).toBe('user-initiated');
      expect((await getFlowRun(queued.flowRunId)).parameters).toMatchObject({
        'crop-bounds': bounds,
        'crop-bounds-version': 7,
        'frame-rate': 10,
      });
    }
  });

  test('the newest crop-frames of a video takes the place of an older one', async () => {
    const first = await anyhow('crop-frames', { ...someArguments(), 'crop-bounds': bounds }) as { flowRunId: string };
    const second = await anyhow('crop-frames', { ...someArguments(), 'crop-bounds': { ...bounds, left: 0 } }) as { flowRunId: string };
    expect(await getFlowRun(first.flowRunId)).toMatchObject({ state: { type: 'CANCELLED' }, supersededBy: second.flowRunId });
  });

  test('calls that nobody waited for are stored in their order: the last one is the latest', async () => {
    await listFlowRuns();
    const calls = Array.from({ length: 300 }, (_, left) =>
      queuePrefectFlow('crop-frames', { ...someArguments(), 'crop-bounds': { ...bounds, left, right: 400 } }),
    );
    const ids = (await Promise.all(calls)).map(({ flowRunId }) => flowRunId);
    expect((await listFlowRuns({ stateTypes: ['SCHEDULED'] })).map((run) => run.flowRunId)).toEqual(ids.slice(-1));
    expect((await listFlowRuns({ limit: 300 })).map((run) => run.flowRunId)).toEqual(ids.toReversed());
  });

  test('an equal full-frames that still waits is returned', async () => {
    const first = await queuePrefectFlow('full-frames', someArguments());
    expect(await queuePrefectFlow('full-frames', someArguments())).toEqual(first);
    expect(await listFlowRuns()).toHaveLength(1);
  });

  test('paths are those of the working directory at the call', async () => {
    const [here, there] = [process.cwd(), temporaryFolder()];
    process.chdir(there);
    const queueing = queuePrefectFlow('full-frames', someArguments({ 'video-path': 'v.mp4' }));
    process.chdir(here);
    const run = await getFlowRun((await queueing).flowRunId);
    expect(run.parameters['video-path']).toBe(path.join(there, 'v.mp4'));
  });

  test('arguments are taken as they are at the call', async () => {
    const given = someArguments();
    const queueing = queuePrefectFlow('full-frames', given);
    given['video-id'] = 'changed';
    expect((await getFlowRun((await queueing).flowRunId)).parameters['video-id']).toBe('video-1');
  });

  test('two calls with one key make one run, and the key belongs to its arguments', async () => {
    const given = { ...someArguments(), 'crop-bounds': JSON.stringify(bounds) };
    const options = { idempotencyKey: 'upload-1' };
    const [first, second] = await Promise.all([
      queuePrefectFlow('crop-frames', given, options),
      queuePrefectFlow('crop-frames', given, options),
    ]);
    expect(second).toEqual(first);
    await expectFailure(
      queuePrefectFlow('full-frames', someArguments(), options),
      'ERR_CAPTIONACC_INVALID_ARGUMENT',
      new RegExp(`upload-1.*${first.flowRunId}`),
    );
  });

  test.each([
    ['full-frame', {}, 'ERR_CAPTIONACC_UNKNOWN_FLOW', 'did you mean "full-frames"'],
    [undefined, {}, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'flowType'],
    ['__proto__', {}, 'ERR_CAPTIONACC_UNKNOWN_FLOW', 'unknown flow'],
    ['full-frames', undefined, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'args'],
    ['full-frames', null, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'args'],
    ['full-frames', [], 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'a list'],
    ['full-frames', {}, 'ERR_CAPTIONACC_INVALID_ARGUMENT', '"video-id": missing'],
    ['full-frames', { 'frame-rte': '1' }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'did you mean "frame-rate"'],
    ['full-frames', { 'frame-rate': Number.NaN }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'frame-rate.*finite'],
    ['full-frames', { 'frame-rate': -1 }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'frame-rate'],
    ['full-frames', { 'frame-rate': true }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'frame-rate'],
    ['full-frames', { 'frame-rate': 1n }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'bigint'],
    ['full-frames', { 'frame-rate': () => 1 }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'function'],
    ['full-frames', { 'video-path': 'http://example.com/v.mp4' }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'address'],
    ['full-frames', { 'video-path': '\ud800.mp4' }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'surrogate'],
    ['full-frames', { 'video-path': 'a\0b' }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'NUL'],
    ['crop-frames', { 'crop-bounds': '{' }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'is not JSON'],
    ['crop-frames', { 'crop-bounds': { ...bounds, left: 500 } }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'no area'],
    ['crop-frames', { 'crop-bounds': { ...bounds, left: Number.NaN } }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'whole pixels'],
  ] as const)('%s with %o is refused, and nothing is stored', async (flow, extra, code, message) => {
    const given = extra && Object.keys(extra).length > 0 ? { ...someArguments(), ...extra } : extra;
    const error = await expectFailure(anyhow(flow, given), code, new RegExp(message));
    expect(error.retryable).toBe(false);
    expect(await listFlowRuns()).toEqual([]);
  });

  test('an object that contains itself is refused', async () => {
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    await expectFailure(anyhow('crop-frames', { ...someArguments(), 'crop-bounds': circle }), 'ERR_CAPTIONACC_INVALID_ARGUMENT');
  });

  test.each([
    [{ timeout: 5 }, 'timeout'],
    [{ timeoutMs: 0 }, 'timeoutMs'],
    [{ timeoutMs: Number.NaN }, 'timeoutMs'],
    [{ timeoutMs: '5' }, 'timeoutMs'],
    [{ signal: {} }, 'signal'],
    [{ idempotencyKey: '' }, 'idempotencyKey'],
    [{ idempotencyKey: 5 }, 'idempotencyKey'],
    [{ whenUnreachable: 'drop' }, 'whenUnreachable.*"drop" is none of reject, store'],
    [{ whenUnreachable: true }, 'whenUnreachable'],
    [{ whenUnreachable: null }, 'whenUnreachable'],
    ['fast', 'options'],
  ])('options %o are refused', async (options, message) => {
    await expectFailure(anyhow('full-frames', someArguments(), options), 'ERR_CAPTIONACC_INVALID_ARGUMENT', new RegExp(message));
    expect(await listFlowRuns()).toEqual([]);
  });

  test('annotations.db is not opened, nor made', async () => {
    const folder = temporaryFolder();
    const database = path.join(folder, 'annotations.db');
    await queuePrefectFlow('full-frames', someArguments({ 'db-path': database }));
    expect(existsSync(database)).toBe(false);
    writeFileSync(database, 'not a database');
    const before = statSync(database, { bigint: true });
    await queuePrefectFlow('full-frames', someArguments({ 'db-path': database, 'video-id': 'other' }));
    expect(statSync(database, { bigint: true }).atimeNs).toBe(before.atimeNs);
    expect(readdirSync(folder)).toEqual(['annotations.db']);
  });
});

describe('a signal', () => {
  test('aborted before the call: nothing is stored, and its reason is the cause', async () => {
    const reason = new Error('the user left');
    const error = await expectFailure(
      queuePrefectFlow('full-frames', someArguments(), { signal: AbortSignal.abort(reason) }),
      'ERR_CAPTIONACC_ABORTED',
    );
    expect(error.cause).toBe(reason);
    expect(existsSync(path.join(home, 'queue.db'))).toBe(false);
  });

  test('aborted while queue.db is locked: it rejects at once, and nothing is stored later', async () => {
    await listFlowRuns();
    const held = await lock(path.join(home, 'queue.db'));
    const controller = new AbortController();
    const queueing = expectFailure(
      queuePrefectFlow('full-frames', someArguments(), { signal: controller.signal }),
      'ERR_CAPTIONACC_ABORTED',
    );
    setImmediate(() => controller.abort('enough'));
    expect((await queueing).cause).toBe('enough');
    await held.release();
    // The store works in order: what was given up comes before this call, and has not been stored.
    expect(await listFlowRuns()).toEqual([]);
  });

  test('aborted after the run is stored: the run is returned', async () => {
    const controller = new AbortController();
    const queued = await queuePrefectFlow('full-frames', someArguments(), { signal: controller.signal });
    controller.abort();
    expect((await getFlowRun(queued.flowRunId)).state.type).toBe('SCHEDULED');
  });

  test('aborted at any moment: either the run is returned, or nothing is stored', async () => {
    await listFlowRuns();
    for (let round = 0; round < 100; round += 1) {
      const controller = new AbortController();
      const key = `round-${round}`;
      const queueing = queuePrefectFlow('crop-frames', { ...someArguments(), 'video-id': key, 'crop-bounds': JSON.stringify(bounds) }, { signal: controller.signal });
      // The moments are spread over the life of a call, which takes less than a millisecond.
      for (let turn = 0; turn < round % 10; turn += 1) await new Promise(setImmediate);
      controller.abort();
      const outcome = await queueing.then(
        ({ flowRunId }) => flowRunId,
        (error: OrchestratorError) => error.code,
      );
      const stored = (await listFlowRuns({ videoId: key })).map((run) => run.flowRunId);
      expect(stored).toEqual(outcome === 'ERR_CAPTIONACC_ABORTED' ? [] : [outcome]);
    }
  });

  test('a call leaves no listener on its signal', async () => {
    const controller = new AbortController();
    let listeners = 0;
    const { addEventListener, removeEventListener } = controller.signal;
    controller.signal.addEventListener = function (...given: Parameters<typeof addEventListener>) {
      listeners += 1;
      addEventListener.apply(this, given);
    };
    controller.signal.removeEventListener = function (...given: Parameters<typeof removeEventListener>) {
      listeners -= 1;
      removeEventListener.apply(this, given);
    };
    await queuePrefectFlow('full-frames', someArguments(), { signal: controller.signal });
    expect(listeners).toBe(0);
  });
});

test('a call whose time is over has stored nothing, and may be repeated', async () => {
  await listFlowRuns();
  const held = await lock(path.join(home, 'queue.db'));
  const error = await expectFailure(
    queuePrefectFlow('full-frames', someArguments(), { timeoutMs: 50 }),
    'ERR_CAPTIONACC_TIMEOUT',
    '50 ms',
  );
  expect(error.retryable).toBe(true);
  await held.release();
  expect(await listFlowRuns()).toEqual([]);
});

describe('reading and changing runs', () => {
  test('runs are listed newest first, by page and by filter', async () => {
    const ids: string[] = [];
    for (const videoId of ['a', 'b', 'c']) {
      ids.unshift((await queuePrefectFlow('full-frames', someArguments({ 'video-id': videoId }))).flowRunId);
    }
    const listed = async (filter?: Parameters<typeof listFlowRuns>[0]) => (await listFlowRuns(filter)).map((run) => run.flowRunId);
    expect(await listed()).toEqual(ids);
    expect(await listed({ limit: 2 })).toEqual(ids.slice(0, 2));
    expect(await listed({ before: ids[1] })).toEqual(ids.slice(2));
    expect(await listed({ videoId: 'b' })).toEqual([ids[1]]);
    expect(await listed({ flowName: 'crop-frames' })).toEqual([]);
    await cancelFlowRun(ids[0] ?? '');
    expect(await listed({ stateTypes: ['CANCELLED'] })).toEqual([ids[0]]);
    expect(await listed({ stateTypes: ['SCHEDULED', 'RUNNING'] })).toEqual(ids.slice(1));
  });

  test.each([[{ limit: 0 }], [{ limit: 1001 }], [{ limit: 1.5 }], [{ videoID: 'a' }], [{ stateTypes: ['Running'] }], [{ before: 'x' }], [null]])(
    'the filter %o is refused',
    async (filter) => {
      await expectFailure(listFlowRuns(filter as never), 'ERR_CAPTIONACC_INVALID_ARGUMENT');
    },
  );

  test('a run is cancelled once, retried, and not retried while it waits', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    expect((await cancelFlowRun(flowRunId)).state.type).toBe('CANCELLED');
    expect((await cancelFlowRun(flowRunId)).state.type).toBe('CANCELLED');
    expect((await retryFlowRun(flowRunId)).state.type).toBe('SCHEDULED');
    const run = await getFlowRun(flowRunId);
    expect(run.states.map((state) => state.type)).toEqual(['SCHEDULED', 'CANCELLED', 'SCHEDULED']);
  });

  test('a run whose state does not allow it is refused', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    sql(
      path.join(home, 'queue.db'),
      "UPDATE flow_run SET state_type = 'COMPLETED', state_name = 'Completed', ended_at = state_at",
    );
    await expectFailure(retryFlowRun(flowRunId), 'ERR_CAPTIONACC_INVALID_STATE', 'Completed');
    await expectFailure(cancelFlowRun(flowRunId), 'ERR_CAPTIONACC_INVALID_STATE', 'Completed');
  });

  test.each([
    ['getFlowRun', getFlowRun],
    ['cancelFlowRun', cancelFlowRun],
    ['retryFlowRun', retryFlowRun],
    ['waitForFlowRun', waitForFlowRun],
    ['watchFlowRun', async (id: string) => watchFlowRun(id).next()],
  ])('%s names an id that is none, or not known', async (_, call) => {
    await expectFailure(call('run-1'), 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'run-1');
    await expectFailure(call(undefined as never), 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'flowRunId');
    await expectFailure(call(unknownId), 'ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND', unknownId);
  });

  test('the lineage of nothing is empty', async () => {
    expect(await getLineage()).toEqual({ assets: {} });
  });
});

describe('watching', () => {
  test('the past comes first, then what happens, and the end ends it', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    const seen: FlowRunEvent[] = [];
    for await (const event of watchFlowRun(flowRunId)) {
      seen.push(event);
      if (seen.length === 1) await cancelFlowRun(flowRunId);
    }
    expect(seen.map((event) => event.type === 'state' && event.state.name)).toEqual(['Scheduled', 'Cancelled']);
    // Once more, all of it is the past.
    const again: FlowRunEvent[] = [];
    for await (const event of watchFlowRun(flowRunId)) again.push(event);
    expect(again).toEqual(seen);
  });

  test('a run that was retried is watched past its first end', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    await cancelFlowRun(flowRunId);
    await retryFlowRun(flowRunId);
    const names: string[] = [];
    for await (const event of watchFlowRun(flowRunId)) {
      if (event.type === 'state') names.push(event.state.name);
      if (names.length === 3) await cancelFlowRun(flowRunId);
    }
    expect(names).toEqual(['Scheduled', 'Cancelled', 'Scheduled', 'Cancelled']);
  });

  test('return() ends a next() that waits', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    const watch = watchFlowRun(flowRunId);
    expect((await watch.next()).done).toBe(false);
    const waiting = watch.next();
    await watch.return?.();
    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(await watch.next()).toEqual({ done: true, value: undefined });
  });

  test('several next() at once are answered in order', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    const watch = watchFlowRun(flowRunId);
    const nexts = [watch.next(), watch.next(), watch.next()];
    await cancelFlowRun(flowRunId);
    const names = (await Promise.all(nexts)).map((next) => (next.done ? 'done' : next.value.type === 'state' && next.value.state.name));
    expect(names).toEqual(['Scheduled', 'Cancelled', 'done']);
  });

  test('a signal ends it, and its reason is the cause', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    const controller = new AbortController();
    const watch = watchFlowRun(flowRunId, { signal: controller.signal });
    await watch.next();
    const waiting = expectFailure(watch.next(), 'ERR_CAPTIONACC_ABORTED');
    controller.abort('bored');
    expect((await waiting).cause).toBe('bored');
    expect((await watch.next()).done).toBe(true);
  });

  test('an option that there is not is refused by the first next()', async () => {
    await expectFailure(watchFlowRun(unknownId, { timeout: 5 } as never).next(), 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'timeout');
  });

  test('waiting returns the run in its final state', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    const waiting = waitForFlowRun(flowRunId);
    await cancelFlowRun(flowRunId);
    expect(await waiting).toMatchObject({ flowRunId, state: { type: 'CANCELLED' }, states: [{}, {}] });
  });

  test('waiting ends with its time or its signal; the run goes on', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', someArguments());
    const error = await expectFailure(waitForFlowRun(flowRunId, { timeoutMs: 20 }), 'ERR_CAPTIONACC_TIMEOUT', flowRunId);
    expect(error.retryable).toBe(true);
    await expectFailure(waitForFlowRun(flowRunId, { signal: AbortSignal.timeout(20) }), 'ERR_CAPTIONACC_ABORTED');
    expect((await getFlowRun(flowRunId)).state.type).toBe('SCHEDULED');
  });
});

describe('a store that cannot be used', () => {
  test('a folder that cannot be made', async () => {
    const file = path.join(home, 'file');
    writeFileSync(file, '');
    process.env.CAPTIONACC_HOME = path.join(file, 'home');
    const error = await expectFailure(queuePrefectFlow('full-frames', someArguments()), 'ERR_CAPTIONACC_STORE_IO', file);
    expect(error.cause).toBeInstanceOf(Error);
  });

  // Nothing that a user protects is read-only for root: one who is not root is made with setpriv.
  test('read-only for this user', async () => {
    const { stdout, stderr } = await runNode("require('./index.js').listFlowRuns().catch(() => {})", {
      env: { CAPTIONACC_HOME: home },
    });
    expect(stdout + stderr).toBe('');
    chmodSync(home, 0o555);
    chmodSync(path.join(home, 'queue.db'), 0o444);
    const code = `
      require('./index.js').queuePrefectFlow('full-frames', ${JSON.stringify(someArguments())}).then(console.log, (error) => {
        console.log(error.code, error.cause instanceof Error, error.message);
      });`;
    const asNobody = ['--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, '--eval', code];
    const ended =
      process.getuid?.() === 0
        ? new Running('setpriv', asNobody, { env: { CAPTIONACC_HOME: home } }).ended
        : runNode(code, { env: { CAPTIONACC_HOME: home } });
    expect((await ended).stdout).toMatch(/^ERR_CAPTIONACC_STORE_READ_ONLY true .*queue\.db/);
    chmodSync(home, 0o700);
  });

  test('of a newer schema', async () => {
    await runNode("require('./index.js').listFlowRuns()", { env: { CAPTIONACC_HOME: home } });
    sql(path.join(home, 'queue.db'), 'PRAGMA user_version = 99');
    await expectFailure(queuePrefectFlow('full-frames', someArguments()), 'ERR_CAPTIONACC_STORE_NEWER', '99');
  });

  // A disk of 1 MB in a mount namespace of its own: where the system allows none, there is no full disk to be had.
  test.skipIf(spawnSync('unshare', ['--map-root-user', '--mount', 'true']).status !== 0)('on a full disk; what was stored is kept', async () => {
    const code = `
      const { queuePrefectFlow, listFlowRuns } = require('./index.js');
      const given = ${JSON.stringify(someArguments())};
      (async () => {
        const ids = [];
        try {
          for (;;) {
            const extra = { 'video-id': 'v'.repeat(4000) + ids.length };
            ids.unshift((await queuePrefectFlow('full-frames', { ...given, ...extra })).flowRunId);
          }
        } catch (error) {
          const kept = (await listFlowRuns({ limit: 1000 })).map((run) => run.flowRunId);
          console.log(error.code, error.retryable, ids.length > 0, JSON.stringify(kept) === JSON.stringify(ids), error.message);
        }
      })();`;
    const mount = `mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"`;
    const inside = ['--map-root-user', '--mount', 'sh', '-c', mount, home, process.execPath, '--eval', code];
    const { stdout, stderr } = await new Running('unshare', inside, { env: { CAPTIONACC_HOME: home } }).ended;
    expect(stdout, stderr).toMatch(/^ERR_CAPTIONACC_STORE_FULL true true true .*queue\.db/);
  });

  test('locked by another process for as long as it is waited for', async () => {
    await listFlowRuns();
    const held = await lock(path.join(home, 'queue.db'));
    const queueing = queuePrefectFlow('full-frames', someArguments(), { timeoutMs: 100_000 });
    const error = await expectFailure(queueing, 'ERR_CAPTIONACC_STORE_LOCKED', /queue\.db stayed locked/);
    expect(error.retryable).toBe(true);
    await held.release();
    expect(await listFlowRuns()).toEqual([]);
  });

  test.each([
    [
      'no database',
      (file: string) => writeFileSync(file, 'this is text, and long enough to be looked at: '.repeat(40)),
      'ERR_CAPTIONACC_STORE_CORRUPT',
    ],
    ['no file but a folder', (file: string) => mkdirSync(file), 'ERR_CAPTIONACC_STORE_IO'],
    [
      'the database of another program',
      (file: string) => sql(file, 'CREATE TABLE other (id INTEGER)'),
      'ERR_CAPTIONACC_STORE_CORRUPT',
    ],
  ] as const)('%s', async (_, make, code) => {
    const file = path.join(home, 'queue.db');
    make(file);
    await expectFailure(queuePrefectFlow('full-frames', someArguments()), code, file);
  });

  test('what could not be opened is tried again by the next call', async () => {
    const file = path.join(home, 'queue.db');
    writeFileSync(file, 'this is text, and long enough to be looked at: '.repeat(40));
    await expectFailure(listFlowRuns(), 'ERR_CAPTIONACC_STORE_CORRUPT');
    writeFileSync(file, '');
    expect(await listFlowRuns()).toEqual([]);
  });
});

describe('settings', () => {
  test('a wrong one is named', async () => {
    process.env.CAPTIONACC_ORCHESTRATOR = 'embeded';
    await expectFailure(listFlowRuns(), 'ERR_CAPTIONACC_CONFIG', 'did you mean "embedded"');
    process.env.CAPTIONACC_ORCHESTRATOR = 'embedded';
    process.env.CAPTIONACC_CONFIG = '/nowhere.toml';
    await expectFailure(listFlowRuns(), 'ERR_CAPTIONACC_CONFIG', '/nowhere.toml');
  });

  test('a flow that captionacc.toml declares can be queued', async () => {
    process.env.CAPTIONACC_CONFIG = path.join(home, 'flows.toml');
    writeFileSync(
      process.env.CAPTIONACC_CONFIG,
      '[flows.train]\ncommand = ["true", "{version}"]\n[flows.train.parameters.version]\ntype = "text"\n',
    );
    expect(await anyhow('train', { version: '1' })).toMatchObject({ priority: 'background' });
    await expectFailure(anyhow('train', {}), 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'version');
  });
});
