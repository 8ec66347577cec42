//! Status rows of runs that wait or have ended: what the web app polls must not be left behind by a death, a lock or
//! a full disk.
//!
//! While a child runs, it writes its row itself. Everything else is the worker's: the store remembers which rows are
//! due, and they stay due until they were written, whichever worker gets to it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{debug, info, warn};

use super::scratch::remove_scratch;
use crate::annotations::{AnnotationsError, CaptionRows, FailureRecord, StatusRow, remove_shadows};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{FlowDefinition, Flows, StatusTable};
use crate::domain::id::FlowRunId;
use crate::domain::plain_message::without_folders;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::{Claims, StatusRowDue};
use crate::orchestrator::queue::FlowRunFilter;

/// How long a row that could not be written is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How long the last rows may take when the worker ends.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);

/// Where annotations.db says what becomes of a flow's runs.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the row of this table.
    Table(StatusTable),
    /// In the rows of the captions that the run names.
    Captions,
}

/// Writes due rows beside the worker's loop.
pub struct StatusRows {
    orchestrator: Arc<dyn Claims>,
    flows: Flows,
    places: HashMap<String, Place>,
    writes: JoinSet<(FlowRunId, i64, bool)>,
    in_work: HashMap<FlowRunId, Option<Instant>>,
}

impl StatusRows {
    /// For the runs of this orchestrator.
    pub fn new(orchestrator: Arc<dyn Claims>, flows: &Flows) -> Self {
        let place = |flow: &FlowDefinition| match flow.status_table {
            Some(table) => Some(Place::Table(table)),
            None => flow.keeps_captions.then_some(Place::Captions),
        };
        let places = flows
            .iter()
            .filter_map(|flow| Some((flow.name.clone(), place(flow)?)))
            .collect();
        Self {
            orchestrator,
            flows: flows.clone(),
            places,
            writes: JoinSet::new(),
            in_work: HashMap::new(),
        }
    }

    /// Begins to write what is due and notes what was written. Returns without waiting for a lock.
    pub async fn write_some(&mut self) -> Result<(), OrchestratorError> {
        while let Some(written) = self.writes.try_join_next() {
            self.note(written).await?;
        }
        for due in self.orchestrator.status_rows_due().await? {
            let id = due.flow_run.flow_run_id;
            let is_left_alone = self
                .in_work
                .get(&id)
                .is_some_and(|again_at| again_at.is_none_or(|at| Instant::now() < at));
            if is_left_alone {
                continue;
            }
            let Some(&place) = self.places.get(&due.flow_run.flow_name) else {
                continue;
            };
            self.in_work.insert(id, None);
            let orchestrator = self.orchestrator.clone();
            let flows = self.flows.clone();
            let runtime = Handle::current();
            self.writes.spawn(async move {
                let sequence = due.state_sequence;
                if due.left_since.is_some() && due.flow_run.state.state_type.is_final() {
                    // Its own worker is lost, and no further attempt will find it.
                    remove_scratch(&flows, &due.flow_run, due.flow_run.attempt).await;
                }
                let writing = spawn_blocking(move || {
                    let still_due = || runtime.block_on(is_still_due(orchestrator.as_ref(), &due));
                    let is_written = write(&due, place, &still_due);
                    if is_written {
                        let is_free = || runtime.block_on(nothing_is_at_work(orchestrator.as_ref(), &due));
                        clear(&due, place, &is_free);
                    }
                    is_written
                });
                (id, sequence, writing.await.unwrap_or(false))
            });
        }
        Ok(())
    }

    /// Writes what is due and waits for it, but not for ever.
    pub async fn write_all(&mut self) {
        let work = async {
            self.write_some().await?;
            while let Some(written) = self.writes.join_next().await {
                self.note(written).await?;
            }
            Ok::<_, OrchestratorError>(())
        };
        match tokio::time::timeout(LAST_TIMEOUT, work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(
                error = error.to_line(),
                "Status rows may be behind until a worker runs again."
            ),
            Err(_) => warn!("Status rows may be behind until a worker runs again: a database is locked."),
        }
    }

    async fn note(
        &mut self,
        written: Result<(FlowRunId, i64, bool), tokio::task::JoinError>,
    ) -> Result<(), OrchestratorError> {
        let Ok((id, sequence, is_done)) = written else {
            return Ok(());
        };
        if is_done {
            self.in_work.remove(&id);
            self.orchestrator.status_row_written(id, sequence).await
        } else {
            self.in_work.insert(id, Some(Instant::now() + RETRY_INTERVAL));
            Ok(())
        }
    }
}

/// Whether the row is still to say what it is about to; asked before the row is locked, since a server may take its time.
/// Of a Prefect run, the server may not have heard of its state yet; what it knows better is that another machine has begun
/// anew. What can not be asked is taken to be as it was.
async fn is_still_due(orchestrator: &dyn Claims, due: &StatusRowDue) -> bool {
    let (id, then) = (due.flow_run.flow_run_id, &due.flow_run);
    let is_current = match orchestrator.read_flow_run(id).await {
        Ok(now) => now.attempt <= then.attempt,
        Err(OrchestratorError::FlowRunNotFound(_)) => false,
        Err(_) => true,
    };
    // Last, because its answer is from here, and the newest.
    is_current
        && orchestrator
            .status_row_is_due(id, due.state_sequence)
            .await
            .unwrap_or(true)
}

/// Brings one row up to date; `true` if there is nothing more to do about it.
fn write(due: &StatusRowDue, place: Place, still_due: &dyn Fn() -> bool) -> bool {
    let run = &due.flow_run;
    let Some(path) = &run.db_path else {
        return true;
    };
    let reason = run.state.message.clone().unwrap_or_default();
    // A web user reads the message; where the server keeps its files is for those who look into the details.
    let paths = run.parameters.0.values().filter_map(Value::as_str).map(Path::new);
    let failure = FailureRecord {
        message: without_folders(&reason, paths),
        details: json!({
            "reason": reason,
            "flow_run_id": run.flow_run_id,
            "attempt": run.attempt,
            "state": run.state.name,
        }),
    };
    let outcome = match place {
        Place::Table(table) => {
            let row = StatusRow::new(path, table)
                .with_identity(due.database)
                .with_ended_pid(due.ended_pid)
                .with_known_pids(&due.known_pids)
                .with_left_since(due.left_since)
                .with_still_due(still_due);
            match (run.state.state_type, run.state.name) {
                (StateType::Scheduled, StateName::AwaitingRetry) => row.mark_retry_due(&failure),
                // The web app wrote the row of a new full-frames itself.
                (StateType::Scheduled, _) if run.attempt == 0 && table == StatusTable::ProcessingStatus => Ok(()),
                (StateType::Scheduled, _) => row.mark_queued(),
                (StateType::Failed | StateType::Crashed, _) => row.mark_failed(&failure),
                (StateType::Cancelled, _) => row.mark_cancelled(&failure),
                _ => Ok(()),
            }
        }
        Place::Captions => {
            let mut ids = run.parameters.caption_ids().unwrap_or_default();
            ids.retain(|id| !due.taken_captions.contains(id));
            let rows = CaptionRows::new(path, &ids)
                .with_identity(due.database)
                .with_still_due(still_due);
            match (run.state.state_type, run.state.name) {
                (StateType::Scheduled, StateName::AwaitingRetry) => rows.mark_queued(Some(&failure.message)),
                // The web app wrote `queued` itself.
                (StateType::Scheduled, _) if run.attempt == 0 => Ok(()),
                (StateType::Scheduled, _) => rows.mark_queued(None),
                (StateType::Failed | StateType::Crashed, _) => rows.mark_ended(&failure.message),
                (StateType::Cancelled, _) => rows.mark_ended(CaptionRows::CANCELLED_MESSAGE),
                _ => Ok(()),
            }
        }
    };
    let id = run.flow_run_id;
    match outcome {
        Ok(()) => {
            if due.left_since.is_some() {
                debug!(flow_run_id = %id, "The status row of a lost machine's run is as it should be.");
            }
            true
        }
        Err(error @ (AnnotationsError::NotFound { .. } | AnnotationsError::FolderNotFound { .. }))
            if due.left_since.is_some() =>
        {
            info!(flow_run_id = %id, "The machine of a run that has ended is lost, and its status row can not be written here: {error}.");
            true
        }
        Err(error) if is_passing(&error) => {
            debug!(flow_run_id = %id, %error, "The status row can not be written yet.");
            false
        }
        Err(error) => {
            // Deleted, replaced, taken by the app, or no database at all: the row is no longer this run's.
            debug!(flow_run_id = %id, %error, "The status row is no longer this run's.");
            true
        }
    }
}

/// Whether no run of the flow is at work on the video, as far as is known here.
async fn nothing_is_at_work(orchestrator: &dyn Claims, due: &StatusRowDue) -> bool {
    let run = &due.flow_run;
    let filter = FlowRunFilter {
        flow_name: Some(run.flow_name.clone()),
        video_id: run.video_id.clone(),
        state_types: vec![StateType::Pending, StateType::Running, StateType::Cancelling],
        limit: 1,
        before: None,
    };
    let at_work = orchestrator.list_flow_runs(filter).await;
    at_work.is_ok_and(|runs| runs.is_empty())
}

/// Removes what the run's attempts have left in annotations.db, once no other one of it follows.
fn clear(due: &StatusRowDue, place: Place, is_free: &dyn Fn() -> bool) {
    let run = &due.flow_run;
    let (Place::Table(table), Some(path), Some(_)) = (place, &run.db_path, due.ended_pid) else {
        return;
    };
    if !run.state.state_type.is_final() {
        return;
    }
    let id = run.flow_run_id;
    match remove_shadows(path, table, due.database, is_free) {
        Ok(0) => {}
        Ok(tables) => info!(flow_run_id = %id, tables, "What a killed attempt has left in annotations.db was removed."),
        Err(error) => {
            debug!(flow_run_id = %id, %error, "What an attempt has left in annotations.db stays until the next one.");
        }
    }
}

fn is_passing(error: &AnnotationsError) -> bool {
    !error.is_input_fault() && !error.is_cancellation()
}
