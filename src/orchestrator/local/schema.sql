-- Schema version 1 of queue.db. States and their names are checked here; the steps between them are guarded
-- UPDATEs in queue.rs. Times are milliseconds since the Unix epoch, UTC.

CREATE TABLE work_pool (
  name TEXT PRIMARY KEY,
  concurrency_limit INTEGER NOT NULL CHECK (concurrency_limit >= 1),
  is_paused INTEGER NOT NULL DEFAULT 0 CHECK (is_paused IN (0, 1))
) STRICT;

CREATE TABLE worker (
  name TEXT PRIMARY KEY,
  process TEXT NOT NULL CHECK (json_valid(process)),
  version TEXT NOT NULL,
  started_at INTEGER NOT NULL
) STRICT;

CREATE TABLE flow_run (
  id TEXT PRIMARY KEY,
  flow_name TEXT NOT NULL,
  parameters TEXT NOT NULL CHECK (json_valid(parameters)),
  video_id TEXT,
  db_path TEXT,
  work_queue TEXT NOT NULL CHECK (work_queue IN ('user-initiated', 'background')),
  priority INTEGER NOT NULL,
  tags TEXT NOT NULL CHECK (json_valid(tags)),
  has_status_row INTEGER NOT NULL CHECK (has_status_row IN (0, 1)),
  state_type TEXT NOT NULL,
  state_name TEXT NOT NULL,
  state_message TEXT,
  state_at INTEGER NOT NULL,
  -- Counts the states that the run was in.
  state_sequence INTEGER NOT NULL,
  -- Whether the status row in annotations.db is behind the state.
  status_row_due INTEGER NOT NULL CHECK (status_row_due IN (0, 1)),
  attempt INTEGER NOT NULL DEFAULT 0,
  failed_attempts INTEGER NOT NULL DEFAULT 0,
  interruptions INTEGER NOT NULL DEFAULT 0,
  fencing_token INTEGER NOT NULL DEFAULT 0,
  -- Newest materialization of any asset when the attempt was claimed: what it can have read.
  assets_seen INTEGER NOT NULL DEFAULT 0,
  superseded_by TEXT,
  worker_name TEXT,
  worker_process TEXT CHECK (json_valid(worker_process)),
  child_process TEXT CHECK (json_valid(child_process)),
  database TEXT CHECK (json_valid(database)),
  progress TEXT CHECK (json_valid(progress)),
  progress_at INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  scheduled_at INTEGER NOT NULL,
  started_at INTEGER,
  ended_at INTEGER,
  CHECK (
    (state_type = 'SCHEDULED' AND state_name IN ('Scheduled', 'AwaitingRetry'))
    OR (state_type = 'PENDING' AND state_name = 'Pending')
    OR (state_type = 'RUNNING' AND state_name IN ('Running', 'Retrying'))
    OR (state_type = 'CANCELLING' AND state_name = 'Cancelling')
    OR (state_type = 'CANCELLED' AND state_name = 'Cancelled')
    OR (state_type = 'COMPLETED' AND state_name = 'Completed')
    OR (state_type = 'FAILED' AND state_name IN ('Failed', 'TimedOut'))
    OR (state_type = 'CRASHED' AND state_name = 'Crashed')
  ),
  -- A worker has the run exactly while it holds a slot.
  CHECK ((worker_process IS NOT NULL) = (state_type IN ('PENDING', 'RUNNING', 'CANCELLING'))),
  CHECK ((ended_at IS NOT NULL) = (state_type IN ('CANCELLED', 'COMPLETED', 'FAILED', 'CRASHED')))
) STRICT;

CREATE INDEX flow_run_waiting ON flow_run (priority, scheduled_at) WHERE state_type = 'SCHEDULED';
CREATE INDEX flow_run_active ON flow_run (flow_name) WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING');
CREATE INDEX flow_run_video ON flow_run (video_id, flow_name);
CREATE INDEX flow_run_database ON flow_run (db_path, flow_name);
CREATE INDEX flow_run_status_row_due ON flow_run (id) WHERE status_row_due = 1;
CREATE INDEX flow_run_ended ON flow_run (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE idempotency (
  key TEXT PRIMARY KEY,
  flow_run_id TEXT NOT NULL REFERENCES flow_run (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX idempotency_flow_run ON idempotency (flow_run_id);

CREATE TABLE flow_run_state (
  flow_run_id TEXT NOT NULL REFERENCES flow_run (id) ON DELETE CASCADE,
  sequence INTEGER NOT NULL,
  state_name TEXT NOT NULL,
  message TEXT,
  attempt INTEGER NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (flow_run_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE task_run (
  id TEXT PRIMARY KEY,
  flow_run_id TEXT NOT NULL REFERENCES flow_run (id) ON DELETE CASCADE,
  attempt INTEGER NOT NULL,
  name TEXT NOT NULL,
  run_count INTEGER NOT NULL,
  state_name TEXT NOT NULL,
  message TEXT,
  started_at INTEGER NOT NULL,
  state_at INTEGER NOT NULL,
  ended_at INTEGER
) STRICT;
CREATE INDEX task_run_flow_run ON task_run (flow_run_id, attempt);

CREATE TABLE log (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  flow_run_id TEXT NOT NULL REFERENCES flow_run (id) ON DELETE CASCADE,
  attempt INTEGER NOT NULL,
  level TEXT NOT NULL CHECK (level IN ('debug', 'info', 'warning', 'error')),
  message TEXT NOT NULL,
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX log_flow_run ON log (flow_run_id, id);

CREATE TABLE artifact (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  flow_run_id TEXT NOT NULL REFERENCES flow_run (id) ON DELETE CASCADE,
  key TEXT NOT NULL,
  type TEXT NOT NULL CHECK (type IN ('table', 'link', 'markdown', 'progress')),
  description TEXT,
  data TEXT NOT NULL CHECK (json_valid(data)),
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX artifact_flow_run ON artifact (flow_run_id, id);

-- Outlives the run that made it.
CREATE TABLE asset_materialization (
  version INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL,
  flow_run_id TEXT NOT NULL,
  flow_name TEXT NOT NULL,
  metadata TEXT NOT NULL CHECK (json_valid(metadata)),
  at INTEGER NOT NULL
) STRICT;
CREATE INDEX asset_materialization_key ON asset_materialization (key, version);

CREATE TABLE asset_upstream (
  materialization_version INTEGER NOT NULL REFERENCES asset_materialization (version) ON DELETE CASCADE,
  key TEXT NOT NULL,
  version INTEGER,
  PRIMARY KEY (materialization_version, key)
) STRICT, WITHOUT ROWID;
