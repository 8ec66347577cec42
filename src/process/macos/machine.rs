//! This program and its machine.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::process::guarantee::Guarantee;

/// Its path: after an update, that of the new one.
pub(super) fn own_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

pub(super) fn total_memory_bytes() -> Option<u64> {
    let wanted = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(wanted)
        .ok()
        .map(|system| system.total_memory())
}

/// MNT_LOCAL of <sys/mount.h>.
const IS_LOCAL: u32 = 0x1000;

pub(super) fn shared_file_system(path: &Path) -> io::Result<Option<String>> {
    let found = statfs(path)?;
    let letters = found.f_fstypename.iter().map(|letter| letter.cast_unsigned());
    let name: Vec<u8> = letters.take_while(|letter| *letter != 0).collect();
    Ok((found.f_flags & IS_LOCAL == 0).then(|| String::from_utf8_lossy(&name).into_owned()))
}

/// No user may say so there.
pub(super) const fn prefer_to_die_first() {}

pub(super) const WHAT_DOES_NOT_HOLD: &[Guarantee] = &[
    Guarantee {
        what: "every process of an attempt ends with it",
        instead: "one that moved to a process group of its own, whose parent has died and whose program is part of the system \
                  (/bin/sh, sleep) is not found: the system hides its environment",
    },
    Guarantee {
        what: "a worker goes on as the version that it was started as",
        instead: "after an update its next child is the new version, which refuses the order of another one: restart workers \
                  after an update",
    },
    Guarantee {
        what: "when memory runs out, children end before the worker",
        instead: "the system chooses: keep CAPTIONACC_CHILD_MEMORY_MB below what the machine has",
    },
];
