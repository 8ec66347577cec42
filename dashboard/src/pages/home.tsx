// What runs now, what is wrong, what was done.

import type { JSX } from 'preact';

import type { FlowRun } from '../../../index.js';
import type { Activity, Finding, Home, Slice } from '../api.js';
import { cancel, mayChange } from '../actions.js';
import { count, duration } from '../format.js';
import { now, overview } from '../live.js';
import { Code, Empty, Loading, ProblemNote, ProgressBar, RunLink, RunTable, StateBadge, Thumbnail, VideoLink } from '../parts.js';
import { useLive, useResource, useThrottled } from '../resource.js';
import { runPlace } from '../router.js';
import { Columns, median } from './charts.js';

const QUEUE_COMMAND = `captionacc queue full-frames --video-id v1 --video-path video.mp4 \\
  --db-path annotations.db --output-dir scratch
captionacc worker`;

const QUEUE_CODE = `import { queuePrefectFlow } from '@captionacc/orchestrator';

await queuePrefectFlow('full-frames', {
  'video-id': 'v1',
  'video-path': 'video.mp4',
  'db-path': 'annotations.db',
  'output-dir': 'scratch',
});`;

export function FirstFilm(): JSX.Element {
  return (
    <Empty title="No run was ever queued here. Queue your first film:">
      <Code text={QUEUE_COMMAND} />
      <p>or from TypeScript:</p>
      <Code text={QUEUE_CODE} />
    </Empty>
  );
}

export function HomePage(): JSX.Element {
  const home = useResource<Home>('/api/home');
  const findings = useResource<Finding[]>('/api/findings');
  const activity = useResource<Activity>('/api/activity?minutes=60');
  const reload = useThrottled(home.reload, 2000);
  const reloadActivity = useThrottled(activity.reload, 10_000);
  useLive((live) => {
    if (live.type !== 'runs' && live.type !== 'overview') return;
    reload();
    reloadActivity();
  });
  const active = overview.value?.active ?? [];
  const problems = [...(home.data?.findings ?? []), ...(findings.data ?? [])];
  const recent = home.data?.recent ?? [];
  return (
    <>
      <h1 class="hidden">Home</h1>
      {home.problem ? <ProblemNote problem={home.problem} retry={home.reload} /> : null}
      <Numbers home={home.data} activity={activity.data} />
      {activity.data && activity.data.ended.length > 0 ? (
        <div class="charts flat">
          <Columns
            activity={activity.data}
            title="Ended"
            parts={[
              ['completed', 'COMPLETED'],
              ['cancelled', 'CANCELLED'],
              ['failed', 'FAILED'],
            ]}
          />
          <Columns activity={activity.data} title="Waiting" parts={[['waiting', 'SCHEDULED']]} />
        </div>
      ) : null}
      <section aria-labelledby="problems" hidden={problems.length === 0}>
        <h2 id="problems">Problems</h2>
        <ul class="findings">
          {problems.map((finding) => (
            <li key={`${finding.check} ${finding.message}`} data-level={finding.level}>
              <b>{finding.check}</b> {finding.message}
              {finding.fix === null ? null : <p class="fix">{finding.fix}</p>}
            </li>
          ))}
        </ul>
      </section>
      {home.data && !home.data.hasRuns ? (
        <FirstFilm />
      ) : (
        <>
          <section aria-labelledby="running">
            <h2 id="running">Now</h2>
            {overview.value === null ? <p class="quiet">Not known yet.</p> : active.length === 0 ? <p class="quiet">Nothing runs.</p> : null}
            <ul class="cards">
              {active.map((run) => (
                <RunningCard key={run.flowRunId} run={run} />
              ))}
            </ul>
          </section>
          <section aria-labelledby="recent">
            <h2 id="recent">
              Ended last <a href="/runs">all runs</a>
            </h2>
            {home.data === null ? home.problem ? <p class="quiet">Not known yet.</p> : <Loading /> : recent.length === 0 ? <p class="quiet">No run has ended yet.</p> : <RunTable runs={recent} caption="Runs that ended last" />}
          </section>
        </>
      )}
    </>
  );
}

function RunningCard({ run }: { run: FlowRun }): JSX.Element {
  return (
    <li class="card" data-run={run.flowRunId}>
      {run.videoId === null ? null : <Thumbnail videoId={run.videoId} />}
      <div>
        <p class="line">
          <RunLink run={run}>{run.flowName}</RunLink> <VideoLink run={run} /> <StateBadge state={run.state} />
          {run.attempt > 1 ? <span class="quiet">attempt {run.attempt}</span> : null}
        </p>
        {run.progress ? <ProgressBar run={run} /> : <p class="quiet">for {duration((now.value - Date.parse(run.state.timestamp)) / 1000)}</p>}
      </div>
      {mayChange() && run.state.type !== 'CANCELLING' ? (
        <button type="button" class="small" onClick={() => cancel(run)}>
          Cancel
        </button>
      ) : null}
    </li>
  );
}

function Numbers({ home, activity }: { home: Home | null; activity: Activity | null }): JSX.Element {
  const pool = overview.value?.pool;
  const waiting = pool?.waiting.reduce((sum, queue) => sum + queue.count, 0);
  const oldest = home?.oldestWaiting ?? null;
  // As the columns below count them, a minute each.
  const slices = activity?.slices ?? [];
  const sum = (of: (slice: Slice) => number, some = slices) => some.reduce((total, slice) => total + of(slice), 0);
  const ended = (slice: Slice) => slice.completed + slice.failed + slice.cancelled;
  const failed = sum((slice) => slice.failed);
  return (
    <dl class="numbers">
      <div>
        <dt>Slots</dt>
        <dd>
          {pool ? `${pool.active} of ${pool.concurrencyLimit}` : '–'}
          {pool ? <meter min={0} max={pool.concurrencyLimit} value={pool.active} aria-label="Slots taken" /> : null}
        </dd>
      </div>
      <div>
        <dt>Waiting</dt>
        <dd>{waiting ?? '–'}</dd>
      </div>
      <div>
        <dt>Waits longest</dt>
        <dd>{oldest ? <a href={runPlace(oldest.flowRunId)}>{duration((now.value - Date.parse(oldest.scheduledAt)) / 1000)}</a> : home ? <span class="quiet">nobody</span> : '–'}</dd>
      </div>
      <div>
        <dt>Last 5 minutes</dt>
        <dd>{activity ? count(sum(ended, slices.slice(-5)), 'run') : '–'}</dd>
      </div>
      <div>
        <dt>Last hour</dt>
        <dd>
          {activity ? count(sum(ended), 'run') : '–'}
          {failed > 0 ? <span class="bad"> {failed} failed</span> : null}
        </dd>
      </div>
      <div>
        <dt>A run takes</dt>
        <dd>{activity && activity.ended.length > 0 ? duration(median(activity.ended.map((run) => run.seconds))) : '–'}</dd>
      </div>
    </dl>
  );
}
