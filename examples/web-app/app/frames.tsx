// The sampled frames with the text that was read on them, and the caption strip, chosen with the mouse.

import type { CropBounds } from '@captionacc/orchestrator';
import { useState, type PointerEvent } from 'react';
import { useFetcher } from 'react-router';

import { ProblemNote } from './flow-run';
import type { Problem } from './flows.server';
import { clock, linesOf, pictureAddress } from './format';
import type { Box, Frame } from './videos.server';

const sides = ['left', 'top', 'right', 'bottom'] as const;
/** A strip that is lower or narrower, in pixels, was a click and no drag. */
const SMALLEST = 8;

export function Frames({ videoId, frames, version, chosen }: { videoId: string; frames: Frame[]; version: string; chosen: CropBounds | undefined }) {
  const [position, setPosition] = useState(() => Math.max(0, frames.findIndex(({ boxes }) => boxes.length > 0)));
  const [strip, setStrip] = useState(() => chosen ?? suggestStrip(frames));
  const [marked, setMarked] = useState<readonly number[]>([]);
  const fetcher = useFetcher<{ problem?: Problem }>();
  // After another run there may be fewer.
  const frame = frames[Math.min(position, frames.length - 1)]!;
  return (
    <div className="frames">
      <div>
        <Stage frame={frame} picture={pictureAddress(videoId, 'frames', frame.index, version)} strip={strip} marked={marked} onStrip={setStrip} />
        <ol className="filmstrip" aria-label="Frames">
          {frames.map(({ index, boxes }, place) => (
            <li key={index}>
              <button aria-pressed={place === position} onClick={() => setPosition(place)}>
                <img src={pictureAddress(videoId, 'frames', index, version)} alt={`Frame at ${clock(index / 10)}`} loading="lazy" />
                <small>{clock(index / 10)}</small>
                {boxes.length > 0 && <i title="Lines of text">{linesOf(boxes).length}</i>}
              </button>
            </li>
          ))}
        </ol>
      </div>
      <aside>
        <h3>Texts at {clock(frame.index / 10)}</h3>
        <ol className="texts">
          {linesOf(frame.boxes).map(({ text, confidence, places }) => (
            <li key={places[0]} onMouseEnter={() => setMarked(places)} onMouseLeave={() => setMarked([])}>
              <span>{text}</span> <small>{Math.round(confidence * 100)} %</small>
            </li>
          ))}
          {frame.boxes.length === 0 && <li className="quiet">None was read.</li>}
        </ol>
        <h3>Caption strip</h3>
        <p className="quiet">Drag over the frame, or type pixels. Right and bottom are the first ones outside.</p>
        <fetcher.Form method="post" className="bounds">
          {sides.map((side) => (
            <label key={side}>
              {side}
              <input
                name={side}
                type="number"
                min={0}
                max={side === 'left' || side === 'right' ? frame.width : frame.height}
                required
                value={strip?.[side] ?? ''}
                onChange={(event) =>
                  setStrip({ left: 0, top: 0, right: frame.width, bottom: frame.height, ...strip, [side]: event.target.valueAsNumber || 0 })
                }
              />
            </label>
          ))}
          <button type="button" onClick={() => setStrip(suggestStrip(frames))}>
            Suggest
          </button>
          <button className="main" name="intent" value="crop" disabled={fetcher.state !== 'idle'}>
            Crop to this strip
          </button>
        </fetcher.Form>
        {fetcher.data?.problem && <ProblemNote problem={fetcher.data.problem} />}
      </aside>
    </div>
  );
}

interface StageProps {
  frame: Frame;
  picture: string;
  strip: CropBounds | undefined;
  /** Places of the boxes that are pointed at in the list of texts. */
  marked: readonly number[];
  onStrip: (strip: CropBounds) => void;
}

function Stage({ frame, picture, strip, marked, onStrip }: StageProps) {
  const [start, setStart] = useState<{ x: number; y: number }>();

  /** Where the pointer is, in pixels of the frame: the picture is shown at any size. */
  function place(event: PointerEvent<HTMLElement>) {
    const shown = event.currentTarget.getBoundingClientRect();
    const clamp = (share: number) => Math.min(1, Math.max(0, share));
    return {
      x: Math.round(clamp((event.clientX - shown.left) / shown.width) * frame.width),
      y: Math.round(clamp((event.clientY - shown.top) / shown.height) * frame.height),
    };
  }

  const percent = (part: number, whole: number) => `${(100 * part) / whole}%`;
  return (
    <div
      className="stage"
      // As wide as there is room, and never higher than most of the window.
      style={{ aspectRatio: `${frame.width} / ${frame.height}`, width: `min(100%, ${(70 * frame.width) / frame.height}vh)` }}
      onPointerDown={(event) => {
        if (event.button !== 0) return;
        event.currentTarget.setPointerCapture(event.pointerId);
        setStart(place(event));
      }}
      onPointerMove={(event) => {
        if (!start) return;
        const { x, y } = place(event);
        const dragged = {
          left: Math.min(start.x, x),
          top: Math.min(start.y, y),
          right: Math.max(start.x, x),
          bottom: Math.max(start.y, y),
        };
        if (dragged.right - dragged.left >= SMALLEST && dragged.bottom - dragged.top >= SMALLEST) onStrip(dragged);
      }}
      onPointerUp={() => setStart(undefined)}
      onPointerCancel={() => setStart(undefined)}
    >
      <img src={picture} alt={`Frame at ${clock(frame.index / 10)}`} draggable={false} />
      {frame.boxes.map((box, index) => (
        <span
          key={index}
          className={`box ${marked.includes(index) ? 'marked' : ''}`}
          title={`${box.text} (${Math.round(box.confidence * 100)} %)`}
          // y counts from the bottom, as CSS's `bottom` does.
          style={{ left: percent(box.x, 1), bottom: percent(box.y, 1), width: percent(box.width, 1), height: percent(box.height, 1) }}
        />
      ))}
      {strip && (
        <span
          className="strip"
          style={{
            left: percent(strip.left, frame.width),
            top: percent(strip.top, frame.height),
            width: percent(strip.right - strip.left, frame.width),
            height: percent(strip.bottom - strip.top, frame.height),
          }}
        />
      )}
    </div>
  );
}

/**
 * Where the captions seem to be: the rows that hold text in most frames, since captions come and go in one place while other
 * text wanders, and the columns of the text in them. `undefined`: there is no text.
 */
export function suggestStrip(frames: Frame[]): CropBounds | undefined {
  const [first] = frames;
  if (!first) return undefined;
  const { width, height } = first;
  const edges = (box: Box) => ({
    left: Math.floor(box.x * width),
    right: Math.ceil((box.x + box.width) * width),
    top: Math.floor((1 - box.y - box.height) * height),
    bottom: Math.ceil((1 - box.y) * height),
  });
  const inFrames = frames.map(({ boxes }) => boxes.filter(({ confidence }) => confidence >= 0.8).map(edges));
  const votes = Array.from({ length: height }, (_, row) => inFrames.filter((boxes) => boxes.some(({ top, bottom }) => top <= row && row < bottom)).length);
  const most = Math.max(...votes);
  if (most === 0) return undefined;
  // The lowest of several places that are as good: captions are at the bottom more often than not.
  const peak = votes.lastIndexOf(most);
  let top = peak;
  while (top > 0 && votes[top - 1]! >= most / 2) top -= 1;
  let bottom = peak + 1;
  while (bottom < height && votes[bottom]! >= most / 2) bottom += 1;
  const inside = inFrames.flat().filter((box) => box.top < bottom && box.bottom > top && (box.top + box.bottom) / 2 >= top && (box.top + box.bottom) / 2 < bottom);
  const padding = Math.round(height / 60);
  return {
    left: Math.max(0, Math.min(...inside.map((box) => box.left)) - padding),
    top: Math.max(0, top - padding),
    right: Math.min(width, Math.max(...inside.map((box) => box.right)) + padding),
    bottom: Math.min(height, bottom + padding),
  };
}
