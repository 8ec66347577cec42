import { expect, test } from 'vitest';

import { queue } from './queue.mjs';

test('a test of the app queues a run', async () => {
  const queued = await queue('tested');
  console.log(queued);
  expect(JSON.parse(queued)).toMatchObject({ state: 'Scheduled', refused: true });
});
