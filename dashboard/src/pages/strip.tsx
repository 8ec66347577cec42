// The caption strip over time, with the captions' boundaries and what was read of each. However fast one scrubs, two pictures
// are asked for at most: the newest place, and none in between.

import type { JSX } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { Caption, Frames } from '../api.js';
import { address } from '../client.js';
import { count, moment } from '../format.js';
import { useKeys } from '../keys.js';
import { query, setQuery } from '../router.js';
import { between, captionAt, kindOf, laneOf, neighbour, textOf } from '../timeline.js';
import { CaptionList, Reading } from './captions.js';

/** Pictures that are kept decoded. */
const KEPT = 200;
/** Seconds of the film that the near lane shows. */
const NEAR_SECONDS = 30;

interface Props {
  video: string;
  /** `null`: no strip was made yet; captions may be there. */
  frames: Frames | null;
  rateHz: number;
  captions: readonly Caption[];
}

export function Strip({ video, frames, rateHz, captions }: Props): JSX.Element {
  const first = frames?.first ?? 0;
  const last = frames?.last ?? Math.max(0, ...captions.map((caption) => caption.last));
  const within = (to: number) => Math.min(last, Math.max(first, Number.isFinite(to) ? to : first));
  // The address holds the moment, so that a frame can lead to it; it is written when one has come to rest.
  const wanted = Number(query.value.get('at') ?? first);
  const [at, setAt] = useState(within(wanted));
  const [isPlaying, setPlaying] = useState(false);
  const [shown, setShown] = useState<string | null>(null);
  const loader = useRef<Loader | null>(null);
  const source = (index: number) => address('/api/video/strip.jpg', { id: video, at: index, v: frames?.version });
  const step = frames ? Math.max(1, Math.round((last - first) / Math.max(1, frames.count - 1))) : 1;
  const move = (to: number) => {
    setAt(to);
    if (frames) loader.current?.want(source(to), [source(within(to + step))]);
  };
  const rest = (to: number | null) => {
    if (to === null) return;
    setPlaying(false);
    move(within(to));
    setQuery({ at: String(within(to)) });
  };
  // A key that is held changes it many times: browsers stop those who write the address as often.
  const remembering = useRef(0);
  const remember = (to: string) => {
    window.clearTimeout(remembering.current);
    remembering.current = window.setTimeout(() => setQuery({ at: to }), 300);
  };
  useEffect(() => () => window.clearTimeout(remembering.current), []);
  useEffect(() => {
    const made = (loader.current = new Loader(setShown));
    if (frames) made.want(source(at));
    return () => made.end();
  }, []);
  useEffect(() => {
    if (within(wanted) !== at && !isPlaying) move(within(wanted));
  }, [wanted]);
  useEffect(() => {
    if (!isPlaying) return undefined;
    if (at >= last) {
      setPlaying(false);
      return undefined;
    }
    const timer = window.setTimeout(() => move(within(at + step)), (1000 * step) / rateHz);
    return () => window.clearTimeout(timer);
  }, [isPlaying, at]);
  const caption = captionAt(captions, at);
  const [before, after] = [neighbour(captions, caption?.first ?? at, -1), neighbour(captions, at, 1)];
  useKeys({ '[': () => rest(before), ']': () => rest(after) });
  const lane = useMemo(() => laneOf(captions, first, last), [captions, first, last]);
  return (
    <section aria-labelledby="strip">
      <h2 id="strip">
        Caption strip{' '}
        {frames ? (
          <span class="quiet">
            {count(frames.count, 'frame')}, {frames.width} × {frames.height}
            {frames.boundsVersion === null ? '' : `, layout version ${frames.boundsVersion}`}
          </span>
        ) : null}
      </h2>
      <div class={captions.length > 0 ? 'beside' : undefined}>
        <div class="strip">
          {frames ? (
            <div class="picture" style={{ aspectRatio: `${frames.width || 16} / ${frames.height || 2}` }}>
              {shown === null ? null : <img src={shown} alt={`The strip at ${moment(at, rateHz)}`} />}
            </div>
          ) : null}
          {frames && captions.length > 0 ? <Near captions={captions} at={at} rateHz={rateHz} go={rest} /> : null}
          {frames && captions.length > 0 ? (
            <svg class="lane" viewBox="0 0 1000 1" preserveAspectRatio="none" role="img" aria-label={`Boundaries of ${count(captions.length, 'caption')}`}>
              {lane.map(([kind, path]) => (
                <path key={kind} d={path} data-kind={kind} />
              ))}
            </svg>
          ) : null}
          {frames ? (
            <input
              type="range"
              aria-label="Time"
              aria-valuetext={moment(at, rateHz)}
              min={first}
              max={last}
              step={step}
              value={at}
              onInput={(event) => {
                setPlaying(false);
                move(Number(event.currentTarget.value));
              }}
              onChange={(event) => remember(event.currentTarget.value)}
            />
          ) : null}
          <div class="scrubber">
            {frames ? (
              <button type="button" class="small" onClick={() => setPlaying(!isPlaying)}>
                {isPlaying ? 'Stop' : 'Play'}
              </button>
            ) : null}
            {captions.length > 0 ? (
              <>
                <button type="button" class="small" disabled={before === null} title="Previous caption ([)" onClick={() => rest(before)}>
                  ‹ caption
                </button>
                <button type="button" class="small" disabled={after === null} title="Next caption (])" onClick={() => rest(after)}>
                  caption ›
                </button>
              </>
            ) : null}
            <output class="number">
              {moment(at, rateHz)} <span class="quiet">of {moment(last, rateHz)}</span>
            </output>
          </div>
          {captions.length > 0 ? <Reading video={video} caption={caption} frames={frames} rateHz={rateHz} /> : null}
        </div>
        {captions.length > 0 ? <CaptionList video={video} captions={captions} current={caption?.id ?? null} rateHz={rateHz} go={rest} /> : null}
      </div>
    </section>
  );
}

/** The captions around a moment, which stands in the middle. */
function Near({ captions, at, rateHz, go }: { captions: readonly Caption[]; at: number; rateHz: number; go: (to: number) => void }): JSX.Element {
  const span = NEAR_SECONDS * rateHz;
  const from = at - span / 2;
  const place = (index: number) => `${(100 * (index - from)) / span}%`;
  const marks: number[] = [];
  const every = 5 * rateHz;
  for (let mark = Math.max(0, Math.ceil(from / every) * every); mark < from + span; mark += every) marks.push(mark);
  return (
    <div class="near" aria-hidden="true">
      {marks.map((mark) => (
        <span key={mark} class="mark" style={{ left: place(mark) }}>
          {moment(mark, rateHz)}
        </span>
      ))}
      {between(captions, from, from + span).map((caption) => (
        <span
          key={caption.id}
          class="block"
          data-kind={kindOf(caption)}
          style={{ left: place(caption.first), width: `${(100 * (caption.last + 1 - caption.first)) / span}%` }}
          onClick={() => go(caption.first)}
        >
          {textOf(caption)}
        </span>
      ))}
      <span class="needle" />
    </div>
  );
}

/** Loads what is wanted last; what was wanted before and has not begun is left out. */
class Loader {
  #kept = new Map<string, HTMLImageElement>();
  #wanted: string | null = null;
  #next: readonly string[] = [];
  #isLoading = false;
  #hasEnded = false;

  constructor(readonly show: (source: string) => void) {}

  want(source: string, next: readonly string[] = []): void {
    this.#wanted = source;
    this.#next = next;
    void this.#work();
  }

  end(): void {
    this.#hasEnded = true;
  }

  async #work(): Promise<void> {
    if (this.#isLoading) return;
    this.#isLoading = true;
    while (this.#wanted !== null && !this.#hasEnded) {
      const source = this.#wanted;
      this.#wanted = null;
      if ((await this.#load(source)) && !this.#hasEnded) this.show(source);
      // The next one is ready before it is asked for, unless there is something else to do.
      for (const ahead of this.#next) {
        if (this.#wanted === null && !this.#hasEnded) await this.#load(ahead);
      }
      this.#next = [];
    }
    this.#isLoading = false;
  }

  async #load(source: string): Promise<boolean> {
    if (this.#kept.has(source)) return true;
    const image = new Image();
    image.src = source;
    try {
      await image.decode();
    } catch {
      return false;
    }
    this.#kept.set(source, image);
    const [oldest] = this.#kept.keys();
    if (this.#kept.size > KEPT && oldest !== undefined) this.#kept.delete(oldest);
    return true;
  }
}
