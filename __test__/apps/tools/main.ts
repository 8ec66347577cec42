import { getFlowRun, OrchestratorError, queuePrefectFlow, type OrchestratorErrorCode } from '@captionacc/orchestrator';

declare module '@captionacc/orchestrator' {
  interface FlowArguments {
    train: { version: string };
  }
}

async function queue(videoId: string): Promise<string> {
  const video = { 'video-path': '/videos/1.mp4', 'db-path': '/videos/annotations.db', 'output-dir': '/videos/scratch' };
  const { flowRunId } = await queuePrefectFlow('full-frames', { 'video-id': videoId, ...video });
  const run = await getFlowRun(flowRunId);
  const refused: unknown = await queuePrefectFlow('train', { version: '1' }).catch((error: unknown) => error);
  const code: OrchestratorErrorCode | undefined = refused instanceof OrchestratorError ? refused.code : undefined;
  return JSON.stringify({ flowRunId, state: run.state.name, refused: code === 'ERR_CAPTIONACC_UNKNOWN_FLOW' });
}

queue('typed').then(console.log, console.error);
