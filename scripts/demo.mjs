/**
 * The demo: plays the web app for one film, with everything else as in production.
 *
 * Usage: node scripts/demo.mjs FILM [CAPTIONS.srt]. Leaves demo-output/ (annotations.db, contact sheets, the worker's
 * log); the queue itself lives in a temporary home that is removed at the end. With the captions that are written in
 * the film, what was read is compared with them. Exit code 0: both flows completed and what they wrote was checked.
 *
 * Needs no npm package: the database is read and written with Debian's sqlite3 command.
 */
import { execFile, spawn } from 'node:child_process';
import { createWriteStream, existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const binary = join(root, 'dist', 'captionacc');
const output = join(root, 'demo-output');
const databasePath = join(output, 'annotations.db');
const workerLog = join(output, 'worker.log');
const videoId = 'demo-video';
/** How long a worker may take to drain before the demo calls that a failure. */
const DRAIN_TIMEOUT_MS = 60_000;
/** Texts of the summary. */
const SHOWN_TEXTS = 24;
/** Cropped frames on their contact sheet. */
const SHOWN_STRIPS = 40;

/** What a person can mend: shown without a stack. */
class DemoError extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint;
  }
}

const run = promisify(execFile);
const say = (text = '') => process.stdout.write(`${text}\n`);
const heading = (text) => say(`\n== ${text}`);
const seconds = (ms) => `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const shown = (path) => relative(process.cwd(), path) || '.';

/** Loads what `npm run build` makes, or says how to get it. */
async function load() {
  if (!existsSync(binary)) {
    throw new DemoError(`${shown(binary)} is missing`, 'npm run build');
  }
  try {
    return await import('@captionacc/orchestrator');
  } catch (error) {
    throw new DemoError(`the addon does not load: ${error.message}`, 'npm run build');
  }
}

/** Runs SQL on the video's database and returns the rows of its query, if there is one. */
async function sql(text) {
  const running = run('sqlite3', ['-batch', '-bail', '-json', databasePath], { maxBuffer: 1 << 28 });
  running.child.stdin.on('error', () => {}); // A sqlite3 that gave up says why on stderr.
  running.child.stdin.end(`.timeout 10000\n${text}`);
  try {
    const { stdout } = await running;
    return stdout === '' ? [] : JSON.parse(stdout);
  } catch (error) {
    throw new DemoError(`sqlite3 failed: ${error.stderr || error.message}`.trim(), 'apt-get install sqlite3');
  }
}

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

/** What the web app does when an upload has ended: the file, its tables and the rows that it polls. */
async function createDatabase(film) {
  const schema = await readFile(join(root, '__test__', 'fixtures', 'app-schema.sql'), 'utf8');
  const { size } = await stat(film);
  await sql(`
    PRAGMA journal_mode = WAL;
    BEGIN;
    ${schema}
    UPDATE video_metadata SET video_id = ${quoted(videoId)}, display_path = ${quoted(film)},
      original_filename = ${quoted(basename(film))}, file_size_bytes = ${size};
    COMMIT;`);
}

/** Starts a worker; its log goes to a file, the progress is shown by the demo itself. */
function startWorker(environment) {
  const log = createWriteStream(workerLog);
  const child = spawn(binary, ['worker'], { env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.pipe(log, { end: false });
  child.stderr.pipe(log, { end: false });
  const ended = new Promise((settle) => {
    child.once('error', (error) => settle({ problem: `it could not be started: ${error.message}` }));
    child.once('close', (code, signal) => {
      log.end();
      settle(code === 0 ? {} : { problem: `it ended with ${signal ?? `code ${code}`}` });
    });
  });
  return { child, ended };
}

/** Asks the worker to drain; resolves once it has gone. */
async function stopWorker({ child, ended }) {
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), DRAIN_TIMEOUT_MS);
  const { problem } = await ended;
  clearTimeout(timer);
  if (problem) {
    throw new DemoError(`the worker did not end well: ${problem}`, `see ${shown(workerLog)}`);
  }
}

/** The same line again and again on a terminal, else a line for each tenth of the work. */
function progressLine() {
  const isTerminal = process.stdout.isTTY;
  let lastTenth = -1;
  let isOpen = false;
  return {
    show({ task, done, total, unit, fraction }) {
      const percent = Math.floor(fraction * 100);
      const text = `   ${String(percent).padStart(3)} %  ${task} (${done}/${total ?? '?'} ${unit})`;
      if (isTerminal) {
        process.stdout.write(`\r\u001b[K${text}`);
        isOpen = true;
      } else if (Math.floor(percent / 10) !== lastTenth) {
        lastTenth = Math.floor(percent / 10);
        say(text);
      }
    },
    close() {
      if (isOpen) {
        process.stdout.write('\r\u001b[K');
        isOpen = false;
      }
    },
  };
}

/** Queues a flow and shows its run until the end. */
async function runFlow(orchestrator, flowType, args, signal) {
  heading(flowType);
  const calledAt = performance.now();
  const queued = await orchestrator.queuePrefectFlow(flowType, args, { signal });
  const queueMs = performance.now() - calledAt;
  say(`   queued in ${queueMs.toFixed(2)} ms: ${queued.flowRunId} (${queued.priority})`);
  const line = progressLine();
  try {
    for await (const event of orchestrator.watchFlowRun(queued.flowRunId, { signal })) {
      if (event.type === 'progress') {
        line.show(event.progress);
      } else {
        line.close();
        say(
          event.type === 'state'
            ? `   ${event.state.name}${event.state.message ? `: ${event.state.message}` : ''}`
            : `   | ${event.log.message}`,
        );
      }
    }
  } finally {
    line.close();
  }
  const flowRun = await orchestrator.getFlowRun(queued.flowRunId);
  if (flowRun.state.type !== 'COMPLETED') {
    throw new DemoError(
      `${flowType} ended as ${flowRun.state.name}: ${flowRun.state.message ?? 'no reason given'}`,
      `see ${shown(workerLog)}`,
    );
  }
  return { flowRun, queueMs };
}

/**
 * Bounds around the film's captions, in pixels: the rows that hold sure text in most frames, and the columns from the
 * first to the last of that text. What the web app's layout analysis does with more care.
 */
function captionBounds(boxes, { width, height }) {
  const pixels = boxes
    .filter((box) => box.confidence >= 0.8)
    .map((box) => ({
      frame: box.frame_index,
      left: Math.floor(box.x * width),
      right: Math.ceil((box.x + box.width) * width),
      // y is the lower edge, counted from the bottom.
      top: Math.floor((1 - box.y - box.height) * height),
      bottom: Math.ceil((1 - box.y) * height),
    }));
  const votes = Array.from({ length: height }, () => new Set());
  for (const box of pixels) {
    for (let row = Math.max(0, box.top); row < Math.min(height, box.bottom); row += 1) {
      votes[row].add(box.frame);
    }
  }
  const most = Math.max(0, ...votes.map((frames) => frames.size));
  if (most === 0) {
    throw new DemoError('no text was found in the film, so there is nothing to crop to', 'try a film with captions');
  }
  const enough = Math.max(1, most / 2);
  const peak = votes.findIndex((frames) => frames.size === most);
  let top = peak;
  while (top > 0 && votes[top - 1].size >= enough) top -= 1;
  let bottom = peak + 1;
  while (bottom < height && votes[bottom].size >= enough) bottom += 1;
  const inside = pixels.filter((box) => (box.top + box.bottom) / 2 >= top && (box.top + box.bottom) / 2 < bottom);
  const padding = Math.round(height / 60);
  const clamp = (value, end) => Math.min(end, Math.max(0, value));
  return {
    left: clamp(Math.min(...inside.map((box) => box.left)) - padding, width),
    top: clamp(top - padding, height),
    right: clamp(Math.max(...inside.map((box) => box.right)) + padding, width),
    bottom: clamp(bottom + padding, height),
  };
}

/** Frames of a table side by side in one PNG; `boxes` are drawn where they were found. */
async function contactSheet(path, table, frames, { columns, cellWidth, boxes = [] }, signal) {
  const folder = await mkdtemp(join(tmpdir(), 'captionacc-demo-'));
  try {
    await sql(`
      SELECT writefile(${quoted(folder)} || printf('/%d.jpg', row_number() OVER (ORDER BY frame_index)), image_data)
      FROM ${table} WHERE frame_index IN (${frames.map((frame) => frame.frame_index).join(', ')})`);
    const rows = Math.ceil(frames.length / columns);
    const outlines = boxes.map(({ frame, x, y, width, height }) => {
      const place = `x=iw*${x}:y=ih*${1 - y - height}:w=iw*${width}:h=ih*${height}`;
      return `drawbox=${place}:color=magenta:thickness=2:enable='eq(n,${frame})'`;
    });
    const tile = `tile=${columns}x${rows}:padding=6:margin=6:color=gray`;
    const filter = [...outlines, `scale=${cellWidth}:-2`, tile].join(',');
    const input = ['-framerate', '1', '-start_number', '1', '-i', join(folder, '%d.jpg')];
    await run('ffmpeg', ['-v', 'error', '-y', ...input, '-vf', filter, '-frames:v', '1', path], { signal });
  } catch (error) {
    if (signal.aborted || error instanceof DemoError) throw error;
    throw new DemoError(`ffmpeg made no contact sheet: ${error.stderr || error.message}`, 'apt-get install ffmpeg');
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Captions of a SubRip file, with the seconds from and to which each is shown. */
async function readCaptions(path) {
  const secondsOf = (time) => {
    const [hours, minutes, whole, thousandths] = time.split(/[:,]/).map(Number);
    return hours * 3600 + minutes * 60 + whole + thousandths / 1000;
  };
  const blocks = (await readFile(path, 'utf8')).trim().split(/\n{2,}/);
  return blocks.map((block) => {
    const [, times, ...lines] = block.split('\n');
    const [from, to] = times.split(' --> ').map(secondsOf);
    return { from, to, text: lines.join(' ') };
  });
}

const isWide = (character) => /[\p{Script=Han}\u3000-\u303f\uff00-\uffef]/u.test(character ?? '');

/** The text of boxes in reading order, whether each is a line, a word or a character: spaces are between words only. */
function joined(boxes) {
  return boxes.reduce((text, box) => {
    const isTight = text === '' || isWide(text.at(-1)) || isWide(box.text.at(0));
    return isTight ? text + box.text : `${text} ${box.text}`;
  }, '');
}

/** How many characters must be inserted, removed or replaced to make one text of the other. */
function editDistance(one, other) {
  const wanted = [...other];
  let row = Array.from({ length: wanted.length + 1 }, (_, place) => place);
  for (const [line, character] of [...one].entries()) {
    const next = [line + 1];
    for (const [place, letter] of wanted.entries()) {
      next.push(Math.min(next[place] + 1, row[place + 1] + 1, row[place] + (character === letter ? 0 : 1)));
    }
    row = next;
  }
  return row[wanted.length];
}

/**
 * Compares the captions with what was read in their row, `bounds`, on the first sampled frame that shows each. All text in
 * that row counts, of the film's own too: that it is no caption cannot be known from a box.
 */
function compare(captions, frames, boxes, bounds) {
  const { height } = frames[0];
  const inRow = boxes.filter((box) => {
    const middle = (1 - box.y - box.height / 2) * height;
    return middle >= bounds.top && middle < bounds.bottom;
  });
  const lettersOf = (text) => text.replaceAll(/[\p{P}\p{S}\p{Z}]/gu, '');
  let [errors, length, letterErrors, letters] = [0, 0, 0, 0];
  say('\n   Captions (time in the film, errors, written, read):');
  for (const { from, to, text } of captions) {
    const frame = frames.find(({ frame_index: index }) => index >= from * 10 && index < to * 10);
    if (!frame) {
      say(`   ${from.toFixed(0).padStart(5)} s   -  ${text}  (on no sampled frame)`);
      continue;
    }
    const read = joined(inRow.filter((box) => box.frame_index === frame.frame_index));
    const distance = editDistance(text, read);
    errors += distance;
    length += [...text].length;
    letterErrors += editDistance(lettersOf(text), lettersOf(read));
    letters += [...lettersOf(text)].length;
    const time = `${(frame.frame_index / 10).toFixed(0).padStart(5)} s  ${String(distance).padStart(2)}`;
    say(distance === 0 ? `   ${time}  ${text}` : `   ${time}  ${text}\n                ${read || '(nothing)'}`);
  }
  const rate = (wrong, all) => `${((100 * wrong) / all).toFixed(1)} % (${wrong} of ${all} characters)`;
  say(`   error rate: ${rate(errors, length)}; without spaces and punctuation ${rate(letterErrors, letters)}`);
  const own = frames.filter(({ frame_index: index }) => !captions.some(({ from, to }) => index >= from * 10 && index < to * 10));
  const foreign = own.map((frame) => joined(inRow.filter((box) => box.frame_index === frame.frame_index))).filter(Boolean);
  say(`   read in their row on the ${own.length} frames without a caption: ${foreign.join(' | ') || 'nothing'}`);
}

/** What must hold in annotations.db after both flows. */
async function check() {
  const problems = [];
  const one = async (text) => Object.values((await sql(text))[0] ?? {})[0];
  const expect = (what, found, wanted) => {
    if (found !== wanted) problems.push(`${what} is ${found}, not ${wanted}`);
  };
  expect('processing_status', await one('SELECT status FROM processing_status'), 'processing_complete');
  expect('crop_frames_status', await one('SELECT status FROM crop_frames_status'), 'complete');
  expect('integrity_check', await one('PRAGMA integrity_check'), 'ok');
  for (const table of ['full_frames', 'full_frame_ocr', 'cropped_frames']) {
    if ((await one(`SELECT count(*) FROM ${table}`)) === 0) problems.push(`${table} is empty`);
  }
  if (problems.length > 0) {
    throw new DemoError(`annotations.db is not as it must be: ${problems.join('; ')}`, `see ${shown(workerLog)}`);
  }
}

async function summarize(results, captions, bounds, lineage, signal) {
  const frames = await sql('SELECT frame_index, width, height, file_size FROM full_frames ORDER BY frame_index');
  const boxes = await sql('SELECT * FROM full_frame_ocr ORDER BY frame_index, box_index');
  const strips = await sql('SELECT frame_index, width, height, file_size FROM cropped_frames ORDER BY frame_index');
  const sum = (rows) => rows.reduce((total, row) => total + row.file_size, 0);

  heading('summary');
  const size = ({ width, height }) => `${width}x${height}`;
  say(`   full_frames     ${frames.length} frames of ${size(frames[0])}, ${megabytes(sum(frames))}`);
  say(`   full_frame_ocr  ${boxes.length} boxes in ${new Set(boxes.map((box) => box.frame_index)).size} frames`);
  say(`   cropped_frames  ${strips.length} frames of ${size(strips[0])}, ${megabytes(sum(strips))}`);

  if (captions) {
    compare(captions, frames, boxes, bounds);
  } else {
    say('\n   First texts (time in the film, how sure, text):');
    for (const box of boxes.slice(0, SHOWN_TEXTS)) {
      say(`   ${box.timestamp_seconds.toFixed(0).padStart(5)} s  ${box.confidence.toFixed(2)}  ${box.text}`);
    }
    if (boxes.length > SHOWN_TEXTS) {
      say(`            … and ${boxes.length - SHOWN_TEXTS} more, in full_frame_ocr`);
    }
  }

  say('\n   Times:');
  for (const { flowRun, queueMs } of results) {
    const at = (name) => Date.parse(flowRun[name]);
    say(
      `   ${flowRun.flowName.padEnd(12)} queue call ${queueMs.toFixed(2)} ms, ` +
        `waited ${at('startedAt') - at('createdAt')} ms, ran ${seconds(at('endedAt') - at('startedAt'))}`,
    );
  }

  say('\n   Lineage (captionacc lineage):');
  say(lineage.trimEnd().replaceAll(/^/gm, '   '));

  const index = new Map(frames.map((frame, position) => [frame.frame_index, position]));
  const outlines = boxes.map((box) => ({ ...box, frame: index.get(box.frame_index) }));
  const sheets = [
    [join(output, 'full-frames.png'), 'full_frames', frames, { columns: 5, cellWidth: 320, boxes: outlines }],
    [join(output, 'cropped-frames.png'), 'cropped_frames', sample(strips, SHOWN_STRIPS), { columns: 4, cellWidth: 320 }],
  ];
  for (const [path, table, pictures, options] of sheets) {
    await contactSheet(path, table, pictures, options, signal);
  }
  say('\n   To look at:');
  for (const path of [...sheets.map(([sheet]) => sheet), databasePath, workerLog]) {
    say(`   ${shown(path)}`);
  }
}

/** Up to `count` of them, evenly spread. */
function sample(rows, count) {
  if (rows.length <= count) return rows;
  return Array.from({ length: count }, (_, place) => rows[Math.floor((place * rows.length) / count)]);
}

async function main(film, captionsPath, signal) {
  const home = await mkdtemp(join(tmpdir(), 'captionacc-demo-'));
  // The demo's own home and the embedded orchestrator, whatever this user has set up.
  Object.assign(process.env, { CAPTIONACC_HOME: home, CAPTIONACC_ORCHESTRATOR: 'embedded' });
  delete process.env.CAPTIONACC_CONFIG;
  const orchestrator = await load().catch(async (error) => {
    await rm(home, { recursive: true, force: true });
    throw error;
  });
  await rm(output, { recursive: true, force: true });
  await mkdir(output, { recursive: true });
  const captions = captionsPath && (await readCaptions(captionsPath));
  await createDatabase(film);
  const worker = startWorker(process.env);
  // A worker that ends early would leave the demo waiting for ever.
  const early = new AbortController();
  const isOver = AbortSignal.any([signal, early.signal]);
  void worker.ended.then(() => early.abort(new DemoError('the worker ended early', `see ${shown(workerLog)}`)));
  try {
    const args = {
      'video-id': videoId,
      'video-path': film,
      'db-path': databasePath,
      'output-dir': join(output, 'scratch'),
    };
    const results = [await runFlow(orchestrator, 'full-frames', { ...args, 'frame-rate': 0.1 }, isOver)];
    const boxes = await sql('SELECT * FROM full_frame_ocr');
    const [size] = await sql('SELECT frame_width AS width, frame_height AS height FROM video_layout_config');
    const bounds = captionBounds(boxes, size);
    const cropping = { ...args, 'crop-bounds': bounds, 'crop-bounds-version': 1 };
    results.push(await runFlow(orchestrator, 'crop-frames', cropping, isOver));
    await check();
    const { stdout: lineage } = await run(binary, ['lineage'], { env: process.env, signal: isOver });
    await summarize(results, captions, bounds, lineage, isOver);
  } catch (error) {
    // What the signal carries says more than "aborted".
    throw isOver.aborted ? isOver.reason : error;
  } finally {
    heading('stopping the worker');
    await stopWorker(worker).finally(() => rm(home, { recursive: true, force: true }));
    say('   drained');
  }
}

const stop = new AbortController();
for (const name of ['SIGINT', 'SIGTERM']) {
  process.once(name, () => stop.abort(new DemoError(`stopped by ${name}`, 'npm run demo')));
}
try {
  const [film, captionsPath] = process.argv.slice(2);
  if (!film) throw new DemoError('no film given', 'npm run demo');
  await main(resolve(film), captionsPath, stop.signal);
} catch (error) {
  process.stderr.write(`error: ${error instanceof DemoError ? error.message : error.stack}\n`);
  if (error.hint) process.stderr.write(`hint: ${error.hint}\n`);
  process.exitCode = 1;
}
