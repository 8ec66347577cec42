// How things are written.

import type { Box, Metadata } from './videos.server';

export function size(bytes: number): string {
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Seconds as 1:02.3, or 1:02 without the tenths. */
export function clock(seconds: number, digits = 0): string {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(digits).padStart(digits ? digits + 3 : 2, '0')}`;
}

/** A time of the orchestrator's. In UTC, since the server does not know where its reader is. */
export function minute(timestamp: string): string {
  return `${timestamp.slice(0, 16).replace('T', ' ')} UTC`;
}

/** What is known of a film, in a line. Before the first run only its size is. */
export function describe(film: Metadata): string {
  return [
    film.duration_seconds !== null && clock(Math.floor(film.duration_seconds)),
    film.width !== null && `${film.width} × ${film.height}`,
    film.fps !== null && `${Number(film.fps.toFixed(2))} fps`,
    film.codec,
    size(film.file_size_bytes),
  ]
    .filter(Boolean)
    .join(' · ');
}

/** Where a picture is. Another set of frames has another version, so that a browser may keep what it has. */
export function pictureAddress(videoId: string, kind: 'frames' | 'strips', frame: number, version: string): string {
  return `/videos/${videoId}/${kind}/${frame}?${new URLSearchParams({ version })}`;
}

/** A line of text: its boxes follow one another, at the same height. */
export interface Line {
  text: string;
  /** That of its least sure box. */
  confidence: number;
  /** Places of its boxes among those of the frame. */
  places: number[];
}

const wide = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\u3000-\u303f\uff00-\uffef]/u;

/** The lines that boxes make: a box may be a character, a word or a line. Between words is a space, between characters none. */
export function linesOf(boxes: Box[]): Line[] {
  const lines: Line[] = [];
  for (const [place, box] of boxes.entries()) {
    const line = lines.at(-1);
    const before = boxes[place - 1];
    if (line && before && before.y === box.y && before.height === box.height) {
      const isTight = wide.test(line.text.at(-1) ?? '') || wide.test(box.text.at(0) ?? '');
      line.text += isTight ? box.text : ` ${box.text}`;
      line.confidence = Math.min(line.confidence, box.confidence);
      line.places.push(place);
    } else {
      lines.push({ text: box.text, confidence: box.confidence, places: [place] });
    }
  }
  return lines;
}
