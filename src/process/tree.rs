//! The processes of an attempt: finding all of them, and ending them.
//!
//! Every process of an attempt carries [`MARKER`] with the attempt's name in its environment. On Linux that finds the whole
//! tree whatever it did: a grandchild that moved to a process group or session of its own, or whose parent has died, even
//! after the worker itself was replaced. On macOS, which hides the environment of the system's own programs, it is what is
//! found by group, by parent and by mark.
//!
//! To find them, every process of the machine is looked at. That takes milliseconds, and for ever where one of them can not
//! be looked at: it is never done on a thread that has something else to do.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::identity::ProcessIdentity;

#[cfg_attr(target_os = "linux", path = "linux/tree.rs")]
#[cfg_attr(target_os = "macos", path = "macos/tree.rs")]
mod sys;

pub use sys::Handle;

/// Environment variable that marks the processes of an attempt.
pub const MARKER: &str = "CAPTIONACC_ATTEMPT";

/// How long a killed process is waited for before all are looked for anew; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Sends a signal to the process's group.
pub fn signal_group(process: &ProcessIdentity, signal: Signal) {
    if process.is_alive() {
        signal_group_of_child(process, signal);
    }
}

/// Sends a signal to the group of a child that may have ended: for its parent alone, and before it was waited for, which
/// lets the system give its number to another group.
pub fn signal_group_of_child(child: &ProcessIdentity, signal: Signal) {
    if let Some(group) = i32::try_from(child.pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, signal);
    }
}

/// Searches at once: those that hang must not take all the threads that the worker has for what may wait.
static SEARCHES: Semaphore = Semaphore::const_new(32);

/// Leave for a search of one's own among the processes of the machine; `None`: too many hang already.
pub fn may_search() -> Option<SemaphorePermit<'static>> {
    SEARCHES.try_acquire().ok()
}

/// Signals every process of the attempt that this process belongs to, except this one.
pub fn signal_own_tree(signal: Signal) {
    let Ok(marker) = std::env::var(MARKER) else { return };
    let own = ProcessIdentity::own();
    for member in members(&marker, Some(&own)) {
        if *member.identity() != own {
            member.signal(signal);
        }
    }
}

/// Kills whatever is left of an attempt and returns once it is gone, or after `patience`: how many processes resisted. What
/// can not be looked at counts as one.
///
/// A worker calls it after the attempt's own process has ended, or in the place of a dead worker.
pub async fn clear(marker: &str, leader: Option<&ProcessIdentity>, patience: Duration) -> usize {
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let (marker, leader) = (marker.to_owned(), leader.cloned());
        let killing = async move {
            let permit = SEARCHES.acquire().await.ok()?;
            let searching = move || {
                let killed = kill(&marker, leader.as_ref());
                drop(permit);
                killed
            };
            spawn_blocking(searching).await.ok()
        };
        let Ok(Some(killed)) = timeout_at(deadline, killing).await else {
            return 1;
        };
        if killed.is_empty() || Instant::now() > deadline {
            return killed.len();
        }
        // Those that resist may do so because others are there, or come: all are looked for again.
        let until = deadline.min(Instant::now() + pause);
        for process in &killed {
            let _ = timeout_at(until, process.ended()).await;
        }
        pause *= 2;
    }
}

fn kill(marker: &str, leader: Option<&ProcessIdentity>) -> Vec<Handle> {
    if let Some(leader) = leader {
        signal_group(leader, Signal::KILL);
    }
    let mut members = members(marker, leader);
    // Not marked, if it cleared its environment.
    if let Some(leader) = leader.and_then(Handle::open) {
        members.push(leader);
    }
    for member in &members {
        member.signal(Signal::KILL);
    }
    members
}

/// The processes of an attempt. None of them is older than its leader.
fn members(marker: &str, leader: Option<&ProcessIdentity>) -> Vec<Handle> {
    sys::members(&format!("{MARKER}={marker}"), leader)
}

/// Processes that carry this marker.
pub fn marked(marker: &str) -> Vec<u32> {
    members(marker, None)
        .iter()
        .map(|member| member.identity().pid)
        .collect()
}

/// Memory that the processes of an attempt hold, in bytes, shared pages counted each time.
pub fn memory_bytes(marker: &str, leader: &ProcessIdentity) -> u64 {
    members(marker, Some(leader))
        .iter()
        .filter_map(|member| sys::memory_bytes(member.identity().pid))
        .sum()
}

/// Memory that one process holds, in bytes.
pub fn memory_bytes_of(process: &ProcessIdentity) -> u64 {
    sys::memory_bytes(process.pid).unwrap_or(0)
}

/// Time that one process has computed, with those of its children that have ended.
pub fn cpu_time_of(process: &ProcessIdentity) -> Duration {
    sys::cpu_time(process.pid).unwrap_or_default()
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
        let command_line = sys::command_line(pid);
        // npm names its process "npm run worker".
        if command_line.starts_with(b"npm ") || command_line.windows(8).any(|window| window == b"/bin/npm") {
            return ancestors;
        }
        pid = sys::parent(pid).unwrap_or(0);
    }
    // Another runner of scripts: the direct parent is all that is known for sure.
    ancestors.truncate(1);
    ancestors
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn the_thread_that_clears_looks_at_no_process_itself() {
        runtime().block_on(async {
            let clearing = clear("nobody has this", None, Duration::from_mins(1));
            tokio::pin!(clearing);
            tokio::select! {
                biased;
                _ = &mut clearing => panic!("the search was done by the one who asked"),
                () = std::future::ready(()) => {}
            }
            assert_eq!(clearing.await, 0);
        });
    }

    #[test]
    fn what_is_cleared_is_dead_when_it_returns() {
        let marker = format!("cleared-{}", uuid::Uuid::new_v4());
        // A grandchild in a session of its own, whose parent has died.
        let mut shell = Command::new("sh")
            .args(["-c", "setsid sleep 1000 & :"])
            .env(MARKER, &marker)
            .spawn()
            .expect("sh starts");
        shell.wait().expect("it ends");
        // setsid has its mark as well.
        let deadline = Instant::now() + Duration::from_mins(1);
        let sleeping = |pid: &u32| sys::command_line(*pid).starts_with(b"sleep");
        let sleepers = loop {
            let found = marked(&marker);
            if found.len() == 1 && found.iter().all(sleeping) {
                break found;
            }
            assert!(Instant::now() < deadline, "{found:?}");
        };
        assert_eq!(runtime().block_on(clear(&marker, None, Duration::from_mins(1))), 0);
        assert_eq!(ProcessIdentity::of(sleepers[0]), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_goes_from_program_to_program_is_found_at_every_look() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = folder.path().join("again.sh");
        std::fs::write(&script, "exec sh \"$0\"\n").expect("written");
        let marker = format!("again-{}", uuid::Uuid::new_v4());
        let mut child = Command::new("sh")
            .arg(&script)
            .env(MARKER, &marker)
            .spawn()
            .expect("sh starts");
        let missed = (0..300).filter(|_| marked(&marker) != [child.id()]).count();
        child.kill().expect("killed");
        child.wait().expect("it ends");
        assert_eq!(missed, 0);
    }

    #[test]
    fn the_end_of_a_process_is_heard_while_its_number_is_still_its_own() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep starts");
        let identity = ProcessIdentity::of(child.id()).expect("it runs");
        let handle = Handle::open(&identity).expect("it runs");
        runtime().block_on(async {
            tokio::join!(handle.ended(), async { handle.signal(Signal::KILL) });
        });
        assert!(!identity.is_alive());
        assert!(Handle::open(&identity).is_none());
        child.wait().expect("it was not waited for");
    }
}
