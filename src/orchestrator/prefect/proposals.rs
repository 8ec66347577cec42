//! Proposals of PENDING: the claim itself, and what is to become of one whose answer was lost.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::SignedDuration;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::client::{DEFAULT_PATIENCE, PrefectClient};
use super::hints::Hints;
use super::journal::Journal;
use super::left_behind::{end_left_behind, is_left_behind};
use super::model::{ApiFlowRun, ApiState, Proposal, Verdict};
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{CANCELLED_ON_REQUEST, StateName, StateType};

/// When a run that was given back is offered again.
pub(super) const GIVEN_BACK: SignedDuration = SignedDuration::from_secs(5);
/// What is said of a run that was given back for another one's sake.
pub(super) const ANOTHER_AT_WORK: &str = "given back: another run for its video is at work";

/// Whether the run waits because another one for its video was at work.
pub(super) fn was_given_back(run: &ApiFlowRun) -> bool {
    let message = run.state.as_ref().and_then(|state| state.message.as_deref());
    message == Some(ANOTHER_AT_WORK)
}

/// What became of a proposal.
pub(super) enum Proposed {
    /// The run is ours.
    Ours(Box<ApiState>),
    /// Another worker has it.
    Others,
    /// It can not be claimed now.
    Refused,
}

/// Claims at the server, by their transitions.
pub(super) struct Proposals {
    server: Arc<Server>,
    journal: Journal,
    hints: Arc<Hints>,
    /// Claims of this process whose answer was lost.
    doubtful: Mutex<BTreeSet<(FlowRunId, Uuid)>>,
}

impl Proposals {
    pub(super) fn new(server: Arc<Server>, journal: Journal, hints: Arc<Hints>) -> Self {
        Self {
            server,
            journal,
            hints,
            doubtful: Mutex::default(),
        }
    }

    fn doubtful(&self) -> std::sync::MutexGuard<'_, BTreeSet<(FlowRunId, Uuid)>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody knows whether the claim came through.
    pub(super) fn doubt(&self, id: FlowRunId, transition_id: Uuid) {
        self.doubtful().insert((id, transition_id));
    }

    /// Proposes PENDING for a run that has its slot here. Where it is not ours, the slot is given back.
    pub(super) async fn propose_pending(
        &self,
        id: FlowRunId,
        transition_id: Uuid,
    ) -> Result<Proposed, OrchestratorError> {
        let proposal = Proposal::new(StateName::Pending, None, transition_id);
        let answer = match self
            .server
            .client()
            .set_flow_run_state(id.as_uuid(), &proposal, DEFAULT_PATIENCE)
            .await
        {
            Ok(answer) => answer,
            Err(error @ (PrefectError::NotFound { .. } | PrefectError::Rejected { .. })) => {
                self.journal.intents.release(id, transition_id).await?;
                warn!(flow_run_id = %id, "A run could not be claimed: {error}.");
                return Ok(Proposed::Refused);
            }
            Err(error) => {
                // It may be ours: it is looked after once the server answers.
                self.doubt(id, transition_id);
                return Err(error.into());
            }
        };
        match answer.state {
            Some(state) if is_ours_now(&state, answer.status, transition_id) => Ok(Proposed::Ours(Box::new(state))),
            _ => {
                self.journal.intents.release(id, transition_id).await?;
                debug!(flow_run_id = %id, reason = answer.details.reason, "Another worker has the run.");
                Ok(Proposed::Others)
            }
        }
    }

    /// Claims of which nobody knows how they ended: the run is given back if the server took them. Runs of others'
    /// deployments whose worker is dead get their end. One that cannot be settled is in nobody's way.
    pub(super) async fn settle(&self) -> Result<(), OrchestratorError> {
        let mut open: BTreeSet<_> = self.journal.intents.broken().await?.into_iter().collect();
        open.extend(self.doubtful().iter().copied());
        let mut outcome = Ok(());
        for (id, transition_id) in open {
            match self.settle_claim(id, transition_id).await {
                Ok(false) => {}
                Ok(true) => {
                    self.journal.intents.release(id, transition_id).await?;
                    self.doubtful().remove(&(id, transition_id));
                    self.hints.want_poll();
                }
                Err(error @ PrefectError::Unreachable { .. }) => return Err(error.into()),
                Err(error) => outcome = Err(error.into()),
            }
        }
        outcome
    }

    /// Whether the claim's slot is free.
    async fn settle_claim(&self, id: FlowRunId, transition_id: Uuid) -> Result<bool, PrefectError> {
        let run = match self.server.client().read_flow_run(id.as_uuid()).await {
            Ok(run) => run,
            Err(PrefectError::NotFound { .. }) => return Ok(end_left_behind(id).await),
            Err(error) => return Err(error),
        };
        let Some(state) = run.state else { return Ok(true) };
        if state.state_type() == StateType::Cancelling && !end_left_behind(id).await {
            return Ok(false);
        }
        // A run of another program's deployment goes on without its worker, also where its processes are not to be seen.
        if is_left_behind(id).await || !self.journal.intents.bury_foreign(id, transition_id) {
            return Ok(false);
        }
        if state.state_type() == StateType::Pending && state.state_details.transition_id == Some(transition_id) {
            let message = "given back: its worker did not hear that it had it".to_owned();
            let proposal = Proposal::new(StateName::Scheduled, Some(message), Uuid::new_v4())
                .due_at(self.server.client().server_now());
            self.server
                .client()
                .set_flow_run_state(id.as_uuid(), &proposal, DEFAULT_PATIENCE)
                .await?;
            info!(flow_run_id = %id, "A run was given back whose claim was not heard of.");
        } else if matches!(state.state_type(), StateType::Running | StateType::Cancelling)
            && self.is_of_claim(id, transition_id).await?
        {
            // One of ours begins only after its claim is settled: this is another program's.
            let name = if state.state_type() == StateType::Running {
                StateName::Crashed
            } else {
                StateName::Cancelled
            };
            let message = match name {
                StateName::Crashed => "its worker and its process died".to_owned(),
                _ => state.message.unwrap_or_else(|| CANCELLED_ON_REQUEST.to_owned()),
            };
            let proposal = Proposal::new(name, Some(message), Uuid::new_v4());
            self.server
                .client()
                .set_flow_run_state(id.as_uuid(), &proposal, DEFAULT_PATIENCE)
                .await?;
            info!(flow_run_id = %id, state = name.as_str(), "The run of another program's deployment lost its worker and its process.");
        }
        Ok(true)
    }

    /// Whether the run began by the claim of this transition, and not by another worker's.
    async fn is_of_claim(&self, id: FlowRunId, transition_id: Uuid) -> Result<bool, PrefectError> {
        let states = self.server.client().read_flow_run_states(id.as_uuid()).await?;
        let claim = states
            .iter()
            .filter(|state| state.state_type() == StateType::Pending)
            .max_by_key(|state| state.timestamp);
        Ok(claim.is_some_and(|state| state.state_details.transition_id == Some(transition_id)))
    }
}

/// Gives back a run that was not begun, to be offered again after `wait`.
pub(super) async fn give_back(
    client: &PrefectClient,
    id: FlowRunId,
    message: &str,
    wait: SignedDuration,
) -> Result<(), OrchestratorError> {
    let state = client.read_flow_run(id.as_uuid()).await?.state;
    if state.is_some_and(|state| state.state_type() == StateType::Pending) {
        let due = client.server_now() + wait;
        let proposal = Proposal::new(StateName::Scheduled, Some(message.to_owned()), Uuid::new_v4()).due_at(due);
        client
            .set_flow_run_state(id.as_uuid(), &proposal, DEFAULT_PATIENCE)
            .await?;
    }
    Ok(())
}

/// Whether the run is pending by this very proposal: an answer that was lost is given once more as a REJECT.
fn is_ours_now(state: &ApiState, verdict: Verdict, transition_id: Uuid) -> bool {
    verdict == Verdict::Accept
        || (state.state_type() == StateType::Pending && state.state_details.transition_id == Some(transition_id))
}

#[cfg(test)]
mod tests {
    use super::super::journal::intents::ClaimIntent;
    use super::*;
    use crate::domain::flow::{Flows, Subject};
    use crate::settings::prefect::PrefectSettings;

    #[tokio::test(flavor = "current_thread")]
    async fn claims_in_doubt_do_not_grow_while_the_server_is_away() {
        let folder = tempfile::tempdir().expect("a folder");
        // Nothing listens there.
        let settings = PrefectSettings::new("http://127.0.0.1:1/api", "the test").expect("an address");
        let open = async || Journal::open(folder.path(), &settings).await.expect("opens");
        let intent = |number: u128| ClaimIntent {
            flow_run_id: FlowRunId::from_uuid(Uuid::from_u128(number)),
            transition_id: Uuid::new_v4(),
            flow_name: "hello".to_owned(),
            subject: Subject::default(),
            is_background: false,
        };
        let dead = open().await;
        assert!(dead.intents.reserve(intent(1), 9).await.expect("asked"));
        drop(dead);
        let journal = open().await;
        let client = PrefectClient::new(settings.clone()).expect("a client");
        let server = Arc::new(Server::new(client, Flows::builtin()));
        let proposals = Proposals::new(server, journal.clone(), Arc::default());
        let own = intent(2);
        assert!(journal.intents.reserve(own.clone(), 9).await.expect("asked"));
        for _ in 0..3 {
            proposals.doubt(own.flow_run_id, own.transition_id);
            proposals.settle().await.expect_err("nobody answers");
            assert_eq!(journal.intents.broken().await.expect("read").len(), 1);
            assert_eq!(proposals.doubtful().len(), 1);
        }
        assert_eq!(journal.intents.slots_taken().await.expect("read"), 2);
    }
}
