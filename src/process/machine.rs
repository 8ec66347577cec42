//! What this program asks of the machine as a whole.

use std::io;
use std::path::{Path, PathBuf};

use super::guarantee::Guarantee;

#[cfg_attr(target_os = "linux", path = "linux/machine.rs")]
#[cfg_attr(target_os = "macos", path = "macos/machine.rs")]
mod sys;

/// What does not hold on this system; nothing on Linux.
pub const fn not_guaranteed() -> &'static [Guarantee] {
    sys::WHAT_DOES_NOT_HOLD
}

/// What starts this very program once more.
///
/// # Errors
/// The system does not tell.
pub fn own_program() -> io::Result<PathBuf> {
    sys::own_program()
}

/// The machine's memory; `None` where the system does not tell.
pub fn total_memory_bytes() -> Option<u64> {
    sys::total_memory_bytes()
}

/// The name of the file system of `path` where other machines may see it too (NFS, SMB, …), as far as the system tells.
///
/// # Errors
/// There is nothing at that path, or it cannot be looked at.
pub fn shared_file_system(path: &Path) -> io::Result<Option<String>> {
    sys::shared_file_system(path)
}

/// When memory runs out, this process goes before the worker and the web app, where the system lets one choose.
pub fn prefer_to_die_first() {
    sys::prefer_to_die_first();
}

/// How much nicer a process is that gives way: with 10, one that does not gets nine times its time of a processor that both want.
const GIVING_WAY: i32 = 10;
/// The nicest that there is.
const NICEST: i32 = 19;

/// Where processors are short, this process and those that it starts wait for others: for runs that somebody waits for, the web
/// app, the worker. With no one else there it is as quick as ever.
///
/// For a process of one thread: threads that are there already stay as they are.
pub fn give_way() {
    // Refused, it competes as every other process does.
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    let _ = rustix::process::setpriority_process(None, (own + GIVING_WAY).min(NICEST));
}
