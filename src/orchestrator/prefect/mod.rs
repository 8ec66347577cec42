//! The Prefect orchestrator: flow runs in a Prefect 3 server or Prefect Cloud.
//!
//! Theory of operation. The callers' half asks the API. The workers' half writes everything to a journal first, a
//! queue.db of this machine and of this one server (`CAPTIONACC_HOME/prefect/…`), exactly as the embedded orchestrator
//! does: leases, fencing, recovery, status rows and lineage work with the server away. What the server must hear is put
//! into the journal's outbox by the same transaction and told from there, states before everything else, by the process
//! that has the run or by the next one after its death. One queue.db a server, so that a run of one can never be
//! claimed from, or told to, another.

pub mod api;
pub mod automation;
#[cfg(feature = "worker")]
pub mod check;
pub mod client;
pub mod model;
pub mod parameter_schema;

mod calling;
#[cfg_attr(
    not(feature = "worker"),
    allow(dead_code, reason = "an application works on no runs")
)]
mod conversion;
mod elsewhere;
mod feed;
mod introductions;
#[cfg_attr(
    not(feature = "worker"),
    allow(dead_code, reason = "an application works on no runs")
)]
mod journal;
mod known_here;
mod limit;
mod lineage;
#[cfg_attr(
    not(feature = "worker"),
    allow(dead_code, reason = "an application works on no runs")
)]
mod lost;
#[cfg(feature = "worker")]
pub mod lowering;
#[cfg_attr(
    not(feature = "worker"),
    allow(dead_code, reason = "an application works on no runs")
)]
mod made;
#[cfg_attr(
    not(feature = "worker"),
    allow(dead_code, reason = "an application works on no runs")
)]
mod names;
mod segment;
#[cfg_attr(
    not(feature = "worker"),
    allow(dead_code, reason = "an application works on no runs")
)]
mod server;
#[cfg_attr(not(feature = "worker"), allow(dead_code, reason = "an application notifies nobody"))]
mod states;
mod steering;
mod stranded;
mod turns;

#[cfg(feature = "worker")]
mod arrivals;
#[cfg(feature = "worker")]
mod control;
#[cfg(feature = "worker")]
mod courier;
#[cfg(feature = "worker")]
mod events;
#[cfg(feature = "worker")]
mod fence;
#[cfg(feature = "worker")]
mod foreign;
#[cfg(feature = "worker")]
mod handover;
#[cfg(feature = "worker")]
mod heartbeat;
#[cfg(feature = "worker")]
mod hints;
#[cfg(feature = "worker")]
mod housekeeping;
#[cfg(feature = "worker")]
mod left_behind;
#[cfg(feature = "worker")]
mod listener;
#[cfg(feature = "worker")]
mod notifications;
#[cfg(feature = "worker")]
mod owed;
#[cfg(feature = "worker")]
mod poller;
#[cfg(feature = "worker")]
mod program;
#[cfg(feature = "worker")]
mod proposals;
#[cfg(feature = "worker")]
mod rescue;
#[cfg(feature = "worker")]
mod rounds;
#[cfg(feature = "worker")]
mod stopping;
#[cfg(feature = "worker")]
mod voices;
#[cfg(feature = "worker")]
mod working;

#[cfg(feature = "worker")]
use std::collections::BTreeSet;
use std::path::Path;
#[cfg(feature = "worker")]
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
#[cfg(feature = "worker")]
use std::time::Duration;
use std::time::Instant;

use async_trait::async_trait;
#[cfg(feature = "worker")]
use jiff::Timestamp;

use super::attention::Attention;
use super::delivery::Delivery;
use super::events::EventPage;
use super::feed::{FeedCursor, FeedPage};
use super::here::KnownHere;
use crate::domain::asset::AssetLineage;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::Flows;
use crate::domain::flow_run::{EventCursor, FlowRun, FlowRunDetails, LogLine, Progress};
use crate::domain::id::FlowRunId;
#[cfg(feature = "worker")]
use crate::domain::lease::Lease;
#[cfg(feature = "worker")]
use crate::domain::state::StateType;
#[cfg(feature = "worker")]
use crate::orchestrator::claims::{
    Claim, Claimed, Claims, Ending, ForeignEnd, ForeignEnding, OrphanedRun, PoolLimits, Record, StatusRowDue,
};
#[cfg(feature = "worker")]
use crate::orchestrator::notifications::{Due, Notifications};
#[cfg(feature = "worker")]
use crate::orchestrator::queue::WorkerRecord;
use crate::orchestrator::queue::{FlowRunFilter, Intent, NewFlowRun, Queue, QueuedFlowRun, WorkPool};
#[cfg(feature = "worker")]
use crate::process::identity::ProcessIdentity;
use crate::settings::prefect::PrefectSettings;
use calling::Caller;
use client::PrefectClient;
#[cfg(feature = "worker")]
use courier::Scope;
use feed::Feed;
#[cfg(feature = "worker")]
use introductions::Introduction;
use journal::Journal;
pub use journal::place::journal_home;
use known_here::known_here;
use lineage::Lineage;
#[cfg(feature = "worker")]
use owed::Owed;
use server::Server;
#[cfg(feature = "worker")]
use working::Working;

/// How long a state is told before its teller goes on and leaves it to the outbox.
#[cfg(feature = "worker")]
const START_PATIENCE: Duration = Duration::from_secs(3);
#[cfg(feature = "worker")]
const FINISH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a reader waits for what this process has not told yet.
#[cfg(feature = "worker")]
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// The orchestrator over a Prefect API.
pub struct PrefectOrchestrator {
    server: Arc<Server>,
    journal: Journal,
    caller: Arc<Caller>,
    feed: Feed,
    lineage: Lineage,
    #[cfg(feature = "worker")]
    notifications: notifications::Notifications,
    #[cfg(feature = "worker")]
    working: Working,
    changes: AtomicI64,
    started: Instant,
}

impl PrefectOrchestrator {
    /// Opens the journal for this server below `home`. The server itself is not asked anything yet.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] for settings that make no client, and the `Store…` errors.
    pub async fn open(settings: PrefectSettings, home: &Path, flows: Flows) -> Result<Self, OrchestratorError> {
        let journal = Journal::open(home, &settings).await?;
        let folder = journal_home(home, &settings);
        let client = PrefectClient::new(settings)?.taking_turns_in(&folder);
        let server = Arc::new(Server::new(client, flows));
        let caller = Arc::new(Caller::new(server.clone(), journal.clone()));
        Ok(Self {
            #[cfg(feature = "worker")]
            working: Working::new(&server, &journal, &caller),
            feed: Feed::new(server.clone(), journal.clone()),
            lineage: Lineage::new(server.clone(), journal.clone()),
            #[cfg(feature = "worker")]
            notifications: notifications::Notifications::new(server.clone(), journal.clone()),
            server,
            journal,
            caller,
            changes: AtomicI64::new(0),
            started: Instant::now(),
        })
    }

    /// The client, for what is not an orchestrator's business.
    pub fn client(&self) -> &PrefectClient {
        self.server.client()
    }

    /// Counts how often the server may be asked for news.
    fn turns(&self) -> i64 {
        let interval = states::news_interval(self.server.settings());
        i64::try_from(self.started.elapsed().as_millis() / interval.as_millis()).unwrap_or(i64::MAX)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A worker of this process looks for runs.
    #[cfg_attr(
        not(feature = "worker"),
        expect(clippy::unused_self, reason = "an application works on no runs")
    )]
    fn want_poll(&self) {
        #[cfg(feature = "worker")]
        self.working.hints.want_poll();
    }

    /// What this process has not told yet of a run is told, so that it can be read.
    #[cfg_attr(
        not(feature = "worker"),
        expect(clippy::unused_async, reason = "an application works on no runs")
    )]
    async fn flush(&self, id: FlowRunId) {
        #[cfg(feature = "worker")]
        if self.working.is_at_work() {
            self.working.tell(id, Scope::Everything, READ_PATIENCE).await;
            let shown = self.working.courier.tell_progress().await;
            self.server.note(&shown);
        }
        #[cfg(not(feature = "worker"))]
        let _ = id;
    }
}

#[cfg(feature = "worker")]
impl PrefectOrchestrator {
    /// Forwards runs and tells what the outbox holds once, now; what a worker does all the time.
    ///
    /// # Errors
    /// What kept it from being told.
    pub async fn forward(&self) -> Result<(), OrchestratorError> {
        self.working.housekeeping.forward_all(FINISH_PATIENCE).await
    }

    /// Takes over a run that is PENDING because the worker that started this process claimed it. From then on this
    /// process tells the server what becomes of it. `None`: it was not to be run now, and that was told.
    ///
    /// # Errors
    /// [`OrchestratorError::FlowRunNotFound`], [`OrchestratorError::InvalidState`] for a run that is not PENDING,
    /// [`OrchestratorError::UnknownFlow`] for one of a flow that is not known here.
    pub async fn take_over(&self, id: FlowRunId, worker_name: &str) -> Result<Option<Claim>, OrchestratorError> {
        let claim = handover::take_over(&self.server, &self.journal, &self.working.poller, id, worker_name).await?;
        if claim.is_some() {
            self.working.begin_work();
            self.working.keep_house(worker_name, None);
        }
        Ok(claim)
    }

    /// The ending with the retries that whoever made the run has asked for, in place of its flow's.
    async fn retried_as_asked(&self, lease: Lease, ending: Ending) -> Result<Ending, OrchestratorError> {
        let Ending::Failed {
            state,
            message,
            retry_after,
        } = ending
        else {
            return Ok(ending);
        };
        let run = self.journal.forwarding.run(lease.flow_run_id).await?;
        let asked = run.and_then(|run| Some((run.context.retries?, run.flow_run.failed_attempts)));
        let retry_after = match asked {
            // As the server itself would: after a failure of whatever kind, and after no crash.
            Some((asked, failed_attempts)) if state.state_type() == StateType::Failed => {
                let delay = Duration::from_secs(u64::from(asked.delay_s));
                (failed_attempts < asked.retries).then_some(delay)
            }
            _ => retry_after,
        };
        Ok(Ending::Failed {
            state,
            message,
            retry_after,
        })
    }

    /// Gives back a run that was not begun, to be offered again after some seconds.
    ///
    /// # Errors
    /// What kept the server from hearing it.
    pub async fn give_back(&self, id: FlowRunId, message: &str) -> Result<(), OrchestratorError> {
        proposals::give_back(self.server.client(), id, message, proposals::GIVEN_BACK).await
    }
}

#[async_trait]
impl Queue for PrefectOrchestrator {
    async fn create_flow_run(&self, new: NewFlowRun, intent: Arc<Intent>) -> Result<QueuedFlowRun, OrchestratorError> {
        let queued = self.caller.create(new, &intent).await?;
        self.changed();
        self.want_poll();
        Ok(queued)
    }

    async fn read_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        self.caller.read(id).await
    }

    async fn read_flow_run_details(&self, id: FlowRunId) -> Result<FlowRunDetails, OrchestratorError> {
        self.flush(id).await;
        self.caller.details(id).await
    }

    async fn list_flow_runs(&self, filter: FlowRunFilter) -> Result<Vec<FlowRun>, OrchestratorError> {
        self.caller.list(&filter).await
    }

    async fn read_progress(&self) -> Result<Vec<(FlowRunId, Progress)>, OrchestratorError> {
        self.caller.progress().await
    }

    async fn read_logs(&self, id: FlowRunId, cursor: i64) -> Result<(Vec<LogLine>, i64), OrchestratorError> {
        self.flush(id).await;
        self.caller.logs(id, cursor).await
    }

    async fn read_events(&self, id: FlowRunId, cursor: EventCursor) -> Result<EventPage, OrchestratorError> {
        self.flush(id).await;
        self.caller.events(id, cursor).await
    }

    async fn read_feed(&self, after: Option<&FeedCursor>) -> Result<FeedPage, OrchestratorError> {
        self.feed.read(after).await
    }

    async fn cancel_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        let run = self.caller.cancel(id).await?;
        self.changed();
        Ok(run)
    }

    async fn retry_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError> {
        let run = self.caller.retry(id).await?;
        self.changed();
        self.want_poll();
        Ok(run)
    }

    async fn take_over_flow_run(&self, id: FlowRunId, is_forced: bool) -> Result<FlowRun, OrchestratorError> {
        let run = self.caller.take_over(id, is_forced).await?;
        self.changed();
        self.want_poll();
        Ok(run)
    }

    async fn read_attention(&self) -> Result<Attention, OrchestratorError> {
        self.caller.attention().await
    }

    /// An outage is older than this process's own calls, if a worker of this machine has seen it begin.
    async fn read_delivery(&self) -> Result<Option<Delivery>, OrchestratorError> {
        let mut delivery = self.journal.mail.read_delivery().await?;
        let own = self.client().away_since();
        delivery.away_since = own.map(|own| delivery.away_since.map_or(own, |seen| seen.min(own)));
        delivery.failed_calls = self.client().failed_calls();
        Ok(Some(delivery))
    }

    async fn read_known_here(&self) -> Result<Option<KnownHere>, OrchestratorError> {
        let delivery = self.read_delivery().await?.unwrap_or_default();
        known_here(&self.journal, delivery).await.map(Some)
    }

    async fn read_lineage(&self) -> Result<AssetLineage, OrchestratorError> {
        self.lineage.read().await
    }

    async fn read_work_pool(&self) -> Result<WorkPool, OrchestratorError> {
        self.caller.work_pool().await
    }

    async fn set_paused(&self, is_paused: bool) -> Result<(), OrchestratorError> {
        self.caller.set_paused(is_paused).await?;
        #[cfg(feature = "worker")]
        self.working.hints.want_check();
        self.want_poll();
        Ok(())
    }

    async fn set_concurrency_limit(&self, limit: u32) -> Result<(), OrchestratorError> {
        self.caller.set_concurrency_limit(limit).await?;
        self.want_poll();
        Ok(())
    }

    /// Counts the changes of this process and those of the journal, and a second at a time, since nothing tells of
    /// the changes that others make at the server.
    async fn change_counter(&self) -> Result<i64, OrchestratorError> {
        let seconds = i64::try_from(self.started.elapsed().as_secs()).unwrap_or(i64::MAX);
        let own = self.changes.load(Ordering::Relaxed);
        let journal = self.journal.local.change_counter().await?;
        Ok(journal
            .wrapping_add(own.wrapping_mul(1 << 20))
            .wrapping_add(seconds.wrapping_mul(1 << 30)))
    }

    /// A server is asked every few seconds; what this machine knows better is asked for at once.
    async fn news_counter(&self, id: FlowRunId) -> Result<i64, OrchestratorError> {
        let told = self.journal.forwarding.told_counter(id).await?;
        Ok(told.wrapping_add(self.turns().wrapping_mul(1 << 40)))
    }

    async fn feed_counter(&self) -> Result<i64, OrchestratorError> {
        let journal = self.journal.local.change_counter().await?;
        Ok(journal.wrapping_add(self.turns().wrapping_mul(1 << 20)))
    }

    fn description(&self) -> String {
        format!("Prefect ({})", self.client().address())
    }
}

/// Of all runs; see `notifications.rs`.
#[cfg(feature = "worker")]
#[async_trait]
impl Notifications for PrefectOrchestrator {
    async fn notifications_due(&self, receiver: &str) -> Result<Due, OrchestratorError> {
        self.notifications.due(receiver).await
    }

    async fn notified(&self, receiver: &str, position: i64, problem: Option<String>) -> Result<(), OrchestratorError> {
        self.notifications.notified(receiver, position, problem).await
    }

    async fn not_notified(&self, receiver: &str, problem: String, wait: Duration) -> Result<(), OrchestratorError> {
        self.journal.local.not_notified(receiver, problem, wait).await
    }

    fn notifications_lock(&self, receiver: &str) -> PathBuf {
        self.journal.local.notifications_lock(receiver)
    }
}

#[cfg(feature = "worker")]
#[async_trait]
impl Claims for PrefectOrchestrator {
    async fn register_worker(&self, worker: WorkerRecord, limits: PoolLimits) -> Result<(), OrchestratorError> {
        let name = worker.name.clone();
        let introduction = Introduction {
            name: name.clone(),
            version: worker.version.clone(),
            started_at: worker.started_at,
            flows: self.server.flows().iter().map(|flow| flow.name.clone()).collect(),
        };
        self.working.begin_work();
        let known = self.journal.local.read_work_pool().await?.workers;
        let is_known_here = known.iter().any(|known| known.name == name);
        self.journal.local.register_worker(worker, limits).await?;
        self.working.wait_for_server(limits.all).await?;
        if !is_known_here {
            self.working.warn_of_namesake(&name).await;
        }
        if !self.working.is_started() {
            self.working.keep_house(&name, Some(introduction));
            self.working.watch_over_others();
            self.working.listen();
        }
        Ok(())
    }

    async fn deregister_worker(&self, name: &str) -> Result<(), OrchestratorError> {
        self.journal.local.deregister_worker(name).await?;
        let settings = self.server.settings();
        let workers = self.journal.local.read_work_pool().await?.workers;
        // The server knows workers by their names alone: it has one record for all that share one.
        let is_shared = workers.iter().any(|other| other.is_alive && other.name == name);
        if !settings.runner_mode && !is_shared {
            // It is shown as offline after a while all the same.
            let _ = self.client().delete_worker(&settings.work_pool, name).await;
        }
        if self.working.is_at_work() {
            let told = self.forward().await;
            self.server.note(&told);
        }
        Ok(())
    }

    async fn claim(
        &self,
        worker_name: &str,
        flow_names: BTreeSet<String>,
    ) -> Result<Option<Claimed>, OrchestratorError> {
        self.working.begin_work();
        self.working.poller.claim(worker_name, &flow_names).await
    }

    async fn foreign_started(&self, id: FlowRunId, process: ProcessIdentity) -> Result<(), OrchestratorError> {
        self.working.foreign.started(id, &process).await
    }

    async fn announce_cancellation(&self, id: FlowRunId) {
        self.working.foreign.announce_cancellation(id).await;
    }

    async fn foreign_ended(&self, id: FlowRunId, ending: ForeignEnding) -> Result<ForeignEnd, OrchestratorError> {
        self.working.foreign.ended(id, ending).await
    }

    async fn next_due(&self, flow_names: BTreeSet<String>) -> Result<Option<Timestamp>, OrchestratorError> {
        self.working.poller.next_due(flow_names).await
    }

    async fn start(&self, lease: Lease, process: ProcessIdentity) -> Result<(), OrchestratorError> {
        self.journal.local.start(lease, process).await?;
        let id = lease.flow_run_id;
        self.working.tell(id, Scope::States, START_PATIENCE).await;
        Ok(())
    }

    async fn record(&self, lease: Lease, records: Vec<Record>) -> Result<(), OrchestratorError> {
        self.journal.local.record(lease, records).await
    }

    fn attempt_lock(&self, lease: Lease) -> PathBuf {
        self.journal.local.attempt_lock(lease)
    }

    async fn may_commit(&self, lease: Lease) -> Result<bool, OrchestratorError> {
        if self.journal.local.may_commit(lease).await? {
            self.working.poller.confirm_before_commit(lease.flow_run_id).await;
        }
        self.journal.local.may_commit(lease).await
    }

    /// Newer runs that wait at the server are not known here: the caption's row in annotations.db tells of those.
    async fn caption_is_taken(&self, lease: Lease, caption_id: i64) -> Result<bool, OrchestratorError> {
        self.journal.local.caption_is_taken(lease, caption_id).await
    }

    async fn finish(&self, lease: Lease, ending: Ending) -> Result<FlowRun, OrchestratorError> {
        let finishing = self.working.hints.finishing();
        let ending = self.retried_as_asked(lease, ending).await?;
        let run = self.journal.local.finish(lease, ending).await?;
        let id = run.flow_run_id;
        if run.state.state_type.is_final() {
            self.working.ends.expect(id);
        }
        self.working.tell(id, Scope::Everything, FINISH_PATIENCE).await;
        drop(finishing);
        // A slot is free.
        self.changed();
        self.want_poll();
        Ok(run)
    }

    async fn cancellations(&self, ids: Vec<FlowRunId>) -> Result<Vec<(FlowRunId, String)>, OrchestratorError> {
        self.working.poller.check_if_due(&ids).await;
        let mut cancelled = self.working.foreign.cancellations(&ids);
        cancelled.extend(self.journal.local.cancellations(ids).await?);
        Ok(cancelled)
    }

    async fn orphaned_runs(&self) -> Result<Vec<OrphanedRun>, OrchestratorError> {
        self.journal.local.orphaned_runs().await
    }

    /// This home's, and those that lost machines owe.
    async fn status_rows_due(&self) -> Result<Vec<StatusRowDue>, OrchestratorError> {
        let mut due = self.journal.local.status_rows_due().await?;
        due.extend(self.working.owed.due());
        Ok(due)
    }

    async fn status_row_is_due(&self, id: FlowRunId, state_sequence: i64) -> Result<bool, OrchestratorError> {
        if Owed::is_meant(state_sequence) {
            return self.working.owed.is_due(id).await;
        }
        if !self.journal.local.status_row_is_due(id, state_sequence).await? {
            return Ok(false);
        }
        // What can not be asked now is as this home knows it.
        let asked = tokio::time::timeout(READ_PATIENCE, self.working.owed.has_passed_on(id)).await;
        let has_passed_on = matches!(asked, Ok(Ok(true)));
        // Once more, and last: its answer is from here, and the newest.
        Ok(!has_passed_on && self.journal.local.status_row_is_due(id, state_sequence).await?)
    }

    async fn status_row_written(&self, id: FlowRunId, state_sequence: i64) -> Result<(), OrchestratorError> {
        if Owed::is_meant(state_sequence) {
            self.working.owed.settle(id);
            return Ok(());
        }
        self.journal.local.status_row_written(id, state_sequence).await
    }

    async fn apply_retention(&self, ended_before: Timestamp) -> Result<u64, OrchestratorError> {
        let forgotten = self.journal.local.apply_retention(ended_before).await?;
        Ok(forgotten + self.journal.kept.forget(ended_before).await?)
    }

    async fn wait_for_work(&self, timeout: Duration) {
        tokio::select! {
            heard = self.journal.local.heard(timeout) => {
                if heard {
                    self.working.hints.rang();
                }
            }
            () = self.working.hints.woken() => {}
        }
    }
}
