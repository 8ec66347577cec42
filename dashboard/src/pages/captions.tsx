// What was read of the captions: the one that is on, and all of them, each with the median picture that it was read off.

import type { JSX } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { Caption, Frames } from '../api.js';
import { address } from '../client.js';
import { count, moment } from '../format.js';
import { End, showPressed } from '../parts.js';
import { query } from '../router.js';
import { kindOf, textOf, type Kind } from '../timeline.js';

/** Captions that are listed at first, and added whenever the end comes into sight. */
const LISTED = 100;

const STANDS: Record<Kind, string> = { read: 'read', waiting: 'waiting', failed: 'not read', unread: 'not asked for', gap: 'no caption' };

const picture = (video: string, caption: Caption) => address('/api/video/caption.jpg', { id: video, at: caption.id, v: caption.picture });
const time = (caption: Caption, rateHz: number) => `${moment(caption.first, rateHz)} – ${moment(caption.last + 1, rateHz)}`;

interface ReadingProps {
  video: string;
  caption: Caption | null;
  frames: Frames | null;
  rateHz: number;
}

/** The caption that is on: its median picture where it was read, and the text. */
export function Reading({ video, caption, frames, rateHz }: ReadingProps): JSX.Element {
  const size = frames ? { aspectRatio: `${frames.width || 16} / ${frames.height || 2}` } : {};
  return (
    <div class="reading">
      <div class="picture" style={size}>
        {caption?.picture ? <img src={picture(video, caption)} alt={`Median of the frames of ${time(caption, rateHz)}`} /> : <span class="quiet">{caption ? 'no median picture' : 'no caption here'}</span>}
      </div>
      <p class="texts" aria-live="off">
        {caption ? (
          <>
            <b>{textOf(caption)}</b>{' '}
            <span class="quiet number">
              {time(caption, rateHz)} · frames {caption.first}–{caption.last} · caption {caption.id} · {STANDS[kindOf(caption)]}
            </span>
            {caption.error === null ? null : <span class="bad"> {caption.error}</span>}
            {caption.text !== null && caption.readText !== null && caption.text !== caption.readText ? <span class="was-read">read: {caption.readText}</span> : null}
          </>
        ) : null}
      </p>
    </div>
  );
}

interface ListProps {
  video: string;
  captions: readonly Caption[];
  current: number | null;
  rateHz: number;
  go: (to: number) => void;
}

export function CaptionList({ video, captions, current, rateHz, go }: ListProps): JSX.Element {
  // The text that is looked for in the frames is looked for here as well.
  const text = (query.value.get('find') ?? '').toLowerCase().replaceAll(/\s/g, '');
  const found = useMemo(() => {
    const has = (words: string | null) => words !== null && words.toLowerCase().replaceAll(/\s/g, '').includes(text);
    return text === '' ? captions : captions.filter((caption) => has(caption.text) || has(caption.readText));
  }, [captions, text]);
  // However many there are, those around the one that is on are listed, and more where one scrolls.
  const [{ from, to }, setListed] = useState({ from: 0, to: LISTED });
  const place = useMemo(() => found.findIndex((caption) => caption.id === current), [found, current]);
  useEffect(() => setListed({ from: 0, to: LISTED }), [text]);
  useEffect(() => {
    if (place < 0 || (place >= from && place < to)) return;
    const first = Math.max(0, place - LISTED / 4);
    setListed({ from: first, to: first + LISTED });
  }, [place]);
  const list = useRef<HTMLOListElement>(null);
  useEffect(() => {
    if (list.current) showPressed(list.current);
  }, [place, from]);
  const numbers = useMemo(() => {
    const of = (kind: Kind) => captions.filter((caption) => kindOf(caption) === kind).length;
    return [`${of('read')} read`, ...(['waiting', 'failed', 'unread'] as const).filter((kind) => of(kind) > 0).map((kind) => `${of(kind)} ${STANDS[kind]}`)].join(', ');
  }, [captions]);
  // Drawn anew when another caption is on, not with every frame.
  const rows = useMemo(
    () =>
      found.slice(from, to).map((caption) => (
        <li key={caption.id}>
          <button type="button" data-row data-caption={caption.id} aria-pressed={caption.id === current} onClick={() => go(caption.first)}>
            <span class="median">{caption.picture ? <img src={picture(video, caption)} alt="" loading="lazy" decoding="async" /> : null}</span>
            <span class="text">
              {textOf(caption)} {kindOf(caption) === 'read' ? null : <span class="kind" data-kind={kindOf(caption)}>{STANDS[kindOf(caption)]}</span>}
              <small class="number">{time(caption, rateHz)}</small>
              {caption.error === null ? null : <small class="bad">{caption.error}</small>}
            </span>
          </button>
        </li>
      )),
    [found, from, to, current],
  );
  return (
    <div class="listed">
      <h3 id="captions">
        Captions{' '}
        <span class="quiet" role="status">
          {text === '' ? `${count(captions.length, 'caption')}: ${numbers}` : `${found.length} of ${count(captions.length, 'caption')}`}
        </span>
      </h3>
      <ol class="captions" aria-labelledby="captions" ref={list}>
        {from > 0 ? (
          <li>
            <button type="button" class="earlier" onClick={() => setListed({ from: Math.max(0, from - LISTED), to })}>
              {count(from, 'earlier caption')}
            </button>
          </li>
        ) : null}
        {rows}
        {to < found.length ? (
          <li key={to}>
            <End reached={() => setListed({ from, to: to + LISTED })} />
          </li>
        ) : null}
      </ol>
    </div>
  );
}
