// Checked by `tsc --noEmit` alone: what must compile, and what must not.

import {
  OrchestratorError,
  queuePrefectFlow,
  watchFlowRun,
  type FlowRunEvent,
  type OrchestratorErrorCode,
  type QueuedFlowRun,
} from '@captionacc/orchestrator';

declare module '@captionacc/orchestrator' {
  interface FlowArguments {
    train: { version: string };
  }
}

const video = { 'video-id': 'v', 'video-path': 'v.mp4', 'db-path': 'annotations.db', 'output-dir': 'out' };
const bounds = { left: 0, top: 0, right: 10, bottom: 10 };

export async function whatCompiles(plain: Record<string, string>, index: { [name: string]: string }) {
  const queued: QueuedFlowRun = await queuePrefectFlow('full-frames', video);
  await queuePrefectFlow('full-frames', { ...video, 'frame-rate': 0.5 }, { idempotencyKey: 'k', timeoutMs: 1000 });
  await queuePrefectFlow('full-frames', video, { whenUnreachable: 'store' });
  await queuePrefectFlow('crop-frames', { ...video, 'crop-bounds': bounds }, { whenUnreachable: undefined });
  await queuePrefectFlow('full-frames', { ...video, 'frame-rate': '0.5' }, { signal: AbortSignal.timeout(5) });
  await queuePrefectFlow('crop-frames', { ...video, 'crop-bounds': bounds, 'crop-bounds-version': 3 });
  await queuePrefectFlow('crop-frames', { ...video, 'crop-bounds': JSON.stringify(bounds), 'crop-bounds-version': '3' });
  await queuePrefectFlow('crop-frames', video);
  await queuePrefectFlow('crop-frames', plain);
  await queuePrefectFlow('full-frames', index);
  await queuePrefectFlow('full-frames', { ...video, ...plain });
  const captions = { 'video-id': 'v', 'db-path': 'annotations.db', 'video-dir': '.' };
  await queuePrefectFlow('caption-median-ocr', { ...captions, 'caption-ids': [1, 2] });
  await queuePrefectFlow('caption-median-ocr', { ...captions, 'caption-ids': '[1]', 'language': 'en' });
  await queuePrefectFlow('train', { version: '1' });
  return queued.flowRunId;
}

export function whatDoesNotCompile(plain: Record<string, string>) {
  // @ts-expect-error a flow that is not known
  void queuePrefectFlow('full-frame', video);
  // @ts-expect-error the same with plain arguments
  void queuePrefectFlow('full-frame', plain);
  // @ts-expect-error an argument is missing
  void queuePrefectFlow('full-frames', { 'video-id': 'v', 'video-path': 'v.mp4', 'db-path': 'annotations.db' });
  // @ts-expect-error no arguments at all
  void queuePrefectFlow('full-frames', {});
  // @ts-expect-error an argument is misspelt
  void queuePrefectFlow('full-frames', { ...video, 'frame-rte': '1' });
  const misspelt = { ...video, 'frame-rte': '1' };
  // @ts-expect-error misspelt, and not a literal
  void queuePrefectFlow('full-frames', misspelt);
  // @ts-expect-error misspelt in place of the right one
  void queuePrefectFlow('full-frames', { 'vidoe-id': 'v', 'video-path': 'v', 'db-path': 'a', 'output-dir': 'o' });
  // @ts-expect-error an argument of another flow
  void queuePrefectFlow('full-frames', { ...video, 'crop-bounds': JSON.stringify(bounds) });
  // @ts-expect-error not a value that the argument can have
  void queuePrefectFlow('full-frames', { ...video, 'frame-rate': true });
  // @ts-expect-error ids that are text
  void queuePrefectFlow('caption-median-ocr', { 'video-id': 'v', 'db-path': 'a', 'video-dir': '.', 'caption-ids': ['1'] });
  // @ts-expect-error bounds without a bottom
  void queuePrefectFlow('crop-frames', { ...video, 'crop-bounds': { left: 0, top: 0, right: 1 } });
  // @ts-expect-error an option that there is not
  void queuePrefectFlow('full-frames', video, { timeout: 5 });
  // @ts-expect-error not a thing to do when it is unreachable
  void queuePrefectFlow('full-frames', video, { whenUnreachable: 'drop' });
  // @ts-expect-error a declared flow is held to its arguments too
  void queuePrefectFlow('train', { versoin: '1' });
  // @ts-expect-error only the package makes these
  void new OrchestratorError();
}

export async function eventsAreTold(flowRunId: string): Promise<string[]> {
  const seen: string[] = [];
  for await (const event of watchFlowRun(flowRunId)) {
    const typed: FlowRunEvent = event;
    switch (typed.type) {
      case 'state':
        seen.push(typed.state.name);
        break;
      case 'progress':
        seen.push(typed.progress.fraction.toFixed(2));
        break;
      case 'log':
        seen.push(typed.log.message);
        break;
      default:
        typed satisfies never;
    }
  }
  return seen;
}

export function codesAreTold(error: unknown): OrchestratorErrorCode | null {
  return error instanceof OrchestratorError && error.retryable ? error.code : null;
}
