// GET /videos/:id/frames/:frame and /videos/:id/strips/:frame: a picture, from the database.

import type { Route } from './+types/picture';
import { readPicture } from './videos.server';

export function loader({ params }: Route.LoaderArgs) {
  const { id, kind } = params;
  const isKnown = (kind === 'frames' || kind === 'strips') && /^\d{1,9}$/.test(params.frame);
  const picture = isKnown ? readPicture(id, kind, Number(params.frame)) : undefined;
  if (picture === undefined) throw new Response('There is no such picture.', { status: 404 });
  return new Response(new Uint8Array(picture), {
    headers: {
      // Never anything else, whatever the bytes are.
      'Content-Type': 'image/jpeg',
      'X-Content-Type-Options': 'nosniff',
      // A new set of frames has new addresses.
      'Cache-Control': 'private, max-age=31536000, immutable',
    },
  });
}
