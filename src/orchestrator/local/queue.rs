//! The life of a flow run in queue.db: queued, claimed, started, ended, recovered. Each function is one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, ToSql, Transaction};

use super::captions;
use super::lane::{self, Next};
use super::outbox::Tell;
use super::peers::{Peer, Peers};
use super::records;
use super::rows::{
    COLUMNS, Step, StoredRun, enter, keep_state, now_ms, parse_id, path_text, read_held, read_run, timestamp,
};
use super::store::{Fault, begin};
use super::waiting;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::FlowDefinition;
use crate::domain::flow_run::FlowRun;
use crate::domain::id::FlowRunId;
use crate::domain::lease::Lease;
use crate::domain::state::{CANCELLED_ON_REQUEST, StateName, StateType};
use crate::orchestrator::claims::{Claim, Ending, OrphanedRun, StatusRowDue};
use crate::orchestrator::queue::{Intent, NewFlowRun, QueuedFlowRun};
use crate::process::identity::ProcessIdentity;

/// How often a run may be interrupted from outside before it is taken for the cause.
const MAX_INTERRUPTIONS: u32 = 20;
/// Longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 1024;

const WAITING: &[StateType] = &[StateType::Scheduled];
const HELD_UNLESS_CANCELLING: &[StateType] = &[StateType::Pending, StateType::Running];

/// Queues a run; see [`crate::orchestrator::queue::Queue::create_flow_run`].
/// `video_file` is what tells the run's video from another file of that name; without it, no run at work is equal.
pub(super) fn create(
    connection: &mut Connection,
    new: &NewFlowRun,
    video_file: Option<&str>,
    intent: &Intent,
) -> Result<QueuedFlowRun, Fault> {
    if intent.is_given_up() {
        return Err(OrchestratorError::Aborted.into());
    }
    check_key(new.idempotency_key.as_deref())?;
    let flow = &new.flow;
    let given = new.arguments.to_parameters();
    let parameters = serde_json::to_string(&given).expect("arguments are JSON");
    let subject = new.arguments.subject();
    let (video_id, db_path) = (subject.video_id.as_deref(), subject.db_path_text());
    let now = now_ms();
    let transaction = begin(connection)?;

    if let Some(key) = &new.idempotency_key
        && let Some(known) = find_by_key(&transaction, key)?
    {
        return if known.flow_run.flow_name == flow.name && known.flow_run.parameters == given {
            Ok(queued(&known.flow_run, false))
        } else {
            Err(OrchestratorError::InvalidArgument {
                argument: "idempotencyKey".to_owned(),
                problem: format!(
                    "{key:?} belongs to flow run {} with another flow or other arguments: take a new key",
                    known.flow_run.flow_run_id
                ),
            }
            .into())
        };
    }
    let equal = find_equal(&transaction, flow, video_id, &parameters, video_file)?;
    let outcome = if let Some(equal) = equal {
        let id = equal.flow_run.flow_run_id;
        // Whoever asks again does not want to wait for the rest of a retry's delay.
        if equal.flow_run.state.name == StateName::AwaitingRetry {
            let step = Step {
                message: Some("queued again"),
                scheduled_at: Some(now),
                ..Step::default()
            };
            enter(&transaction, id, WAITING, StateName::Scheduled, now, step)?;
        }
        queued(&equal.flow_run, false)
    } else {
        let id = FlowRunId::generate();
        transaction
            .prepare_cached(
                "INSERT INTO flow_run (id, flow_name, parameters, video_id, db_path, work_queue, priority, tags,
                   has_status_row, state_type, state_name, state_at, state_sequence, status_row_due, created_at, scheduled_at,
                   is_behind, video_file, traceparent)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'SCHEDULED', 'Scheduled', ?10, 1, ?9, ?10, ?10, ?11, ?12, ?13)",
            )?
            .execute((
                id.to_string(),
                &flow.name,
                &parameters,
                video_id,
                db_path,
                flow.work_queue.as_str(),
                flow.work_queue.priority(),
                serde_json::to_string(&flow.tags(video_id)).expect("tags are text"),
                flow.keeps_status() && db_path.is_some(),
                now,
                lane::is_taken(&transaction, &flow.name, video_id, db_path, now)?,
                video_file,
                new.trace.map(|trace| trace.to_string()),
            ))?;
        waiting::came(&transaction, flow.work_queue.as_str())?;
        keep_state(&transaction, id)?;
        if flow.latest_wins {
            supersede(&transaction, id, &flow.name, video_id, db_path, now)?;
        }
        QueuedFlowRun {
            flow_run_id: id,
            work_queue: flow.work_queue,
            created: true,
        }
    };
    if let Some(key) = &new.idempotency_key {
        transaction
            .prepare_cached("INSERT INTO idempotency (key, flow_run_id) VALUES (?1, ?2)")?
            .execute((key, outcome.flow_run_id.to_string()))?;
    }
    if !intent.commit() {
        return Err(OrchestratorError::Aborted.into());
    }
    transaction.commit()?;
    Ok(outcome)
}

/// The run that is as good as a new one: that waits, or, where the latest wins, that is at work on the very same.
fn find_equal(
    transaction: &Transaction<'_>,
    flow: &FlowDefinition,
    video_id: Option<&str>,
    parameters: &str,
    video_file: Option<&str>,
) -> Result<Option<StoredRun>, Fault> {
    if video_id.is_none() {
        return Ok(None);
    }
    let found = if flow.latest_wins {
        // One that is to be stopped is begun anew.
        transaction
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM flow_run INDEXED BY flow_run_active
                 WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING') AND state_type <> 'CANCELLING'
                   AND flow_name = ?2 AND video_id = ?1 AND parameters = ?3 AND video_file = ?4 LIMIT 1"
            ))?
            .query_row((video_id, &flow.name, parameters, video_file), StoredRun::from_row)
    } else {
        transaction
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM flow_run
                 WHERE video_id = ?1 AND flow_name = ?2 AND parameters = ?3 AND state_type = 'SCHEDULED' LIMIT 1"
            ))?
            .query_row((video_id, &flow.name, parameters), StoredRun::from_row)
    };
    Ok(found.optional()?)
}

fn queued(run: &FlowRun, created: bool) -> QueuedFlowRun {
    QueuedFlowRun {
        flow_run_id: run.flow_run_id,
        work_queue: run.priority,
        created,
    }
}

pub(in crate::orchestrator) fn check_key(key: Option<&str>) -> Result<(), OrchestratorError> {
    let problem = match key {
        Some(key) if key.trim().is_empty() => "empty: leave it out, or give a key".to_owned(),
        Some(key) if key.len() > MAX_KEY_BYTES => format!("longer than {MAX_KEY_BYTES} bytes"),
        Some(_) | None => return Ok(()),
    };
    Err(OrchestratorError::InvalidArgument {
        argument: "idempotencyKey".to_owned(),
        problem,
    })
}

fn find_by_key(transaction: &Transaction<'_>, key: &str) -> Result<Option<StoredRun>, Fault> {
    let id: Option<String> = transaction
        .prepare_cached("SELECT flow_run_id FROM idempotency WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    id.map(|id| read_run(transaction, parse_id("id", &id)?)).transpose()
}

/// Cancels the older runs of this flow for the same video: the newest one is the one that counts.
fn supersede(
    transaction: &Transaction<'_>,
    newer: FlowRunId,
    flow_name: &str,
    video_id: Option<&str>,
    db_path: Option<&str>,
    now: i64,
) -> Result<(), Fault> {
    // Whether each still waits. They are found by an index each.
    let mut older: BTreeMap<String, bool> = BTreeMap::new();
    let mut find = |sql: &str, parameters: &[&dyn ToSql]| -> rusqlite::Result<()> {
        let mut rows = transaction.prepare_cached(sql)?;
        for row in rows.query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (id, is_waiting) = row?;
            older.insert(id, is_waiting);
        }
        Ok(())
    };
    find(
        "SELECT id, 1 FROM flow_run INDEXED BY flow_run_equal WHERE state_type = 'SCHEDULED' AND flow_name = ?1 AND video_id = ?2",
        &[&flow_name, &video_id],
    )?;
    find(
        "SELECT id, state_type = 'SCHEDULED' FROM flow_run
         WHERE ended_at IS NULL AND state_type <> 'CANCELLING' AND flow_name = ?1 AND db_path = ?2",
        &[&flow_name, &db_path],
    )?;
    find(
        "SELECT id, 0 FROM flow_run INDEXED BY flow_run_active WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
           AND state_type <> 'CANCELLING' AND flow_name = ?1 AND video_id = ?2",
        &[&flow_name, &video_id],
    )?;
    older.remove(&newer.to_string());
    for (id, is_waiting) in older {
        transaction
            .prepare_cached("UPDATE flow_run SET superseded_by = ?2 WHERE id = ?1")?
            .execute((&id, newer.to_string()))?;
        let message = format!("superseded by flow run {newer}");
        // The status row is left to the newer run.
        let step = Step {
            message: Some(&message),
            ..Step::default()
        };
        let (from, to) = if is_waiting {
            (WAITING, StateName::Cancelled)
        } else {
            (HELD_UNLESS_CANCELLING, StateName::Cancelling)
        };
        enter(transaction, parse_id("id", &id)?, from, to, now, step)?;
    }
    Ok(())
}

/// See [`crate::orchestrator::queue::Queue::cancel_flow_run`].
pub(super) fn cancel(connection: &mut Connection, id: FlowRunId) -> Result<FlowRun, Fault> {
    let now = now_ms();
    let transaction = begin(connection)?;
    let run = read_run(&transaction, id)?.flow_run;
    let step = Step {
        message: Some(CANCELLED_ON_REQUEST),
        ..Step::default()
    };
    match run.state.state_type {
        StateType::Scheduled => {
            let step = Step {
                status_row_due: true,
                ..step
            };
            enter(&transaction, id, WAITING, StateName::Cancelled, now, step)?;
        }
        StateType::Pending | StateType::Running => {
            enter(
                &transaction,
                id,
                HELD_UNLESS_CANCELLING,
                StateName::Cancelling,
                now,
                step,
            )?;
        }
        StateType::Cancelling | StateType::Cancelled => {}
        StateType::Completed | StateType::Failed | StateType::Crashed => {
            return Err(OrchestratorError::InvalidState {
                flow_run_id: id,
                state: run.state.name,
                problem: "it has ended, there is nothing to cancel".to_owned(),
            }
            .into());
        }
    }
    let run = read_run(&transaction, id)?.flow_run;
    transaction.commit()?;
    Ok(run)
}

/// See [`crate::orchestrator::queue::Queue::retry_flow_run`].
pub(super) fn retry(connection: &mut Connection, id: FlowRunId) -> Result<FlowRun, Fault> {
    let now = now_ms();
    let transaction = begin(connection)?;
    let run = read_run(&transaction, id)?.flow_run;
    let refused = |problem: &str| -> Fault {
        let state = run.state.name;
        OrchestratorError::InvalidState {
            flow_run_id: id,
            state,
            problem: problem.to_owned(),
        }
        .into()
    };
    match (run.state.state_type, run.state.name) {
        (StateType::Failed | StateType::Crashed | StateType::Cancelled, _) | (_, StateName::AwaitingRetry) => {}
        (StateType::Scheduled, _) => return Err(refused("it is queued already")),
        (StateType::Completed, _) => return Err(refused("it is done: queue a new run to do it again")),
        _ => return Err(refused("it has not ended: cancel it first, or wait")),
    }
    // A newer run has taken the captions that it names, and no others.
    if run.parameters.caption_ids().is_none()
        && let Some(newer) = newer_run(&transaction, &run)?
    {
        return Err(refused(&format!(
            "flow run {newer} for the same video is newer: retry that one"
        )));
    }
    let from = &[
        StateType::Scheduled,
        StateType::Failed,
        StateType::Crashed,
        StateType::Cancelled,
    ];
    let step = Step {
        message: Some("retried on request"),
        scheduled_at: Some(now),
        status_row_due: true,
        ..Step::default()
    };
    enter(&transaction, id, from, StateName::Scheduled, now, step)?;
    transaction
        .prepare_cached(
            "UPDATE flow_run SET failed_attempts = 0, interruptions = 0, superseded_by = NULL, progress = NULL WHERE id = ?1",
        )?
        .execute([id.to_string()])?;
    let run = read_run(&transaction, id)?.flow_run;
    transaction.commit()?;
    Ok(run)
}

/// The newest later run of the same flow and video that has not come to nothing.
fn newer_run(connection: &Connection, run: &FlowRun) -> Result<Option<String>, Fault> {
    let (video_id, db_path) = (run.video_id.as_deref(), path_text(run));
    let (flow_name, id) = (&run.flow_name, run.flow_run_id.to_string());
    let created_at = run.created_at.as_millisecond();
    let find = |sql: &str, parameters: &[&dyn ToSql]| -> rusqlite::Result<Option<String>> {
        connection
            .prepare_cached(sql)?
            .query_row(parameters, |row| row.get(0))
            .optional()
    };
    // Found by an index each.
    let of_video = find(
        "SELECT id FROM flow_run WHERE video_id = ?1 AND id > ?3 AND flow_name = ?2
           AND state_type NOT IN ('FAILED', 'CRASHED', 'CANCELLED') ORDER BY id DESC LIMIT 1",
        &[&video_id, flow_name, &id],
    )?;
    let of_database = find(
        "SELECT id FROM flow_run WHERE db_path = ?1 AND flow_name = ?2 AND ended_at IS NULL AND created_at >= ?4
           AND id > ?3 LIMIT 1",
        &[&db_path, flow_name, &id, &created_at],
    )?;
    let of_database_done = find(
        "SELECT id FROM flow_run WHERE db_path = ?1 AND flow_name = ?2 AND ended_at >= ?4 AND id > ?3
           AND state_type = 'COMPLETED' LIMIT 1",
        &[&db_path, flow_name, &id, &created_at],
    )?;
    Ok(of_video.max(of_database).max(of_database_done))
}

/// One try of [`crate::orchestrator::claims::Claims::claim`]. It goes on where runs of busy videos stood in the way: these were put
/// aside, and there may be more.
pub(super) fn try_to_claim(
    connection: &mut Connection,
    worker_name: &str,
    worker: &Peer,
    flow_names: &BTreeSet<String>,
) -> Result<ControlFlow<Option<Claim>>, Fault> {
    // A look without the write lock first: most polls find nothing.
    if !lane::may_be_next(connection, flow_names, now_ms())? {
        return Ok(ControlFlow::Break(None));
    }
    let transaction = begin(connection)?;
    let now = now_ms();
    let id = match lane::next(&transaction, flow_names, now)? {
        Next::Nothing => return Ok(ControlFlow::Break(None)),
        Next::Crowded { flow_name, priority } => {
            lane::put_aside(&transaction, &flow_name, priority, now)?;
            transaction.commit()?;
            return Ok(ControlFlow::Continue(()));
        }
        Next::Run(id) => id,
    };
    waiting::leaves(&transaction, &id.to_string())?;
    transaction
        .prepare_cached(
            "UPDATE flow_run SET
               state_type = 'PENDING', state_name = 'Pending', state_message = NULL, state_at = ?2,
               state_sequence = state_sequence + 1, status_row_due = 0,
               attempt = attempt + 1, fencing_token = fencing_token + 1,
               assets_seen = coalesce((SELECT max(version) FROM asset_materialization), 0),
               worker_name = ?3, worker_process = ?4, child_process = NULL, progress = NULL
             WHERE id = ?1 AND state_type = 'SCHEDULED'",
        )?
        .execute((id.to_string(), now, worker_name, worker.to_json()))?;
    keep_state(&transaction, id)?;
    let run = read_run(&transaction, id)?;
    let log_bytes = records::log_bytes(&transaction, id)?;
    transaction.commit()?;
    Ok(ControlFlow::Break(Some(Claim {
        log_bytes,
        trace: run.trace,
        lease: run.lease(),
        database: run.database,
        flow_run: run.flow_run,
    })))
}

/// See [`crate::orchestrator::claims::Claims::next_due`].
pub(super) fn next_due(connection: &Connection, flow_names: &BTreeSet<String>) -> Result<Option<Timestamp>, Fault> {
    // One statement for all flows and queues: a worker asks in every turn.
    let due: Option<i64> = connection
        .prepare_cached(
            "SELECT min((SELECT scheduled_at FROM flow_run
                         WHERE state_type = 'SCHEDULED' AND is_behind = 0 AND flow_name = flow.value
                           AND priority = queue.value AND scheduled_at > ?3 ORDER BY scheduled_at LIMIT 1))
             FROM json_each(?1) AS flow, json_each(?2) AS queue",
        )?
        .query_row((lane::names(flow_names), lane::priorities(), now_ms()), |row| {
            row.get(0)
        })?;
    Ok(due.map(timestamp))
}

/// See [`crate::orchestrator::claims::Claims::start`].
pub(super) fn start(
    connection: &mut Connection,
    lease: Lease,
    process: &ProcessIdentity,
    tell: Tell<'_>,
) -> Result<(), Fault> {
    let transaction = begin(connection)?;
    let run = read_held(&transaction, lease)?;
    records::keep_process(&transaction, lease, process)?;
    let name = if run.flow_run.failed_attempts > 0 {
        StateName::Retrying
    } else {
        StateName::Running
    };
    // One that is being cancelled already stays so; its worker stops it.
    enter(
        &transaction,
        lease.flow_run_id,
        &[StateType::Pending],
        name,
        now_ms(),
        Step {
            tell,
            ..Step::default()
        },
    )?;
    transaction.commit()?;
    Ok(())
}

/// See [`crate::orchestrator::claims::Claims::finish`].
pub(super) fn finish(
    connection: &mut Connection,
    lease: Lease,
    ending: &Ending,
    tell: Tell<'_>,
) -> Result<FlowRun, Fault> {
    let now = now_ms();
    let transaction = begin(connection)?;
    let run = read_held(&transaction, lease)?;
    let id = lease.flow_run_id;
    let is_cancelling = run.flow_run.state.state_type == StateType::Cancelling;
    let reason = run.flow_run.state.message.clone().unwrap_or_default();
    let (name, step) = match ending {
        Ending::Completed { message, .. } => (
            StateName::Completed,
            Step {
                message: Some(message),
                tell,
                ..Step::default()
            },
        ),
        // However its process ended: it was to be stopped, and it has stopped.
        _ if is_cancelling => {
            let status_row_due = run.flow_run.superseded_by.is_none();
            (
                StateName::Cancelled,
                Step {
                    message: Some(&reason),
                    status_row_due,
                    tell,
                    ..Step::default()
                },
            )
        }
        Ending::Cancelled { message } => (
            StateName::Cancelled,
            Step {
                message: Some(message),
                status_row_due: true,
                tell,
                ..Step::default()
            },
        ),
        Ending::Failed {
            state,
            message,
            retry_after,
        } => {
            transaction
                .prepare_cached("UPDATE flow_run SET failed_attempts = failed_attempts + 1 WHERE id = ?1")?
                .execute([id.to_string()])?;
            let step = Step {
                message: Some(message),
                status_row_due: true,
                tell,
                ..Step::default()
            };
            match retry_after {
                Some(delay) => {
                    let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX / 4);
                    (
                        StateName::AwaitingRetry,
                        Step {
                            scheduled_at: Some(now.saturating_add(delay_ms)),
                            ..step
                        },
                    )
                }
                None => (*state, step),
            }
        }
        Ending::GivenBack { message } => {
            transaction
                .prepare_cached("UPDATE flow_run SET interruptions = interruptions + 1 WHERE id = ?1")?
                .execute([id.to_string()])?;
            let step = Step {
                message: Some(message),
                status_row_due: true,
                tell,
                ..Step::default()
            };
            if run.interruptions >= MAX_INTERRUPTIONS {
                (StateName::Crashed, step)
            } else {
                (StateName::Scheduled, step)
            }
        }
    };
    let from: &[StateType] = match name.state_type() {
        StateType::Completed | StateType::Cancelled if is_cancelling => &[StateType::Cancelling],
        // An attempt that never came to run can be handed back, fail or be cancelled.
        StateType::Completed => &[StateType::Running],
        _ => HELD_UNLESS_CANCELLING,
    };
    if !enter(&transaction, id, from, name, now, step)? {
        return Err(OrchestratorError::Internal(format!("flow run {id} cannot become {}", name.as_str())).into());
    }
    records::end_task_runs(&transaction, lease, name, now, tell)?;
    if let Ending::Completed { materializations, .. } = ending {
        records::materialize(&transaction, &run, materializations, now, tell)?;
    }
    let run = read_run(&transaction, id)?.flow_run;
    transaction.commit()?;
    Ok(run)
}

/// See [`crate::orchestrator::claims::Claims::may_commit`].
pub(super) fn may_commit(connection: &Connection, lease: Lease) -> Result<bool, Fault> {
    match read_held(connection, lease) {
        Ok(run) => Ok(run.flow_run.state.state_type == StateType::Running),
        Err(Fault::Refused(OrchestratorError::AttemptSuperseded { .. })) => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// See [`crate::orchestrator::claims::Claims::cancellations`].
pub(super) fn cancellations(connection: &Connection, ids: &[FlowRunId]) -> Result<Vec<(FlowRunId, String)>, Fault> {
    let mut found = Vec::new();
    for &id in ids {
        let message: Option<Option<String>> = connection
            .prepare_cached("SELECT state_message FROM flow_run WHERE id = ?1 AND state_type = 'CANCELLING'")?
            .query_row([id.to_string()], |row| row.get(0))
            .optional()?;
        if let Some(message) = message {
            found.push((id, message.unwrap_or_default()));
        }
    }
    Ok(found)
}

/// See [`crate::orchestrator::claims::Claims::orphaned_runs`].
pub(super) fn orphaned_runs(connection: &Connection, peers: &Peers) -> Result<Vec<OrphanedRun>, Fault> {
    let held: Vec<StoredRun> = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM flow_run WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')"
        ))?
        .query_map([], StoredRun::from_row)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(held
        .into_iter()
        .filter(|run| run.worker_process.as_ref().is_none_or(|worker| !peers.lives(worker)))
        .map(|run| OrphanedRun {
            lease: run.lease(),
            worker: run.worker_process.map(|worker| worker.process),
            child: run.child_process,
            flow_run: run.flow_run,
        })
        .collect())
}

/// See [`crate::orchestrator::claims::Claims::status_rows_due`].
pub(super) fn status_rows_due(connection: &mut Connection) -> Result<Vec<StatusRowDue>, Fault> {
    let due = read_due(connection)?;
    let mut current = Vec::new();
    for run in due {
        // The row speaks of the newest run for its video: what happened to an older one is no longer its business.
        // Of captions there is a row each: those that a newer run has not taken are this one's.
        let captions = run.flow_run.parameters.caption_ids();
        let is_outdated = captions.is_none() && has_newer(connection, &run.flow_run)?;
        if is_outdated {
            status_row_written(connection, run.flow_run.flow_run_id, run.state_sequence)?;
        } else {
            current.push(StatusRowDue {
                state_sequence: run.state_sequence,
                known_pids: known_pids(connection, &run.flow_run)?,
                taken_captions: match captions {
                    Some(_) => captions::taken(connection, &run.flow_run)?,
                    None => BTreeSet::new(),
                },
                ended_pid: run.child_process.map(|child| child.pid),
                left_since: None,
                database: run.database,
                flow_run: run.flow_run,
            });
        }
    }
    Ok(current)
}

/// Whether there is a newer run of this flow on the same annotations.db. Ids of a Prefect server are random: what is newer
/// is told by time first.
fn has_newer(connection: &Connection, run: &FlowRun) -> Result<bool, Fault> {
    for sql in [
        "SELECT EXISTS (SELECT 1 FROM flow_run WHERE db_path = ?1 AND flow_name = ?2 AND ended_at IS NULL
           AND (created_at, id) > (?3, ?4))",
        // What is newer has ended later than this one began to wait.
        "SELECT EXISTS (SELECT 1 FROM flow_run WHERE db_path = ?1 AND flow_name = ?2 AND ended_at >= ?3
           AND (created_at, id) > (?3, ?4))",
    ] {
        let is_there: bool = connection.prepare_cached(sql)?.query_row(
            (
                path_text(run),
                &run.flow_name,
                run.created_at.as_millisecond(),
                run.flow_run_id.to_string(),
            ),
            |row| row.get(0),
        )?;
        if is_there {
            return Ok(true);
        }
    }
    Ok(false)
}

/// See [`StatusRowDue::known_pids`].
fn known_pids(connection: &Connection, run: &FlowRun) -> Result<BTreeMap<u32, bool>, Fault> {
    let mut known = BTreeMap::new();
    let mut attempts = connection.prepare_cached(
        "SELECT json_extract(child_process, '$.pid'), state_type IN ('PENDING', 'RUNNING', 'CANCELLING') FROM flow_run
         WHERE db_path = ?1 AND flow_name = ?2 AND child_process IS NOT NULL ORDER BY id DESC LIMIT 100",
    )?;
    let mut rows = attempts.query((path_text(run), &run.flow_name))?;
    while let Some(row) = rows.next()? {
        // In containers of their own, several attempts have one pid.
        *known.entry(row.get(0)?).or_insert(false) |= row.get::<_, bool>(1)?;
    }
    Ok(known)
}

fn read_due(connection: &Connection) -> Result<Vec<StoredRun>, Fault> {
    Ok(connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM flow_run WHERE status_row_due = 1 ORDER BY id LIMIT 100"
        ))?
        .query_map([], StoredRun::from_row)?
        .collect::<rusqlite::Result<_>>()?)
}

/// See [`crate::orchestrator::claims::Claims::status_row_is_due`].
pub(super) fn status_row_is_due(connection: &Connection, id: FlowRunId, state_sequence: i64) -> Result<bool, Fault> {
    Ok(connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM flow_run WHERE id = ?1 AND state_sequence = ?2 AND status_row_due = 1)",
        )?
        .query_row((id.to_string(), state_sequence), |row| row.get(0))?)
}

/// See [`crate::orchestrator::claims::Claims::status_row_written`].
pub(super) fn status_row_written(connection: &Connection, id: FlowRunId, state_sequence: i64) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE flow_run SET status_row_due = 0 WHERE id = ?1 AND state_sequence = ?2")?
        .execute((id.to_string(), state_sequence))?;
    Ok(())
}
