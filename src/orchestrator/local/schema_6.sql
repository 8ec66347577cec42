-- Schema version 6 of queue.db: runs for which nobody waits leave a slot for a person.

-- How many of them at once; NULL: one less than the limit of all, but one at least.
ALTER TABLE work_pool ADD COLUMN background_limit INTEGER CHECK (background_limit >= 1);
ALTER TABLE claim_intent ADD COLUMN is_background INTEGER NOT NULL DEFAULT 0 CHECK (is_background IN (0, 1));
