// What can be done with runs and the pool, with what it will do said before.

import type { FlowRun } from '../../index.js';
import type { Pool, Queued, RunPage, StaleResult } from './api.js';
import { change, problemOf, read } from './client.js';
import { count, isAtWork, shortId } from './format.js';
import { about } from './live.js';
import { ask } from './parts.js';
import { go, runPlace } from './router.js';

export const mayChange = (): boolean => about.value !== null && !about.value.readOnly;

const named = (run: FlowRun): string => `${run.flowName} ${shortId(run.flowRunId)}${run.videoId === null ? '' : ` of ${run.videoId}`}`;

export function cancel(run: FlowRun): void {
  const isWaiting = run.state.type === 'SCHEDULED';
  ask({
    title: `Cancel ${named(run)}?`,
    says: isWaiting
      ? 'It waits, and is cancelled at once. It can be retried later.'
      : 'Its process is told to stop, and killed if it does not. What it has not written yet is lost; the video’s frames stay as they were. It can be retried later.',
    button: 'Cancel the run',
    act: async () => {
      await change(`${api(run)}/cancel`);
      return isWaiting ? 'The run is cancelled.' : 'The run is being stopped.';
    },
  });
}

export function retry(run: FlowRun): void {
  ask({
    title: `Retry ${named(run)}?`,
    says:
      run.state.name === 'AwaitingRetry'
        ? 'It waits for its next attempt: that becomes due now.'
        : 'It is queued again under its id, with all its attempts before it.',
    button: 'Retry the run',
    act: async () => {
      await change(`${api(run)}/retry`);
      return 'The run is queued again.';
    },
  });
}

export function takeOver(run: FlowRun, isForced = false): void {
  ask({
    title: isForced ? `Take over ${named(run)} all the same?` : `Take over ${named(run)}?`,
    says: isForced
      ? `${run.workerName ?? 'Its worker'} was heard not long ago, and may still work on it: what it does from now on counts for nothing.`
      : `${run.workerName ?? 'Its worker'} is not to be heard from here. Another worker takes the run, without waiting until its own counts as lost.`,
    button: isForced ? 'Take it over all the same' : 'Give it to another worker',
    act: async () => {
      try {
        await change(`${api(run)}/take-over`, { isForced });
        return 'The run is given to another worker.';
      } catch (error) {
        if (isForced || problemOf(error).code !== 'ERR_CAPTIONACC_INVALID_STATE') throw error;
        // One that has ended, or waits by now, is nobody's, whoever is asked.
        const found = (await read<RunPage>(api(run))).run;
        if (!isAtWork(found.state.type)) throw error;
        takeOver(found, true);
        return undefined;
      }
    },
  });
}

export function again(run: FlowRun): void {
  ask({
    title: `Queue ${named(run)} once more?`,
    says: 'A new run with the same parameters is queued. An equal one that still waits is taken instead; crop-frames takes the place of an older one of its video.',
    button: 'Queue a new run',
    act: async () => {
      const queued = await change<Queued>(`${api(run)}/again`);
      go(runPlace(queued.flowRunId));
    },
  });
}

const api = (run: FlowRun): string => `/api/runs/${run.flowRunId}`;

export function setPaused(pool: Pool, isPaused: boolean): void {
  ask({
    title: isPaused ? `Pause ${pool.name}?` : `Resume ${pool.name}?`,
    says: isPaused
      ? `Nothing new starts, in no worker, until it is resumed. The ${count(pool.active, 'run')} at work ${pool.active === 1 ? 'goes' : 'go'} on.`
      : 'Workers claim runs again.',
    button: isPaused ? 'Pause the pool' : 'Resume the pool',
    act: async () => {
      await change('/api/pool', { isPaused });
      return isPaused ? 'The pool is paused.' : 'The pool is resumed.';
    },
  });
}

export function setLimit(pool: Pool, limit: number): void {
  ask({
    title: `Run ${limit} at once in ${pool.name}?`,
    says: `It is ${pool.concurrencyLimit} now. What runs goes on, also beyond a lower limit; a worker that is started with a limit of its own sets that again.`,
    button: 'Set the limit',
    act: async () => {
      await change('/api/pool', { concurrencyLimit: limit });
      return `The limit is ${limit}.`;
    },
  });
}

export function runStale(video: string | null, keys: readonly string[], done: () => void): void {
  ask({
    title: `Run what is stale${video === null ? '' : ` of ${video}`}?`,
    says: `${count(keys.length, 'asset')} ${keys.length === 1 ? 'is' : 'are'} out of date: the runs that made ${keys.length === 1 ? 'it are' : 'them are'} queued anew, crop-frames with the layout as it is now.`,
    button: 'Queue the runs',
    act: async () => {
      const { queued, left } = await change<StaleResult>('/api/lineage/run', { video });
      done();
      const said = `${count(queued.length, 'run')} queued.`;
      if (left.length > 0) throw new Error(`${said} Not queued: ${left.map(([key, why]) => `${key} (${why})`).join('; ')}`);
      return said;
    },
  });
}
