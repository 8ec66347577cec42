// GET /videos/:id/texts: all texts of a video as a plain file. Waits for a run that is at work, so that a script can upload a
// film and ask for its texts next.

import { listFlowRuns, waitForFlowRun } from '@captionacc/orchestrator';

import type { Route } from './+types/texts';
import { problemOf } from './flows.server';
import { linesOf } from './format';
import { readFrames } from './videos.server';

export async function loader({ params, request }: Route.LoaderArgs) {
  const [run] = await listFlowRuns({ videoId: params.id, flowName: 'full-frames', limit: 1 });
  if (run) {
    try {
      // Whichever way it ends. If the asker leaves or has waited long enough, the run goes on.
      await waitForFlowRun(run.flowRunId, { signal: request.signal, timeoutMs: 60_000 });
    } catch (error) {
      const { code, message } = problemOf(error);
      return new Response(`${message} (${code})\n`, { status: 503, headers: { 'Retry-After': '10' } });
    }
  }
  const lines = readFrames(params.id).flatMap((frame) =>
    linesOf(frame.boxes).map(({ text }) => `${(frame.index / 10).toFixed(1)}\t${text.replaceAll(/\s+/g, ' ')}\n`),
  );
  return new Response(lines.join(''), {
    headers: { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Disposition': 'attachment; filename="texts.txt"' },
  });
}
