'use strict';

// Writes `queued` through the web app's own SQLite, before any worker has seen the run: two copies of SQLite must not have
// one annotations.db open in one process, so this one opens none. index.d.ts is the documentation.

const { OrchestratorError } = require('./error.js');

/** What says `queued` of each flow. A row that an attempt writes at the moment is left to it. */
const UPSERTS = {
  'full-frames': {
    upsert: `INSERT INTO processing_status (id, status) VALUES (1, 'upload_complete')
      ON CONFLICT (id) DO UPDATE SET status = excluded.status, current_job_id = NULL
      WHERE status NOT IN ('extracting_frames', 'running_ocr', 'analyzing_layout')`,
  },
  'crop-frames': {
    // As the worker makes it (src/annotations/schema.rs); a test holds both to each other.
    table: `CREATE TABLE IF NOT EXISTS crop_frames_status (
      id INTEGER PRIMARY KEY CHECK (id = 1),
      status TEXT NOT NULL DEFAULT 'queued',
      processing_started_at TEXT,
      processing_completed_at TEXT,
      current_job_id TEXT,
      error_message TEXT,
      error_details TEXT,
      error_occurred_at TEXT,
      retry_count INTEGER NOT NULL DEFAULT 0
    )`,
    upsert: `INSERT INTO crop_frames_status (id, status) VALUES (1, 'queued')
      ON CONFLICT (id) DO UPDATE SET status = excluded.status, current_job_id = NULL WHERE status <> 'processing'`,
  },
  'caption-median-ocr': {
    upsert: `UPDATE captions SET median_ocr_status = 'queued' WHERE id IN (SELECT value FROM json_each(?))`,
    takesCaptions: true,
  },
};

const invalid = (argument, problem) =>
  new OrchestratorError('ERR_CAPTIONACC_INVALID_ARGUMENT', `argument ${JSON.stringify(argument)}: ${problem}`);

const typeOf = (value) => (value === null ? 'null' : Array.isArray(value) ? 'a list' : `a value of type ${typeof value}`);

function checkCaptionIds(captionIds) {
  if (!Array.isArray(captionIds)) throw invalid('captionIds', `${typeOf(captionIds)} is not a list of captions' ids`);
  if (captionIds.length === 0) throw invalid('captionIds', 'empty: give the ids of the captions that were queued');
  for (const id of captionIds) {
    if (!Number.isSafeInteger(id) || id < 0) {
      throw invalid('captionIds', `${typeof id === 'number' ? id : typeOf(id)} is not a whole number from 0`);
    }
  }
  return captionIds;
}

function markQueued(database, flowType, options) {
  if (typeof database?.prepare !== 'function' || typeof database.exec !== 'function') {
    throw invalid('database', `${typeOf(database)} is no open database of better-sqlite3 or node:sqlite`);
  }
  if (typeof flowType !== 'string') throw invalid('flowType', `${typeOf(flowType)} is not text`);
  if (!Object.hasOwn(UPSERTS, flowType)) {
    throw new OrchestratorError(
      'ERR_CAPTIONACC_UNKNOWN_FLOW',
      `flow ${JSON.stringify(flowType)} has no status that the web app shows: there are ${Object.keys(UPSERTS).join(', ')}`,
    );
  }
  if (options !== undefined && (options === null || typeof options !== 'object' || Array.isArray(options))) {
    throw invalid('options', `${typeOf(options)} is not an object`);
  }
  for (const name of Object.keys(options ?? {})) {
    if (name !== 'captionIds') throw invalid(name, 'unknown option (there is captionIds)');
  }
  const { table, upsert, takesCaptions } = UPSERTS[flowType];
  const captionIds = options?.captionIds;
  if (!takesCaptions && captionIds !== undefined) throw invalid('captionIds', `${flowType} is about no captions`);
  const parameters = takesCaptions ? [JSON.stringify(checkCaptionIds(captionIds))] : [];
  if (table !== undefined) database.exec(table);
  return Number(database.prepare(upsert).run(...parameters).changes);
}

exports.markQueued = markQueued;
