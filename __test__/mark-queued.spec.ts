import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

import { markQueued, OrchestratorError, type AppDatabase } from '@captionacc/orchestrator';
import BetterSqlite3 from 'better-sqlite3';
import { describe, expect, test } from 'vitest';

import { root } from './support/processes.js';

const schema = readFileSync(path.join(root, '__test__', 'fixtures', 'app-schema.sql'), 'utf8');

interface Rows extends AppDatabase {
  all(sql: string): unknown[];
}

/** In memory: the libraries are what is tried, and no file is open beside the addon's own. */
function better(): Rows {
  const database = new BetterSqlite3(':memory:');
  return Object.assign(Object.create(database) as BetterSqlite3.Database, {
    prepare: database.prepare.bind(database),
    exec: database.exec.bind(database),
    all: (sql: string) => database.prepare(sql).all(),
  });
}

function ofNode(): Rows {
  const sqlite = createRequire(import.meta.url)('node:sqlite') as { DatabaseSync: new (file: string) => never };
  const database: { prepare(sql: string): { all(): object[]; run(): { changes: number | bigint } }; exec(sql: string): void } =
    new sqlite.DatabaseSync(':memory:');
  return {
    prepare: database.prepare.bind(database),
    exec: database.exec.bind(database),
    all: (sql) => database.prepare(sql).all().map((row) => ({ ...row })),
  };
}

const hasNodeSqlite = process.getBuiltinModule?.('node:sqlite') !== undefined;
const libraries: [string, () => Rows][] = [['better-sqlite3', better]];
if (hasNodeSqlite) libraries.push(['node:sqlite', ofNode]);

describe.each(libraries)('over %s', (_, open) => {
  const app = () => {
    const database = open();
    database.exec(schema);
    return database;
  };

  test('crop-frames: the table is made, the row says queued, and a second call changes nothing', () => {
    const database = open();
    expect(markQueued(database, 'crop-frames')).toBe(1);
    const rows = database.all('SELECT * FROM crop_frames_status');
    expect(rows).toMatchObject([{ id: 1, status: 'queued', retry_count: 0, current_job_id: null }]);
    expect(markQueued(database, 'crop-frames')).toBe(1);
    expect(database.all('SELECT * FROM crop_frames_status')).toEqual(rows);
  });

  test.each(['complete', 'error'])('crop-frames: a row that says %s says queued', (status) => {
    const database = open();
    markQueued(database, 'crop-frames');
    database.exec(`UPDATE crop_frames_status SET status = '${status}', retry_count = 2`);
    expect(markQueued(database, 'crop-frames')).toBe(1);
    expect(database.all('SELECT status, retry_count FROM crop_frames_status')).toEqual([{ status: 'queued', retry_count: 2 }]);
  });

  test('a row of an attempt at work is left to it', () => {
    const database = app();
    markQueued(database, 'crop-frames');
    database.exec("UPDATE crop_frames_status SET status = 'processing', current_job_id = '7'");
    expect(markQueued(database, 'crop-frames')).toBe(0);
    expect(database.all('SELECT status, current_job_id FROM crop_frames_status')).toEqual([{ status: 'processing', current_job_id: '7' }]);
    for (const status of ['extracting_frames', 'running_ocr', 'analyzing_layout']) {
      database.exec(`INSERT OR REPLACE INTO processing_status (id, status, current_job_id) VALUES (1, '${status}', '7')`);
      expect(markQueued(database, 'full-frames')).toBe(0);
    }
  });

  test('full-frames: the word that the app shows as queued', () => {
    const database = app();
    expect(markQueued(database, 'full-frames')).toBe(1);
    database.exec("UPDATE processing_status SET status = 'error'");
    expect(markQueued(database, 'full-frames')).toBe(1);
    expect(database.all('SELECT status FROM processing_status')).toEqual([{ status: 'upload_complete' }]);
  });

  test('caption-median-ocr: the captions that are named, and no others', () => {
    const database = open();
    database.exec(`CREATE TABLE captions (id INTEGER PRIMARY KEY, median_ocr_status TEXT NOT NULL DEFAULT 'pending');
      INSERT INTO captions (id) VALUES (1), (2), (3)`);
    expect(markQueued(database, 'caption-median-ocr', { captionIds: [1, 3, 3, 9] })).toBe(2);
    expect(database.all('SELECT id FROM captions WHERE median_ocr_status = \'queued\'')).toEqual([{ id: 1 }, { id: 3 }]);
    const many = Array.from({ length: 10_000 }, (__, index) => index);
    expect(markQueued(database, 'caption-median-ocr', { captionIds: many })).toBe(3);
  });

  test.each([
    [null, 'crop-frames', undefined, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'database'],
    ['annotations.db', 'crop-frames', undefined, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'database'],
    [{}, 'crop-frames', undefined, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'database'],
    ['open', 7, undefined, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'flowType'],
    ['open', 'crop-frame', undefined, 'ERR_CAPTIONACC_UNKNOWN_FLOW', 'crop-frame'],
    ['open', 'toString', undefined, 'ERR_CAPTIONACC_UNKNOWN_FLOW', 'toString'],
    ['open', 'crop-frames', [], 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'options'],
    ['open', 'crop-frames', { captions: [1] }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'captions'],
    ['open', 'crop-frames', { captionIds: [1] }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'about no captions'],
    ['open', 'caption-median-ocr', undefined, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'captionIds'],
    ['open', 'caption-median-ocr', { captionIds: [] }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'empty'],
    ['open', 'caption-median-ocr', { captionIds: '[1]' }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'not a list'],
    ['open', 'caption-median-ocr', { captionIds: [1.5] }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', '1.5'],
    ['open', 'caption-median-ocr', { captionIds: [1, '2'] }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', 'whole number'],
    ['open', 'caption-median-ocr', { captionIds: [-1] }, 'ERR_CAPTIONACC_INVALID_ARGUMENT', '-1'],
  ])('bad input is refused, and nothing is written: %j %j %j', (database, flow, options, code, message) => {
    const opened = open();
    const given = (database === 'open' ? opened : database) as AppDatabase;
    const failure = (() => {
      try {
        return markQueued(given, flow as never, options as never);
      } catch (error) {
        return error;
      }
    })();
    expect(failure).toBeInstanceOf(OrchestratorError);
    expect(failure).toMatchObject({ code, message: expect.stringContaining(message) as string });
    expect(opened.all('SELECT name FROM sqlite_schema')).toEqual([]);
  });
});

test('the table is the one that the worker makes', () => {
  const words = (text: string) => text.replaceAll(/\s+/g, ' ').replaceAll(/\( | \)/g, (part) => part.trim());
  const made = /CREATE TABLE IF NOT EXISTS crop_frames_status \([^;`]*\)/.exec(
    readFileSync(path.join(root, 'src', 'annotations', 'schema.rs'), 'utf8'),
  );
  const ours = /CREATE TABLE IF NOT EXISTS crop_frames_status \([^;`]*\)/.exec(
    readFileSync(path.join(root, 'lib', 'mark-queued.js'), 'utf8'),
  );
  expect(words(ours?.[0] ?? 'none')).toBe(words(made?.[0] ?? 'nothing'));
});
