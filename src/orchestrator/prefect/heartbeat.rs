//! What says that this worker and its runs live: told by a task of its own, so that nothing that is slow to be told holds it up. A server
//! calls a worker offline that has missed three beats of the pace that it announced, so the pace is also how soon people and other
//! workers hear that a machine is lost.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tracing::debug;

use super::automation;
use super::events::heartbeat_events;
use super::introductions::{self, Introduction};
use super::journal::Journal;
use super::lost::alive_event;
use super::server::Server;
use super::voices::Voices;
use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;

/// A deployment's slot is held so long without being renewed.
const CONCURRENCY_LEASE_SECONDS: u32 = 300;

/// How soon it is said again by a worker that was not heard: once a server is back, or a pool was made anew, everybody is silent until they
/// have said something ([`super::stranded`] waits for that).
const UNHEARD: Duration = Duration::from_secs(2);

/// How long a start takes, as a rule.
const AFTER_ITS_START: Duration = Duration::from_millis(300);

/// Says that runs and their worker live.
pub(super) struct Heart {
    pub(super) server: Arc<Server>,
    pub(super) journal: Journal,
    pub(super) voices: Arc<Voices>,
}

/// Beats until it is dropped. Without an introduction it beats for a worker of Prefect's own.
pub(super) async fn run(heart: Arc<Heart>, worker_name: String, introduction: Option<Introduction>) {
    let mut introduced_at: Option<tokio::time::Instant> = None;
    loop {
        let began = tokio::time::Instant::now();
        // Whoever made the limit shorter waits until it is told that this worker beats for it.
        let learned = automation::learn_limit(heart.server.client()).await;
        heart.server.note(&learned);
        let interval = heart.server.client().pace();
        let settings = heart.server.settings();
        let mut is_heard = true;
        if !settings.runner_mode {
            let beat = heart
                .server
                .client()
                .worker_heartbeat(&settings.work_pool, &worker_name, interval)
                .await;
            heart.server.note(&beat);
            is_heard = beat.is_ok();
            let is_due = introduced_at.is_none_or(|at| at.elapsed() >= introductions::EVERY);
            if let Some(introduction) = introduction.as_ref().filter(|_| is_due) {
                let told = introductions::tell(heart.server.client(), introduction).await;
                heart.server.note(&told);
                introduced_at = told.is_ok().then_some(began);
            }
        }
        let beat = heart.beat().await;
        heart.server.note(&beat);
        is_heard &= beat.is_ok();
        tokio::time::sleep_until(began + if is_heard { interval } else { interval.min(UNHEARD) }).await;
    }
}

impl Heart {
    /// Says that the runs at work live, and keeps their deployments' slots.
    async fn beat(&self) -> Result<(), OrchestratorError> {
        let alive = alive_event(self.server.settings());
        let mut events: Vec<Value> = Vec::new();
        let at_work = self.journal.forwarding.at_work().await?;
        // What is given back from here on was alive before that.
        let occurred = self.server.client().server_now();
        for run in at_work {
            let id = run.flow_run.flow_run_id;
            self.voices.speaks(id);
            events.extend(heartbeat_events(id, &run.context, &alive, occurred));
            if let Some(lease) = run.context.concurrency_lease_id {
                let renewed = self
                    .server
                    .client()
                    .renew_concurrency_lease(lease, CONCURRENCY_LEASE_SECONDS)
                    .await;
                if let Err(error) = renewed {
                    debug!(flow_run_id = %id, "The deployment's slot could not be renewed: {error}.");
                }
            }
        }
        if !events.is_empty() {
            self.server.client().create_events(&events).await?;
        }
        Ok(())
    }

    /// The first sign of life of a run that was claimed a moment ago: what becomes of its machine is noticed by the server itself from
    /// here on. Its start goes first, because somebody waits for it.
    pub(super) async fn begin(&self, id: FlowRunId) {
        self.voices.claimed(id);
        tokio::time::sleep(AFTER_ITS_START).await;
        self.voices.speaks(id);
        let run = self.journal.forwarding.run(id).await.ok().flatten();
        // Given back since, it waits, and may be silent as long as it waits.
        let Some(run) = run.filter(|run| run.flow_run.state.state_type.holds_slot()) else {
            return;
        };
        let occurred = self.server.client().server_now();
        let alive = alive_event(self.server.settings());
        let told = self
            .server
            .client()
            .create_events(&heartbeat_events(id, &run.context, &alive, occurred))
            .await;
        self.server.note(&told);
    }
}
