//! The worker: claims flow runs, at most the pool's limit at once, and runs each in a child process of its own.
//!
//! Theory of operation: one loop on one thread. It selects on signals, the bell of the queue, the ends of attempts
//! and a slow tick. Each turn claims what there is room for, passes on cancellations, takes back the runs of dead
//! workers and brings status rows up to date. The worker knows no pipeline: a child is this same executable.

pub mod attempt;
pub mod check;
pub mod console;
pub mod foreign;
mod hearing;
mod notify;
mod output;
mod scratch;
mod status_rows;
mod supervise;
mod trace;

use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{self, JoinHandle, JoinSet};
use tracing::{debug, error, info, warn};

use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::orchestrator::claims::{Claim, Claimed, Claims, Ending, ForeignClaim, OrphanedRun, PoolLimits};
use crate::orchestrator::queue::WorkerRecord;
use crate::process::identity::ProcessIdentity;
use crate::process::life::bury;
use crate::process::tree::{Handle, ancestors_up_to_npm, clear};
use crate::settings::Settings;
use crate::telemetry::Tracer;
use attempt::{Shared, Wish, abandon, supervise};
use console::Console;
use foreign::supervise_foreign;
use notify::Notifier;
use scratch::remove_scratch;
use status_rows::StatusRows;

/// The slow poll: what finds work when no bell was heard, dead workers and due status rows.
const TICK: Duration = Duration::from_secs(1);
/// How long the loop waits for a dead worker's processes to die: its signals and claims wait too. The next turn goes on.
const ORPHAN_DEATH_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the worker's end waits for a collector to take the last spans.
pub const LAST_SPANS_TIMEOUT: Duration = Duration::from_secs(2);
/// How often ended runs past their retention are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_hours(1);

/// How a worker is to run; what is `None` comes from the settings.
#[derive(Debug, Clone, Default)]
pub struct WorkerOptions {
    /// Sets the pool's limit.
    pub limit: Option<u32>,
    /// Log lines as JSON.
    pub json: bool,
    /// The worker's name; `HOST-PID` unless given, `HOST-NAMESPACE-PID` in a container.
    pub name: Option<String>,
    /// End once nothing waits and nothing runs.
    pub once: bool,
    /// How long running attempts may go on after the first signal.
    pub grace_ms: Option<u64>,
}

/// Runs a worker until it is told to stop. The exit code is 0 unless it could not start.
pub fn run(options: &WorkerOptions, mut settings: Settings) -> ExitCode {
    let console = Console::install(options.json);
    settings.limit = options.limit.or(settings.limit);
    settings.grace_ms = options.grace_ms.unwrap_or(settings.grace_ms);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Made when needed: those that wait for a lock or a dead disk must not hold up anybody's start or end.
        .max_blocking_threads(256)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "The worker could not start.");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(Worker::start(options, settings, console)) {
        Ok(Some((worker, signals))) => {
            runtime.block_on(worker.run(signals));
            ExitCode::SUCCESS
        }
        // Stopped before it could begin.
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            error!(code = error.code(), "The worker could not start: {}", error.to_line());
            ExitCode::FAILURE
        }
    };
    // Threads that wait for a dead disk would be waited for otherwise.
    runtime.shutdown_background();
    code
}

struct Worker {
    name: String,
    once: bool,
    shared: Arc<Shared>,
    flow_names: BTreeSet<String>,
    /// The attempts at work, by their task. Not by their run: the end of one attempt and the claim of the next one
    /// of the same run come in any order.
    running: HashMap<task::Id, Running>,
    attempts: JoinSet<()>,
    /// A claim that was asked for. A task of its own, so that a signal need not wait for a server's answer, and what the
    /// answer gives is not lost either.
    /// When it was asked for goes with it.
    claiming: Option<JoinHandle<(Timestamp, Claiming)>>,
    status_rows: StatusRows,
    ancestors: Vec<ProcessIdentity>,
    phase: Phase,
    retention_at: Option<Instant>,
    complained: Option<&'static str>,
    watchdog: Watchdog,
    notifier: Option<Notifier>,
}

/// What a claim comes to.
type Claiming = Result<Option<Claimed>, OrchestratorError>;

/// What systemd watches, if it has started this worker.
struct Watchdog {
    /// How often it is to hear of this worker: half of what it waits.
    interval: Option<Duration>,
    fed_at: Instant,
}

impl Watchdog {
    /// Says that the worker is there.
    fn begin() -> Self {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Self {
            interval: sd_notify::watchdog_enabled().map(|interval| interval / 2),
            fed_at: Instant::now(),
        }
    }

    fn feed(&mut self) {
        if self.interval.is_some_and(|interval| self.fed_at.elapsed() >= interval) {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            self.fed_at = Instant::now();
        }
    }
}

/// The signals that a worker answers.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, OrchestratorError> {
        let listen = |kind| {
            signal(kind).map_err(|error| OrchestratorError::Internal(format!("signals can not be received: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// An attempt at work.
struct Running {
    id: FlowRunId,
    /// None: a run of a deployment that is not ours.
    claim: Option<Claim>,
    wish: watch::Sender<Wish>,
}

/// What a turn leaves to be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// There may be more.
    Some,
    /// Nothing, or nothing that there is room for.
    None,
}

/// How far the worker's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Claims and runs.
    Working,
    /// Claims nothing; attempts may finish until then.
    Draining { until: Instant },
    /// Attempts are being stopped.
    Stopping,
}

impl Worker {
    async fn start(
        options: &WorkerOptions,
        settings: Settings,
        console: Console,
    ) -> Result<Option<(Self, Signals)>, OrchestratorError> {
        // Whoever reads that the worker has started may signal it, end its npm or queue a run at that moment.
        let mut signals = Signals::listen()?;
        let orchestrator = crate::orchestrator::open::claims(&settings).await?;
        let process = ProcessIdentity::own();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = options
            .name
            .clone()
            .unwrap_or_else(|| format!("{host}-{}", process.number()));
        let record = WorkerRecord {
            name: name.clone(),
            process,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Timestamp::now(),
            is_alive: true,
        };
        // Ready as far as systemd goes: what is queued waits for this worker from now on, also while an API is away.
        let mut watchdog = Watchdog::begin();
        let registered = register(
            orchestrator.as_ref(),
            record,
            PoolLimits {
                all: settings.limit,
                background: settings.background_limit,
            },
            &mut signals,
            &mut watchdog,
        )
        .await?;
        if !registered {
            return Ok(None);
        }
        forget_dead_workers(orchestrator.as_ref()).await?;
        let pool = orchestrator.read_work_pool().await?;
        let is_npm_script = std::env::var_os("npm_lifecycle_event").is_some();
        let ancestors = if is_npm_script {
            ancestors_up_to_npm()
        } else {
            Vec::new()
        };
        orchestrator.wait_for_work(Duration::ZERO).await;
        info!(
            version = env!("CARGO_PKG_VERSION"),
            name,
            orchestrator = orchestrator.description(),
            because = settings.orchestrator_reason,
            limit = pool.concurrency_limit,
            background_limit = pool.background_limit,
            waiting = pool.waiting.iter().map(|(_, count)| count).sum::<u32>(),
            config = settings
                .config_file
                .as_ref()
                .map_or("none".to_owned(), |path| path.display().to_string()),
            flows = settings
                .flows
                .iter()
                .map(|flow| flow.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
            "Worker started."
        );
        for warning in &settings.traces.warnings {
            warn!("{warning}");
        }
        if pool.is_paused {
            warn!("The work pool is paused: nothing is claimed until `captionacc pool resume`.");
        }
        let notifier = match &settings.notify {
            Some(notify) => Some(Notifier::begin(orchestrator.clone(), notify.clone()).await?),
            None => None,
        };
        let worker = Self {
            notifier,
            name,
            once: options.once,
            flow_names: settings.flows.iter().map(|flow| flow.name.clone()).collect(),
            status_rows: StatusRows::new(orchestrator.clone(), &settings.flows),
            shared: Arc::new(Shared {
                tracer: Tracer::begin(settings.traces.export.as_ref()),
                orchestrator,
                settings,
                console,
            }),
            running: HashMap::new(),
            attempts: JoinSet::new(),
            claiming: None,
            ancestors,
            phase: Phase::Working,
            retention_at: None,
            complained: None,
            watchdog,
        };
        Ok(Some((worker, signals)))
    }

    fn orchestrator(&self) -> &dyn Claims {
        self.shared.orchestrator.as_ref()
    }

    async fn run(mut self, mut signals: Signals) {
        loop {
            // A turn may be left at any of its awaits: the next one does what it did not.
            let turned = tokio::select! {
                biased;
                name = signals.next() => {
                    self.asked_to_stop(name);
                    continue;
                }
                turned = self.turn() => turned,
            };
            let wait = match turned {
                Ok(Some(wait)) => {
                    self.complained = None;
                    wait
                }
                Ok(None) => break,
                Err(error) => {
                    // Said once, not every second.
                    if self.complained.replace(error.code()) != Some(error.code()) {
                        warn!(
                            code = error.code(),
                            "The queue can not be used; trying again: {}",
                            error.to_line()
                        );
                    }
                    TICK
                }
            };
            self.watchdog.feed();
            if let Some(notifier) = &self.notifier {
                notifier.look();
            }
            let wait = self.watchdog.interval.map_or(wait, |interval| wait.min(interval));
            let orchestrator = self.shared.orchestrator.clone();
            tokio::select! {
                name = signals.next() => self.asked_to_stop(name),
                Some(ended) = self.attempts.join_next_with_id() => self.attempt_ended(ended),
                () = orchestrator.wait_for_work(wait) => {}
            }
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        // What just ended may still owe its status row.
        self.status_rows.write_all().await;
        if let Some(notifier) = self.notifier.take() {
            notifier.finish().await;
        }
        self.shared.tracer.flush(LAST_SPANS_TIMEOUT).await;
        if let Err(error) = self.orchestrator().deregister_worker(&self.name).await {
            warn!(error = error.to_line(), "The worker could not be withdrawn.");
        }
        info!("Worker stopped.");
    }

    /// One turn of the loop: how long to wait for the next, or `None` at the end.
    async fn turn(&mut self) -> Result<Option<Duration>, OrchestratorError> {
        self.watch_ancestors();
        self.pass_on_cancellations().await?;
        self.recover().await?;
        let mut wait = TICK;
        match self.phase {
            Phase::Working => {
                if self.claim().await? == Rest::Some {
                    wait = Duration::ZERO;
                }
                self.status_rows.write_some().await?;
                self.forget_old_runs().await?;
                let next_due = self.orchestrator().next_due(self.flow_names.clone()).await?;
                if let Some(due) = next_due {
                    let until_due = due.as_millisecond() - Timestamp::now().as_millisecond();
                    wait = wait.min(Duration::from_millis(u64::try_from(until_due).unwrap_or(0)));
                }
                if self.once && self.attempts.is_empty() && next_due.is_none() && self.nothing_waits().await? {
                    return Ok(None);
                }
            }
            Phase::Draining { until } => {
                self.take_late_claim().await?;
                if self.is_idle() {
                    return Ok(None);
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    info!(
                        running = self.attempts.len(),
                        "The grace is over: running attempts are given back."
                    );
                    self.wish_all(&Wish::GiveBack);
                    self.phase = Phase::Stopping;
                }
                wait = wait.min(left.max(Duration::from_millis(1)));
            }
            Phase::Stopping => {
                self.take_late_claim().await?;
                if self.is_idle() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(wait))
    }

    fn is_idle(&self) -> bool {
        self.attempts.is_empty() && self.claiming.is_none()
    }

    /// Claims what there is room for. The end of an attempt ends it: there may always be room again, and this turn has more to
    /// do, as the loop has.
    async fn claim(&mut self) -> Result<Rest, OrchestratorError> {
        loop {
            if self.claiming.is_none() {
                let (orchestrator, name) = (self.shared.orchestrator.clone(), self.name.clone());
                let flow_names = self.flow_names.clone();
                self.claiming = Some(task::spawn(async move {
                    let asked_at = Timestamp::now();
                    (asked_at, orchestrator.claim(&name, flow_names).await)
                }));
            }
            if !self.claimed().await? {
                return Ok(Rest::None);
            }
            if let Some(ended) = self.attempts.try_join_next_with_id() {
                self.attempt_ended(ended);
                return Ok(Rest::Some);
            }
        }
    }

    /// What was asked for before the worker was told to stop may still be given: it goes back.
    async fn take_late_claim(&mut self) -> Result<(), OrchestratorError> {
        match tokio::time::timeout(TICK, self.claimed()).await {
            Ok(claimed) => claimed.map(|_| ()),
            // The next turn looks again.
            Err(_) => Ok(()),
        }
    }

    /// Waits for the claim that was asked for, if one was, and begins what it gave: whether that was anything.
    async fn claimed(&mut self) -> Result<bool, OrchestratorError> {
        let Some(claiming) = &mut self.claiming else {
            return Ok(false);
        };
        let claimed = claiming.await;
        self.claiming = None;
        let (asked_at, claimed) = claimed.map_err(|error| OrchestratorError::Internal(format!("claiming: {error}")))?;
        match claimed? {
            Some(Claimed::Own(claim)) => self.begin(*claim, asked_at),
            Some(Claimed::Foreign(claim)) => self.begin_foreign(*claim, asked_at),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// What is wished of an attempt that begins now.
    fn first_wish(&self) -> (watch::Sender<Wish>, watch::Receiver<Wish>) {
        let (wish, receiver) = watch::channel(Wish::Run);
        if self.phase != Phase::Working {
            // A change, which the attempt sees as such.
            wish.send_replace(Wish::GiveBack);
        }
        (wish, receiver)
    }

    fn begin(&mut self, claim: Claim, asked_at: Timestamp) {
        let (wish, receiver) = self.first_wish();
        let attempt = supervise(self.shared.clone(), claim.clone(), asked_at, receiver);
        let task = self.attempts.spawn(async {
            attempt.await;
        });
        let running = Running {
            id: claim.lease.flow_run_id,
            claim: Some(claim),
            wish,
        };
        self.running.insert(task.id(), running);
    }

    fn begin_foreign(&mut self, mut claim: ForeignClaim, asked_at: Timestamp) {
        let span = trace::begin_foreign(&self.shared.tracer, &mut claim, asked_at);
        let id = claim.flow_run_id;
        let (wish, receiver) = self.first_wish();
        let shared = self.shared.clone();
        let task = self.attempts.spawn(async move {
            let grace = Duration::from_millis(shared.settings.kill_grace_ms);
            let end = supervise_foreign(shared.orchestrator.as_ref(), &claim, grace, receiver).await;
            trace::end_foreign(span, &end);
            match end {
                Ok(end) => {
                    info!(flow_run_id = %id, ?end, "A run of a deployment that is not this program's has ended.");
                }
                Err(error) => warn!(flow_run_id = %id, error = error.to_line(), "A slot could not be given back."),
            }
        });
        self.running.insert(task.id(), Running { id, claim: None, wish });
    }

    async fn nothing_waits(&self) -> Result<bool, OrchestratorError> {
        let pool = self.orchestrator().read_work_pool().await?;
        Ok(pool.is_paused || pool.waiting.iter().all(|(_, count)| *count == 0))
    }

    fn attempt_ended(&mut self, ended: Result<(task::Id, ()), task::JoinError>) {
        let task = ended.as_ref().map_or_else(task::JoinError::id, |(task, ())| *task);
        let running = self.running.remove(&task);
        if let (Err(error), Some(Running { id, claim, .. })) = (ended, running) {
            error!(%error, flow_run_id = %id, "Supervising an attempt failed: a fault of this program.");
            // This process lives, so nobody else will take the run back.
            if let Some(claim) = claim {
                self.attempts.spawn(abandon(self.shared.clone(), claim));
            }
        }
    }

    async fn pass_on_cancellations(&self) -> Result<(), OrchestratorError> {
        if self.running.is_empty() {
            return Ok(());
        }
        let ids = self.running.values().map(|running| running.id).collect();
        for (id, reason) in self.orchestrator().cancellations(ids).await? {
            for running in self.running.values().filter(|running| running.id == id) {
                let is_new = running.wish.send_if_modified(|wish| {
                    let is_new = *wish == Wish::Run;
                    if is_new {
                        *wish = Wish::Cancel;
                    }
                    is_new
                });
                if is_new {
                    info!(flow_run_id = %id, "Cancelling: {reason}.");
                }
            }
        }
        Ok(())
    }

    /// Takes back the runs of workers that have died, after what they left running has ended: killed where it can be seen,
    /// waited for where it is of another container. There its end is near: the child hears of its worker's death.
    async fn recover(&self) -> Result<(), OrchestratorError> {
        for orphan in self.orchestrator().orphaned_runs().await? {
            self.recover_one(orphan).await?;
        }
        Ok(())
    }

    async fn recover_one(&self, orphan: OrphanedRun) -> Result<(), OrchestratorError> {
        let id = orphan.lease.flow_run_id;
        let worker = orphan.flow_run.worker_name.clone().unwrap_or_default();
        if works_elsewhere(orphan.worker.as_ref()).await {
            debug!(flow_run_id = %id, "The worker works for the home that this one was copied from: what it runs is left alone.");
        } else {
            let left = clear(&orphan.lease.marker(), orphan.child.as_ref(), ORPHAN_DEATH_TIMEOUT).await;
            if left > 0 {
                warn!(flow_run_id = %id, left, "Processes of a dead worker's attempt can not be killed yet.");
                return Ok(());
            }
        }
        if !bury(&self.orchestrator().attempt_lock(orphan.lease)) {
            debug!(flow_run_id = %id, "The attempt of a dead worker of another container has not ended yet.");
            return Ok(());
        }
        remove_scratch(&self.shared.settings.flows, &orphan.flow_run, orphan.lease.attempt).await;
        let message = format!("interrupted: its worker {worker} died");
        match self
            .orchestrator()
            .finish(orphan.lease, Ending::GivenBack { message })
            .await
        {
            // Its state is what others have made of it meanwhile, where several machines share a queue.
            Ok(_) => {
                info!(flow_run_id = %id, "Recovered the run of a dead worker ({worker}).");
            }
            // Another worker was faster.
            Err(OrchestratorError::AttemptSuperseded { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn forget_old_runs(&mut self) -> Result<(), OrchestratorError> {
        if self.retention_at.is_some_and(|at| at.elapsed() < RETENTION_INTERVAL) {
            return Ok(());
        }
        self.retention_at = Some(Instant::now());
        let hours = i64::from(self.shared.settings.retention_days) * 24;
        let forgotten = self
            .orchestrator()
            .apply_retention(Timestamp::now() - hours.hours())
            .await?;
        if forgotten > 0 {
            info!(
                forgotten,
                days = self.shared.settings.retention_days,
                "Ended runs past their retention were forgotten."
            );
        }
        Ok(())
    }

    fn watch_ancestors(&mut self) {
        if self.phase == Phase::Working && !self.ancestors.iter().all(ProcessIdentity::is_alive) {
            self.ancestors.clear();
            self.asked_to_stop("the end of the script that started it");
        }
    }

    fn asked_to_stop(&mut self, by: &str) {
        // What has just ended is not at work.
        while let Some(ended) = self.attempts.try_join_next_with_id() {
            self.attempt_ended(ended);
        }
        match self.phase {
            Phase::Working => {
                let grace = Duration::from_millis(self.shared.settings.grace_ms);
                let seconds = grace.as_secs_f64();
                info!(
                    running = self.attempts.len(),
                    "Stopping because of {by}: no new runs; running ones have {seconds} s. A second signal stops at once."
                );
                self.phase = Phase::Draining {
                    until: Instant::now() + grace,
                };
            }
            Phase::Draining { .. } | Phase::Stopping => {
                info!(
                    running = self.attempts.len(),
                    "Stopping at once because of {by}: running attempts are given back."
                );
                self.wish_all(&Wish::Kill);
                self.phase = Phase::Stopping;
            }
        }
    }

    fn wish_all(&self, wanted: &Wish) {
        for running in self.running.values() {
            running.wish.send_modify(|wish| {
                // What is being cancelled stays so; only at once is stronger.
                if *wish == Wish::Run || *wanted == Wish::Kill {
                    *wish = wanted.clone();
                }
            });
        }
    }
}

/// Announces the worker. Waits for a Prefect API that is away; everything after it finds one that answers. `false`: the
/// worker was told to stop in the meantime.
async fn register(
    orchestrator: &dyn Claims,
    record: WorkerRecord,
    limits: PoolLimits,
    signals: &mut Signals,
    watchdog: &mut Watchdog,
) -> Result<bool, OrchestratorError> {
    let name = record.name.clone();
    let registering = orchestrator.register_worker(record, limits);
    tokio::pin!(registering);
    loop {
        tokio::select! {
            registered = &mut registering => return registered.map(|()| true),
            signal = signals.next() => {
                info!("Stopped because of {signal} while it waited for Prefect's API or its work pool.");
                break;
            }
            () = tokio::time::sleep(TICK.min(watchdog.interval.unwrap_or(TICK))) => watchdog.feed(),
        }
    }
    // It has announced itself on this machine; an API that does not answer is not waited for.
    let _ = tokio::time::timeout(TICK, orchestrator.deregister_worker(&name)).await;
    Ok(false)
}

/// Whether a worker that holds no lock here lives all the same. One that is just dying is gone in a moment.
async fn works_elsewhere(worker: Option<&ProcessIdentity>) -> bool {
    match worker.and_then(Handle::open) {
        Some(worker) => tokio::time::timeout(ORPHAN_DEATH_TIMEOUT, worker.ended())
            .await
            .is_err(),
        None => false,
    }
}

/// Records of workers that died without withdrawing, unless a living one has the same name.
async fn forget_dead_workers(orchestrator: &dyn Claims) -> Result<(), OrchestratorError> {
    let workers = orchestrator.read_work_pool().await?.workers;
    for worker in &workers {
        let is_shared = workers.iter().any(|other| other.is_alive && other.name == worker.name);
        if !worker.is_alive && !is_shared {
            orchestrator.deregister_worker(&worker.name).await?;
        }
    }
    Ok(())
}
