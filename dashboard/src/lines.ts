// Lines of text from the boxes of a frame: a box holds a line, a word or a character.

import type { TextBox } from './api.js';

export interface Line {
  text: string;
  /** The least certain of its boxes. */
  confidence: number;
  left: number;
  top: number;
  width: number;
  height: number;
  /** Places of its boxes. */
  boxes: number[];
}

/** Boxes stand in reading order, and those of a line share its height and place: a new line begins where they do not. */
export function linesOf(boxes: readonly TextBox[]): Line[] {
  const lines: Line[] = [];
  for (const [place, box] of boxes.entries()) {
    const line = lines.at(-1);
    if (line && isSameLine(line, box)) {
      const right = line.left + line.width;
      line.text += needsSpace(line, box, right) ? ` ${box.text}` : box.text;
      line.confidence = Math.min(line.confidence, box.confidence);
      line.width = Math.max(right, box.left + box.width) - line.left;
      line.boxes.push(place);
    } else {
      const { text, confidence, left, top, width, height } = box;
      lines.push({ text, confidence, left, top, width, height, boxes: [place] });
    }
  }
  return lines;
}

function isSameLine(line: Line, box: TextBox): boolean {
  const off = Math.abs(line.top + line.height / 2 - (box.top + box.height / 2));
  const heights = Math.min(line.height, box.height);
  return off < heights / 4 && box.left >= line.left + line.width - heights;
}

const LATIN_END = /[\p{Script=Latin}\p{Nd}\p{Po}]$/u;
const LATIN_START = /^[\p{Script=Latin}\p{Nd}]/u;

/** Two words of Latin letters, with a gap between them. */
function needsSpace(line: Line, box: TextBox, right: number): boolean {
  return LATIN_END.test(line.text) && LATIN_START.test(box.text) && box.left > right;
}
