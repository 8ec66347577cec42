//! Processes by libproc and, for their environment, sysctl; their ends by kqueue.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use kqueue::{EventFilter, FilterFlag, Watcher};
use libproc::bsd_info::BSDInfo;
use libproc::pid_rusage::{RUsageInfoV2, pidrusage};
use libproc::proc_pid::pidinfo;
use libproc::processes::{ProcFilter, pids_by_type};
use rustix::process::{Pid, Signal, kill_process};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process::identity::ProcessIdentity;

/// A process that can be signalled and waited for, and is no other one, whatever became of its number.
#[derive(Debug)]
pub struct Handle {
    identity: ProcessIdentity,
}

impl Handle {
    /// Of this process; `None` if it has ended.
    pub fn open(process: &ProcessIdentity) -> Option<Self> {
        process.is_alive().then(|| Self {
            identity: process.clone(),
        })
    }

    /// Who it is.
    pub const fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = pid_of(self.identity.pid).filter(|_| self.identity.is_alive()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Returns once it has ended, also if nobody has waited for it yet. Within a tokio runtime; cancel safe.
    pub async fn ended(&self) {
        if let Some(watched) = self.watch() {
            // Watched from now on: an end in between is seen here.
            if self.identity.is_alive() && watched.readable().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let mut pause = Duration::from_millis(5);
        while self.identity.is_alive() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn watch(&self) -> Option<AsyncFd<Watcher>> {
        let mut watcher = Watcher::new().ok()?;
        let pid = i32::try_from(self.identity.pid).ok()?;
        watcher
            .add_pid(pid, EventFilter::EVFILT_PROC, FilterFlag::NOTE_EXIT)
            .ok()?;
        watcher.watch().ok()?;
        // Deprecated because a type of the caller's could lie about its descriptor; this one owns its queue.
        #[expect(deprecated, reason = "sound with a type that owns its descriptor")]
        AsyncFd::with_interest(watcher, Interest::READABLE).ok()
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Processes with this variable, `NAME=VALUE`, those of the leader's group, and what is below any of them.
pub(super) fn members(variable: &str, leader: Option<&ProcessIdentity>) -> Vec<Handle> {
    let mut found: BTreeSet<u32> = marked(variable).into_iter().collect();
    if let Some(leader) = leader {
        found.extend(pids(ProcFilter::ByProgramGroup { pgrpid: leader.pid }));
        found.insert(leader.pid);
    }
    let mut unseen: Vec<u32> = found.iter().copied().collect();
    while let Some(ppid) = unseen.pop() {
        let children = pids(ProcFilter::ByParentProcess { ppid });
        unseen.extend(children.into_iter().filter(|child| found.insert(*child)));
    }
    found
        .into_iter()
        .filter_map(ProcessIdentity::of)
        .filter(|process| leader.is_none_or(|leader| process.start_ticks >= leader.start_ticks))
        .filter_map(|process| Handle::open(&process))
        .collect()
}

fn pids(filter: ProcFilter) -> Vec<u32> {
    pids_by_type(filter).unwrap_or_default()
}

/// Those whose environment the system shows.
fn marked(variable: &str) -> Vec<u32> {
    let variable = OsString::from(variable);
    let Ok(mut system) = System::new() else {
        return Vec::new();
    };
    let wanted = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, wanted);
    system
        .processes()
        .values()
        .filter(|process| process.environ().contains(&variable))
        .map(|process| process.pid().as_u32())
        .collect()
}

/// What it has in memory, compressed or not: what the system's own limits count.
pub(super) fn memory_bytes(pid: u32) -> Option<u64> {
    let usage = pidrusage::<RUsageInfoV2>(i32::try_from(pid).ok()?).ok()?;
    Some(usage.ri_phys_footprint)
}

/// Its own time.
pub(super) fn cpu_time(pid: u32) -> Option<Duration> {
    let mut system = System::new().ok()?;
    let pid = sysinfo::Pid::from_u32(pid);
    let wanted = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, wanted);
    Some(Duration::from_millis(system.process(pid)?.accumulated_cpu_time()))
}

/// Its arguments, an end of text after each.
pub(super) fn command_line(pid: u32) -> Vec<u8> {
    let Ok(mut system) = System::new() else {
        return Vec::new();
    };
    let pid = sysinfo::Pid::from_u32(pid);
    let wanted = ProcessRefreshKind::nothing().with_cmd(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, wanted);
    let Some(process) = system.process(pid) else {
        return Vec::new();
    };
    process
        .cmd()
        .iter()
        .flat_map(|argument| [argument.as_encoded_bytes(), b"\0"].concat())
        .collect()
}

pub(super) fn parent(pid: u32) -> Option<u32> {
    let info = pidinfo::<BSDInfo>(i32::try_from(pid).ok()?, 0).ok()?;
    Some(info.pbi_ppid)
}
