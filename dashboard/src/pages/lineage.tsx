// What was made from what: of one video, or of all.

import type { JSX } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';

import type { Asset } from '../../../index.js';
import type { LineagePage as Page, VideoSummary } from '../api.js';
import { mayChange, runStale } from '../actions.js';
import { address } from '../client.js';
import { count } from '../format.js';
import { Empty, Loading, ProblemNote } from '../parts.js';
import { useLive, useResource, useThrottled } from '../resource.js';
import { query, setQuery, videoPlace } from '../router.js';
import { Graph } from './graph.js';
import { FirstFilm } from './home.js';

/** The same each time, so that nothing is drawn anew for it. */
const NONE: readonly Asset[] = [];

/** So many videos without assets are passed over. */
const MOST_SKIPPED = 20;

export function LineagePage(): JSX.Element {
  const wanted = query.value.get('video');
  const isAll = query.value.get('all') !== null;
  const isStaleOnly = query.value.get('stale') !== null;
  const videos = useResource<VideoSummary[]>('/api/videos');
  // One video unless all are wished: the one that was worked at last, of those of which something was made.
  const [skipped, setSkipped] = useState(0);
  const video = isAll ? null : (wanted ?? videos.data?.[skipped]?.videoId ?? null);
  const isKnown = isAll || video !== null;
  const quick = useResource<Page>(isKnown ? address('/api/lineage', { video }) : null);
  // The layouts take a look into each annotations.db: they come after.
  const page = useResource<Page>(isKnown ? address('/api/lineage', { video, layouts: 'true' }) : null);
  const reload = useThrottled(() => {
    quick.reload();
    page.reload();
  }, 3000);
  useLive((live) => {
    if (live.type === 'runs' && live.runs.some((run) => run.state.type === 'COMPLETED')) reload();
  });
  const isFirstGuess = !isAll && wanted === null;
  useEffect(() => {
    if (isFirstGuess && quick.data?.assets.length === 0 && skipped + 1 < Math.min(MOST_SKIPPED, videos.data?.length ?? 0)) setSkipped(skipped + 1);
  }, [isFirstGuess, quick.data, skipped]);
  // Nothing is drawn anew because of layouts that are as they were.
  const found = useMemo(() => (page.data && JSON.stringify(page.data) !== JSON.stringify(quick.data) ? page.data : quick.data), [page.data, quick.data]);
  const problem = page.problem ?? quick.problem;
  const stale = useMemo(() => found?.assets.filter((asset) => asset.staleBecause.length > 0) ?? [], [found]);
  const runnable = stale.filter((asset) => found?.runnable.includes(asset.key));
  const shown = isStaleOnly ? stale : (found?.assets ?? NONE);
  return (
    <>
      <div class="title">
        <h1>Lineage</h1>
        {runnable.length > 0 && mayChange() ? (
          <div class="buttons">
            <button type="button" class="primary" onClick={() => runStale(video, runnable.map((asset) => asset.key), reload)}>
              Run what is stale…
            </button>
          </div>
        ) : null}
      </div>
      {videos.data?.length === 0 ? null : (
        <form class="filters" onSubmit={(event) => event.preventDefault()}>
          <label>
            <span>Video</span>
            <select value={isAll ? '' : (video ?? '')} onChange={(event) => (event.currentTarget.value === '' ? setQuery({ video: null, all: '1' }) : setQuery({ video: event.currentTarget.value, all: null }))}>
              <option value="">all videos</option>
              {[...new Set([...(wanted === null ? [] : [wanted]), ...(videos.data ?? []).map((one) => one.videoId)])].map((id) => (
                <option key={id} value={id}>
                  {id}
                </option>
              ))}
            </select>
          </label>
          <label>
            <input type="checkbox" checked={isStaleOnly} onChange={(event) => setQuery({ stale: event.currentTarget.checked ? '1' : null })} /> only what is stale
          </label>
          <span class="quiet" role="status">
            {found ? `${count(found.assets.length, 'asset')}, ${stale.length} stale${found.leftOut > 0 ? `; ${count(found.leftOut, 'older one')} left out` : ''}` : ''}
          </span>
          {video === null ? null : <a href={videoPlace(video)}>to the video</a>}
        </form>
      )}
      {problem ? <ProblemNote problem={problem} retry={reload} /> : null}
      {found?.notice ? (
        <p class="quiet" role="status">
          {found.notice}
        </p>
      ) : null}
      {isKnown && found === null && !problem ? <Loading /> : null}
      {videos.data?.length === 0 || (found && found.assets.length === 0) ? (
        <Empty title="Nothing was made yet.">
          <p>A run that completes makes assets: frames of a video, the text on them, a caption strip. Here stands from what each was made, and what is out of date.</p>
        </Empty>
      ) : null}
      {videos.data?.length === 0 ? <FirstFilm /> : null}
      {found && found.assets.length > 0 && isStaleOnly && stale.length === 0 ? <Empty title="Nothing is stale." /> : null}
      <Graph key={video} assets={shown} />
    </>
  );
}
