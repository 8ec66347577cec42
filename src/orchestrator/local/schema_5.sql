-- Schema version 5 of queue.db: what a server must hear is posted by the code that changes a run, no longer by triggers.

DROP TRIGGER IF EXISTS outbox_state;
DROP TRIGGER IF EXISTS outbox_task_run;
DROP TRIGGER IF EXISTS outbox_task_run_state;
DROP TRIGGER IF EXISTS outbox_artifact;
DROP TRIGGER IF EXISTS outbox_asset;
DROP TRIGGER IF EXISTS outbox_log;
