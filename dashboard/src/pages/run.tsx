// A run: its states over time, its tasks, its log, what it was queued with and what it left.

import type { ComponentChildren, JSX } from 'preact';

import type { Artifact, Asset, FlowRunDetails, State, TaskRun } from '../../../index.js';
import type { RunPage as Page } from '../api.js';
import { again, cancel, mayChange, retry, takeOver } from '../actions.js';
import { bytes, canCancel, canRetry, clock, dateTime, duration, isAtWork, isFinal } from '../format.js';
import { shortName } from '../drawing.js';
import { useKeys } from '../keys.js';
import { about, now, overview, runsOf } from '../live.js';
import { Ago, Copy, Loading, NextAttempt, Path, ProblemNote, ProgressBar, StateBadge, Thumbnail, Took, VideoLink } from '../parts.js';
import { useLive, useResource, useThrottled } from '../resource.js';
import { lineagePlace, runPlace, videoPlace } from '../router.js';
import { Log } from './log.js';

export function RunPage({ id }: { id: string }): JSX.Element {
  const page = useResource<Page>(`/api/runs/${id}`);
  const reload = useThrottled(page.reload, 1000);
  useLive((live) => {
    const found = runsOf(live).find((run) => run.flowRunId === id);
    if (found) {
      page.set((before) => ({ ...before, run: { ...before.run, ...found } }));
      const known = page.data?.run;
      // States and tasks are read when the run says that they have changed.
      if (!known || known.state.timestamp !== found.state.timestamp || known.progress?.task !== found.progress?.task) reload();
    } else if (live.type === 'overview' && page.data && !isFinal(page.data.run.state.type)) {
      reload();
    }
  });
  const run = page.data?.run;
  useKeys({
    c: () => run && mayChange() && canCancel(run.state.type) && cancel(run),
    t: () => run && mayChange() && canRetry(run) && retry(run),
    a: () => run && mayChange() && again(run),
  });
  if (!page.data || !run) return page.problem ? <ProblemNote problem={page.problem} retry={page.reload} /> : <Loading />;
  return (
    <>
      <div class="title">
        <h1>
          {run.flowName} <StateBadge state={run.state} />
          <NextAttempt run={run} />
          {run.videoId === null ? null : (
            <span class="quiet">
              of <VideoLink run={run} />
            </span>
          )}
        </h1>
        {mayChange() ? (
          <div class="buttons">
            {canCancel(run.state.type) ? (
              <button type="button" onClick={() => cancel(run)}>
                Cancel…
              </button>
            ) : null}
            {isSilent(run) ? (
              <button type="button" onClick={() => takeOver(run)}>
                Take over…
              </button>
            ) : null}
            {canRetry(run) ? (
              <button type="button" onClick={() => retry(run)}>
                Retry…
              </button>
            ) : null}
            <button type="button" onClick={() => again(run)}>
              Queue once more…
            </button>
          </div>
        ) : null}
      </div>
      {run.state.message === null ? null : (
        <p class={['FAILED', 'CRASHED'].includes(run.state.type) ? 'said bad' : 'said'}>{run.state.message}</p>
      )}
      {run.supersededBy === null ? null : (
        <p>
          A newer run took its place: <a href={runPlace(run.supersededBy)}>{run.supersededBy}</a>
        </p>
      )}
      <ProgressBar run={run} />
      <div class="columns">
        <div>
          <Timeline run={run} />
          <Tasks run={run} />
          <Log id={id} />
          <Artifacts artifacts={run.artifacts} />
        </div>
        <aside aria-label="Facts">
          <Facts page={page.data} />
        </aside>
      </div>
    </>
  );
}

/** Whether it is at work in a worker that is not known to live, on a queue that several machines share. */
function isSilent(run: FlowRunDetails): boolean {
  const workers = overview.value?.pool.workers ?? [];
  return about.value?.takesOver === true && isAtWork(run.state.type) && !workers.some((worker) => worker.isAlive && worker.name === run.workerName);
}

/** The states as stretches of one line, each as long as it lasted. */
function Timeline({ run }: { run: FlowRunDetails }): JSX.Element {
  const { states } = run;
  const last = states.at(-1);
  if (!last) return <></>;
  const end = isFinal(last.type) ? Date.parse(last.timestamp) : now.value;
  const start = Date.parse(states[0]!.timestamp);
  const stretches = states.map((state, at) => {
    const from = Date.parse(state.timestamp);
    const next = states[at + 1];
    return { state, seconds: ((next ? Date.parse(next.timestamp) : end) - from) / 1000, isLast: next === undefined };
  });
  return (
    <section aria-labelledby="states">
      <h2 id="states">
        States <span class="quiet">{duration((end - start) / 1000)} in all</span>
      </h2>
      <div class="timeline" aria-hidden="true">
        {stretches.map(({ state, seconds, isLast }, at) =>
          isLast && isFinal(state.type) ? null : (
            <span key={at} data-state={state.type} style={{ flexGrow: Math.max(seconds / ((end - start) / 1000 || 1), 0.01) * 100 }} title={`${state.name}: ${duration(seconds)}`} />
          ),
        )}
      </div>
      <ol class="states">
        {stretches.map(({ state, seconds, isLast }, at) => (
          <li key={at}>
            <time dateTime={state.timestamp} title={dateTime(state.timestamp)}>
              {clock(state.timestamp)}
            </time>
            <StateBadge state={state} />
            <span class="number">{isLast && isFinal(state.type) ? '' : duration(seconds)}</span>
            <span class="message">
              {attemptOf(states, at)}
              {state.message}
            </span>
          </li>
        ))}
      </ol>
    </section>
  );
}

/** A state in which an attempt begins says which. */
function attemptOf(states: readonly State[], at: number): string {
  if (states[at]!.type !== 'RUNNING') return '';
  const attempt = states.slice(0, at + 1).filter((state) => state.type === 'RUNNING').length;
  return attempt > 1 ? `attempt ${attempt} ` : '';
}

function Tasks({ run }: { run: FlowRunDetails }): JSX.Element | null {
  const tasks = run.taskRuns;
  if (tasks.length === 0) return null;
  const attempts = [...new Set(tasks.map((task) => task.attempt))];
  return (
    <section aria-labelledby="tasks">
      <h2 id="tasks">Tasks</h2>
      {attempts.map((attempt) => (
        <div key={attempt}>
          {attempts.length > 1 ? <h3>Attempt {attempt}</h3> : null}
          <Bars tasks={tasks.filter((task) => task.attempt === attempt)} />
        </div>
      ))}
    </section>
  );
}

function Bars({ tasks }: { tasks: readonly TaskRun[] }): JSX.Element {
  const isRunning = tasks.some((task) => task.endedAt === null && !isFinal(task.state.type));
  const endOf = (task: TaskRun) => Date.parse(task.endedAt ?? (isFinal(task.state.type) ? task.state.timestamp : new Date(now.value).toISOString()));
  const start = Math.min(...tasks.map((task) => Date.parse(task.startedAt)));
  const end = Math.max(isRunning ? now.value : 0, ...tasks.map(endOf));
  const length = Math.max(1, end - start);
  return (
    <ol class="bars">
      {tasks.map((task) => {
        const from = Date.parse(task.startedAt) - start;
        const took = endOf(task) - Date.parse(task.startedAt);
        return (
          <li key={task.taskRunId}>
            <span class="name">
              {task.name}
              {task.runCount > 1 ? <span class="quiet"> ×{task.runCount}</span> : null}
            </span>
            <span class="track" aria-hidden="true">
              <span data-state={task.state.type} style={{ left: `${Math.min(99.6, (100 * from) / length)}%`, width: `${Math.max(0.4, (100 * took) / length)}%` }} />
            </span>
            <span class="number">{duration(took / 1000)}</span>
            {task.state.type === 'COMPLETED' ? null : <StateBadge state={task.state} />}
            {task.state.message === null ? null : <span class="message">{task.state.message}</span>}
          </li>
        );
      })}
    </ol>
  );
}

function Facts({ page }: { page: Page }): JSX.Element {
  const { run, process, assets, prefectUrl } = page;
  return (
    <>
      {run.videoId === null ? null : (
        <a class="of-video" href={videoPlace(run.videoId)} aria-label={`Frames of ${run.videoId}`}>
          <Thumbnail videoId={run.videoId} />
        </a>
      )}
      <dl class="facts">
        <Fact name="Run">
          <code class="id">{run.flowRunId}</code> <Copy text={run.flowRunId} />
        </Fact>
        {run.videoId === null ? null : (
          <Fact name="Video">
            <VideoLink run={run} />
          </Fact>
        )}
        <Fact name="Deployment">
          <Path text={run.deployment} />
        </Fact>
        <Fact name="Work queue">{run.priority}</Fact>
        <Fact name="Attempt">
          {run.attempt === 0 ? 'none yet' : run.attempt}
          {run.failedAttempts > 0 ? ` (${run.failedAttempts} failed)` : ''}
        </Fact>
        <Fact name="Queued">
          <Ago time={run.createdAt} />
        </Fact>
        {run.startedAt === null ? (
          <Fact name="Scheduled">
            <time dateTime={run.scheduledAt}>{dateTime(run.scheduledAt)}</time>
          </Fact>
        ) : (
          <Fact name="Started">
            <Ago time={run.startedAt} />
          </Fact>
        )}
        <Fact name="Took">
          <Took run={run} />
        </Fact>
        {run.workerName === null ? null : <Fact name="Worker">{run.workerName}</Fact>}
        {run.pid === null ? null : (
          <Fact name="Process">
            {run.pid}
            {process ? (
              <span class="quiet">
                {' '}
                · {bytes(process.memoryBytes)} of memory · {process.busyCores.toFixed(1)} cores busy · {duration(process.cpuSeconds)} of CPU
              </span>
            ) : null}
          </Fact>
        )}
        {prefectUrl === null ? null : (
          <Fact name="Prefect">
            <a href={prefectUrl} target="_blank" rel="noreferrer">
              in its UI
            </a>
          </Fact>
        )}
      </dl>
      <h2>
        Parameters <Copy label="Copy as JSON" text={() => JSON.stringify(run.parameters, null, 2)} />
      </h2>
      <dl class="facts">
        {Object.entries(run.parameters).map(([name, value]) => (
          <Fact key={name} name={name}>
            <code>
              <Path text={typeof value === 'string' ? value : JSON.stringify(value)} />
            </code>
          </Fact>
        ))}
      </dl>
      {assets.length === 0 ? null : (
        <>
          <h2>Made or found</h2>
          <ul class="assets">
            {inOrder(assets).map((asset) => (
              <li key={asset.key} title={asset.key}>
                {run.videoId === null ? <code>{asset.key}</code> : <a href={lineagePlace(run.videoId)}>{shortName(asset.key)}</a>}
                {asset.staleBecause.length > 0 ? <span class="stale"> stale</span> : null}
              </li>
            ))}
          </ul>
        </>
      )}
    </>
  );
}

/** The tenth caption after the ninth. */
const inOrder = (assets: readonly Asset[]): Asset[] => assets.toSorted((one, other) => one.key.localeCompare(other.key, 'en', { numeric: true }));

function Fact({ name, children }: { name: string; children: ComponentChildren }): JSX.Element {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Artifacts({ artifacts }: { artifacts: readonly Artifact[] }): JSX.Element | null {
  if (artifacts.length === 0) return null;
  return (
    <section aria-labelledby="artifacts">
      <h2 id="artifacts">Artifacts</h2>
      {artifacts.map((artifact) => (
        <article key={`${artifact.key} ${artifact.timestamp}`}>
          <h3>
            {artifact.key} <Copy label="Copy as JSON" text={() => JSON.stringify(artifact.data, null, 2)} />
          </h3>
          {artifact.description === null ? null : <p class="quiet">{artifact.description}</p>}
          <ArtifactData artifact={artifact} />
        </article>
      ))}
    </section>
  );
}

/** Rows that are shown; all of them are in the copy. */
const MOST_ROWS = 200;

function ArtifactData({ artifact: { type, data, key } }: { artifact: Artifact }): JSX.Element {
  if (type === 'progress' && typeof data === 'number') return <progress max={100} value={data} aria-label={key} />;
  if (type === 'table' && Array.isArray(data) && data.every((row) => typeof row === 'object' && row !== null)) {
    if (data.length === 0) return <p class="quiet">It has no rows.</p>;
    const rows = data as Record<string, unknown>[];
    const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    return (
      <div class="scroll" tabIndex={0} role="group" aria-label={key}>
        <table>
          <thead>
            <tr>
              {columns.map((column) => (
                <th key={column} scope="col">
                  {column}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, MOST_ROWS).map((row, at) => (
              <tr key={at}>
                {columns.map((column) => (
                  <td key={column} class={typeof row[column] === 'string' ? 'words' : undefined}>
                    {plain(row[column])}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
        {rows.length > MOST_ROWS ? <p class="quiet">{(rows.length - MOST_ROWS).toLocaleString('en')} more rows: copy them.</p> : null}
      </div>
    );
  }
  // Also a link or Markdown is text: who wrote it is not known.
  return (
    <pre tabIndex={0} class="artifact">
      {plain(data)}
    </pre>
  );
}

function plain(value: unknown): string {
  if (typeof value === 'string') return value;
  if (value === null) return '';
  // Digits that say nothing; the copy has them all.
  if (typeof value === 'number' && !Number.isInteger(value)) return String(Number(value.toPrecision(5)));
  return value === undefined ? '' : JSON.stringify(value);
}
