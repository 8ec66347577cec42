/**
 * c) Time from the queue call to the first instruction of the work, against a bare spawn of the same program; memory of
 * worker and child; CPU of an idle worker and of an empty run.
 *
 * The work is a command flow whose program, `date`, says when it ran: the child process has then started, read its
 * order and started the program, so that what is measured is more than the child's own first instruction.
 *
 * Options: --runs N, --idle-seconds N, --empty-runs N.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as passing } from 'node:timers/promises';
import {
  Report,
  brief,
  clock,
  cpuOf,
  median,
  memoryOf,
  numberOptions,
  output,
  preciseCpuOf,
  quantile,
  say,
  spread,
  startWorker,
  useHome,
  withFolder,
} from './lib/harness.mjs';

const options = numberOptions({ runs: 100, 'idle-seconds': 60, 'empty-runs': 100 });

await withFolder(async (folder) => {
  const home = join(folder, 'home');
  await mkdir(home, { mode: 0o700 });
  await writeFile(
    join(home, 'captionacc.toml'),
    `[flows.first-instruction]
command = ["date", "+%s.%N"]
[flows.empty]
command = ["true"]
[flows.held]
command = ["sleep", "60"]
`,
  );
  useHome(home);
  process.chdir(folder); // No captionacc.toml of the caller's folder.
  const orchestrator = await import('@captionacc/orchestrator');
  const queue = (flow) => orchestrator.queuePrefectFlow(flow, {});
  const report = await Report.begin('latency', options, ['what', 'value', 'target']);
  const worker = await startWorker();
  try {
    const started = memoryOf(worker.pid);

    const latencies = [];
    const spawns = [];
    for (let turn = 0; turn < options.runs; turn += 1) {
      const now = clock();
      const calledAt = now();
      const { flowRunId } = await queue('first-instruction');
      let firstAt;
      for await (const event of orchestrator.watchFlowRun(flowRunId)) {
        if (event.type === 'log' && /^\d+\.\d+$/.test(event.log.message)) firstAt = Number(event.log.message) * 1000;
      }
      if (firstAt === undefined) throw new Error(`run ${flowRunId} said no time: ${worker.log()}`);
      latencies.push(firstAt - calledAt);
      const spawnedAt = now();
      spawns.push(Number(await output('date', ['+%s.%N'])) * 1000 - spawnedAt);
    }
    say(`latency measured over ${options.runs} runs`);

    const cpuBefore = cpuOf(worker.pid);
    for (let turn = 0; turn < options['empty-runs']; turn += 1) {
      const { flowRunId } = await queue('empty');
      await orchestrator.waitForFlowRun(flowRunId);
    }
    const cpuAfter = cpuOf(worker.pid);
    const cpuMs = (part) => ((cpuAfter[part] - cpuBefore[part]) * 1000) / options['empty-runs'];

    const { flowRunId } = await queue('held');
    let child;
    for await (const event of orchestrator.watchFlowRun(flowRunId)) {
      // Its program runs once the task run says so; the state comes first, and the pid with it.
      const run =
        event.type === 'state' && event.state.type === 'RUNNING' ? await orchestrator.getFlowRun(flowRunId) : null;
      if (run?.pid) {
        await passing(500);
        child = memoryOf(run.pid);
        break;
      }
    }
    await orchestrator.cancelFlowRun(flowRunId);
    await orchestrator.waitForFlowRun(flowRunId);

    // Threads that waited for disks end after 10 s without work, and take their part of the count with them.
    await passing(12_000);
    say(`idle for ${options['idle-seconds']} s`);
    const idleFrom = [preciseCpuOf(worker.pid), performance.now()];
    await passing(options['idle-seconds'] * 1000);
    const idleCpu = preciseCpuOf(worker.pid) - idleFrom[0];
    const idlePercent = (idleCpu / ((performance.now() - idleFrom[1]) / 1000)) * 100;
    const ended = memoryOf(worker.pid);

    report.samples = { latencies, spawns, started, ended, child, cpuBefore, cpuAfter, idlePercent };
    const p50 = median(latencies);
    report.target('queue call → first instruction, p50', p50, '<= 20 ms', p50 <= 20, 'ms');
    report.row('the same, spread', `${spread(latencies, 'ms')}, p99 ${brief(quantile(latencies, 0.99), 'ms')}`);
    report.row('bare spawn of the same program → first instruction', spread(spawns, 'ms'));
    report.target('worker memory, just started', started.now, '<= 20 MB', started.now <= 20, 'MB');
    report.target('worker memory, idle after the runs', ended.now, '<= 20 MB', ended.now <= 20, 'MB');
    report.row('child memory (command flow)', brief(child?.now ?? NaN, 'MB'));
    report.target('idle worker, CPU', idlePercent, '<= 0.1 %', idlePercent <= 0.1, '%');
    report.row('empty run, CPU of the worker', brief(cpuMs('own'), 'ms'));
    report.row('empty run, CPU of its processes', brief(cpuMs('children'), 'ms'));
    await report.write();
  } finally {
    await worker.stop();
  }
});
