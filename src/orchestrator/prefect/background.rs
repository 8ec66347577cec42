//! What a worker's process does beside its runs: tells the server what it must hear, shows progress and that it lives,
//! and tidies up after deaths and outages. No error ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::Inner;
use super::client::DEFAULT_PATIENCE;
use super::delivery::Scope;
use crate::domain::error::OrchestratorError;
use crate::domain::prefect_error::PrefectError;
use crate::orchestrator::local::journal::StoredRun;
use crate::orchestrator::queue::NewFlowRun;

/// How often the outbox is emptied: how long a log line waits.
const TELL_INTERVAL: Duration = Duration::from_secs(2);
/// A server calls a worker offline after three of them.
const WORKER_HEARTBEAT: Duration = Duration::from_secs(30);
/// An automation that looks for dead runs waits at least three of them.
const RUN_HEARTBEAT: Duration = Duration::from_mins(1);
/// How often waiting runs are compared with the server's.
const MIRROR_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until it is dropped.
pub(super) async fn run(inner: Arc<Inner>, worker_name: String) {
    let mut heartbeat_at: Option<Instant> = None;
    let mut run_heartbeat_at = Instant::now();
    let mut mirror_at: Option<Instant> = None;
    loop {
        if heartbeat_at.is_none_or(|at| at.elapsed() >= WORKER_HEARTBEAT) {
            heartbeat_at = Some(Instant::now());
            if !inner.settings().runner_mode {
                let pool = &inner.settings().work_pool;
                let beat = inner
                    .client
                    .worker_heartbeat(pool, &worker_name, WORKER_HEARTBEAT)
                    .await;
                inner.note(&beat);
            }
        }
        if run_heartbeat_at.elapsed() >= RUN_HEARTBEAT {
            run_heartbeat_at = Instant::now();
            let beat = inner.tell_heartbeats().await;
            inner.note(&beat);
        }
        if mirror_at.is_none_or(|at| at.elapsed() >= MIRROR_INTERVAL) {
            mirror_at = Some(Instant::now());
            let mirrored = inner.mirror_waiting().await;
            inner.note(&mirrored);
            match inner.journal.bound_outbox().await {
                Ok(0) => {}
                Ok(number) => warn!(number, "The API is away for long: the oldest log lines were left out."),
                Err(error) => warn!(error = error.to_line(), "The outbox could not be bounded."),
            }
        }
        let settled = inner.settle_claims().await;
        inner.note(&settled);
        let forwarded = inner.forward_stored().await;
        inner.note(&forwarded);
        tell(&inner).await;
        let shown = inner.tell_progress().await;
        inner.note(&shown);
        tokio::time::sleep(TELL_INTERVAL).await;
    }
}

/// Tells each run's mail side by side: one that the server is slow with does not hold up the others.
async fn tell(inner: &Arc<Inner>) {
    let runs = match inner.journal.forwarded_runs().await {
        Ok(runs) => runs,
        Err(error) => {
            warn!(error = error.to_line(), "The outbox could not be read.");
            return;
        }
    };
    let mut tellers = JoinSet::new();
    for run in runs.into_iter().filter(|run| run.has_mail).take(16) {
        let inner = inner.clone();
        let id = run.flow_run.flow_run_id;
        tellers.spawn(async move { inner.deliver(id, Scope::Everything, DEFAULT_PATIENCE).await });
    }
    while let Some(told) = tellers.join_next().await {
        if let Ok(told) = told {
            inner.note(&told);
        }
    }
}

impl Inner {
    /// Queues at the server what was kept while it was away, once each.
    pub(super) async fn forward_stored(&self) -> Result<(), OrchestratorError> {
        for stored in self.journal.stored_runs().await? {
            let id = stored.id;
            let outcome = match self.create_stored(stored).await {
                Ok(prefect_id) => {
                    info!(flow_run_id = %prefect_id, stored_as = %id, "A run that was kept here is queued at the server.");
                    Ok(prefect_id)
                }
                Err(OrchestratorError::Prefect(error @ PrefectError::Rejected { .. })) => Err(error.to_string()),
                Err(error @ (OrchestratorError::InvalidArgument { .. } | OrchestratorError::UnknownFlow { .. })) => {
                    Err(error.to_string())
                }
                Err(error) => return Err(error),
            };
            if let Err(problem) = &outcome {
                warn!(flow_run_id = %id, "A run that was kept here can not be queued: {problem}.");
            }
            self.journal.stored_run_settled(id, outcome).await?;
        }
        Ok(())
    }

    async fn create_stored(&self, stored: StoredRun) -> Result<crate::domain::id::FlowRunId, OrchestratorError> {
        let flow = self.flows.get(&stored.flow_name)?.clone();
        let arguments = flow.parse_arguments(&stored.parameters, std::path::Path::new("/"))?;
        let key = stored.idempotency_key;
        let new = NewFlowRun {
            flow,
            arguments,
            idempotency_key: super::calling::given_key(&key),
            patience: None,
            when_unreachable: None,
        };
        let queued = self
            .create_at_server(&new, &key, None, Instant::now() + DEFAULT_PATIENCE)
            .await?;
        if queued.created {
            // Who looks for it by the id that was given out finds it by this.
            let labels = json!({ "captionacc.stored-as": stored.id });
            let labels = labels.as_object().expect("an object");
            let labelled = self
                .client
                .label_flow_run(queued.flow_run_id.as_uuid(), labels, DEFAULT_PATIENCE)
                .await;
            self.note(&labelled);
        }
        Ok(queued.flow_run_id)
    }
}
