// Captions in time, pure: which one is on at a moment, which are around it, and what a lane of them looks like.

import type { Caption } from './api.js';

/** How a caption is drawn. */
export type Kind = 'read' | 'waiting' | 'failed' | 'unread' | 'gap';

export function kindOf(caption: Caption): Kind {
  if (caption.isGap) return 'gap';
  switch (caption.reading) {
    case 'complete':
      return 'read';
    case 'error':
      return 'failed';
    case 'queued':
    case 'processing':
      return 'waiting';
    default:
      return 'unread';
  }
}

/** What stands in a caption: what a person wrote, else what was read. */
export const textOf = (caption: Caption): string => caption.text ?? caption.readText ?? '';

/** The place of the last caption that begins at `at` or before it; -1: none does. They are in the order of time. */
function lastBegun(captions: readonly Caption[], at: number): number {
  let [low, high] = [0, captions.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (captions[middle]!.first <= at) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Captions overlap now and then, but not many. */
const OVERLAPPING = 8;

/** The caption that is on at a moment. */
export function captionAt(captions: readonly Caption[], at: number): Caption | null {
  const last = lastBegun(captions, at);
  for (let place = last; place >= 0 && place > last - OVERLAPPING; place -= 1) {
    const caption = captions[place]!;
    if (caption.last >= at && !caption.isGap) return caption;
  }
  return null;
}

/** The beginning of the next caption, or of the one before; `null`: there is none. */
export function neighbour(captions: readonly Caption[], at: number, by: 1 | -1): number | null {
  let place = by === 1 ? lastBegun(captions, at) + 1 : lastBegun(captions, at - 1);
  while (captions[place]?.isGap) place += by;
  return captions[place]?.first ?? null;
}

/** Those of which something lies between two moments. */
export function between(captions: readonly Caption[], from: number, to: number): Caption[] {
  const begin = Math.max(0, lastBegun(captions, from) - OVERLAPPING);
  const found: Caption[] = [];
  for (let place = begin; place < captions.length && captions[place]!.first <= to; place += 1) {
    if (captions[place]!.last >= from) found.push(captions[place]!);
  }
  return found;
}

/** A lane of all captions, one path a kind, in a drawing that is 1000 wide and 1 high. */
export function laneOf(captions: readonly Caption[], first: number, last: number): [Kind, string][] {
  const scale = 1000 / Math.max(1, last - first + 1);
  const paths = new Map<Kind, string[]>();
  for (const caption of captions) {
    const from = Math.max(first, caption.first);
    const to = Math.min(last, caption.last) + 1;
    if (to <= from) continue;
    const kind = kindOf(caption);
    const path = paths.get(kind) ?? [];
    paths.set(kind, path);
    // A short one in a long film is still seen.
    path.push(`M${((from - first) * scale).toFixed(2)} 0h${Math.max(0.8, (to - from) * scale).toFixed(2)}v1h-${Math.max(0.8, (to - from) * scale).toFixed(2)}z`);
  }
  return [...paths].map(([kind, path]) => [kind, path.join('')]);
}
