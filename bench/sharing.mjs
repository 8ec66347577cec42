/**
 * n) That one run uses all cores, which is why background runs leave a slot for a person: full-frames alone against two side by
 * side; and crop-frames, for which a person waits, queued when two full-frames already are, with `background-limit` and without.
 *
 * The second film is a copy of the first one: flow runs of one video never run at once.
 *
 * Options: --seconds N (length of the clip), --rate N (frames a second of full-frames), --turns N.
 */
import { rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as passing } from 'node:timers/promises';
import { clips } from './lib/clips.mjs';
import { Report, brief, createDatabase, median, numberOptions, say, startWorker, useHome, withFolder } from './lib/harness.mjs';

const options = numberOptions({ seconds: 120, rate: 0.5, turns: 3 });
/** Long enough for the background runs to have begun. */
const HEAD_START_MS = 500;
const CROP_RATE_HZ = 10;

await withFolder(async (folder) => {
  process.chdir(folder);
  useHome(join(folder, 'home'));
  const orchestrator = await import('@captionacc/orchestrator');
  const [clip] = await clips(options.seconds, 1);
  const report = await Report.begin('sharing', options, ['runs', 'each, from its start', 'a person waits', 'until all have ended']);

  /** Runs of flows, of a video each, queued one after the other; a pause before one is `{ wait }`. */
  const run = async (limits, steps) => {
    const worker = await startWorker(['--limit', String(limits.limit)], { ...process.env, CAPTIONACC_BACKGROUND_LIMIT: String(limits.background) });
    const queued = [];
    try {
      for (const [place, { flow, wait }] of steps.entries()) {
        if (wait) await passing(HEAD_START_MS);
        const db = join(folder, `${place}.db`);
        for (const suffix of ['', '-wal', '-shm']) await rm(db + suffix, { force: true });
        await createDatabase(db);
        const { flowRunId } = await orchestrator.queuePrefectFlow(flow, {
          'video-id': `bench-${place}`,
          'video-path': clip.path,
          'db-path': db,
          'output-dir': join(folder, 'scratch'),
          ...(flow === 'crop-frames' ? { 'frame-rate': CROP_RATE_HZ, 'crop-bounds': clip.crop } : { 'frame-rate': options.rate }),
        });
        queued.push(flowRunId);
      }
      const ended = await Promise.all(queued.map((id) => orchestrator.waitForFlowRun(id)));
      const failed = ended.find(({ state }) => state.type !== 'COMPLETED');
      if (failed) throw new Error(`${failed.state.name}: ${failed.state.message}`);
      const at = (key) => ended.map((flowRun) => Date.parse(flowRun[key]));
      const [created, started, end] = ['createdAt', 'startedAt', 'endedAt'].map(at);
      return {
        each: ended.map((_, place) => (end[place] - started[place]) / 1000),
        waited: (end.at(-1) - created.at(-1)) / 1000,
        all: (Math.max(...end) - Math.min(...created)) / 1000,
      };
    } finally {
      await worker.stop();
    }
  };
  const full = { flow: 'full-frames' };
  const person = { flow: 'crop-frames', wait: true };
  const sides = [
    ['full-frames alone', { limit: 1, background: 1 }, [full]],
    ['two full-frames, one after the other', { limit: 1, background: 1 }, [full, full]],
    ['two full-frames side by side', { limit: 2, background: 2 }, [full, full]],
    ['crop-frames alone', { limit: 2, background: 1 }, [{ flow: 'crop-frames' }]],
    ['two full-frames, then crop-frames; background-limit 2, as without one', { limit: 2, background: 2 }, [full, full, person]],
    ['two full-frames, then crop-frames; background-limit 1', { limit: 2, background: 1 }, [full, full, person]],
  ];
  const samples = Object.fromEntries(sides.map(([name]) => [name, []]));
  for (let turn = 0; turn < options.turns; turn += 1) {
    for (const [name, limits, steps] of sides) {
      const result = await run(limits, steps);
      samples[name].push(result);
      say(`turn ${turn + 1}, ${name}: ${result.each.map((seconds) => brief(seconds, 's')).join(', ')}; all ${brief(result.all, 's')}`);
    }
  }
  report.samples = samples;
  for (const [name, , steps] of sides) {
    const of = (value) => median(samples[name].map(value));
    const each = steps.map((_, place) => brief(of((sample) => sample.each[place]), 's')).join(', ');
    const waits = steps.at(-1).flow === 'crop-frames' ? brief(of((sample) => sample.waited), 's') : '–';
    report.row(name, each, waits, brief(of(({ all }) => all), 's'));
  }
  const all = (name) => median(samples[name].map((sample) => sample.all));
  const ratio = all(sides[2][0]) / all(sides[1][0]);
  report.note(`two full-frames side by side end after ${brief(ratio)} times as long as one after the other, on ${availableParallelism()} cores`);
  await report.write();
});
