//! What `captionacc doctor` says of the dashboard: which one runs for this home, and what is in its way.
//!
//! Each dashboard notes where it is in a file of the home, without its token. The newest one's note stands; one whose process has
//! ended counts for nothing.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::finding::Findings;
use crate::process::identity::ProcessIdentity;

const CHECK: &str = "dashboard";

/// Where a dashboard is.
#[derive(Debug, Serialize, Deserialize)]
struct Notice {
    address: SocketAddr,
    process: ProcessIdentity,
    read_only: bool,
}

/// A note of this process, for as long as this lives.
pub(super) struct Noted(PathBuf);

impl Noted {
    /// Notes that this process shows the dashboard there. It does so also where the note can not be written.
    pub(super) fn write(home: &Path, address: SocketAddr, read_only: bool) -> Self {
        let path = path(home);
        let notice = Notice {
            address,
            process: ProcessIdentity::own(),
            read_only,
        };
        let text = serde_json::to_vec(&notice).expect("plain values");
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&fresh, &path));
        if let Err(error) = written {
            tracing::debug!(%error, "Where the dashboard is could not be noted.");
        }
        Self(path)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if read(&self.0).is_some_and(|notice| notice.process == ProcessIdentity::own()) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn path(home: &Path) -> PathBuf {
    home.join("dashboard.json")
}

fn read(path: &Path) -> Option<Notice> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Which dashboard runs for this home; where none does, whether one could listen at `wanted`.
pub fn check(home: &Path, wanted: SocketAddr) -> Findings {
    let mut findings = Findings::default();
    let running = read(&path(home)).filter(|notice| notice.process.is_alive());
    let Some(notice) = running else {
        match TcpListener::bind(wanted) {
            Ok(_) => findings.ok(CHECK, "none runs for this home (captionacc dashboard)"),
            Err(error) => findings.warning(
                CHECK,
                format!("none runs for this home, and {wanted} can not be listened on: {error}"),
                "captionacc dashboard takes a free port, and says which; another one for good: --listen 127.0.0.1:PORT",
            ),
        }
        return findings;
    };
    let Notice { address, read_only, .. } = notice;
    let pid = notice.process.pid;
    let manner = if read_only { ", read-only" } else { "" };
    if address.ip().is_loopback() {
        findings.ok(CHECK, format!("at http://{address}/ (process {pid}{manner})"));
    } else {
        findings.warning(
            CHECK,
            format!(
                "at http://{address}/ (process {pid}{manner}): other machines reach it, and its token goes to it unencrypted"
            ),
            "listen on 127.0.0.1 and let a server with TLS pass on to it, or forward the port: ssh -L 4210:127.0.0.1:4210 HOST",
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::domain::finding::Level;

    /// Listens where nobody else does.
    fn bound() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    /// What is found, which is one thing.
    fn found(home: &Path, wanted: SocketAddr) -> (Level, String) {
        let findings = check(home, wanted);
        let found: Vec<_> = findings.iter().collect();
        assert_eq!(found.len(), 1, "{found:?}");
        (found[0].level, found[0].message.clone())
    }

    #[test]
    fn an_address_that_another_program_has_is_named_and_a_free_one_is_well() {
        let home = tempfile::tempdir().expect("a folder");
        let (_other, wanted) = bound();
        let (level, message) = found(home.path(), wanted);
        assert_eq!(level, Level::Warning, "{message}");
        assert!(
            message.starts_with(&format!(
                "none runs for this home, and {wanted} can not be listened on: "
            )),
            "{message}"
        );
        // Port 0 is a free one, whatever others do on this machine meanwhile.
        let (level, message) = found(home.path(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        assert_eq!(level, Level::Ok, "{message}");
        assert!(message.starts_with("none runs for this home"), "{message}");
    }

    #[test]
    fn an_address_that_the_dashboard_of_this_home_has_is_where_it_is() {
        let home = tempfile::tempdir().expect("a folder");
        let (_listener, wanted) = bound();
        let noted = Noted::write(home.path(), wanted, false);
        let (level, message) = found(home.path(), wanted);
        assert_eq!(level, Level::Ok, "{message}");
        assert!(message.starts_with(&format!("at http://{wanted}/ ")), "{message}");
        // The dashboard of another home is another program to this one.
        let elsewhere = tempfile::tempdir().expect("a folder");
        assert_eq!(found(elsewhere.path(), wanted).0, Level::Warning);
        drop(noted);
        assert_eq!(found(home.path(), wanted).0, Level::Warning);
    }
}
