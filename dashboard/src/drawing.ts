// Assets as drawings, pure: what hangs together, or is of one video, is one drawing, laid out from left to right, each from
// what it was made.

import { graphlib, layout } from '@dagrejs/dagre';

import type { Asset } from '../../index.js';

export const NODE = { width: 190, height: 40 };
/** So many of one kind, numbered, are one node: the captions of a film. */
const LEAST_GROUPED = 4;
/** What has more nodes is laid out in plain columns: finding the fewest crossings takes seconds, and nobody sees them. */
const MOST_UNCROSSED = 250;

export interface Placed {
  key: string;
  /** What stands in it; several: numbered ones of a kind; none: no run makes it. */
  assets: readonly Asset[];
  staleCount: number;
  x: number;
  y: number;
}

export interface Drawing {
  nodes: Placed[];
  /** Each with the height of its ends. */
  edges: { d: string; isStale: boolean; from: number; to: number }[];
  width: number;
  height: number;
  staleCount: number;
}

/** `full_frames` of `annotations://v1/full_frames`. */
export function shortName(key: string): string {
  if (key.startsWith('video://')) return 'video';
  return key.startsWith('annotations://') ? key.slice(key.indexOf('/', 'annotations://'.length) + 1) : key;
}

/** The video that an asset is of, if it is of one. */
export function videoOf(key: string): string | null {
  const segment = /^(?:video|annotations):\/\/([^/]*)/.exec(key)?.[1];
  return segment === undefined ? null : decodeURIComponent(segment);
}

interface Node {
  assets: Asset[];
  upstreams: Set<string>;
}

/** What hangs together, those with something stale first. */
export function drawingsOf(assets: readonly Asset[]): Drawing[] {
  const nodes = nodesOf(assets);
  const neighbours = new Map<string, Set<string>>([...nodes.keys()].map((key) => [key, new Set()]));
  for (const [key, { upstreams }] of nodes) {
    for (const upstream of upstreams) {
      neighbours.get(key)!.add(upstream);
      neighbours.get(upstream)!.add(key);
    }
  }
  const ofVideo = new Map<string, string>();
  for (const key of nodes.keys()) {
    const video = videoOf(key);
    if (video === null) continue;
    const first = ofVideo.get(video) ?? key;
    ofVideo.set(video, first);
    neighbours.get(first)!.add(key);
    neighbours.get(key)!.add(first);
  }
  const seen = new Set<string>();
  const shapes = new Map<string, Shape>();
  const drawings: Drawing[] = [];
  for (const start of neighbours.keys()) {
    if (seen.has(start)) continue;
    seen.add(start);
    const keys: string[] = [];
    const open = [start];
    while (open.length > 0) {
      const key = open.pop()!;
      keys.push(key);
      for (const next of neighbours.get(key)!) {
        if (seen.has(next)) continue;
        seen.add(next);
        open.push(next);
      }
    }
    drawings.push(draw(keys.toSorted(), nodes, shapes));
  }
  return drawings.toSorted((one, other) => other.staleCount - one.staleCount);
}

/** Assets by their node; what they were made from has one too. */
function nodesOf(assets: readonly Asset[]): Map<string, Node> {
  const sizes = new Map<string, number>();
  const kindOf = (key: string) => /^(.+)\/\d+$/.exec(key)?.[1];
  for (const { key } of assets) {
    const kind = kindOf(key);
    if (kind !== undefined) sizes.set(kind, (sizes.get(kind) ?? 0) + 1);
  }
  const nodeKey = (key: string) => {
    const kind = kindOf(key);
    return kind !== undefined && (sizes.get(kind) ?? 0) >= LEAST_GROUPED ? kind : key;
  };
  const nodes = new Map<string, Node>();
  const node = (key: string) => {
    const known = nodes.get(key) ?? { assets: [], upstreams: new Set() };
    nodes.set(key, known);
    return known;
  };
  for (const asset of assets) {
    const key = nodeKey(asset.key);
    const { assets: own, upstreams } = node(key);
    own.push(asset);
    for (const upstream of asset.upstreams) {
      const from = nodeKey(upstream.key);
      if (from === key) continue;
      upstreams.add(from);
      node(from);
    }
  }
  return nodes;
}

interface Shape {
  places: { x: number; y: number }[];
  paths: string[];
  width: number;
  height: number;
}

function draw(keys: readonly string[], nodes: ReadonlyMap<string, Node>, shapes: Map<string, Shape>): Drawing {
  const places = new Map(keys.map((key, at) => [key, at]));
  const edges = keys.flatMap((key) => [...nodes.get(key)!.upstreams].map((from) => ({ from, to: key })));
  // Equal names with equal edges are one shape, whatever the video.
  const name = JSON.stringify([keys.map(shortName), edges.map(({ from, to }) => [places.get(from), places.get(to)])]);
  let shape = shapes.get(name);
  if (shape === undefined) {
    const numbered = edges.map(({ from, to }): [number, number] => [places.get(from)!, places.get(to)!]);
    shape = keys.length > MOST_UNCROSSED ? columns(keys.length, numbered) : uncrossed(keys.length, numbered);
    shapes.set(name, shape);
  }
  const staleOf = (key: string) => nodes.get(key)!.assets.filter((asset) => asset.staleBecause.length > 0).length;
  const placed = keys.map((key, at) => ({ key, assets: nodes.get(key)!.assets, staleCount: staleOf(key), ...shape.places[at]! }));
  const isStale = new Set(placed.filter((node) => node.staleCount > 0).map((node) => node.key));
  return {
    nodes: placed,
    edges: edges.map(({ from, to }, at) => ({ d: shape.paths[at]!, isStale: isStale.has(to), from: placed[places.get(from)!]!.y, to: placed[places.get(to)!]!.y })),
    width: shape.width,
    height: shape.height,
    staleCount: placed.reduce((sum, one) => sum + one.staleCount, 0),
  };
}

const GAP = { x: 44, y: 14 };
const MARGIN = 4;
/** The head of an arrow that comes from the left. */
const HEAD = 'm-6,-4l6,4l-6,4';

type Point = Shape['places'][number];

/** From the right of a box to the left of another, level at each of its points. */
function pathOf(from: Point, between: readonly Point[], to: Point): string {
  let last = { x: from.x + NODE.width / 2, y: from.y };
  let path = `M${last.x},${last.y}`;
  for (const point of [...between, { x: to.x - NODE.width / 2, y: to.y }]) {
    const middle = (last.x + point.x) / 2;
    path += `C${middle},${last.y} ${middle},${point.y} ${point.x},${point.y}`;
    last = point;
  }
  return path + HEAD;
}

function uncrossed(nodes: number, edges: readonly [number, number][]): Shape {
  const graph = new graphlib.Graph();
  graph.setGraph({ rankdir: 'LR', nodesep: GAP.y, ranksep: GAP.x, marginx: MARGIN, marginy: MARGIN });
  graph.setDefaultEdgeLabel(() => ({}));
  for (let at = 0; at < nodes; at += 1) graph.setNode(String(at), { ...NODE });
  for (const [from, to] of edges) graph.setEdge(String(from), String(to));
  layout(graph);
  const { width = 0, height = 0 } = graph.graph() as { width?: number; height?: number };
  const places = Array.from({ length: nodes }, (_, at) => {
    const { x, y } = graph.node(String(at)) as { x: number; y: number };
    return { x, y };
  });
  return {
    places,
    paths: edges.map(([from, to]) => {
      // Its first and last points lie anywhere on the boxes' edges; those in between lead it past other boxes.
      const { points } = graph.edge(String(from), String(to)) as { points: { x: number; y: number }[] };
      return pathOf(places[from]!, points.length > 3 ? points.slice(1, -1) : [], places[to]!);
    }),
    width: Math.ceil(width),
    height: Math.ceil(height),
  };
}

/** Each node one column after the last of what it was made from, in the order of their names. */
function columns(nodes: number, edges: readonly [number, number][]): Shape {
  const column = Array.from({ length: nodes }, () => 0);
  // As often as the longest way has steps; a circle, which lineage cannot have, would end too.
  for (let turn = 0, isChanged = true; isChanged && turn < nodes; turn += 1) {
    isChanged = false;
    for (const [from, to] of edges) {
      if (column[to]! > column[from]!) continue;
      column[to] = column[from]! + 1;
      isChanged = true;
    }
  }
  const filled: number[] = [];
  const places = column.map((x) => {
    const y = filled[x] ?? 0;
    filled[x] = y + 1;
    return { x: MARGIN + NODE.width / 2 + x * (NODE.width + GAP.x), y: MARGIN + NODE.height / 2 + y * (NODE.height + GAP.y) };
  });
  return {
    places,
    paths: edges.map(([from, to]) => pathOf(places[from]!, [], places[to]!)),
    width: Math.max(...places.map(({ x }) => x)) + NODE.width / 2 + MARGIN,
    height: Math.max(...places.map(({ y }) => y)) + NODE.height / 2 + MARGIN,
  };
}
