/**
 * d) crop-frames and full-frames through a real worker against the old pipeline (ffmpeg command to JPEG files, PIL,
 * sqlite3; RapidOCR), against the ffmpeg command alone, and against decoding alone.
 *
 * Ours is measured from the queue call to the final state, everything included; the old pipeline from its start to its
 * end, without its queue. full-frames cannot be run without OCR: "OCR off" is the run less its recognize_text task.
 *
 * Options: --seconds N (length of the clips), --turns N, --flows N (1: crop-frames only).
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { clips } from './lib/clips.mjs';
import {
  Report,
  binary,
  brief,
  cpuOf,
  createDatabase,
  measured,
  median,
  memoryOf,
  numberOptions,
  output,
  python,
  root,
  say,
  startWorker,
  useHome,
  withFolder,
} from './lib/harness.mjs';

const options = numberOptions({ seconds: 120, turns: 5, flows: 2 });
const CROP_RATE_HZ = 10;
const FULL_RATE_HZ = 0.1;

await withFolder(async (folder) => {
  useHome(join(folder, 'home'));
  process.chdir(folder);
  const orchestrator = await import('@captionacc/orchestrator');
  const { default: Database } = await import('better-sqlite3');
  const report = await Report.begin('pipelines', options, [
    'flow',
    'clip',
    'side',
    'wall',
    'CPU',
    'peak memory',
    'ours is faster by (wall / CPU)',
  ]);
  const worker = await startWorker(['--limit', '1']);
  const db = join(folder, 'annotations.db');
  const frames = join(folder, 'frames');

  /** Ours: wall and CPU of the whole run, and of it without recognition. */
  const ours = async (flow, clip, extra) => {
    const before = cpuOf(worker.pid);
    const args = {
      'video-id': 'bench',
      'video-path': clip.path,
      'db-path': db,
      'output-dir': join(folder, 'scratch'),
      ...extra,
    };
    const { flowRunId } = await orchestrator.queuePrefectFlow(flow, args);
    let peakMegabytes = 0;
    let pid;
    // What the child took is known to the kernel only while it lives.
    const watch = setInterval(async () => {
      pid ??= (await orchestrator.getFlowRun(flowRunId)).pid ?? undefined;
      try {
        if (pid) peakMegabytes = Math.max(peakMegabytes, memoryOf(pid).peak || 0);
      } catch {
        // It has ended.
      }
    }, 50);
    const run = await orchestrator.waitForFlowRun(flowRunId).finally(() => clearInterval(watch));
    if (run.state.type !== 'COMPLETED')
      throw new Error(`${flow} of ${clip.name}: ${run.state.name}: ${run.state.message}`);
    const after = cpuOf(worker.pid);
    const details = JSON.parse(await output(binary, ['runs', 'show', flowRunId, '--json']));
    const recognition = details.taskRuns.find((task) => task.name === 'recognize_text');
    return {
      wallSeconds: (Date.parse(run.endedAt) - Date.parse(run.createdAt)) / 1000,
      cpuSeconds: after.own + after.children - before.own - before.children,
      recognitionSeconds: recognition
        ? (Date.parse(recognition.endedAt) - Date.parse(recognition.startedAt)) / 1000
        : 0,
      peakMegabytes,
    };
  };

  const old = (flow, clip, rate, ...extra) =>
    measured(python(), [
      join(root, 'bench/python/old_pipeline.py'),
      flow,
      '--video',
      clip.path,
      '--db',
      db,
      '--frames',
      frames,
      '--rate',
      String(rate),
      ...extra,
    ]);
  const ffmpeg = (clip, filter) =>
    measured('ffmpeg', ['-v', 'error', '-y', '-i', clip.path, '-vf', filter, '-q:v', '6', join(frames, '%010d.jpg')]);
  const decode = (clip) => measured('ffmpeg', ['-v', 'error', '-i', clip.path, '-map', '0:v:0', '-f', 'null', '-']);

  /** One side once, with an empty annotations.db and an empty folder for its frames. */
  const once = async (side) => {
    for (const suffix of ['', '-wal', '-shm']) await rm(db + suffix, { force: true });
    await rm(frames, { recursive: true, force: true });
    await mkdir(frames);
    await createDatabase(db);
    const result = await side.run();
    const database = new Database(db, { readonly: true });
    const count = (table) => database.prepare(`SELECT count(*) FROM ${table}`).pluck().get();
    result.written = { full: count('full_frames'), cropped: count('cropped_frames'), boxes: count('full_frame_ocr') };
    database.close();
    result.files = (await readdir(frames)).length;
    return result;
  };

  /** All sides in turns, each turn beginning with another one; then a row a side. */
  const compare = async (flow, clip, sides, rows) => {
    const samples = Object.fromEntries(sides.map((side) => [side.name, []]));
    for (let turn = 0; turn < options.turns; turn += 1) {
      for (let place = 0; place < sides.length; place += 1) {
        const side = sides[(turn + place) % sides.length];
        const result = await once(side);
        samples[side.name].push(result);
        say(
          `${flow}, ${clip.name}, ${side.name}, turn ${turn + 1}: ${brief(result.wallSeconds, 's')} wall, ${brief(result.cpuSeconds, 's')} CPU, wrote ${JSON.stringify(result.written)}`,
        );
      }
    }
    report.samples[`${flow}, ${clip.name}`] = samples;
    const reference = samples['ours'];
    // The two rules of sampling differ by a frame at the end; more would mean that the sides do not do the same work.
    const framesOf = (name) => samples[name]?.[0].written.full + samples[name]?.[0].written.cropped;
    for (const { name } of sides.filter((side) => side.name.startsWith('old'))) {
      if (Math.abs(framesOf(name) - framesOf('ours')) > 1 || framesOf(name) === 0) {
        report.note(
          `${flow}, ${clip.name}: not comparable: ours wrote ${framesOf('ours')} frames, ${name} ${framesOf(name)}`,
        );
      }
    }
    for (const { name, of, mine = (result) => result, against, target } of rows) {
      const pick = (list, key, value) => list.map((result) => value(result)[key]);
      const [theirs, own] = [samples[of], reference];
      const wall = median(pick(theirs, 'wallSeconds', against ?? ((result) => result)));
      const cpu = median(pick(theirs, 'cpuSeconds', against ?? ((result) => result)));
      const isOurs = of === 'ours';
      const ratios = (key) =>
        median(theirs.map((result, turn) => (against ?? ((value) => value))(result)[key] / mine(own[turn])[key]));
      const ratio = ratios('wallSeconds');
      const verdict = target === undefined ? '' : `, target ${target}: ${ratio >= target ? 'met' : 'MISSED'}`;
      const compared = isOurs ? '' : `${brief(ratio)} / ${brief(ratios('cpuSeconds'))}${verdict}`;
      report.row(
        flow,
        clip.name,
        name,
        brief(wall, 's'),
        brief(cpu, 's'),
        brief(median(pick(theirs, 'peakMegabytes', (result) => result)), 'MB'),
        compared,
      );
    }
  };

  try {
    for (const clip of await clips(options.seconds)) {
      const { left, top, right, bottom } = clip.crop;
      const strip = `crop=${right - left}:${bottom - top}:${left}:${top}`;
      const isTarget = /H\.264|HEVC/.test(clip.name);
      await compare(
        'crop-frames',
        clip,
        [
          {
            name: 'ours',
            run: () => ours('crop-frames', clip, { 'frame-rate': CROP_RATE_HZ, 'crop-bounds': clip.crop }),
          },
          {
            name: 'old',
            run: () => old('crop-frames', clip, CROP_RATE_HZ, '--crop', [left, top, right, bottom].join(',')),
          },
          { name: 'ffmpeg', run: () => ffmpeg(clip, `fps=${CROP_RATE_HZ}:round=up,${strip}`) },
          { name: 'decode', run: () => decode(clip) },
        ],
        [
          { name: 'ours', of: 'ours' },
          { name: 'old pipeline', of: 'old', ...(isTarget && { target: 1.5 }) },
          { name: 'ffmpeg command alone', of: 'ffmpeg' },
          { name: 'decoding alone (ffmpeg -f null)', of: 'decode', ...(isTarget && { target: 1 }) },
        ],
      );
      if (options.flows < 2) continue;
      // CPU of recognition is not told apart: the CPU column of "OCR off" holds for the whole run of ours.
      const withoutOcr = (result) => ({
        ...result,
        wallSeconds: result.wallSeconds - result.recognitionSeconds,
        cpuSeconds: NaN,
      });
      await compare(
        'full-frames',
        clip,
        [
          { name: 'ours', run: () => ours('full-frames', clip, { 'frame-rate': FULL_RATE_HZ }) },
          { name: 'old', run: () => old('full-frames', clip, FULL_RATE_HZ) },
          { name: 'old with OCR', run: () => old('full-frames', clip, FULL_RATE_HZ, '--ocr', 'equal') },
          { name: 'old as installed', run: () => old('full-frames', clip, FULL_RATE_HZ, '--ocr', 'installed') },
        ],
        [
          { name: 'ours, OCR off', of: 'ours', against: withoutOcr },
          { name: 'old pipeline, OCR off', of: 'old', mine: withoutOcr, target: 6 },
          { name: 'ours, OCR on', of: 'ours' },
          { name: 'old pipeline, RapidOCR at equal settings', of: 'old with OCR', target: 3 },
          { name: 'old pipeline, RapidOCR as installed', of: 'old as installed' },
        ],
      );
    }
  } finally {
    await worker.stop();
  }
  await report.write();
});
