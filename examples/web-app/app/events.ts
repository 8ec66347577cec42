// GET /runs/:id/events: what happens to a flow run, as server-sent events. The past comes first, so a browser that lost the
// connection and comes back has missed nothing.

import { getFlowRun, watchFlowRun } from '@captionacc/orchestrator';

import type { Route } from './+types/events';
import { needed, problemOf, stopping } from './flows.server';
import { withoutPaths } from './videos.server';

export async function loader({ params, request }: Route.LoaderArgs) {
  const { parameters } = await needed(getFlowRun(params.id));
  const videoId = String(parameters['video-id']);
  // Watching ends with the run, when the browser leaves, or when this server stops.
  const events = watchFlowRun(params.id, { signal: AbortSignal.any([request.signal, stopping]) });
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    // Called when there is room for more: a slow browser holds up its own events and nothing else.
    async pull(controller) {
      const send = (name: string, data: unknown) =>
        controller.enqueue(encoder.encode(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`));
      try {
        const { done, value } = await events.next();
        if (!done) return send(value.type, withoutPaths(videoId, value));
        send('over', null);
      } catch (error) {
        const problem = problemOf(error);
        if (problem.code !== 'ERR_CAPTIONACC_ABORTED') send('problem', problem);
      }
      controller.close();
    },
    async cancel() {
      await events.return?.();
    },
  });
  return new Response(body, {
    headers: {
      'Content-Type': 'text/event-stream',
      // no-transform: compression would hold events back until it has enough of them.
      'Cache-Control': 'no-store, no-transform',
      // A browser whose stream has ended asks again: by a new connection, or a server that stops would go on answering it.
      Connection: 'close',
    },
  });
}
