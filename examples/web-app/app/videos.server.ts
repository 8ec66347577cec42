// The videos: a folder for each, named by an id that this app made, with the film (unless it lies elsewhere) and its
// annotations.db. This process reads and writes that file with its own SQLite; the orchestrator never opens it in here.
// The worker beside us does, in processes of its own, and holds its lock for milliseconds only.

import { randomUUID } from 'node:crypto';
import { createWriteStream, existsSync, mkdirSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';

import type { CropBounds } from '@captionacc/orchestrator';
import Database from 'better-sqlite3';

import schema from './annotations.sql?raw';

const videos = path.resolve(process.env.EXAMPLE_DATA ?? '../../example-data', 'videos');
const films = path.resolve(process.env.EXAMPLE_FILMS ?? '../../.cache/films');
const MAX_UPLOAD_BYTES = 8e9;

/** An upload that is not taken; the message is for the one who sent it. */
export class RefusedUpload extends Error {}

/** One picture with what is written on it; boxes are as in `full_frame_ocr`. */
export interface Frame {
  index: number;
  width: number;
  height: number;
  boxes: Box[];
}

export interface Box {
  text: string;
  confidence: number;
  x: number;
  y: number;
  width: number;
  height: number;
}

/** The cropped frames, from `first` to `last` on the clock of 10 Hz. `version` changes with every new set. */
export interface Strip {
  first: number;
  last: number;
  count: number;
  width: number;
  height: number;
  version: string;
}

export interface Metadata {
  original_filename: string;
  display_path: string;
  file_size_bytes: number;
  duration_seconds: number | null;
  width: number | null;
  height: number | null;
  fps: number | null;
  codec: string | null;
  uploaded_at: string;
}

export interface Status {
  status: string;
  error_message: string | null;
  error_details: string | null;
}

/**
 * The folder of a video. The id comes from a request, the path does not: it is one of the names that are there.
 *
 * @throws a 404 response
 */
function folderOf(id: string): string {
  const name = videoIds().find((known) => known === id);
  if (name === undefined) throw new Response('There is no such video.', { status: 404 });
  return path.join(videos, name);
}

export function videoIds(): string[] {
  if (!existsSync(videos)) return [];
  return readdirSync(videos).filter((name) => existsSync(path.join(videos, name, 'annotations.db')));
}

/** Opens a video's annotations.db for as long as `use` takes. */
function withDatabase<Result>(id: string, use: (database: Database.Database) => Result): Result {
  const database = new Database(path.join(folderOf(id), 'annotations.db'), { fileMustExist: true, timeout: 1000 });
  try {
    return use(database);
  } finally {
    database.close();
  }
}

/** Films that lie ready to be chosen. */
export function readyFilms(): { name: string; bytes: number }[] {
  if (!existsSync(films)) return [];
  const names = readdirSync(films).filter((name) => name.endsWith('.mp4')).toSorted();
  return names.map((name) => ({ name, bytes: statSync(path.join(films, name)).size }));
}

/** Makes a video of a film that lies ready: it stays where it is. */
export function addReadyFilm(name: string): string {
  const film = readyFilms().find((known) => known.name === name);
  if (film === undefined) throw new Response('There is no such film.', { status: 404 });
  const id = randomUUID();
  mkdirSync(path.join(videos, id), { recursive: true });
  createDatabase(id, film.name, realpathSync(path.join(films, film.name)), film.bytes);
  return id;
}

/** Makes a video of what a browser sends, as it comes: a film is never held in memory. */
export async function addUpload(name: string, body: ReadableStream): Promise<string> {
  const id = randomUUID();
  const folder = path.join(videos, id);
  const film = path.join(folder, 'film');
  let bytes = 0;
  async function* limited(chunks: AsyncIterable<Buffer>) {
    for await (const chunk of chunks) {
      bytes += chunk.length;
      if (bytes > MAX_UPLOAD_BYTES) throw new RefusedUpload(`The file is larger than ${MAX_UPLOAD_BYTES / 1e9} GB.`);
      yield chunk;
    }
    if (bytes === 0) throw new RefusedUpload('The file is empty.');
  }
  mkdirSync(folder, { recursive: true });
  try {
    await pipeline(Readable.fromWeb(body), limited, createWriteStream(film));
    // The database comes last: until it is there, the folder is no video.
    createDatabase(id, name.slice(0, 200), film, bytes);
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
  return id;
}

function createDatabase(id: string, name: string, film: string, bytes: number): void {
  const database = new Database(path.join(videos, id, 'annotations.db'));
  // So that readers and the worker's one short transaction do not wait for each other.
  database.pragma('journal_mode = WAL');
  database.transaction(() => {
    database.exec(schema);
    database.exec("INSERT INTO processing_status (id, status, upload_progress) VALUES (1, 'upload_complete', 1)");
    database
      .prepare('INSERT INTO video_metadata (id, video_id, original_filename, display_path, file_size_bytes) VALUES (1, ?, ?, ?, ?)')
      .run(id, name, film, bytes);
  })();
  database.close();
}

/** What every flow wants to know of a video. */
export function flowArguments(id: string) {
  const folder = folderOf(id);
  return {
    'video-id': id,
    'video-path': readVideo(id).metadata.display_path,
    'db-path': path.join(folder, 'annotations.db'),
    'output-dir': path.join(folder, 'scratch'),
  };
}

/** The same without the paths of this server, which messages name and browsers need not know. */
export function withoutPaths<Value>(id: string, value: Value): Value {
  const written = (text: string) => JSON.stringify(text).slice(1, -1);
  const text = JSON.stringify(value)
    .replaceAll(written(readVideo(id).metadata.display_path), 'the film')
    .replaceAll(written(folderOf(id)), "the video's folder");
  return JSON.parse(text) as Value;
}

/** The small rows of a video. */
export function readVideo(id: string) {
  return withDatabase(id, (database) => ({
    id,
    metadata: database.prepare('SELECT * FROM video_metadata').get() as Metadata,
    processing: database.prepare('SELECT status, error_message, error_details FROM processing_status').get() as Status,
    cropping: database.prepare('SELECT status, error_message, error_details FROM crop_frames_status').get() as Status | undefined,
    layout: database
      .prepare(
        `SELECT crop_left AS "left", crop_top AS top, crop_right AS "right", crop_bottom AS bottom, crop_bounds_version AS version
         FROM video_layout_config`,
      )
      .get() as (CropBounds & { version: number }) | undefined,
    frames: database
      .prepare(
        `SELECT count(*) AS count, (min(frame_index) + max(frame_index)) / 2 AS middle, coalesce(min(created_at), '') AS version
         FROM full_frames`,
      )
      .get() as { count: number; middle: number; version: string },
  }));
}

export function readFrames(id: string): Frame[] {
  return withDatabase(id, (database) => {
    const frames = database
      .prepare('SELECT frame_index AS "index", width, height FROM full_frames ORDER BY frame_index')
      .all() as Omit<Frame, 'boxes'>[];
    const boxes = database
      .prepare('SELECT frame_index AS frame, text, confidence, x, y, width, height FROM full_frame_ocr ORDER BY frame_index, box_index')
      .all() as (Box & { frame: number })[];
    const byIndex = new Map(frames.map((frame) => [frame.index, { ...frame, boxes: [] as Box[] }]));
    for (const { frame, ...box } of boxes) byIndex.get(frame)?.boxes.push(box);
    return [...byIndex.values()];
  });
}

export function readStrip(id: string): Strip | undefined {
  const strip = withDatabase(id, (database) =>
    database
      .prepare(
        `SELECT min(frame_index) AS first, max(frame_index) AS last, count(*) AS count, width, height,
           crop_bounds_version || ' ' || min(created_at) AS version FROM cropped_frames`,
      )
      .get(),
  ) as Strip;
  return strip.count === 0 ? undefined : strip;
}

/** The JPEG of the newest frame up to `frame`. */
export function readPicture(id: string, kind: 'frames' | 'strips', frame: number): Buffer | undefined {
  const table = kind === 'frames' ? 'full_frames' : 'cropped_frames';
  return withDatabase(id, (database) =>
    database.prepare(`SELECT image_data FROM ${table} WHERE frame_index <= ? ORDER BY frame_index DESC LIMIT 1`).pluck().get(frame),
  ) as Buffer | undefined;
}

/** Stores the strip that a person chose. */
export function storeLayout(id: string, { left, top, right, bottom }: CropBounds, version: number): void {
  withDatabase(id, (database) =>
    database
      .prepare(
        `UPDATE video_layout_config
         SET crop_left = ?, crop_top = ?, crop_right = ?, crop_bottom = ?, crop_bounds_version = ?, updated_at = datetime('now')`,
      )
      .run(left, top, right, bottom, version),
  );
}
