-- Schema version 3 of queue.db: SQLite before 3.45 reports a CHECK that is NULL as broken (PRAGMA integrity_check), and
-- json_valid(NULL) is NULL. The checks of the columns that may be NULL say so. Only the text of the schema changes, no
-- row is written, however many there are (https://www.sqlite.org/lang_altertable.html, the shorter way for CHECK).

PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql =
  replace(replace(replace(replace(sql,
    'CHECK (json_valid(worker_process))', 'CHECK (worker_process IS NULL OR json_valid(worker_process))'),
    'CHECK (json_valid(child_process))', 'CHECK (child_process IS NULL OR json_valid(child_process))'),
    'CHECK (json_valid(database))', 'CHECK (database IS NULL OR json_valid(database))'),
    'CHECK (json_valid(progress))', 'CHECK (progress IS NULL OR json_valid(progress))')
WHERE type = 'table' AND name = 'flow_run';
PRAGMA writable_schema = RESET;
