// A video: its frames with what was read on them, its strip over time, its runs and what was made of it.

import type { JSX } from 'preact';

import type { Caption, Captions, VideoPage as Page } from '../api.js';
import { mayChange, runStale } from '../actions.js';
import { count } from '../format.js';
import { overview, runsOf } from '../live.js';
import { Empty, Loading, ProblemNote, ProgressBar, RunLink, RunTable, StateBadge } from '../parts.js';
import { useLive, useResource, useThrottled } from '../resource.js';
import { lineagePlace } from '../router.js';
import { FullFrames } from './frames.js';
import { Graph } from './graph.js';
import { Strip } from './strip.js';

const PARTS = [
  ['frames', 'Frames'],
  ['strip', 'Strip'],
  ['captions', 'Captions'],
  ['made', 'Lineage'],
  ['runs', 'Runs'],
  ['rows', 'Rows'],
] as const;

/** Without digits that say nothing: `29.97003`. */
const trimmed = (value: string): string => (/^-?\d+\.\d{6,}$/.test(value) ? String(Number(Number(value).toPrecision(8))) : value);

/** The same each time, so that nothing is drawn anew for it. */
const NONE: readonly Caption[] = [];

export function VideoPage({ id }: { id: string }): JSX.Element {
  const page = useResource<Page>(`/api/video?id=${encodeURIComponent(id)}`);
  const reload = useThrottled(page.reload, 1500);
  const captionCount = page.data?.pictures?.captionCount ?? 0;
  const read = useResource<Captions>(captionCount > 0 ? `/api/video/captions?id=${encodeURIComponent(id)}` : null);
  const reloadCaptions = useThrottled(read.reload, 2000);
  useLive((live) => {
    const concerned = runsOf(live).filter((run) => run.videoId === id);
    if (concerned.some((run) => page.data?.runs.find((known) => known.flowRunId === run.flowRunId)?.state.name !== run.state.name)) reload();
    // Each caption is there as soon as it is read.
    if (captionCount > 0 && concerned.some((run) => run.flowName === 'caption-median-ocr')) reloadCaptions();
  });
  if (!page.data) return page.problem ? <ProblemNote problem={page.problem} retry={page.reload} /> : <Loading />;
  const { pictures, runs, assets, problem, fileName } = page.data;
  const active = (overview.value?.active ?? []).filter((run) => run.videoId === id);
  const captions = read.data?.captions ?? NONE;
  const isThere = { frames: pictures?.full != null, strip: pictures?.cropped != null, captions: captions.length > 0, made: true, runs: true, rows: pictures !== null };
  const stale = assets.filter((asset) => asset.staleBecause.length > 0);
  return (
    <>
      <div class="title">
        <h1>
          {id} <span class="quiet">{fileName === id ? '' : fileName}</span>
        </h1>
        <nav class="within" aria-label="On this page">
          {PARTS.filter(([part]) => isThere[part]).map(([part, name]) => (
            <a key={part} href={`#${part}`}>
              {name}
            </a>
          ))}
        </nav>
      </div>
      {active.map((run) => (
        <div class="note" key={run.flowRunId}>
          <p class="line">
            <RunLink run={run}>{run.flowName}</RunLink> <StateBadge state={run.state} />
          </p>
          <ProgressBar run={run} />
        </div>
      ))}
      {problem ? <ProblemNote problem={problem} retry={page.reload} /> : null}
      {pictures?.full ? (
        <FullFrames key={pictures.full.version} video={id} pictures={pictures} frames={pictures.full} />
      ) : problem ? null : (
        <Empty title="No full frames yet.">
          <p>{active.length > 0 ? 'They are written when the run has read them all.' : 'The flow full-frames makes them: a frame every 10 s, with the text on it.'}</p>
        </Empty>
      )}
      {read.problem ? <ProblemNote problem={read.problem} retry={read.reload} /> : null}
      {pictures?.cropped || (pictures && captions.length > 0) ? (
        <Strip key={pictures.cropped?.version} video={id} frames={pictures.cropped} rateHz={pictures.indexRateHz} captions={captions} />
      ) : null}
      {pictures?.full && !pictures.cropped ? (
        <Empty title="No caption strip yet.">
          <p>The flow crop-frames makes it: 10 frames a second of the strip with the captions.</p>
        </Empty>
      ) : null}
      <section aria-labelledby="made">
        <h2 id="made">
          Made of what <a href={lineagePlace(id)}>lineage</a>
          {stale.length > 0 && mayChange() ? (
            <button type="button" class="small" onClick={() => runStale(id, stale.map((asset) => asset.key), page.reload)}>
              Run what is stale…
            </button>
          ) : null}
        </h2>
        {assets.length === 0 ? <p class="quiet">No run of it has completed.</p> : <Graph assets={assets} />}
      </section>
      <section aria-labelledby="runs">
        <h2 id="runs">
          Runs <a href={`/runs?video=${encodeURIComponent(id)}`}>{runs.length < 100 ? count(runs.length, 'run') : 'all runs'}</a>
        </h2>
        <RunTable runs={runs.slice(0, 12)} caption={`Runs of ${id}`} isOfOneVideo />
      </section>
      {pictures ? (
        <section aria-labelledby="rows">
          <h2 id="rows">In its annotations.db</h2>
          <p class="quiet">
            <code>{page.data.dbPath}</code> · {count(pictures.full?.count ?? 0, 'full frame')} · {count(pictures.boxCount, 'text box', 'text boxes')} · {count(pictures.cropped?.count ?? 0, 'cropped frame')} ·{' '}
            {count(pictures.captionCount, 'caption')}
          </p>
          <div class="rows">
            {pictures.rows.map(([table, fields]) => (
              <div key={table}>
                <h3>{table}</h3>
                <dl class="facts">
                  {fields.map(([name, value]) => (
                    <div key={name}>
                      <dt>{name}</dt>
                      <dd>{trimmed(value)}</dd>
                    </div>
                  ))}
                </dl>
              </div>
            ))}
          </div>
        </section>
      ) : null}
    </>
  );
}
