//! Who a process is, so that a number that was given to another process since is not taken for it.
//!
//! A pid alone names a process only while it lives, and only in its PID namespace. Together with its start time, the
//! boot and the namespace that it belongs to, it names one process for ever.
//!
//! Only processes of this namespace can be told and signalled so: whether one of another container lives is asked of its
//! lock (`life.rs`).

use std::fs;

use serde::{Deserialize, Serialize};

/// `PROC_PID_INIT_INO` of the kernel.
const FIRST_PID_NAMESPACE: &str = "4026531836";

/// A process, told apart from every other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its id.
    pub pid: u32,
    /// Its start, in clock ticks since boot (field 22 of `/proc/PID/stat`); 0 where the system does not tell.
    pub start_ticks: u64,
    /// The boot that it belongs to; empty where the system does not tell.
    pub boot_id: String,
    /// Where its pid counts, `pid:[4026531836]`; empty where the system has no such namespaces.
    #[serde(default)]
    pub pid_namespace: String,
}

impl ProcessIdentity {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_ticks: start_ticks(pid).unwrap_or(0),
            boot_id: boot_id(),
            pid_namespace: pid_namespace(),
        }
    }

    /// Its number for people, different for each process of a machine: the pid, after the number of its namespace unless
    /// that is the machine's first one.
    pub fn number(&self) -> String {
        let namespace = self.pid_namespace.trim_matches(|c: char| !c.is_ascii_digit());
        if namespace.is_empty() || namespace == FIRST_PID_NAMESPACE {
            self.pid.to_string()
        } else {
            format!("{namespace}-{}", self.pid)
        }
    }

    /// The process that has `pid` now, if there is one that is not just a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        start_ticks(pid).map(|start_ticks| Self {
            pid,
            start_ticks,
            boot_id: boot_id(),
            pid_namespace: pid_namespace(),
        })
    }

    /// Whether this very process still lives here: one of another namespace does not. Nor does a zombie: it holds nothing
    /// and does nothing any more.
    pub fn is_alive(&self) -> bool {
        self.boot_id == boot_id()
            && self.pid_namespace == pid_namespace()
            && start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// Start of the process in ticks since boot; `None` if there is none, or only its zombie.
#[cfg(target_os = "linux")]
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses itself: fields are counted from the last one.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Other systems: whether there is such a process is all that is asked.
#[cfg(not(target_os = "linux"))]
fn start_ticks(pid: u32) -> Option<u64> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    match rustix::process::test_kill_process(pid) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Some(0),
        Err(_) => None,
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid")
        .map(|namespace| namespace.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_its_twin_of_another_time_is_not() {
        let own = ProcessIdentity::own();
        assert!(own.is_alive());
        assert!(
            !ProcessIdentity {
                start_ticks: own.start_ticks + 1,
                ..own.clone()
            }
            .is_alive()
        );
        assert!(
            !ProcessIdentity {
                boot_id: "another".to_owned(),
                ..own.clone()
            }
            .is_alive()
        );
        assert!(
            !ProcessIdentity {
                pid_namespace: "another".to_owned(),
                ..own
            }
            .is_alive()
        );
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let identity = ProcessIdentity::of(child.id()).expect("it runs");
        child.kill().expect("it is ours");
        while identity.is_alive() {
            std::thread::yield_now();
        }
        child.wait().expect("it ended");
        assert!(!identity.is_alive());
    }
}
