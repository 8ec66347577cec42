// The caption strip over time. However fast one scrubs, two pictures are asked for at most: the newest place, and none in between.

import type { JSX } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';

import type { Frames } from '../api.js';
import { address } from '../client.js';
import { count, moment } from '../format.js';

/** Pictures that are kept decoded. */
const KEPT = 200;

export function Strip({ video, frames, rateHz }: { video: string; frames: Frames; rateHz: number }): JSX.Element {
  const [at, setAt] = useState(frames.first);
  const [shown, setShown] = useState<string | null>(null);
  const loader = useRef<Loader | null>(null);
  const source = (index: number) => address('/api/video/strip.jpg', { id: video, at: index, v: frames.version });
  const step = Math.max(1, Math.round((frames.last - frames.first) / Math.max(1, frames.count - 1)));
  useEffect(() => {
    const made = (loader.current = new Loader(setShown));
    made.want(source(frames.first));
    return () => made.end();
  }, []);
  const move = (to: number) => {
    setAt(to);
    loader.current?.want(source(to), [source(Math.min(frames.last, to + step))]);
  };
  return (
    <section aria-labelledby="strip">
      <h2 id="strip">
        Caption strip{' '}
        <span class="quiet">
          {count(frames.count, 'frame')}, {frames.width} × {frames.height}
          {frames.boundsVersion === null ? '' : `, layout version ${frames.boundsVersion}`}
        </span>
      </h2>
      <div class="strip">
        <div class="picture" style={{ aspectRatio: `${frames.width || 16} / ${frames.height || 2}` }}>
          {shown === null ? null : <img src={shown} alt={`The strip at ${moment(at, rateHz)}`} />}
        </div>
        <div class="scrubber">
          <input
            type="range"
            aria-label="Time"
            aria-valuetext={moment(at, rateHz)}
            min={frames.first}
            max={frames.last}
            step={step}
            value={at}
            onInput={(event) => move(Number(event.currentTarget.value))}
          />
          <output class="number">
            {moment(at, rateHz)} <span class="quiet">of {moment(frames.last, rateHz)}</span>
          </output>
        </div>
      </div>
    </section>
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
