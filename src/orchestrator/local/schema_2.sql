-- Schema version 2 of queue.db: what the Prefect orchestrator keeps on this machine. Its queue.db is the journal of the
-- runs that are worked on here; what a server must still hear of them is written by triggers, in the transaction that
-- changes the journal, so that nothing can be known here and forgotten to be told.

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
  content TEXT NOT NULL CHECK (json_valid(content))
) STRICT;
CREATE INDEX outbox_flow_run ON outbox (flow_run_id, id);
CREATE INDEX outbox_log ON outbox (id) WHERE kind = 'log';

-- A run about to be claimed: it holds a slot from before the server is asked until it is a run of the journal.
CREATE TABLE claim_intent (
  flow_run_id TEXT PRIMARY KEY,
  transition_id TEXT NOT NULL,
  worker_process TEXT NOT NULL CHECK (json_valid(worker_process)),
  flow_name TEXT NOT NULL,
  video_id TEXT,
  db_path TEXT
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
  problem TEXT
) STRICT, WITHOUT ROWID;

CREATE TRIGGER outbox_state AFTER INSERT ON flow_run_state
WHEN NEW.state_name NOT IN ('Pending', 'Cancelling')
  AND EXISTS (SELECT 1 FROM prefect_run WHERE flow_run_id = NEW.flow_run_id)
BEGIN
  INSERT INTO outbox (flow_run_id, kind, content)
  SELECT id, 'state', json_object('name', NEW.state_name, 'message', NEW.message, 'due_ms', scheduled_at,
    'failed_attempts', failed_attempts, 'pid', json_extract(child_process, '$.pid'))
  FROM flow_run WHERE id = NEW.flow_run_id;
END;

CREATE TRIGGER outbox_task_run AFTER INSERT ON task_run
WHEN EXISTS (SELECT 1 FROM prefect_run WHERE flow_run_id = NEW.flow_run_id)
BEGIN
  INSERT INTO outbox (flow_run_id, kind, content) VALUES (NEW.flow_run_id, 'task_run',
    json_object('id', NEW.id, 'name', NEW.name, 'attempt', NEW.attempt, 'run_count', NEW.run_count,
      'state', NEW.state_name, 'message', NEW.message, 'at_ms', NEW.state_at, 'started_ms', NEW.started_at,
      'ended_ms', NEW.ended_at,
      'after', (SELECT id FROM task_run WHERE flow_run_id = NEW.flow_run_id AND attempt = NEW.attempt
                AND rowid < NEW.rowid ORDER BY rowid DESC LIMIT 1)));
END;

CREATE TRIGGER outbox_task_run_state AFTER UPDATE OF state_name ON task_run
WHEN EXISTS (SELECT 1 FROM prefect_run WHERE flow_run_id = NEW.flow_run_id)
BEGIN
  INSERT INTO outbox (flow_run_id, kind, content) VALUES (NEW.flow_run_id, 'task_run',
    json_object('id', NEW.id, 'name', NEW.name, 'attempt', NEW.attempt, 'run_count', NEW.run_count,
      'state', NEW.state_name, 'message', NEW.message, 'at_ms', NEW.state_at, 'started_ms', NEW.started_at,
      'ended_ms', NEW.ended_at,
      'after', (SELECT id FROM task_run WHERE flow_run_id = NEW.flow_run_id AND attempt = NEW.attempt
                AND rowid < NEW.rowid ORDER BY rowid DESC LIMIT 1)));
END;

CREATE TRIGGER outbox_artifact AFTER INSERT ON artifact
WHEN EXISTS (SELECT 1 FROM prefect_run WHERE flow_run_id = NEW.flow_run_id)
BEGIN
  INSERT INTO outbox (flow_run_id, kind, content) VALUES (NEW.flow_run_id, 'artifact',
    json_object('key', NEW.key, 'type', NEW.type, 'description', NEW.description, 'data', json(NEW.data), 'timestamp_ms', NEW.at));
END;

CREATE TRIGGER outbox_asset AFTER INSERT ON asset_materialization
WHEN EXISTS (SELECT 1 FROM prefect_run WHERE flow_run_id = NEW.flow_run_id)
BEGIN
  INSERT INTO outbox (flow_run_id, kind, content) VALUES (NEW.flow_run_id, 'asset',
    json_object('key', NEW.key, 'metadata', json(NEW.metadata), 'at_ms', NEW.at, 'version', NEW.version));
END;

CREATE TRIGGER outbox_log AFTER INSERT ON log
WHEN EXISTS (SELECT 1 FROM prefect_run WHERE flow_run_id = NEW.flow_run_id)
BEGIN
  INSERT INTO outbox (flow_run_id, kind, content) VALUES (NEW.flow_run_id, 'log',
    json_object('attempt', NEW.attempt, 'level', NEW.level, 'message', NEW.message, 'timestamp_ms', NEW.at));
END;
