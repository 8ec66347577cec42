//! Runs of deployments that are not ours, in our pool: claimed as ours are, and handed to the worker in words that know
//! nothing of Prefect.
//!
//! Of such a run the journal knows that it holds a slot, and nothing else: its program reports its states itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{debug, info, warn};
use uuid::Uuid;

use super::client::{Call, DEFAULT_PATIENCE};
use super::control::ControlChannel;
use super::hints::Hints;
use super::journal::Journal;
use super::journal::intents::ClaimIntent;
use super::model::{ApiFlowRun, Proposal};
use super::program::program_of;
use super::proposals::{Proposals, Proposed};
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{Subject, WorkQueue};
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{CANCELLED_ON_REQUEST, StateName, StateType};
use crate::orchestrator::claims::{ForeignClaim, ForeignEnd, ForeignEnding};
use crate::process::identity::ProcessIdentity;

/// How long one report to the API is tried before it is begun anew.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);
/// How long the API is asked to note a process id, without which it takes a cancelled run for one without a process.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// Longest message of a state, in characters.
const MAX_MESSAGE_CHARACTERS: usize = 4000;

/// The runs of this process that are not ours.
pub(super) struct ForeignRuns {
    server: Arc<Server>,
    journal: Journal,
    hints: Arc<Hints>,
    proposals: Arc<Proposals>,
    held: Mutex<HashMap<FlowRunId, Held>>,
}

#[derive(Debug)]
struct Held {
    /// Its claim.
    transition_id: Uuid,
    /// Why it is to be stopped, if it is.
    stop: Option<String>,
    control: Option<ControlChannel>,
}

impl ForeignRuns {
    pub(super) fn new(server: Arc<Server>, journal: Journal, hints: Arc<Hints>, proposals: Arc<Proposals>) -> Self {
        Self {
            server,
            journal,
            hints,
            proposals,
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<FlowRunId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims such a run if there is a slot for it.
    pub(super) async fn claim(
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
            is_background: run.work_queue_name.as_deref() == Some(WorkQueue::Background.as_str()),
        };
        if !self.journal.intents.reserve(intent, limit).await? {
            return Ok(None);
        }
        let Proposed::Ours(_) = self.proposals.propose_pending(id, transition_id).await? else {
            debug!(flow_run_id = %id, "A run of another program's deployment was not handed over.");
            return Ok(None);
        };
        self.prepare(run, flow_name, worker_name, transition_id).await
    }

    /// Asks for its program. A run that has none that can be started gets its end.
    async fn prepare(
        &self,
        run: &ApiFlowRun,
        flow_name: &str,
        worker_name: &str,
        transition_id: Uuid,
    ) -> Result<Option<ForeignClaim>, OrchestratorError> {
        let id = FlowRunId::from_uuid(run.id);
        let control = ControlChannel::open().await;
        let program = program_of(self.server.client(), run, flow_name, worker_name, control.as_ref()).await;
        let program = match program {
            Ok(program) => program,
            Err(problem) => {
                warn!(flow_run_id = %id, problem, "The run could not be started.");
                let message = format!("it could not be started: {problem}");
                let proposal = Proposal::new(StateName::Crashed, Some(shortened(&message)), Uuid::new_v4());
                match self
                    .server
                    .client()
                    .set_flow_run_state(run.id, &proposal, DEFAULT_PATIENCE)
                    .await
                {
                    Ok(_) | Err(PrefectError::NotFound { .. }) => {
                        self.journal.intents.release(id, transition_id).await?;
                    }
                    Err(error) => {
                        // Given back once the server answers, and tried again.
                        self.proposals.doubt(id, transition_id);
                        return Err(error.into());
                    }
                }
                return Ok(None);
            }
        };
        info!(flow_run_id = %id, flow_name, "Flow run of another program's deployment claimed.");
        let held = Held {
            transition_id,
            stop: None,
            control,
        };
        self.held().insert(id, held);
        Ok(Some(ForeignClaim {
            flow_run_id: id,
            flow_run_name: run.name.clone(),
            flow_name: flow_name.to_owned(),
            program,
            lock: self.journal.intents.foreign_lock(id, transition_id),
            trace: run.trace(),
        }))
    }

    /// See [`crate::orchestrator::claims::Claims::foreign_started`].
    pub(super) async fn started(&self, id: FlowRunId, process: &ProcessIdentity) -> Result<(), OrchestratorError> {
        let changes = serde_json::json!({ "infrastructure_pid": process.pid.to_string() });
        Ok(self
            .server
            .client()
            .update_flow_run(id.as_uuid(), &changes, START_PATIENCE)
            .await?)
    }

    /// See [`crate::orchestrator::claims::Claims::announce_cancellation`].
    pub(super) async fn announce_cancellation(&self, id: FlowRunId) {
        let control = self.held().get_mut(&id).and_then(|held| held.control.take());
        if let Some(control) = control {
            control.announce_cancellation().await;
        }
    }

    /// See [`crate::orchestrator::claims::Claims::foreign_ended`].
    pub(super) async fn ended(&self, id: FlowRunId, ending: ForeignEnding) -> Result<ForeignEnd, OrchestratorError> {
        let end = self.report_end(id, ending).await;
        let held = self.held().remove(&id);
        if let Some(held) = held {
            self.journal.intents.release(id, held.transition_id).await?;
        }
        self.hints.want_poll();
        Ok(end)
    }

    /// Sees to it that the run has a final state.
    async fn report_end(&self, id: FlowRunId, ending: ForeignEnding) -> ForeignEnd {
        let state = loop {
            let call = Call::get(format!("/flow_runs/{id}")).patience(REPORT_PATIENCE);
            match self.server.client().call::<ApiFlowRun>(call).await {
                Ok(run) => break run.state.map(|state| state.state_name()),
                Err(PrefectError::NotFound { .. }) => return ForeignEnd::Reported(None),
                Err(error) => wait_after(id, &error).await,
            }
        };
        match state.map(StateName::state_type) {
            // An engine that was told to end says CRASHED before anybody can stop it.
            Some(StateType::Pending | StateType::Running | StateType::Crashed) if ending.is_cancelled => {
                self.report(id, StateName::Cancelled, CANCELLED_ON_REQUEST).await
            }
            Some(StateType::Pending) if ending.is_given_back => {
                self.report(id, StateName::Scheduled, &ending.message).await
            }
            Some(kind) if kind.is_final() || kind == StateType::Scheduled => ForeignEnd::Reported(state),
            Some(StateType::Cancelling) => self.report(id, StateName::Cancelled, CANCELLED_ON_REQUEST).await,
            _ => self.report(id, StateName::Crashed, &ending.message).await,
        }
    }

    /// Reports a state until the API has it.
    async fn report(&self, id: FlowRunId, name: StateName, message: &str) -> ForeignEnd {
        let mut proposal = Proposal::new(name, Some(shortened(message)), Uuid::new_v4());
        if name == StateName::Cancelled {
            proposal = proposal.force();
        }
        loop {
            let told = self
                .server
                .client()
                .set_flow_run_state(id.as_uuid(), &proposal, REPORT_PATIENCE)
                .await;
            match told {
                Ok(_) => break,
                Err(error @ PrefectError::NotFound { .. }) => {
                    // A 404 of one call may come from what stands before the server.
                    if let Err(PrefectError::NotFound { .. }) = self.server.client().read_flow_run(id.as_uuid()).await {
                        return ForeignEnd::Reported(None);
                    }
                    wait_after(id, &error).await;
                }
                Err(error) => wait_after(id, &error).await,
            }
        }
        match name {
            StateName::Cancelled => ForeignEnd::Cancelled,
            StateName::Scheduled => ForeignEnd::GivenBack,
            _ => ForeignEnd::Crashed,
        }
    }

    /// Whether this process has the run, and it is not ours.
    pub(super) fn is_held(&self, id: FlowRunId) -> bool {
        self.held().contains_key(&id)
    }

    /// It is to be stopped: its worker sees it as being cancelled.
    pub(super) fn stop(&self, id: FlowRunId, message: String) {
        if let Some(held) = self.held().get_mut(&id) {
            held.stop.get_or_insert(message);
        }
    }

    /// Of these runs, those that are to be stopped, with the reason.
    pub(super) fn cancellations(&self, ids: &[FlowRunId]) -> Vec<(FlowRunId, String)> {
        let held = self.held();
        let reason = |id: &FlowRunId| Some((*id, held.get(id)?.stop.clone()?));
        ids.iter().filter_map(reason).collect()
    }
}

fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARACTERS).collect()
}

async fn wait_after(id: FlowRunId, error: &PrefectError) {
    warn!(flow_run_id = %id, %error, "The run's state could not be reported; trying again.");
    tokio::time::sleep(Duration::from_secs(2)).await;
}
