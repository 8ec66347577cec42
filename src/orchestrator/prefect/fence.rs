//! Whether a run that was claimed here is still ours at the server: asked before anything is told that would stand over what
//! others have decided, and before a result is written.
//!
//! A machine that was cut off, or stood still, comes back with what it believes. Meanwhile its run may have been taken over,
//! or ended by a person or an automation: that stands, and it hears of it here first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::conversion::ATTEMPT;
use super::hints::Hints;
use super::journal::Journal;
use super::journal::forwarding::{ClaimMark, Held, LetGo, RunContext};
use super::lost::{is_alarm, tell_left, worker_of};
use super::model::{ApiFlowRun, ApiState, Proposal};
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::ATTEMPT_STOPPED;

/// A run that nobody has asked about for so long is not kept in mind.
const FORGOTTEN_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// How a run of ours stands at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is by this claim what it is.
    Ours,
    /// It is ours, and to be stopped, for this reason.
    Cancelling(Option<String>),
    /// It was taken for lost with its machine, and nobody has taken it over yet.
    TakenForDead,
    /// It is no longer ours.
    Gone {
        /// Why, for people.
        why: String,
        /// Whether another attempt has it, or will have it.
        is_taken: bool,
    },
}

/// Asks the server, and remembers for a while what it said.
pub(super) struct Fence {
    server: Arc<Server>,
    journal: Journal,
    hints: Arc<Hints>,
    /// Since when each run is known to be ours. By the wall clock: the other one stands still while the machine sleeps.
    confirmed: Mutex<HashMap<FlowRunId, Timestamp>>,
}

impl Fence {
    pub(super) fn new(server: Arc<Server>, journal: Journal, hints: Arc<Hints>) -> Self {
        Self {
            server,
            journal,
            hints,
            confirmed: Mutex::default(),
        }
    }

    fn confirmed(&self) -> MutexGuard<'_, HashMap<FlowRunId, Timestamp>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server has just said that the run is ours.
    pub(super) fn confirm(&self, id: FlowRunId) {
        let now = Timestamp::now();
        let mut confirmed = self.confirmed();
        confirmed.retain(|_, at| now.duration_since(*at) < FORGOTTEN_AFTER);
        confirmed.insert(id, now);
    }

    /// Whether it said so within a part of the time after which another worker may take it over.
    pub(super) fn is_fresh(&self, id: FlowRunId) -> bool {
        let age = self.confirmed().get(&id).map(|at| Timestamp::now().duration_since(*at));
        let longest = self.server.client().hearing_time();
        age.is_some_and(|age| !age.is_negative() && age.unsigned_abs() < longest)
    }

    /// Asks how the run stands.
    pub(super) async fn ask(&self, id: FlowRunId, context: &RunContext) -> Result<Standing, PrefectError> {
        let run = self.server.client().read_flow_run(id.as_uuid()).await?;
        self.standing(&run, context).await
    }

    /// How the run stands that the server has just shown.
    pub(super) async fn standing(&self, run: &ApiFlowRun, context: &RunContext) -> Result<Standing, PrefectError> {
        let standing = self.judge(run, context).await?;
        match standing {
            Standing::Gone { .. } => drop(self.confirmed().remove(&FlowRunId::from_uuid(run.id))),
            _ => self.confirm(FlowRunId::from_uuid(run.id)),
        }
        Ok(standing)
    }

    /// Who has the run by now, as far as the server has heard it: a worker says so a moment after its claim.
    async fn successor(&self, run: &ApiFlowRun) -> Option<String> {
        let own = self.journal.forwarding.run(FlowRunId::from_uuid(run.id)).await.ok()??;
        let attempt: u32 = run.label(ATTEMPT)?.parse().ok()?;
        let worker = worker_of(run)?;
        (attempt > own.flow_run.attempt).then(|| format!("worker {worker} (attempt {attempt})"))
    }

    async fn gone(&self, run: &ApiFlowRun, state: &ApiState) -> Standing {
        let successor = self.successor(run).await;
        let state_type = state.state_type();
        let why = match (state_type, successor) {
            (StateType::Scheduled, _) => {
                let message = state.message.as_deref().unwrap_or("by another's doing");
                format!("it waits for another worker ({message}); {ATTEMPT_STOPPED}")
            }
            (StateType::Pending | StateType::Running | StateType::Cancelling, successor) => {
                let successor = successor.unwrap_or_else(|| "another worker".to_owned());
                format!("taken over by {successor}; {ATTEMPT_STOPPED}")
            }
            (StateType::Completed, Some(successor)) => {
                format!("taken over by {successor}, which completed it; {ATTEMPT_STOPPED}")
            }
            _ => return Self::ended_by(state),
        };
        Standing::Gone {
            why,
            is_taken: !state_type.is_final(),
        }
    }

    async fn judge(&self, run: &ApiFlowRun, context: &RunContext) -> Result<Standing, PrefectError> {
        // A paused run is neither waiting nor ended: whoever paused it lets it go on.
        let Some(state) = run.state.as_ref().filter(|state| state.state_type != "PAUSED") else {
            return Ok(Standing::Ours);
        };
        let state_type = state.state_type();
        let Some(claim) = &context.claim else {
            return Ok(match state_type {
                StateType::Pending | StateType::Running => Standing::Ours,
                StateType::Cancelling => Standing::Cancelling(state.message.clone()),
                _ => self.gone(run, state).await,
            });
        };
        let is_own = state.state_details.transition_id.is_some_and(|id| claim.made(id));
        Ok(match state_type {
            _ if is_own => Standing::Ours,
            StateType::Pending if claim.is_handed_over => Standing::Ours,
            StateType::Cancelling if self.was_ours(run.id, claim).await? => Standing::Cancelling(state.message.clone()),
            StateType::Crashed if is_alarm(state) && self.was_ours(run.id, claim).await? => Standing::TakenForDead,
            _ => self.gone(run, state).await,
        })
    }

    /// Whether nobody has claimed or begun the run after this claim.
    async fn was_ours(&self, id: Uuid, claim: &ClaimMark) -> Result<bool, PrefectError> {
        let states = self.server.client().read_flow_run_states(id).await?;
        let newest = states
            .iter()
            .filter(|state| matches!(state.state_type(), StateType::Pending | StateType::Running))
            .max_by_key(|state| state.timestamp);
        Ok(newest.is_some_and(|state| {
            claim.is_handed_over && state.state_type() == StateType::Pending
                || state.state_details.transition_id.is_some_and(|id| claim.made(id))
        }))
    }

    /// The end that somebody has set while a start of ours was on its way, which came over it: asked where an end was told of a run
    /// that is ours.
    pub(super) async fn overruled(
        &self,
        run: &ApiFlowRun,
        context: &RunContext,
    ) -> Result<Option<ApiState>, PrefectError> {
        let Some(claim) = &context.claim else { return Ok(None) };
        let mut states = self.server.client().read_flow_run_states(run.id).await?;
        states.sort_by_key(|state| state.timestamp);
        let is_own = |state: &ApiState| state.state_details.transition_id.is_some_and(|id| claim.made(id));
        let since_claim = states.into_iter().skip_while(|state| !is_own(state));
        let ends = since_claim.filter(|state| state.state_type().is_final() && !is_own(state) && !is_alarm(state));
        Ok(ends.last())
    }

    /// What it means that somebody has set this end.
    pub(super) fn ended_by(state: &ApiState) -> Standing {
        Standing::Gone {
            why: format!("its state was set to {} at the server", state.state_type().as_str()),
            is_taken: false,
        }
    }

    /// The run is no longer ours by the claim of `context`: what is at work here stops, and nothing more is told.
    pub(super) async fn let_go(
        &self,
        id: FlowRunId,
        context: &RunContext,
        why: String,
        is_taken: bool,
    ) -> Result<(), OrchestratorError> {
        let held = Held::By(context.claim);
        match self.journal.forwarding.let_go(id, held, why.clone(), is_taken).await? {
            LetGo::HeldAgain => {
                debug!(flow_run_id = %id, "An earlier claim of the run is over: {why}.");
                return Ok(());
            }
            LetGo::Stopping => self.hints.wake(),
            LetGo::Idle => {}
        }
        if is_taken {
            warn!(flow_run_id = %id, "The run is no longer this worker's: {why}, and tells nothing.");
        } else {
            // Its work was done elsewhere, or somebody has decided so.
            info!(flow_run_id = %id, "The run has ended without this worker: {why}.");
        }
        // Its next worker, if it has one, says that it lives; until then it may wait in silence.
        let server = self.server.clone();
        tokio::spawn(async move { tell_left(server.client(), id.as_uuid()).await });
        Ok(())
    }

    /// A run that was taken for lost while its attempt lives, and that nobody has taken over, goes on.
    pub(super) async fn revive(
        &self,
        id: FlowRunId,
        context: &RunContext,
        patience: Duration,
    ) -> Result<(), PrefectError> {
        let Some(claim) = &context.claim else { return Ok(()) };
        let message = "its worker was not to be heard for a while, and went on meanwhile".to_owned();
        let proposal = Proposal::new(StateName::Running, Some(message), claim.revival());
        self.server
            .client()
            .set_flow_run_state(id.as_uuid(), &proposal, patience)
            .await?;
        info!(flow_run_id = %id, "The run was taken for lost, and goes on.");
        Ok(())
    }
}
