//! What `captionacc doctor` says of a folder in which `annotations.db` files lie: whether its disk has the locks that SQLite lives by.
//!
//! The app and the workers write one file, each with a copy of SQLite of its own. What keeps them apart are the locks of the
//! file system (<https://www.sqlite.org/lockingv3.html>): where those do not hold, both write at once and the file is damaged.

use std::io;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::domain::finding::Findings;
use crate::process::machine::shared_file_system;

const CHECK: &str = "videos";
/// Most databases whose journal mode is looked at.
const MOST_LOOKED_AT: usize = 100;

/// What another process finds of the trial's file; see [`ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A lock is held on it: nothing can be written.
    Locked,
    /// It can be written, and this many rows are there.
    Rows(u32),
}

impl Answer {
    /// As one word, which [`parse`](Self::parse) reads.
    pub fn to_word(self) -> String {
        match self {
            Self::Locked => "locked".to_owned(),
            Self::Rows(rows) => rows.to_string(),
        }
    }

    /// `None` if it is none of these words.
    pub fn parse(word: &str) -> Option<Self> {
        match word.trim() {
            "locked" => Some(Self::Locked),
            rows => rows.parse().ok().map(Self::Rows),
        }
    }
}

/// The other process's part in [`check`]: whether the file can be written, without waiting, and what is in it.
///
/// # Errors
/// What SQLite says, but for a lock.
pub fn ask(trial: &Path) -> Result<Answer, rusqlite::Error> {
    let answer = || -> Result<Answer, rusqlite::Error> {
        let mut connection = Connection::open(trial)?;
        connection.busy_timeout(std::time::Duration::ZERO)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let rows = transaction.query_row("SELECT count(*) FROM trial", [], |row| row.get(0))?;
        Ok(Answer::Rows(rows))
    };
    match answer() {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(Answer::Locked),
        answer => answer,
    }
}

/// Looks at `folder`. `ask_another` starts another process that calls [`ask`] on the file that it is given, and tells its
/// answer. A file is made for that, and removed.
pub fn check(folder: &Path, ask_another: &mut dyn FnMut(&Path) -> Result<Answer, String>) -> Findings {
    let mut findings = Findings::default();
    let shown = folder.display();
    let shared = match folder.metadata().and_then(|found| {
        if !found.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        shared_file_system(folder)
    }) {
        Ok(shared) => shared,
        Err(error) => {
            let fix = "name the folder that holds the videos' annotations.db files, as an absolute path";
            findings.error(CHECK, format!("{shown}: {error}"), fix);
            return findings;
        }
    };
    let trial = folder.join(format!(".captionacc-trial-{}", uuid::Uuid::new_v4().simple()));
    let locks = try_locks(&trial, ask_another);
    for ending in ["", "-journal"] {
        let mut name = trial.clone().into_os_string();
        name.push(ending);
        let _ = std::fs::remove_file(name);
    }
    match locks {
        Ok(()) => findings.ok(CHECK, format!("{shown}: locks hold between two processes of this machine")),
        Err(problem) => findings.error(
            CHECK,
            format!("{shown}: {problem}"),
            "keep annotations.db on a disk with working locks: one of this machine, or NFS version 4 with its lock service",
        ),
    }
    if let Some(file_system) = shared {
        findings.warning(
            CHECK,
            format!("{shown} is on {file_system}, which other machines may see: locks between machines cannot be tried from one"),
            "run this on every machine; keep annotations.db in DELETE mode there, not WAL, which does not work across machines",
        );
        for database in in_wal_mode(folder) {
            findings.error(
                CHECK,
                format!(
                    "{} is in WAL mode on {file_system}: used from two machines it is damaged",
                    database.display()
                ),
                "PRAGMA journal_mode = DELETE, while nothing else has it open",
            );
        }
    }
    findings
}

/// While a lock is held, another process must be kept out; afterwards it must see what was written.
fn try_locks(trial: &Path, ask_another: &mut dyn FnMut(&Path) -> Result<Answer, String>) -> Result<(), String> {
    let said = |error: rusqlite::Error| format!("SQLite cannot work there: {error}");
    let mut connection = Connection::open(trial).map_err(said)?;
    connection
        .execute_batch("PRAGMA journal_mode = DELETE; CREATE TABLE trial (at INTEGER)")
        .map_err(said)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Exclusive)
        .map_err(said)?;
    transaction.execute("INSERT INTO trial VALUES (1)", []).map_err(said)?;
    if ask_another(trial)? != Answer::Locked {
        return Err(
            "a lock that one process holds does not keep another one out: databases there will be damaged".to_owned(),
        );
    }
    transaction.commit().map_err(said)?;
    match ask_another(trial)? {
        Answer::Rows(1) => Ok(()),
        Answer::Rows(rows) => Err(format!("another process sees {rows} rows of the one that was written")),
        Answer::Locked => Err("a lock that was given back still keeps another process out".to_owned()),
    }
}

/// Databases in WAL mode in the folder or in a folder of it.
fn in_wal_mode(folder: &Path) -> Vec<std::path::PathBuf> {
    let of_videos = std::fs::read_dir(folder).into_iter().flatten().flatten();
    std::iter::once(folder.to_owned())
        .chain(of_videos.map(|entry| entry.path()))
        .map(|folder| folder.join("annotations.db"))
        .filter(|database| database.is_file())
        .take(MOST_LOOKED_AT)
        .filter(|database| {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
            let mode = Connection::open_with_flags(database, flags)
                .and_then(|connection| connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)));
            mode.is_ok_and(|mode| mode == "wal")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::finding::Level;

    fn levels(findings: &Findings) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_disk_whose_locks_keep_nobody_out_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut answers = [Answer::Rows(0), Answer::Rows(1)].into_iter();
        let found = check(folder.path(), &mut |_| {
            answers.next().ok_or_else(|| "no more".to_owned())
        });
        assert_eq!(levels(&found), [Level::Error]);
        let message = &found.iter().next().expect("one").message;
        assert!(message.contains("does not keep another one out"), "{message}");
        let left = std::fs::read_dir(folder.path()).expect("reads").count();
        assert_eq!(left, 0, "nothing is left");
    }

    #[test]
    fn what_another_process_does_not_see_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        for second in [Answer::Rows(0), Answer::Locked] {
            let mut answers = [Answer::Locked, second].into_iter();
            let found = check(folder.path(), &mut |_| {
                answers.next().ok_or_else(|| "no more".to_owned())
            });
            assert_eq!(levels(&found), [Level::Error], "{second:?}");
        }
    }

    #[test]
    fn answers_are_read_as_they_are_written() {
        for answer in [Answer::Locked, Answer::Rows(0), Answer::Rows(7)] {
            assert_eq!(Answer::parse(&answer.to_word()), Some(answer));
        }
        assert_eq!(Answer::parse("perhaps"), None);
    }
}
