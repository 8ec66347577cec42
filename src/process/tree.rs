//! Processes of an attempt: finding all of them, and ending them.
//!
//! Every process of an attempt carries [`MARKER`] with the attempt's name in its environment. That finds the whole
//! tree whatever it did: a grandchild that moved to a process group or session of its own, or whose parent has died,
//! even after the worker itself was replaced.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::identity::ProcessIdentity;

/// Environment variable that marks the processes of an attempt.
pub const MARKER: &str = "CAPTIONACC_ATTEMPT";

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Asks the process to end. It passes the word on to what it started.
pub fn terminate(process: &ProcessIdentity) {
    if process.is_alive()
        && let Some(pid) = pid_of(process.pid)
    {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Asks the process and those of its group to end: for a program that passes nothing on by itself.
pub fn terminate_group(process: &ProcessIdentity) {
    if process.is_alive()
        && let Some(pid) = pid_of(process.pid)
    {
        let _ = kill_process_group(pid, Signal::TERM);
    }
}

/// Signals every process of the attempt that this process belongs to, except this one.
pub fn signal_own_tree(signal: Signal) {
    let Ok(marker) = std::env::var(MARKER) else { return };
    let own = std::process::id();
    for pid in marked(&marker).into_iter().filter(|pid| *pid != own).filter_map(pid_of) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills the process group of a process that has just ended: what cleared its environment there has no mark.
///
/// For its parent alone, right after its end: later its number may be another group's.
pub fn kill_group_of_ended(process: &ProcessIdentity) {
    if let Some(pid) = pid_of(process.pid) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Kills the attempt's process, its group and everything marked as its own.
pub fn kill_all(marker: &str, process: Option<&ProcessIdentity>) {
    if let Some(process) = process.filter(|process| process.is_alive())
        && let Some(pid) = pid_of(process.pid)
    {
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = kill_process(pid, Signal::KILL);
    }
    for pid in marked(marker) {
        if let Some(pid) = pid_of(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Kills whatever is left of an attempt and returns once it is gone, or after `patience`: how many processes resisted.
///
/// A worker calls it after the attempt's own process has ended, or in the place of a dead worker.
pub async fn clear(marker: &str, process: Option<&ProcessIdentity>, patience: Duration) -> usize {
    let deadline = Instant::now() + patience;
    loop {
        let left = marked(marker).len() + usize::from(process.is_some_and(ProcessIdentity::is_alive));
        if left == 0 || Instant::now() > deadline {
            return left;
        }
        kill_all(marker, process);
        // Death takes a moment, and no event tells of that of a process which is not our child.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes that carry this marker.
pub fn marked(marker: &str) -> Vec<u32> {
    let entry = format!("{MARKER}={marker}");
    processes()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == entry.as_bytes())
            })
        })
        // The environment of a zombie is empty, that of a dying process not yet.
        .filter(|pid| ProcessIdentity::of(*pid).is_some())
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::str::from_utf8(entry.file_name().as_bytes()).ok()?.parse().ok())
}

/// Memory that the attempt's processes hold, in bytes, shared pages counted each time.
pub fn memory_bytes(process: &ProcessIdentity, marker: Option<&str>) -> u64 {
    let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let resident = |pid: u32| -> Option<u64> {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * page_bytes)
    };
    match marker {
        Some(marker) => marked(marker).into_iter().filter_map(resident).sum(),
        None => resident(process.pid).unwrap_or(0),
    }
}

/// The processes above this one up to npm, if npm started it: when one of them has gone, nobody will stop us.
pub fn ancestors_up_to_npm() -> Vec<ProcessIdentity> {
    let mut ancestors = Vec::new();
    let mut pid = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
    while pid > 1 && ancestors.len() < 8 {
        let Some(identity) = ProcessIdentity::of(pid) else {
            break;
        };
        ancestors.push(identity);
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // npm names its process "npm run worker".
        if command_line.starts_with(b"npm ") || command_line.windows(8).any(|window| window == b"/bin/npm") {
            return ancestors;
        }
        pid = parent(pid).unwrap_or(0);
    }
    // Another runner of scripts: the direct parent is all that is known for sure.
    ancestors.truncate(1);
    ancestors
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.get(stat.rfind(')')? + 2..)?.split(' ').nth(1)?.parse().ok()
}
