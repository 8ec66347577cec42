-- The schema of queue.db as a new file gets it: what the steps (schema.sql, then schema_2.sql and so on) make of an older one,
-- which a test compares. States and their names are checked here; the steps between them are guarded UPDATEs in queue.rs.
-- Times are milliseconds since the Unix epoch, UTC.

CREATE TABLE work_pool (
  name TEXT PRIMARY KEY,
  concurrency_limit INTEGER NOT NULL CHECK (concurrency_limit >= 1),
  is_paused INTEGER NOT NULL DEFAULT 0 CHECK (is_paused IN (0, 1)),
  -- How many runs for which nobody waits at once; NULL: one less than the limit of all, but one at least.
  background_limit INTEGER CHECK (background_limit >= 1)
) STRICT;

-- Workers in several containers may have one name: a record belongs to a process, told by its lock.
CREATE TABLE worker (
  name TEXT NOT NULL,
  life TEXT NOT NULL,
  process TEXT NOT NULL CHECK (json_valid(process)),
  version TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  PRIMARY KEY (name, life)
) STRICT, WITHOUT ROWID;

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
  worker_process TEXT CHECK (worker_process IS NULL OR json_valid(worker_process)),
  child_process TEXT CHECK (child_process IS NULL OR json_valid(child_process)),
  database TEXT CHECK (database IS NULL OR json_valid(database)),
  progress TEXT CHECK (progress IS NULL OR json_valid(progress)),
  progress_at INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  scheduled_at INTEGER NOT NULL,
  started_at INTEGER,
  ended_at INTEGER,
  -- Waits behind another run for its video (or annotations.db) and flow, and claims do not look at it. The end of the one
  -- before lets the next one through (`rows.rs`).
  is_behind INTEGER NOT NULL DEFAULT 0,
  -- Tells the run's video from another file of that name; of flows where the latest wins.
  video_file TEXT,
  -- The W3C traceparent of the call that queued it, while anything is traced.
  traceparent TEXT,
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

CREATE INDEX flow_run_status_row_due ON flow_run (id) WHERE status_row_due = 1;
-- What may be claimed, in its order; and when the next run is due.
CREATE INDEX flow_run_ready ON flow_run (flow_name, priority, scheduled_at, id)
  WHERE state_type = 'SCHEDULED' AND is_behind = 0;
CREATE INDEX flow_run_behind_video ON flow_run (flow_name, video_id, priority, scheduled_at, id)
  WHERE state_type = 'SCHEDULED' AND is_behind = 1;
CREATE INDEX flow_run_behind_database ON flow_run (flow_name, db_path, priority, scheduled_at, id)
  WHERE state_type = 'SCHEDULED' AND is_behind = 1;
-- What is at work, and how much: no more than the limit of the pool. It holds what is asked of it.
CREATE INDEX flow_run_active ON flow_run (flow_name, state_type)
  WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING');
-- A run that waits and is equal to a new one, or waits for the same video.
CREATE INDEX flow_run_equal ON flow_run (flow_name, video_id, parameters)
  WHERE state_type = 'SCHEDULED' AND video_id IS NOT NULL;
-- Lists, newest first: of a video; of a flow and its states.
CREATE INDEX flow_run_video ON flow_run (video_id, id) WHERE video_id IS NOT NULL;
CREATE INDEX flow_run_listed ON flow_run (flow_name, state_type, id);
-- Runs on an annotations.db: those that have not ended (`ended_at IS NULL`), and the newest.
CREATE INDEX flow_run_database ON flow_run (db_path, flow_name, ended_at, created_at, id) WHERE db_path IS NOT NULL;
CREATE INDEX flow_run_process ON flow_run (db_path, flow_name, id)
  WHERE db_path IS NOT NULL AND child_process IS NOT NULL;
-- What can be forgotten.
CREATE INDEX flow_run_ended ON flow_run (ended_at) WHERE ended_at IS NOT NULL AND status_row_due = 0;

-- How many runs wait in each work queue; kept by `waiting.rs`.
CREATE TABLE waiting (
  work_queue TEXT PRIMARY KEY,
  runs INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO waiting (work_queue, runs) VALUES ('user-initiated', 0), ('background', 0);

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
  -- A number for every state, in the order in which they were entered; states from before version 7 have none.
  position INTEGER,
  PRIMARY KEY (flow_run_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX flow_run_state_position ON flow_run_state (position) WHERE position IS NOT NULL;

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
  at INTEGER NOT NULL,
  -- The newest of its key is what lineage shows; the others can be forgotten.
  is_newest INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX asset_materialization_key ON asset_materialization (key, version);
CREATE INDEX asset_materialization_newest ON asset_materialization (key) WHERE is_newest = 1;
-- What a run has made.
CREATE INDEX asset_materialization_run ON asset_materialization (flow_run_id) WHERE is_newest = 1;
CREATE INDEX asset_materialization_old ON asset_materialization (at) WHERE is_newest = 0;

CREATE TABLE asset_upstream (
  materialization_version INTEGER NOT NULL REFERENCES asset_materialization (version) ON DELETE CASCADE,
  key TEXT NOT NULL,
  version INTEGER,
  PRIMARY KEY (materialization_version, key)
) STRICT, WITHOUT ROWID;
-- What was made from an asset.
CREATE INDEX asset_upstream_key ON asset_upstream (key);

CREATE TABLE feed (
  -- Tells this file from another one at the same place.
  id TEXT NOT NULL,
  -- The newest state and the newest log line of those that were deleted with their runs.
  forgotten_position INTEGER NOT NULL,
  forgotten_log INTEGER NOT NULL
) STRICT;
INSERT INTO feed (id, forgotten_position, forgotten_log)
VALUES (lower(hex(randomblob(8))), 0, 0);
-- With the newest number of a state, which grows also when all states were forgotten.
CREATE VIEW feed_end (id, position, forgotten_position, forgotten_log) AS
SELECT id, max(forgotten_position, coalesce((SELECT max(position) FROM flow_run_state WHERE position IS NOT NULL), 0)),
  forgotten_position, forgotten_log
FROM feed;

-- Who is told of every state, up to where that was done, and how it goes.
CREATE TABLE notification (
  url TEXT PRIMARY KEY,
  position INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  -- When the next try is due, and what the last one met.
  due_at INTEGER NOT NULL,
  problem TEXT,
  problem_at INTEGER
) STRICT, WITHOUT ROWID;

-- What the Prefect orchestrator keeps on this machine. Its queue.db is the journal of the runs that are worked on here.

-- A run that was claimed from a Prefect server.
CREATE TABLE prefect_run (
  flow_run_id TEXT PRIMARY KEY REFERENCES flow_run (id) ON DELETE CASCADE,
  -- Ids and names that its events carry.
  context TEXT NOT NULL CHECK (json_valid(context)),
  -- The process that tells the server; another one takes over once it is dead.
  forwarder TEXT NOT NULL CHECK (json_valid(forwarder)),
  progress_artifact_id TEXT,
  progress_sent_at INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- What the server must still hear, in this order within a run. `token` makes a repeated telling count once.
CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  flow_run_id TEXT NOT NULL REFERENCES flow_run (id) ON DELETE CASCADE,
  kind TEXT NOT NULL CHECK (kind IN ('state', 'labels', 'task_run', 'artifact', 'asset', 'log')),
  token TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))),
  content TEXT NOT NULL CHECK (json_valid(content)),
  -- When it came; 0: before version 8.
  at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX outbox_flow_run ON outbox (flow_run_id, id);
CREATE INDEX outbox_kind ON outbox (kind);

-- Since when the workers of this machine have had no answer of the server; no row: it answers.
CREATE TABLE server_away (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  since INTEGER NOT NULL
) STRICT;

-- A run about to be claimed: it holds a slot from before the server is asked until it is a run of the journal.
CREATE TABLE claim_intent (
  flow_run_id TEXT PRIMARY KEY,
  transition_id TEXT NOT NULL,
  worker_process TEXT NOT NULL CHECK (json_valid(worker_process)),
  flow_name TEXT NOT NULL,
  video_id TEXT,
  db_path TEXT,
  is_background INTEGER NOT NULL DEFAULT 0 CHECK (is_background IN (0, 1))
) STRICT, WITHOUT ROWID;

-- A run that was queued while the server could not be reached.
CREATE TABLE stored_flow_run (
  id TEXT PRIMARY KEY,
  flow_name TEXT NOT NULL,
  idempotency_key TEXT NOT NULL UNIQUE,
  parameters TEXT NOT NULL CHECK (json_valid(parameters)),
  created_at INTEGER NOT NULL,
  -- Its id at the server, once it is there.
  prefect_id TEXT,
  -- Why it will never be there.
  problem TEXT,
  -- As that of a run.
  traceparent TEXT
) STRICT, WITHOUT ROWID;
