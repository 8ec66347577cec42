//! Who a process is, so that a number that was given to another process since is not taken for it.
//!
//! A pid alone names a process only while it lives, and only in its PID namespace. Together with its start time, the
//! boot and the namespace that it belongs to, it names one process for ever.
//!
//! Only processes of this namespace can be told and signalled so: whether one of another container lives is asked of its
//! lock (`life.rs`).

use serde::{Deserialize, Serialize};

#[cfg_attr(target_os = "linux", path = "linux/identity.rs")]
#[cfg_attr(target_os = "macos", path = "macos/identity.rs")]
mod sys;

/// `PROC_PID_INIT_INO` of the kernel.
const FIRST_PID_NAMESPACE: &str = "4026531836";

/// A process, told apart from every other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its id.
    pub pid: u32,
    /// Its start in the system's own count: clock ticks since boot on Linux, microseconds since 1970 on macOS.
    pub start_ticks: u64,
    /// The boot that it belongs to.
    pub boot_id: String,
    /// Where its pid counts, `pid:[4026531836]`; empty on macOS, which has no such namespaces.
    #[serde(default)]
    pub pid_namespace: String,
}

impl ProcessIdentity {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        Self::started(pid, sys::start_ticks(pid).unwrap_or(0))
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
        sys::start_ticks(pid).map(|start_ticks| Self::started(pid, start_ticks))
    }

    /// The child of this process with `pid`, which nobody has waited for yet: it may have ended.
    #[cfg(feature = "worker")]
    pub fn of_child(pid: u32) -> Self {
        Self::started(pid, sys::start_ticks(pid).unwrap_or(0))
    }

    fn started(pid: u32, start_ticks: u64) -> Self {
        Self {
            pid,
            start_ticks,
            boot_id: sys::boot_id().to_owned(),
            pid_namespace: sys::pid_namespace().to_owned(),
        }
    }

    /// Whether this very process still lives here: one of another namespace does not. Nor does a zombie: it holds nothing
    /// and does nothing any more.
    pub fn is_alive(&self) -> bool {
        self.boot_id == sys::boot_id()
            && self.pid_namespace == sys::pid_namespace()
            && sys::start_ticks(self.pid) == Some(self.start_ticks)
    }
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
