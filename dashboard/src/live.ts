// What happens, as the server tells it: one stream a page, closed while nobody looks at the page.

import { batch, signal } from '@preact/signals';

import type { FlowRun } from '../../index.js';
import type { About, Delivery, Live, Overview, Problem } from './api.js';
import { address, read, RequestError } from './client.js';

export const about = signal<About | null>(null);
export const overview = signal<Overview | null>(null);
/** `refused`: the server was started anew, and this browser has no token for it. */
export const connection = signal<'connecting' | 'open' | 'lost' | 'refused'>('connecting');
/** Why the store, or Prefect's API, does not answer to the server, with what waits meanwhile. */
export const away = signal<{ problem: Problem; delivery: Delivery | null } | null>(null);
/** Grows when everything is to be read anew. */
export const revision = signal(0);
/** The time, once a second. */
export const now = signal(Date.now());

type Hears = (live: Live) => void;
const hearers = new Set<Hears>();

/** Tells `hears` of everything until the returned function is called. */
export function hear(hears: Hears): () => void {
  hearers.add(hears);
  return () => hearers.delete(hears);
}

/** The runs that an event brings. */
export function runsOf(live: Live): FlowRun[] {
  if (live.type === 'runs' || live.type === 'progress') return live.runs;
  return live.type === 'overview' ? live.overview.active : [];
}

/** With these runs in place of what was known of them. */
function withRuns(shown: Overview, runs: readonly FlowRun[]): Overview {
  return { ...shown, active: shown.active.map((run) => runs.find((newer) => newer.flowRunId === run.flowRunId) ?? run) };
}

let source: EventSource | null = null;
let lastId: string | null = null;
let followed: { run: string; after: number } | null = null;
let retry = 0;
/** When the server was heard last. */
let heardAt = 0;

/** A stream that is silent for so long is lost: a server that lives says so every 5 s (`SIGN_OF_LIFE` of `stream.rs`). */
const SILENCE_MS = 12_000;

function open(): void {
  close();
  const stream = new EventSource(address('/api/stream', { run: followed?.run, after: followed?.after, last: lastId }));
  source = stream;
  heardAt = Date.now();
  stream.addEventListener('open', () => {
    heardAt = Date.now();
    connection.value = 'open';
  });
  stream.addEventListener('alive', () => (heardAt = Date.now()));
  stream.addEventListener('message', (event: MessageEvent<string>) => {
    heardAt = Date.now();
    lastId = event.lastEventId;
    take(JSON.parse(event.data) as Live);
  });
  stream.addEventListener('error', () => {
    if (connection.value !== 'refused') connection.value = 'lost';
    // The browser tries again by itself, unless the answer was no stream.
    if (stream.readyState === EventSource.CLOSED) {
      void whyNot();
      retry = window.setTimeout(open, 2000);
    }
  });
}

function close(): void {
  window.clearTimeout(retry);
  source?.close();
  source = null;
}

async function whyNot(): Promise<void> {
  try {
    await read('/api/about');
  } catch (error) {
    if (error instanceof RequestError && error.status === 401) connection.value = 'refused';
  }
}

function take(live: Live): void {
  batch(() => {
    if (live.type === 'overview') overview.value = live.overview;
    if (live.type === 'progress' && overview.value) overview.value = withRuns(overview.value, live.runs);
    if (live.type === 'away') away.value = live;
    if (live.type === 'back' || live.type === 'reset') {
      away.value = null;
      revision.value += 1;
    }
    for (const hears of hearers) hears(live);
  });
}

/** Tries at once. */
export function reconnect(): void {
  connection.value = 'connecting';
  open();
}

/** Follows the log of a run from a cursor on; `null`: of none. */
export function follow(run: { run: string; after: number } | null): void {
  if (run === null && followed === null) return;
  followed = run;
  if (source) open();
}

export function begin(): void {
  void read<About>('/api/about').then(
    (found) => (about.value = found),
    () => {},
  );
  open();
  // Browsers give a site six connections: pages that nobody sees leave theirs to the others.
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) {
      close();
    } else if (!source) {
      now.value = Date.now();
      open();
    }
  });
  window.setInterval(() => {
    if (document.hidden) return;
    now.value = Date.now();
    // A server that hangs, or a way to it that swallows everything, ends no connection.
    if (source && now.value - heardAt > SILENCE_MS) {
      connection.value = 'lost';
      open();
    }
  }, 1000);
}
