// The log of a run: followed, searched, by level, wrapped or not, copied, downloaded.

import type { JSX } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { LogLine } from '../../../index.js';
import type { LogPage, Problem } from '../api.js';
import { address, problemOf, read } from '../client.js';
import { clock, count, dateTime } from '../format.js';
import { follow, revision } from '../live.js';
import { Copy, ProblemNote } from '../parts.js';
import { useLive } from '../resource.js';

const LEVELS = ['debug', 'info', 'warning', 'error'] as const;
/** Lines that are drawn together; those out of sight cost nothing. */
const CHUNK = 200;
/** More than these are to be downloaded. */
const MOST_SHOWN = 20_000;

export function Log({ id }: { id: string }): JSX.Element {
  const { lines, problem } = useLog(id);
  const [level, setLevel] = useState<(typeof LEVELS)[number]>('debug');
  const [text, setText] = useState('');
  const [isWrapped, setWrapped] = useState(true);
  const [isFollowed, setFollowed] = useState(true);
  const box = useRef<HTMLDivElement>(null);
  const found = useMemo(() => {
    const least = LEVELS.indexOf(level);
    const needle = text.toLowerCase();
    return lines.filter((line) => LEVELS.indexOf(line.level) >= least && (needle === '' || line.message.toLowerCase().includes(needle)));
  }, [lines, level, text]);
  const shown = found.slice(-MOST_SHOWN);
  const isSelf = useRef(false);
  useEffect(() => {
    const element = box.current;
    if (!isFollowed || !element) return;
    isSelf.current = true;
    element.scrollTop = element.scrollHeight;
  }, [shown.length, isFollowed, isWrapped]);
  const scrolled = () => {
    const element = box.current;
    if (!element) return;
    // Whoever scrolls up wants to read there; whoever comes to the end follows again.
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 24;
    if (isSelf.current) isSelf.current = false;
    else setFollowed(isAtEnd);
  };
  const chunks: LogLine[][] = [];
  for (let at = 0; at < shown.length; at += CHUNK) chunks.push(shown.slice(at, at + CHUNK));
  return (
    <section aria-labelledby="log" class="log">
      <div class="tools">
        <h2 id="log">Log</h2>
        <input type="search" data-search placeholder="Search the log" aria-label="Search the log" value={text} onInput={(event) => setText(event.currentTarget.value)} />
        <label>
          <span>from</span>
          <select aria-label="Least level" value={level} onChange={(event) => setLevel(event.currentTarget.value as (typeof LEVELS)[number])}>
            {LEVELS.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <label>
          <input type="checkbox" checked={isFollowed} onChange={(event) => setFollowed(event.currentTarget.checked)} /> follow
        </label>
        <label>
          <input type="checkbox" checked={isWrapped} onChange={(event) => setWrapped(event.currentTarget.checked)} /> wrap
        </label>
        <Copy label="Copy" text={() => found.map(asText).join('\n')} />
        <a class="button small" href={`/api/runs/${id}/log.txt`} download>
          Download all
        </a>
        <span class="quiet" role="status">
          {found.length === lines.length ? count(lines.length, 'line') : `${found.length} of ${count(lines.length, 'line')}`}
        </span>
      </div>
      {problem ? <ProblemNote problem={problem} /> : null}
      <div class={`lines${isWrapped ? ' wrapped' : ''}${shown.length < 12 ? ' few' : ''}`} ref={box} onScroll={scrolled} tabIndex={0} role="log" aria-live="off" aria-label="Lines of the log">
        {shown.length < found.length ? <p class="quiet">{found.length - shown.length} earlier lines: download all to read them.</p> : null}
        {lines.length === 0 ? <p class="quiet">No line was logged yet.</p> : null}
        {chunks.map((chunk, at) => (
          <div key={at} class="chunk">
            {chunk.map((line, place) => (
              <div key={place} class="log-line" data-level={line.level}>
                <time dateTime={line.timestamp} title={`${dateTime(line.timestamp)}, attempt ${line.attempt}`}>
                  {clock(line.timestamp)}
                </time>
                <span class="level">{line.level}</span>
                <span class="text">
                  <Marked text={line.message} needle={text} />
                </span>
              </div>
            ))}
          </div>
        ))}
      </div>
    </section>
  );
}

const asText = (line: LogLine): string => `${line.timestamp} ${line.level.padEnd(7)} ${line.message}`;

function Marked({ text, needle }: { text: string; needle: string }): JSX.Element {
  if (needle === '') return <>{text}</>;
  const [low, wanted] = [text.toLowerCase(), needle.toLowerCase()];
  const parts: (JSX.Element | string)[] = [];
  let from = 0;
  for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
    parts.push(text.slice(from, at), <mark key={at}>{text.slice(at, at + needle.length)}</mark>);
    from = at + needle.length;
  }
  return (
    <>
      {parts}
      {text.slice(from)}
    </>
  );
}

/** All lines so far, then those that come; none twice, none left out. */
function useLog(id: string): { lines: LogLine[]; problem: Problem | null } {
  const [lines, setLines] = useState<LogLine[]>([]);
  const [problem, setProblem] = useState<Problem | null>(null);
  const cursor = useRef(0);
  const reading = useRef(false);
  const isWanted = useRef(false);
  const missed = revision.value;
  const catchUp = async () => {
    // Whoever asks meanwhile knows of lines that this reading may have missed.
    isWanted.current = true;
    if (reading.current) return;
    reading.current = true;
    try {
      while (isWanted.current) {
        isWanted.current = false;
        const page = await read<LogPage>(address(`/api/runs/${id}/log`, { after: cursor.current }));
        if (page.lines.length === 0) continue;
        isWanted.current = true;
        cursor.current = page.next;
        setLines((before) => [...before, ...page.lines]);
      }
      setProblem(null);
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      reading.current = false;
    }
  };
  useEffect(() => {
    let isGone = false;
    void catchUp().then(() => {
      if (!isGone) follow({ run: id, after: cursor.current });
    });
    return () => {
      isGone = true;
      follow(null);
    };
  }, [id]);
  useEffect(() => {
    if (missed > 0) void catchUp();
  }, [missed]);
  useLive((live) => {
    if (live.type !== 'log' || live.flowRunId !== id || live.to <= cursor.current) return;
    if (live.from === cursor.current && !reading.current) {
      cursor.current = live.to;
      setLines((before) => [...before, ...live.lines]);
    } else {
      void catchUp();
    }
  });
  return { lines, problem };
}
