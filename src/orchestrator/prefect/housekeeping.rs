//! What a worker's process does beside its runs: tells the server what it must hear, shows progress and that it lives,
//! and tidies up after deaths and outages. No error ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use tracing::{info, warn};
use uuid::Uuid;

use super::api::PAGE;
use super::arrivals::Arrivals;
use super::calling::{Caller, given_key};
use super::client::DEFAULT_PATIENCE;
use super::conversion::superseded_by;
use super::courier::Courier;
use super::journal::Journal;
use super::journal::forwarding::Held;
use super::journal::kept::KeptRun;
use super::model::ApiState;
use super::proposals::Proposals;
use super::server::Server;
use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{CANCELLED_ON_REQUEST, StateName, StateType};
use crate::orchestrator::queue::NewFlowRun;

/// How often the outbox is emptied: how long a log line waits.
const TELL_INTERVAL: Duration = Duration::from_secs(2);
/// How often waiting runs are compared with the server's.
const MIRROR_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until it is dropped.
pub(super) async fn run(house: Arc<Housekeeping>) {
    let mut mirror_at: Option<Instant> = None;
    // Whatever an earlier worker has left there is looked at once.
    let mut noted: Option<Option<Timestamp>> = None;
    loop {
        if mirror_at.is_none_or(|at| at.elapsed() >= MIRROR_INTERVAL) {
            mirror_at = Some(Instant::now());
            let mirrored = house.mirror_waiting().await;
            house.server.note(&mirrored);
            let welcomed = house.arrivals.welcome_next().await;
            house.server.note(&welcomed);
            match house.journal.mail.bound().await {
                Ok(0) => {}
                Ok(number) => warn!(number, "The API is away for long: the oldest log lines were left out."),
                Err(error) => warn!(error = error.to_line(), "The outbox could not be bounded."),
            }
        }
        let settled = house.proposals.settle().await;
        house.server.note(&settled);
        let forwarded = house.forward_kept().await;
        house.server.note(&forwarded);
        let told = house.courier.go_round().await;
        house.server.note(&told);
        let shown = house.courier.tell_progress().await;
        house.server.note(&shown);
        let away_since = house.server.client().away_since();
        if noted != Some(away_since) && house.journal.mail.note_away(away_since).await.is_ok() {
            noted = Some(away_since);
        }
        tokio::time::sleep(TELL_INTERVAL).await;
    }
}

/// What is done beside the runs.
pub(super) struct Housekeeping {
    pub(super) server: Arc<Server>,
    pub(super) journal: Journal,
    pub(super) caller: Arc<Caller>,
    pub(super) courier: Arc<Courier>,
    pub(super) proposals: Arc<Proposals>,
    pub(super) arrivals: Arrivals,
}

impl Housekeeping {
    /// Forwards runs and tells what the outbox holds once, now.
    pub(super) async fn forward_all(&self, patience: Duration) -> Result<(), OrchestratorError> {
        let forwarded = self.forward_kept().await;
        self.courier.tell_all(patience).await?;
        forwarded
    }

    /// Queues at the server what was kept while it was away, once each. One that can not be queued yet is in nobody's way.
    async fn forward_kept(&self) -> Result<(), OrchestratorError> {
        let mut done = Ok(());
        for kept in self.journal.kept.waiting().await? {
            let id = kept.id;
            let outcome = match self.queue_kept(kept).await {
                Ok(prefect_id) => {
                    info!(flow_run_id = %prefect_id, stored_as = %id, "A run that was kept here is queued at the server.");
                    Ok(prefect_id)
                }
                Err(OrchestratorError::Prefect(error @ PrefectError::Rejected { .. })) => Err(error.to_string()),
                Err(error @ (OrchestratorError::InvalidArgument { .. } | OrchestratorError::UnknownFlow { .. })) => {
                    Err(error.to_string())
                }
                Err(error @ OrchestratorError::Prefect(PrefectError::Unreachable { .. })) => return Err(error),
                Err(error) => {
                    done = Err(error);
                    continue;
                }
            };
            if let Err(problem) = &outcome {
                warn!(flow_run_id = %id, "A run that was kept here can not be queued: {problem}.");
            }
            self.journal.kept.settle(id, outcome).await?;
        }
        done
    }

    async fn queue_kept(&self, kept: KeptRun) -> Result<FlowRunId, OrchestratorError> {
        let flow = self.server.flows().get(&kept.flow_name)?.clone();
        let arguments = flow.parse_stored(&kept.parameters)?;
        let key = kept.idempotency_key;
        let new = NewFlowRun {
            idempotency_key: given_key(&key),
            trace: self.journal.kept.trace(kept.id).await?,
            ..NewFlowRun::new(flow, arguments)
        };
        let queued = self
            .caller
            .create_at_server(&new, &key, None, Instant::now() + DEFAULT_PATIENCE)
            .await?;
        if queued.created {
            // Who looks for it by the id that was given out finds it by this.
            let labels = json!({ "captionacc.stored-as": kept.id });
            let labels = labels.as_object().expect("an object");
            let labelled = self
                .server
                .client()
                .label_flow_run(queued.flow_run_id.as_uuid(), labels, DEFAULT_PATIENCE)
                .await;
            self.server.note(&labelled);
        }
        Ok(queued.flow_run_id)
    }

    /// A run that waits here but was cancelled at the server is cancelled here, for its status row's sake. One that another machine
    /// has done waits no longer, and its status row is that machine's.
    async fn mirror_waiting(&self) -> Result<(), OrchestratorError> {
        let waiting = self.journal.forwarding.waiting().await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let uuids: Vec<Uuid> = waiting.iter().map(|id| id.as_uuid()).collect();
        let ended = [
            StateType::Cancelled,
            StateType::Completed,
            StateType::Failed,
            StateType::Crashed,
        ];
        let filter = json!({
            "flow_runs": { "id": { "any_": uuids }, "state": { "type": { "any_": ended } } },
            "limit": PAGE,
        });
        for run in self.server.client().filter_flow_runs(&filter).await? {
            let id = FlowRunId::from_uuid(run.id);
            if run.state.as_ref().map(ApiState::state_type) != Some(StateType::Cancelled) {
                let message = "it ended on another machine".to_owned();
                self.journal.forwarding.let_go(id, Held::Waiting, message, true).await?;
                continue;
            }
            let message = run
                .state
                .and_then(|state| state.message)
                .unwrap_or_else(|| CANCELLED_ON_REQUEST.to_owned());
            let newer = superseded_by(Some(&message));
            self.journal
                .forwarding
                .mirror(id, StateName::Cancelled, message, newer)
                .await?;
        }
        Ok(())
    }
}
