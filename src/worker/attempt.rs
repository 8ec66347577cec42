//! The life of one attempt of a run of ours: its order, what it says, why it is stopped, what becomes of it.
//!
//! Theory of operation: one async function an attempt. It selects on its [`Tree`] (`supervise.rs`), the worker's wish to stop
//! it, and a clock for what is to be written; what the child's lines mean is told by [`Hearing`]. Whatever happens, it ends with
//! the child's whole tree dead and one [`Ending`] in the orchestrator.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use super::console::Console;
use super::hearing::{Effect, Hearing, LastWord, MAX_OBJECTS};
use super::scratch::remove_scratch;
use super::supervise::{Asked, Happening, Input, Limit, Limits, Plan, Tree, death};
use super::trace::AttemptTrace;
use crate::domain::asset::Materialization;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{Arguments, FlowDefinition, Runner, WorkQueue, fill};
use crate::domain::flow_run::FlowRun;
use crate::domain::lease::Lease;
use crate::domain::state::{CANCELLED_ON_REQUEST, StateName};
use crate::domain::trace::{TraceContext, VARIABLES};
use crate::orchestrator::claims::{Claim, Claims, Ending, Record};
use crate::process::life::{bury, prepare as prepare_lock};
use crate::process::machine::own_program;
use crate::process::tree::clear;
use crate::protocol::{MAX_FRAME_BYTES, PROTOCOL_VERSION, Program, Work, WorkOrder, WorkerMessage, frame};
use crate::settings::Settings;
use crate::settings::prefect::without_secrets;
use crate::telemetry::Tracer;

/// What is learned of a run is written this often at most.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// How long what a failed supervision left may take to be gone.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

/// What the worker wants of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Run,
    /// Stop: the run is cancelled.
    Cancel,
    /// Stop: the run is given back.
    GiveBack,
    /// Stop at once: the run is given back.
    Kill,
}

/// What every attempt of a worker shares.
pub struct Shared {
    /// Where it is kept.
    pub orchestrator: Arc<dyn Claims>,
    /// Limits and flows.
    pub settings: Settings,
    /// Where people see it.
    pub console: Console,
    /// Where its spans go.
    pub tracer: Tracer,
}

/// Runs an attempt whose claim was asked for at `asked_at` to its end and returns the run as it is then; `None` if the lease was
/// lost.
pub async fn supervise(
    shared: Arc<Shared>,
    claim: Claim,
    asked_at: Timestamp,
    mut wish: watch::Receiver<Wish>,
) -> Option<FlowRun> {
    let lease = claim.lease;
    let started = Instant::now();
    let mut trace = AttemptTrace::begin(&shared.tracer, &claim, asked_at);
    let ending = match shared.settings.flows.get(&claim.flow_run.flow_name) {
        Ok(flow) => match prepare(&shared, flow, &claim, trace.context()) {
            Ok((order, line)) => run(&shared, flow, &claim, &order, &line, &mut wish, &mut trace).await,
            Err(problem) => failed(flow, &claim, StateName::Failed, problem, false),
        },
        Err(error) => Ending::Failed {
            state: StateName::Failed,
            message: error.to_string(),
            retry_after: None,
        },
    };
    clear_away(&shared, &claim).await;
    trace.end(&ending);
    let run = finish(shared.orchestrator.as_ref(), lease, ending, &mut wish).await;
    match &run {
        Some(run) => shared.console.ended(run, started.elapsed()),
        None => shared.console.lost(lease),
    }
    run
}

/// Gives a run back whose supervision has ended by a fault of this program.
pub async fn abandon(shared: Arc<Shared>, claim: Claim) {
    let id = claim.lease.flow_run_id;
    let left = clear(&claim.lease.marker(), None, DEATH_TIMEOUT).await;
    if left > 0 {
        warn!(flow_run_id = %id, left, "Processes of the attempt can not be killed; they wait for the system.");
    }
    clear_away(&shared, &claim).await;
    let message = "interrupted: its supervision failed, see the worker's log".to_owned();
    let ending = Ending::GivenBack { message };
    // Nobody wishes anything of it any more.
    let (_, mut wish) = watch::channel(Wish::Run);
    finish(shared.orchestrator.as_ref(), claim.lease, ending, &mut wish).await;
}

/// After its processes have ended.
async fn clear_away(shared: &Shared, claim: &Claim) {
    bury(&shared.orchestrator.attempt_lock(claim.lease));
    remove_scratch(&shared.settings.flows, &claim.flow_run, claim.lease.attempt).await;
}

/// The order, and as it is written.
fn prepare(
    shared: &Shared,
    flow: &FlowDefinition,
    claim: &Claim,
    trace: Option<TraceContext>,
) -> Result<(WorkOrder, Vec<u8>), String> {
    // What is stored was checked when it was queued, by this version or by another one.
    let mut stored = claim.flow_run.parameters.0.clone();
    // What the flow no longer takes is of no use to it.
    stored.retain(|name, _| flow.parameters.iter().any(|known| known.name == *name));
    let arguments = flow.parse_stored(&stored).map_err(|error| error.to_string())?;
    let order = WorkOrder {
        protocol_version: PROTOCOL_VERSION,
        flow_run_id: claim.lease.flow_run_id,
        attempt: claim.lease.attempt,
        flow_name: flow.name.clone(),
        work: work(flow, arguments)?,
        lock: shared.orchestrator.attempt_lock(claim.lease),
        status_table: flow.status_table,
        database: claim.database,
        ocr_models: shared.settings.ocr_models.clone(),
        memory_bytes: shared.settings.child_memory_mb << 20,
        gives_way: claim.flow_run.priority == WorkQueue::Background,
        grace_ms: shared.settings.kill_grace_ms,
        trace,
    };
    let line = frame(&order).map_err(|too_long| format!("its arguments are too long: its order has {too_long}"))?;
    Ok((order, line))
}

fn work(flow: &FlowDefinition, arguments: Arguments) -> Result<Work, String> {
    match (&flow.runner, arguments) {
        (_, Arguments::FullFrames(arguments)) => Ok(Work::FullFrames(arguments)),
        (_, Arguments::CropFrames(arguments)) => Ok(Work::CropFrames(arguments)),
        (_, Arguments::CaptionMedianOcr(arguments)) => Ok(Work::CaptionMedianOcr(arguments)),
        (Runner::Command(runner), Arguments::Command(arguments)) => {
            let filled = |templates: &[String]| -> Result<Vec<String>, String> {
                templates
                    .iter()
                    .map(|template| fill(template, &arguments.values))
                    .collect()
            };
            Ok(Work::Command(Program {
                words: filled(&runner.command)?,
                assets: filled(&flow.assets)?,
                upstream_assets: filled(&flow.upstream_assets)?,
                working_directory: runner.working_directory.clone(),
                environment: runner.environment.clone(),
                arguments,
            }))
        }
        (Runner::FullFrames | Runner::CropFrames | Runner::CaptionMedianOcr, Arguments::Command(_)) => Err(format!(
            "flow {:?} has no program: its arguments are those of one",
            flow.name
        )),
    }
}

/// How its child is started and kept.
fn plan(shared: &Shared, flow: &FlowDefinition, claim: &Claim, order: &WorkOrder) -> io::Result<Plan> {
    prepare_lock(&order.lock)?;
    let settings = &shared.settings;
    // A pipeline of our own needs next to nothing, a program what the operator set up for it; neither needs a key.
    let starts_programs = matches!(order.work, Work::Command(_));
    let mut command = Command::new(own_program()?);
    command.arg0("captionacc").arg("attempt");
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_plain = ["PATH", "HOME", "LANG", "TMPDIR", "TZ", "RUST_BACKTRACE"].contains(&text.as_ref())
            || text.starts_with("LC_");
        // What is said to this process alone, or of the trace that it was started in.
        let is_own = text == "NOTIFY_SOCKET" || VARIABLES.contains(&text.as_ref());
        let is_for_it = (starts_programs || is_plain) && !is_own;
        match without_secrets(&name, &value).filter(|_| is_for_it) {
            Some(seen) => command.env(&name, seen),
            None => command.env_remove(&name),
        };
    }
    Ok(Plan {
        command,
        marker: claim.lease.marker(),
        starts_programs,
        input: Input::Said,
        longest_line: MAX_FRAME_BYTES,
        limits: Limits {
            time: Some(Duration::from_millis(flow.timeout_ms)),
            silence: Some(Duration::from_millis(settings.stall_timeout_ms)),
            memory_bytes: Some(settings.child_memory_mb.saturating_mul(1 << 20)),
        },
        asked: Asked::Leader,
        grace: Duration::from_millis(settings.kill_grace_ms),
    })
}

/// Why the worker stopped the child.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stopped {
    Cancelled,
    GivenBack,
    Limit(Limit),
    Lost,
}

impl Stopped {
    /// Because of this wish, if it is one to stop.
    const fn because_of(wish: &Wish) -> Option<Self> {
        match wish {
            Wish::Run => None,
            Wish::Cancel => Some(Self::Cancelled),
            Wish::GiveBack | Wish::Kill => Some(Self::GivenBack),
        }
    }
}

async fn run(
    shared: &Shared,
    flow: &FlowDefinition,
    claim: &Claim,
    order: &WorkOrder,
    line: &[u8],
    wish: &mut watch::Receiver<Wish>,
    trace: &mut AttemptTrace,
) -> Ending {
    let lease = claim.lease;
    let starting = async { Tree::start(plan(shared, flow, claim, order)?).await };
    let mut tree = match starting.await {
        Ok(tree) => tree,
        Err(error) => {
            let message = format!("the child process could not be started: {error}");
            return failed(flow, claim, StateName::Crashed, message, true);
        }
    };
    if let Err(error) = shared.orchestrator.start(lease, tree.process().clone()).await {
        tree.end().await;
        let message = format!("its start could not be recorded: {}", error.to_line());
        return Ending::GivenBack { message };
    }
    shared
        .console
        .started(&claim.flow_run, lease.attempt, tree.process().pid);
    trace.started(tree.process().pid);
    tree.say(line);
    let mut attempt = Attempt {
        shared,
        trace,
        lease,
        hearing: Hearing::new(lease.attempt, claim.log_bytes, Instant::now()),
        pending: Vec::new(),
        materializations: Vec::new(),
        said: None,
        stopped: None,
        is_lost: false,
    };
    let status = attempt.listen(&mut tree, wish).await;
    let left_out = attempt.hearing.end();
    attempt.perform(Vec::from_iter(left_out), &mut tree).await;
    attempt.flush().await;
    attempt.ending(flow, claim, &status)
}

/// What an attempt has said and what was decided about it.
struct Attempt<'a> {
    shared: &'a Shared,
    trace: &'a mut AttemptTrace,
    lease: Lease,
    hearing: Hearing,
    pending: Vec<Record>,
    materializations: Vec<Materialization>,
    said: Option<LastWord>,
    stopped: Option<Stopped>,
    is_lost: bool,
}

impl Attempt<'_> {
    /// Until the end of the whole tree.
    async fn listen(&mut self, tree: &mut Tree, wish: &mut watch::Receiver<Wish>) -> io::Result<ExitStatus> {
        let mut flush = tokio::time::interval(FLUSH_INTERVAL);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first wish may have been made before this attempt looked.
        wish.mark_changed();
        let mut is_wished = true;
        loop {
            tokio::select! {
                happening = tree.next() => match happening {
                    Happening::Line(line) => {
                        let effects = self.hearing.hear(&line, Instant::now());
                        self.perform(effects, tree).await;
                    }
                    Happening::ErrorLine(line) => {
                        let effects = self.hearing.hear_error(&line, Instant::now());
                        self.perform(effects, tree).await;
                    }
                    Happening::Exceeded(limit) => self.stop(Stopped::Limit(limit), tree),
                    Happening::Ended(end) => {
                        if end.left > 0 {
                            let left = end.left;
                            warn!(flow_run_id = %self.lease.flow_run_id, left, "Processes of the attempt can not be killed; they wait for the system.");
                        }
                        return end.status;
                    }
                },
                changed = wish.changed(), if is_wished => {
                    is_wished = changed.is_ok();
                    let wanted = if is_wished { wish.borrow_and_update().clone() } else { Wish::Kill };
                    if let Some(reason) = Stopped::because_of(&wanted) {
                        self.stop(reason, tree);
                    }
                    if wanted == Wish::Kill {
                        tree.kill();
                    }
                    if !is_wished {
                        // The worker's loop is gone: the end of stdin says the same, in case TERM is not heard.
                        tree.say_no_more();
                    }
                }
                _ = flush.tick() => {
                    self.flush().await;
                    if self.is_lost {
                        self.stop(Stopped::Lost, tree);
                    }
                }
            }
        }
    }

    /// Asks the child to stop. The first reason stands.
    fn stop(&mut self, reason: Stopped, tree: &mut Tree) {
        if self.stopped.is_none() {
            debug!(flow_run_id = %self.lease.flow_run_id, ?reason, "Stopping the attempt.");
            self.stopped = Some(reason);
            tree.stop();
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>, tree: &mut Tree) {
        for effect in effects {
            match effect {
                Effect::Keep(record) => {
                    self.trace.heard(&record);
                    if let Record::Progress(progress) = &record {
                        self.shared.console.progress(self.lease, progress);
                        // Only the newest counts.
                        self.pending.retain(|record| !matches!(record, Record::Progress(_)));
                    }
                    self.pending.push(record);
                }
                Effect::Made(materialization) => self.materializations.push(materialization),
                Effect::Answer(caption_id) => {
                    self.flush().await;
                    let answer = if self.stopped.is_some() {
                        WorkerMessage::Stop
                    } else {
                        self.may_commit(caption_id).await
                    };
                    tree.say(&frame(&answer).expect("it is short"));
                }
                Effect::Said(word) => self.said = Some(word),
            }
        }
    }

    async fn may_commit(&self, caption_id: Option<i64>) -> WorkerMessage {
        let orchestrator = &self.shared.orchestrator;
        let answer = async {
            let is_taken = match caption_id {
                Some(caption_id) => orchestrator.caption_is_taken(self.lease, caption_id).await?,
                None => false,
            };
            // Last, because its answer is the newest.
            Ok::<_, OrchestratorError>(match orchestrator.may_commit(self.lease).await? {
                false => WorkerMessage::Stop,
                true if is_taken => WorkerMessage::Leave,
                true => WorkerMessage::Commit,
            })
        };
        answer.await.unwrap_or_else(|error| {
            warn!(flow_run_id = %self.lease.flow_run_id, error = error.to_line(), "The lease could not be checked.");
            WorkerMessage::Stop
        })
    }

    async fn flush(&mut self) {
        if self.pending.is_empty() || self.is_lost {
            return;
        }
        let records = std::mem::take(&mut self.pending);
        match self.shared.orchestrator.record(self.lease, records.clone()).await {
            Ok(()) => {}
            Err(OrchestratorError::AttemptSuperseded { .. }) => self.is_lost = true,
            Err(error) if error.retryable() => {
                // Kept for the next time, but not without bound.
                self.pending = records;
                self.pending.truncate(MAX_OBJECTS);
            }
            Err(error) => {
                warn!(flow_run_id = %self.lease.flow_run_id, error = error.to_line(), "Records of the run were lost.");
            }
        }
    }

    /// What became of the attempt. A child that said it completed has written its result, however it died afterwards.
    fn ending(self, flow: &FlowDefinition, claim: &Claim, status: &io::Result<ExitStatus>) -> Ending {
        match (self.said, self.stopped) {
            (Some(LastWord::Completed(message)), _) => Ending::Completed {
                message,
                materializations: self.materializations,
            },
            (_, Some(Stopped::Cancelled)) => Ending::Cancelled {
                message: CANCELLED_ON_REQUEST.to_owned(),
            },
            (_, Some(Stopped::GivenBack | Stopped::Lost)) => Ending::GivenBack {
                message: "interrupted: its worker was stopped".to_owned(),
            },
            (_, Some(Stopped::Limit(limit))) => {
                let (state, message) = exceeded(limit, flow, &self.shared.settings);
                failed(flow, claim, state, message, true)
            }
            (Some(LastWord::Cancelled(message)), None) => Ending::Cancelled { message },
            (Some(LastWord::Failed(failure)), None) => {
                let message = format!("{} ({})", failure.message, failure.code);
                failed(flow, claim, StateName::Failed, message, failure.retryable)
            }
            (None, None) => failed(flow, claim, StateName::Crashed, death(status), true),
        }
    }
}

/// The state of an attempt that exceeded a limit, and what is said of it.
fn exceeded(limit: Limit, flow: &FlowDefinition, settings: &Settings) -> (StateName, String) {
    match limit {
        Limit::Time => (
            StateName::TimedOut,
            format!("it took longer than its timeout of {} s", flow.timeout_ms / 1000),
        ),
        Limit::Silence => (
            StateName::TimedOut,
            format!(
                "it said nothing for {} s and was taken for hung",
                settings.stall_timeout_ms / 1000
            ),
        ),
        Limit::Memory => (
            StateName::Crashed,
            format!(
                "it took more than {} MB of memory: raise CAPTIONACC_CHILD_MEMORY_MB if it needs them",
                settings.child_memory_mb
            ),
        ),
    }
}

fn failed(flow: &FlowDefinition, claim: &Claim, state: StateName, message: String, retryable: bool) -> Ending {
    let failed_attempts = claim.flow_run.failed_attempts + 1;
    let delay_ms = retryable
        .then(|| flow.retry.delay_after_ms(failed_attempts, fastrand::f64()))
        .flatten();
    Ending::Failed {
        state,
        message,
        retry_after: delay_ms.map(Duration::from_millis),
    }
}

/// Writes the ending, however long the store can not be written: a state must not be lost. Only a worker that is to
/// stop at once gives up; the run is recovered then, as that of a dead worker.
async fn finish(
    orchestrator: &dyn Claims,
    lease: Lease,
    ending: Ending,
    wish: &mut watch::Receiver<Wish>,
) -> Option<FlowRun> {
    let id = lease.flow_run_id;
    let mut wait = Duration::from_millis(100);
    loop {
        match orchestrator.finish(lease, ending.clone()).await {
            Ok(run) => return Some(run),
            Err(OrchestratorError::AttemptSuperseded { .. }) => return None,
            Err(error) => {
                let error = error.to_line();
                warn!(flow_run_id = %id, error, "The run's state could not be written; trying again.");
            }
        }
        let is_to_stop_at_once = async {
            if wish.wait_for(|wish| *wish == Wish::Kill).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if tokio::time::timeout(wait, is_to_stop_at_once).await.is_ok() {
            warn!(flow_run_id = %id, "The run's state is left to the next worker.");
            return None;
        }
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}
