//! Runs that another system has queued, as rows of this queue: held by a worker here, or waiting there.

use rusqlite::{Connection, Transaction};

use super::peers::Peer;
use super::records::log_bytes;
use super::rows::{keep_state, now_ms, path_text, read_run};
use super::store::Fault;
use super::waiting;
use crate::domain::flow::{WORK_POOL, default_background_limit};
use crate::domain::flow_run::FlowRun;
use crate::domain::id::FlowRunId;
use crate::orchestrator::claims::Claim;

/// Makes a run that the other system handed over a claimed run of this queue.
pub(in crate::orchestrator) fn hold(
    transaction: &Transaction<'_>,
    own: &Peer,
    run: &FlowRun,
    has_status_row: bool,
    worker_name: &str,
) -> Result<Claim, Fault> {
    waiting::leaves(transaction, &run.flow_run_id.to_string())?;
    transaction
        .prepare_cached(
            "INSERT INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags,
               has_status_row, state_type, state_name, state_at, state_sequence, status_row_due, created_at, scheduled_at,
               attempt, failed_attempts, fencing_token, assets_seen, worker_name, worker_process)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'PENDING', 'Pending', ?10, 1, 0, ?11, ?12, ?13, ?14, 1,
               coalesce((SELECT max(version) FROM asset_materialization), 0), ?15, ?16)
             ON CONFLICT (id) DO UPDATE SET
               parameters = ?3, video_id = ?4, db_path = ?5, has_status_row = ?9, state_type = 'PENDING', state_name = 'Pending',
               state_message = NULL, state_at = ?10, state_sequence = state_sequence + 1, status_row_due = 0,
               scheduled_at = ?12, attempt = max(attempt + 1, ?13), failed_attempts = ?14,
               fencing_token = fencing_token + 1,
               assets_seen = coalesce((SELECT max(version) FROM asset_materialization), 0),
               worker_name = ?15, worker_process = ?16, child_process = NULL, progress = NULL, superseded_by = NULL,
               ended_at = NULL",
        )?
        .execute(rusqlite::params![
            run.flow_run_id.to_string(),
            run.flow_name,
            serde_json::to_string(&run.parameters).expect("arguments are JSON"),
            &run.video_id,
            path_text(run),
            run.priority.as_str(),
            run.priority.priority(),
            serde_json::to_string(&run.tags).expect("tags are text"),
            has_status_row && run.db_path.is_some(),
            now_ms(),
            run.created_at.as_millisecond(),
            run.scheduled_at.as_millisecond(),
            run.attempt + 1,
            run.failed_attempts,
            worker_name,
            own.to_json(),
        ])?;
    keep_state(transaction, run.flow_run_id)?;
    let log_bytes = log_bytes(transaction, run.flow_run_id)?;
    let stored = read_run(transaction, run.flow_run_id)?;
    Ok(Claim {
        log_bytes,
        trace: stored.trace,
        lease: stored.lease(),
        database: stored.database,
        flow_run: stored.flow_run,
    })
}

/// Notes a run that waits in the other system, if it is not known yet.
pub(in crate::orchestrator) fn note_waiting(
    transaction: &Transaction<'_>,
    run: &FlowRun,
    has_status_row: bool,
) -> Result<(), Fault> {
    let db_path = path_text(run);
    let inserted = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags,
               has_status_row, state_type, state_name, state_at, state_sequence, status_row_due, created_at, scheduled_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'SCHEDULED', 'Scheduled', ?10, 1, ?9, ?10, ?11)",
        )?
        .execute((
            run.flow_run_id.to_string(),
            &run.flow_name,
            serde_json::to_string(&run.parameters).expect("arguments are JSON"),
            &run.video_id,
            db_path,
            run.priority.as_str(),
            run.priority.priority(),
            serde_json::to_string(&run.tags).expect("tags are text"),
            has_status_row && db_path.is_some(),
            run.created_at.as_millisecond(),
            run.scheduled_at.as_millisecond(),
        ))?;
    if inserted == 1 {
        waiting::came(transaction, run.priority.as_str())?;
        keep_state(transaction, run.flow_run_id)?;
    }
    Ok(())
}

/// The run as it stands here.
pub(in crate::orchestrator) fn read(connection: &Connection, run: FlowRunId) -> Result<FlowRun, Fault> {
    Ok(read_run(connection, run)?.flow_run)
}

/// Which run took the place of this one.
pub(in crate::orchestrator) fn note_superseded(
    transaction: &Transaction<'_>,
    run: FlowRunId,
    newer: FlowRunId,
) -> Result<(), Fault> {
    transaction
        .prepare_cached("UPDATE flow_run SET superseded_by = ?2 WHERE id = ?1")?
        .execute((run.to_string(), newer.to_string()))?;
    Ok(())
}

/// How many runs hold a slot.
pub(in crate::orchestrator) fn held(connection: &Connection) -> rusqlite::Result<u32> {
    connection
        .prepare_cached("SELECT count(*) FROM flow_run INDEXED BY flow_run_active WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')")?
        .query_row([], |row| row.get(0))
}

/// How many of them are runs for which nobody waits.
pub(in crate::orchestrator) fn held_in_background(connection: &Connection) -> rusqlite::Result<u32> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM flow_run INDEXED BY flow_run_active
             WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING') AND work_queue = 'background'",
        )?
        .query_row([], |row| row.get(0))
}

/// How many there may be of them beside what else runs, of `limit` slots.
pub(in crate::orchestrator) fn background_limit(connection: &Connection, limit: u32) -> rusqlite::Result<u32> {
    let set: Option<u32> = connection
        .prepare_cached("SELECT background_limit FROM work_pool WHERE name = ?1")?
        .query_row([WORK_POOL], |row| row.get(0))?;
    Ok(set.unwrap_or_else(|| default_background_limit(limit)))
}

/// Whether this run, or one of the same flow for the same video, is held.
pub(in crate::orchestrator) fn is_held(
    connection: &Connection,
    run: FlowRunId,
    flow_name: &str,
    video_id: Option<&str>,
    db_path: Option<&str>,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM flow_run WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
               AND (id = ?1 OR flow_name = ?2 AND (video_id = ?3 OR db_path = ?4)))",
        )?
        .query_row((run.to_string(), flow_name, video_id, db_path), |row| row.get(0))
}
