//! An annotations.db as a file with a connection: opened without being made anew, locked with patience, and never
//! written once it is gone.
//!
//! Everything goes through SQLite: a file of a live database that is opened and closed by other means loses the
//! locks of the whole process (POSIX). `stat` is all that is asked of the file system.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::error::{AnnotationsError, Fault, classified, is_locked};
use crate::domain::database::DatabaseIdentity;

/// Longest that SQLite waits for a lock before we look at the clock and at the file again.
const LOCK_SLICE_MS: u64 = 100;
/// Longest that a write which does not matter waits for a lock.
const SHORT_WAIT_MS: u64 = 50;

/// A connection and the file that it belongs to.
#[derive(Debug)]
pub(super) struct Database {
    sqlite: Connection,
    path: PathBuf,
    identity: DatabaseIdentity,
    patience: Duration,
}

impl Database {
    /// Opens the file at `path`, which must be the one of `expected` if that is given; it is never made.
    ///
    /// The first page is read, so that a file that is no database is found here. Nothing is written, and the journal
    /// mode stays as it is.
    pub(super) fn open(
        path: &Path,
        expected: Option<DatabaseIdentity>,
        busy_timeout_ms: u64,
    ) -> Result<Self, AnnotationsError> {
        Self::find(path, expected, busy_timeout_ms)?.ok_or_else(|| AnnotationsError::NotFound { path: path.to_owned() })
    }

    /// As [`open`](Self::open); `None` if there is no file, and none was expected.
    pub(super) fn find(
        path: &Path,
        expected: Option<DatabaseIdentity>,
        busy_timeout_ms: u64,
    ) -> Result<Option<Self>, AnnotationsError> {
        let path = absolute(path)?;
        match regular_file(&path)? {
            Some(found) if expected.is_none_or(|expected| expected == found) => {}
            None if expected.is_none() => return Ok(None),
            _ => return Err(AnnotationsError::FileGone { path }),
        }
        folder_is_writable(&path)?;
        Self::connect(path, OpenFlags::empty(), expected, busy_timeout_ms).map(Some)
    }

    /// Makes the file; one that has come meanwhile is taken.
    pub(super) fn create(path: &Path, busy_timeout_ms: u64) -> Result<Self, AnnotationsError> {
        let path = absolute(path)?;
        folder_is_writable(&path)?;
        Self::connect(path, OpenFlags::SQLITE_OPEN_CREATE, None, busy_timeout_ms)
    }

    /// Whether a file can be made at `path`, as far as that can be told without making it.
    pub(super) fn check_creatable(path: &Path) -> Result<(), AnnotationsError> {
        let path = absolute(path)?;
        folder_is_writable(&path)?;
        let folder = path.parent().unwrap_or(&path);
        // Some folders take no files, whatever their rights are (/proc): one of another name is made, and removed.
        let probe = folder.join(format!(".captionacc-{}", uuid::Uuid::new_v4().simple()));
        let made = std::fs::File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe));
        made.map_err(|error| AnnotationsError::NotWritable {
            path,
            source: Box::new(error),
        })
    }

    fn connect(
        path: PathBuf,
        more: OpenFlags,
        expected: Option<DatabaseIdentity>,
        busy_timeout_ms: u64,
    ) -> Result<Self, AnnotationsError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        let sqlite = match Connection::open_with_flags(&path, flags) {
            Ok(sqlite) => sqlite,
            Err(error) => return Err(Self::open_fault(error, path, more.is_empty())),
        };
        let identity = match regular_file(&path)? {
            Some(found) if expected.is_none_or(|expected| expected == found) => found,
            _ => return Err(AnnotationsError::FileGone { path }),
        };
        let database = Self {
            sqlite,
            path,
            identity,
            patience: Duration::from_millis(busy_timeout_ms),
        };
        database.configure()?;
        Ok(database)
    }

    fn open_fault(error: rusqlite::Error, path: PathBuf, existed: bool) -> AnnotationsError {
        match regular_file(&path) {
            Ok(None) if existed => AnnotationsError::NotFound { path },
            _ => classified(error, &path, "opening it", 0),
        }
    }

    fn configure(&self) -> Result<(), AnnotationsError> {
        const DOING: &str = "opening it";
        self.sqlite
            .busy_timeout(Duration::from_millis(LOCK_SLICE_MS))
            .map_err(|error| self.fault(error, DOING))?;
        if self
            .sqlite
            .is_readonly("main")
            .map_err(|error| self.fault(error, DOING))?
        {
            // SQLite falls back to reading when the file may not be written.
            return Err(AnnotationsError::NotWritable {
                path: self.path.clone(),
                source: Box::new(io::Error::from(io::ErrorKind::PermissionDenied)),
            });
        }
        let is_wal = self.read(DOING, |sqlite| {
            // Off by SQLite's own default, but on in this build: cascades would reach into tables of the app.
            sqlite.pragma_update(None, "foreign_keys", false)?;
            sqlite.pragma_update(None, "temp_store", "MEMORY")?;
            sqlite.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
            let mode: String = sqlite.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
            Ok(mode.eq_ignore_ascii_case("wal"))
        })?;
        // A status row may be lost with the power: in WAL mode NORMAL cannot damage the file, in the others it can.
        self.set_synchronous(if is_wal { "NORMAL" } else { "FULL" })
    }

    pub(super) fn set_synchronous(&self, level: &str) -> Result<(), AnnotationsError> {
        self.sqlite
            .pragma_update(None, "synchronous", level)
            .map_err(|error| self.fault(error, "opening it"))
    }

    /// From now on the log is brought into the file by [`checkpoint`](Self::checkpoint) alone (WAL), and what a transaction
    /// of `cache_bytes` changes stays in memory until its commit, so that nobody who reads is locked out before.
    pub(super) fn set_for_batches(&self, cache_bytes: u64) -> Result<(), AnnotationsError> {
        let cache_kib = i64::try_from(cache_bytes >> 10).unwrap_or(i64::MAX);
        self.sqlite
            .pragma_update(None, "wal_autocheckpoint", 0)
            .and_then(|()| self.sqlite.pragma_update(None, "cache_size", -cache_kib))
            .map_err(|error| self.fault(error, "writing the frames"))
    }

    /// Brings the log into the file as far as nobody is in the way, without a lock that anybody waits for (WAL; nothing is
    /// done in other journal modes). Says how many pages are left, because of somebody who still reads what was before them:
    /// whoever commits once that reader has ended has to bring them, the app for instance.
    pub(super) fn checkpoint(&self) -> u64 {
        let pages = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(|pages| u64::try_from(pages).unwrap_or(0));
        self.sqlite
            .query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |row| {
                Ok(pages(row, 1)?.saturating_sub(pages(row, 2)?))
            })
            // A later one, by whomever, does what this one cannot.
            .unwrap_or(0)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn identity(&self) -> DatabaseIdentity {
        self.identity
    }

    /// The connection, outside any transaction.
    #[cfg(test)]
    pub(super) const fn sqlite(&self) -> &Connection {
        &self.sqlite
    }

    /// Whether the file of the connection is still the one at its path.
    pub(super) fn check_file(&self) -> Result<(), AnnotationsError> {
        match regular_file(&self.path) {
            Ok(Some(found)) if found == self.identity => Ok(()),
            // The system refused to say: the next write will tell.
            Err(AnnotationsError::Io { .. }) => Ok(()),
            _ => Err(AnnotationsError::FileGone {
                path: self.path.clone(),
            }),
        }
    }

    /// Reads, waiting for a lock as long as the patience lasts.
    pub(super) fn read<T>(
        &self,
        doing: &'static str,
        read: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, AnnotationsError> {
        self.patiently(|| read(&self.sqlite))
            .map_err(|fault| self.known(fault, doing))
    }

    /// One transaction that holds the write lock from its first instruction; nothing is written if `work` fails, or if
    /// the file is gone.
    pub(super) fn write<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, AnnotationsError> {
        self.write_measured(doing, work).map(|(done, _)| done)
    }

    /// As [`write`](Self::write), and says how long the lock was held.
    pub(super) fn write_measured<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<(T, Duration), AnnotationsError> {
        self.transaction(work, true).map_err(|fault| self.known(fault, doing))
    }

    /// As [`write_measured`](Self::write_measured), but gives up on a lock after a moment: `None`.
    pub(super) fn try_write<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<Option<(T, Duration)>, AnnotationsError> {
        let set = |ms| self.sqlite.busy_timeout(Duration::from_millis(ms));
        set(SHORT_WAIT_MS).map_err(|error| self.fault(error, doing))?;
        let outcome = self.transaction(work, false);
        set(LOCK_SLICE_MS).map_err(|error| self.fault(error, doing))?;
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(Fault::Sqlite(error)) if is_locked(&error) => Ok(None),
            Err(fault) => Err(self.known(fault, doing)),
        }
    }

    fn transaction<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
        patient: bool,
    ) -> Result<(T, Duration), Fault> {
        let run = |sql: &'static str| {
            let once = || self.sqlite.execute_batch(sql);
            if patient {
                self.patiently(once)
            } else {
                once().map_err(Fault::from)
            }
        };
        self.check_file()?;
        run("BEGIN IMMEDIATE")?;
        let locked = Instant::now();
        let outcome = work(&self.sqlite)
            .and_then(|done| {
                // What was deleted while the transaction ran must not come back by its commit.
                self.check_file()?;
                Ok(done)
            })
            .and_then(|done| run("COMMIT").map(|()| (done, locked.elapsed())));
        // Some failures (a full disk) have rolled back already.
        if outcome.is_err() && !self.sqlite.is_autocommit() {
            // The connection is closed soon, which rolls back too.
            let _ = self.sqlite.execute_batch("ROLLBACK");
        }
        outcome
    }

    /// Repeats `once` while another connection's lock is in its way; looks at the file in between.
    fn patiently<T>(&self, once: impl Fn() -> rusqlite::Result<T>) -> Result<T, Fault> {
        let started = Instant::now();
        loop {
            match once() {
                Err(error) if is_locked(&error) && started.elapsed() < self.patience => self.check_file()?,
                outcome => return outcome.map_err(Fault::from),
            }
        }
    }

    pub(super) fn known(&self, fault: Fault, doing: &'static str) -> AnnotationsError {
        match fault {
            Fault::Known(error) => error,
            Fault::Sqlite(error) => self.fault(error, doing),
        }
    }

    /// What SQLite's error means: first of all whether the file is still there.
    pub(super) fn fault(&self, error: rusqlite::Error, doing: &'static str) -> AnnotationsError {
        if let Err(gone) = self.check_file() {
            return gone;
        }
        let waited_ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        classified(error, &self.path, doing, waited_ms)
    }
}

/// Absolute, so that no path can be taken for a `file:` URI, and none changes with the working directory.
fn absolute(path: &Path) -> Result<PathBuf, AnnotationsError> {
    std::path::absolute(path).map_err(|_| AnnotationsError::NotFound { path: path.to_owned() })
}

/// The regular file at `path`, through symbolic links; `None` if there is none.
pub(super) fn regular_file(path: &Path) -> Result<Option<DatabaseIdentity>, AnnotationsError> {
    let not_a_file = |found| AnnotationsError::NotAFile {
        path: path.to_owned(),
        found,
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(identity_of(&found))),
        Ok(found) if found.is_dir() => Err(not_a_file("a folder")),
        Ok(_) => Err(not_a_file("a pipe, a socket or a device")),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => match std::fs::symlink_metadata(path) {
                // Creating "it" would create a file somewhere else.
                Ok(_) => Err(not_a_file("a symbolic link to nothing")),
                Err(_) => Ok(None),
            },
            io::ErrorKind::NotADirectory => Err(AnnotationsError::FolderNotFound { path: path.to_owned() }),
            io::ErrorKind::PermissionDenied => Err(AnnotationsError::NotWritable {
                path: path.to_owned(),
                source: Box::new(error),
            }),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
                Err(AnnotationsError::NotFound { path: path.to_owned() })
            }
            _ => Err(AnnotationsError::Io {
                path: path.to_owned(),
                doing: "looking at it",
                source: Box::new(error),
            }),
        },
    }
}

#[cfg(unix)]
fn identity_of(metadata: &Metadata) -> DatabaseIdentity {
    use std::os::unix::fs::MetadataExt;
    DatabaseIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

/// Where there are no inodes, the time of creation tells files apart.
#[cfg(not(unix))]
fn identity_of(metadata: &Metadata) -> DatabaseIdentity {
    let created = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    DatabaseIdentity {
        device: 0,
        inode: created.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
    }
}

/// SQLite makes its journal beside the file. Beside the file means: where the link leads, if it is one.
fn folder_is_writable(path: &Path) -> Result<(), AnnotationsError> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = real.parent().unwrap_or(&real);
    if !folder.is_dir() {
        return Err(AnnotationsError::FolderNotFound { path: path.to_owned() });
    }
    #[cfg(unix)]
    {
        use rustix::fs::Access;
        rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
            AnnotationsError::NotWritable {
                path: path.to_owned(),
                source: Box::new(io::Error::from(error)),
            }
        })?;
    }
    Ok(())
}
