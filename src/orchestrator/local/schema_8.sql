-- Schema version 8 of queue.db: the trace that a run belongs to, and how far a Prefect server is behind.

-- The W3C traceparent of the call that queued it, while anything is traced.
ALTER TABLE flow_run ADD COLUMN traceparent TEXT;
ALTER TABLE stored_flow_run ADD COLUMN traceparent TEXT;

-- When a message came; 0: before this version. Counted by kind while the server is away, so never by reading them all.
ALTER TABLE outbox ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
DROP INDEX outbox_log;
CREATE INDEX outbox_kind ON outbox (kind);

-- What was made from an asset, and what a run has made, without reading the rest.
CREATE INDEX asset_upstream_key ON asset_upstream (key);
CREATE INDEX asset_materialization_run ON asset_materialization (flow_run_id) WHERE is_newest = 1;

-- Since when the workers of this machine have had no answer of the server; no row: it answers.
CREATE TABLE server_away (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  since INTEGER NOT NULL
) STRICT;
