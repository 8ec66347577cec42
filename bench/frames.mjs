/**
 * l) What the web app waits for while a run's frames take the place of a video's: better-sqlite3 writes and reads all the time in a
 * process of its own, as the app does, while another one swaps in a set as large as the one that is there.
 *
 * Sides: as it is, and all in one transaction as it was. The switch is a trigger that does nothing: a table with a trigger is
 * written in one transaction still. "The app alone" has the same file to itself.
 *
 * Options: --frames N, --bytes N (of each), --turns N.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as passing } from 'node:timers/promises';
import { Report, brief, numberOptions, quantile, root, say, withFolder } from './lib/harness.mjs';

const options = numberOptions({ frames: 100_000, bytes: 20_000, turns: 1 });
const IDLE_MS = 5000;
/** better-sqlite3 gives up after 5 s; a person notices a quarter of a second. */
const LONGEST_MS = 250;
const swapper = process.env.CAPTIONACC_BENCH_SWAPPER ?? join(root, 'target/release/examples/swap-frames');
const schema = readFileSync(join(root, '__test__/fixtures/app-schema.sql'), 'utf8');
const { default: Database } = await import('better-sqlite3');

const longest = (samples) => samples.reduce((most, ms) => Math.max(most, ms), 0);

/** A program that says `until` on stderr, and then waits for its stdin. */
async function begun(program, args, until) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let [said, complained] = ['', ''];
  child.stdout.on('data', (text) => (said += text));
  const ended = once(child, 'close');
  await new Promise((settle, fail) => {
    child.once('close', () => fail(new Error(`${program}: ${complained}`)));
    child.stderr.on('data', (text) => {
      complained += text;
      if (complained.includes(until)) settle();
    });
  });
  return async () => {
    child.stdin.end('\n');
    const [code, signal] = await ended;
    if (code !== 0) throw new Error(`${program} ended with ${signal ?? code}: ${complained}`);
    return JSON.parse(said);
  };
}

async function measured(path, folder, isOne) {
  const database = new Database(path);
  if (isOne) database.exec('CREATE TRIGGER idle BEFORE UPDATE ON cropped_frames WHEN 0 BEGIN SELECT 1; END');
  database.close();
  const swap = await begun(swapper, [path, join(folder, 'scratch'), options.frames, options.bytes].map(String), 'staged');
  const app = await begun(process.execPath, [join(root, 'bench/lib/app.mjs'), path], 'writing');
  await passing(500);
  const took = await swap();
  await passing(500);
  return { took, app: await app() };
}

await withFolder(async (folder) => {
  const free = await statfs(folder);
  const needed = options.frames * options.bytes * 4;
  if (free.bavail * free.bsize < needed) throw new Error(`${folder} has less than ${needed} bytes free: set TMPDIR`);
  const columns = ['journal', 'side', 'visible after', 'whole', 'longest write', 'p99', `writes over ${LONGEST_MS} ms`, 'longest read'];
  const report = await Report.begin('frames', options, columns);
  const sides = { 'short transactions, exchange': false, 'one transaction': true };
  for (const mode of ['wal', 'delete']) {
    const all = Object.fromEntries(['the app alone', ...Object.keys(sides)].map((side) => [side, { visible: [], whole: [], writes: [], reads: [], failures: {} }]));
    const note = (side, app, took) => {
      const of = all[side];
      of.writes.push(...app.writesMs);
      of.reads.push(...app.readsMs);
      for (const [code, count] of Object.entries(app.failures)) of.failures[code] = (of.failures[code] ?? 0) + count;
      if (took) {
        of.visible.push(took.visible_s);
        of.whole.push(took.whole_s);
      }
    };
    for (let turn = 0; turn < options.turns; turn += 1) {
      for (const [side, isOne] of Object.entries(sides)) {
        const path = join(folder, `${mode}-${turn}-${isOne}.db`);
        const database = new Database(path);
        database.pragma(`journal_mode = ${mode}`);
        database.exec(schema);
        database.exec('INSERT INTO captions (start_frame_index, end_frame_index) VALUES (0, 9)');
        database.close();
        say(`${mode}, ${side}, turn ${turn + 1} of ${options.turns}`);
        const first = await begun(swapper, [path, join(folder, 'scratch'), options.frames, options.bytes].map(String), 'staged');
        await first();
        if (!isOne) {
          const idle = await begun(process.execPath, [join(root, 'bench/lib/app.mjs'), path], 'writing');
          await passing(IDLE_MS);
          note('the app alone', await idle());
        }
        const { took, app } = await measured(path, folder, isOne);
        note(side, app, took);
        for (const end of ['', '-wal', '-shm']) await rm(path + end, { force: true });
      }
    }
    for (const [side, { visible, whole, writes, reads, failures }] of Object.entries(all)) {
      const failed = Object.entries(failures).map(([code, count]) => `, ${count} ${code}`);
      report.samples[`${mode}, ${side}`] = { visible, whole, writes, reads };
      report.row(
          mode.toUpperCase(),
          side,
          brief(quantile(visible, 0.5), 's'),
          brief(quantile(whole, 0.5), 's'),
          brief(longest(writes), 'ms'),
          brief(quantile(writes, 0.99), 'ms'),
          `${writes.filter((ms) => ms > LONGEST_MS).length} of ${writes.length}${failed.join('')}`,
          brief(longest(reads), 'ms'),
      );
    }
  }
  await report.write();
});
