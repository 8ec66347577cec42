//! Runs of deployments that are not ours, in our pool: claimed as ours are, and handed to the worker in words that know
//! nothing of Prefect.
//!
//! Of such a run the journal knows that it holds a slot, and nothing else: its program reports its states itself.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use tracing::debug;
#[cfg(feature = "worker")]
use tracing::{info, warn};
use uuid::Uuid;

use super::Inner;
#[cfg(feature = "worker")]
use super::client::{Call, DEFAULT_PATIENCE};
use super::model::ApiFlowRun;
#[cfg(feature = "worker")]
use super::model::Proposal;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::Subject;
use crate::domain::id::FlowRunId;
#[cfg(feature = "worker")]
use crate::domain::prefect_error::PrefectError;
#[cfg(feature = "worker")]
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::ForeignClaim;
#[cfg(feature = "worker")]
use crate::orchestrator::claims::{ForeignEnd, ForeignEnding, foreign_marker};
use crate::orchestrator::local::journal::ClaimIntent;
#[cfg(feature = "worker")]
use crate::process::identity::ProcessIdentity;

/// How long the processes of a run that is to end may take to be gone.
#[cfg(feature = "worker")]
const DEATH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// How long one report to the API is tried before it is begun anew.
#[cfg(feature = "worker")]
const REPORT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// How long the API is asked to note a process id, without which it takes a cancelled run for one without a process.
#[cfg(feature = "worker")]
const START_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Longest message of a state, in characters.
#[cfg(feature = "worker")]
const MAX_MESSAGE_CHARACTERS: usize = 4000;

/// Whether processes of such a run live.
#[cfg(feature = "worker")]
pub(super) fn is_left_behind(id: FlowRunId) -> bool {
    !crate::process::tree::marked(&foreign_marker(id)).is_empty()
}

/// Ends what lives of such a run; whether nothing is left.
#[cfg(feature = "worker")]
pub(super) async fn end_left_behind(id: FlowRunId) -> bool {
    crate::process::tree::clear(&foreign_marker(id), None, DEATH_TIMEOUT).await == 0
}

/// No worker's process: it has started nothing.
#[cfg(not(feature = "worker"))]
pub(super) const fn is_left_behind(_id: FlowRunId) -> bool {
    false
}

#[cfg(not(feature = "worker"))]
#[expect(clippy::unused_async, reason = "as the worker's")]
pub(super) async fn end_left_behind(_id: FlowRunId) -> bool {
    true
}

/// The runs of this process that are not ours.
#[derive(Debug, Default)]
pub(super) struct ForeignRuns(HashMap<FlowRunId, Held>);

#[derive(Debug)]
struct Held {
    /// Why it is to be stopped, if it is.
    stop: Option<String>,
    #[cfg(feature = "worker")]
    control: Option<super::control::ControlChannel>,
}

impl Inner {
    fn foreign(&self) -> MutexGuard<'_, ForeignRuns> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims such a run if there is a slot for it.
    pub(super) async fn claim_foreign(
        &self,
        run: &ApiFlowRun,
        flow_name: &str,
        worker_name: &str,
        limit: u32,
    ) -> Result<Option<ForeignClaim>, OrchestratorError> {
        let id = FlowRunId::from_uuid(run.id);
        let transition_id = Uuid::new_v4();
        let intent = ClaimIntent {
            flow_run_id: id,
            transition_id,
            flow_name: flow_name.to_owned(),
            subject: Subject::default(),
        };
        if !self.journal.reserve(intent, limit).await? {
            return Ok(None);
        }
        if self.propose_pending(id, transition_id).await?.is_none() {
            debug!(flow_run_id = %id, "A run of another program's deployment was not handed over.");
            return Ok(None);
        }
        self.prepare_foreign(run, flow_name, worker_name, transition_id).await
    }

    /// Asks for its program. A run that has none that can be started gets its end.
    #[cfg(feature = "worker")]
    async fn prepare_foreign(
        &self,
        run: &ApiFlowRun,
        flow_name: &str,
        worker_name: &str,
        transition_id: Uuid,
    ) -> Result<Option<ForeignClaim>, OrchestratorError> {
        let id = FlowRunId::from_uuid(run.id);
        let control = super::control::ControlChannel::open().await;
        let program = super::program::program_of(&self.client, run, flow_name, worker_name, control.as_ref()).await;
        let program = match program {
            Ok(program) => program,
            Err(problem) => {
                warn!(flow_run_id = %id, problem, "The run could not be started.");
                let message = format!("it could not be started: {problem}");
                let proposal = Proposal::new(StateName::Crashed, Some(shortened(&message)), Uuid::new_v4());
                match self
                    .client
                    .set_flow_run_state(run.id, &proposal, DEFAULT_PATIENCE)
                    .await
                {
                    Ok(_) | Err(PrefectError::NotFound { .. }) => self.journal.release(id).await?,
                    Err(error) => {
                        // Given back once the server answers, and tried again.
                        self.doubt(id, transition_id);
                        return Err(error.into());
                    }
                }
                return Ok(None);
            }
        };
        info!(flow_run_id = %id, flow_name, "Flow run of another program's deployment claimed.");
        self.foreign().0.insert(id, Held { stop: None, control });
        Ok(Some(ForeignClaim {
            flow_run_id: id,
            flow_run_name: run.name.clone(),
            flow_name: flow_name.to_owned(),
            program,
            lock: self.journal.foreign_lock(id, transition_id),
        }))
    }

    /// No worker's process: it claims nothing.
    #[cfg(not(feature = "worker"))]
    #[expect(clippy::unused_async, reason = "as the worker's")]
    async fn prepare_foreign(
        &self,
        _run: &ApiFlowRun,
        _flow_name: &str,
        _worker_name: &str,
        _transition_id: Uuid,
    ) -> Result<Option<ForeignClaim>, OrchestratorError> {
        Ok(None)
    }

    /// See [`crate::orchestrator::claims::Claims::foreign_started`].
    #[cfg(feature = "worker")]
    pub(super) async fn foreign_started(
        &self,
        id: FlowRunId,
        process: &ProcessIdentity,
    ) -> Result<(), OrchestratorError> {
        let changes = serde_json::json!({ "infrastructure_pid": process.pid.to_string() });
        Ok(self
            .client
            .update_flow_run(id.as_uuid(), &changes, START_PATIENCE)
            .await?)
    }

    /// See [`crate::orchestrator::claims::Claims::announce_cancellation`].
    #[cfg(feature = "worker")]
    pub(super) async fn announce_cancellation(&self, id: FlowRunId) {
        let control = self.foreign().0.get_mut(&id).and_then(|held| held.control.take());
        if let Some(control) = control {
            control.announce_cancellation().await;
        }
    }

    /// See [`crate::orchestrator::claims::Claims::foreign_ended`].
    #[cfg(feature = "worker")]
    pub(super) async fn foreign_ended(
        &self,
        id: FlowRunId,
        ending: ForeignEnding,
    ) -> Result<ForeignEnd, OrchestratorError> {
        let end = self.report_end(id, ending).await;
        self.foreign().0.remove(&id);
        self.journal.release(id).await?;
        self.want_poll();
        Ok(end)
    }

    /// Sees to it that the run has a final state.
    #[cfg(feature = "worker")]
    async fn report_end(&self, id: FlowRunId, ending: ForeignEnding) -> ForeignEnd {
        let state_type = loop {
            let call = Call::get(format!("/flow_runs/{id}")).patience(REPORT_PATIENCE);
            match self.client.call::<ApiFlowRun>(call).await {
                Ok(run) => break run.state.map(|state| state.state_type()),
                Err(PrefectError::NotFound { .. }) => return ForeignEnd::Reported,
                Err(error) => wait_after(id, &error).await,
            }
        };
        match state_type {
            // An engine that was told to end says CRASHED before anybody can stop it.
            Some(StateType::Pending | StateType::Running | StateType::Crashed) if ending.is_cancelled => {
                self.report(id, StateName::Cancelled, "cancelled on request").await
            }
            Some(state) if state.is_final() || state == StateType::Scheduled => ForeignEnd::Reported,
            Some(StateType::Cancelling) => self.report(id, StateName::Cancelled, "cancelled on request").await,
            _ => self.report(id, StateName::Crashed, &ending.message).await,
        }
    }

    /// Reports a final state until the API has it.
    #[cfg(feature = "worker")]
    async fn report(&self, id: FlowRunId, name: StateName, message: &str) -> ForeignEnd {
        let mut proposal = Proposal::new(name, Some(shortened(message)), Uuid::new_v4());
        if name == StateName::Cancelled {
            proposal = proposal.force();
        }
        loop {
            let told = self
                .client
                .set_flow_run_state(id.as_uuid(), &proposal, REPORT_PATIENCE)
                .await;
            match told {
                Ok(_) => break,
                Err(error @ PrefectError::NotFound { .. }) => {
                    // A 404 of one call may come from what stands before the server.
                    if let Err(PrefectError::NotFound { .. }) = self.client.read_flow_run(id.as_uuid()).await {
                        return ForeignEnd::Reported;
                    }
                    wait_after(id, &error).await;
                }
                Err(error) => wait_after(id, &error).await,
            }
        }
        if name == StateName::Cancelled {
            ForeignEnd::Cancelled
        } else {
            ForeignEnd::Crashed
        }
    }

    pub(super) fn is_foreign(&self, id: FlowRunId) -> bool {
        self.foreign().0.contains_key(&id)
    }

    /// It is to be stopped: its worker sees it as being cancelled.
    pub(super) fn cancel_foreign(&self, id: FlowRunId, message: String) {
        if let Some(held) = self.foreign().0.get_mut(&id) {
            held.stop.get_or_insert(message);
        }
        self.wake.notify_one();
    }

    pub(super) fn foreign_cancellations(&self, ids: &[FlowRunId]) -> Vec<(FlowRunId, String)> {
        let foreign = self.foreign();
        let reason = |id: &FlowRunId| Some((*id, foreign.0.get(id)?.stop.clone()?));
        ids.iter().filter_map(reason).collect()
    }
}

#[cfg(feature = "worker")]
fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARACTERS).collect()
}

#[cfg(feature = "worker")]
async fn wait_after(id: FlowRunId, error: &PrefectError) {
    warn!(flow_run_id = %id, %error, "The run's state could not be reported; trying again.");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
}
