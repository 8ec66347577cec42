// The caption strip over time: ten pictures a second, one of them large, with those before and after it.

import { useEffect, useState } from 'react';

import { clock, linesOf, pictureAddress } from './format';
import type { Frame, Strip } from './videos.server';

/** Seconds from the large picture to the ones around it. */
const around = [-3, -2, -1, 0, 1, 2, 3];

export function StripOverTime({ videoId, strip, frames }: { videoId: string; strip: Strip; frames: Frame[] }) {
  const [frame, setFrame] = useState(() => frames.find(({ boxes }) => boxes.length > 0)?.index ?? strip.first);
  const [isPlaying, setIsPlaying] = useState(false);
  const at = Math.min(Math.max(frame, strip.first), strip.last);
  useEffect(() => {
    if (!isPlaying) return;
    const timer = setInterval(() => setFrame((now) => Math.min(now + 1, strip.last)), 100);
    return () => clearInterval(timer);
  }, [isPlaying, strip.last]);
  useEffect(() => {
    if (at === strip.last) setIsPlaying(false);
  }, [at, strip.last]);

  const read = frames.findLast(({ index }) => index <= at);
  return (
    <div className="over-time">
      <img
        className="now"
        src={pictureAddress(videoId, 'strips', at, strip.version)}
        alt={`Strip at ${clock(at / 10, 1)}`}
        style={{ aspectRatio: `${strip.width} / ${strip.height}`, maxWidth: 2 * strip.width }}
      />
      <div className="scrubber">
        <button aria-label={isPlaying ? 'Pause' : 'Play'} onClick={() => setIsPlaying(!isPlaying)}>
          {isPlaying ? '❚❚' : '▶'}
        </button>
        <input
          type="range"
          aria-label="Time"
          aria-valuetext={clock(at / 10, 1)}
          min={strip.first}
          max={strip.last}
          value={at}
          onChange={(event) => setFrame(event.target.valueAsNumber)}
        />
        <output>
          {clock(at / 10, 1)} <small>/ {clock(strip.last / 10, 1)}</small>
        </output>
      </div>
      {read && (
        <p className="quiet">
          On the frame at {clock(read.index / 10)}: {linesOf(read.boxes).map(({ text }) => text).join(' · ') || 'no text'}
        </p>
      )}
      <ol className="around">
        {around
          .map((seconds) => at + 10 * seconds)
          .filter((index) => index >= strip.first && index <= strip.last)
          .map((index) => (
            <li key={index}>
              <button onClick={() => setFrame(index)} aria-current={index === at}>
                <small>{clock(index / 10, 1)}</small>
                <img src={pictureAddress(videoId, 'strips', index, strip.version)} alt="" loading="lazy" />
              </button>
            </li>
          ))}
      </ol>
    </div>
  );
}
