//! Processes by `/proc`, held by pidfd.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process::identity::ProcessIdentity;

/// How often an environment is read that is empty, or ends in the middle of a variable.
const LOOKS: u32 = 20;
/// A change of programs takes some tens of microseconds.
const BETWEEN_LOOKS: Duration = Duration::from_micros(100);
/// What most environments are shorter than.
const MOST_ENVIRONMENTS_BYTES: usize = 16 << 10;

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
    let begins_after =
        |process: &ProcessIdentity| leader.is_none_or(|leader| process.start_ticks >= leader.start_ticks);
    processes()
        // A zombie is none. To ask when one began never takes long; its environment, for ever if it hangs itself.
        .filter_map(ProcessIdentity::of)
        .filter(begins_after)
        .filter(|process| has_variable(process.pid, variable.as_bytes()))
        .filter_map(|process| Handle::open(&process))
        .collect()
}

/// Whether the process has this variable in its environment. One that goes from a program to the next shows none for that moment,
/// or only the beginning of it.
fn has_variable(pid: u32, variable: &[u8]) -> bool {
    for _ in 0..LOOKS {
        let Ok(environment) = environment(pid) else {
            return false;
        };
        if environment.split(|byte| *byte == 0).any(|own| own == variable) {
            return true;
        }
        if environment.last() == Some(&0) || !has_program(pid) {
            return false;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    // It was started with no environment at all.
    false
}

/// Its variables, an end of text after each, in as few calls as can be: each is answered from the program that the process runs.
fn environment(pid: u32) -> io::Result<Vec<u8>> {
    let mut file = File::open(format!("/proc/{pid}/environ"))?;
    let mut bytes = vec![0; MOST_ENVIRONMENTS_BYTES];
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..])? {
            0 => break,
            read => length += read,
        }
        if length == bytes.len() {
            bytes.resize(length * 2, 0);
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Whether it is none of the kernel's own.
fn has_program(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
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
