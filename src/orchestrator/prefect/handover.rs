//! A run that Prefect's own worker has claimed and started this program for: taken into the journal as if claimed here.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::claiming::Offer;
use super::client::DEFAULT_PATIENCE;
use super::model::{ApiState, Proposal};
use super::{PrefectOrchestrator, background};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{Parameters, Subject};
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::Claim;
use crate::orchestrator::local::journal::ClaimIntent;

/// When a run that was given back is offered again.
const GIVEN_BACK_S: i64 = 5;

impl PrefectOrchestrator {
    /// Takes over a run that is PENDING because the worker that started this process claimed it. From then on this
    /// process tells the server what becomes of it. `None`: it was not to be run now, and that was told.
    ///
    /// # Errors
    /// [`OrchestratorError::FlowRunNotFound`], [`OrchestratorError::InvalidState`] for a run that is not PENDING,
    /// [`OrchestratorError::UnknownFlow`] for one of a flow that is not known here.
    pub async fn take_over(&self, id: FlowRunId, worker_name: &str) -> Result<Option<Claim>, OrchestratorError> {
        let inner = &self.inner;
        let run = match inner.client.read_flow_run(id.as_uuid()).await {
            Ok(run) => run,
            Err(PrefectError::NotFound { .. }) => return Err(OrchestratorError::FlowRunNotFound(id)),
            Err(error) => return Err(error.into()),
        };
        let state_type = run.state.as_ref().map(ApiState::state_type);
        if state_type != Some(StateType::Pending) {
            return Err(OrchestratorError::InvalidState {
                flow_run_id: id,
                state: run.state.as_ref().map_or(StateName::Scheduled, ApiState::state_name),
                problem: "only a run that a worker has claimed (PENDING) can be executed".to_owned(),
            });
        }
        let flow_name = inner.names.flow(&inner.client, run.flow_id).await?;
        let flow = inner.flows.get(&flow_name)?.clone();
        let deployment_id = run.deployment_id.ok_or(OrchestratorError::FlowRunNotFound(id))?;
        let deployment = inner.names.deployment(&inner.client, deployment_id).await?;
        let subject = Subject::of(&Parameters(run.parameters.clone()));
        let video_id = subject.video_id.clone();
        let intent = ClaimIntent {
            flow_run_id: id,
            // Nobody knows it: a run whose process dies now is its worker's to report.
            transition_id: Uuid::new_v4(),
            flow_name,
            subject,
        };
        // The limit is that worker's business.
        let is_its_turn = inner.is_its_turn(&flow, &run, video_id.as_deref()).await?
            && inner.journal.reserve(intent, u32::MAX).await?;
        if !is_its_turn {
            self.give_back(id, "given back: another run for its video is at work")
                .await?;
            return Ok(None);
        }
        inner.is_worker.store(true, Ordering::Relaxed);
        let lease_id = run
            .state
            .as_ref()
            .and_then(|state| state.state_details.deployment_concurrency_lease_id);
        match inner.adopt(run, flow, &deployment, lease_id, worker_name).await? {
            Offer::Claimed(claim) => {
                let claim = claim.own();
                let telling = tokio::spawn(background::run(inner.clone(), worker_name.to_owned()));
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                tasks.push(telling.abort_handle());
                Ok(claim)
            }
            // Its arguments were wrong: FAILED.
            Offer::Passed => Ok(None),
        }
    }

    /// Gives back a run that was not begun, to be offered again after some seconds.
    ///
    /// # Errors
    /// What kept the server from hearing it.
    pub async fn give_back(&self, id: FlowRunId, message: &str) -> Result<(), OrchestratorError> {
        let client = &self.inner.client;
        let state = client.read_flow_run(id.as_uuid()).await?.state;
        if state.is_some_and(|state| state.state_type() == StateType::Pending) {
            let due = client.server_now() + jiff::SignedDuration::from_secs(GIVEN_BACK_S);
            let proposal = Proposal::new(StateName::Scheduled, Some(message.to_owned()), Uuid::new_v4()).due_at(due);
            client
                .set_flow_run_state(id.as_uuid(), &proposal, DEFAULT_PATIENCE)
                .await?;
        }
        Ok(())
    }
}
