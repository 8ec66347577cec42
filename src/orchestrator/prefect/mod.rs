//! The Prefect orchestrator: flow runs in a Prefect 3 server or Prefect Cloud.
//!
//! Theory of operation. The callers' half asks the API. The workers' half writes everything to a journal first, a
//! queue.db of this machine and of this one server (`CAPTIONACC_HOME/prefect/…`), exactly as the embedded orchestrator
//! does: leases, fencing, recovery, status rows and lineage work with the server away. What the server must hear is put
//! into the journal's outbox by the same transaction and told from there, states before everything else, by the process
//! that has the run or by the next one after its death. One queue.db a server, so that a run of one can never be
//! claimed from, or told to, another.

pub mod api;
#[cfg(feature = "worker")]
pub mod check;
pub mod client;
pub mod model;
pub mod parameter_schema;

mod background;
mod calling;
mod claiming;
#[cfg(feature = "worker")]
mod control;
mod conversion;
mod delivery;
mod foreign;
mod handover;
#[cfg(feature = "worker")]
mod listening;
mod names;
#[cfg(feature = "worker")]
mod program;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::{info, warn};
use uuid::Uuid;

use super::events::EventPage;
use super::local::LocalOrchestrator;
use crate::domain::asset::AssetLineage;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::Flows;
use crate::domain::flow_run::{EventCursor, FlowRun, FlowRunDetails, LogLine};
use crate::domain::id::FlowRunId;
use crate::domain::lease::Lease;
use crate::domain::prefect_error::PrefectError;
use crate::orchestrator::claims::{Claimed, Claims, Ending, OrphanedRun, Record, StatusRowDue};
#[cfg(feature = "worker")]
use crate::orchestrator::claims::{ForeignEnd, ForeignEnding};
use crate::orchestrator::queue::{FlowRunFilter, Intent, NewFlowRun, Queue, QueuedFlowRun, WorkPool, WorkerRecord};
use crate::process::identity::ProcessIdentity;
use crate::settings::prefect::PrefectSettings;
use client::{PrefectClient, segment};
use delivery::Mailroom;
use model::ApiWorkPool;
use names::Names;

/// How long a state is told before its teller goes on and leaves it to the outbox.
const START_PATIENCE: Duration = Duration::from_secs(3);
const FINISH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a reader waits for what this process has not told yet.
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// Ends whose event has not come are forgotten beyond so many.
const MAX_EXPECTED_ENDS: usize = 100;

/// How often a follower of a run asks the server for news.
const NEWS_INTERVAL: Duration = Duration::from_secs(2);
/// The same where calls are counted; also what Prefect's own client does.
const CLOUD_NEWS_INTERVAL: Duration = Duration::from_secs(5);

/// The orchestrator over a Prefect API.
pub struct PrefectOrchestrator {
    inner: Arc<Inner>,
    tasks: Mutex<Vec<AbortHandle>>,
}

struct Inner {
    client: PrefectClient,
    journal: LocalOrchestrator,
    flows: Flows,
    names: Names,
    mailroom: Mailroom,
    /// Whoever waits for work looks again.
    wake: Notify,
    /// The server may have a run for us.
    poll_wanted: AtomicBool,
    /// One of our runs may be in another state at the server.
    check_wanted: AtomicBool,
    clocks: Mutex<Clocks>,
    /// Runs that events told of, less those that were claimed since.
    announced: AtomicU32,
    /// Ends that are being told. Each rings the bell before the server has heard of it, and polls once it has.
    finishing: AtomicU32,
    /// Runs whose end this process tells: it needs no event for that.
    ended: Mutex<VecDeque<Uuid>>,
    /// Claims whose answer was lost: to be looked after.
    doubtful: Mutex<Vec<(FlowRunId, Uuid)>>,
    /// Runs of deployments that are not ours.
    foreign: Mutex<foreign::ForeignRuns>,
    /// Whether this process works on runs.
    is_worker: AtomicBool,
    changes: AtomicI64,
    started: Instant,
    /// What was complained about last, so that an outage is one line, and how many calls were answered by then.
    complained: Mutex<Option<(&'static str, u64)>>,
}

/// When what was done last, and what is known of it.
#[derive(Default)]
struct Clocks {
    polled: Option<Instant>,
    checked: Option<Instant>,
    due: Option<Timestamp>,
    /// When a run that was offered too early is due.
    offered: Option<Timestamp>,
    pool: Option<(Instant, ApiWorkPool)>,
}

impl PrefectOrchestrator {
    /// Opens the journal for this server below `home`. The server itself is not asked anything yet.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] for settings that make no client, and the `Store…` errors.
    pub async fn open(settings: PrefectSettings, home: &Path, flows: Flows) -> Result<Self, OrchestratorError> {
        let journal = LocalOrchestrator::open(&journal_home(home, &settings)).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                client: PrefectClient::new(settings)?,
                journal,
                flows,
                names: Names::default(),
                mailroom: Mailroom::default(),
                wake: Notify::new(),
                poll_wanted: AtomicBool::new(true),
                check_wanted: AtomicBool::new(false),
                clocks: Mutex::default(),
                announced: AtomicU32::new(0),
                finishing: AtomicU32::new(0),
                ended: Mutex::default(),
                doubtful: Mutex::default(),
                foreign: Mutex::default(),
                is_worker: AtomicBool::new(false),
                changes: AtomicI64::new(0),
                started: Instant::now(),
                complained: Mutex::default(),
            }),
            tasks: Mutex::default(),
        })
    }

    /// The client, for what is not an orchestrator's business.
    pub fn client(&self) -> &PrefectClient {
        &self.inner.client
    }

    /// Forwards runs and tells what the outbox holds once, now; what a worker does all the time.
    ///
    /// # Errors
    /// What kept it from being told.
    pub async fn forward(&self) -> Result<(), OrchestratorError> {
        self.inner.forward_all(FINISH_PATIENCE).await
    }

    async fn flush(&self, id: FlowRunId) {
        if self.inner.is_worker.load(Ordering::Relaxed) {
            let told = self.inner.deliver(id, delivery::Scope::Everything, READ_PATIENCE).await;
            self.inner.note(&told);
            let shown = self.inner.tell_progress().await;
            self.inner.note(&shown);
        }
    }
}

impl Drop for PrefectOrchestrator {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.drain(..) {
            task.abort();
        }
    }
}

/// The folder of the journal of one server and pool.
pub fn journal_home(home: &Path, settings: &PrefectSettings) -> PathBuf {
    let mut name = segment(&format!("{} {}", settings.api_url, settings.work_pool));
    // Longest name that file systems take, less some.
    name.truncate(240);
    home.join("prefect").join(name)
}

impl Inner {
    fn settings(&self) -> &PrefectSettings {
        self.client.settings()
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn want_poll(&self) {
        self.poll_wanted.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// An event will tell of the run's end, of which this process knows.
    fn expect_end(&self, id: FlowRunId) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() >= MAX_EXPECTED_ENDS {
            ended.pop_front();
        }
        ended.push_back(id.as_uuid());
    }

    fn clocks(&self) -> std::sync::MutexGuard<'_, Clocks> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once that the server is away, and once that it is back. What went well without asking it anything is no sign of
    /// it. No error of the API ends a worker.
    fn note<T, E: Complaint>(&self, outcome: &Result<T, E>) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(_) => {
                if complained
                    .take_if(|(_, answers)| *answers < self.client.answers())
                    .is_some()
                {
                    info!(address = self.client.address(), "Prefect's API answers again.");
                }
            }
            Err(error) => {
                let code = error.code();
                if complained.replace((code, self.client.answers())).map(|(code, _)| code) != Some(code) {
                    warn!(code, "{}", error.line());
                }
            }
        }
    }
}

/// An end that is being told, until this is dropped.
struct Finishing<'a>(&'a AtomicU32);

impl<'a> Finishing<'a> {
    fn begin(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Finishing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

trait Complaint {
    fn code(&self) -> &'static str;
    fn line(&self) -> String;
}

impl Complaint for OrchestratorError {
    fn code(&self) -> &'static str {
        Self::code(self)
    }
    fn line(&self) -> String {
        self.to_line()
    }
}

impl Complaint for PrefectError {
    fn code(&self) -> &'static str {
        Self::code(self)
    }
    fn line(&self) -> String {
        self.to_string()
    }
}

#[async_trait]
impl Queue for PrefectOrchestrator {
    async fn create_flow_run(&self, new: NewFlowRun, intent: Arc<Intent>) -> Result<QueuedFlowRun, OrchestratorError> {
        let queued = self.inner.create(new, &intent).await?;
        self.inner.changed();
        self.inner.want_poll();
        Ok(queued)
    }

    async fn read_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        self.inner.read(id).await
    }

    async fn read_flow_run_details(&self, id: FlowRunId) -> Result<FlowRunDetails, OrchestratorError> {
        self.flush(id).await;
        self.inner.details(id).await
    }

    async fn list_flow_runs(&self, filter: FlowRunFilter) -> Result<Vec<FlowRun>, OrchestratorError> {
        self.inner.list(&filter).await
    }

    async fn read_logs(&self, id: FlowRunId, cursor: i64) -> Result<(Vec<LogLine>, i64), OrchestratorError> {
        self.flush(id).await;
        self.inner.logs(id, cursor).await
    }

    async fn read_events(&self, id: FlowRunId, cursor: EventCursor) -> Result<EventPage, OrchestratorError> {
        self.flush(id).await;
        self.inner.events(id, cursor).await
    }

    async fn cancel_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        let run = self.inner.cancel(id).await?;
        self.inner.changed();
        Ok(run)
    }

    async fn retry_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        let run = self.inner.retry(id).await?;
        self.inner.changed();
        self.inner.want_poll();
        Ok(run)
    }

    async fn read_lineage(&self) -> Result<AssetLineage, OrchestratorError> {
        self.inner.journal.read_lineage().await
    }

    async fn read_work_pool(&self) -> Result<WorkPool, OrchestratorError> {
        self.inner.work_pool().await
    }

    async fn set_paused(&self, is_paused: bool) -> Result<(), OrchestratorError> {
        self.inner.set_paused(is_paused).await?;
        self.inner.want_poll();
        Ok(())
    }

    /// Counts the changes of this process and those of the journal, and a second at a time, since nothing tells of
    /// the changes that others make at the server.
    async fn change_counter(&self) -> Result<i64, OrchestratorError> {
        let seconds = i64::try_from(self.inner.started.elapsed().as_secs()).unwrap_or(i64::MAX);
        let own = self.inner.changes.load(Ordering::Relaxed);
        let journal = self.inner.journal.change_counter().await?;
        Ok(journal
            .wrapping_add(own.wrapping_mul(1 << 20))
            .wrapping_add(seconds.wrapping_mul(1 << 30)))
    }

    /// A server is asked every few seconds; what this machine knows better is asked for at once.
    async fn news_counter(&self, id: FlowRunId) -> Result<i64, OrchestratorError> {
        let interval = if self.inner.settings().is_cloud {
            CLOUD_NEWS_INTERVAL
        } else {
            NEWS_INTERVAL
        };
        let turns = self.inner.started.elapsed().as_millis() / interval.as_millis();
        let told = self.inner.journal.told_counter(id).await?;
        Ok(told.wrapping_add(i64::try_from(turns).unwrap_or(i64::MAX).wrapping_mul(1 << 40)))
    }

    fn description(&self) -> String {
        format!("Prefect ({})", self.inner.client.address())
    }
}

#[async_trait]
impl Claims for PrefectOrchestrator {
    async fn register_worker(&self, worker: WorkerRecord, limit: Option<u32>) -> Result<(), OrchestratorError> {
        let name = worker.name.clone();
        self.inner.is_worker.store(true, Ordering::Relaxed);
        self.inner.journal.register_worker(worker, limit).await?;
        self.inner.wait_for_server(limit).await?;
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.is_empty() {
            tasks.push(tokio::spawn(background::run(self.inner.clone(), name)).abort_handle());
            #[cfg(feature = "worker")]
            tasks.push(tokio::spawn(listening::run(self.inner.clone())).abort_handle());
        }
        Ok(())
    }

    async fn deregister_worker(&self, name: &str) -> Result<(), OrchestratorError> {
        self.inner.journal.deregister_worker(name).await?;
        let settings = self.inner.settings();
        let workers = self.inner.journal.read_work_pool().await?.workers;
        // The server knows workers by their names alone: it has one record for all that share one.
        let is_shared = workers.iter().any(|other| other.is_alive && other.name == name);
        if !settings.runner_mode && !is_shared {
            // It is shown as offline after a while all the same.
            let _ = self.inner.client.delete_worker(&settings.work_pool, name).await;
        }
        if self.inner.is_worker.load(Ordering::Relaxed) {
            let told = self.inner.forward_all(FINISH_PATIENCE).await;
            self.inner.note(&told);
        }
        Ok(())
    }

    async fn claim(
        &self,
        worker_name: &str,
        flow_names: BTreeSet<String>,
    ) -> Result<Option<Claimed>, OrchestratorError> {
        self.inner.is_worker.store(true, Ordering::Relaxed);
        self.inner.claim(worker_name, &flow_names).await
    }

    #[cfg(feature = "worker")]
    async fn foreign_started(&self, id: FlowRunId, process: ProcessIdentity) -> Result<(), OrchestratorError> {
        self.inner.foreign_started(id, &process).await
    }

    #[cfg(feature = "worker")]
    async fn announce_cancellation(&self, id: FlowRunId) {
        self.inner.announce_cancellation(id).await;
    }

    #[cfg(feature = "worker")]
    async fn foreign_ended(&self, id: FlowRunId, ending: ForeignEnding) -> Result<ForeignEnd, OrchestratorError> {
        self.inner.foreign_ended(id, ending).await
    }

    async fn next_due(&self, flow_names: BTreeSet<String>) -> Result<Option<Timestamp>, OrchestratorError> {
        let due = self.inner.journal.next_due(flow_names).await?;
        let mut clocks = self.inner.clocks();
        clocks.due = due;
        Ok(due.into_iter().chain(clocks.offered).min())
    }

    async fn start(&self, lease: Lease, process: ProcessIdentity) -> Result<(), OrchestratorError> {
        self.inner.journal.start(lease, process).await?;
        let told = self
            .inner
            .deliver(lease.flow_run_id, delivery::Scope::States, START_PATIENCE)
            .await;
        self.inner.note(&told);
        Ok(())
    }

    async fn record(&self, lease: Lease, records: Vec<Record>) -> Result<(), OrchestratorError> {
        self.inner.journal.record(lease, records).await
    }

    fn attempt_lock(&self, lease: Lease) -> PathBuf {
        self.inner.journal.attempt_lock(lease)
    }

    async fn may_commit(&self, lease: Lease) -> Result<bool, OrchestratorError> {
        if self.inner.journal.may_commit(lease).await? {
            self.inner.check_own_runs(&[lease.flow_run_id]).await;
        }
        self.inner.journal.may_commit(lease).await
    }

    async fn finish(&self, lease: Lease, ending: Ending) -> Result<FlowRun, OrchestratorError> {
        let finishing = Finishing::begin(&self.inner.finishing);
        let run = self.inner.journal.finish(lease, ending).await?;
        if run.state.state_type.is_final() {
            self.inner.expect_end(run.flow_run_id);
        }
        let told = self
            .inner
            .deliver(lease.flow_run_id, delivery::Scope::Everything, FINISH_PATIENCE)
            .await;
        self.inner.note(&told);
        drop(finishing);
        // A slot is free.
        self.inner.changed();
        self.inner.want_poll();
        Ok(run)
    }

    async fn cancellations(&self, ids: Vec<FlowRunId>) -> Result<Vec<(FlowRunId, String)>, OrchestratorError> {
        self.inner.check_if_due(&ids).await;
        let mut cancelled = self.inner.foreign_cancellations(&ids);
        cancelled.extend(self.inner.journal.cancellations(ids).await?);
        Ok(cancelled)
    }

    async fn orphaned_runs(&self) -> Result<Vec<OrphanedRun>, OrchestratorError> {
        self.inner.journal.orphaned_runs().await
    }

    async fn status_rows_due(&self) -> Result<Vec<StatusRowDue>, OrchestratorError> {
        self.inner.journal.status_rows_due().await
    }

    async fn status_row_is_due(&self, id: FlowRunId, state_sequence: i64) -> Result<bool, OrchestratorError> {
        self.inner.journal.status_row_is_due(id, state_sequence).await
    }

    async fn status_row_written(&self, id: FlowRunId, state_sequence: i64) -> Result<(), OrchestratorError> {
        self.inner.journal.status_row_written(id, state_sequence).await
    }

    async fn apply_retention(&self, ended_before: Timestamp) -> Result<u64, OrchestratorError> {
        self.inner.journal.apply_retention(ended_before).await
    }

    async fn wait_for_work(&self, timeout: Duration) {
        tokio::select! {
            heard = self.inner.journal.heard(timeout) => {
                if heard && self.inner.finishing.load(Ordering::Relaxed) == 0 {
                    self.inner.poll_wanted.store(true, Ordering::Relaxed);
                }
            }
            () = self.inner.wake.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use serde_json::Value;

    use super::client::Call;
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_went_well_without_the_api_does_not_say_that_it_answers_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let settings = PrefectSettings::new(&format!("http://{address}/api"), "test").expect("an address");
        let orchestrator = PrefectOrchestrator::open(settings, folder.path(), Flows::builtin())
            .await
            .expect("a journal");
        let inner = &orchestrator.inner;
        let is_away = || inner.complained.lock().expect("whole").is_some();
        let ask = async || inner.client.call::<Value>(Call::get("/health")).await;

        drop(listener);
        inner.note(&ask().await);
        assert!(is_away());
        // As a delivery of nothing does.
        inner.note(&Ok::<(), OrchestratorError>(()));
        assert!(is_away(), "nobody has asked it since");

        let listener = TcpListener::bind(address).expect("the port again");
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("a call");
            let _ = connection.read(&mut [0; 4096]).expect("its text");
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ntrue";
            connection.write_all(answer.as_bytes()).expect("answered");
        });
        inner.note(&ask().await);
        assert!(!is_away());
        server.join().expect("it answered");
    }
}
