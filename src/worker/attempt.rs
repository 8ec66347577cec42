//! The life of one attempt, seen from the worker: spawn, feed, listen, limit, stop, clear away, finish.
//!
//! Theory of operation: one async function a attempt. It selects on the child's three streams, its death, the worker's
//! wish to stop it, and a clock for the limits; a child that reads nothing can not make it wait. Whatever happens, it ends
//! with the child's whole tree dead and one [`Ending`] in the orchestrator.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::console::Console;
use super::output::{LineBudget, printable, read_line};
use crate::annotations::remove_leftovers;
use crate::domain::asset::Materialization;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{Arguments, FlowDefinition, Flows, Runner, fill};
use crate::domain::flow_run::{Artifact, FlowRun, LogLevel, LogLine, Progress};
use crate::domain::lease::Lease;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::claims::{Claim, Claims, Ending, Record};
use crate::process::identity::ProcessIdentity;
use crate::process::life::{bury, prepare as prepare_lock};
use crate::process::tree::{MARKER, clear, kill_all, kill_group_of_ended, memory_bytes, terminate};
use crate::protocol::{
    ChildEvent, Failure, MAX_FRAME_BYTES, MAX_LINE_BYTES, PROTOCOL_VERSION, Program, Work, WorkOrder, WorkerMessage,
    frame,
};
use crate::settings::Settings;
use crate::settings::prefect::without_secrets;

/// What is learned of a run is written this often at most.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// How often the limits are looked at.
const LIMITS_INTERVAL: Duration = Duration::from_millis(500);
/// How long the streams of a dead child are read on: a grandchild may hold them open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a killed process may take to be gone. One that waits for a dead disk can take for ever.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);
/// As long as so much is left to be told, a child is not listened to.
const MAX_OUTGOING_BYTES: usize = 64 * 1024;
/// Most artifacts, assets and task runs of one attempt: more is a fault of the program.
const MAX_OBJECTS: usize = 1000;
/// Most bytes of them together.
const MAX_OBJECT_BYTES: usize = 32 << 20;

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
}

/// Runs a claimed attempt to its end and returns the run as it is then; `None` if the lease was lost.
pub async fn supervise(shared: Arc<Shared>, claim: Claim, mut wish: watch::Receiver<Wish>) -> Option<FlowRun> {
    let lease = claim.lease;
    let marker = lease.marker();
    let started = Instant::now();
    let (ending, process) = match shared.settings.flows.get(&claim.flow_run.flow_name) {
        Ok(flow) => match prepare(&shared, flow, &claim) {
            Ok((order, line)) => match prepare_lock(&order.lock).and_then(|()| spawn(&order, &marker)) {
                Ok(child) => run(&shared, flow, &claim, (order, line), child, &marker, &mut wish).await,
                Err(error) => {
                    let message = format!("the child process could not be started: {error}");
                    (failed(flow, &claim, StateName::Crashed, message, true), None)
                }
            },
            Err(problem) => (failed(flow, &claim, StateName::Failed, problem, false), None),
        },
        Err(error) => (
            Ending::Failed {
                state: StateName::Failed,
                message: error.to_string(),
                retry_after: None,
            },
            None,
        ),
    };
    clear_away(&shared, &claim, process.as_ref()).await;
    let run = finish(shared.orchestrator.as_ref(), lease, ending, &mut wish).await;
    match &run {
        Some(run) => shared.console.ended(run, started.elapsed()),
        None => shared.console.lost(lease),
    }
    run
}

/// Gives a run back whose supervision has ended by a fault of this program.
pub async fn abandon(shared: Arc<Shared>, claim: Claim) {
    clear_away(&shared, &claim, None).await;
    let message = "interrupted: its supervision failed, see the worker's log".to_owned();
    let ending = Ending::GivenBack { message };
    // Nobody wishes anything of it any more.
    let (_, mut wish) = watch::channel(Wish::Run);
    finish(shared.orchestrator.as_ref(), claim.lease, ending, &mut wish).await;
}

async fn clear_away(shared: &Shared, claim: &Claim, process: Option<&ProcessIdentity>) {
    let left = clear(&claim.lease.marker(), process, DEATH_TIMEOUT).await;
    if left > 0 {
        let id = claim.lease.flow_run_id;
        warn!(flow_run_id = %id, left, "Processes of the attempt can not be killed; they wait for the system.");
    }
    bury(&shared.orchestrator.attempt_lock(claim.lease));
    remove_scratch(&shared.settings.flows, &claim.flow_run, claim.lease.attempt).await;
}

/// Removes what a killed attempt left in its scratch directory. Its processes are dead by now. Only this attempt's: by
/// now another worker may have recovered the run, and its next attempt be at work.
pub async fn remove_scratch(flows: &Flows, run: &FlowRun, attempt: u32) {
    let arguments = flows
        .get(&run.flow_name)
        .and_then(|flow| flow.parse_arguments(&run.parameters.0, Path::new("/")));
    let Some(output_dir) = arguments
        .ok()
        .and_then(|arguments| arguments.output_dir().map(Path::to_owned))
    else {
        return;
    };
    let id = run.flow_run_id.to_string();
    // A directory on a dead disk must not hold up the worker's loop.
    let _ = tokio::task::spawn_blocking(move || remove_leftovers(&output_dir, &id, attempt)).await;
}

/// The order, and as it is written.
fn prepare(shared: &Shared, flow: &FlowDefinition, claim: &Claim) -> Result<(WorkOrder, Vec<u8>), String> {
    // What is stored was checked when it was queued, by this version or by another one.
    let arguments = flow
        .parse_arguments(&claim.flow_run.parameters.0, Path::new("/"))
        .map_err(|error| error.to_string())?;
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
        grace_ms: shared.settings.kill_grace_ms,
    };
    let line = frame(&order).map_err(|too_long| format!("its arguments are too long: its order has {too_long}"))?;
    Ok((order, line))
}

fn work(flow: &FlowDefinition, arguments: Arguments) -> Result<Work, String> {
    match (&flow.runner, arguments) {
        (_, Arguments::FullFrames(arguments)) => Ok(Work::FullFrames(arguments)),
        (_, Arguments::CropFrames(arguments)) => Ok(Work::CropFrames(arguments)),
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
        (Runner::FullFrames | Runner::CropFrames, Arguments::Command(_)) => Err(format!(
            "flow {:?} has no program: its arguments are those of one",
            flow.name
        )),
    }
}

fn spawn(order: &WorkOrder, marker: &str) -> std::io::Result<Child> {
    // This very program, also when its file was replaced by an update since.
    let program = if cfg!(target_os = "linux") {
        "/proc/self/exe".into()
    } else {
        std::env::current_exe()?
    };
    let mut command = Command::new(program);
    command.arg0("captionacc").arg("attempt");
    // A pipeline of our own needs next to nothing, a program what the operator set up for it; neither needs a key.
    let is_program = matches!(order.work, Work::Command(_));
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_plain = ["PATH", "HOME", "LANG", "TMPDIR", "TZ", "RUST_BACKTRACE"].contains(&text.as_ref())
            || text.starts_with("LC_");
        let is_for_it = (is_program || is_plain) && text != "NOTIFY_SOCKET";
        match without_secrets(&name, &value).filter(|_| is_for_it) {
            Some(seen) => command.env(&name, seen),
            None => command.env_remove(&name),
        };
    }
    command
        .env(MARKER, marker)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// What an attempt has said and what was decided about it.
struct Attempt<'a> {
    shared: &'a Shared,
    lease: Lease,
    budget: LineBudget,
    pending: Vec<Record>,
    objects: usize,
    object_bytes: usize,
    materializations: Vec<Materialization>,
    /// What the child is yet to be told; [`write_some`] writes it.
    outgoing: Vec<u8>,
    said: Option<Said>,
    stopped: Option<Stopped>,
    kill_at: Option<Instant>,
    heard_at: Instant,
    is_lost: bool,
}

/// The child's own last word.
enum Said {
    Completed(String),
    Failed(Failure),
    Cancelled(String),
}

/// Why the worker stopped the child.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stopped {
    Cancelled,
    GivenBack,
    Limit { state: StateName, message: String },
    Lost,
}

async fn run(
    shared: &Shared,
    flow: &FlowDefinition,
    claim: &Claim,
    (order, line): (WorkOrder, Vec<u8>),
    mut child: Child,
    marker: &str,
    wish: &mut watch::Receiver<Wish>,
) -> (Ending, Option<ProcessIdentity>) {
    let lease = claim.lease;
    let process = child.id().and_then(ProcessIdentity::of);
    let (Some(process), Some(stdin), Some(stdout), Some(stderr)) =
        (process, child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return (
            failed(
                flow,
                claim,
                StateName::Crashed,
                "the child process ended at once".to_owned(),
                true,
            ),
            None,
        );
    };
    if let Err(error) = shared.orchestrator.start(lease, process.clone()).await {
        let _ = child.start_kill();
        let message = format!("its start could not be recorded: {}", error.to_line());
        return (Ending::GivenBack { message }, Some(process));
    }
    shared.console.started(&claim.flow_run, lease.attempt, process.pid);
    let mut attempt = Attempt {
        shared,
        lease,
        budget: LineBudget::new(Instant::now(), claim.log_bytes),
        pending: Vec::new(),
        objects: 0,
        object_bytes: 0,
        materializations: Vec::new(),
        outgoing: line,
        said: None,
        stopped: None,
        kill_at: None,
        heard_at: Instant::now(),
        is_lost: false,
    };
    let watched = matches!(order.work, Work::Command(_)).then_some(marker);
    let (status, streams) = attempt
        .listen(
            &mut child,
            &process,
            stdin,
            BufReader::new(stdout),
            BufReader::new(stderr),
            watched,
            flow,
            wish,
        )
        .await;
    // What is left of its tree would hold its streams open.
    kill_group_of_ended(&process);
    kill_all(marker, Some(&process));
    attempt.last_words(streams).await;
    if attempt.budget.left_out > 0 {
        let message = format!(
            "{} lines were left out: the run logged too much",
            attempt.budget.left_out
        );
        attempt
            .pending
            .push(Record::Log(log_line(lease, LogLevel::Warning, message)));
    }
    attempt.flush().await;
    (attempt.ending(flow, claim, &status), Some(process))
}

struct Streams {
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    line: Vec<u8>,
    error_line: Vec<u8>,
    stdout_open: bool,
    stderr_open: bool,
}

impl Attempt<'_> {
    #[expect(clippy::too_many_arguments, reason = "the parts of one child")]
    async fn listen(
        &mut self,
        child: &mut Child,
        process: &ProcessIdentity,
        stdin: ChildStdin,
        stdout: BufReader<ChildStdout>,
        stderr: BufReader<ChildStderr>,
        watched: Option<&str>,
        flow: &FlowDefinition,
        wish: &mut watch::Receiver<Wish>,
    ) -> (std::io::Result<ExitStatus>, Streams) {
        let started = Instant::now();
        let mut stdin = Some(stdin);
        let mut streams = Streams {
            stdout,
            stderr,
            line: Vec::new(),
            error_line: Vec::new(),
            stdout_open: true,
            stderr_open: true,
        };
        let mut flush = tokio::time::interval(FLUSH_INTERVAL);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut limits = tokio::time::interval(LIMITS_INTERVAL);
        limits.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first wish may have been made before this attempt looked.
        wish.mark_changed();
        loop {
            let kill_at = self.kill_at;
            tokio::select! {
                // A child that asks and does not read the answers is not heard until it has.
                more = read_line(&mut streams.stdout, &mut streams.line, MAX_FRAME_BYTES),
                    if streams.stdout_open && self.outgoing.len() < MAX_OUTGOING_BYTES => {
                    streams.stdout_open = more.unwrap_or(false);
                    let line = std::mem::take(&mut streams.line);
                    if !line.is_empty() {
                        self.hear(&line).await;
                    }
                }
                more = read_line(&mut streams.stderr, &mut streams.error_line, MAX_LINE_BYTES), if streams.stderr_open => {
                    streams.stderr_open = more.unwrap_or(false);
                    let line = std::mem::take(&mut streams.error_line);
                    self.log(LogLevel::Warning, printable(&line));
                }
                () = write_some(&mut stdin, &mut self.outgoing) => {}
                status = child.wait() => return (status, streams),
                changed = wish.changed() => {
                    let wanted = if changed.is_ok() { wish.borrow_and_update().clone() } else { Wish::Kill };
                    match wanted {
                        Wish::Run => {}
                        Wish::Cancel => self.stop(Stopped::Cancelled, process),
                        Wish::GiveBack => self.stop(Stopped::GivenBack, process),
                        Wish::Kill => {
                            self.stop(Stopped::GivenBack, process);
                            self.kill_at = Some(Instant::now());
                        }
                    }
                    if changed.is_err() {
                        // The worker's loop is gone: the end of stdin says the same, in case TERM is not heard.
                        stdin = None;
                    }
                }
                () = sleep_until(kill_at) => {
                    self.kill_at = None;
                    kill_all(&self.lease.marker(), Some(process));
                }
                _ = flush.tick() => self.flush().await,
                _ = limits.tick() => {
                    self.check_limits(started, flow, process, watched);
                    if self.is_lost {
                        self.stop(Stopped::Lost, process);
                    }
                }
            }
        }
    }

    /// Asks the child to stop and sets the time at which it is killed. The first reason stands.
    fn stop(&mut self, reason: Stopped, process: &ProcessIdentity) {
        if self.stopped.is_none() {
            debug!(flow_run_id = %self.lease.flow_run_id, ?reason, "Stopping the attempt.");
            self.stopped = Some(reason);
            self.kill_at = Some(Instant::now() + Duration::from_millis(self.shared.settings.kill_grace_ms));
            terminate(process);
        }
    }

    fn check_limits(
        &mut self,
        started: Instant,
        flow: &FlowDefinition,
        process: &ProcessIdentity,
        watched: Option<&str>,
    ) {
        let settings = &self.shared.settings;
        let limit = |state, message| Stopped::Limit { state, message };
        let memory_limit = settings.child_memory_mb.saturating_mul(1 << 20);
        let reason = if started.elapsed() > Duration::from_millis(flow.timeout_ms) {
            let seconds = flow.timeout_ms / 1000;
            limit(
                StateName::TimedOut,
                format!("it took longer than its timeout of {seconds} s"),
            )
        } else if self.heard_at.elapsed() > Duration::from_millis(settings.stall_timeout_ms) {
            let seconds = settings.stall_timeout_ms / 1000;
            limit(
                StateName::TimedOut,
                format!("it said nothing for {seconds} s and was taken for hung"),
            )
        } else if memory_bytes(process, watched) > memory_limit {
            let limit_mb = settings.child_memory_mb;
            limit(
                StateName::Crashed,
                format!("it took more than {limit_mb} MB of memory: raise CAPTIONACC_CHILD_MEMORY_MB if it needs them"),
            )
        } else {
            return;
        };
        self.stop(reason, process);
    }

    fn log(&mut self, level: LogLevel, message: String) {
        self.heard_at = Instant::now();
        if !message.is_empty() && self.budget.take(Instant::now(), message.len()) {
            self.pending.push(Record::Log(log_line(self.lease, level, message)));
        }
    }

    /// Takes in a line of the child's stdout, which is hostile until parsed.
    async fn hear(&mut self, line: &[u8]) {
        self.heard_at = Instant::now();
        let Ok(event) = serde_json::from_slice::<ChildEvent>(line) else {
            self.log(LogLevel::Warning, printable(line));
            return;
        };
        let now = Timestamp::now();
        match event {
            ChildEvent::Started { protocol_version } => {
                debug!(flow_run_id = %self.lease.flow_run_id, protocol_version, "The child has its order.");
            }
            ChildEvent::DatabaseSeen { identity } => self.pending.push(Record::Database(identity)),
            ChildEvent::TaskRun {
                task_run_id,
                name,
                run_count,
                state,
                message,
            } => {
                let state = task_state(state, run_count);
                if self.another_object(line.len()) {
                    self.pending.push(Record::TaskRun {
                        task_run_id,
                        name,
                        run_count,
                        state,
                        message,
                    });
                }
            }
            ChildEvent::Progress {
                task,
                done,
                total,
                unit,
                fraction,
            } => {
                let fraction = if fraction.is_finite() {
                    fraction.clamp(0.0, 1.0)
                } else {
                    0.0
                };
                let progress = Progress {
                    task,
                    done,
                    total,
                    unit,
                    fraction,
                    timestamp: now,
                };
                self.shared.console.progress(self.lease, &progress);
                // Only the newest counts.
                self.pending.retain(|record| !matches!(record, Record::Progress(_)));
                self.pending.push(Record::Progress(progress));
            }
            ChildEvent::Log { level, message } => {
                let message = printable(message.as_bytes());
                self.log(level, message);
            }
            ChildEvent::Artifact {
                key,
                artifact_type,
                description,
                data,
            } => {
                if self.another_object(line.len()) {
                    self.pending.push(Record::Artifact(Artifact {
                        key,
                        artifact_type,
                        description,
                        data,
                        timestamp: now,
                    }));
                }
            }
            ChildEvent::Asset { materialization } => {
                if self.another_object(line.len()) {
                    self.materializations.push(materialization);
                }
            }
            ChildEvent::MayCommit => {
                self.flush().await;
                let may = self.stopped.is_none() && self.may_commit().await;
                let answer = if may {
                    WorkerMessage::Commit
                } else {
                    WorkerMessage::Stop
                };
                self.outgoing.extend(frame(&answer).expect("it is short"));
            }
            ChildEvent::Completed { message } => self.said = Some(Said::Completed(message)),
            ChildEvent::Failed { failure } => self.said = Some(Said::Failed(failure)),
            ChildEvent::Cancelled { message } => self.said = Some(Said::Cancelled(message)),
        }
    }

    async fn may_commit(&self) -> bool {
        match self.shared.orchestrator.may_commit(self.lease).await {
            Ok(may) => may,
            Err(error) => {
                warn!(flow_run_id = %self.lease.flow_run_id, error = error.to_line(), "The lease could not be checked.");
                false
            }
        }
    }

    fn another_object(&mut self, bytes: usize) -> bool {
        let is_full = |attempt: &Self| attempt.objects >= MAX_OBJECTS || attempt.object_bytes >= MAX_OBJECT_BYTES;
        let was_full = is_full(self);
        self.objects += 1;
        self.object_bytes = self.object_bytes.saturating_add(bytes);
        let is_full = is_full(self);
        if is_full && !was_full {
            self.log(
                LogLevel::Warning,
                format!(
                    "more than {MAX_OBJECTS} task runs, artifacts and assets, or more than {MAX_OBJECT_BYTES} bytes of \
                     them: the rest is left out"
                ),
            );
        }
        !is_full
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

    /// What the dead child had written and nobody had read yet.
    async fn last_words(&mut self, mut streams: Streams) {
        let reading = async {
            while streams.stdout_open {
                streams.stdout_open = read_line(&mut streams.stdout, &mut streams.line, MAX_FRAME_BYTES)
                    .await
                    .unwrap_or(false);
                let line = std::mem::take(&mut streams.line);
                if !line.is_empty() {
                    self.hear(&line).await;
                }
            }
            while streams.stderr_open {
                streams.stderr_open = read_line(&mut streams.stderr, &mut streams.error_line, MAX_LINE_BYTES)
                    .await
                    .unwrap_or(false);
                let line = std::mem::take(&mut streams.error_line);
                self.log(LogLevel::Warning, printable(&line));
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, reading).await;
    }

    /// What became of the attempt. A child that said it completed has written its result, however it died afterwards.
    fn ending(self, flow: &FlowDefinition, claim: &Claim, status: &std::io::Result<ExitStatus>) -> Ending {
        match (self.said, self.stopped) {
            (Some(Said::Completed(message)), _) => Ending::Completed {
                message,
                materializations: self.materializations,
            },
            (_, Some(Stopped::Cancelled)) => Ending::Cancelled {
                message: "cancelled on request".to_owned(),
            },
            (_, Some(Stopped::GivenBack | Stopped::Lost)) => Ending::GivenBack {
                message: "interrupted: its worker was stopped".to_owned(),
            },
            (_, Some(Stopped::Limit { state, message })) => failed(flow, claim, state, message, true),
            (Some(Said::Cancelled(message)), None) => Ending::Cancelled { message },
            (Some(Said::Failed(failure)), None) => {
                let message = format!("{} ({})", failure.message, failure.code);
                failed(flow, claim, StateName::Failed, message, failure.retryable)
            }
            (None, None) => failed(flow, claim, StateName::Crashed, death(status), true),
        }
    }
}

/// The name of a task run's state.
const fn task_state(state: StateType, run_count: u32) -> StateName {
    match state {
        StateType::Running if run_count > 1 => StateName::Retrying,
        StateType::Running => StateName::Running,
        StateType::Completed => StateName::Completed,
        StateType::Cancelled => StateName::Cancelled,
        StateType::Crashed => StateName::Crashed,
        _ => StateName::Failed,
    }
}

pub(super) fn death(status: &std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(9), _) => "its process was killed (SIGKILL): by hand, or because memory ran out".to_owned(),
            (Some(signal), _) => format!("its process died of signal {signal}"),
            (None, Some(code)) => format!("its process ended with code {code} without saying why"),
            (None, None) => "its process ended without saying why".to_owned(),
        },
        Err(error) => format!("its process could not be waited for: {error}"),
    }
}

fn failed(flow: &FlowDefinition, claim: &Claim, state: StateName, message: String, retryable: bool) -> Ending {
    let failed_attempts = claim.flow_run.failed_attempts + 1;
    let delay_ms = retryable
        .then(|| flow.retry.delay_after_ms(failed_attempts, chance()))
        .flatten();
    Ending::Failed {
        state,
        message,
        retry_after: delay_ms.map(Duration::from_millis),
    }
}

/// A number in 0..1 that differs from run to run.
fn chance() -> f64 {
    f64::from(u32::try_from(uuid::Uuid::new_v4().as_u128() >> 96).unwrap_or(0)) / f64::from(u32::MAX)
}

fn log_line(lease: Lease, level: LogLevel, message: String) -> LogLine {
    LogLine {
        attempt: lease.attempt,
        level,
        message,
        timestamp: Timestamp::now(),
    }
}

/// Writes what the child's pipe takes of `outgoing`; waits for ever where there is nothing to write. Cancel safe.
async fn write_some(stdin: &mut Option<ChildStdin>, outgoing: &mut Vec<u8>) {
    let Some(pipe) = stdin.as_mut().filter(|_| !outgoing.is_empty()) else {
        return std::future::pending().await;
    };
    if let Ok(written) = pipe.write(outgoing).await {
        outgoing.drain(..written);
    } else {
        // It has died, which is noticed elsewhere, or wants to hear nothing more.
        *stdin = None;
        outgoing.clear();
    }
}

pub(super) async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
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
