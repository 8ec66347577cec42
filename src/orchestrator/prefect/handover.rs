//! A run that Prefect's own worker has claimed and started this program for: taken into the journal as if claimed here.

use uuid::Uuid;

use super::journal::Journal;
use super::journal::forwarding::ClaimMark;
use super::journal::intents::ClaimIntent;
use super::model::ApiState;
use super::names::flow_meant;
use super::poller::{ClaimedAtServer, Offer, Poller};
use super::proposals::{ANOTHER_AT_WORK, GIVEN_BACK, give_back};
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{Parameters, Subject};
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::Claim;

/// Takes over a run that is PENDING because the worker that started this process claimed it. From then on this
/// process tells the server what becomes of it. `None`: it was not to be run now, and that was told.
pub(super) async fn take_over(
    server: &Server,
    journal: &Journal,
    poller: &Poller,
    id: FlowRunId,
    worker_name: &str,
) -> Result<Option<Claim>, OrchestratorError> {
    let (client, names) = (server.client(), server.names());
    let mut run = match client.read_flow_run(id.as_uuid()).await {
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
    let deployment_id = run.deployment_id.ok_or(OrchestratorError::FlowRunNotFound(id))?;
    let deployment = names.deployment(client, deployment_id).await?;
    let flow_name = names.flow(client, run.flow_id).await?;
    let flow = server.flows().get(flow_meant(&flow_name, &deployment))?.clone();
    run.parameters = flow.own_names(&run.parameters);
    let subject = Subject::of(&Parameters(run.parameters.clone()));
    let video_id = subject.video_id.clone();
    let intent = ClaimIntent {
        flow_run_id: id,
        // Nobody knows it: a run whose process dies now is its worker's to report.
        transition_id: Uuid::new_v4(),
        flow_name: flow.name.clone(),
        subject,
        is_background: false,
    };
    // The limit is that worker's business.
    let is_its_turn = poller.is_its_turn(&flow, &run, video_id.as_deref()).await?
        && poller.is_alone(&flow, &run).await?
        && journal.intents.reserve(intent, u32::MAX).await?;
    if !is_its_turn {
        give_back(client, id, ANOTHER_AT_WORK, GIVEN_BACK).await?;
        return Ok(None);
    }
    let lease_id = run
        .state
        .as_ref()
        .and_then(|state| state.state_details.deployment_concurrency_lease_id);
    let claim = ClaimMark {
        transition_id: run
            .state
            .as_ref()
            .and_then(|state| state.state_details.transition_id)
            .unwrap_or_else(Uuid::new_v4),
        at: run.state.as_ref().map(|state| state.timestamp),
        is_handed_over: true,
    };
    let claimed = ClaimedAtServer {
        claim,
        lease_id,
        is_unnamed: false,
    };
    match poller.adopt(run, flow, &deployment, claimed, worker_name).await? {
        Offer::Claimed(claimed) => Ok(claimed.own()),
        // Its arguments were wrong: FAILED.
        Offer::Passed => Ok(None),
    }
}
