//! What `captionacc doctor` says of this machine: its disks, memory and processors.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::machine::{not_guaranteed, total_memory_bytes};
use crate::domain::finding::{Findings, bytes_text};

/// Free space below which a queue is soon in trouble.
const FREE_BYTES_ERROR: u64 = 100 << 20;
/// Free space below which a long video may not fit.
const FREE_BYTES_WARNING: u64 = 2 << 30;
/// Files that a worker with its children's pipes and databases may have open at once, generously.
const OPEN_FILES: u64 = 256;

/// What a worker may take of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Most memory of a child.
    pub child_memory_mb: u64,
    /// Silence after which a child is stopped.
    pub stall_timeout_ms: u64,
    /// How long attempts may go on when the worker is to stop.
    pub grace_ms: u64,
}

/// Whether the machine has what a worker with its queue in `home` needs.
pub fn check(home: &Path, allowance: Allowance) -> Findings {
    let mut findings = Findings::default();
    space(home, &mut findings);
    limits(allowance, &mut findings);
    for guarantee in not_guaranteed() {
        findings.warning("system", guarantee.what, guarantee.instead);
    }
    findings
}

/// The nearest folder of that path that is there.
pub fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"))
}

/// Space on the disks of the queue and of temporary files.
fn space(home: &Path, findings: &mut Findings) {
    let temporary = std::env::temp_dir();
    for (what, folder) in [
        ("home", existing_ancestor(home)),
        ("temporary files", temporary.as_path()),
    ] {
        let shown = folder.display();
        let Ok(found) = statvfs(folder) else {
            findings.warning(
                "disk",
                format!("{what}: {shown} cannot be looked at"),
                "see that the folder exists",
            );
            continue;
        };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let summary = format!("{what}: {} free on the disk of {shown}", bytes_text(free));
        let fix = "free some space on that disk";
        match free {
            free if free < FREE_BYTES_ERROR => findings.error("disk", summary, fix),
            free if free < FREE_BYTES_WARNING => findings.warning("disk", summary, fix),
            _ => findings.ok("disk", summary),
        }
    }
    if access(&temporary, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        findings.warning(
            "disk",
            format!("{} cannot be written by this user", temporary.display()),
            "set TMPDIR to a folder that this user can write",
        );
    }
}

fn limits(allowance: Allowance, findings: &mut Findings) {
    const CHECK: &str = "limits";
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let child_bytes = allowance.child_memory_mb << 20;
    let summary = format!(
        "{processors} processors, {} MB for each child, {} s of silence, grace {} s",
        allowance.child_memory_mb,
        allowance.stall_timeout_ms / 1000,
        allowance.grace_ms / 1000
    );
    match total_memory_bytes() {
        Some(total) if child_bytes > total => findings.warning(
            CHECK,
            format!("{summary}; this machine has only {}", bytes_text(total)),
            "set CAPTIONACC_CHILD_MEMORY_MB to what a child may take of it",
        ),
        _ => findings.ok(CHECK, summary),
    }
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(open_files) = open_files.filter(|open_files| *open_files < OPEN_FILES) {
        findings.warning(
            CHECK,
            format!("a process may have only {open_files} files open"),
            format!("ulimit -n {OPEN_FILES}, or more"),
        );
    }
}
