//! Who a process is, by `/proc`.

use std::fs::{self, File};
use std::io::Read;
use std::sync::OnceLock;

/// Start of the process (field 22 of `/proc/PID/stat`); `None` if there is none, or only its zombie.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    // Asked of every process of the machine at a time: one call reads it, since its line is short. The name may be no UTF-8.
    let mut line = [0; 1024];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    let stat = String::from_utf8_lossy(line.get(..length)?);
    // The name in parentheses may hold spaces and parentheses itself: fields are counted from the last one.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Asked once: a process lives in one boot.
pub(super) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    })
}

/// Asked once: a process never leaves its namespace.
pub(super) fn pid_namespace() -> &'static str {
    static NAMESPACE: OnceLock<String> = OnceLock::new();
    NAMESPACE.get_or_init(|| {
        fs::read_link("/proc/self/ns/pid")
            .map(|namespace| namespace.to_string_lossy().into_owned())
            .unwrap_or_default()
    })
}
