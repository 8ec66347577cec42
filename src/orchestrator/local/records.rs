//! What workers learn of their runs: processes, task runs, progress, logs, artifacts, assets.

use rusqlite::{Connection, OptionalExtension, Transaction};
use uuid::Uuid;

use super::outbox::{News, Tell};
use super::rows::{StoredRun, now_ms, read_held, uuid};
use super::store::{Fault, begin};
use crate::domain::asset::Materialization;
use crate::domain::id::FlowRunId;
use crate::domain::lease::Lease;
use crate::domain::state::StateName;
use crate::orchestrator::claims::Record;
use crate::process::identity::ProcessIdentity;

/// See [`crate::orchestrator::claims::Claims::record`].
///
/// Which database a run has must survive anything; of logs and progress a power loss may cost
/// the last moments, which spares the disk a flush each time.
pub(super) fn record(
    connection: &mut Connection,
    lease: Lease,
    records: &[Record],
    tell: Tell<'_>,
) -> Result<(), Fault> {
    let is_vital = records.iter().any(|record| matches!(record, Record::Database(_)));
    if is_vital {
        return keep(connection, lease, records, tell);
    }
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    let outcome = keep(connection, lease, records, tell);
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    outcome
}

fn keep(connection: &mut Connection, lease: Lease, records: &[Record], tell: Tell<'_>) -> Result<(), Fault> {
    let transaction = begin(connection)?;
    read_held(&transaction, lease)?;
    let id = lease.flow_run_id.to_string();
    for record in records {
        match record {
            Record::Database(identity) => {
                transaction
                    .prepare_cached("UPDATE flow_run SET database = ?2 WHERE id = ?1")?
                    .execute((&id, serde_json::to_string(identity).expect("plain values")))?;
            }
            Record::TaskRun {
                task_run_id,
                name,
                run_count,
                state,
                message,
            } => {
                let now = now_ms();
                let ended_at = state.state_type().is_final().then_some(now);
                // A task run of another run is not touched, whatever id the child chose.
                let changed = transaction
                    .prepare_cached(
                        "INSERT INTO task_run (id, flow_run_id, attempt, name, run_count, state_name, message,
                           started_at, state_at, ended_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9)
                         ON CONFLICT (id) DO UPDATE SET run_count = ?5, state_name = ?6, message = ?7, state_at = ?8,
                           ended_at = ?9
                         WHERE flow_run_id = ?2 AND attempt = ?3",
                    )?
                    .execute((
                        task_run_id.to_string(),
                        &id,
                        lease.attempt,
                        name,
                        run_count,
                        state.as_str(),
                        message,
                        now,
                        ended_at,
                    ))?;
                if changed == 1 {
                    tell.post(&transaction, lease.flow_run_id, News::TaskRun(*task_run_id))?;
                }
            }
            Record::Progress(progress) => {
                transaction
                    .prepare_cached(
                        "UPDATE flow_run SET progress = ?2, progress_at = max(?3, progress_at + 1) WHERE id = ?1",
                    )?
                    .execute((
                        &id,
                        serde_json::to_string(progress).expect("plain values"),
                        progress.timestamp.as_millisecond(),
                    ))?;
            }
            Record::Log(line) => {
                transaction
                    .prepare_cached(
                        "INSERT INTO log (flow_run_id, attempt, level, message, at) VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute((
                        &id,
                        line.attempt,
                        line.level.as_str(),
                        &line.message,
                        line.timestamp.as_millisecond(),
                    ))?;
                tell.post(&transaction, lease.flow_run_id, News::Log(line))?;
            }
            Record::Artifact(artifact) => {
                transaction
                    .prepare_cached(
                        "INSERT INTO artifact (flow_run_id, key, type, description, data, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute((
                        &id,
                        &artifact.key,
                        artifact.artifact_type.as_str(),
                        &artifact.description,
                        artifact.data.to_string(),
                        artifact.timestamp.as_millisecond(),
                    ))?;
                let row = transaction.last_insert_rowid();
                tell.post(&transaction, lease.flow_run_id, News::Artifact(row))?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// What a run has logged, in bytes.
pub(super) fn log_bytes(connection: &Connection, id: FlowRunId) -> Result<u64, Fault> {
    let bytes: i64 = connection
        .prepare_cached("SELECT coalesce(sum(octet_length(message)), 0) FROM log WHERE flow_run_id = ?1")?
        .query_row([id.to_string()], |row| row.get(0))?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Which process does the work, so that it can be found again after the worker's death.
pub(super) fn keep_process(
    transaction: &Transaction<'_>,
    lease: Lease,
    process: &ProcessIdentity,
) -> Result<(), Fault> {
    transaction
        .prepare_cached("UPDATE flow_run SET child_process = ?2 WHERE id = ?1")?
        .execute((
            lease.flow_run_id.to_string(),
            serde_json::to_string(process).expect("plain values"),
        ))?;
    Ok(())
}

/// Task runs that the attempt left running end with it.
pub(super) fn end_task_runs(
    transaction: &Transaction<'_>,
    lease: Lease,
    run: StateName,
    now: i64,
    tell: Tell<'_>,
) -> Result<(), Fault> {
    let state = match run {
        StateName::Completed => StateName::Completed,
        StateName::Cancelled => StateName::Cancelled,
        _ => StateName::Crashed,
    };
    let ended: Vec<Uuid> = transaction
        .prepare_cached(
            "UPDATE task_run SET state_name = ?3, message = 'ended with its flow run''s attempt', state_at = ?4, ended_at = ?4
             WHERE flow_run_id = ?1 AND attempt = ?2 AND ended_at IS NULL RETURNING id",
        )?
        .query_map((lease.flow_run_id.to_string(), lease.attempt, state.as_str(), now), |row| {
            uuid(row, "id")
        })?
        .collect::<rusqlite::Result<_>>()?;
    for task_run in ended {
        tell.post(transaction, lease.flow_run_id, News::TaskRun(task_run))?;
    }
    Ok(())
}

/// Keeps what a completed run made, and from which version of each upstream: the newest that was there when the
/// attempt was claimed, or that this run made or found itself.
pub(super) fn materialize(
    transaction: &Transaction<'_>,
    run: &StoredRun,
    materializations: &[Materialization],
    now: i64,
    tell: Tell<'_>,
) -> Result<(), Fault> {
    let id = run.flow_run.flow_run_id.to_string();
    // What this run looked at and found as it was, also when another run was first to say so: it read that version.
    let mut found_unchanged = Vec::new();
    for materialization in materializations {
        let metadata = materialization.metadata.to_string();
        if materialization.observed && newest_metadata(transaction, &materialization.key)?.as_ref() == Some(&metadata) {
            found_unchanged.push(&materialization.key);
            continue;
        }
        transaction
            .prepare_cached("UPDATE asset_materialization SET is_newest = 0 WHERE key = ?1 AND is_newest = 1")?
            .execute([&materialization.key])?;
        transaction
            .prepare_cached(
                "INSERT INTO asset_materialization (key, flow_run_id, flow_name, metadata, at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((&materialization.key, &id, &run.flow_run.flow_name, metadata, now))?;
        let version = transaction.last_insert_rowid();
        for upstream in &materialization.upstream_keys {
            transaction
                .prepare_cached(
                    "INSERT OR IGNORE INTO asset_upstream (materialization_version, key, version)
                     VALUES (?1, ?2, (SELECT max(version) FROM asset_materialization
                                      WHERE key = ?2 AND (version <= ?3 OR flow_run_id = ?4 OR ?5) AND version < ?1))",
                )?
                .execute((
                    version,
                    upstream,
                    run.assets_seen,
                    &id,
                    found_unchanged.contains(&upstream),
                ))?;
        }
        tell.post(transaction, run.flow_run.flow_run_id, News::Asset(version))?;
    }
    Ok(())
}

fn newest_metadata(transaction: &Transaction<'_>, key: &str) -> Result<Option<String>, Fault> {
    Ok(transaction
        .prepare_cached("SELECT metadata FROM asset_materialization WHERE key = ?1 ORDER BY version DESC LIMIT 1")?
        .query_row([key], |row| row.get(0))
        .optional()?)
}
