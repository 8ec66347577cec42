// Workers and the pool: who works, what is at work, what waits, and how it went over time.

import type { JSX } from 'preact';
import { useState } from 'preact/hooks';

import type { Activity, Delivery, Pool, WaitingMessages } from '../api.js';
import { mayChange, setLimit, setPaused } from '../actions.js';
import { dateTime, duration } from '../format.js';
import { away, now, overview } from '../live.js';
import { Ago, Code, deliveryText, Empty, Loading, ProblemNote, RunTable } from '../parts.js';
import { useLive, useResource, useThrottled } from '../resource.js';
import { Columns, Durations } from './charts.js';

const SPANS = [
  [60, 'hour'],
  [360, '6 hours'],
  [1440, 'day'],
  [10_080, 'week'],
] as const;

export function PoolPage(): JSX.Element {
  const [minutes, setMinutes] = useState(60);
  const activity = useResource<Activity>(`/api/activity?minutes=${minutes}`);
  const reload = useThrottled(activity.reload, 10_000);
  useLive((live) => {
    if (live.type === 'runs' || live.type === 'overview') reload();
  });
  const shown = overview.value;
  if (!shown) {
    return away.value?.delivery ? (
      <>
        <h1>Workers and pool</h1>
        <Outbox delivery={away.value.delivery} />
      </>
    ) : (
      <Loading />
    );
  }
  const { pool, active } = shown;
  // While the API is away, what was said of it last is the newest.
  const delivery = away.value?.delivery ?? pool.delivery;
  return (
    <>
      <div class="title">
        <h1>
          {pool.name} {pool.isPaused ? <span class="state" data-state="CANCELLED">Paused</span> : <span class="state" data-state="COMPLETED">Ready</span>}
        </h1>
        {mayChange() ? (
          <div class="buttons">
            <button type="button" onClick={() => setPaused(pool, !pool.isPaused)}>
              {pool.isPaused ? 'Resume…' : 'Pause…'}
            </button>
          </div>
        ) : null}
      </div>
      <dl class="numbers">
        <div>
          <dt>Slots</dt>
          <dd>
            {pool.active} of {pool.concurrencyLimit}
            <meter min={0} max={pool.concurrencyLimit} value={pool.active} aria-label="Slots taken" />
          </dd>
        </div>
        {pool.waiting.map((queue) => (
          <div key={queue.queue}>
            <dt>{queue.queue}</dt>
            <dd>
              {queue.count.toLocaleString('en')} waiting
              {queue.queue === 'background' && pool.backgroundLimit < pool.concurrencyLimit ? (
                <small class="quiet" title="The other slots are kept for runs that a person waits for">
                  {' '}
                  at most {pool.backgroundLimit} at once
                </small>
              ) : null}
            </dd>
          </div>
        ))}
        {mayChange() ? (
          <div>
            <dt>
              <label for="limit">Limit</label>
            </dt>
            <dd>
              <Limit key={pool.concurrencyLimit} pool={pool} />
            </dd>
          </div>
        ) : null}
      </dl>
      <section aria-labelledby="workers">
        <h2 id="workers">Workers</h2>
        {pool.workers.length === 0 ? (
          <Empty title="No worker has announced itself. Start one:">
            <Code text="captionacc worker" />
          </Empty>
        ) : (
          <table>
            <caption class="hidden">Workers</caption>
            <thead>
              <tr>
                <th scope="col">Worker</th>
                <th scope="col">Alive</th>
                <th scope="col">Process</th>
                <th scope="col">Version</th>
                <th scope="col">Started</th>
                <th scope="col" class="number">
                  At work
                </th>
              </tr>
            </thead>
            <tbody>
              {pool.workers.map((worker) => (
                <tr key={worker.name}>
                  <td>{worker.name}</td>
                  <td>
                    <span class="state" data-state={worker.isAlive ? 'COMPLETED' : 'CRASHED'}>
                      {worker.isAlive ? 'alive' : 'gone'}
                    </span>
                  </td>
                  <td title={worker.pid === 0 ? 'On another machine' : undefined}>{worker.pid === 0 ? '–' : worker.pid}</td>
                  <td>{worker.version || '–'}</td>
                  <td>
                    <Ago time={worker.startedAt} />
                  </td>
                  <td class="number">{active.filter((run) => run.workerName === worker.name).length}</td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </section>
      {delivery ? <Outbox delivery={delivery} /> : null}
      <section aria-labelledby="leases">
        <h2 id="leases">Slots taken</h2>
        {active.length === 0 ? <p class="quiet">None.</p> : <RunTable runs={active} caption="Runs that hold a slot" />}
      </section>
      <section aria-labelledby="past">
        <div class="tools">
          <h2 id="past">Over time</h2>
          <label>
            <span>the last</span>
            <select aria-label="Length of time" value={minutes} onChange={(event) => setMinutes(Number(event.currentTarget.value))}>
              {SPANS.map(([value, name]) => (
                <option key={value} value={value}>
                  {name}
                </option>
              ))}
            </select>
          </label>
        </div>
        {activity.problem ? <ProblemNote problem={activity.problem} retry={activity.reload} /> : null}
        {activity.data ? <Charts activity={activity.data} /> : activity.problem ? null : <Loading />}
      </section>
    </>
  );
}

const KINDS: Record<WaitingMessages['kind'], string> = { state: 'states', labels: 'labels', taskRun: 'task runs', artifact: 'artifacts', asset: 'assets', log: 'log lines' };

/** What Prefect's API must still hear from this machine. */
function Outbox({ delivery }: { delivery: Delivery }): JSX.Element {
  const { waiting, keptRuns, oldestAt, awaySince } = delivery;
  return (
    <section aria-labelledby="outbox">
      <h2 id="outbox">
        Told to Prefect{' '}
        {awaySince === null ? (
          <span class="state" data-state="COMPLETED">
            API answers
          </span>
        ) : (
          <span class="state" data-state="CRASHED">
            API away
          </span>
        )}
      </h2>
      {awaySince === null ? null : (
        <p class="bad">
          Prefect’s API has not answered for {duration((now.value - Date.parse(awaySince)) / 1000)}, since <time dateTime={awaySince}>{dateTime(awaySince)}</time>. Runs go on; what they say is kept, and told when it answers.
        </p>
      )}
      <p>
        {deliveryText(delivery)}
        {oldestAt === null ? null : (
          <span class="quiet">
            {' '}
            The oldest came <Ago time={oldestAt} />.
          </span>
        )}
      </p>
      {waiting.length === 0 && keptRuns === 0 ? null : (
        <dl class="numbers">
          {waiting.map(({ kind, count: some }) => (
            <div key={kind}>
              <dt>{KINDS[kind]}</dt>
              <dd>{some.toLocaleString('en')}</dd>
            </div>
          ))}
          {keptRuns === 0 ? null : (
            <div>
              <dt>runs to be queued</dt>
              <dd>{keptRuns.toLocaleString('en')}</dd>
            </div>
          )}
        </dl>
      )}
    </section>
  );
}

function Limit({ pool }: { pool: Pool }): JSX.Element {
  const [limit, setWanted] = useState(pool.concurrencyLimit);
  const set = (event: Event) => {
    event.preventDefault();
    if (limit !== pool.concurrencyLimit) setLimit(pool, limit);
  };
  return (
    <form class="limit" onSubmit={set}>
      <input id="limit" type="number" required min={1} max={64} value={limit} onInput={(event) => setWanted(event.currentTarget.valueAsNumber)} />
      <button type="submit" class="small" disabled={limit === pool.concurrencyLimit}>
        Set…
      </button>
    </form>
  );
}

function Charts({ activity }: { activity: Activity }): JSX.Element {
  return (
    <>
      {activity.isPartial ? <p class="quiet">Only the newest 2,000 runs are looked at: before them it tells too little.</p> : null}
      <div class="charts">
        <Columns activity={activity} title="Waiting" parts={[['waiting', 'SCHEDULED']]} />
        <Columns activity={activity} title="At work" parts={[['running', 'RUNNING']]} />
        <Columns
          activity={activity}
          title="Ended"
          parts={[
            ['completed', 'COMPLETED'],
            ['cancelled', 'CANCELLED'],
            ['failed', 'FAILED'],
          ]}
        />
        <Durations activity={activity} />
      </div>
    </>
  );
}
