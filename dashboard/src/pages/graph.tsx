// Lineage as graphs. Drawings out of sight cost nothing, and those of one shape are laid out once.

import type { JSX, RefObject } from 'preact';
import { useCallback, useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { Asset } from '../../../index.js';
import { count } from '../format.js';
import { drawingsOf, NODE, shortName, videoOf, type Drawing, type Placed } from '../drawing.js';
import { Ago, End } from '../parts.js';
import { runPlace, videoPlace } from '../router.js';

/** Drawings that are made at first, and added whenever the end comes into sight. */
const SHOWN = 40;

export function Graph({ assets }: { assets: readonly Asset[] }): JSX.Element {
  const drawings = useMemo(() => drawingsOf(assets), [assets]);
  const [chosen, setChosen] = useState<string | null>(null);
  const [limit, setLimit] = useState(SHOWN);
  return (
    <div class="graphs">
      {drawings.slice(0, limit).map((drawing) => (
        <Drawn key={drawing.nodes[0]?.key} drawing={drawing} isOneOfMany={drawings.length > 1} chosen={drawing.nodes.find((node) => node.key === chosen)} choose={setChosen} />
      ))}
      {limit < drawings.length ? <End key={limit} reached={() => setLimit(limit + SHOWN)} /> : null}
    </div>
  );
}

interface DrawnProps {
  drawing: Drawing;
  isOneOfMany: boolean;
  chosen: Placed | undefined;
  choose: (key: string | null) => void;
}

/** Nodes whose causes are written out below the drawing. */
const MOST_CAUSES = 20;

/** A drawing with more nodes than this is drawn as far as it is near the window. */
const MOST_DRAWN = 300;
const STEP_PX = 1000;

/** Whether a height in an element is near the window; the same function as long as that does not change. */
function useNear(element: RefObject<HTMLElement | null>, isLarge: boolean): (y: number) => boolean {
  const [from, setFrom] = useState(-STEP_PX);
  useEffect(() => {
    if (!isLarge) return undefined;
    const look = () => {
      const top = element.current?.getBoundingClientRect().top ?? 0;
      setFrom(Math.floor(-top / STEP_PX - 1) * STEP_PX);
    };
    look();
    window.addEventListener('scroll', look, { passive: true });
    window.addEventListener('resize', look);
    return () => {
      window.removeEventListener('scroll', look);
      window.removeEventListener('resize', look);
    };
  }, [isLarge]);
  const to = from + 3 * STEP_PX + window.innerHeight;
  return useCallback((y: number) => !isLarge || (y >= from && y <= to), [isLarge, from, to]);
}

function Drawn({ drawing, isOneOfMany, chosen, choose }: DrawnProps): JSX.Element {
  const plane = useRef<HTMLDivElement>(null);
  const isNear = useNear(plane, drawing.nodes.length > MOST_DRAWN);
  // What is chosen in another drawing, and what comes in live, draws nothing anew here.
  return useMemo(() => {
    const videos = [...new Set(drawing.nodes.flatMap((node) => videoOf(node.key) ?? []))];
    const stale = drawing.nodes.filter((node) => node.staleCount > 0);
    return (
      <div class="graph">
        {isOneOfMany && videos.length > 0 ? (
          <p class="of">
            {videos.slice(0, 5).map((video) => (
              <a key={video} href={videoPlace(video)}>
                {video}
              </a>
            ))}
          </p>
        ) : null}
        <div class="scroll" tabIndex={0} role="group" aria-label="Lineage, from left to right">
          <div class="plane" ref={plane} style={{ width: `${drawing.width}px`, height: `${drawing.height}px` }}>
            <svg width={drawing.width} height={drawing.height} aria-hidden="true">
              {drawing.edges.map((edge, at) => (isNear(edge.from) || isNear(edge.to) ? <path key={at} d={edge.d} class={edge.isStale ? 'edge stale' : 'edge'} /> : null))}
            </svg>
            {drawing.nodes.filter((node) => isNear(node.y)).map((node) => (
              <button
                key={node.key}
                type="button"
                data-row
                data-asset={node.key}
                class={node.assets.length === 0 ? 'node unknown' : node.staleCount > 0 ? 'node stale' : 'node'}
                aria-pressed={chosen === node}
                style={{ left: `${node.x - NODE.width / 2}px`, top: `${node.y - NODE.height / 2}px` }}
                title={node.key}
                onClick={() => choose(chosen === node ? null : node.key)}
              >
                <span>
                  {shortName(node.key)}
                  {node.assets.length > 1 ? ` × ${node.assets.length}` : ''}
                </span>
                <small>
                  <Stands node={node} />
                </small>
              </button>
            ))}
          </div>
        </div>
        {chosen ? <Chosen node={chosen} /> : null}
        {stale.slice(0, MOST_CAUSES).map((node) => (
          <p key={node.key} class="because">
            <b class="stale">
              {shortName(node.key)} {node.assets.length > 1 ? `: ${node.staleCount} of ${node.assets.length} are stale` : 'is stale'}
            </b>
            : {node.assets.find((asset) => asset.staleBecause.length > 0)?.staleBecause.join('; ')}
          </p>
        ))}
        {stale.length > MOST_CAUSES ? <p class="quiet">and {stale.length - MOST_CAUSES} more: choose one to read why</p> : null}
      </div>
    );
  }, [drawing, isOneOfMany, chosen, isNear]);
}

function Stands({ node: { assets, staleCount } }: { node: Placed }): JSX.Element {
  if (assets.length === 0) return <>made by no run</>;
  if (staleCount > 0) return <>{assets.length > 1 ? `${staleCount} stale` : 'stale'}</>;
  return <Ago time={newest(assets).materializedAt} />;
}

const newest = (assets: readonly Asset[]): Asset => assets.reduce((one, other) => (other.version > one.version ? other : one));

/** Assets of a node that are listed. */
const MOST_LISTED = 100;

function Chosen({ node }: { node: Placed }): JSX.Element {
  return (
    <div class="chosen">
      {node.assets.length === 0 ? (
        <p>
          <code>{node.key}</code> is made by no run: it was there.
        </p>
      ) : null}
      {node.assets.slice(0, MOST_LISTED).map((asset) => (
        <About key={asset.key} asset={asset} isAlone={node.assets.length === 1} />
      ))}
      {node.assets.length > MOST_LISTED ? <p class="quiet">and {count(node.assets.length - MOST_LISTED, 'more', 'more')}</p> : null}
    </div>
  );
}

function About({ asset, isAlone }: { asset: Asset; isAlone: boolean }): JSX.Element {
  const metadata = typeof asset.metadata === 'object' && asset.metadata !== null ? Object.entries(asset.metadata) : [];
  return (
    <>
      <p>
        <code>{asset.key}</code> made by <a href={runPlace(asset.flowRunId)}>{asset.flowName}</a> <Ago time={asset.materializedAt} />
        {asset.upstreams.length > 0 ? ` from ${count(asset.upstreams.length, 'asset')}` : ''}
        {!isAlone && asset.staleBecause.length > 0 ? <span class="stale"> stale: {asset.staleBecause.join('; ')}</span> : null}
      </p>
      {isAlone ? (
        <dl class="facts">
          {metadata.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{typeof value === 'string' ? value : JSON.stringify(value)}</dd>
            </div>
          ))}
        </dl>
      ) : null}
    </>
  );
}
