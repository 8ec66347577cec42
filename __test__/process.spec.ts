// The package in processes of its own: how it is imported, how it ends, and many of it at once.

import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

import * as orchestrator from '@captionacc/orchestrator';
import { beforeEach, describe, expect, test } from 'vitest';

import { freshHome, someArguments, temporaryFolder } from './support/home.js';
import { root, Running, runNode } from './support/processes.js';
import { lock, sql } from './support/queue-db.js';

const given = JSON.stringify(someArguments());
const names = [
  'OrchestratorError',
  'cancelFlowRun',
  'getFlowRun',
  'getLineage',
  'listFlowRuns',
  'markQueued',
  'queuePrefectFlow',
  'retryFlowRun',
  'waitForFlowRun',
  'watchFlowRun',
  'watchFlowRuns',
];

let home: string;
beforeEach(() => {
  home = freshHome();
});

/** A folder in which the package is installed as a copy of its files, as npm would put it there. */
function installation(): string {
  const folder = temporaryFolder();
  const installed = path.join(folder, 'node_modules/@captionacc/orchestrator');
  mkdirSync(installed, { recursive: true });
  const { files: published } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { files: string[] };
  for (const file of ['package.json', ...published, 'captionacc.node']) {
    if (existsSync(path.join(root, file))) cpSync(path.join(root, file), path.join(installed, file), { recursive: true });
  }
  return folder;
}

describe('importing', () => {
  test.each([
    ['module', "import * as module from '@captionacc/orchestrator';"],
    ['module', `import { ${names.join(', ')} } from '@captionacc/orchestrator'; const module = { ${names.join(', ')} };`],
    ['commonjs', "const module_ = require('@captionacc/orchestrator'); module = module_;"],
  ] as const)('as %s: %s', async (type, imports) => {
    const code = `${imports.replace('module = module_;', 'const all = module_;')}
      const exported = ${type === 'module' ? 'module' : 'all'};
      const queued = exported.queuePrefectFlow('full-frames', ${given});
      queued.then((run) => console.log(JSON.stringify([Object.keys(exported).filter((name) => name !== 'module.exports').sort(), run.status])));`;
    const ended = await runNode(code, { type, cwd: installation() });
    expect(ended.stderr).toBe('');
    expect(JSON.parse(ended.stdout)).toEqual([names, 'queued']);
  });

  test('both ways give one class of errors', async () => {
    const code = `import { createRequire } from 'node:module';
      import { OrchestratorError } from '@captionacc/orchestrator';
      const required = createRequire(import.meta.url)('@captionacc/orchestrator');
      console.log(required.OrchestratorError === OrchestratorError);`;
    expect((await runNode(code, { type: 'module', cwd: installation() })).stdout).toBe('true\n');
  });

  test('nothing of libav or of the OCR is in the addon', () => {
    const addon = readFileSync(path.join(root, 'captionacc.node'));
    expect(['avcodec_send_packet', 'rten_tensor', 'queueFlowRun'].map((name) => addon.includes(name))).toEqual([false, false, true]);
  });

  test('index.d.ts names every export and every error code there is', () => {
    const types = readFileSync(path.join(root, 'index.d.ts'), 'utf8');
    const declared = [...types.matchAll(/^export (?:function|class|const) (\w+)/gm)].map((match) => match[1]);
    const exported = Object.keys(orchestrator).filter((name) => name !== 'default' && name !== 'module.exports');
    expect([...new Set(declared)].toSorted()).toEqual(exported.toSorted());
    const native = createRequire(import.meta.url)(path.join(root, 'captionacc.node')) as { errorCodes(): string[] };
    const union = types.slice(types.indexOf('export type OrchestratorErrorCode'), types.indexOf('export class OrchestratorError'));
    const codes = [...union.matchAll(/\| '(ERR_\w+)'/g)].map((match) => match[1]);
    // Those of what cannot be loaded have to be JavaScript's own.
    const loader = ['index.mjs', ...readdirSync(path.join(root, 'lib')).map((file) => `lib/${file}`), 'bin/captionacc.js'];
    const sources = loader.map((file) => readFileSync(path.join(root, file), 'utf8')).join('\n');
    const reasons = new Set([...sources.matchAll(/(?:loadError\(\s*'|ERR_CAPTIONACC_LOAD_)([A-Z_]+)/g)].map((match) => match[1]));
    const ofLoading = [...reasons].map((reason) => `ERR_CAPTIONACC_LOAD_${reason}`);
    expect(codes.toSorted()).toEqual([...native.errorCodes(), ...ofLoading].toSorted());
  });
});

describe('a process', () => {
  test('ends by itself after a call, and after leaving a watch', async () => {
    const code = `const { queuePrefectFlow, watchFlowRun } = require('./index.js');
      (async () => {
        const { flowRunId } = await queuePrefectFlow('full-frames', ${given});
        for await (const event of watchFlowRun(flowRunId)) break;
        console.log('done');
      })();`;
    expect(await runNode(code)).toMatchObject({ code: 0, stdout: 'done\n', stderr: '' });
  });

  test('has no signal handler of ours', async () => {
    const code = `const { queuePrefectFlow } = require('./index.js');
      queuePrefectFlow('full-frames', ${given}).then(() => {
        console.log(JSON.stringify(process.eventNames()));
        process.kill(process.pid, 'SIGTERM');
        setInterval(() => {}, 1000);
      });`;
    const ended = await runNode(code);
    expect(ended).toMatchObject({ signal: 'SIGTERM' });
    expect(ended.stdout).not.toMatch(/SIG|exit/);
  });

  test('can exit while calls are pending, and leaves the queue whole', async () => {
    const code = `const { listFlowRuns, queuePrefectFlow } = require('./index.js');
      listFlowRuns().then(() => {
      for (let n = 0; n < 50; n += 1) queuePrefectFlow('full-frames', { ...${given}, 'video-id': String(n) });
      queuePrefectFlow('full-frames', { ...${given}, 'video-id': 'last' }).then(() => process.exit(7));
      for (let n = 0; n < 50; n += 1) queuePrefectFlow('full-frames', { ...${given}, 'video-id': 'after ' + n });
      });`;
    expect(await runNode(code)).toMatchObject({ code: 7, stderr: '' });
    expect(sql(path.join(home, 'queue.db'), 'PRAGMA integrity_check')).toEqual([{ integrity_check: 'ok' }]);
    const stored = sql(path.join(home, 'queue.db'), "SELECT video_id FROM flow_run WHERE video_id NOT LIKE 'after%'");
    expect(stored).toHaveLength(51);
  });

  test('worker threads come and go, some in the middle of a call', async () => {
    const code = `const { Worker } = require('node:worker_threads');
      const { once } = require('node:events');
      const { listFlowRuns } = require('./index.js');
      const body = (id) => \`
        const { parentPort } = require('node:worker_threads');
        const { queuePrefectFlow, watchFlowRun } = require(\${JSON.stringify(process.cwd() + '/index.js')});
        queuePrefectFlow('full-frames', { ...${given}, 'video-id': '\${id}' }).then(async ({ flowRunId }) => {
          parentPort.postMessage('queued');
          for await (const event of watchFlowRun(flowRunId));
        });\`;
      (async () => {
        for (let round = 0; round < 5; round += 1) {
          const workers = [0, 1, 2, 3].map((n) => new Worker(body(round + '-' + n), { eval: true }));
          await Promise.all(workers.map((worker) => once(worker, 'message')));
          // Each is watching now, and stopped in the middle of it.
          await Promise.all(workers.map((worker) => worker.terminate()));
        }
        console.log((await listFlowRuns()).length);
      })();`;
    const ended = await runNode(code);
    expect(ended).toMatchObject({ code: 0, stdout: '20\n', stderr: '' });
  });

  test('that only ever uses the addon in worker threads ends by itself', async () => {
    const code = `const { Worker } = require('node:worker_threads');
      const body = \`require(\${JSON.stringify(process.cwd() + '/index.js')}).listFlowRuns().then((runs) => console.log(runs.length))\`;
      new Worker(body, { eval: true }).on('exit', () => new Worker(body, { eval: true }));`;
    expect(await runNode(code)).toMatchObject({ code: 0, stdout: '0\n0\n', stderr: '' });
  });
});

test('16 processes queue 200 runs each at once: none lost, none doubled, no event loop held for 20 ms', async () => {
  // Every key is used by two processes. Meanwhile each process turns its event loop without a pause and measures every
  // turn and every call's synchronous part, less what the thread waited for a processor: the second number of Linux's
  // schedstat, in ns, which must be the same before and after the clock is read. V8 uses no threads of its own, for which
  // the event loop would wait. What is left of the machine, a virtual one that stands still, hits some processes, and
  // what our code does, it does in all 16: the longest of the middle one counts. What a call reads and writes on this
  // thread is counted by the kernel: nothing but wake-ups of the threads that do the work, 8 bytes to an eventfd each.
  const code = `const { readFileSync } = require('node:fs');
    const { queuePrefectFlow } = require('./index.js');
    const number = Number(process.argv[1]);
    const read = (name) => readFileSync('/proc/' + process.pid + '/task/' + process.pid + '/' + name, 'latin1');
    const waited = () => Number(read('schedstat').split(' ')[1]);
    const now = () => {
      for (;;) {
        const before = waited();
        const time = Number(process.hrtime.bigint());
        if (waited() === before) return time - before;
      }
    };
    const counts = () => {
      const text = read('io');
      return ['syscr', 'wchar'].map((name) => Number(new RegExp(name + ': ([0-9]+)').exec(text)[1]));
    };
    (async () => {
      const [first, second] = [counts(), counts()];
      const readsOfCounting = second[0] - first[0];
      const [callReads, callBytes] = [[], []];
      let [longestTurn, longestCall] = [0, 0];
      let isOver = false;
      const calls = [];
      const turns = (async () => {
        for (let before = now(); !isOver; ) {
          await new Promise(setImmediate);
          const after = now();
          longestTurn = Math.max(longestTurn, (after - before) / 1e6);
          before = after;
        }
      })();
      for (let n = 0; n < 200; n += 1) {
        const key = Math.floor(number / 2) + '-' + n;
        const start = now();
        const countsBefore = counts();
        calls.push(queuePrefectFlow('crop-frames', {
          ...${given}, 'video-id': key, 'db-path': '/videos/' + key + '/annotations.db',
          'crop-bounds': { left: 0, top: 0, right: 9, bottom: 9 },
        }, { idempotencyKey: key, timeoutMs: 120000 }));
        const countsAfter = counts();
        longestCall = Math.max(longestCall, (now() - start) / 1e6);
        callReads.push(countsAfter[0] - countsBefore[0] - readsOfCounting);
        callBytes.push(countsAfter[1] - countsBefore[1]);
        if (n % 10 === 9) await new Promise(setImmediate);
      }
      const ids = (await Promise.all(calls)).map(({ flowRunId }) => flowRunId);
      isOver = true;
      await turns;
      console.log(JSON.stringify({ ids, longestTurn, longestCall, callReads, callBytes }));
    })();`;
  const options = (number: number) => ['--single-threaded', '--eval', code, String(number)];
  const processes = Array.from({ length: 16 }, (_, number) => new Running(process.execPath, options(number)));
  const ended = await Promise.all(processes.map((running) => running.ended));
  expect(ended.map(({ code: exit, stderr }) => [exit, stderr])).toEqual(ended.map(() => [0, '']));
  interface Said {
    ids: string[];
    longestTurn: number;
    longestCall: number;
    callReads: number[];
    callBytes: number[];
  }
  const said = ended.map(({ stdout }) => JSON.parse(stdout) as Said);
  for (let pair = 0; pair < 8; pair += 1) expect(said[2 * pair]?.ids).toEqual(said[2 * pair + 1]?.ids);
  const returned = new Set(said.flatMap(({ ids }) => ids));
  expect(returned.size).toBe(1600);
  const stored = sql(path.join(home, 'queue.db'), "SELECT id FROM flow_run WHERE state_type = 'SCHEDULED'") as { id: string }[];
  expect(new Set(stored.map(({ id }) => id))).toEqual(returned);
  const ofTheMiddle = (longest: number[]) => longest.toSorted((a, b) => a - b)[8];
  expect(ofTheMiddle(said.map(({ longestTurn }) => longestTurn))).toBeLessThan(20);
  expect(ofTheMiddle(said.map(({ longestCall }) => longestCall))).toBeLessThan(20);
  expect(new Set(said.flatMap(({ callReads }) => callReads))).toEqual(new Set([0]));
  expect(Math.max(...said.flatMap(({ callBytes }) => callBytes))).toBeLessThan(100);
});

test('while queue.db is locked the event loop turns, and the call ends when the lock does', async () => {
  await orchestrator.listFlowRuns();
  const held = await lock(path.join(home, 'queue.db'));
  let isQueued = false;
  const queueing = orchestrator.queuePrefectFlow('full-frames', someArguments()).then(() => {
    isQueued = true;
  });
  // Each is a turn of the event loop: were it blocked by the call, none of them would come before the lock is gone.
  for (let turn = 0; turn < 1000; turn += 1) await new Promise(setImmediate);
  expect(isQueued).toBe(false);
  await held.release();
  await queueing;
});
