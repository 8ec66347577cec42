/**
 * e) OCR: time a frame and error rate on captions of known text over moving real footage, against RapidOCR (the same
 * models and size; as installed) and Tesseract.
 *
 * The captions go through the real pipeline: a clip of one caption a second, full-frames at 1 Hz. The other engines read
 * the very JPEG files that it stored. Of what an engine found in a frame, the boxes whose middle lies in the caption's
 * place count, read from left to right; spaces and punctuation do not.
 *
 * Options: --frames-of-each N (30: 90 frames), --turns N.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { captionClip } from './lib/clips.mjs';
import {
  Report,
  binary,
  brief,
  createDatabase,
  median,
  numberOptions,
  output,
  preciseCpuOf,
  python,
  root,
  say,
  startWorker,
  useHome,
  withFolder,
} from './lib/harness.mjs';

const options = numberOptions({ 'frames-of-each': 30, turns: 3 });
const FONT = '/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc';
const cores = availableParallelism();

const plain = (text) => [...text.normalize('NFKC').replaceAll(/[\p{White_Space}\p{P}\p{S}]/gu, '')];

/** Least number of insertions, deletions and replacements. */
function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column);
  a.forEach((letter, index) => {
    const next = [index + 1];
    b.forEach((other, column) => {
      next.push(Math.min(next[column] + 1, row[column + 1] + 1, row[column] + (letter === other ? 0 : 1)));
    });
    row = next;
  });
  return row[b.length];
}

/** What an engine read in the caption's place. */
function caption(boxes, truth) {
  const margin = (truth.bottom - truth.top) / 2;
  const inside = boxes.filter((box) => {
    const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    return y >= truth.top && y <= truth.bottom && x >= truth.left - margin && x <= truth.right + margin;
  });
  return inside
    .toSorted((a, b) => a.left - b.left)
    .map((box) => box.text)
    .join(' ');
}

/** Error rates of `boxes[frame]` in percent: of all, of each kind; and how many frames are right to the letter. */
function score(boxes, truth) {
  const kinds = { all: [0, 0], chinese: [0, 0], latin: [0, 0], mixed: [0, 0] };
  let exact = 0;
  const wrong = [];
  truth.forEach((expected, frame) => {
    const found = caption(boxes[frame], expected);
    const [wanted, read] = [plain(expected.text), plain(found)];
    const errors = distance(wanted, read);
    for (const kind of ['all', expected.kind]) {
      kinds[kind][0] += errors;
      kinds[kind][1] += wanted.length;
    }
    if (errors === 0) exact += 1;
    else wrong.push({ frame, wanted: expected.text, read: found });
  });
  const rate = ([errors, letters]) => (letters === 0 ? NaN : (100 * errors) / letters);
  return { exact, wrong, ...Object.fromEntries(Object.entries(kinds).map(([kind, sums]) => [kind, rate(sums)])) };
}

await withFolder(async (folder) => {
  const { path, truth } = await captionClip(python(), FONT, options['frames-of-each']);
  useHome(join(folder, 'home'));
  process.chdir(folder);
  const orchestrator = await import('@captionacc/orchestrator');
  const { default: Database } = await import('better-sqlite3');
  const report = await Report.begin('ocr', options, [
    'engine',
    'CER all (exact)',
    'zh / en / mixed',
    's a frame, wall',
    's a frame, CPU',
    'cores busy',
  ]);
  const worker = await startWorker(['--limit', '1']);

  const db = join(folder, 'annotations.db');
  const pictures = join(folder, 'pictures');

  const ours = async () => {
    await rm(db, { force: true });
    await createDatabase(db);
    const args = {
      'video-id': 'bench',
      'video-path': path,
      'db-path': db,
      'output-dir': join(folder, 'scratch'),
      'frame-rate': 1,
    };
    const { flowRunId } = await orchestrator.queuePrefectFlow('full-frames', args);
    // The child's CPU over time; what recognition took is read off between its start and its end.
    const samples = [];
    let pid;
    const watch = setInterval(async () => {
      pid ??= (await orchestrator.getFlowRun(flowRunId)).pid ?? undefined;
      try {
        if (pid) samples.push([Date.now(), preciseCpuOf(pid)]);
      } catch {
        // It has ended.
      }
    }, 20);
    const run = await orchestrator.waitForFlowRun(flowRunId).finally(() => clearInterval(watch));
    if (run.state.type !== 'COMPLETED') throw new Error(`full-frames: ${run.state.name}: ${run.state.message}`);
    const details = JSON.parse(await output(binary, ['runs', 'show', flowRunId, '--json']));
    const task = details.taskRuns.find(({ name }) => name === 'recognize_text');
    const [start, end] = [Date.parse(task.startedAt), Date.parse(task.endedAt)];
    const inside = samples.filter(([at]) => at >= start && at <= end);
    if (inside.length < 2) throw new Error('recognition was over before its CPU was seen: take more frames');
    const [[firstAt, firstCpu], [lastAt, lastCpu]] = [inside[0], inside.at(-1)];
    const cpuSeconds = ((lastCpu - firstCpu) / (lastAt - firstAt)) * (end - start);
    return {
      wall: (end - start) / 1000 / truth.length,
      cpu: cpuSeconds / truth.length,
      busy: (lastCpu - firstCpu) / ((lastAt - firstAt) / 1000) / cores,
    };
  };

  /** Boxes of our last run, and its pictures as files for the others. */
  const stored = async () => {
    const database = new Database(db, { readonly: true });
    const frames = database
      .prepare('SELECT frame_index, image_data, width, height FROM full_frames ORDER BY frame_index')
      .all();
    if (frames.length !== truth.length) throw new Error(`${frames.length} frames of ${truth.length} captions`);
    await mkdir(pictures, { recursive: true });
    const boxes = [];
    for (const [place, { frame_index, image_data, width, height }] of frames.entries()) {
      await writeFile(join(pictures, `${String(place).padStart(3, '0')}.jpg`), image_data);
      const rows = database
        .prepare('SELECT * FROM full_frame_ocr WHERE frame_index = ? ORDER BY box_index')
        .all(frame_index);
      boxes.push(
        rows.map((box) => ({
          text: box.text,
          left: box.x * width,
          right: (box.x + box.width) * width,
          top: (1 - box.y - box.height) * height,
          bottom: (1 - box.y) * height,
        })),
      );
    }
    database.close();
    return boxes;
  };

  const other = async (engine) => {
    const said = JSON.parse(await output(python(), [join(root, 'bench/python/recognize.py'), engine, pictures]));
    const sum = (key) => said.frames.reduce((total, frame) => total + frame[key], 0);
    const [wall, cpu] = [sum('wallSeconds'), sum('cpuSeconds')];
    return {
      wall: wall / truth.length,
      cpu: cpu / truth.length,
      busy: cpu / wall / cores,
      boxes: said.frames.map((frame) => frame.boxes),
    };
  };

  const sides = {
    'ours (PP-OCRv4 mobile, 960)': null,
    'RapidOCR, the same models and size': 'equal',
    'RapidOCR as installed': 'installed',
    'Tesseract chi_sim+eng': 'tesseract',
  };
  const [own, equal, installed] = Object.keys(sides);
  const samples = Object.fromEntries(Object.keys(sides).map((name) => [name, []]));
  const scores = {};
  try {
    for (let turn = 0; turn < options.turns; turn += 1) {
      for (const [name, engine] of Object.entries(sides)) {
        const { boxes = null, ...times } = engine === null ? await ours() : await other(engine);
        samples[name].push(times);
        scores[name] = score(boxes ?? (await stored()), truth);
        say(`turn ${turn + 1}, ${name}: ${brief(times.wall, 's')} a frame, CER ${brief(scores[name].all, '%')}`);
      }
    }
  } finally {
    await worker.stop();
  }
  report.samples = { samples, scores };
  const of = (name, key) => median(samples[name].map((sample) => sample[key]));
  for (const name of Object.keys(sides)) {
    const { all, exact, chinese, latin, mixed } = scores[name];
    report.row(
      name,
      `${brief(all, '%')} (${exact} of ${truth.length})`,
      [chinese, latin, mixed].map((rate) => brief(rate, '%')).join(' / '),
      brief(of(name, 'wall')),
      brief(of(name, 'cpu')),
      brief(of(name, 'busy') * 100, '%'),
    );
  }
  const verdict = (isMet) => (isMet ? 'met' : 'MISSED');
  const [timeRatio, equalRatio] = [of(own, 'wall') / of(installed, 'wall'), of(own, 'wall') / of(equal, 'wall')];
  report.note(
    `error rate no worse than RapidOCR's with the same models: ${verdict(scores[own].all <= scores[equal].all)}`,
  );
  report.note(`cores busy >= 90 %: ${verdict(of(own, 'busy') >= 0.9)}`);
  report.note(`time against RapidOCR as installed ${brief(timeRatio)}, target <= 0.35: ${verdict(timeRatio <= 0.35)}`);
  report.note(`time against RapidOCR at equal settings ${brief(equalRatio)}`);
  for (const { frame, wanted, read } of scores[own].wrong)
    report.note(`ours, frame ${frame}: ${JSON.stringify(wanted)} read as ${JSON.stringify(read)}`);
  await report.write();
});
