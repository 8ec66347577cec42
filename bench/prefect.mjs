/**
 * f) `queuePrefectFlow` on Prefect against a bare POST of `create_flow_run` over a kept connection, and against the
 * Python program; g) from a run's creation to the first instruction of its work, with our worker, Prefect's own process
 * worker and `serve`; memory and CPU of each; h) requests and connections of one empty run; i) runs created a second by
 * 1 and 16 callers, on SQLite and PostgreSQL, against callers that just POST; j) from a cancellation to CANCELLED; p) some
 * tens of queue calls at once beside a worker that works through what they queue, on SQLite.
 *
 * All workers of g) wait for work at the same time, each with a pool or deployment of its own, and get a run in turns.
 *
 * Options: --programs N and --pairs N (f), --turns N and --idle-seconds N (g), --counted N (h), --seconds N (i, of each
 * side), --cancels N (j), --bursts N (k, of 30 calls). Needs what bench/run.sh prepares: a Prefect server, with its address in
 * CAPTIONACC_TEST_PREFECT_API_URL. Each side of i) gets a server of its own, because one that has just taken some hundred
 * runs is slow with whatever comes next.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as passing } from 'node:timers/promises';
import { fullFramesOf } from './lib/arguments.mjs';
import {
  Report,
  brief,
  clock,
  cpuOf,
  median,
  memoryOf,
  numberOptions,
  preciseCpuOf,
  quantile,
  say,
  spread,
  startWorker,
  withFolder,
} from './lib/harness.mjs';
import {
  Api,
  callers,
  countingProxy,
  gone,
  memoryBelow,
  queueWithProgram,
  registerStock,
  setUp,
  startServe,
  startStockWorker,
} from './lib/prefect.mjs';

const options = numberOptions({
  programs: 6,
  pairs: 100,
  turns: 6,
  'idle-seconds': 20,
  counted: 3,
  seconds: 6,
  cancels: 20,
  bursts: 4,
});
const address = process.env.CAPTIONACC_TEST_PREFECT_API_URL;
if (!address || !process.env.CAPTIONACC_BENCH_PREFECT) {
  throw new Error('no Prefect to measure against: npm run bench:prefect');
}
/** Runs of ours in a turn, for one of each of Prefect's own, which take seconds. */
const OURS_A_TURN = 4;
/** Queue calls at once in p). */
const AT_ONCE = 30;
/** After a run has its final state, what its worker still says counts as the run's. */
const AFTERMATH_MS = 2000;

const timed = async (work) => {
  const start = performance.now();
  await work();
  return performance.now() - start;
};

await withFolder(async (folder) => {
  const marks = join(folder, 'marks');
  const home = join(folder, 'home');
  await Promise.all([marks, home, join(folder, 'prefect')].map((path) => mkdir(path, { recursive: true, mode: 0o700 })));
  const name = `bench-${randomUUID().slice(0, 8)}`;
  const parameter = (flow, key, type) => `[flows.${flow}.parameters.${key}]\ntype = "${type}"\n`;
  await writeFile(
    join(home, 'captionacc.toml'),
    `[flows.first-instruction]
command = ["sh", "-c", 'date +%s.%N >"$1/$2"; exec sleep "$3"', "sh", "{folder}", "{video-id}", "{seconds}"]
${parameter('first-instruction', 'folder', 'path')}${parameter('first-instruction', 'video-id', 'text')}${parameter('first-instruction', 'seconds', 'text')}
[flows.empty]
command = ["true"]
${parameter('empty', 'video-id', 'text')}`,
  );
  for (const variable of Object.keys(process.env)) {
    if (/^(PREFECT|CAPTIONACC)_(?!BENCH|TEST|CACHE)/.test(variable)) delete process.env[variable];
  }
  const environment = (url) => ({
    ...process.env,
    HOME: folder,
    CAPTIONACC_HOME: home,
    CAPTIONACC_ORCHESTRATOR: 'prefect',
    CAPTIONACC_WORK_POOL: name,
    CAPTIONACC_DEPLOYMENT: name,
    PREFECT_API_URL: url,
    PREFECT_HOME: join(folder, 'prefect'),
  });
  process.chdir(folder); // No settings of the caller's folder.
  const env = environment(address);
  Object.assign(process.env, env);
  const report = await Report.begin('prefect', options, ['what', 'value', 'ratio or target']);
  const api = new Api(address);
  say('setting up');
  await setUp(address, env);
  const deployments = {
    fullFrames: await api.deployment('full-frames', name),
    cropFrames: await api.deployment('crop-frames', name),
    ours: await api.deployment('first-instruction', name),
    empty: await api.deployment('empty', name),
    stock: await registerStock(api, `${name}-stock`),
  };

  // f) The queue call.

  const { queuePrefectFlow } = await import('@captionacc/orchestrator');
  const cropped = { 'crop-bounds': { left: 0, top: 500, right: 1280, bottom: 720 }, 'frame-rate': 10 };
  const ours = () => timed(() => queuePrefectFlow('full-frames', fullFramesOf(randomUUID())));
  const oursCropped = () =>
    timed(() => queuePrefectFlow('crop-frames', { ...fullFramesOf(randomUUID()), ...cropped }));
  const bare = () => {
    const args = fullFramesOf(randomUUID());
    return timed(() => api.create(deployments.fullFrames, args, { tags: [`video:${args['video-id']}`, 'background'] }));
  };
  // The same run as ours, without the look for older ones that it supersedes.
  const bareCropped = () => {
    const args = { ...fullFramesOf(randomUUID()), ...cropped };
    const tags = [`video:${args['video-id']}`, 'user-initiated'];
    return timed(() => api.create(deployments.cropFrames, args, { tags }));
  };
  const first = await ours();
  await bare();
  const queued = { ours: [], oursCropped: [], bare: [], bareCropped: [], program: [] };
  const pairsOf = (turn) => Math.round((options.pairs * (turn + 1)) / options.programs);
  for (let turn = 0; turn < options.programs; turn += 1) {
    say(`queueing: turn ${turn + 1} of ${options.programs}`);
    const flags = Object.entries(fullFramesOf(randomUUID())).flatMap(([key, value]) => [`--${key}`, String(value)]);
    // queue_flow.py queues for a deployment called production; made once, in a pool that nobody serves.
    if (turn === 0) await registerProduction();
    queued.program.push(await timed(() => queueWithProgram(address, folder, ['full-frames', ...flags])));
    while (queued.bare.length < pairsOf(turn)) {
      queued.ours.push(await ours());
      queued.bare.push(await bare());
      queued.oursCropped.push(await oursCropped());
      queued.bareCropped.push(await bareCropped());
    }
  }
  async function registerProduction() {
    const flow = await api.call('POST', '/flows/', { name: 'full-frames' });
    await api.call('POST', '/deployments/', { name: 'production', flow_id: flow.id });
  }
  const ratio = median(queued.ours) / median(queued.bare);
  report.row('f) Python program that imports Prefect and queues', spread(queued.program, 'ms'));
  const ratioCropped = median(queued.oursCropped) / median(queued.bareCropped);
  report.row('f) bare POST of full-frames, kept connection', spread(queued.bare, 'ms'));
  report.row('f) bare POST of crop-frames', spread(queued.bareCropped, 'ms'));
  report.row(
    'f) queuePrefectFlow, full-frames',
    spread(queued.ours, 'ms'),
    `${brief(median(queued.program) / median(queued.ours))} times faster than the program`,
  );
  report.row(
    'f) queuePrefectFlow, crop-frames',
    spread(queued.oursCropped, 'ms'),
    `${brief(ratioCropped)} times its bare POST, ${brief(median(queued.oursCropped) / median(queued.bare))} times that of full-frames`,
  );
  report.row('f) first call of the process', brief(first, 'ms'));
  report.target('f) full-frames against the bare POST, ratio of p50', ratio, '<= 1.1', ratio <= 1.1);
  report.target('f) crop-frames against its bare POST, ratio of p50', ratioCropped, '<= 1.2', ratioCropped <= 1.2);

  // What was queued so far would be the workers' first work.
  await forgetWaiting();
  async function forgetWaiting() {
    for (;;) {
      const filter = { flow_runs: { state: { type: { any_: ['SCHEDULED'] } } }, limit: 200 };
      const waiting = await api.call('POST', '/flow_runs/filter', filter);
      if (waiting.length === 0) return;
      for (const { id } of waiting) await api.call('DELETE', `/flow_runs/${id}`);
    }
  }

  /** The time, in ms since 1970, that the program of a run wrote into its file. */
  async function firstInstruction(mark) {
    const path = join(marks, mark);
    const deadline = performance.now() + 120_000;
    for (;;) {
      const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
      if (text.endsWith('\n')) return Number(text) * 1000;
      if (performance.now() > deadline) throw new Error(`nothing ran within 120 s: ${mark}`);
      await passing(5);
    }
  }
  const parametersOf = (side, mark, seconds) =>
    side === 'ours'
      ? { folder: marks, 'video-id': mark, seconds: String(seconds) }
      : { folder: marks, name: mark, seconds };

  // g) Latency, memory, CPU.

  say("starting our worker, Prefect's own worker and serve");
  const workers = { ours: await startWorker([], env) };
  try {
    const starts = {
      stock: () => startStockWorker(address, folder, `${name}-stock`),
      serve: () => startServe(address, folder, `${name}-serve`),
    };
    workers.stock = await starts.stock();
    workers.serve = await starts.serve();
    deployments.serve = await api.deployment('first-instruction-python', `${name}-serve`);
    const sides = ['ours', 'stock', 'serve'];
    const labels = { ours: 'our worker', stock: "Prefect's process worker", serve: 'serve' };
    const latencies = { ours: [], stock: [], serve: [] };
    const cpu = { ours: [], stock: [], serve: [] };
    const run = async (side, seconds = 0) => {
      const mark = randomUUID();
      const now = clock();
      const calledAt = now();
      const made = await api.create(deployments[side], parametersOf(side, mark, seconds));
      const at = await firstInstruction(mark).catch((error) => {
        throw new Error(`${labels[side]}: ${error.message}; its log: ${workers[side].log()}`);
      });
      return { id: made.id, latencyMs: at - calledAt };
    };
    await passing(2000); // Ours listens to events by now.
    for (let turn = 0; turn < options.turns; turn += 1) {
      say(`latency: turn ${turn + 1} of ${options.turns}`);
      for (const side of sides) {
        // Prefect's own end by themselves where their server's SQLite is locked too often.
        if (side !== 'ours' && workers[side].hasEnded()) {
          report.note(`${labels[side]} ended by itself and was started again: ${workers[side].log().slice(-300)}`);
          workers[side] = await starts[side]();
        }
        const before = cpuOf(workers[side].pid);
        const count = side === 'ours' ? OURS_A_TURN : 1;
        for (let one = 0; one < count; one += 1) {
          const { id, latencyMs } = await run(side);
          latencies[side].push(latencyMs);
          await gone(await api.wait(id, undefined, side === 'ours' ? 50 : 250));
          // Its parent waits for it; that of serve is told of no run's process, which takes a second or two to end.
          await passing(side === 'serve' ? 3000 : 100);
        }
        const after = cpuOf(workers[side].pid);
        cpu[side].push(((after.own - before.own + after.children - before.children) * 1000) / count);
      }
    }
    const child = {};
    for (const side of sides) {
      const { id } = await run(side, 2);
      await passing(300);
      child[side] = memoryBelow(workers[side].pid);
      await api.wait(id);
    }
    say(`idle for ${options['idle-seconds']} s`);
    await passing(3000);
    const idleFrom = Object.fromEntries(sides.map((side) => [side, preciseCpuOf(workers[side].pid)]));
    const from = performance.now();
    await passing(options['idle-seconds'] * 1000);
    const idleSeconds = (performance.now() - from) / 1000;
    const idle = Object.fromEntries(
      sides.map((side) => [side, ((preciseCpuOf(workers[side].pid) - idleFrom[side]) / idleSeconds) * 100]),
    );
    const memory = Object.fromEntries(sides.map((side) => [side, memoryOf(workers[side].pid).now]));
    for (const side of sides) {
      report.row(
        `g) created → first instruction, ${labels[side]}`,
        `${spread(latencies[side], 'ms')}, max ${brief(Math.max(...latencies[side]), 'ms')}`,
        side === 'ours' ? '' : `${brief(median(latencies[side]) / median(latencies.ours))} times ours`,
      );
    }
    const p50 = median(latencies.ours);
    report.target('g) our worker, p50', p50, '<= 200 ms', p50 <= 200, 'ms');
    const each = (values, unit) => sides.map((side) => brief(values[side], unit)).join(' / ');
    report.row('g) memory of the worker: ours / process worker / serve', each(memory, 'MB'));
    report.target('g) memory of our worker', memory.ours, '<= 25 MB', memory.ours <= 25, 'MB');
    report.row('g) memory of the processes of a run', each(child, 'MB'));
    report.row('g) CPU of the idle worker', each(idle, '%'));
    const cpuP50 = Object.fromEntries(sides.map((side) => [side, median(cpu[side])]));
    report.row('g) CPU of a run, worker and processes', each(cpuP50, 'ms'));
    Object.assign(report.samples, { queued, latencies, cpu, child, idle, memory });

    // j) Cancellation, while our worker is there.

    const cancelled = [];
    for (let turn = 0; turn < options.cancels; turn += 1) {
      if (turn % 5 === 0) say(`cancelling: ${turn + 1} of ${options.cancels}`);
      const { id } = await run('ours', 600);
      await api.wait(id, new Set(['RUNNING']), 20);
      cancelled.push(
        await timed(async () => {
          await api.call('POST', `/flow_runs/${id}/set_state`, { state: { type: 'CANCELLING' } });
          await api.wait(id, new Set(['CANCELLED']), 20);
        }),
      );
    }
    const p95 = quantile(cancelled, 0.95);
    report.row('j) cancelled by the API → CANCELLED, our worker', spread(cancelled, 'ms'));
    report.target('j) p95', p95, '<= 2000 ms', p95 <= 2000, 'ms');
    report.samples.cancelled = cancelled;
  } finally {
    await Promise.all(Object.values(workers).map((worker) => worker.stop()));
  }

  // h) Requests and connections.

  const counts = {};
  const counting = async (side, deployment, start, parameters) => {
    say(`counting the requests of ${side}`);
    const proxy = await countingProxy(address);
    const worker = await start(proxy.address);
    try {
      await passing(3000);
      counts[side] = [];
      for (let turn = 0; turn <= options.counted; turn += 1) {
        proxy.forget();
        const { id } = await api.create(deployment, parameters());
        await api.wait(id);
        await passing(AFTERMATH_MS);
        // The first run looks up what later ones know.
        if (turn > 0) counts[side].push(proxy.counted());
      }
    } finally {
      await worker.stop();
      proxy.close();
    }
    const p50 = (what) => median(counts[side].map((counted) => counted[what]));
    report.row(
      `h) an empty run, ${side}`,
      `${p50('requests')} requests, ${p50('websockets')} websockets, on ${p50('connections')} connections`,
    );
    return p50;
  };
  const python = () => parametersOf('stock', randomUUID(), 0);
  const p50 = await counting(
    'our worker',
    deployments.empty,
    (url) => startWorker([], environment(url)),
    () => ({ 'video-id': randomUUID() }),
  );
  report.target('h) requests', p50('requests'), '<= 10', p50('requests') <= 10);
  report.target('h) connections', p50('connections'), '<= 3', p50('connections') <= 3);
  const stock = (url) => startStockWorker(url, folder, `${name}-stock`);
  await counting("Prefect's process worker", deployments.stock, stock, python);
  await counting('serve', deployments.serve, (url) => startServe(url, folder, `${name}-serve`), python);
  report.samples.counts = counts;

  // i) Created runs a second.

  const created = {};
  for (const database of ['SQLite', 'PostgreSQL']) {
    for (const count of [1, 16]) {
      for (const side of ['ours', 'bare']) {
        say(`${count} callers, ${side}, ${database}`);
        const got = await callers(database, side, count, options.seconds, env);
        created[`${database} ${count} ${side}`] = got;
        const failed = `${got.failed} of ${got.failed + got.created} calls failed`;
        const what = side === 'ours' ? 'queuePrefectFlow' : 'a bare POST, not repeated';
        report.row(`i) ${database}, ${count} callers, ${what}`, `${brief(got.perSecond)} runs/s`, failed);
      }
    }
  }
  const sixteen = created['SQLite 16 ours'];
  const isMet = sixteen.perSecond >= 10 && sixteen.failed === 0;
  report.target('i) SQLite, 16 callers', sixteen.perSecond, '>= 10 a second, none failed', isMet, 'runs/s');
  report.samples.created = created;

  // p) Queue calls beside a worker.

  say(`${AT_ONCE} queue calls at once beside a worker`);
  const beside = await callers('SQLite', 'beside', AT_ONCE, options.bursts, env);
  const slowest = quantile(beside.latenciesMs, 0.99);
  const unfair = slowest / median(beside.latenciesMs);
  const what = `p) SQLite, ${AT_ONCE} calls at once beside a worker`;
  report.row(`${what}, each`, `${spread(beside.latenciesMs, 'ms')}, p99 ${brief(slowest, 'ms')}`, `${beside.failed} failed`);
  const isEnough = beside.perSecond >= 5 && beside.failed === 0;
  report.target(what, beside.perSecond, '>= 5 a second, none failed', isEnough, 'runs/s');
  report.target('p) p99 against p50', unfair, '<= 3', unfair <= 3);
  report.samples.beside = beside;
  const version = await api.call('GET', '/admin/version');
  report.note(`Prefect ${version} on loopback; callers are those of one Node process`);
  api.close();
  await report.write();
});
