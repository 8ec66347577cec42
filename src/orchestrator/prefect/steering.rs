//! Runs at the server that are to take another course: older ones of a video, those that are to end or to wait anew.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::api::PAGE;
use super::client::DEFAULT_PATIENCE;
use super::conversion::{superseded_by, superseded_message};
use super::journal::Journal;
use super::model::{ApiFlowRun, ApiState, Proposal};
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::FlowDefinition;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{StateName, StateType};

/// States of runs that a newer one takes the place of.
const COUNTING: [StateType; 3] = [StateType::Scheduled, StateType::Pending, StateType::Running];

/// Steers runs at the server, and what the journal knows of them.
#[derive(Clone)]
pub(super) struct Steering {
    server: Arc<Server>,
    journal: Journal,
}

impl Steering {
    pub(super) const fn new(server: Arc<Server>, journal: Journal) -> Self {
        Self { server, journal }
    }

    /// Runs of a flow of ours for a video in one of these states, the newest first.
    pub(super) async fn runs_of_video(
        &self,
        flow: &FlowDefinition,
        video_id: Option<&str>,
        state_types: &[StateType],
    ) -> Result<Vec<ApiFlowRun>, PrefectError> {
        let place = json!({
            "flows": { "name": { "any_": [flow.name] } },
            "deployments": { "name": { "any_": [self.server.settings().deployment_name] } },
        });
        self.runs_of_video_in(place, flow, video_id, state_types).await
    }

    async fn runs_of_video_in(
        &self,
        mut filter: Value,
        flow: &FlowDefinition,
        video_id: Option<&str>,
        state_types: &[StateType],
    ) -> Result<Vec<ApiFlowRun>, PrefectError> {
        let Some(video_id) = video_id else {
            return Ok(Vec::new());
        };
        filter["flow_runs"]["tags"] = json!({ "all_": [format!("video:{video_id}")] });
        filter["flow_runs"]["state"] = json!({ "type": { "any_": state_types } });
        filter["sort"] = json!("EXPECTED_START_TIME_DESC");
        filter["limit"] = json!(PAGE);
        let mut runs = self.server.client().filter_flow_runs(&filter).await?;
        if self.server.names().has_legacy(self.server.client(), flow).await? {
            runs.extend(self.legacy_runs_of_video(flow, video_id, state_types).await?);
        }
        Ok(runs)
    }

    /// The same of its deployment of the old name, whose callers give their runs no tags.
    async fn legacy_runs_of_video(
        &self,
        flow: &FlowDefinition,
        video_id: &str,
        state_types: &[StateType],
    ) -> Result<Vec<ApiFlowRun>, PrefectError> {
        let filter = json!({
            "flows": { "name": { "any_": flow.legacy_name().into_iter().collect::<Vec<_>>() } },
            "deployments": { "name": { "any_": [self.server.settings().deployment_name] } },
            "flow_runs": { "state": { "type": { "any_": state_types } } },
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": PAGE,
        });
        let mut runs = self.server.client().filter_flow_runs(&filter).await?;
        for run in &mut runs {
            run.parameters = flow.own_names(&run.parameters);
        }
        runs.retain(|run| run.video_id() == Some(video_id));
        Ok(runs)
    }

    /// Cancels the older runs of a flow for the same video: the newest one is the one that counts.
    #[cfg(feature = "worker")]
    pub(super) async fn supersede_older(
        &self,
        flow: &FlowDefinition,
        newer: &ApiFlowRun,
    ) -> Result<(), OrchestratorError> {
        let others = self.runs_that_count(flow, newer.video_id()).await?;
        self.supersede(&others, newer).await
    }

    /// The runs of a flow for a video that a newer one takes the place of.
    #[cfg(feature = "worker")]
    pub(super) async fn runs_that_count(
        &self,
        flow: &FlowDefinition,
        video_id: Option<&str>,
    ) -> Result<Vec<ApiFlowRun>, PrefectError> {
        self.runs_of_video(flow, video_id, &COUNTING).await
    }

    /// The same where the deployment of ours is known: the server finds them sooner by its id than by its name.
    pub(super) async fn runs_that_count_of(
        &self,
        flow: &FlowDefinition,
        video_id: Option<&str>,
        deployment: Uuid,
    ) -> Result<Vec<ApiFlowRun>, PrefectError> {
        let place = json!({ "flow_runs": { "deployment_id": { "any_": [deployment] } } });
        self.runs_of_video_in(place, flow, video_id, &COUNTING).await
    }

    /// Cancels those of them that are older.
    pub(super) async fn supersede(&self, others: &[ApiFlowRun], newer: &ApiFlowRun) -> Result<(), OrchestratorError> {
        let message = superseded_message(FlowRunId::from_uuid(newer.id));
        for older in others {
            if older.made() < newer.made() {
                self.ask_to_cancel(older, &message).await?;
            }
        }
        Ok(())
    }

    /// Asks for a run's end: one that waits is cancelled, one that a worker has is to be stopped by it.
    pub(super) async fn ask_to_cancel(&self, run: &ApiFlowRun, message: &str) -> Result<(), OrchestratorError> {
        let id = FlowRunId::from_uuid(run.id);
        let mut is_waiting = run
            .state
            .as_ref()
            .is_none_or(|state| state.state_type() == StateType::Scheduled);
        // Once more if it was claimed in this very moment.
        for _ in 0..2 {
            let name = if is_waiting {
                StateName::Cancelled
            } else {
                StateName::Cancelling
            };
            if is_waiting {
                // The state was read a moment ago: whether a worker has it now is asked before it is called ended.
                let now = self.server.client().read_flow_run(run.id).await?;
                is_waiting = now.state.is_none_or(|state| state.state_type() == StateType::Scheduled);
                if !is_waiting {
                    continue;
                }
            }
            let proposal = Proposal::new(name, Some(message.to_owned()), Uuid::new_v4());
            let answer = self
                .server
                .client()
                .set_flow_run_state(run.id, &proposal, DEFAULT_PATIENCE)
                .await?;
            let entered = answer.state.as_ref().map(ApiState::state_name);
            if let Some(name @ (StateName::Cancelling | StateName::Cancelled)) = entered {
                let message = answer
                    .state
                    .and_then(|state| state.message)
                    .unwrap_or_else(|| message.to_owned());
                let newer = superseded_by(Some(&message));
                self.journal.forwarding.mirror(id, name, message, newer).await?;
            }
            break;
        }
        Ok(())
    }

    /// It is due now.
    pub(super) async fn schedule_now(&self, id: Uuid, message: &str) -> Result<(), OrchestratorError> {
        let proposal = Proposal::new(StateName::Scheduled, Some(message.to_owned()), Uuid::new_v4())
            .due_at(self.server.client().server_now());
        self.server
            .client()
            .set_flow_run_state(id, &proposal, DEFAULT_PATIENCE)
            .await?;
        self.journal
            .forwarding
            .mirror(FlowRunId::from_uuid(id), StateName::Scheduled, message.to_owned(), None)
            .await?;
        Ok(())
    }
}
