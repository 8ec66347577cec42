//! Where the journal of a server lies. One folder a server and pool, whatever spelling of its address somebody uses: an app
//! that says `localhost` and a worker that says `127.0.0.1` mean the same server.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use reqwest::Url;
use uuid::Uuid;

use crate::orchestrator::prefect::segment::{segment, text_of};
use crate::process::life::bury;
use crate::settings::prefect::PrefectSettings;

/// Longest name of a folder that is written out; file systems take 255 bytes.
const MAX_NAME_BYTES: usize = 200;
/// The namespace of the names of longer ones: any UUID, for ever the same.
const LONG_NAMES: Uuid = Uuid::from_u128(0x2d1c_61f7_0a55_4c0b_93f6_6d1f_4bb0_9e02);
/// What the folders of journals begin with that lie where they belong.
const PREFIX: &str = "server ";

/// Folders of one server and pool.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The one to use.
    pub(super) folder: PathBuf,
    /// Those of other spellings, with what was kept there.
    pub(super) others: Vec<PathBuf>,
}

/// Where the journal lies now: where [`find`] would put it, unless an earlier version's has not been moved there yet.
pub fn journal_home(home: &Path, settings: &PrefectSettings) -> PathBuf {
    let canonical = canonical(home, settings);
    if canonical.exists() {
        return canonical;
    }
    spellings(home, settings).into_iter().next().unwrap_or(canonical)
}

/// Finds the journal. One of an earlier version, under the spelling of the address that was used first, moves to its place,
/// unless somebody works there.
pub(super) fn find(home: &Path, settings: &PrefectSettings) -> Place {
    let canonical = canonical(home, settings);
    let mut others = spellings(home, settings);
    if !canonical.exists()
        && let Some(oldest) = others.first().cloned()
    {
        if is_in_use(&oldest) {
            others.remove(0);
            return Place { folder: oldest, others };
        }
        // Another process may be faster, and then it is there.
        if fs::rename(&oldest, &canonical).is_ok() {
            others.remove(0);
        }
    }
    Place {
        folder: canonical,
        others,
    }
}

fn canonical(home: &Path, settings: &PrefectSettings) -> PathBuf {
    let name = format!("{PREFIX}{} {}", normalized(&settings.api_url), settings.work_pool);
    let mut escaped = segment(&name);
    if escaped.len() > MAX_NAME_BYTES {
        escaped.truncate(MAX_NAME_BYTES - 40);
        escaped = format!("{escaped}-{}", Uuid::new_v5(&LONG_NAMES, name.as_bytes()));
    }
    home.join("prefect").join(escaped)
}

/// Folders of earlier versions for the same server and pool; the one with most in it first.
fn spellings(home: &Path, settings: &PrefectSettings) -> Vec<PathBuf> {
    let wanted = normalized(&settings.api_url);
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(home.join("prefect"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = text_of(&entry.file_name().to_string_lossy());
            let same = |(address, pool): (&str, &str)| normalized(address) == wanted && pool == settings.work_pool;
            !name.starts_with(PREFIX) && name.split_once(' ').is_some_and(same)
        })
        .filter_map(|entry| {
            let path = entry.path();
            let size = fs::metadata(path.join("queue.db")).ok()?.len();
            Some((size, path))
        })
        .collect();
    found.sort_by(|(size, path), (other_size, other)| other_size.cmp(size).then_with(|| path.cmp(other)));
    found.into_iter().map(|(_, path)| path).collect()
}

/// Whether a process works there.
fn is_in_use(folder: &Path) -> bool {
    fs::read_dir(folder.join("locks"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("process-"))
        .any(|entry| !bury(&entry.path()))
}

/// One spelling of all those of an address that lead to the same server.
fn normalized(address: &str) -> String {
    let Ok(url) = Url::parse(address) else {
        return address.to_owned();
    };
    let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = match bare.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    };
    let host = if is_here { "localhost" } else { &host };
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}://{host}:{port}{}", url.scheme(), url.path().trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> PrefectSettings {
        PrefectSettings::new(address, "the test").expect("an address")
    }

    /// The name that earlier versions gave.
    fn old(home: &Path, address: &str) -> PathBuf {
        let settings = settings(address);
        home.join("prefect")
            .join(segment(&format!("{} {}", settings.api_url, settings.work_pool)))
    }

    #[test]
    fn spellings_of_one_address_are_one_server() {
        let home = Path::new("/h");
        let place = |address: &str| canonical(home, &settings(address));
        let first = place("http://localhost:4200/api");
        for same in [
            "http://127.0.0.1:4200/api",
            "http://[::1]:4200/api/",
            "http://LOCALHOST:4200/api",
            "http://0.0.0.0:4200/api",
        ] {
            assert_eq!(place(same), first, "{same}");
        }
        assert_eq!(place("https://host/api"), place("https://HOST:443/api/"));
        for other in [
            "http://localhost:4201/api",
            "https://localhost:4200/api",
            "http://localhost:4200/x/api",
            "http://10.0.0.1:4200/api",
        ] {
            assert_ne!(place(other), first, "{other}");
        }
        let long = |name: &str| place(&format!("http://host/{}/{name}", "x".repeat(300)));
        assert_ne!(long("a"), long("b"), "cut short, they are still two");
        assert!(long("a").file_name().expect("a name").len() < 255);
    }

    #[test]
    fn a_journal_of_an_earlier_version_is_found_again_and_moves_to_its_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path();
        let worker = old(home, "http://127.0.0.1:4200/api");
        let app = old(home, "http://localhost:4200/api");
        let another = old(home, "http://localhost:4300/api");
        for (path, size) in [(&worker, 3), (&app, 2), (&another, 9)] {
            fs::create_dir_all(path).expect("made");
            fs::write(path.join("queue.db"), vec![0; size]).expect("written");
        }
        let settings = settings("http://localhost:4200/api");
        assert_eq!(journal_home(home, &settings), worker);
        let held = crate::process::life::Life::begin(&worker.join("locks/process-x")).expect("held");
        let found = find(home, &settings);
        assert_eq!(
            (&found.folder, &found.others[..]),
            (&worker, std::slice::from_ref(&app)),
            "somebody works there"
        );
        drop(held);
        let found = find(home, &settings);
        assert_eq!(found.folder, canonical(home, &settings));
        assert_eq!(found.others, std::slice::from_ref(&app));
        assert_eq!(fs::read(found.folder.join("queue.db")).expect("moved").len(), 3);
        assert_eq!(find(home, &settings), found);
        assert_eq!(journal_home(home, &settings), found.folder);
    }
}
