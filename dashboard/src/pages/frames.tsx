// The full frames as a contact sheet, one of them large, with the boxes over them; a text is found in all of them.

import type { JSX } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { Found, Frames, FramesPage, FullFrame, Pictures, Problem } from '../api.js';
import { address, problemOf, read } from '../client.js';
import { count, moment, percent } from '../format.js';
import { useKeys } from '../keys.js';
import { linesOf } from '../lines.js';
import { End, Loading, ProblemNote, showPressed } from '../parts.js';
import { query, setQuery } from '../router.js';

type Shows = 'lines' | 'boxes' | 'none';

interface Props {
  video: string;
  pictures: Pictures;
  frames: Frames;
}

export function FullFrames({ video, pictures, frames }: Props): JSX.Element {
  const [sheet, setSheet] = useState<FullFrame[]>([]);
  const [after, setAfter] = useState<number | null>(-1);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [shows, setShows] = useState<Shows>('lines');
  const [hasLayout, setHasLayout] = useState(true);
  const reading = useRef(false);
  // Known at once: whoever asks before the page is drawn anew must not get the same frames again.
  const next = useRef<number | null>(-1);
  const text = query.value.get('find') ?? '';
  const found = useFound(video, text);
  const wanted = query.value.get('frame');

  const more = async (limit?: number) => {
    if (reading.current || next.current === null) return;
    reading.current = true;
    try {
      const page = await read<FramesPage>(address('/api/video/frames', { id: video, after: next.current, limit }));
      next.current = page.after;
      setSheet((before) => [...before, ...page.frames]);
      setAfter(page.after);
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      reading.current = false;
    }
  };
  useEffect(() => void more(), []);

  const matches = useMemo(() => new Map(found?.matches.map((match) => [match.frameIndex, match]) ?? []), [found]);
  const isSearched = text !== '' && found !== null;
  // Frames that are found, or that the address names, may not have been listed yet.
  const isListed = (index: number) => after === null || index <= after;
  const missing = (wanted !== null && !isListed(Number(wanted))) || (isSearched && found.matches.some((match) => !isListed(match.frameIndex)));
  useEffect(() => {
    if (missing) void more(500);
  }, [missing, after]);
  const shown = isSearched ? sheet.filter((frame) => matches.has(frame.frameIndex)) : sheet;
  // Films begin dark: the first frame with a text on it says more.
  const at = wanted === null ? (shown.find((frame) => frame.boxes.length > 0) ?? shown[0] ?? sheet[0]) : (sheet.findLast((frame) => frame.frameIndex <= Number(wanted)) ?? shown[0]);
  const choose = (frame: FullFrame | undefined) => frame && setQuery({ frame: String(frame.frameIndex) });
  const step = (by: number) => {
    const place = shown.findIndex((frame) => frame.frameIndex === at?.frameIndex);
    choose(shown[Math.max(0, place + by)]);
  };
  const list = useRef<HTMLOListElement>(null);
  useEffect(() => {
    if (list.current) showPressed(list.current);
  }, [at?.frameIndex]);
  useKeys({ ArrowLeft: () => step(-1), ArrowRight: () => step(1) });
  const source = (frame: FullFrame) => address('/api/video/frame.jpg', { id: video, at: frame.frameIndex, v: frames.version });
  return (
    <section aria-labelledby="frames">
      <div class="tools">
        <h2 id="frames">
          Frames <span class="quiet">{count(frames.count, 'frame')}</span>
        </h2>
        <FindField text={text} found={isSearched ? found : null} />
        <fieldset class="choice">
          <legend class="hidden">What is drawn over the frames</legend>
          {(['lines', 'boxes', 'none'] as const).map((value) => (
            <label key={value}>
              <input type="radio" name="shows" checked={shows === value} onChange={() => setShows(value)} /> {value === 'boxes' ? 'single boxes' : value === 'none' ? 'no text' : value}
            </label>
          ))}
        </fieldset>
        {pictures.layout ? (
          <label>
            <input type="checkbox" checked={hasLayout} onChange={(event) => setHasLayout(event.currentTarget.checked)} /> layout
          </label>
        ) : null}
      </div>
      {problem ? <ProblemNote problem={problem} /> : null}
      {at ? (
        <Large
          key={at.frameIndex}
          frame={at}
          source={source(at)}
          shows={shows}
          marked={matches.get(at.frameIndex)?.boxes ?? []}
          pictures={pictures}
          hasLayout={hasLayout}
        />
      ) : problem ? null : (
        <Loading />
      )}
      {isSearched && found.matches.length === 0 ? <p class="quiet">No frame has this text.</p> : null}
      <ol class="sheet" aria-label="Contact sheet" ref={list}>
        {shown.map((frame) => (
          <li key={frame.frameIndex}>
            <button type="button" data-row aria-pressed={frame.frameIndex === at?.frameIndex} onClick={() => choose(frame)}>
              <span class="frame" style={{ aspectRatio: `${frame.width || 16} / ${frame.height || 9}` }}>
                <img src={source(frame)} alt="" loading="lazy" decoding="async" />
                <Boxes frame={frame} shows={shows} marked={matches.get(frame.frameIndex)?.boxes ?? []} />
              </span>
              <span class="caption">
                <span class="number">{moment(frame.frameIndex, pictures.indexRateHz)}</span>{' '}
                {linesOf(frame.boxes)
                  .map((line) => line.text)
                  .join(' / ')}
              </span>
            </button>
          </li>
        ))}
      </ol>
      {after !== null && !isSearched ? <End key={after} reached={() => void more()} /> : null}
    </section>
  );
}

function FindField({ text, found }: { text: string; found: Found | null }): JSX.Element {
  const timer = useRef(0);
  const later = (value: string) => {
    window.clearTimeout(timer.current);
    timer.current = window.setTimeout(() => setQuery({ find: value.trim(), frame: null }), 250);
  };
  return (
    <>
      <input type="search" data-search placeholder="Find a text in all frames" aria-label="Find a text in all frames" value={text} onInput={(event) => later(event.currentTarget.value)} />
      <span role="status" class="quiet">
        {found ? `${count(found.matches.length, 'frame')}${found.hasMore ? ' and more' : ''}` : ''}
      </span>
    </>
  );
}

function useFound(video: string, text: string): Found | null {
  const [found, setFound] = useState<{ text: string; found: Found } | null>(null);
  useEffect(() => {
    if (text === '') return undefined;
    const abort = new AbortController();
    read<Found>(address('/api/video/find', { id: video, text }), abort.signal).then(
      (answer) => setFound({ text, found: answer }),
      () => {},
    );
    return () => abort.abort();
  }, [video, text]);
  return found?.text === text ? found.found : null;
}

interface Drawn {
  frame: FullFrame;
  shows: Shows;
  marked: readonly number[];
}

/** The boxes over a frame, as a drawing in fractions of it. */
function Boxes({ frame, shows, marked }: Drawn): JSX.Element | null {
  const boxes = useMemo(() => (shows === 'lines' ? linesOf(frame.boxes) : frame.boxes.map((box, place) => ({ ...box, boxes: [place] }))), [frame, shows]);
  if (shows === 'none') return null;
  return (
    <svg class="boxes" viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">
      {boxes.map((box, at) => (
        <rect key={at} x={box.left} y={box.top} width={box.width} height={box.height} class={box.boxes.some((place) => marked.includes(place)) ? 'marked' : undefined} />
      ))}
    </svg>
  );
}

interface LargeProps extends Drawn {
  source: string;
  pictures: Pictures;
  hasLayout: boolean;
}

/** One frame, with the text of the box that is pointed at. */
function Large({ frame, source, shows, marked, pictures, hasLayout }: LargeProps): JSX.Element {
  const [pointed, setPointed] = useState<number | null>(null);
  const boxes = shows === 'boxes' ? frame.boxes.map((box, place) => ({ ...box, boxes: [place] })) : linesOf(frame.boxes);
  const { layout } = pictures;
  const box = pointed === null ? undefined : boxes[pointed];
  return (
    <div class="large">
      <div class="frame" style={{ aspectRatio: `${frame.width || 16} / ${frame.height || 9}`, width: `min(960px, calc(62vh * ${(frame.width || 16) / (frame.height || 9)}))` }}>
        <img src={source} alt={`The frame at ${moment(frame.frameIndex, pictures.indexRateHz)}`} decoding="async" />
        <svg class="boxes" viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">
          {layout && hasLayout ? (
            <rect
              class="layout"
              x={layout.bounds.left / layout.frameWidth}
              y={layout.bounds.top / layout.frameHeight}
              width={(layout.bounds.right - layout.bounds.left) / layout.frameWidth}
              height={(layout.bounds.bottom - layout.bounds.top) / layout.frameHeight}
            />
          ) : null}
          {shows === 'none'
            ? null
            : boxes.map((one, at) => (
                <rect
                  key={at}
                  x={one.left}
                  y={one.top}
                  width={one.width}
                  height={one.height}
                  data-box={at}
                  class={[pointed === at ? 'pointed' : '', one.boxes.some((place) => marked.includes(place)) ? 'marked' : ''].join(' ')}
                  onMouseEnter={() => setPointed(at)}
                  onMouseLeave={() => setPointed(null)}
                />
              ))}
        </svg>
        {box ? (
          <span class="tip" style={{ left: `${100 * box.left}%`, top: `${100 * (box.top + box.height)}%` }}>
            {box.text} <span class="number">{percent(box.confidence)}</span>
          </span>
        ) : null}
      </div>
      <div class="read">
        <p>
          <b class="number">{moment(frame.frameIndex, pictures.indexRateHz)}</b>{' '}
          <span class="quiet">
            frame {frame.frameIndex}, {frame.width} × {frame.height}
          </span>{' '}
          {pictures.cropped ? (
            <button type="button" class="small" onClick={() => setQuery({ at: String(frame.frameIndex) })}>
              show in the strip
            </button>
          ) : null}
        </p>
        {boxes.length === 0 ? <p class="quiet">No text was read on it.</p> : null}
        <ol class="texts">
          {boxes.map((one, at) => (
            <li key={at} data-pointed={pointed === at} onMouseEnter={() => setPointed(at)} onMouseLeave={() => setPointed(null)}>
              <span class={one.boxes.some((place) => marked.includes(place)) ? 'marked' : undefined}>{one.text}</span> <span class="number quiet">{percent(one.confidence)}</span>
            </li>
          ))}
        </ol>
      </div>
    </div>
  );
}
