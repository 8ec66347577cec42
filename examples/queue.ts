// Queues both flows for one video and follows the second one. A worker must run: npm run worker.
// Node 22.18 and newer run this file as it is: node examples/queue.ts VIDEO ANNOTATIONS_DB CROP_BOUNDS
// CROP_BOUNDS is the strip with the captions, in pixels: '{"left":0,"top":240,"right":480,"bottom":352}'

import path from 'node:path';

import { OrchestratorError, queuePrefectFlow, waitForFlowRun, watchFlowRun } from '@captionacc/orchestrator';

const [video, database, cropBounds] = process.argv.slice(2);
if (video === undefined || database === undefined || cropBounds === undefined) {
  throw new Error('usage: queue.ts VIDEO ANNOTATIONS_DB CROP_BOUNDS');
}

const common = {
  'video-id': path.basename(video, path.extname(video)),
  'video-path': video,
  'db-path': database,
  'output-dir': path.join(path.dirname(database), 'scratch'),
};

try {
  const fullFrames = await queuePrefectFlow('full-frames', common);
  const run = await waitForFlowRun(fullFrames.flowRunId);
  console.log(run.state.name, run.state.message);

  const cropFrames = await queuePrefectFlow('crop-frames', {
    ...common,
    'crop-bounds': cropBounds,
    'crop-bounds-version': 1,
  });
  for await (const event of watchFlowRun(cropFrames.flowRunId)) {
    if (event.type === 'progress') console.log(`${Math.round(event.progress.fraction * 100)} %`);
    if (event.type === 'state') console.log(event.state.name, event.state.message ?? '');
  }
} catch (error) {
  if (!(error instanceof OrchestratorError)) throw error;
  console.error(error.code, error.message, error.retryable ? '(worth another try)' : '');
  process.exitCode = 1;
}
