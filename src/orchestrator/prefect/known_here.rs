//! What this machine knows by itself, from its journal alone.

use super::journal::Journal;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{Parameters, Subject};
use crate::domain::state::StateType;
use crate::orchestrator::delivery::Delivery;
use crate::orchestrator::here::{KeptHere, KnownHere};
use crate::orchestrator::queue::{FlowRunFilter, Queue};

/// More runs are not worked on at once.
const MOST_AT_WORK: u32 = 100;

/// Reads it, to go with what the server must still hear.
pub(super) async fn known_here(journal: &Journal, delivery: Delivery) -> Result<KnownHere, OrchestratorError> {
    let filter = FlowRunFilter {
        state_types: StateType::ALL.into_iter().filter(|state| state.holds_slot()).collect(),
        limit: MOST_AT_WORK,
        ..FlowRunFilter::default()
    };
    let kept = journal.kept.waiting().await?.into_iter().map(|run| KeptHere {
        flow_run_id: run.id,
        flow_name: run.flow_name,
        video_id: Subject::of(&Parameters(run.parameters)).video_id,
        queued_at: run.created_at,
    });
    let workers = journal.local.read_work_pool().await?.workers;
    Ok(KnownHere {
        at_work: journal.local.list_flow_runs(filter).await?,
        kept: kept.collect(),
        living_workers: workers
            .into_iter()
            .filter(|worker| worker.is_alive)
            .map(|worker| worker.name)
            .collect(),
        delivery,
    })
}
