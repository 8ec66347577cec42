// What the pool did over time, as small columns and dots; each says what it is when it is pointed at.

import type { JSX } from 'preact';

import type { Activity } from '../api.js';
import { clock, count, dateTime, duration } from '../format.js';

type Field = 'waiting' | 'running' | 'completed' | 'failed' | 'cancelled';

interface ColumnsProps {
  activity: Activity;
  title: string;
  /** What is counted, with the state that gives it its colour; the first stands below. */
  parts: readonly (readonly [Field, string])[];
}

export function Columns({ activity, title, parts }: ColumnsProps): JSX.Element {
  const { slices, from, sliceSeconds } = activity;
  const totals = slices.map((slice) => parts.reduce((sum, [name]) => sum + slice[name], 0));
  const most = Math.max(0, ...totals);
  const told = most === 0 ? 'none' : parts.some(([name]) => name === 'completed') ? `${count(totals.reduce((sum, total) => sum + total, 0), 'run')}, at most ${most} in ${spanOf(sliceSeconds)}` : `at most ${most}, now ${totals.at(-1) ?? 0}`;
  const timeOf = (at: number) => dateTime(new Date(Date.parse(from) + (at + 1) * sliceSeconds * 1000).toISOString());
  return (
    <Chart activity={activity} title={title} told={told}>
      <svg viewBox={`0 0 ${slices.length} 30`} preserveAspectRatio="none" role="img" aria-label={`${title}: ${told}`}>
        {slices.map((slice, at) => {
          let below = 0;
          return (
            <g key={at}>
              <title>{`${timeOf(at)}: ${parts.map(([name]) => `${slice[name]} ${name}`).join(', ')}`}</title>
              <rect class="ground" x={at} y={0} width={1} height={30} />
              {parts.map(([name, state]) => {
                const height = (slice[name] / Math.max(1, most)) * 29;
                below += height;
                return height === 0 ? null : <rect key={name} x={at + 0.12} y={30 - below} width={0.76} height={height} data-state={state} />;
              })}
            </g>
          );
        })}
      </svg>
    </Chart>
  );
}

export function Durations({ activity }: { activity: Activity }): JSX.Element {
  const { ended, from, slices, sliceSeconds } = activity;
  const start = Date.parse(from);
  const length = slices.length * sliceSeconds * 1000;
  const longest = Math.max(0, ...ended.map((run) => run.seconds));
  const told = ended.length === 0 ? 'no run has ended' : `half within ${duration(median(ended.map((run) => run.seconds)))}, at most ${duration(longest)}`;
  return (
    <Chart activity={activity} title="Durations" told={told}>
      <svg viewBox="0 0 300 60" preserveAspectRatio="none" role="img" aria-label={`How long runs took: ${told}`}>
        {ended.map((run) => (
          <path
            key={run.flowRunId}
            d={`M${(3 + ((Date.parse(run.endedAt) - start) / length) * 294).toFixed(1)} ${(56 - (run.seconds / Math.max(longest, 0.001)) * 52).toFixed(1)}h0`}
            data-state={run.stateType}
          >
            <title>{`${run.flowName}: ${duration(run.seconds)}, ended ${dateTime(run.endedAt)}`}</title>
          </path>
        ))}
      </svg>
    </Chart>
  );
}

/** `a minute`, `6 minutes`, `3 hours`. */
const spanOf = (seconds: number): string => (seconds === 60 ? 'a minute' : seconds < 7200 ? count(Math.round(seconds / 60), 'minute') : count(Math.round(seconds / 3600), 'hour'));

function Chart({ activity, title, told, children }: { activity: Activity; title: string; told: string; children: JSX.Element }): JSX.Element {
  const end = new Date(Date.parse(activity.from) + activity.slices.length * activity.sliceSeconds * 1000).toISOString();
  const isLong = activity.slices.length * activity.sliceSeconds > 86_400;
  const name = (time: string) => (isLong ? new Date(time).toLocaleDateString() : clock(time).slice(0, 5));
  return (
    <figure>
      <figcaption>
        {title} <span class="quiet">{told}</span>
      </figcaption>
      {children}
      <div class="span quiet" aria-hidden="true">
        <span>{name(activity.from)}</span>
        <span>{name(end)}</span>
      </div>
    </figure>
  );
}

/** The middle one. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}
