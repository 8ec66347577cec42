import { once } from 'node:events';
import { isMainThread, Worker } from 'node:worker_threads';

import { queue } from './queue.mjs';

if (isMainThread) {
  const workers = [1, 2].map(() => new Worker(new URL(import.meta.url)));
  console.log(await queue('of the main thread'));
  await Promise.all(workers.map((worker) => once(worker, 'exit')));
} else {
  console.log(await queue('of a thread'));
}
