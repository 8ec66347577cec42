// What a page reads, kept up to date while it is open.

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';

import type { Live, Problem } from './api.js';
import { problemOf, read } from './client.js';
import { hear, revision } from './live.js';

export interface Resource<T> {
  data: T | null;
  problem: Problem | null;
  reload: () => void;
  set: (change: (data: T) => T) => void;
}

/** Reads `url`, again whenever it changes, everything was missed, or `reload` is called. `null`: nothing. */
export function useResource<T>(url: string | null): Resource<T> {
  const [state, setState] = useState<{ url: string | null; data: T | null; problem: Problem | null }>({ url, data: null, problem: null });
  const [turn, setTurn] = useState(0);
  const missed = revision.value;
  useEffect(() => {
    if (url === null) return undefined;
    const abort = new AbortController();
    read<T>(url, abort.signal).then(
      (data) => setState({ url, data, problem: null }),
      (error: unknown) => {
        if (!abort.signal.aborted) setState((before) => ({ url, data: before.url === url ? before.data : null, problem: problemOf(error) }));
      },
    );
    return () => abort.abort();
  }, [url, turn, missed]);
  const reload = useCallback(() => setTurn((before) => before + 1), []);
  const set = useCallback((change: (data: T) => T) => setState((before) => (before.data === null ? before : { ...before, data: change(before.data) })), []);
  return { data: state.url === url ? state.data : null, problem: state.url === url ? state.problem : null, reload, set };
}

/** Calls `hears` of everything that happens while the page is open. */
export function useLive(hears: (live: Live) => void): void {
  const latest = useRef(hears);
  latest.current = hears;
  useEffect(() => hear((live) => latest.current(live)), []);
}

/** Calls `action` soon after it was asked for, and no more often than every `interval` milliseconds. */
export function useThrottled(action: () => void, interval: number): () => void {
  const latest = useRef(action);
  latest.current = action;
  const state = useRef({ timer: 0, at: 0 });
  useEffect(() => () => window.clearTimeout(state.current.timer), []);
  return useCallback(() => {
    const { timer, at } = state.current;
    if (timer) return;
    const wait = Math.max(0, at + interval - Date.now());
    state.current.timer = window.setTimeout(() => {
      state.current = { timer: 0, at: Date.now() };
      latest.current();
    }, wait);
  }, [interval]);
}
