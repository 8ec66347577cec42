const { getFlowRun, OrchestratorError, queuePrefectFlow } = require('@captionacc/orchestrator');

async function queue(videoId) {
  const video = { 'video-path': '/videos/1.mp4', 'db-path': '/videos/annotations.db', 'output-dir': '/videos/scratch' };
  const { flowRunId } = await queuePrefectFlow('full-frames', { 'video-id': videoId, ...video });
  const run = await getFlowRun(flowRunId);
  const refused = await queuePrefectFlow('full-frames', { 'video-id': '', ...video }).catch((error) => error);
  return JSON.stringify({ flowRunId, state: run.state.name, refused: refused instanceof OrchestratorError });
}

queue('required').then(console.log);
