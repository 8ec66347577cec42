import { writeFileSync } from 'node:fs';
import path from 'node:path';

import {
  cancelFlowRun,
  OrchestratorError,
  queuePrefectFlow,
  waitForFlowRun,
  watchFlowRun,
  watchFlowRuns,
  type AnyFlowRunEvent,
} from '@captionacc/orchestrator';
import { beforeEach, describe, expect, test } from 'vitest';

import { freshHome, someArguments } from './support/home.js';
import { runNode } from './support/processes.js';
import { sql } from './support/queue-db.js';
import { Worker } from './support/web-app.js';

let home: string;
beforeEach(() => {
  home = freshHome();
});

const argumentsOf = (video: string) => someArguments({ 'video-id': video, 'db-path': `/videos/${video}.db` });
const word = (event: AnyFlowRunEvent) =>
  `${event.videoId ?? ''} ${event.type === 'state' ? event.state.name : event.type === 'log' ? event.log.message : event.type}`;

/** The next events of a watch, up to the one that says `last`. */
async function until(watch: AsyncIterator<AnyFlowRunEvent, undefined>, last: string): Promise<AnyFlowRunEvent[]> {
  const seen: AnyFlowRunEvent[] = [];
  for (;;) {
    const { value } = await watch.next();
    if (value === undefined) throw new Error(`it ended after ${seen.map(word).join(', ')}`);
    seen.push(value);
    if (word(value) === last) return seen;
  }
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const failure: unknown = await promise.then(
    (value) => new Error(`it succeeded: ${JSON.stringify(value)}`),
    (error: unknown) => error,
  );
  expect(failure).toBeInstanceOf(OrchestratorError);
  return (failure as OrchestratorError).code;
}

/** A watch that has come to its place: whatever happens from now on, it sees. */
async function begun(...given: Parameters<typeof watchFlowRuns>) {
  const watch = watchFlowRuns(...given);
  const first = watch.next();
  // Until it begins, nothing is seen; queued one after the other, one of these is the first that is.
  const seen = { is: false };
  void first.finally(() => (seen.is = true));
  for (let number = 0; !seen.is; number += 1) {
    await queuePrefectFlow('full-frames', argumentsOf(`begin-${number}`));
    await Promise.race([first, new Promise((resolve) => setTimeout(resolve, 20))]);
  }
  const cursor = (await first).value?.cursor as string;
  await watch.return?.();
  return cursor;
}

describe('watching all runs', () => {
  test('a worker at work: states, progress and log lines of every run, and from any of them on', async () => {
    writeFileSync(
      path.join(home, 'captionacc.toml'),
      `[flows.hello]
       command = ['sh', '-c', 'echo hello; echo "(1/2 frames)"; echo "(2/2 frames)"', 'sh', '{video-id}']
       [flows.hello.parameters.video-id]
       type = 'text'`,
    );
    const start = await begun();
    const worker = await Worker.start();
    const watch = watchFlowRuns({ flowName: 'hello' }, { after: start });
    const queue = queuePrefectFlow as (flow: string, args: Record<string, string>) => Promise<{ flowRunId: string }>;
    const { flowRunId } = await queue('hello', { 'video-id': 'one' });
    const seen = await until(watch, 'one Completed');
    expect(seen.map(word).filter((text) => text !== 'one progress')).toEqual(
      expect.arrayContaining(['one Scheduled', 'one Pending', 'one Running', 'one hello', 'one Completed']),
    );
    expect(seen.every((event) => event.flowRunId === flowRunId && event.flowName === 'hello')).toBe(true);
    for (const event of seen.slice(0, -1)) expect(event.cursor).toMatch(/^[\w-]+$/);
    // A browser that was cut off after any of them goes on there, in another process.
    const after = seen[1]?.cursor as string;
    const code = `const { watchFlowRuns } = require('@captionacc/orchestrator');
      (async () => {
        for await (const event of watchFlowRuns({ flowName: 'hello', types: ['state'] }, { after: ${JSON.stringify(after)} })) {
          console.log(event.state.name);
          if (event.state.name === 'Completed') break;
        }
      })();`;
    const { stdout, code: exit, stderr } = await runNode(code);
    const rest = seen.slice(2).filter((event) => event.type === 'state');
    expect(stdout.trim().split('\n'), stderr).toEqual(rest.map((event) => event.type === 'state' && event.state.name));
    expect(exit).toBe(0);
    await watch.return?.();
    await worker.stop();
  });

  test('many watchers, each with its own filter', async () => {
    const start = await begun();
    const all = Array.from({ length: 50 }, (_, index) => watchFlowRuns({ videoId: `v${index % 5}`, types: ['state'] }, { after: start }));
    const seen = Promise.all(all.map((watch, index) => until(watch, `v${index % 5} Cancelled`)));
    for (let index = 0; index < 5; index += 1) {
      const { flowRunId } = await queuePrefectFlow('full-frames', argumentsOf(`v${index}`));
      await cancelFlowRun(flowRunId);
    }
    for (const [index, events] of (await seen).entries()) {
      expect(events.map(word)).toEqual([`v${index % 5} Scheduled`, `v${index % 5} Cancelled`]);
    }
    await Promise.all(all.map((watch) => watch.return?.()));
  });

  test('return() and a signal end a next() that waits, and the others go on', async () => {
    const start = await begun();
    const controller = new AbortController();
    const watches = [
      watchFlowRuns({ videoId: 'v' }, { after: start }),
      watchFlowRuns({ videoId: 'v' }, { after: start, signal: controller.signal }),
      watchFlowRuns({ videoId: 'v' }, { after: start }),
    ] as const;
    const nexts = watches.map((watch) => watch.next());
    await watches[0].return?.();
    expect(await nexts[0]).toEqual({ done: true, value: undefined });
    const aborted = codeOf(nexts[1] as Promise<unknown>);
    controller.abort('bored');
    expect(await aborted).toBe('ERR_CAPTIONACC_ABORTED');
    await queuePrefectFlow('full-frames', argumentsOf('v'));
    expect((await nexts[2])?.value).toMatchObject({ type: 'state', videoId: 'v' });
    await watches[2].return?.();
  });

  test('a process that has left its watches ends by itself', async () => {
    const code = `const { watchFlowRuns, queuePrefectFlow } = require('@captionacc/orchestrator');
      const watches = [1, 2, 3].map(() => watchFlowRuns());
      const nexts = watches.map((watch) => watch.next());
      setTimeout(async () => {
        for (const watch of watches) await watch.return();
        await Promise.all(nexts);
        console.log('left');
      }, 100);`;
    const { stdout, code: exit } = await runNode(code);
    expect([stdout.trim(), exit]).toEqual(['left', 0]);
  });

  test('a cursor of a past that is gone, of another queue, and one that is none', async () => {
    const start = await begun();
    await queuePrefectFlow('full-frames', argumentsOf('v'));
    sql(path.join(home, 'queue.db'), 'UPDATE feed SET forgotten_position = (SELECT position + 1 FROM feed_end)');
    expect(await codeOf(watchFlowRuns({}, { after: start }).next())).toBe('ERR_CAPTIONACC_CURSOR_GONE');
    freshHome();
    expect(await codeOf(watchFlowRuns({}, { after: start }).next())).toBe('ERR_CAPTIONACC_CURSOR_GONE');
    for (const after of ['', 'nonsense', '{}', 7, null]) {
      expect(await codeOf(watchFlowRuns({}, { after: after as never }).next())).toBe('ERR_CAPTIONACC_INVALID_ARGUMENT');
    }
    for (const filter of [7, [], { video: 'v' }, { types: ['states'] }, { flowRunId: 'run-1' }]) {
      expect(await codeOf(watchFlowRuns(filter as never).next())).toBe('ERR_CAPTIONACC_INVALID_ARGUMENT');
    }
    expect(await codeOf(watchFlowRuns({}, { timeoutMs: 5 } as never).next())).toBe('ERR_CAPTIONACC_INVALID_ARGUMENT');
  });
});

describe('watching one run', () => {
  test('it goes on after any of its events', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', argumentsOf('v'));
    await cancelFlowRun(flowRunId);
    await waitForFlowRun(flowRunId);
    const all = [];
    for await (const event of watchFlowRun(flowRunId)) all.push(event);
    for (const [index, { cursor }] of all.entries()) {
      const rest = [];
      for await (const event of watchFlowRun(flowRunId, { after: cursor })) rest.push(event);
      expect(rest).toEqual(all.slice(index + 1));
    }
  });

  test('a cursor of the other kind is refused', async () => {
    const { flowRunId } = await queuePrefectFlow('full-frames', argumentsOf('v'));
    const one = (await watchFlowRun(flowRunId).next()).value;
    expect(await codeOf(watchFlowRuns({}, { after: one?.cursor }).next())).toBe('ERR_CAPTIONACC_INVALID_ARGUMENT');
    const any = await begun();
    expect(await codeOf(watchFlowRun(flowRunId, { after: any }).next())).toBe('ERR_CAPTIONACC_INVALID_ARGUMENT');
  });
});
