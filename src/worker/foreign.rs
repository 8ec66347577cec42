//! Runs of other programs' deployments: the program of a [`ForeignClaim`] is started, and ended with its whole process
//! tree.
//!
//! The program does its work and reports its states by itself. What remains for a worker: to start it as its claim says,
//! to end it when it is cancelled, and to say how it ended.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::attempt::Wish;
use super::output::printable;
use super::supervise::{Asked, End, Happening, Input, Limits, Plan, Tree, death};
use crate::domain::error::OrchestratorError;
use crate::domain::trace::VARIABLES;
use crate::orchestrator::claims::{Claims, ForeignClaim, ForeignEnd, ForeignEnding};
use crate::process::life::{bury, lend};
use crate::protocol::MAX_LINE_BYTES;

/// Lines of a dead process that its state's message quotes.
const LAST_LINES: usize = 10;

/// Runs a claimed foreign run to its end, and sees to it that it has a final state.
///
/// # Errors
/// What [`Claims::foreign_ended`] says.
pub async fn supervise_foreign(
    orchestrator: &dyn Claims,
    claim: &ForeignClaim,
    kill_grace: Duration,
    mut wish: watch::Receiver<Wish>,
) -> Result<ForeignEnd, OrchestratorError> {
    let id = claim.flow_run_id;
    // The folder or the program may lie on a disk that does not answer.
    let mut has_been_asked = false;
    let started = tokio::select! {
        started = start(claim, kill_grace) => started,
        () = asked_to_stop(&mut wish) => {
            has_been_asked = true;
            Err("its worker was told to stop it before it began".to_owned())
        }
    };
    let ending = match started {
        Ok((tree, scratch)) => {
            let ending = run(orchestrator, claim, tree, &mut wish).await;
            // Beside, as everything that waits for a disk.
            drop(spawn_blocking(move || drop(scratch)));
            ending
        }
        Err(problem) => {
            warn!(flow_run_id = %id, problem, "The run could not be started.");
            ForeignEnding {
                is_cancelled: *wish.borrow() == Wish::Cancel,
                is_given_back: has_been_asked,
                message: format!("it could not be started: {problem}"),
            }
        }
    };
    bury(&claim.lock);
    orchestrator.foreign_ended(id, ending).await
}

async fn asked_to_stop(wish: &mut watch::Receiver<Wish>) {
    // A worker that is gone wishes it too.
    let _ = wish.wait_for(|wish| *wish != Wish::Run).await;
}

/// The program, and the temporary folder that it works in, if it has one.
async fn start(claim: &ForeignClaim, grace: Duration) -> Result<(Tree, Option<TempDir>), String> {
    let program = &claim.program;
    let lock = lend(&claim.lock).map_err(|error| format!("{}: {error}", claim.lock.display()))?;
    let scratch = if program.working_directory.is_some() {
        None
    } else {
        let prefix = format!("captionacc-{}-", claim.flow_run_id);
        let made = spawn_blocking(move || tempfile::Builder::new().prefix(&prefix).tempdir()).await;
        let made = made.map_err(std::io::Error::other).and_then(|made| made);
        Some(made.map_err(|error| format!("a temporary folder: {error}"))?)
    };
    let folder = scratch
        .as_ref()
        .map(TempDir::path)
        .or(program.working_directory.as_deref());
    let mut command = Command::new(&program.command);
    command.args(&program.arguments).env_remove("NOTIFY_SOCKET");
    // The trace that this process was started in is not the run's.
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.envs(&program.environment);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let plan = Plan {
        command,
        marker: claim.marker(),
        starts_programs: true,
        input: Input::Lock(lock),
        longest_line: MAX_LINE_BYTES,
        // Its own platform bounds it.
        limits: Limits::default(),
        asked: Asked::Group,
        grace,
    };
    match Tree::start(plan).await {
        Ok(tree) => Ok((tree, scratch)),
        Err(error) => {
            let place = folder.map_or(String::new(), |folder| format!(" in {}", folder.display()));
            Err(format!("{:?}{place}: {error}", program.command))
        }
    }
}

/// Until the end of the whole tree.
async fn run(
    orchestrator: &dyn Claims,
    claim: &ForeignClaim,
    mut tree: Tree,
    wish: &mut watch::Receiver<Wish>,
) -> ForeignEnding {
    let id = claim.flow_run_id;
    let process = tree.process().clone();
    info!(flow_run_id = %id, pid = process.pid, name = claim.flow_run_name, "Started a run of a deployment that is not this program's.");
    let mut reporting: Wait<'_> = Some(Box::pin(async {
        if let Err(error) = orchestrator.foreign_started(id, process).await {
            warn!(flow_run_id = %id, error = error.to_line(), "The process id could not be reported.");
        }
    }));
    let mut announcing: Wait<'_> = None;
    let mut output = Output::default();
    let mut is_wished = true;
    wish.mark_changed();
    let end = loop {
        tokio::select! {
            happening = tree.next() => match happening {
                Happening::Line(line) => output.hear(claim, &line, Stream::Output),
                Happening::ErrorLine(line) => output.hear(claim, &line, Stream::Errors),
                Happening::Exceeded(_) => {}
                Happening::Ended(end) => break end,
            },
            changed = wish.changed(), if is_wished => {
                is_wished = changed.is_ok();
                let wanted = if is_wished { wish.borrow_and_update().clone() } else { Wish::Kill };
                match wanted {
                    Wish::Run => {}
                    // The signal follows once the program knows what it means.
                    Wish::Cancel => announcing = Some(Box::pin(orchestrator.announce_cancellation(id))),
                    Wish::GiveBack => tree.stop(),
                    Wish::Kill => tree.kill(),
                }
            }
            () = done(&mut announcing) => tree.stop(),
            () = done(&mut reporting) => {}
        }
    };
    if end.left > 0 {
        let left = end.left;
        warn!(flow_run_id = %id, left, "Processes of the run can not be killed; they wait for the system.");
    }
    ending(&wish.borrow(), &end, output)
}

fn ending(wanted: &Wish, end: &End, output: Output) -> ForeignEnding {
    let mut message = if *wanted == Wish::Run {
        death(&end.status)
    } else {
        "interrupted: its worker was stopped".to_owned()
    };
    let last_words = output.last_words();
    if !last_words.is_empty() {
        message = format!("{message}. Its last words: {last_words}");
    }
    ForeignEnding {
        is_given_back: false,
        is_cancelled: *wanted == Wish::Cancel,
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

#[derive(Debug, Clone, Copy)]
enum Stream {
    Output,
    Errors,
}

/// The last lines of a program.
#[derive(Debug, Default)]
struct Output {
    lines: VecDeque<String>,
    error_lines: VecDeque<String>,
}

impl Output {
    fn hear(&mut self, claim: &ForeignClaim, line: &[u8], stream: Stream) {
        let text = printable(line);
        if text.is_empty() {
            return;
        }
        if claim.program.shows_output {
            info!(flow_run_id = %claim.flow_run_id, "{text}");
        }
        let last = match stream {
            Stream::Output => &mut self.lines,
            Stream::Errors => &mut self.error_lines,
        };
        last.push_back(text);
        if last.len() > LAST_LINES {
            last.pop_front();
        }
    }

    /// Of its errors, if it has said any.
    fn last_words(self) -> String {
        let last = if self.error_lines.is_empty() {
            self.lines
        } else {
            self.error_lines
        };
        Vec::from(last).join(" | ")
    }
}
