//! Who a process is, by libproc.

use std::sync::OnceLock;

use libproc::bsd_info::BSDInfo;
use libproc::proc_pid::pidinfo;
use sysctl::Sysctl;

/// Start of the process; `None` if there is none, only its zombie (of which libproc knows nothing), or it is another user's.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    let info = pidinfo::<BSDInfo>(i32::try_from(pid).ok()?, 0).ok()?;
    Some(info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec)
}

/// Asked once: a process lives in one boot.
pub(super) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        sysctl::Ctl::new("kern.bootsessionuuid")
            .and_then(|session| session.value_string())
            .unwrap_or_default()
    })
}

/// There are none.
pub(super) const fn pid_namespace() -> &'static str {
    ""
}
