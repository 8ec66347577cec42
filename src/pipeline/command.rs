//! An external program as a flow: run without a shell, its output kept as the log, its progress read from it.
//!
//! Progress is a line with `(42/100 frames)` or `42 %`. Exit codes are those of `sysexits.h`: 0 is done; 64 (usage),
//! 65 (data) and 66 (no input) are faults of the input and not tried again; anything else may pass.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::status::ExternalStatus;
use crate::domain::flow_run::LogLevel;
use crate::engine::{Attempt, FaultKind, TaskError};
use crate::process::tree::signal_own_tree;
use crate::protocol::{MAX_LINE_BYTES, Program};

/// How often the wish to stop is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How often a program that is to be dead is killed: to find its processes, all of the machine are looked at.
const KILL_INTERVAL: Duration = Duration::from_secs(1);
/// How long streams of a dead program are read on: something that it started may hold them.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) fn run(attempt: &Attempt, program: &Program) -> Result<String, TaskError> {
    let status = ExternalStatus::begin(attempt)?;
    let seconds = attempt.task("run_command", || {
        let started = Instant::now();
        status.alive(|| execute(attempt, program, &status))?;
        Ok(started.elapsed().as_secs_f64())
    })?;
    if status.is_kept() {
        attempt.may_commit()?;
        status.complete()?;
    }
    attempt.check_stop()?;
    for key in &program.assets {
        let metadata = json!({ "parameters": program.arguments.values, "duration_seconds": seconds });
        attempt.asset(key.clone(), metadata, program.upstream_assets.clone(), false);
    }
    Ok(format!("{} ended well after {seconds:.1} s", program.words[0]))
}

fn execute(attempt: &Attempt, program: &Program, status: &ExternalStatus<'_>) -> Result<(), TaskError> {
    let words = &program.words;
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .envs(&program.environment)
        .env("CAPTIONACC_FLOW_RUN_ID", attempt.order().flow_run_id.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(trace) = attempt.order().trace {
        command.env("TRACEPARENT", trace.to_string());
    }
    if let Some(folder) = &program.working_directory {
        command.current_dir(folder);
    }
    let mut child = command.spawn().map_err(|error| {
        let folder = program
            .working_directory
            .as_ref()
            .map_or(String::new(), |path| format!(" in {}", path.display()));
        let message = format!("{:?} could not be started{folder}: {error}", words[0]);
        TaskError::new("COMMAND_NOT_STARTED", message, FaultKind::Input)
    })?;
    let (sender, lines) = sync_channel(256);
    let readers = [
        read(child.stdout.take(), sender.clone()),
        read(child.stderr.take(), sender),
    ];
    let exit = listen(attempt, &mut child, &lines, status);
    // Readers end with the streams; one that something holds open is left behind and ends with this process.
    drop(readers);
    let exit = exit?;
    attempt.check_stop()?;
    if exit.success() {
        return Ok(());
    }
    let said = match (exit.code(), exit.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("died of signal {signal}"),
        (None, None) => "ended without saying why".to_owned(),
    };
    let kind = if matches!(exit.code(), Some(64..=66)) {
        FaultKind::Input
    } else {
        FaultKind::PassingLater
    };
    Err(TaskError::new(
        "COMMAND_FAILED",
        format!("{} {said}: see its log", words[0]),
        kind,
    ))
}

fn read(stream: Option<impl Read + Send + 'static>, lines: SyncSender<Vec<u8>>) -> Option<thread::JoinHandle<()>> {
    let mut reader = BufReader::new(stream?);
    thread::Builder::new()
        .name("output".to_owned())
        .spawn(move || {
            let most = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
            loop {
                let mut line = Vec::new();
                match reader.by_ref().take(most).read_until(b'\n', &mut line) {
                    Ok(length) if length > 0 => {
                        if lines.send(line).is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        })
        .ok()
}

/// Passes on what the program says until it has ended, and the wish to stop to it.
fn listen(
    attempt: &Attempt,
    child: &mut Child,
    lines: &Receiver<Vec<u8>>,
    status: &ExternalStatus<'_>,
) -> Result<ExitStatus, TaskError> {
    let io = |error: std::io::Error| TaskError::new("COMMAND_IO", error.to_string(), FaultKind::PassingLater);
    // When its tree is signalled next, and with what: asked first, then killed, until nothing comes after.
    let mut signal_at = Instant::now();
    let mut signal = Signal::TERM;
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => hear(attempt, &line, status),
            Err(RecvTimeoutError::Disconnected) if ended.is_some() => break,
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() {
            ended = child.try_wait().map_err(io)?.map(|status| (status, Instant::now()));
        }
        match &ended {
            Some((_, at)) if at.elapsed() > LAST_WORDS_TIMEOUT => break,
            Some(_) => continue,
            None => {}
        }
        if attempt.stop_flag().load(Ordering::Acquire) && Instant::now() >= signal_at {
            signal_own_tree(signal);
            let is_asked = signal == Signal::TERM;
            signal_at = Instant::now()
                + if is_asked {
                    Duration::from_millis(attempt.order().grace_ms)
                } else {
                    KILL_INTERVAL
                };
            signal = Signal::KILL;
        }
    }
    // What the program left running would go on working on a run that has ended.
    signal_own_tree(Signal::KILL);
    ended
        .map(|(status, _)| status)
        .ok_or_else(|| io(std::io::Error::other("its end was not seen")))
}

fn hear(attempt: &Attempt, line: &[u8], status: &ExternalStatus<'_>) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if text.is_empty() {
        return;
    }
    if let Some((done, total, unit)) = progress_of(text) {
        #[expect(clippy::cast_precision_loss, reason = "a fraction for people")]
        let fraction = done.min(total) as f64 / total as f64;
        attempt.progress("run_command", done, Some(total), &unit, fraction);
        status.progress(fraction);
    }
    attempt.log(LogLevel::Info, text);
}

/// `(42/100 frames)` or `42 %` anywhere in a line.
fn progress_of(line: &str) -> Option<(u64, u64, String)> {
    for (at, _) in line.match_indices('(') {
        let Some(inside) = line[at + 1..].split(')').next() else {
            continue;
        };
        let Some((done, rest)) = inside.split_once('/') else {
            continue;
        };
        let mut words = rest.trim().splitn(2, ' ');
        let total = words
            .next()
            .and_then(|word| word.parse::<u64>().ok())
            .filter(|total| *total > 0);
        if let (Ok(done), Some(total)) = (done.trim().parse(), total) {
            let unit = words.next().unwrap_or("steps").trim();
            return Some((done, total, unit.chars().take(32).collect()));
        }
    }
    let percent = line.find('%')?;
    let number = line[..percent]
        .trim_end()
        .rsplit(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let number: f64 = number.parse().ok().filter(|number| (0.0..=100.0).contains(number))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be 0..=100"
    )]
    Some((number as u64, 100, "%".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::progress_of;

    #[test]
    fn progress_is_read_from_what_programs_say() {
        for (line, expected) in [
            ("Extracting (42/100 frames)", Some((42, 100, "frames"))),
            ("[a] (x) (3 / 4)", Some((3, 4, "steps"))),
            ("epoch 3: 57.9 % done", Some((57, 100, "%"))),
            ("100%", Some((100, 100, "%"))),
            ("(1/0 frames)", None),
            ("(see a/b)", None),
            ("250 %", None),
            ("nothing", None),
        ] {
            let found = progress_of(line);
            let found = found.as_ref().map(|(done, total, unit)| (*done, *total, unit.as_str()));
            assert_eq!(found, expected, "{line}");
        }
    }
}
