//! How many runs wait in each work queue: kept in the transaction that makes a run wait or takes it from where it waits,
//! because counting half a million of them takes longer than all else that a worker asks.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::store::Fault;
use crate::domain::flow::WorkQueue;

/// A run waits from now on.
pub(super) fn came(transaction: &Transaction<'_>, work_queue: &str) -> Result<(), Fault> {
    add(transaction, work_queue, 1)
}

/// A run waits no longer.
pub(super) fn left(transaction: &Transaction<'_>, work_queue: &str) -> Result<(), Fault> {
    add(transaction, work_queue, -1)
}

/// The same, before the row changes or goes, of a run that may not wait at all, or not be there.
pub(super) fn leaves(transaction: &Transaction<'_>, flow_run_id: &str) -> Result<(), Fault> {
    let work_queue: Option<String> = transaction
        .prepare_cached("SELECT work_queue FROM flow_run WHERE id = ?1 AND state_type = 'SCHEDULED'")?
        .query_row([flow_run_id], |row| row.get(0))
        .optional()?;
    work_queue.map_or(Ok(()), |work_queue| left(transaction, &work_queue))
}

fn add(transaction: &Transaction<'_>, work_queue: &str, change: i64) -> Result<(), Fault> {
    transaction
        .prepare_cached("UPDATE waiting SET runs = runs + ?2 WHERE work_queue = ?1")?
        .execute((work_queue, change))?;
    Ok(())
}

/// Runs that wait, by queue.
pub(super) fn counts(connection: &Connection) -> Result<Vec<(WorkQueue, u32)>, Fault> {
    let mut counts = Vec::new();
    for queue in WorkQueue::ALL {
        let runs: i64 = connection
            .prepare_cached("SELECT runs FROM waiting WHERE work_queue = ?1")?
            .query_row([queue.as_str()], |row| row.get(0))?;
        counts.push((queue, u32::try_from(runs.max(0)).unwrap_or(u32::MAX)));
    }
    Ok(counts)
}
