// Assets as a graph, from left to right: each from what it was made. What hangs together is a drawing of its own, so that
// drawings out of sight cost nothing, and those of one shape are laid out once.

import { graphlib, layout } from '@dagrejs/dagre';
import type { JSX } from 'preact';
import { useMemo, useState } from 'preact/hooks';

import type { Asset } from '../../../index.js';
import { count } from '../format.js';
import { Ago } from '../parts.js';
import { runPlace, videoPlace } from '../router.js';

const NODE = { width: 190, height: 40 };

interface Placed {
  key: string;
  asset: Asset | undefined;
  x: number;
  y: number;
}

interface Drawing {
  nodes: Placed[];
  edges: { d: string; isStale: boolean }[];
  width: number;
  height: number;
  staleCount: number;
}

/** `full_frames` of `annotations://v1/full_frames`. */
function shortName(key: string): string {
  if (key.startsWith('video://')) return 'video';
  return key.startsWith('annotations://') ? key.slice(key.lastIndexOf('/') + 1) : key;
}

/** The video that an asset is of, if it is of one. */
function videoOf(key: string): string | null {
  const segment = /^(?:video|annotations):\/\/([^/]*)/.exec(key)?.[1];
  return segment === undefined ? null : decodeURIComponent(segment);
}

export function Graph({ assets }: { assets: readonly Asset[] }): JSX.Element {
  const drawings = useMemo(() => drawingsOf(assets), [assets]);
  const [chosen, setChosen] = useState<string | null>(null);
  return (
    <div class="graphs">
      {drawings.map((drawing) => (
        <Drawn key={drawing.nodes[0]?.key} drawing={drawing} isOneOfMany={drawings.length > 1} chosen={chosen} choose={setChosen} />
      ))}
    </div>
  );
}

interface DrawnProps {
  drawing: Drawing;
  isOneOfMany: boolean;
  chosen: string | null;
  choose: (key: string | null) => void;
}

function Drawn({ drawing, isOneOfMany, chosen, choose }: DrawnProps): JSX.Element {
  const asset = drawing.nodes.find((node) => node.key === chosen)?.asset;
  const videos = [...new Set(drawing.nodes.flatMap((node) => videoOf(node.key) ?? []))];
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
        <div class="plane" style={{ width: `${drawing.width}px`, height: `${drawing.height}px` }}>
          <svg width={drawing.width} height={drawing.height} aria-hidden="true">
            {drawing.edges.map((edge, at) => (
              <path key={at} d={edge.d} class={edge.isStale ? 'edge stale' : 'edge'} />
            ))}
          </svg>
          {drawing.nodes.map(({ key, asset: made, x, y }) => (
            <button
              key={key}
              type="button"
              data-row
              data-asset={key}
              class={made === undefined ? 'node unknown' : made.staleBecause.length > 0 ? 'node stale' : 'node'}
              aria-pressed={chosen === key}
              style={{ left: `${x - NODE.width / 2}px`, top: `${y - NODE.height / 2}px` }}
              title={key}
              onClick={() => choose(chosen === key ? null : key)}
            >
              <span>{shortName(key)}</span>
              <small>{made === undefined ? 'made by no run' : made.staleBecause.length > 0 ? 'stale' : <Ago time={made.materializedAt} />}</small>
            </button>
          ))}
        </div>
      </div>
      {asset ? <Chosen asset={asset} /> : null}
      {drawing.nodes
        .filter((node) => node.asset && node.asset.staleBecause.length > 0)
        .map(({ key, asset: stale }) => (
          <p key={key} class="because">
            <b class="stale">{shortName(key)} is stale</b>: {stale?.staleBecause.join('; ')}
          </p>
        ))}
    </div>
  );
}

function Chosen({ asset }: { asset: Asset }): JSX.Element {
  const metadata = typeof asset.metadata === 'object' && asset.metadata !== null ? Object.entries(asset.metadata) : [];
  return (
    <div class="chosen">
      <p>
        <code>{asset.key}</code> made by <a href={runPlace(asset.flowRunId)}>{asset.flowName}</a> <Ago time={asset.materializedAt} />
        {asset.upstreams.length > 0 ? ` from ${count(asset.upstreams.length, 'asset')}` : ''}
      </p>
      <dl class="facts">
        {metadata.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{typeof value === 'string' ? value : JSON.stringify(value)}</dd>
          </div>
        ))}
      </dl>
    </div>
  );
}

/** What hangs together, those with something stale first. */
function drawingsOf(assets: readonly Asset[]): Drawing[] {
  const byKey = new Map(assets.map((asset) => [asset.key, asset]));
  const neighbours = new Map<string, Set<string>>();
  const link = (one: string, other: string) => {
    for (const [from, to] of [[one, other], [other, one]] as const) {
      const known = neighbours.get(from) ?? new Set();
      known.add(to);
      neighbours.set(from, known);
    }
  };
  for (const asset of assets) {
    if (!neighbours.has(asset.key)) neighbours.set(asset.key, new Set());
    for (const { key } of asset.upstreams) link(asset.key, key);
  }
  const seen = new Set<string>();
  const shapes = new Map<string, Shape>();
  const drawings: Drawing[] = [];
  for (const start of neighbours.keys()) {
    if (seen.has(start)) continue;
    const keys: string[] = [];
    const open = [start];
    while (open.length > 0) {
      const key = open.pop()!;
      if (seen.has(key)) continue;
      seen.add(key);
      keys.push(key);
      open.push(...(neighbours.get(key) ?? []));
    }
    drawings.push(draw(keys.toSorted(), byKey, shapes));
  }
  return drawings.toSorted((one, other) => other.staleCount - one.staleCount);
}

interface Shape {
  places: { x: number; y: number }[];
  paths: string[];
  width: number;
  height: number;
}

function draw(keys: readonly string[], byKey: ReadonlyMap<string, Asset>, shapes: Map<string, Shape>): Drawing {
  const places = new Map(keys.map((key, at) => [key, at]));
  const edges = keys.flatMap((key) => (byKey.get(key)?.upstreams ?? []).map((upstream) => ({ from: upstream.key, to: key })));
  // Equal names with equal edges are one shape, whatever the video.
  const name = JSON.stringify([keys.map(shortName), edges.map(({ from, to }) => [places.get(from), places.get(to)])]);
  let shape = shapes.get(name);
  if (shape === undefined) {
    const numbered = edges.map(({ from, to }): [number, number] => [places.get(from)!, places.get(to)!]);
    shape = shapeOf(keys.length, numbered);
    shapes.set(name, shape);
  }
  const isStale = (key: string) => (byKey.get(key)?.staleBecause.length ?? 0) > 0;
  return {
    nodes: keys.map((key, at) => ({ key, asset: byKey.get(key), ...shape.places[at]! })),
    edges: edges.map(({ to }, at) => ({ d: shape.paths[at]!, isStale: isStale(to) })),
    width: shape.width,
    height: shape.height,
    staleCount: keys.filter(isStale).length,
  };
}

function shapeOf(nodes: number, edges: readonly [number, number][]): Shape {
  const graph = new graphlib.Graph();
  graph.setGraph({ rankdir: 'LR', nodesep: 14, ranksep: 44, marginx: 4, marginy: 4 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (let at = 0; at < nodes; at += 1) graph.setNode(String(at), { ...NODE });
  for (const [from, to] of edges) graph.setEdge(String(from), String(to));
  layout(graph);
  const { width = 0, height = 0 } = graph.graph() as { width?: number; height?: number };
  const path = ([from, to]: readonly [number, number]) => {
    const points = (graph.edge(String(from), String(to)) as { points: { x: number; y: number }[] }).points;
    return `M${points.map(({ x, y }) => `${Math.round(x)},${Math.round(y)}`).join('L')}`;
  };
  return {
    places: Array.from({ length: nodes }, (_, at) => {
      const { x, y } = graph.node(String(at)) as { x: number; y: number };
      return { x, y };
    }),
    paths: edges.map(path),
    width: Math.ceil(width),
    height: Math.ceil(height),
  };
}
