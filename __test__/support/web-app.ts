// The web app's part: it keeps a video's annotations.db open, writes to it whenever it likes, and polls the status
// tables. Everything that a worker does to that file happens beside it.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';

import { listFlowRuns, watchFlowRun, type FlowRunEvent, type VideoArguments } from '@captionacc/orchestrator';
import Database from 'better-sqlite3';
import { expect } from 'vitest';

import { afterTest, temporaryFolder } from './home.js';
import { root, Running } from './processes.js';

/** Where the films lie that scripts/fetch-films.sh gets. */
export const films = process.env.CAPTIONACC_FILMS ?? path.join(root, '.cache/films');

/** A caption that is burnt into a film: its text, from `from` to `to` seconds, its upper left corner in pixels. */
export interface Caption {
  text: string;
  font: string;
  size: number;
  x: number;
  y: number;
  from: number;
  to: number;
}

export const latinFont = '/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf';
export const chineseFont = '/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc';

/** A film of real footage with known captions, in a folder of the current test. */
export function filmWith(captions: readonly Caption[], source = 'bikes.mp4'): string {
  const folder = temporaryFolder();
  const film = path.join(folder, 'a film.mp4');
  const filters = captions.map(
    ({ text, font, size, x, y, from, to }) =>
      `drawtext=fontfile=${font}:fontsize=${size}:fontcolor=white:borderw=2:x=${x}:y=${y}:text='${text}':enable='between(t,${from},${to})'`,
  );
  const given = ['-loglevel', 'error', '-i', path.join(films, source), '-an', '-pix_fmt', 'yuv420p'];
  if (filters.length > 0) given.push('-vf', filters.join(','));
  execFileSync('ffmpeg', [...given, '-preset', 'ultrafast', '-crf', '18', film]);
  return film;
}

/** A row of `processing_status`, or of `crop_frames_status`, right after a change. */
export interface StatusChange {
  table: 'processing_status' | 'crop_frames_status';
  status: string;
  pid: string | null;
  progress: number;
  attempts: number;
  error: string | null;
  heartbeat: string | null;
  at: string;
}

export class WebApp {
  readonly folder: string;
  readonly databasePath: string;
  readonly database: Database.Database;
  /** Processes that were seen in `current_job_id`, each with its parent at that moment. */
  readonly seen = new Map<number, number | null>();
  #written = 0;
  readonly #polls = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;

  constructor(journalMode: 'wal' | 'delete' = 'wal') {
    this.folder = path.join(temporaryFolder(), "the video's folder, 第一");
    mkdirSync(this.folder);
    this.databasePath = path.join(this.folder, 'annotations.db');
    this.database = new Database(this.databasePath);
    this.database.pragma(`journal_mode = ${journalMode}`);
    this.database.exec(readFileSync(path.join(root, '__test__/fixtures/app-schema.sql'), 'utf8'));
    this.database.exec('INSERT INTO crop_frames_status (id) VALUES (1)');
    // The app keeps a history of its own, which no change can slip past.
    this.database.exec(`
      CREATE TABLE app_history (
        id INTEGER PRIMARY KEY, "table" TEXT, status TEXT, pid TEXT, progress REAL, attempts INTEGER, error TEXT,
        heartbeat TEXT, at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
      );
      CREATE TRIGGER app_processing AFTER UPDATE ON processing_status BEGIN
        INSERT INTO app_history ("table", status, pid, progress, attempts, error, heartbeat)
        VALUES ('processing_status', new.status, new.current_job_id,
          new.frame_extraction_progress + new.ocr_progress + new.layout_analysis_progress,
          new.processing_attempts, new.error_message, new.last_heartbeat_at);
      END;
      CREATE TRIGGER app_cropping AFTER UPDATE ON crop_frames_status BEGIN
        INSERT INTO app_history ("table", status, pid, progress, attempts, error, heartbeat)
        VALUES ('crop_frames_status', new.status, new.current_job_id, 0, new.retry_count, new.error_message, NULL);
      END;`);
    const insert = this.database.prepare('INSERT INTO captions (start_frame_index, end_frame_index, text) VALUES (?, ?, ?)');
    this.#timer = setInterval(() => {
      insert.run(this.#written, this.#written + 1, `user ${this.#written}`);
      this.#written += 1;
      this.#look();
      for (const poll of this.#polls) poll();
    }, 4);
    afterTest(() => this.close());
  }

  /** Arguments for a run over this video. */
  arguments(film: string): VideoArguments {
    return {
      'video-id': 'video-1',
      'video-path': film,
      'db-path': this.databasePath,
      'output-dir': path.join(this.folder, 'scratch'),
    };
  }

  #look(): void {
    for (const table of ['processing_status', 'crop_frames_status']) {
      const pid = this.database.prepare(`SELECT current_job_id FROM ${table}`).pluck().get() as string | null;
      if (pid !== null && !this.seen.has(Number(pid))) this.seen.set(Number(pid), parentOf(Number(pid)));
    }
  }

  /** Resolves once the app, which polls, sees that status. */
  async untilStatus(table: StatusChange['table'], status: string): Promise<void> {
    const select = this.database.prepare(`SELECT status FROM ${table}`).pluck();
    let poll = () => {};
    await new Promise<void>((resolve) => {
      poll = () => {
        if (select.get() === status) resolve();
      };
      this.#polls.add(poll);
    });
    this.#polls.delete(poll);
  }

  all<Row>(text: string): Row[] {
    return this.database.prepare(text).all() as Row[];
  }

  history(table: StatusChange['table']): StatusChange[] {
    return this.all<StatusChange>(`SELECT * FROM app_history WHERE "table" = '${table}' ORDER BY id`);
  }

  /** The statuses of a table in their order, each once. */
  statuses(table: StatusChange['table']): string[] {
    const words = this.history(table).map(({ status }) => status);
    return words.filter((word, position) => word !== words[position - 1]);
  }

  /** Fails if anything that the app wrote is missing, or the file is not whole. */
  expectWhole(): void {
    expect(this.database.pragma('integrity_check', { simple: true })).toBe('ok');
    expect(this.#written).toBeGreaterThan(0);
    expect(this.database.prepare("SELECT count(*) FROM captions WHERE text = 'user ' || start_frame_index").pluck().get()).toBe(
      this.#written,
    );
  }

  /** Deletes the video as the app does: marks it, stops the process that works on it, removes the folder. */
  deleteVideo(): number {
    this.database.exec("UPDATE processing_status SET deleted = 1, deleted_at = datetime('now')");
    const pid = Number(this.database.prepare('SELECT current_job_id FROM processing_status').pluck().get());
    process.kill(pid, 'SIGTERM');
    this.close();
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 10 });
    return pid;
  }

  close(): void {
    clearInterval(this.#timer);
    this.database.close();
  }
}

/** The parent of a process, or `null` if there is no such process. */
function parentOf(pid: number): number | null {
  try {
    const status = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return Number(status.slice(status.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    return null;
  }
}

/** A worker of its own for the current test, on the queue of `freshHome()`. */
export class Worker {
  readonly running: Running;

  private constructor(environment: Record<string, string>) {
    this.running = new Running(path.join(root, 'dist/captionacc'), ['worker'], { env: environment });
  }

  static async start(environment: Record<string, string> = {}): Promise<Worker> {
    const worker = new Worker(environment);
    await worker.running.says('Worker started.');
    return worker;
  }

  get pid(): number {
    return this.running.child.pid ?? 0;
  }

  /** Drains it; fails if it does not end well. */
  async stop(): Promise<void> {
    this.running.child.kill('SIGTERM');
    const ended = await this.running.ended;
    expect({ code: ended.code, signal: ended.signal }, ended.stderr).toEqual({ code: 0, signal: null });
    expect(await listFlowRuns({ stateTypes: ['PENDING', 'RUNNING', 'CANCELLING'] })).toEqual([]);
  }
}

/** Resolves at the first event of a run that `matches`; fails if the run ends before. */
export async function untilEvent(flowRunId: string, matches: (event: FlowRunEvent) => boolean): Promise<void> {
  const seen: unknown[] = [];
  for await (const event of watchFlowRun(flowRunId)) {
    if (matches(event)) return;
    seen.push(event);
  }
  throw new Error(`the run ended before: ${JSON.stringify(seen)}`);
}
