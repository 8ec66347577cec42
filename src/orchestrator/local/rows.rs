//! Rows of queue.db as values, and steps that several operations share.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::outbox::{News, Tell};
use super::peers::Peer;
use super::store::Fault;
use super::waiting;
use crate::domain::database::DatabaseIdentity;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::WorkQueue;
use crate::domain::flow_run::{FlowRun, State};
use crate::domain::id::FlowRunId;
use crate::domain::id::InvalidFlowRunId;
use crate::domain::lease::Lease;
use crate::domain::state::{StateName, StateType};
use crate::domain::trace::TraceContext;
use crate::process::identity::ProcessIdentity;

/// Milliseconds since the epoch, now.
pub(in crate::orchestrator) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// A stored time.
pub(in crate::orchestrator) fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Names of the columns that [`StoredRun::from_row`] reads.
pub(super) const COLUMNS: &str = "id, flow_name, parameters, video_id, db_path, work_queue, tags, state_name, state_message, state_at, \
     state_sequence, attempt, failed_attempts, interruptions, fencing_token, superseded_by, worker_name, worker_process, \
     child_process, database, progress, created_at, scheduled_at, started_at, ended_at, assets_seen, traceparent";

/// A whole row of `flow_run`.
#[derive(Debug, Clone)]
pub(super) struct StoredRun {
    pub(super) flow_run: FlowRun,
    pub(super) state_sequence: i64,
    pub(super) interruptions: u32,
    pub(super) fencing_token: i64,
    pub(super) worker_process: Option<Peer>,
    pub(super) child_process: Option<ProcessIdentity>,
    pub(super) database: Option<DatabaseIdentity>,
    pub(super) assets_seen: i64,
    pub(super) trace: Option<TraceContext>,
}

impl StoredRun {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let flow_name: String = row.get("flow_name")?;
        let scheduled_ms: i64 = row.get("scheduled_at")?;
        let name = state_name(row, "state_name")?.seen_at(scheduled_ms, now_ms());
        let child_process: Option<ProcessIdentity> = optional_json(row, "child_process")?;
        let time = |column: &str| -> rusqlite::Result<Option<Timestamp>> {
            Ok(row.get::<_, Option<i64>>(column)?.map(timestamp))
        };
        Ok(Self {
            state_sequence: row.get("state_sequence")?,
            interruptions: row.get("interruptions")?,
            fencing_token: row.get("fencing_token")?,
            worker_process: optional_json(row, "worker_process")?,
            database: optional_json(row, "database")?,
            assets_seen: row.get("assets_seen")?,
            trace: row
                .get::<_, Option<String>>("traceparent")?
                .and_then(|text| text.parse().ok()),
            flow_run: FlowRun {
                flow_run_id: id(row, "id")?,
                deployment: format!("{flow_name}/production"),
                flow_name,
                parameters: json(row, "parameters")?,
                video_id: row.get("video_id")?,
                db_path: row.get::<_, Option<String>>("db_path")?.map(PathBuf::from),
                priority: WorkQueue::parse(&row.get::<_, String>("work_queue")?)
                    .ok_or_else(|| unreadable("work_queue", "no queue of ours"))?,
                tags: json(row, "tags")?,
                state: State {
                    state_type: name.state_type(),
                    name,
                    message: row.get("state_message")?,
                    timestamp: timestamp(row.get("state_at")?),
                },
                attempt: row.get("attempt")?,
                failed_attempts: row.get("failed_attempts")?,
                progress: optional_json(row, "progress")?,
                superseded_by: match row.get::<_, Option<String>>("superseded_by")? {
                    Some(text) => Some(parse_id("superseded_by", &text)?),
                    None => None,
                },
                worker_name: row.get("worker_name")?,
                pid: child_process
                    .as_ref()
                    .filter(|_| name.state_type().holds_slot())
                    .map(|child| child.pid),
                created_at: timestamp(row.get("created_at")?),
                scheduled_at: timestamp(scheduled_ms),
                started_at: time("started_at")?,
                ended_at: time("ended_at")?,
            },
            child_process,
        })
    }

    pub(super) fn lease(&self) -> Lease {
        Lease {
            flow_run_id: self.flow_run.flow_run_id,
            attempt: self.flow_run.attempt,
            fencing_token: self.fencing_token,
        }
    }
}

/// The annotations.db of a run as it is stored.
pub(super) fn path_text(run: &FlowRun) -> Option<&str> {
    run.db_path.as_deref().and_then(Path::to_str)
}

/// The run of that id.
pub(super) fn read_run(connection: &Connection, id: FlowRunId) -> Result<StoredRun, Fault> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM flow_run WHERE id = ?1"))?
        .query_row([id.to_string()], StoredRun::from_row)
        .optional()?
        .ok_or_else(|| OrchestratorError::FlowRunNotFound(id).into())
}

/// The run, if `lease` still holds it.
pub(super) fn read_held(connection: &Connection, lease: Lease) -> Result<StoredRun, Fault> {
    let superseded = || OrchestratorError::AttemptSuperseded {
        flow_run_id: lease.flow_run_id,
        attempt: lease.attempt,
    };
    let run = match read_run(connection, lease.flow_run_id) {
        Err(Fault::Refused(OrchestratorError::FlowRunNotFound(_))) => return Err(superseded().into()),
        other => other?,
    };
    if run.fencing_token != lease.fencing_token || !run.flow_run.state.state_type.holds_slot() {
        return Err(superseded().into());
    }
    Ok(run)
}

/// What a step changes beside the state.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::orchestrator) struct Step<'a> {
    /// Why, for people.
    pub(in crate::orchestrator) message: Option<&'a str>,
    /// New due time.
    pub(in crate::orchestrator) scheduled_at: Option<i64>,
    /// Whether annotations.db's status row has to follow.
    pub(in crate::orchestrator) status_row_due: bool,
    /// Who hears of it.
    pub(in crate::orchestrator) tell: Tell<'a>,
}

/// Takes a run from one of the states `from` to `to`; `false` if it is in none of them. The one place where a
/// state changes, apart from the claim, which has a row of its own to fill.
pub(in crate::orchestrator) fn enter(
    transaction: &Transaction<'_>,
    id: FlowRunId,
    from: &[StateType],
    to: StateName,
    now: i64,
    step: Step<'_>,
) -> Result<bool, Fault> {
    debug_assert!(
        from.iter().all(|from| from.may_become(to.state_type())),
        "{from:?} -> {to:?}"
    );
    let Some(before) = Place::of(transaction, id)? else {
        return Ok(false);
    };
    if !from.contains(&before.state_type) {
        return Ok(false);
    }
    transaction
        .prepare_cached(
            "UPDATE flow_run SET
               state_type = ?2, state_name = ?3, state_message = ?4, state_at = ?5,
               state_sequence = state_sequence + 1,
               status_row_due = ?6 AND has_status_row,
               scheduled_at = coalesce(?7, scheduled_at),
               started_at = CASE WHEN ?2 = 'RUNNING' THEN coalesce(started_at, ?5) ELSE started_at END,
               ended_at = CASE WHEN ?2 IN ('CANCELLED', 'COMPLETED', 'FAILED', 'CRASHED') THEN ?5 END,
               worker_process = CASE WHEN ?2 IN ('PENDING', 'RUNNING', 'CANCELLING') THEN worker_process END,
               is_behind = 0
             WHERE id = ?1",
        )?
        .execute((
            id.to_string(),
            to.state_type().as_str(),
            to.as_str(),
            step.message,
            now,
            step.status_row_due,
            step.scheduled_at,
        ))?;
    keep_state(transaction, id)?;
    step.tell.post(transaction, id, News::State)?;
    match (before.state_type, to.state_type()) {
        (StateType::Scheduled, StateType::Scheduled) => {}
        (StateType::Scheduled, _) => waiting::left(transaction, &before.work_queue)?,
        (_, StateType::Scheduled) => waiting::came(transaction, &before.work_queue)?,
        _ => {}
    }
    if !to.state_type().holds_slot() {
        before.let_next_through(transaction)?;
    }
    Ok(true)
}

/// Where a run is in the queue.
struct Place {
    state_type: StateType,
    work_queue: String,
    flow_name: String,
    video_id: Option<String>,
    db_path: Option<String>,
}

impl Place {
    fn of(transaction: &Transaction<'_>, id: FlowRunId) -> Result<Option<Self>, Fault> {
        Ok(transaction
            .prepare_cached("SELECT state_name, work_queue, flow_name, video_id, db_path FROM flow_run WHERE id = ?1")?
            .query_row([id.to_string()], |row| {
                Ok(Self {
                    state_type: state_name(row, "state_name")?.state_type(),
                    work_queue: row.get("work_queue")?,
                    flow_name: row.get("flow_name")?,
                    video_id: row.get("video_id")?,
                    db_path: row.get("db_path")?,
                })
            })
            .optional()?)
    }

    /// Claims look again at the first of the runs that wait behind this one. Once too often does no harm: a claim sees for
    /// itself whether a video is busy. But of runs that wait for each other's end, one is always looked at: whatever ends,
    /// is cancelled or is put off comes through here.
    fn let_next_through(&self, transaction: &Transaction<'_>) -> Result<(), Fault> {
        for (sql, key) in [
            (
                "UPDATE flow_run SET is_behind = 0 WHERE rowid = (
                   SELECT rowid FROM flow_run
                   WHERE state_type = 'SCHEDULED' AND is_behind = 1 AND flow_name = ?1 AND video_id = ?2
                   ORDER BY priority, scheduled_at, id LIMIT 1)",
                &self.video_id,
            ),
            (
                "UPDATE flow_run SET is_behind = 0 WHERE rowid = (
                   SELECT rowid FROM flow_run
                   WHERE state_type = 'SCHEDULED' AND is_behind = 1 AND flow_name = ?1 AND db_path = ?2
                   ORDER BY priority, scheduled_at, id LIMIT 1)",
                &self.db_path,
            ),
        ] {
            if key.is_some() {
                transaction.prepare_cached(sql)?.execute((&self.flow_name, key))?;
            }
        }
        Ok(())
    }
}

/// Adds the run's state to its history, and to that of all runs.
pub(super) fn keep_state(transaction: &Transaction<'_>, id: FlowRunId) -> Result<(), Fault> {
    transaction
        .prepare_cached(
            "INSERT INTO flow_run_state (flow_run_id, sequence, state_name, message, attempt, at, position)
             SELECT id, state_sequence, state_name, state_message, attempt, state_at, (SELECT position + 1 FROM feed_end)
             FROM flow_run WHERE id = ?1",
        )?
        .execute([id.to_string()])?;
    Ok(())
}

/// A stored text that does not say what it should: the file was changed by another program.
pub(in crate::orchestrator) fn unreadable(column: &str, problem: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, format!("{column}: {problem}").into())
}

pub(in crate::orchestrator) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| unreadable(column, &error.to_string()))
}

fn optional_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    match row.get::<_, Option<String>>(column)? {
        Some(_) => json(row, column).map(Some),
        None => Ok(None),
    }
}

pub(super) fn state_name(row: &Row<'_>, column: &str) -> rusqlite::Result<StateName> {
    StateName::parse(&row.get::<_, String>(column)?).ok_or_else(|| unreadable(column, "no state of ours"))
}

pub(in crate::orchestrator) fn id(row: &Row<'_>, column: &str) -> rusqlite::Result<FlowRunId> {
    parse_id(column, &row.get::<_, String>(column)?)
}

pub(in crate::orchestrator) fn uuid(row: &Row<'_>, column: &str) -> rusqlite::Result<Uuid> {
    Uuid::parse_str(&row.get::<_, String>(column)?).map_err(|_| unreadable(column, "no UUID"))
}

pub(super) fn parse_id(column: &str, text: &str) -> rusqlite::Result<FlowRunId> {
    text.parse()
        .map_err(|error: InvalidFlowRunId| unreadable(column, &error.to_string()))
}
