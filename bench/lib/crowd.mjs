/**
 * One of many processes that queue at once, for bench:queue: `crowd.mjs NUMBER RUNS SIDE`. With SIDE `queue` it queues
 * RUNS runs without waiting for each, with `control` it does everything but the call. Its event loop turns without a
 * pause meanwhile. Prints the longest turn and the longest synchronous part of a call in ms of the clock on the wall.
 */
import { queuePrefectFlow } from '@captionacc/orchestrator';
import { fullFramesOf } from './arguments.mjs';

/** How long the event loop turns, at least. */
const TURNING_MS = 5000;
const [number, runs, side] = process.argv.slice(2);
let [longestTurn, longestCall] = [0, 0];
const calls = [];
let before = performance.now();
/** One turn of the event loop, and the next, until the process ends. */
const turn = () => {
  const after = performance.now();
  longestTurn = Math.max(longestTurn, after - before);
  before = after;
  turning = setImmediate(turn);
};
let turning = setImmediate(turn);
for (let run = 0; run < Number(runs); run += 1) {
  const start = performance.now();
  const args = fullFramesOf(`${number}-${run}`);
  calls.push(
    side === 'queue'
      ? queuePrefectFlow('full-frames', args, { timeoutMs: 120_000 })
      : new Promise((settle) => setTimeout(settle, 1)),
  );
  longestCall = Math.max(longestCall, performance.now() - start);
  if (run % 10 === 9) await new Promise(setImmediate);
}
// The same time for both sides, so that the machine has as many occasions.
calls.push(new Promise((settle) => setTimeout(settle, TURNING_MS)));
await Promise.all(calls);
clearImmediate(turning);
console.log(JSON.stringify({ longestTurn, longestCall }));
