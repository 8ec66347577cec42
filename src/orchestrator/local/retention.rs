//! Forgetting what ended long ago, in batches of a bounded number of rows: no transaction holds the file for long, however
//! much a run has logged.

use rusqlite::Connection;

use super::queue::begin;
use super::store::Fault;

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
    let runs: Vec<String> = transaction
        .prepare_cached(
            "SELECT id FROM flow_run
             WHERE (ended_at < ?1 OR state_type = 'SCHEDULED' AND state_at < ?1 AND id IN (SELECT flow_run_id FROM prefect_run))
               AND status_row_due = 0
               AND NOT EXISTS (SELECT 1 FROM outbox WHERE flow_run_id = flow_run.id AND kind = 'state')
             LIMIT ?2",
        )?
        .query_map((ended_before, MAX_ROWS), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for run in runs {
        for sql in [
            "DELETE FROM log WHERE id IN (SELECT id FROM log WHERE flow_run_id = ?1 LIMIT ?2)",
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE flow_run_id = ?1 LIMIT ?2)",
        ] {
            left -= deleted(transaction.prepare_cached(sql)?.execute((&run, left))?);
        }
        if left == 0 {
            break;
        }
        left -= deleted(
            transaction
                .prepare_cached("DELETE FROM flow_run WHERE id = ?1")?
                .execute([&run])?,
        );
        forgotten += 1;
        if left == 0 {
            break;
        }
    }
    if left > 0 {
        let assets = transaction
            .prepare_cached(
                "DELETE FROM asset_materialization WHERE version IN (
                   SELECT version FROM asset_materialization AS old WHERE at < ?1
                     AND EXISTS (SELECT 1 FROM asset_materialization AS newer
                                 WHERE newer.key = old.key AND newer.version > old.version) LIMIT ?2)",
            )?
            .execute((ended_before, left))?;
        left -= deleted(assets);
    }
    transaction.commit()?;
    let has_more = left == 0;
    Ok(Batch { forgotten, has_more })
}

fn deleted(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_forgotten_in_several_transactions_and_its_run_last() {
        let mut connection = Connection::open_in_memory().expect("opens");
        for schema in [
            include_str!("schema.sql"),
            include_str!("schema_2.sql"),
            include_str!("schema_3.sql"),
            "PRAGMA foreign_keys = ON",
        ] {
            connection.execute_batch(schema).expect("a schema");
        }
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
