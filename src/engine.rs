//! The child's side: reads its work order, runs the flow's tasks, says what happens, and stops when told to.
//!
//! The child is pure: order in, events out, annotations.db and scratch written. It has no network, no key and no
//! knowledge of the orchestrator. It stops on SIGTERM (from its worker, or from the web app that deletes the video)
//! and when its stdin ends, which means that the worker has gone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use uuid::Uuid;

use crate::domain::asset::Materialization;
use crate::domain::flow_run::{ArtifactType, LogLevel};
use crate::domain::state::StateType;
use crate::process::life::Life;
use crate::process::machine::{give_way, prefer_to_die_first};
use crate::process::tree::signal_own_tree;
use crate::protocol::{ChildEvent, Failure, MAX_FRAME_BYTES, PROTOCOL_VERSION, WorkOrder, WorkerMessage, frame};

/// How long a child whose worker has gone may take to stop by itself.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);
/// Progress goes out this often at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Exit code of a child that was told to stop.
const EXIT_STOPPED: u8 = 3;
/// Exit code of a child that got no order.
const EXIT_NO_ORDER: u8 = 4;

/// How often a task is begun in one attempt, when what failed may pass.
const TASK_ATTEMPTS: u32 = 3;
/// Wait before a task's second try; doubles.
const TASK_RETRY_DELAY_MS: u64 = 500;

/// Why a task did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    /// Stable, `NOT_A_VIDEO`.
    pub code: String,
    /// For a person.
    pub message: String,
    /// What may follow.
    pub kind: FaultKind,
}

/// What may follow a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The input is at fault: never tried again.
    Input,
    /// It may pass: tried again.
    Passing,
    /// It may pass, but not so soon that the task should be tried again in this attempt.
    PassingLater,
    /// Told to stop, or the video is deleted: cancelled.
    Stopped,
}

impl TaskError {
    /// A failure of that kind.
    pub fn new(code: impl Into<String>, message: impl Into<String>, kind: FaultKind) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            kind,
        }
    }

    /// Told to stop.
    pub fn stopped(why: impl Into<String>) -> Self {
        Self::new("CANCELLED", why, FaultKind::Stopped)
    }

    fn retryable(&self) -> bool {
        matches!(self.kind, FaultKind::Passing | FaultKind::PassingLater)
    }
}

/// The attempt that this process is.
pub struct Attempt {
    order: WorkOrder,
    voice: &'static Voice,
    stop: &'static Stop,
    answers: Mutex<Receiver<WorkerMessage>>,
    task: Mutex<Option<String>>,
}

/// What the child says goes out here. Lives as long as the process: what waits for its turn is said by a thread of its own.
struct Voice {
    events: Mutex<File>,
    progress: Mutex<SaidProgress>,
}

/// When progress was said last, and what is to be said next.
#[derive(Default)]
struct SaidProgress {
    at: Option<Instant>,
    waiting: Option<ChildEvent>,
}

impl Voice {
    fn say(&self, event: &ChildEvent) {
        let line = frame(event).unwrap_or_else(|too_long| {
            let message = format!("something that the run had to say was left out: {too_long}");
            let level = LogLevel::Warning;
            frame(&ChildEvent::Log { level, message }).expect("it is short")
        });
        let _ = lock(&self.events).write_all(&line);
    }

    /// Says it, now or [`PROGRESS_INTERVAL`] after the one before; the newest in place of what still waits. `is_end`: at once.
    fn say_progress(&'static self, event: ChildEvent, is_end: bool) {
        let mut progress = lock(&self.progress);
        let since = progress.at.map_or(PROGRESS_INTERVAL, |at| at.elapsed());
        let wait = PROGRESS_INTERVAL.saturating_sub(since);
        let is_first = progress.waiting.replace(event).is_none();
        if is_end || wait.is_zero() {
            self.say_waiting(progress);
        } else if is_first {
            // Without a thread it is said with the next one, or at the end.
            let _ = thread::Builder::new().name("progress".to_owned()).spawn(move || {
                thread::sleep(wait);
                self.say_waiting(lock(&self.progress));
            });
        }
    }

    /// Says what waits for its turn.
    fn say_waiting(&self, mut progress: MutexGuard<'_, SaidProgress>) {
        if let Some(event) = progress.waiting.take() {
            progress.at = Some(Instant::now());
            self.say(&event);
        }
    }
}

/// Whether to stop, and why. Lives as long as the process: its threads outlive everything else.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    why: Mutex<Option<&'static str>>,
}

impl Stop {
    fn ask(&self, why: &'static str) {
        lock(&self.why).get_or_insert(why);
        self.asked.store(true, Ordering::Release);
    }

    /// Set once it is time to stop.
    pub const fn flag(&self) -> &AtomicBool {
        &self.asked
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the attempt that comes in on stdin through `pipeline`, which returns a line that says what was done. What it says goes to stdout; the exit code only repeats it.
pub fn run_child(pipeline: fn(&Attempt) -> Result<String, TaskError>) -> ExitCode {
    // A decoder that prints must not be able to speak for us: events go to a descriptor of their own, and
    // descriptor 1 becomes the log.
    let events = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).map(File::from);
    let redirected = rustix::stdio::dup2_stdout(rustix::stdio::stderr());
    let (Ok(events), Ok(())) = (events, redirected) else {
        eprintln!("captionacc attempt: this is started by the worker, with stdin, stdout and stderr open");
        return ExitCode::from(EXIT_NO_ORDER);
    };
    let mut stdin = BufReader::new(std::io::stdin());
    let order = match read_order(&mut stdin) {
        Ok(order) => order,
        Err(problem) => {
            eprintln!("captionacc attempt: {problem}; this is started by the worker, not by hand");
            return ExitCode::from(EXIT_NO_ORDER);
        }
    };
    prefer_to_die_first();
    if order.gives_way {
        give_way();
    }
    match Life::enter(&order.lock) {
        // Let go of by the end of this process and by nothing before: whatever it leaves running at its end is part of it.
        Ok(Some(life)) => {
            Box::leak(Box::new(life));
        }
        Ok(None) => {
            eprintln!("captionacc attempt: the run was taken back before it began");
            return ExitCode::from(EXIT_STOPPED);
        }
        Err(error) => {
            eprintln!(
                "captionacc attempt: {} can not be locked: {error}",
                order.lock.display()
            );
            return ExitCode::from(EXIT_NO_ORDER);
        }
    }
    let stop: &'static Stop = Box::leak(Box::default());
    let (answer, answers) = channel();
    if let Err(error) = listen(stdin, answer, stop) {
        eprintln!("captionacc attempt: {error}");
        return ExitCode::from(EXIT_NO_ORDER);
    }
    let attempt = Attempt {
        order,
        voice: Box::leak(Box::new(Voice {
            events: Mutex::new(events),
            progress: Mutex::default(),
        })),
        stop,
        answers: Mutex::new(answers),
        task: Mutex::new(None),
    };
    attempt.say(&ChildEvent::Started {
        protocol_version: PROTOCOL_VERSION,
    });
    // A panic is a fault of this program: said as one, with the message that the hook printed in the log.
    let outcome = catch_unwind(AssertUnwindSafe(|| pipeline(&attempt))).unwrap_or_else(|_| {
        Err(TaskError::new(
            "INTERNAL",
            "a fault of this program: see the log for where",
            FaultKind::PassingLater,
        ))
    });
    attempt.conclude(outcome)
}

fn read_order(stdin: &mut impl BufRead) -> Result<WorkOrder, String> {
    let mut line = Vec::new();
    stdin
        .take(u64::try_from(MAX_FRAME_BYTES + 1).unwrap_or(u64::MAX))
        .read_until(b'\n', &mut line)
        .map_err(|error| error.to_string())?;
    if line.is_empty() {
        return Err("there is no work order on stdin".to_owned());
    }
    let order: WorkOrder =
        serde_json::from_slice(&line).map_err(|error| format!("the work order is not one: {error}"))?;
    if order.protocol_version != PROTOCOL_VERSION {
        return Err(format!(
            "the work order has version {}, this program knows {PROTOCOL_VERSION}",
            order.protocol_version
        ));
    }
    Ok(order)
}

/// Threads that hear the worker and SIGTERM. They end with the process.
fn listen(
    mut stdin: BufReader<std::io::Stdin>,
    answer: Sender<WorkerMessage>,
    stop: &'static Stop,
) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            stop.ask("stopped by SIGTERM");
        }
    })?;
    thread::Builder::new().name("worker".to_owned()).spawn(move || {
        let mut line = String::new();
        while matches!(stdin.by_ref().take(1 << 16).read_line(&mut line), Ok(length) if length > 0) {
            if let Ok(message) = serde_json::from_str(&line) {
                let _ = answer.send(message);
            }
            line.clear();
        }
        stop.ask("its worker has gone");
        thread::sleep(ORPHAN_GRACE);
        signal_own_tree(rustix::process::Signal::KILL);
        // Nobody listens any more, and what still runs here would hold files that the next attempt needs.
        std::process::exit(i32::from(EXIT_STOPPED));
    })?;
    Ok(())
}

impl Attempt {
    /// The order.
    pub const fn order(&self) -> &WorkOrder {
        &self.order
    }

    /// Set once it is time to stop: long work looks at it often.
    pub const fn stop_flag(&self) -> &AtomicBool {
        self.stop.flag()
    }

    /// [`TaskError::stopped`] once it is time to stop.
    pub fn check_stop(&self) -> Result<(), TaskError> {
        if self.stop_flag().load(Ordering::Acquire) {
            Err(self.stopped())
        } else {
            Ok(())
        }
    }

    /// Makes the attempt stop, as SIGTERM would.
    pub fn ask_to_stop(&self, why: &'static str) {
        self.stop.ask(why);
    }

    /// Why it stops.
    pub fn stopped(&self) -> TaskError {
        TaskError::stopped(lock(&self.stop.why).unwrap_or("stopped"))
    }

    /// Says something to the worker. A worker that can not hear is noticed by the end of stdin.
    pub fn say(&self, event: &ChildEvent) {
        self.voice.say(event);
    }

    /// Says how far the attempt has come, if that waits to be said: what is said next is of something else.
    fn say_how_far(&self) {
        self.voice.say_waiting(lock(&self.voice.progress));
    }

    /// Logs a line.
    pub fn log(&self, level: LogLevel, message: impl Into<String>) {
        self.say(&ChildEvent::Log {
            level,
            message: message.into(),
        });
    }

    /// Leaves an artifact.
    pub fn artifact(&self, key: &str, artifact_type: ArtifactType, description: &str, data: Value) {
        let description = Some(description.to_owned());
        self.say(&ChildEvent::Artifact {
            key: key.to_owned(),
            artifact_type,
            description,
            data,
        });
    }

    /// Names an asset that counts once the run completes.
    pub fn asset(&self, key: String, metadata: Value, upstream_keys: Vec<String>, observed: bool) {
        let materialization = Materialization {
            key,
            metadata,
            upstream_keys,
            observed,
        };
        self.say(&ChildEvent::Asset { materialization });
    }

    /// Says how far the attempt is; as often as one likes, it goes out at most 10 times a second, and the newest always does.
    pub fn progress(&self, task: &str, done: u64, total: Option<u64>, unit: &str, fraction: f64) {
        let event = ChildEvent::Progress {
            task: task.to_owned(),
            done,
            total,
            unit: unit.to_owned(),
            fraction,
        };
        self.voice.say_progress(event, Some(done) == total);
    }

    /// Asks for leave to write the result. It is refused when the run is no longer this attempt's, or is to stop.
    pub fn may_commit(&self) -> Result<(), TaskError> {
        self.ask_for_leave(None).map(|_| ())
    }

    /// The same for the result of one caption; `false`: a newer run has asked for it, and this one leaves it alone.
    pub fn may_commit_caption(&self, caption_id: i64) -> Result<bool, TaskError> {
        self.ask_for_leave(Some(caption_id))
    }

    fn ask_for_leave(&self, caption_id: Option<i64>) -> Result<bool, TaskError> {
        self.check_stop()?;
        self.say(&ChildEvent::MayCommit { caption_id });
        let answers = lock(&self.answers);
        loop {
            match answers.recv_timeout(Duration::from_millis(100)) {
                Ok(WorkerMessage::Commit) => return Ok(true),
                Ok(WorkerMessage::Leave) => return Ok(false),
                Ok(WorkerMessage::Stop) => {
                    return Err(TaskError::stopped("the run is to stop, or another attempt has it"));
                }
                Err(RecvTimeoutError::Timeout) => self.check_stop()?,
                Err(RecvTimeoutError::Disconnected) => return Err(self.stopped()),
            }
        }
    }

    /// Runs a task under a task run of its own; what may pass is tried again, up to 3 times in all.
    pub fn task<T>(&self, name: &str, mut work: impl FnMut() -> Result<T, TaskError>) -> Result<T, TaskError> {
        let task_run_id = Uuid::now_v7();
        let say = |state, run_count, message: Option<String>| {
            self.say_how_far();
            self.say(&ChildEvent::TaskRun {
                task_run_id,
                name: name.to_owned(),
                run_count,
                state,
                message,
            });
        };
        *lock(&self.task) = Some(name.to_owned());
        let mut run_count = 1;
        loop {
            say(StateType::Running, run_count, None);
            let error = match self.check_stop().and_then(|()| work()) {
                Ok(result) => {
                    say(StateType::Completed, run_count, None);
                    *lock(&self.task) = None;
                    return Ok(result);
                }
                Err(error) => error,
            };
            if error.kind == FaultKind::Passing && run_count < TASK_ATTEMPTS && self.check_stop().is_ok() {
                let jitter = fastrand::u64(0..200);
                let delay_ms = (TASK_RETRY_DELAY_MS << (run_count - 1)) + jitter;
                self.log(
                    LogLevel::Warning,
                    format!(
                        "Task {name} failed and is tried again in {delay_ms} ms: {} ({})",
                        error.message, error.code
                    ),
                );
                self.wait(Duration::from_millis(delay_ms))?;
                run_count += 1;
                continue;
            }
            let state = if error.kind == FaultKind::Stopped {
                StateType::Cancelled
            } else {
                StateType::Failed
            };
            say(state, run_count, Some(error.message.clone()));
            return Err(error);
        }
    }

    /// Waits, but not beyond the wish to stop.
    fn wait(&self, duration: Duration) -> Result<(), TaskError> {
        let end = Instant::now() + duration;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.check_stop()?;
            thread::sleep(left.min(Duration::from_millis(50)));
        }
        Ok(())
    }

    fn conclude(&self, outcome: Result<String, TaskError>) -> ExitCode {
        self.say_how_far();
        match outcome {
            Ok(message) => {
                self.say(&ChildEvent::Completed { message });
                ExitCode::SUCCESS
            }
            Err(error) if error.kind == FaultKind::Stopped => {
                self.say(&ChildEvent::Cancelled { message: error.message });
                ExitCode::from(EXIT_STOPPED)
            }
            Err(error) => {
                let failure = Failure {
                    retryable: error.retryable(),
                    task: lock(&self.task).take(),
                    code: error.code,
                    message: error.message,
                };
                self.log(LogLevel::Error, format!("{} ({})", failure.message, failure.code));
                self.say(&ChildEvent::Failed { failure });
                ExitCode::FAILURE
            }
        }
    }
}
