//! This program and its machine, by `/proc`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::statfs;

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

/// Names of file systems that other machines may see too, by statfs(2).
const SHARED: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x5346_414f, "AFS"),
    (0x786f_4256, "a folder shared by VirtualBox"),
    (0xbacb_acbc, "a folder shared by VMware"),
];

pub(super) fn shared_file_system(path: &Path) -> io::Result<Option<String>> {
    // Its type is of another size and sign on each processor; the number is of 32 bits everywhere.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as said")]
    let number = statfs(path)?.f_type as u32;
    Ok(SHARED
        .iter()
        .find(|(known, _)| *known == number)
        .map(|(_, name)| (*name).to_owned()))
}

pub(super) fn prefer_to_die_first() {
    let _ = fs::write("/proc/self/oom_score_adj", "500");
}

/// All of them hold.
pub(super) const WHAT_DOES_NOT_HOLD: &[Guarantee] = &[];
