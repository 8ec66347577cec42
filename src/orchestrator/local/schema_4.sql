-- Schema version 4 of queue.db: what is asked of it costs the same, however many runs wait or have ended, and a name may
-- be that of several workers. On a store with a million runs, making the indices takes some seconds, once.

-- A run waits behind another one for its video (or annotations.db) and flow, and claims do not look at it. The end of the
-- one before lets the next one through (`rows.rs`).
ALTER TABLE flow_run ADD COLUMN is_behind INTEGER NOT NULL DEFAULT 0;

-- What may be claimed, in its order; and when the next run is due.
DROP INDEX flow_run_waiting;
CREATE INDEX flow_run_ready ON flow_run (flow_name, priority, scheduled_at, id)
  WHERE state_type = 'SCHEDULED' AND is_behind = 0;
CREATE INDEX flow_run_behind_video ON flow_run (flow_name, video_id, priority, scheduled_at, id)
  WHERE state_type = 'SCHEDULED' AND is_behind = 1;
CREATE INDEX flow_run_behind_database ON flow_run (flow_name, db_path, priority, scheduled_at, id)
  WHERE state_type = 'SCHEDULED' AND is_behind = 1;
-- What is at work, and how much: no more than the limit of the pool. It holds what is asked of it.
DROP INDEX flow_run_active;
CREATE INDEX flow_run_active ON flow_run (flow_name, state_type)
  WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING');
-- A run that waits and is equal to a new one, or waits for the same video.
CREATE INDEX flow_run_equal ON flow_run (flow_name, video_id, parameters)
  WHERE state_type = 'SCHEDULED' AND video_id IS NOT NULL;
-- Lists, newest first: of a video; of a flow and its states.
DROP INDEX flow_run_video;
CREATE INDEX flow_run_video ON flow_run (video_id, id) WHERE video_id IS NOT NULL;
CREATE INDEX flow_run_listed ON flow_run (flow_name, state_type, id);
-- Runs on an annotations.db: those that have not ended (`ended_at IS NULL`), and the newest.
DROP INDEX flow_run_database;
CREATE INDEX flow_run_database ON flow_run (db_path, flow_name, ended_at, created_at, id) WHERE db_path IS NOT NULL;
CREATE INDEX flow_run_process ON flow_run (db_path, flow_name, id)
  WHERE db_path IS NOT NULL AND child_process IS NOT NULL;
-- What can be forgotten.
DROP INDEX flow_run_ended;
CREATE INDEX flow_run_ended ON flow_run (ended_at) WHERE ended_at IS NOT NULL AND status_row_due = 0;

-- How many runs wait in each work queue; kept by `waiting.rs`.
CREATE TABLE waiting (
  work_queue TEXT PRIMARY KEY,
  runs INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO waiting (work_queue, runs)
SELECT column1, (SELECT count(*) FROM flow_run WHERE state_type = 'SCHEDULED' AND work_queue = column1)
FROM (VALUES ('user-initiated'), ('background'));

-- The newest of each key is what lineage shows; the others can be forgotten.
ALTER TABLE asset_materialization ADD COLUMN is_newest INTEGER NOT NULL DEFAULT 1;
UPDATE asset_materialization SET is_newest = 0
WHERE version < (SELECT max(version) FROM asset_materialization AS other WHERE other.key = asset_materialization.key);
CREATE INDEX asset_materialization_newest ON asset_materialization (key) WHERE is_newest = 1;
CREATE INDEX asset_materialization_old ON asset_materialization (at) WHERE is_newest = 0;

-- Workers in several containers may have one name: a record belongs to a process, told by its lock. Records without one
-- are of workers that have ended.
ALTER TABLE worker RENAME TO worker_1;
CREATE TABLE worker (
  name TEXT NOT NULL,
  life TEXT NOT NULL,
  process TEXT NOT NULL CHECK (json_valid(process)),
  version TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  PRIMARY KEY (name, life)
) STRICT, WITHOUT ROWID;
INSERT INTO worker (name, life, process, version, started_at)
SELECT name, json_extract(process, '$.life'), process, version, started_at FROM worker_1
WHERE json_extract(process, '$.life') IS NOT NULL;
DROP TABLE worker_1;
