//! This program and its machine, by `/proc`.

use std::path::PathBuf;
use std::{fs, io};

use crate::process::guarantee::Guarantee;

/// What the kernel keeps open: also once the file was replaced by an update.
#[expect(clippy::unnecessary_wraps, reason = "as on other systems")]
pub(super) fn own_program() -> io::Result<PathBuf> {
    Ok("/proc/self/exe".into())
}

pub(super) fn total_memory_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

pub(super) fn prefer_to_die_first() {
    let _ = fs::write("/proc/self/oom_score_adj", "500");
}

/// All of them hold.
pub(super) const WHAT_DOES_NOT_HOLD: &[Guarantee] = &[];
