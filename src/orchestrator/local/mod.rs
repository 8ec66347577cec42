//! The embedded orchestrator: a durable queue in one SQLite file, for one machine.
//!
//! Any number of processes share `queue.db`. The limit is counted in the store, in the transaction that claims, so
//! that several workers share it. A lease names the worker's process and the lock that it holds for its life, not a time:
//! it is taken away from a dead process, in whatever container, and never from a slow one. A fencing token that grows with
//! every claim keeps late writes out.

mod captions;
#[cfg(feature = "worker")]
pub mod check;
#[cfg(test)]
mod cost;
pub(in crate::orchestrator) mod entries;
mod feed;
mod inspection;
mod lane;
mod notifications;
pub(in crate::orchestrator) mod outbox;
pub(in crate::orchestrator) mod peers;
pub(in crate::orchestrator) mod queue;
mod reading;
mod records;
mod retention;
pub(in crate::orchestrator) mod rows;
pub(in crate::orchestrator) mod store;
mod waiting;
mod workers;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, Transaction};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::events::EventPage;
use super::feed::{FeedCursor, FeedPage};
use super::video_file;
use crate::domain::asset::{AssetLineage, LineageOf};
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::{EventCursor, FlowRun, FlowRunDetails, LogLine};
use crate::domain::id::FlowRunId;
use crate::domain::lease::Lease;
use crate::orchestrator::claims::{Claimed, Claims, Ending, OrphanedRun, PoolLimits, Record, StatusRowDue};
#[cfg(feature = "worker")]
use crate::orchestrator::notifications::Delivery;
use crate::orchestrator::notifications::{Due, Notifications};
use crate::orchestrator::queue::{FlowRunFilter, Intent, NewFlowRun, Queue, QueuedFlowRun, WorkPool, WorkerRecord};
use crate::process::identity::ProcessIdentity;
use crate::process::wake::{Bell, Ear};
pub use inspection::StoreInspection;
use outbox::{Outbox, Tell};
use peers::Peers;
use store::{Fault, Store};

/// The version of the SQLite that is linked in.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// The embedded orchestrator over `queue.db` in one folder.
pub struct LocalOrchestrator {
    home: PathBuf,
    store: Store,
    peers: Arc<Peers>,
    bell: Bell,
    ear: OnceCell<Ear>,
    /// Who else hears what becomes of the runs.
    outbox: Option<Arc<dyn Outbox>>,
}

impl LocalOrchestrator {
    /// Opens `home/queue.db`, making the folder (0700) and the file (0600) where they are missing.
    ///
    /// # Errors
    /// The `Store…` errors: not writable, newer schema, another program's file, damaged, locked, disk full.
    pub async fn open(home: &Path) -> Result<Self, OrchestratorError> {
        Self::open_with(home, None).await
    }

    /// The same for a queue whose runs belong to another system, which hears what becomes of them through this outbox.
    pub(in crate::orchestrator) async fn open_with(
        home: &Path,
        outbox: Option<Arc<dyn Outbox>>,
    ) -> Result<Self, OrchestratorError> {
        Ok(Self {
            outbox,
            home: home.to_owned(),
            store: Store::open(home).await?,
            peers: Arc::new(Peers::new(home)),
            bell: Bell::new(home),
            ear: OnceCell::new(),
        })
    }

    /// Waits for the bell of this queue.db; `false` after `timeout` without one.
    pub(in crate::orchestrator) async fn heard(&self, timeout: Duration) -> bool {
        let ear = self.ear.get_or_init(|| async { Ear::new(&self.home) }).await;
        ear.wait(timeout).await
    }

    /// What a look at the whole file finds, for `captionacc doctor`; it reads every page.
    ///
    /// # Errors
    /// [`OrchestratorError::StoreCorrupt`], [`OrchestratorError::StoreIo`] where no locks can be had, and what opening can
    /// say.
    pub async fn inspect(&self) -> Result<StoreInspection, OrchestratorError> {
        let path = self.store.path().to_owned();
        self.run_with_peers(move |connection, peers| {
            // As a worker would.
            peers.own()?;
            inspection::inspect(connection, path)
        })
        .await
    }

    /// How telling a receiver goes; `None`: nobody ever asked for it.
    ///
    /// # Errors
    /// The `Store…` errors.
    #[cfg(feature = "worker")]
    pub(in crate::orchestrator) async fn delivery(
        &self,
        receiver: &str,
    ) -> Result<Option<Delivery>, OrchestratorError> {
        let receiver = receiver.to_owned();
        self.store
            .run(move |connection| notifications::delivery(connection, &receiver))
            .await
    }

    /// Reads what another system keeps in this file.
    pub(in crate::orchestrator) async fn read<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, OrchestratorError> {
        self.store.run(move |connection| operation(connection)).await
    }

    /// Changes it, in one transaction.
    pub(in crate::orchestrator) async fn change<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Transaction<'_>, &Peers) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, OrchestratorError> {
        self.run_with_peers(move |connection, peers| {
            let transaction = store::begin(connection)?;
            let outcome = operation(&transaction, peers)?;
            transaction.commit()?;
            Ok(outcome)
        })
        .await
    }

    /// Whoever waits for work looks again.
    pub(in crate::orchestrator) fn ring(&self) {
        self.bell.ring();
    }

    /// A file of this queue for a lock.
    pub(in crate::orchestrator) fn lock_file(&self, name: &str) -> PathBuf {
        self.peers.lock_file(name)
    }

    async fn run_telling<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Connection, Tell<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, OrchestratorError> {
        let outbox = self.outbox.clone();
        self.store
            .run(move |connection| operation(connection, outbox.as_deref().map_or(Tell::Nobody, Tell::Reader)))
            .await
    }

    async fn run_with_peers<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Connection, &Peers) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, OrchestratorError> {
        let peers = self.peers.clone();
        self.store.run(move |connection| operation(connection, &peers)).await
    }
}

#[async_trait]
impl Queue for LocalOrchestrator {
    async fn create_flow_run(&self, new: NewFlowRun, intent: Arc<Intent>) -> Result<QueuedFlowRun, OrchestratorError> {
        let video_file = video_file::fingerprint(&new).await;
        let queued = self
            .store
            .run(move |connection| queue::create(connection, &new, video_file.as_deref(), &intent))
            .await?;
        self.bell.ring();
        Ok(queued)
    }

    async fn read_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        self.store
            .run(move |connection| Ok(rows::read_run(connection, id)?.flow_run))
            .await
    }

    async fn read_flow_run_details(&self, id: FlowRunId) -> Result<FlowRunDetails, OrchestratorError> {
        self.store.run(move |connection| reading::details(connection, id)).await
    }

    async fn list_flow_runs(&self, filter: FlowRunFilter) -> Result<Vec<FlowRun>, OrchestratorError> {
        self.store
            .run(move |connection| reading::list(connection, &filter))
            .await
    }

    async fn oldest_waiting(&self) -> Result<Option<FlowRun>, OrchestratorError> {
        self.store.run(reading::oldest_waiting).await
    }

    async fn read_logs(&self, id: FlowRunId, cursor: i64) -> Result<(Vec<LogLine>, i64), OrchestratorError> {
        self.store
            .run(move |connection| reading::logs(connection, id, cursor))
            .await
    }

    async fn read_events(&self, id: FlowRunId, cursor: EventCursor) -> Result<EventPage, OrchestratorError> {
        self.store
            .run(move |connection| reading::events(connection, id, cursor))
            .await
    }

    async fn read_feed(&self, after: Option<&FeedCursor>) -> Result<FeedPage, OrchestratorError> {
        let after = after.cloned();
        self.store
            .run(move |connection| feed::read(connection, after.as_ref()))
            .await
    }

    async fn cancel_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        let run = self.store.run(move |connection| queue::cancel(connection, id)).await?;
        self.bell.ring();
        Ok(run)
    }

    async fn retry_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        let run = self.store.run(move |connection| queue::retry(connection, id)).await?;
        self.bell.ring();
        Ok(run)
    }

    async fn read_lineage(&self) -> Result<AssetLineage, OrchestratorError> {
        self.store.run(reading::lineage).await
    }

    async fn read_lineage_of(&self, which: LineageOf) -> Result<AssetLineage, OrchestratorError> {
        self.store
            .run(move |connection| reading::lineage_of(connection, &which))
            .await
    }

    async fn read_work_pool(&self) -> Result<WorkPool, OrchestratorError> {
        self.run_with_peers(workers::pool).await
    }

    async fn set_paused(&self, is_paused: bool) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| workers::set_paused(connection, is_paused))
            .await?;
        self.bell.ring();
        Ok(())
    }

    async fn set_concurrency_limit(&self, limit: u32) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| workers::set_limit(connection, limit))
            .await?;
        self.bell.ring();
        Ok(())
    }

    async fn change_counter(&self) -> Result<i64, OrchestratorError> {
        self.store
            .run(|connection| {
                // data_version counts the commits of others only.
                let others: i64 = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
                let own = i64::try_from(connection.total_changes()).unwrap_or(i64::MAX);
                Ok(others.wrapping_mul(1 << 40).wrapping_add(own))
            })
            .await
    }

    fn description(&self) -> String {
        format!("embedded ({})", self.store.path().display())
    }
}

#[async_trait]
impl Notifications for LocalOrchestrator {
    async fn notifications_due(&self, receiver: &str) -> Result<Due, OrchestratorError> {
        let receiver = receiver.to_owned();
        self.store
            .run(move |connection| notifications::due(connection, &receiver))
            .await
    }

    async fn notified(&self, receiver: &str, position: i64, problem: Option<String>) -> Result<(), OrchestratorError> {
        let receiver = receiver.to_owned();
        self.store
            .run(move |connection| notifications::notified(connection, &receiver, position, problem.as_deref()))
            .await
    }

    async fn not_notified(&self, receiver: &str, problem: String, wait: Duration) -> Result<(), OrchestratorError> {
        let receiver = receiver.to_owned();
        self.store
            .run(move |connection| notifications::not_notified(connection, &receiver, &problem, wait))
            .await
    }

    fn notifications_lock(&self, receiver: &str) -> PathBuf {
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, receiver.as_bytes());
        self.peers.lock_file(&format!("notify-{name}"))
    }
}

#[async_trait]
impl Claims for LocalOrchestrator {
    async fn register_worker(&self, worker: WorkerRecord, limits: PoolLimits) -> Result<(), OrchestratorError> {
        self.run_with_peers(move |connection, peers| workers::register(connection, peers, &worker, limits))
            .await
    }

    async fn deregister_worker(&self, name: &str) -> Result<(), OrchestratorError> {
        let name = name.to_owned();
        self.run_with_peers(move |connection, peers| workers::deregister(connection, peers, &name))
            .await
    }

    async fn claim(
        &self,
        worker_name: &str,
        flow_names: BTreeSet<String>,
    ) -> Result<Option<Claimed>, OrchestratorError> {
        loop {
            let (worker_name, flow_names) = (worker_name.to_owned(), flow_names.clone());
            // Between tries, everybody else comes to the file.
            let tried = self
                .run_with_peers(move |connection, peers| {
                    queue::try_to_claim(connection, &worker_name, &peers.own()?, &flow_names)
                })
                .await?;
            if let ControlFlow::Break(claim) = tried {
                return Ok(claim.map(|claim| Claimed::Own(Box::new(claim))));
            }
        }
    }

    async fn next_due(&self, flow_names: BTreeSet<String>) -> Result<Option<Timestamp>, OrchestratorError> {
        self.store
            .run(move |connection| queue::next_due(connection, &flow_names))
            .await
    }

    async fn start(&self, lease: Lease, process: ProcessIdentity) -> Result<(), OrchestratorError> {
        self.run_telling(move |connection, tell| queue::start(connection, lease, &process, tell))
            .await
    }

    async fn record(&self, lease: Lease, records: Vec<Record>) -> Result<(), OrchestratorError> {
        self.run_telling(move |connection, tell| records::record(connection, lease, &records, tell))
            .await
    }

    fn attempt_lock(&self, lease: Lease) -> PathBuf {
        self.peers.attempt_lock(lease)
    }

    async fn may_commit(&self, lease: Lease) -> Result<bool, OrchestratorError> {
        self.store
            .run(move |connection| queue::may_commit(connection, lease))
            .await
    }

    async fn caption_is_taken(&self, lease: Lease, caption_id: i64) -> Result<bool, OrchestratorError> {
        self.store
            .run(move |connection| {
                let run = rows::read_run(connection, lease.flow_run_id)?.flow_run;
                Ok(captions::taken(connection, &run)?.contains(&caption_id))
            })
            .await
    }

    async fn finish(&self, lease: Lease, ending: Ending) -> Result<FlowRun, OrchestratorError> {
        let run = self
            .run_telling(move |connection, tell| queue::finish(connection, lease, &ending, tell))
            .await?;
        // Other workers may have waited for the slot.
        self.bell.ring();
        Ok(run)
    }

    async fn cancellations(&self, ids: Vec<FlowRunId>) -> Result<Vec<(FlowRunId, String)>, OrchestratorError> {
        self.store
            .run(move |connection| queue::cancellations(connection, &ids))
            .await
    }

    async fn orphaned_runs(&self) -> Result<Vec<OrphanedRun>, OrchestratorError> {
        self.run_with_peers(|connection, peers| queue::orphaned_runs(connection, peers))
            .await
    }

    async fn status_rows_due(&self) -> Result<Vec<StatusRowDue>, OrchestratorError> {
        self.store.run(queue::status_rows_due).await
    }

    async fn status_row_is_due(&self, id: FlowRunId, state_sequence: i64) -> Result<bool, OrchestratorError> {
        self.store
            .run(move |connection| queue::status_row_is_due(connection, id, state_sequence))
            .await
    }

    async fn status_row_written(&self, id: FlowRunId, state_sequence: i64) -> Result<(), OrchestratorError> {
        self.store
            .run(move |connection| queue::status_row_written(connection, id, state_sequence))
            .await
    }

    async fn apply_retention(&self, ended_before: Timestamp) -> Result<u64, OrchestratorError> {
        let mut forgotten = 0;
        loop {
            // Between batches, everybody else comes to the file.
            let batch = self
                .store
                .run(move |connection| retention::forget_some(connection, ended_before.as_millisecond()))
                .await?;
            forgotten += batch.forgotten;
            if !batch.has_more {
                return Ok(forgotten);
            }
        }
    }

    async fn wait_for_work(&self, timeout: Duration) {
        self.heard(timeout).await;
    }
}
