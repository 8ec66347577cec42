//! Processes by `/proc`, held by pidfd.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process::identity::ProcessIdentity;

/// A process that can be signalled and waited for, and is no other one, whatever became of its number.
#[derive(Debug)]
pub struct Handle {
    identity: ProcessIdentity,
    /// None on a kernel before 5.3: its number does, looked at again each time.
    pidfd: Option<OwnedFd>,
}

impl Handle {
    /// Of this process; `None` if it has ended.
    pub fn open(process: &ProcessIdentity) -> Option<Self> {
        let pidfd = pidfd_open(pid_of(process.pid)?, PidfdFlags::empty()).ok();
        // Still the one of that number: then the descriptor is its own.
        process.is_alive().then(|| Self {
            identity: process.clone(),
            pidfd,
        })
    }

    /// Who it is.
    pub const fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, signal);
        } else if let Some(pid) = pid_of(self.identity.pid).filter(|_| self.identity.is_alive()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Returns once it has ended, also if nobody has waited for it yet. Within a tokio runtime; cancel safe.
    pub async fn ended(&self) {
        if let Some(pidfd) = &self.pidfd {
            // Deprecated because a type of the caller's could lie about its descriptor; a BorrowedFd can not.
            #[expect(deprecated, reason = "sound with a BorrowedFd")]
            let watched = AsyncFd::with_interest(pidfd.as_fd(), Interest::READABLE);
            if let Ok(watched) = watched
                && watched.readable().await.is_ok()
            {
                return;
            }
        }
        let mut pause = Duration::from_millis(5);
        while self.identity.is_alive() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Processes with this variable, `NAME=VALUE`.
pub(super) fn members(variable: &str, leader: Option<&ProcessIdentity>) -> Vec<Handle> {
    let is_marked = |pid: u32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|own| own == variable.as_bytes())
        })
    };
    let begins_after =
        |process: &ProcessIdentity| leader.is_none_or(|leader| process.start_ticks >= leader.start_ticks);
    processes()
        // A zombie is none. To ask when one began never takes long; its environment, for ever if it hangs itself.
        .filter_map(ProcessIdentity::of)
        .filter(begins_after)
        .filter(|process| is_marked(process.pid))
        .filter_map(|process| Handle::open(&process))
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::str::from_utf8(entry.file_name().as_bytes()).ok()?.parse().ok())
}

/// What it has in memory.
pub(super) fn memory_bytes(pid: u32) -> Option<u64> {
    let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * page_bytes)
}

/// Its own time and that of the children it has waited for (fields 14 to 17 of `/proc/PID/stat`).
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name in parentheses may hold anything: fields are counted from after it, the third one first.
    let fields = stat.get(stat.rfind(')')? + 2..)?.split(' ').skip(11).take(4);
    let ticks: u64 = fields.map_while(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(
        ticks * 1000 / rustix::param::clock_ticks_per_second().max(1),
    ))
}

/// Its arguments, an end of text after each.
pub(super) fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.get(stat.rfind(')')? + 2..)?.split(' ').nth(1)?.parse().ok()
}
