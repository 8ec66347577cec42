// POST /uploads: a film as the body, its name in a header. The answer is the id of the new video, or why there is none.

import type { Route } from './+types/upload';
import { problemOf, queueFullFrames } from './flows.server';
import { addUpload, RefusedUpload } from './videos.server';

export async function action({ request }: Route.ActionArgs) {
  // Other sites may make a browser send a body, too, but not this header.
  const name = request.headers.get('X-File-Name');
  if (name === null || request.body === null) return new Response('There is no file in it.', { status: 400 });
  let id;
  try {
    id = await addUpload(decode(name), request.body as never);
  } catch (error) {
    if (request.signal.aborted) return new Response(null, { status: 499 });
    if (error instanceof RefusedUpload) return new Response(error.message, { status: 400 });
    throw error;
  }
  try {
    await queueFullFrames(id);
  } catch (error) {
    // The video is there all the same; its page offers to queue again.
    console.error(problemOf(error).message);
  }
  return Response.json({ id });
}

/** Headers are ASCII, names of films are not. */
function decode(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}
