// A flow run as people see it: its state, how far it is, what it said, and what can be done about it.

import type { FlowRun, FlowRunDetails, FlowRunEvent, Progress, State, TaskRun } from '@captionacc/orchestrator';
import { useEffect, useState, type ReactNode } from 'react';
import { useFetcher, useRevalidator } from 'react-router';

import type { Problem } from './flows.server';
import type { Status } from './videos.server';

/** Whether a state is final: nothing follows but a retry. */
export function isOver({ type }: State): boolean {
  return ['CANCELLED', 'COMPLETED', 'FAILED', 'CRASHED'].includes(type);
}

export function StateBadge({ run }: { run: FlowRun }) {
  const isShown = run.state.type === 'RUNNING' && run.progress;
  return (
    <span className={`badge ${run.state.type.toLowerCase()}`}>
      {run.state.name}
      {isShown && ` ${Math.floor(run.progress!.fraction * 100)} %`}
    </span>
  );
}

/**
 * What happens to a run, as it happens. The run itself comes from the loader of the page, which is asked again whenever the
 * state has changed: so page and database are never of two minds.
 */
function useEvents(run: FlowRunDetails) {
  const [progress, setProgress] = useState<Progress | null>(null);
  const [log, setLog] = useState<Exclude<FlowRunEvent, { type: 'progress' }>[]>([]);
  const [problem, setProblem] = useState<Problem>();
  const { revalidate } = useRevalidator();
  const { flowRunId, state } = run;
  const wasOver = isOver(state);
  useEffect(() => {
    let newest = state.timestamp;
    const source = new EventSource(`/runs/${flowRunId}/events`);
    const on = <Type extends FlowRunEvent['type']>(type: Type, use: (event: FlowRunEvent & { type: Type }) => void) =>
      source.addEventListener(type, ({ data }) => use(JSON.parse(data)));
    // Each connection starts with the past: what was kept of it is replaced.
    source.addEventListener('open', () => {
      setLog([]);
      setProblem(undefined);
    });
    on('progress', (event) => setProgress(event.progress));
    on('log', (event) => setLog((events) => [...events.slice(-499), event]));
    on('state', (event) => {
      setLog((events) => [...events, event]);
      if (event.state.timestamp <= newest) return;
      newest = event.state.timestamp;
      void revalidate();
    });
    let timer: ReturnType<typeof setTimeout> | undefined;
    source.addEventListener('over', () => {
      source.close();
      // The row in the video's database follows the last state, within moments: whoever has that file may hold it up.
      if (!wasOver) timer = setTimeout(() => void revalidate(), 1000);
    });
    source.addEventListener('problem', ({ data }) => {
      const told: Problem = JSON.parse(data);
      setProblem(told);
      // Else the browser connects again, after a while.
      if (!told.retryable) source.close();
    });
    return () => {
      source.close();
      clearTimeout(timer);
    };
    // Not for each state: only another run, and one that was over and is retried, need another connection.
  }, [flowRunId, wasOver]);
  return { progress: progress ?? run.progress, log, problem };
}

export function FlowRunPanel({ run, row, children }: { run: FlowRunDetails; row: Status | undefined; children?: ReactNode }) {
  const { progress, log, problem } = useEvents(run);
  const fetcher = useFetcher<{ problem?: Problem }>();
  const { state } = run;
  const isBusy = fetcher.state !== 'idle';
  const isFailed = state.type === 'FAILED' || state.type === 'CRASHED';
  const mayRetry = isOver(state) ? state.type !== 'COMPLETED' : state.name === 'AwaitingRetry';
  return (
    <div className="run" data-state={state.type}>
      <div className="run-line">
        <span className={`badge ${state.type.toLowerCase()}`}>{state.name}</span>
        {state.type === 'RUNNING' && progress ? (
          <>
            <progress value={progress.fraction} aria-label={`${run.flowName} progress`} />
            <small>
              {Math.floor(progress.fraction * 100)} % · {progress.task.replace('_', ' ')} {progress.done}
              {progress.total !== null && ` / ${progress.total}`} {progress.unit}
            </small>
          </>
        ) : (
          !isFailed && <output>{describeState(run)}</output>
        )}
        <span className="buttons">
          {state.type !== 'COMPLETED' && (
            <fetcher.Form method="post">
              <input type="hidden" name="run" value={run.flowRunId} />
              {!isOver(state) && (
                <button name="intent" value="cancel" disabled={isBusy || state.type === 'CANCELLING'}>
                  Cancel
                </button>
              )}
              {mayRetry && (
                <button name="intent" value="retry" disabled={isBusy}>
                  {isOver(state) ? 'Retry' : 'Retry now'}
                </button>
              )}
            </fetcher.Form>
          )}
          {children}
        </span>
      </div>
      {isFailed && (
        <div className="problem" role="alert">
          <p>{state.message}</p>
          {row?.error_details && (
            <details>
              <summary>Details</summary>
              <pre>{indented(row.error_details)}</pre>
            </details>
          )}
        </div>
      )}
      {(fetcher.data?.problem ?? problem) && <ProblemNote problem={(fetcher.data?.problem ?? problem)!} />}
      <details>
        <summary>
          Log <small>{log.length || ''}</small>
        </summary>
        <p className="quiet">{run.taskRuns.map(describeTask).join(' · ')}</p>
        <ol className="log">
          {log.map((event, line) => {
            const { timestamp, message } = event.type === 'log' ? event.log : event.state;
            return (
              <li key={line} className={event.type === 'log' ? event.log.level : 'state'}>
                <time>{timestamp.slice(11, 19)}</time> {event.type === 'state' && <b>{event.state.name}</b>} {message}
              </li>
            );
          })}
        </ol>
      </details>
    </div>
  );
}

function describeState({ state, startedAt, endedAt, attempt }: FlowRunDetails): string {
  if (state.name === 'Late') return 'No worker has taken it yet. Does one run?';
  if (state.type === 'SCHEDULED' && state.name !== 'AwaitingRetry') return 'Waits for a worker.';
  const took = state.type === 'COMPLETED' && startedAt && endedAt ? (Date.parse(endedAt) - Date.parse(startedAt)) / 1000 : null;
  return [state.message, took !== null && `in ${took.toFixed(1)} s`, attempt > 1 && `attempt ${attempt}`].filter(Boolean).join(' · ');
}

function describeTask({ name, state, startedAt, endedAt }: TaskRun): string {
  return `${name.replace('_', ' ')} ${endedAt ? `${((Date.parse(endedAt) - Date.parse(startedAt)) / 1000).toFixed(1)} s` : state.name}`;
}

/** A call to the orchestrator that did not succeed: the message is for people, the code for who looks it up. */
export function ProblemNote({ problem: { code, message, retryable } }: { problem: Problem }) {
  return (
    <p className="problem" role="alert">
      {message} {retryable && 'It may work if you try again.'} <code>{code}</code>
    </p>
  );
}

function indented(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}
