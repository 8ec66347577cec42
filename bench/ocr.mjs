/**
 * e) OCR: time a frame and error rate by kind of caption (written how, how large, how faint, turned how) over moving real
 * footage, against RapidOCR with the same models and size, and as installed.
 *
 * The captions go through the real pipeline: a clip of one caption a second, full-frames at 1 Hz. That is what is timed on all
 * cores. What was read, by every engine, is of the very JPEG files that it stored: ours once more by bench/read-pictures.rs,
 * which keeps lines as lines, on one thread. Of what an engine found in a frame, the lines whose middle lies in the caption's
 * place count, in the direction in which it runs; every character counts, spaces and punctuation too. What was found elsewhere
 * is counted by itself: the footage has a little text of its own.
 *
 * Options: --frames-of-each N (30: of the three great kinds; a third of it of each of the others), --turns N.
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
  cpuOf,
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

/** The letters and digits alone. */
const plain = (text) => [...text.normalize('NFKC').replaceAll(/[\p{White_Space}\p{P}\p{S}]/gu, '')];
const isWide = (letter) => /[\p{Script=Han}\u3000-\u303f\uff00-\uffef]/u.test(letter);

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

/** Parts of a row as one text: a space between them, but none beside a Chinese character. */
const joined = (texts) =>
  texts.reduce((all, text) => (isWide([...all].at(-1)) || isWide([...text][0]) ? all + text : `${all} ${text}`));

/** What an engine read in the caption's place, and what elsewhere. */
function caption(boxes, truth) {
  const angle = (truth.angle * Math.PI) / 180;
  const [width, height] = [truth.right - truth.left, truth.bottom - truth.top];
  const margin = Math.min(width, height) / 2;
  const upright = truth.angle === 0 ? 0 : margin;
  const placed = boxes.map((box) => {
    const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    return {
      ...box,
      isInside: x >= truth.left - margin && x <= truth.right + margin && y >= truth.top - upright && y <= truth.bottom + upright,
      // Along the direction of reading, and across it.
      along: x * Math.cos(angle) + y * Math.sin(angle),
      across: y * Math.cos(angle) - x * Math.sin(angle),
      size: Math.min(box.right - box.left, box.bottom - box.top),
    };
  });
  const rows = [];
  for (const box of placed.filter(({ isInside }) => isInside).toSorted((a, b) => a.across - b.across)) {
    const row = rows.at(-1);
    if (row && Math.abs(row[0].across - box.across) < box.size / 2) row.push(box);
    else rows.push([box]);
  }
  const texts = rows.map((row) => joined(row.toSorted((a, b) => a.along - b.along).map(({ text }) => text)));
  return { text: texts.join('\n'), elsewhere: placed.filter(({ isInside }) => !isInside).map(({ text }) => text) };
}

/** Error rates of `boxes[frame]` in percent by kind, of all characters and of letters alone; what was read elsewhere. */
function score(boxes, truth) {
  const kinds = new Map();
  const [wrong, elsewhere] = [[], []];
  truth.forEach((expected, frame) => {
    const found = caption(boxes[frame], expected);
    const sums = kinds.get(expected.kind) ?? { errors: 0, length: 0, letterErrors: 0, letters: 0, exact: 0, frames: 0 };
    const errors = distance([...expected.text], [...found.text]);
    sums.errors += errors;
    sums.length += [...expected.text].length;
    sums.letterErrors += distance(plain(expected.text), plain(found.text));
    sums.letters += plain(expected.text).length;
    sums.frames += 1;
    if (errors === 0) sums.exact += 1;
    else wrong.push({ frame, kind: expected.kind, wanted: expected.text, read: found.text });
    kinds.set(expected.kind, sums);
    elsewhere.push(...found.elsewhere.map((text) => ({ frame, text })));
  });
  const rates = Array.from(kinds, ([kind, sums]) => [
    kind,
    { all: (100 * sums.errors) / sums.length, letters: (100 * sums.letterErrors) / sums.letters, exact: sums.exact, frames: sums.frames },
  ]);
  return { kinds: Object.fromEntries(rates), wrong, elsewhere };
}

await withFolder(async (folder) => {
  const { path, truth } = await captionClip(python(), FONT, options['frames-of-each']);
  useHome(join(folder, 'home'));
  process.chdir(folder);
  const orchestrator = await import('@captionacc/orchestrator');
  const { default: Database } = await import('better-sqlite3');
  const report = await Report.begin('ocr', options, ['kind', 'ours', 'RapidOCR, the same models and size', 'RapidOCR as installed']);
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
        if (pid) samples.push([Date.now(), cpuOf(pid).own]);
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

  /** The pictures of our last run, as files. */
  const store = async () => {
    const database = new Database(db, { readonly: true });
    const frames = database.prepare('SELECT image_data FROM full_frames ORDER BY frame_index').pluck().all();
    database.close();
    if (frames.length !== truth.length) throw new Error(`${frames.length} frames of ${truth.length} captions`);
    await mkdir(pictures, { recursive: true });
    for (const [place, jpeg] of frames.entries()) await writeFile(join(pictures, `${String(place).padStart(3, '0')}.jpg`), jpeg);
  };

  const reader = async (program, args) => {
    const said = JSON.parse(await output(program, args));
    const sum = (key) => said.frames.reduce((total, frame) => total + frame[key], 0);
    const [wall, cpu] = [sum('wallSeconds'), sum('cpuSeconds')];
    return {
      wall: wall / truth.length,
      cpu: cpu / truth.length,
      busy: cpu / wall / cores,
      boxes: said.frames.map((frame) => frame.boxes),
    };
  };
  const rapid = (setting) => () => reader(python(), [join(root, 'bench/python/recognize.py'), setting, pictures]);

  const sides = {
    'ours, all cores': ours,
    'ours, one thread': () => reader(join(root, 'target/release/examples/read-pictures'), [process.env.CAPTIONACC_OCR_MODELS, pictures]),
    'RapidOCR, the same models and size, one thread': rapid('equal-1'),
    'RapidOCR, the same models and size': rapid('equal'),
    'RapidOCR as installed': rapid('installed'),
  };
  const [all, own, equalSingle, equal, installed] = Object.keys(sides);
  const samples = Object.fromEntries(Object.keys(sides).map((name) => [name, []]));
  const scores = {};
  try {
    for (let turn = 0; turn < options.turns; turn += 1) {
      for (const [name, measure] of Object.entries(sides)) {
        const { boxes, ...times } = await measure();
        samples[name].push(times);
        if (boxes) scores[name] = score(boxes, truth);
        else await store();
        say(`turn ${turn + 1}, ${name}: ${brief(times.wall, 's')} a frame`);
      }
    }
  } finally {
    await worker.stop();
  }
  report.samples = { samples, scores };
  const of = (name, key) => median(samples[name].map((sample) => sample[key]));
  const read = [own, equal, installed];
  for (const kind of Object.keys(scores[own].kinds)) {
    const cells = read.map((name) => {
      const { all: rate, letters, exact, frames } = scores[name].kinds[kind];
      return `${brief(rate, '%')}, letters ${brief(letters, '%')} (${exact} of ${frames})`;
    });
    report.row(kind, ...cells);
  }
  report.row('lines read elsewhere', ...read.map((name) => String(scores[name].elsewhere.length)));
  for (const name of Object.keys(sides)) {
    report.note(`${name}: ${brief(of(name, 'wall'), 's')} a frame, CPU ${brief(of(name, 'cpu'), 's')}, cores busy ${brief(of(name, 'busy') * 100, '%')}`);
  }
  const verdict = (isMet) => (isMet ? 'met' : 'MISSED');
  const rate = (kind) => scores[own].kinds[kind].all;
  for (const [kind, limit] of [['simplified', 0.5], ['Latin', 0.5], ['mixed', 2.5]]) {
    report.note(`${kind}: ${brief(rate(kind), '%')}, target <= ${limit} %: ${verdict(rate(kind) <= limit)}`);
  }
  const worse = Object.keys(scores[own].kinds).filter((kind) => rate(kind) > scores[equal].kinds[kind].all);
  report.note(`no kind worse than RapidOCR with the same models: ${worse.length === 0 ? 'met' : `MISSED by ${worse.join(', ')}`}`);
  report.note(`cores busy >= 90 %: ${verdict(of(all, 'busy') >= 0.9)}`);
  report.note(`one thread against RapidOCR at equal settings ${brief(of(own, 'cpu') / of(equalSingle, 'cpu'))}; goal 0.12 s: ${verdict(of(own, 'cpu') <= 0.12)}`);
  report.note(`all cores against RapidOCR at equal settings ${brief(of(all, 'wall') / of(equal, 'wall'))}, as installed ${brief(of(all, 'wall') / of(installed, 'wall'))}`);
  for (const { frame, kind, wanted, read: found } of scores[own].wrong)
    report.note(`ours, frame ${frame} (${kind}): ${JSON.stringify(wanted)} read as ${JSON.stringify(found)}`);
  await report.write();
});
