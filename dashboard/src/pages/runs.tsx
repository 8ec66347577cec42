// All runs: which are wanted stands in the address; what can be done with those that are chosen, or with all that match.

import type { JSX } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';

import type { FlowRun, StateType } from '../../../index.js';
import type { BulkAction, BulkResult, Problem, RunsFilter, RunsPage as Page } from '../api.js';
import { mayChange } from '../actions.js';
import { address, change, problemOf, read } from '../client.js';
import { canCancel, canRetry, count, shortId } from '../format.js';
import { useKeys } from '../keys.js';
import { about, revision, runsOf } from '../live.js';
import { ask, Empty, Loading, ProblemNote, RunTable, STATE_WORDS } from '../parts.js';
import { useLive, useThrottled } from '../resource.js';
import { query, setQuery } from '../router.js';
import { FirstFilm } from './home.js';

interface Listed {
  runs: FlowRun[];
  before: string | null;
}

/** Whether a run that is new belongs here; a text is the server's to look for. */
function isWanted(run: FlowRun, filter: RunsFilter): boolean {
  return (
    (filter.flow === null || run.flowName === filter.flow) &&
    (filter.video === null || run.videoId === filter.video) &&
    (filter.states.length === 0 || filter.states.includes(run.state.type)) &&
    filter.text === null
  );
}

function filterOf(parameters: URLSearchParams): RunsFilter {
  const words = (parameters.get('state') ?? '').toUpperCase().split(',');
  return {
    flow: parameters.get('flow'),
    video: parameters.get('video'),
    states: words.filter((word): word is StateType => word in STATE_WORDS),
    text: parameters.get('text'),
  };
}

export function RunsPage(): JSX.Element {
  const filter = filterOf(query.value);
  const parameters = { flow: filter.flow, video: filter.video, state: filter.states.join(','), text: filter.text };
  const url = address('/api/runs', parameters);
  const [listed, setListed] = useState<Listed | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [areAllChosen, setAllChosen] = useState(false);
  const reading = useRef<AbortController | null>(null);
  const missed = revision.value;

  const fetchPage = async (before: string | null) => {
    if (before !== null && reading.current) return;
    reading.current?.abort();
    const abort = (reading.current = new AbortController());
    try {
      const page = await read<Page>(address('/api/runs', { ...parameters, before }), abort.signal);
      setProblem(null);
      setListed((known) => {
        if (before === null || known === null) return page;
        // Asked for twice, it counts once.
        return known.before === before ? { runs: [...known.runs, ...page.runs], before: page.before } : known;
      });
    } catch (error) {
      if (!abort.signal.aborted) setProblem(problemOf(error));
    } finally {
      if (reading.current === abort) reading.current = null;
    }
  };
  useEffect(() => {
    // What was listed stays until what is wanted has come.
    setChosen(new Set());
    setAllChosen(false);
    void fetchPage(null);
  }, [url]);
  useEffect(() => {
    if (missed > 0) void fetchPage(null);
  }, [missed]);

  // A text that is new is looked for again, now and then.
  const search = useThrottled(() => void fetchPage(null), 5000);
  useLive((live) => {
    const runs = runsOf(live);
    if (runs.length === 0) return;
    if (filter.text !== null) search();
    setListed((known) => known && patched(known, runs, filter));
  });
  const choose = (id: string, isChosen: boolean) => {
    const next = new Set(chosen);
    if (isChosen) next.add(id);
    else next.delete(id);
    setAllChosen(false);
    setChosen(next);
  };
  useKeys({
    x: () => {
      const id = document.activeElement?.closest<HTMLElement>('[data-run]')?.dataset.run;
      if (id && mayChange()) choose(id, !chosen.has(id));
    },
  });
  const runs = listed?.runs ?? [];
  const isFiltered = filter.flow !== null || filter.video !== null || filter.states.length > 0 || filter.text !== null;
  return (
    <>
      <h1>Runs</h1>
      <Filters filter={filter} />
      {mayChange() && runs.length > 0 ? (
        <Bulk
          runs={runs}
          chosen={chosen}
          areAllChosen={areAllChosen}
          hasMore={listed?.before != null}
          filter={filter}
          chooseShown={(isChosen) => {
            setAllChosen(false);
            setChosen(new Set(isChosen ? runs.map((run) => run.flowRunId) : []));
          }}
          chooseAll={() => setAllChosen(true)}
          done={() => {
            setChosen(new Set());
            setAllChosen(false);
          }}
        />
      ) : null}
      {problem ? <ProblemNote problem={problem} retry={() => void fetchPage(null)} /> : null}
      {listed === null && !problem ? <Loading /> : null}
      {listed && runs.length === 0 && listed.before === null ? (
        isFiltered ? (
          <Empty title="No run matches.">
            <p>
              <a href="/runs">Show all runs</a>
            </p>
          </Empty>
        ) : (
          <FirstFilm />
        )
      ) : null}
      {runs.length > 0 ? (
        <RunTable
          runs={runs}
          caption="Flow runs, newest first"
          choice={
            mayChange()
              ? (run) => (
                  <input
                    type="checkbox"
                    checked={areAllChosen || chosen.has(run.flowRunId)}
                    aria-label={`Choose ${run.flowName} ${shortId(run.flowRunId)}`}
                    onChange={(event) => choose(run.flowRunId, event.currentTarget.checked)}
                  />
                )
              : undefined
          }
        />
      ) : null}
      {listed?.before ? <More key={listed.before} more={() => void fetchPage(listed.before)} /> : null}
    </>
  );
}

/** What is known with what is new; new runs that belong here come first. */
function patched(known: Listed, runs: readonly FlowRun[], filter: RunsFilter): Listed {
  const fresh = new Map(runs.map((run) => [run.flowRunId, run]));
  const kept = known.runs.map((run) => {
    const found = fresh.get(run.flowRunId);
    fresh.delete(run.flowRunId);
    return found ?? run;
  });
  const oldest = known.before;
  const added = [...fresh.values()].filter((run) => isWanted(run, filter) && (oldest === null || run.flowRunId > oldest));
  if (added.length === 0) return { ...known, runs: kept };
  return { ...known, runs: [...added, ...kept].toSorted((one, other) => (one.flowRunId < other.flowRunId ? 1 : -1)) };
}

/** Asks for more as soon as it comes into sight. */
function More({ more }: { more: () => void }): JSX.Element {
  const end = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) more();
    }, { rootMargin: '600px' });
    if (end.current) observer.observe(end.current);
    return () => observer.disconnect();
  }, []);
  return (
    <button type="button" class="more" ref={end} onClick={more}>
      More
    </button>
  );
}

function Filters({ filter }: { filter: RunsFilter }): JSX.Element {
  const timer = useRef(0);
  const later = (name: string, value: string) => {
    window.clearTimeout(timer.current);
    timer.current = window.setTimeout(() => setQuery({ [name]: value.trim() }), 250);
  };
  useEffect(() => () => window.clearTimeout(timer.current), []);
  const toggle = (state: StateType) => {
    const states = filter.states.includes(state) ? filter.states.filter((other) => other !== state) : [...filter.states, state];
    setQuery({ state: states.join(',').toLowerCase() });
  };
  return (
    <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <label>
        <span class="hidden">Text in id, video, message or parameters</span>
        <input type="search" data-search placeholder="Id, video, message, parameters" value={filter.text ?? ''} onInput={(event) => later('text', event.currentTarget.value)} />
      </label>
      <label>
        <span>Flow</span>
        <select value={filter.flow ?? ''} onChange={(event) => setQuery({ flow: event.currentTarget.value })}>
          <option value="">any</option>
          {[...new Set([...(about.value?.flows.map((flow) => flow.name) ?? []), ...(filter.flow === null ? [] : [filter.flow])])].map((name) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      </label>
      {filter.video === null ? null : (
        <button type="button" class="chip" aria-pressed="true" onClick={() => setQuery({ video: null })}>
          video {filter.video} <span aria-hidden="true">×</span>
        </button>
      )}
      <div class="chips" role="group" aria-label="States">
        {(Object.keys(STATE_WORDS) as StateType[]).map((state) => (
          <button key={state} type="button" class="chip" data-state={state} aria-pressed={filter.states.includes(state)} onClick={() => toggle(state)}>
            {STATE_WORDS[state]}
          </button>
        ))}
      </div>
    </form>
  );
}

interface BulkProps {
  runs: readonly FlowRun[];
  chosen: ReadonlySet<string>;
  areAllChosen: boolean;
  hasMore: boolean;
  filter: RunsFilter;
  chooseShown: (isChosen: boolean) => void;
  chooseAll: () => void;
  done: () => void;
}

function Bulk({ runs, chosen, areAllChosen, hasMore, filter, chooseShown, chooseAll, done }: BulkProps): JSX.Element {
  const shown = runs.filter((run) => areAllChosen || chosen.has(run.flowRunId));
  const isComplete = areAllChosen ? !hasMore : true;
  const offer = (action: BulkAction) => {
    const possible = shown.filter((run) => (action === 'cancel' ? canCancel(run.state.type) : canRetry(run)));
    const what = areAllChosen && hasMore ? 'All runs that match, also those that are not shown,' : count(possible.length, 'run');
    ask({
      title: action === 'cancel' ? 'Cancel these runs?' : 'Retry these runs?',
      says:
        action === 'cancel'
          ? `${what} will be cancelled: those that wait at once, those that run as soon as they have stopped. Runs that have ended stay as they are.`
          : `${what} will be queued again. Only those that failed, crashed or were cancelled are; the others stay as they are.`,
      button: action === 'cancel' ? 'Cancel them' : 'Retry them',
      act: async () => {
        const ids = areAllChosen ? null : possible.map((run) => run.flowRunId);
        const result = await change<BulkResult>('/api/runs', { action, ids, filter });
        done();
        const said = `${count(result.done, 'run')} ${action === 'cancel' ? 'cancelled or being stopped' : 'queued again'}`;
        if (result.problem) throw new Error(`${said}; ${result.failed} failed: ${result.problem.message}`);
        return `${said}${result.skipped > 0 ? `, ${result.skipped} left as they are${result.skippedBecause === null ? '' : ` (${result.skippedBecause})`}` : ''}${result.hasMore ? '. More match: do it again for those' : ''}.`;
      },
    });
  };
  return (
    <div class="bulk">
      <label>
        <input type="checkbox" checked={shown.length === runs.length} onChange={(event) => chooseShown(event.currentTarget.checked)} /> Choose all shown
      </label>
      {shown.length > 0 ? (
        <>
          <span>{isComplete ? `${count(shown.length, 'run')} chosen` : 'All that match are chosen'}</span>
          {hasMore && !areAllChosen && shown.length === runs.length ? (
            <button type="button" class="small" onClick={chooseAll}>
              Choose all that match
            </button>
          ) : null}
          <button type="button" class="small" onClick={() => offer('cancel')}>
            Cancel…
          </button>
          <button type="button" class="small" onClick={() => offer('retry')}>
            Retry…
          </button>
        </>
      ) : null}
    </div>
  );
}
