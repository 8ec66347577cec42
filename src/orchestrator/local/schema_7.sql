-- Schema version 7 of queue.db: which file a run was queued for, and one order of what happens to all runs.

-- Tells the run's video from another file of that name; of flows where the latest wins.
ALTER TABLE flow_run ADD COLUMN video_file TEXT;

-- A number for every state, in the order in which they were entered; states from before have none.
ALTER TABLE flow_run_state ADD COLUMN position INTEGER;
CREATE UNIQUE INDEX flow_run_state_position ON flow_run_state (position) WHERE position IS NOT NULL;

CREATE TABLE feed (
  -- Tells this file from another one at the same place.
  id TEXT NOT NULL,
  -- The newest state and the newest log line of those that were deleted with their runs.
  forgotten_position INTEGER NOT NULL,
  forgotten_log INTEGER NOT NULL
) STRICT;
INSERT INTO feed (id, forgotten_position, forgotten_log)
SELECT lower(hex(randomblob(8))), 0, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'log'), 0);
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
