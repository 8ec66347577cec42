/**
 * What the web app does while a run writes: it writes all the time, in its own process with better-sqlite3 as it opens it,
 * until its stdin ends. Prints how long each write took, in milliseconds, as one line of JSON.
 *
 * Usage: app.mjs DATABASE
 */
import Database from 'better-sqlite3';

const database = new Database(process.argv[2], { timeout: 5000 });
const write = database.prepare('UPDATE captions SET text = ? WHERE id = 1');
const read = database.prepare('SELECT count(*) AS frames FROM cropped_frames WHERE frame_index < 10');
const [writesMs, readsMs, failures] = [[], [], {}];
const timed = (samples, work) => {
  const startedAt = performance.now();
  try {
    work();
  } catch (error) {
    failures[error.code] = (failures[error.code] ?? 0) + 1;
  }
  samples.push(performance.now() - startedAt);
};
process.stdin.resume();
console.error('writing');
for (let number = 0; !process.stdin.readableEnded; number += 1) {
  timed(writesMs, () => write.run(`text ${number}`));
  timed(readsMs, () => read.get());
  // A moment for stdin, and for whoever waits for the lock.
  await new Promise((settle) => setTimeout(settle, 1));
}
database.close();
console.log(JSON.stringify({ writesMs, readsMs, failures }));
