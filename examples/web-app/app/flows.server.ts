// What this app asks of the orchestrator beyond reading: it only queues; the worker beside it does the work.

import { OrchestratorError, queuePrefectFlow, type CropBounds } from '@captionacc/orchestrator';

import { flowArguments, readVideo, storeLayout } from './videos.server';

/** Aborted when this server is asked to stop, so that answers without an end, as events.ts gives them, end. */
const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
export const stopping = stop.signal;

/** Samples a frame every 10 s and reads it. An equal run that still waits is returned instead of queued twice. */
export async function queueFullFrames(videoId: string): Promise<void> {
  await queuePrefectFlow('full-frames', flowArguments(videoId));
}

/**
 * Samples the strip 10 times a second. A run that was cropping another strip of this video gives way. Whether the bounds are
 * bounds is told by the call, whether they are inside the frame by the run: neither writes anything if they are not.
 */
export async function queueCropFrames(videoId: string, bounds: CropBounds): Promise<void> {
  const version = (readVideo(videoId).layout?.version ?? 0) + 1;
  await queuePrefectFlow('crop-frames', { ...flowArguments(videoId), 'crop-bounds': bounds, 'crop-bounds-version': version });
  storeLayout(videoId, bounds, version);
}

/** What a person is told when a call did not succeed. */
export interface Problem {
  code: string;
  message: string;
  /** Whether the same call may succeed later. */
  retryable: boolean;
}

/** The result of a call that an answer cannot do without: if the call does not succeed, that is the answer. */
export async function needed<Result>(call: Promise<Result>): Promise<Result> {
  try {
    return await call;
  } catch (error) {
    const { code, message } = problemOf(error);
    throw new Response(message, { status: code === 'ERR_CAPTIONACC_FLOW_RUN_NOT_FOUND' ? 404 : 503 });
  }
}

/** The problem that an error is, if it is one of the orchestrator's; what else is thrown is a fault of this app. */
export function problemOf(error: unknown): Problem {
  if (!(error instanceof OrchestratorError)) throw error;
  const { code, message, retryable } = error;
  return { code, message, retryable };
}
