// What several pages show.

import { computed, signal } from '@preact/signals';
import { Fragment, type ComponentChildren, type JSX } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { FlowRun, State, StateType } from '../../index.js';
import type { Delivery, Problem } from './api.js';
import { address, problemOf } from './client.js';
import { ago, count, dateTime, duration, isAtWork, leftSeconds, nextAttemptText, percent, progressText, shortId, tookSeconds } from './format.js';
import { away, connection, now } from './live.js';
import { runPlace, videoPlace } from './router.js';

export function StateBadge({ state }: { state: State }): JSX.Element {
  return (
    <span class="state" data-state={state.type} title={state.message ?? undefined}>
      {spaced(state.name)}
    </span>
  );
}

/** `AwaitingRetry` as two words. */
const spaced = (name: string): string => name.replace(/(?<=[a-z])(?=[A-Z])/g, ' ').replace(/(?<= )[A-Z]/g, (letter) => letter.toLowerCase());

export const STATE_WORDS: Record<StateType, string> = {
  SCHEDULED: 'Scheduled',
  PENDING: 'Pending',
  RUNNING: 'Running',
  CANCELLING: 'Cancelling',
  CANCELLED: 'Cancelled',
  COMPLETED: 'Completed',
  FAILED: 'Failed',
  CRASHED: 'Crashed',
};

export function Ago({ time }: { time: string }): JSX.Element {
  // A signal as text: of thousands on a page, only those are touched that say something else now.
  const text = useMemo(() => computed(() => ago(time, now.value)), [time]);
  return (
    <time dateTime={time} title={dateTime(time)}>
      {text}
    </time>
  );
}

export function Took({ run }: { run: FlowRun }): JSX.Element {
  // Only what goes on is drawn anew every second.
  const seconds = tookSeconds(run, isAtWork(run.state.type) && run.startedAt !== null ? now.value : 0);
  return <span class="number">{seconds === null ? '–' : duration(seconds)}</span>;
}

export function ProgressBar({ run }: { run: FlowRun }): JSX.Element | null {
  const { progress } = run;
  if (progress === null || run.state.type !== 'RUNNING') return null;
  const left = leftSeconds(run, now.value);
  return (
    <div class="progress">
      <progress max={1} value={progress.fraction} aria-label={`Progress of ${run.flowName}`} />
      <span>
        <b class="number">{percent(progress.fraction)}</b> {progressText(progress)}
        {left === null ? '' : ` · about ${duration(left)} left`}
      </span>
    </div>
  );
}

/** The video of a run; of one that is of none, nothing. */
export function VideoLink({ run }: { run: FlowRun }): JSX.Element | null {
  return run.videoId === null ? null : <a href={videoPlace(run.videoId)}>{run.videoId}</a>;
}

/** When its next attempt is due, of a run that waits for one. */
export function NextAttempt({ run }: { run: FlowRun }): JSX.Element | null {
  if (run.state.name !== 'AwaitingRetry') return null;
  return <span class="next">{nextAttemptText(run, now.value)}</span>;
}

/** A path or key, broken where its parts end. */
export function Path({ text }: { text: string }): JSX.Element {
  return (
    <>
      {text.split(/(?<=\/)(?=[^/])/).map((part, at) => (
        <Fragment key={at}>
          {at > 0 ? <wbr /> : null}
          {part}
        </Fragment>
      ))}
    </>
  );
}

export function RunLink({ run, children }: { run: { flowRunId: string }; children?: ComponentChildren }): JSX.Element {
  return (
    <a class="run-link" href={runPlace(run.flowRunId)} data-row>
      {children ?? <code>{shortId(run.flowRunId)}</code>}
    </a>
  );
}

interface RunTableProps {
  runs: readonly FlowRun[];
  caption: string;
  /** What stands before each run, to choose it by. */
  choice?: ((run: FlowRun) => JSX.Element) | undefined;
  /** All are of one video, which is named elsewhere. */
  isOfOneVideo?: boolean;
}

/** Runs in a table. */
export function RunTable({ runs, caption, choice, isOfOneVideo = false }: RunTableProps): JSX.Element {
  return (
    <table class="runs">
      <caption class="hidden">{caption}</caption>
      <thead>
        <tr>
          {choice ? (
            <th scope="col">
              <span class="hidden">Chosen</span>
            </th>
          ) : null}
          <th scope="col">Run</th>
          <th scope="col">State</th>
          {isOfOneVideo ? null : <th scope="col">Video</th>}
          <th scope="col">Queued</th>
          <th scope="col" class="number">
            Took
          </th>
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => (
          <tr key={run.flowRunId} data-run={run.flowRunId} data-state={run.state.type}>
            {choice ? <td class="choice">{choice(run)}</td> : null}
            <td class="name">
              <RunLink run={run}>
                {run.flowName} <code>{shortId(run.flowRunId)}</code>
              </RunLink>
            </td>
            <td class="grow">
              <div class="saying">
                <StateBadge state={run.state} />
                {run.attempt > 1 ? <span class="attempt">attempt {run.attempt}</span> : null}
                <NextAttempt run={run} />
                <span class="message">{run.state.message}</span>
              </div>
              <ProgressBar run={run} />
            </td>
            {isOfOneVideo ? null : (
              <td class="of">
                <VideoLink run={run} />
              </td>
            )}
            <td class="when">
              <Ago time={run.createdAt} />
            </td>
            <td class="number">
              <Took run={run} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Asks for more as soon as it comes into sight. */
export function End({ reached }: { reached: () => void }): JSX.Element {
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && reached(), { rootMargin: '400px' });
    if (end.current) observer.observe(end.current);
    return () => observer.disconnect();
  }, []);
  return <div ref={end} class="end" />;
}

/** Scrolls a list until what is pressed in it is seen; the page itself stays where it is. */
export function showPressed(box: HTMLElement): void {
  const row = box.querySelector<HTMLElement>('[aria-pressed="true"]')?.parentElement;
  if (!row) return;
  const isSeen = row.offsetTop >= box.scrollTop && row.offsetTop + row.offsetHeight <= box.scrollTop + box.clientHeight;
  if (!isSeen) box.scrollTop = row.offsetTop - box.clientHeight / 3;
}

/** A frame of a video, if there is one. */
export function Thumbnail({ videoId, at = 100 }: { videoId: string; at?: number }): JSX.Element {
  const [isMissing, setMissing] = useState(false);
  return (
    <span class="thumbnail">
      {isMissing ? null : (
        <img src={address('/api/video/thumbnail.jpg', { id: videoId, at })} alt="" loading="lazy" decoding="async" onError={() => setMissing(true)} />
      )}
    </span>
  );
}

export function ProblemNote({ problem, retry }: { problem: Problem; retry?: () => void }): JSX.Element | null {
  // What stands above every page says it already.
  if (problem.code === away.value?.problem.code) return null;
  if (problem.code === 'UNREACHABLE' && (connection.value === 'lost' || connection.value === 'refused')) return null;
  return (
    <div class="note error" role="alert">
      <p>{problem.message}</p>
      <p class="quiet">
        <code>{problem.code}</code>
      </p>
      {retry ? <button type="button" onClick={retry}>Try again</button> : null}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }): JSX.Element {
  return (
    <div class="empty">
      <p class="title">{title}</p>
      {children}
    </div>
  );
}

export function Loading(): JSX.Element {
  return (
    <p class="loading" aria-live="polite">
      Reading…
    </p>
  );
}

export function Copy({ text, label = 'Copy' }: { text: string | (() => string); label?: string }): JSX.Element {
  const [isDone, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(typeof text === 'string' ? text : text());
    setDone(true);
    window.setTimeout(() => setDone(false), 1500);
  };
  return (
    <button type="button" class="small" onClick={() => void copy()}>
      {isDone ? 'Copied' : label}
    </button>
  );
}

export function Code({ text }: { text: string }): JSX.Element {
  return (
    <div class="code">
      <pre tabIndex={0}>{text}</pre>
      <Copy text={text} />
    </div>
  );
}

/** What Prefect's API must still hear, in words. */
export function deliveryText({ waiting, keptRuns }: Delivery): string {
  const messages = waiting.reduce((sum, { count: some }) => sum + some, 0);
  if (messages === 0 && keptRuns === 0) return 'Nothing waits to be told.';
  const runs = keptRuns === 0 ? '' : ` and ${count(keptRuns, 'run')} to be queued`;
  return `${count(messages, 'message')}${runs} ${messages + keptRuns === 1 ? 'waits' : 'wait'} on this machine.`;
}

/** What a click would do, said before it is done. */
interface Question {
  title: string;
  says: string;
  button: string;
  act: () => Promise<string | void>;
}

const question = signal<Question | null>(null);
const notice = signal<{ text: string; isError: boolean } | null>(null);
let noticeTimer = 0;

export function ask(asked: Question): void {
  question.value = asked;
}

export function say(text: string, isError = false): void {
  notice.value = { text, isError };
  window.clearTimeout(noticeTimer);
  if (!isError) noticeTimer = window.setTimeout(() => (notice.value = null), 6000);
}

/** Does `act` and says what came of it. */
export async function perform(act: () => Promise<string | void>): Promise<void> {
  try {
    const done = await act();
    if (done) say(done);
  } catch (error) {
    say(problemOf(error).message, true);
  }
}

export function Notice(): JSX.Element {
  const said = notice.value;
  return (
    <div class="notices" role="status" aria-live="polite">
      {said ? (
        <div class={said.isError ? 'notice error' : 'notice'}>
          <span>{said.text}</span>
          <button type="button" class="small" onClick={() => (notice.value = null)}>
            Close
          </button>
        </div>
      ) : null}
    </div>
  );
}

export function QuestionDialog(): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const asked = question.value;
  const shown = useRef<Question | null>(null);
  useEffect(() => {
    if (asked) dialog.current?.showModal();
    else dialog.current?.close();
    shown.current = asked ?? shown.current;
  }, [asked]);
  // A browser tells of it later: by then the next question may be asked.
  const closed = () => {
    if (!dialog.current?.open && question.value === shown.current) question.value = null;
  };
  const act = () => {
    question.value = null;
    if (asked) void perform(asked.act);
  };
  return (
    <dialog ref={dialog} aria-labelledby="question" onClose={closed}>
      {asked ? (
        <>
          <h2 id="question">{asked.title}</h2>
          <p>{asked.says}</p>
          <div class="buttons">
            <button type="button" onClick={() => (question.value = null)}>
              Leave it
            </button>
            <button type="button" class="primary" autofocus onClick={act}>
              {asked.button}
            </button>
          </div>
        </>
      ) : null}
    </dialog>
  );
}
