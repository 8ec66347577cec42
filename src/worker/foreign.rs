//! Runs of other programs' deployments: the program of a [`ForeignClaim`] is started, and ended with its whole process
//! tree.
//!
//! The program does its work and reports its states by itself. What remains for a worker: to start it as its claim says,
//! to end it when it is cancelled, and to say how it ended.

use std::collections::VecDeque;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use uuid::Uuid;

use super::attempt::Wish;
use super::output::{printable, read_line};
use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;
use crate::orchestrator::claims::{Claims, ForeignClaim, ForeignEnd, ForeignEnding};
use crate::process::identity::ProcessIdentity;
use crate::process::tree::{MARKER, clear, kill_all, kill_group_of_ended, terminate_group};
use crate::protocol::MAX_LINE_BYTES;

/// Lines of a dead process that its state's message quotes.
const LAST_LINES: usize = 10;
/// How long the streams of a dead process are read on: a grandchild may hold them open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a killed process may take to be gone.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a claimed foreign run to its end, and sees to it that it has a final state.
///
/// # Errors
/// What [`Claims::foreign_ended`] says.
pub async fn supervise_foreign(
    orchestrator: &dyn Claims,
    claim: &ForeignClaim,
    kill_grace: Duration,
    wish: watch::Receiver<Wish>,
) -> Result<ForeignEnd, OrchestratorError> {
    let ending = run(orchestrator, claim, kill_grace, wish).await;
    orchestrator.foreign_ended(claim.flow_run_id, ending).await
}

async fn run(
    orchestrator: &dyn Claims,
    claim: &ForeignClaim,
    kill_grace: Duration,
    mut wish: watch::Receiver<Wish>,
) -> ForeignEnding {
    let id = claim.flow_run_id;
    let marker = claim.marker();
    let started = match start(claim, &marker) {
        Ok(started) => started,
        Err(problem) => {
            warn!(flow_run_id = %id, problem, "The run could not be started.");
            return ForeignEnding {
                is_cancelled: false,
                message: format!("it could not be started: {problem}"),
            };
        }
    };
    let Started {
        mut child,
        process,
        _scratch,
    } = started;
    info!(flow_run_id = %id, pid = process.pid, name = claim.flow_run_name, "Started a run of a deployment that is not this program's.");
    let lines = listen(&mut child, id, claim.program.shows_output);
    let mut reporting: Wait<'_> = Some(Box::pin(async {
        if let Err(error) = orchestrator.foreign_started(id, process.clone()).await {
            warn!(flow_run_id = %id, error = error.to_line(), "The process id could not be reported.");
        }
    }));
    let mut announcing: Wait<'_> = None;
    let mut terminate_at: Option<Instant> = None;
    let mut kill_at: Option<Instant> = None;
    let mut is_asked_to_stop = false;
    wish.mark_changed();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            changed = wish.changed() => {
                let wanted = if changed.is_ok() { wish.borrow_and_update().clone() } else { Wish::Kill };
                if wanted == Wish::Kill {
                    kill_at = Some(Instant::now());
                } else if wanted != Wish::Run && !is_asked_to_stop {
                    kill_at = Some(Instant::now() + kill_grace);
                    if wanted == Wish::Cancel {
                        // The signal follows once the program knows what it means.
                        announcing = Some(Box::pin(orchestrator.announce_cancellation(id)));
                    } else {
                        terminate_at = Some(Instant::now());
                    }
                }
                is_asked_to_stop |= wanted != Wish::Run;
                if changed.is_err() {
                    kill_all(&marker, Some(&process));
                    break child.wait().await;
                }
            }
            () = done(&mut reporting) => {}
            () = done(&mut announcing) => terminate_at = Some(Instant::now()),
            () = super::attempt::sleep_until(terminate_at) => {
                terminate_at = None;
                terminate_group(&process);
            }
            () = super::attempt::sleep_until(kill_at) => {
                kill_at = None;
                kill_all(&marker, Some(&process));
            }
        }
    };
    // What it started goes with it; an ffmpeg that lives on is what a person who cancels does not expect.
    kill_group_of_ended(&process);
    let left = clear(&marker, Some(&process), DEATH_TIMEOUT).await;
    if left > 0 {
        warn!(flow_run_id = %id, left, "Processes of the run can not be killed; they wait for the system.");
    }
    let last_words = tokio::time::timeout(LAST_WORDS_TIMEOUT, lines).await;
    let last_words = last_words.ok().and_then(Result::ok).unwrap_or_default();
    let wanted = wish.borrow().clone();
    let mut message = if wanted == Wish::Run {
        super::attempt::death(&status)
    } else {
        "interrupted: its worker was stopped".to_owned()
    };
    if !last_words.is_empty() {
        let lines: Vec<&str> = last_words.iter().map(String::as_str).collect();
        message = format!("{message}. Its last words: {}", lines.join(" | "));
    }
    ForeignEnding {
        is_cancelled: wanted == Wish::Cancel,
        message,
    }
}

/// Something that is done beside the program; none once it is.
type Wait<'a> = Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>;

async fn done(wait: &mut Wait<'_>) {
    match wait {
        Some(waited_for) => waited_for.await,
        None => std::future::pending().await,
    }
    *wait = None;
}

struct Started {
    child: Child,
    process: ProcessIdentity,
    /// The working directory, if it is a temporary one: removed when this is dropped.
    _scratch: Option<Scratch>,
}

/// A temporary folder.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(claim: &ForeignClaim, marker: &str) -> Result<Started, String> {
    let program = &claim.program;
    let scratch = if program.working_directory.is_some() {
        None
    } else {
        let folder = std::env::temp_dir().join(format!("captionacc-{}-{}", claim.flow_run_id, Uuid::new_v4()));
        // Of this user alone, and never one that somebody made before.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        Some(Scratch(folder))
    };
    let folder = scratch
        .as_ref()
        .map(|scratch| &scratch.0)
        .or(program.working_directory.as_ref());
    let mut command = Command::new(&program.command);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let child = command
        .args(&program.arguments)
        .env_remove("NOTIFY_SOCKET")
        .envs(&program.environment)
        .env(MARKER, marker)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let place = folder.map_or(String::new(), |folder| format!(" in {}", folder.display()));
            format!("{:?}{place}: {error}", program.command)
        })?;
    let process = child
        .id()
        .and_then(ProcessIdentity::of)
        .ok_or("its process ended at once")?;
    Ok(Started {
        child,
        process,
        _scratch: scratch,
    })
}

/// Passes on what the process writes, and keeps the last lines.
fn listen(child: &mut Child, id: FlowRunId, is_shown: bool) -> JoinHandle<VecDeque<String>> {
    let stdout = child.stdout.take().map(BufReader::new);
    let stderr = child.stderr.take().map(BufReader::new);
    tokio::spawn(async move {
        let (out, err) = tokio::join!(read_all(stdout, id, is_shown), read_all(stderr, id, is_shown));
        if err.is_empty() { out } else { err }
    })
}

async fn read_all<R: AsyncRead + Unpin>(
    stream: Option<BufReader<R>>,
    id: FlowRunId,
    is_shown: bool,
) -> VecDeque<String> {
    let mut last = VecDeque::new();
    let Some(mut stream) = stream else { return last };
    let mut line = Vec::new();
    let mut is_open = true;
    while is_open {
        is_open = read_line(&mut stream, &mut line, MAX_LINE_BYTES).await.unwrap_or(false);
        let text = printable(&std::mem::take(&mut line));
        if !text.is_empty() {
            if is_shown {
                info!(flow_run_id = %id, "{text}");
            }
            last.push_back(text);
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
    }
    last
}
