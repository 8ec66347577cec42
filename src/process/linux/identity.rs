//! Who a process is, by `/proc`.

use std::fs;

/// Start of the process (field 22 of `/proc/PID/stat`); `None` if there is none, or only its zombie.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses itself: fields are counted from the last one.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

pub(super) fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid")
        .map(|namespace| namespace.to_string_lossy().into_owned())
        .unwrap_or_default()
}
