//! Runs of deployments that are not ours, in our pool: claimed as ours are, and handed to the worker.
//!
//! Of such a run the journal knows that it holds a slot, and nothing else: its program reports its states itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};

use tracing::{debug, info};
use uuid::Uuid;

use super::Inner;
use super::client::PrefectClient;
use super::model::ApiFlowRun;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::Subject;
use crate::domain::id::FlowRunId;
use crate::orchestrator::local::journal::ClaimIntent;

/// How long the processes of a run that is to end may take to be gone.
#[cfg(feature = "worker")]
const DEATH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// What the processes of such a run are marked with, so that they are found once their worker is dead.
pub fn marker_of(run: Uuid) -> String {
    format!("foreign:{run}")
}

/// Whether processes of such a run live.
#[cfg(feature = "worker")]
pub(super) fn is_left_behind(id: FlowRunId) -> bool {
    !crate::process::tree::marked(&marker_of(id.as_uuid())).is_empty()
}

/// Ends what lives of such a run; whether nothing is left.
#[cfg(feature = "worker")]
pub(super) async fn end_left_behind(id: FlowRunId) -> bool {
    crate::process::tree::clear(&marker_of(id.as_uuid()), None, DEATH_TIMEOUT).await == 0
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

/// A claimed run of a deployment that is not ours.
#[derive(Debug, Clone)]
pub struct ForeignRun {
    /// Where its states are reported.
    pub client: PrefectClient,
    /// The run.
    pub run: ApiFlowRun,
}

/// The runs of this process that are not ours.
#[derive(Debug, Default)]
pub(super) struct ForeignRuns {
    claimed: VecDeque<ApiFlowRun>,
    /// Why a run is to be stopped, if it is.
    held: HashMap<FlowRunId, Option<String>>,
}

impl Inner {
    fn foreign(&self) -> MutexGuard<'_, ForeignRuns> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims such a run if there is a slot for it.
    pub(super) async fn claim_foreign(
        &self,
        run: ApiFlowRun,
        flow_name: &str,
        limit: u32,
    ) -> Result<(), OrchestratorError> {
        let id = FlowRunId::from_uuid(run.id);
        let transition_id = Uuid::new_v4();
        let intent = ClaimIntent {
            flow_run_id: id,
            transition_id,
            flow_name: flow_name.to_owned(),
            subject: Subject::default(),
        };
        if !self.journal.reserve(intent, limit).await? {
            return Ok(());
        }
        if self.propose_pending(id, transition_id).await?.is_none() {
            debug!(flow_run_id = %id, "A run of another program's deployment was not handed over.");
            return Ok(());
        }
        info!(flow_run_id = %id, flow_name, "Flow run of another program's deployment claimed.");
        let mut foreign = self.foreign();
        foreign.held.insert(id, None);
        foreign.claimed.push_back(run);
        Ok(())
    }

    pub(super) fn take_foreign_run(&self) -> Option<ForeignRun> {
        let run = self.foreign().claimed.pop_front()?;
        Some(ForeignRun {
            client: self.client.clone(),
            run,
        })
    }

    pub(super) async fn foreign_run_ended(&self, id: FlowRunId) -> Result<(), OrchestratorError> {
        self.foreign().held.remove(&id);
        self.journal.release(id).await?;
        self.want_poll();
        Ok(())
    }

    pub(super) fn is_foreign(&self, id: FlowRunId) -> bool {
        self.foreign().held.contains_key(&id)
    }

    /// It is to be stopped: its worker sees it as being cancelled.
    pub(super) fn cancel_foreign(&self, id: FlowRunId, message: String) {
        if let Some(reason) = self.foreign().held.get_mut(&id) {
            reason.get_or_insert(message);
        }
        self.wake.notify_one();
    }

    pub(super) fn foreign_cancellations(&self, ids: &[FlowRunId]) -> Vec<(FlowRunId, String)> {
        let foreign = self.foreign();
        let reason = |id: &FlowRunId| Some((*id, foreign.held.get(id)?.clone()?));
        ids.iter().filter_map(reason).collect()
    }
}
