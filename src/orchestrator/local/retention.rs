//! Forgetting what ended long ago, in batches of a bounded number of rows: no transaction holds the file for long, however
//! much a run has logged.

use rusqlite::{Connection, Transaction};

use super::store::{Fault, begin};
use super::waiting;

/// Most rows that one transaction deletes, less what a run has of task runs and artifacts, which is bounded too.
const MAX_ROWS: i64 = 2000;

/// What one transaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// Runs that are gone.
    pub(super) forgotten: u64,
    /// Whether there is more to do.
    pub(super) has_more: bool,
}

/// One batch of [`crate::orchestrator::claims::Claims::apply_retention`]. A run's log goes before the run.
pub(super) fn forget_some(connection: &mut Connection, ended_before: i64) -> Result<Batch, Fault> {
    let transaction = begin(connection)?;
    let mut left = MAX_ROWS;
    let mut forgotten = 0;
    // A run of a Prefect server that waits may have ended elsewhere; what the server must hear is never forgotten.
    for sql in [
        "SELECT id FROM flow_run
         WHERE ended_at < ?1 AND ended_at IS NOT NULL AND status_row_due = 0
           AND NOT EXISTS (SELECT 1 FROM outbox WHERE flow_run_id = flow_run.id AND kind = 'state')
         ORDER BY ended_at LIMIT ?2",
        "SELECT id FROM prefect_run CROSS JOIN flow_run ON id = flow_run_id
         WHERE state_type = 'SCHEDULED' AND state_at < ?1 AND status_row_due = 0
           AND NOT EXISTS (SELECT 1 FROM outbox WHERE flow_run_id = flow_run.id AND kind = 'state')
         LIMIT ?2",
    ] {
        if left == 0 {
            break;
        }
        let runs: Vec<String> = transaction
            .prepare_cached(sql)?
            .query_map((ended_before, left), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for run in runs {
            if !forget_run(&transaction, &run, &mut left)? {
                break;
            }
            forgotten += 1;
        }
    }
    if left > 0 {
        let assets = transaction
            .prepare_cached(
                "DELETE FROM asset_materialization WHERE version IN (
                   SELECT version FROM asset_materialization WHERE is_newest = 0 AND at < ?1 LIMIT ?2)",
            )?
            .execute((ended_before, left))?;
        left -= deleted(assets);
    }
    transaction.commit()?;
    let has_more = left == 0;
    Ok(Batch { forgotten, has_more })
}

/// A run's log, then the run. `false`: more of it is left than there is room for.
fn forget_run(transaction: &Transaction<'_>, run: &str, left: &mut i64) -> Result<bool, Fault> {
    // Whoever has not seen them by now never will, and is told so.
    let noted = transaction
        .prepare_cached(
            "UPDATE feed SET
               forgotten_position =
                 max(forgotten_position, coalesce((SELECT max(position) FROM flow_run_state WHERE flow_run_id = ?1), 0)),
               forgotten_log = max(forgotten_log, coalesce((SELECT max(id) FROM log WHERE flow_run_id = ?1), 0))",
        )?
        .execute([run])?;
    *left -= deleted(noted);
    for sql in [
        "DELETE FROM log WHERE id IN (SELECT id FROM log WHERE flow_run_id = ?1 LIMIT ?2)",
        "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE flow_run_id = ?1 LIMIT ?2)",
    ] {
        *left -= deleted(transaction.prepare_cached(sql)?.execute((run, *left))?);
    }
    if *left == 0 {
        return Ok(false);
    }
    waiting::leaves(transaction, run)?;
    *left -= deleted(
        transaction
            .prepare_cached("DELETE FROM flow_run WHERE id = ?1")?
            .execute([run])?,
    );
    Ok(true)
}

fn deleted(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::local::store::open_connection;

    #[test]
    fn a_long_log_is_forgotten_in_several_transactions_and_its_run_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut connection = open_connection(&folder.path().join("queue.db")).expect("opens");
        connection
            .execute_batch(
                "INSERT INTO flow_run (id, flow_name, parameters, work_queue, priority, tags, has_status_row, state_type,
                   state_name, state_at, state_sequence, status_row_due, created_at, scheduled_at, ended_at)
                 VALUES ('r', 'f', '{}', 'background', 2, '[]', 0, 'COMPLETED', 'Completed', 1, 1, 0, 1, 1, 1);
                 WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 4500)
                 INSERT INTO log (flow_run_id, attempt, level, message, at) SELECT 'r', 1, 'info', 'line', 1 FROM number;",
            )
            .expect("a run with a long log");
        let mut batches = Vec::new();
        loop {
            let before = connection.total_changes();
            let batch = forget_some(&mut connection, 2).expect("forgets");
            let changed = i64::try_from(connection.total_changes() - before).expect("small");
            assert!(changed <= MAX_ROWS, "{changed}");
            batches.push(batch.forgotten);
            if !batch.has_more {
                break;
            }
        }
        assert_eq!(batches, [0, 0, 1]);
        let left: i64 = connection
            .query_row("SELECT count(*) FROM log", [], |row| row.get(0))
            .expect("reads");
        assert_eq!(left, 0);
    }
}
