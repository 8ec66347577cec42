/**
 * a) `queuePrefectFlow` against spawning a Python program that imports Prefect and queues, the way it was done;
 * b) against a bare insert that is as durable: one row of the same content, committed with synchronous=FULL.
 *
 * And how long the event loop of a process stands still while 16 of them queue 200 runs each: by the clock on the wall,
 * which includes what the machine does, beside processes that do the same without the call.
 *
 * In a) each program is followed by some calls: the first finds cold caches, as a web app that queues now and then does.
 *
 * Options: --programs N (turns of a), --calls N (in each turn of a), --pairs N (turns of b),
 * --crowds N (turns of the 16 processes). Needs what bench/run.sh
 * prepares: a Prefect server, with its address in CAPTIONACC_TEST_PREFECT_API_URL.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { fullFramesOf } from './lib/arguments.mjs';
import {
  Report,
  brief,
  median,
  numberOptions,
  output,
  quantile,
  root,
  say,
  spread,
  useHome,
  withFolder,
} from './lib/harness.mjs';

const options = numberOptions({ programs: 15, calls: 20, pairs: 1000, crowds: 3 });
const program = process.env.CAPTIONACC_BENCH_PREFECT;
const CROWD = 16;
const RUNS_EACH = 200;
const address = process.env.CAPTIONACC_TEST_PREFECT_API_URL;
if (!program || !address) throw new Error('no Prefect to measure against: npm run bench:queue');

await withFolder(async (folder) => {
  useHome(join(folder, 'home'));
  const { queuePrefectFlow } = await import('@captionacc/orchestrator');
  const { default: Database } = await import('better-sqlite3');
  const report = await Report.begin('queue', options, ['side', 'p50 (p10–p90)', 'ratio']);

  const timed = async (work) => {
    const start = performance.now();
    await work();
    return performance.now() - start;
  };
  const ours = () => {
    const args = fullFramesOf(randomUUID());
    return timed(() => queuePrefectFlow('full-frames', args));
  };

  // The first call opens the store and looks up the settings.
  const first = await ours();

  const environment = {
    PATH: process.env.PATH,
    HOME: folder,
    PREFECT_HOME: folder,
    PREFECT_API_URL: address,
    DO_NOT_TRACK: '1',
  };
  const python = (script, args = []) =>
    output(program, [join(root, 'bench/python', script), ...args], { env: environment, cwd: folder });
  await python('register.py');
  const spawned = [];
  const coldest = [];
  const called = [];
  for (let turn = 0; turn < options.programs; turn += 1) {
    say(`turn ${turn + 1} of ${options.programs}: the Python program, then ${options.calls} calls`);
    const flags = Object.entries(fullFramesOf(randomUUID())).flatMap(([name, value]) => [`--${name}`, String(value)]);
    spawned.push(await timed(() => python('queue_flow.py', ['full-frames', ...flags])));
    coldest.push(await ours());
    for (let call = 1; call < options.calls; call += 1) called.push(await ours());
  }
  const programRatio = median(spawned) / median([...coldest, ...called]);

  say(`${options.pairs} pairs: a call, then a bare insert`);
  const bare = new Database(join(folder, 'bare.db'));
  bare.pragma('journal_mode = WAL');
  bare.pragma('synchronous = FULL');
  bare.exec(
    'CREATE TABLE flow_run (id TEXT PRIMARY KEY, flow TEXT NOT NULL, parameters TEXT NOT NULL, created_at INTEGER NOT NULL)',
  );
  const insert = bare.prepare('INSERT INTO flow_run VALUES (?, ?, ?, ?)');
  const inserted = [];
  const paired = [];
  for (let turn = 0; turn < options.pairs; turn += 1) {
    paired.push(await ours());
    const [id, parameters] = [randomUUID(), JSON.stringify(fullFramesOf(randomUUID()))];
    inserted.push(await timed(() => insert.run(id, 'full-frames', parameters, Date.now())));
  }
  bare.close();

  const crowds = { queue: [], control: [] };
  for (let turn = 0; turn < options.crowds; turn += 1) {
    for (const side of ['queue', 'control']) {
      say(`${CROWD} processes at once, turn ${turn + 1} of ${options.crowds}: ${side}`);
      const script = join(root, 'bench/lib/crowd.mjs');
      const crowd = Array.from({ length: CROWD }, (_, number) =>
        output(process.execPath, [script, `${turn}-${number}`, String(RUNS_EACH), side]),
      );
      crowds[side].push(...(await Promise.all(crowd)).map((said) => JSON.parse(said)));
    }
  }

  report.samples = { first, spawned, coldest, called, paired, inserted, crowds };
  report.row('a) Python program that imports Prefect and queues', spread(spawned, 'ms'));
  report.row('a) queuePrefectFlow', spread([...coldest, ...called], 'ms'), `${brief(programRatio)} times faster`);
  report.row(
    'a) the first call after each program',
    spread(coldest, 'ms'),
    `${brief(median(spawned) / median(coldest))} times faster`,
  );
  report.target('a) ratio of p50', programRatio, '>= 1000', programRatio >= 1000);
  report.row('b) bare insert, synchronous=FULL', spread(inserted, 'ms'));
  report.row('b) queuePrefectFlow', `${spread(paired, 'ms')}, p99 ${brief(quantile(paired, 0.99), 'ms')}`);
  const ratio = median(paired) / median(inserted);
  report.target('b) ratio of p50', ratio, '<= 2', ratio <= 2);
  report.row('first call of the process, store made', brief(first, 'ms'));
  for (const [side, name] of [
    ['queue', `${CROWD} processes queue ${RUNS_EACH} runs each`],
    ['control', `${CROWD} processes do the same without the call`],
  ]) {
    const turns = crowds[side].map(({ longestTurn }) => longestTurn);
    const calls = crowds[side].map(({ longestCall }) => longestCall);
    report.row(`${name}: longest turn of an event loop`, `${spread(turns, 'ms')}, max ${brief(Math.max(...turns), 'ms')}`);
    report.row(`${name}: longest call`, `${spread(calls, 'ms')}, max ${brief(Math.max(...calls), 'ms')}`);
  }
  await report.write();
});
