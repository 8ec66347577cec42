//! queue.db: opening it, its schema, one thread that owns the connection, and what SQLite's errors mean.
//!
//! All work on the file goes through one thread of its own, so that no caller's event loop waits for a disk. WAL with
//! `synchronous=FULL`: what a caller is told is done survives a power loss.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use crate::domain::error::OrchestratorError;
use crate::domain::flow::{DEFAULT_CONCURRENCY_LIMIT, WORK_POOL};

/// The schema of a new file.
const SCHEMA: &str = include_str!("schema_newest.sql");
/// What makes each version of the schema of the one before, the first one of nothing: for files that are there. A few lines of
/// SQL and a loop: a crate for migrations would not know of the application's id, and its errors would have to be told apart
/// again.
const MIGRATIONS: [&str; 8] = [
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
    include_str!("schema_7.sql"),
    include_str!("schema_8.sql"),
];
/// The newest schema that this program knows.
const SCHEMA_VERSION: i64 = 8;
/// "CptA": a database of another program is refused rather than written to.
const APPLICATION_ID: i32 = 0x4370_7441;
/// How long a lock on queue.db is waited for. Its own transactions take well under a millisecond.
const BUSY_TIMEOUT_MS: u64 = 30_000;

/// Why an operation did not happen: SQLite said so, or a rule did.
#[derive(Debug)]
pub(in crate::orchestrator) enum Fault {
    Sql(rusqlite::Error),
    Refused(OrchestratorError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<OrchestratorError> for Fault {
    fn from(error: OrchestratorError) -> Self {
        Self::Refused(error)
    }
}

type Operation = Box<dyn FnOnce(&mut Keeper) + Send>;

/// A handle on queue.db. Dropping the last one ends its thread and closes the file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    operations: mpsc::Sender<Operation>,
}

impl Store {
    /// Opens (creating it where it is missing) `home/queue.db`.
    pub(super) async fn open(home: &Path) -> Result<Self, OrchestratorError> {
        let path = home.join("queue.db");
        let mut keeper = Keeper {
            path: path.clone(),
            open: None,
        };
        let (operations, receiver) = mpsc::channel::<Operation>();
        thread::Builder::new()
            .name("captionacc-store".to_owned())
            .spawn(move || {
                for operation in receiver {
                    operation(&mut keeper);
                }
            })
            .map_err(|error| OrchestratorError::StoreIo {
                path: path.clone(),
                problem: "a thread for it could not be started".to_owned(),
                source: Box::new(error),
            })?;
        let store = Self { path, operations };
        store.run(|_| Ok(())).await?;
        Ok(store)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `operation` on the connection, in its thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, OrchestratorError> {
        let (answer, result) = oneshot::channel();
        let boxed: Operation = Box::new(move |keeper| {
            // Nobody waits for the answer any more if the caller was dropped: the work is done all the same.
            let _ = answer.send(keeper.perform(operation));
        });
        let gone = || OrchestratorError::Internal("the store's thread has ended".to_owned());
        self.operations.send(boxed).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

/// Owned by the store's thread.
struct Keeper {
    path: PathBuf,
    open: Option<OpenFile>,
}

struct OpenFile {
    connection: Connection,
    identity: (u64, u64),
}

impl Keeper {
    fn perform<T>(
        &mut self,
        operation: impl FnOnce(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, OrchestratorError> {
        let path = self.path.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| operation(self.connection()?)));
        match outcome {
            Ok(result) => result.map_err(|fault| translate(fault, &path)),
            Err(panic) => {
                self.open = None;
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                Err(OrchestratorError::Internal(format!(
                    "an operation on {} panicked: {said}",
                    path.display()
                )))
            }
        }
    }

    /// The connection; opened anew if the file is no longer the one that was opened, because what is written to a
    /// deleted file is lost.
    fn connection(&mut self) -> Result<&mut Connection, Fault> {
        let identity = fs::metadata(&self.path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()));
        if self.open.as_ref().map(|open| open.identity) != identity {
            self.open = None;
        }
        if self.open.is_none() {
            self.open = Some(open_file(&self.path)?);
        }
        Ok(&mut self.open.as_mut().expect("it was opened just now").connection)
    }
}

fn open_file(path: &Path) -> Result<OpenFile, Fault> {
    let io = |problem: &str, error: std::io::Error| -> Fault {
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => OrchestratorError::StoreReadOnly {
                path,
                source: Box::new(error),
            }
            .into(),
            ErrorKind::StorageFull => OrchestratorError::StoreFull { path }.into(),
            _ => OrchestratorError::StoreIo {
                path,
                problem: problem.to_owned(),
                source: Box::new(error),
            }
            .into(),
        }
    };
    let home = path.parent().unwrap_or(Path::new("."));
    make_folder(home).map_err(|error| io("its folder cannot be made", error))?;
    let is_new = fs::symlink_metadata(path).is_err();
    // SQLite would make the file with the process's umask: it is made here, for this user alone.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    if is_new && file.is_ok() {
        sync_folder(home).map_err(|error| io("its folder cannot be synced", error))?;
    }
    let metadata = file
        .and_then(|file: File| file.metadata())
        .map_err(|error| io("cannot be opened", error))?;
    if !metadata.is_file() {
        let problem = "it is not a plain file".to_owned();
        return Err(OrchestratorError::StoreCorrupt {
            path: path.to_owned(),
            problem,
        }
        .into());
    }
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))?;
    connection.set_prepared_statement_cache_capacity(64);
    let mut connection = connection;
    prepare(&mut connection, path)?;
    Ok(OpenFile {
        connection,
        identity: (metadata.dev(), metadata.ino()),
    })
}

/// Makes a folder (0700) with those above it, so that a power loss does not take away what is durable within.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    let missing = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
        .count();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let holders = folder.ancestors().skip(1).take(missing);
    for holder in holders {
        let is_here = holder.as_os_str().is_empty();
        sync_folder(if is_here { Path::new(".") } else { holder })?;
    }
    Ok(())
}

/// A name in a folder is durable once the folder is. Some file systems do not sync folders, because they need not.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), Fault> {
    // In one look: between two, another process may make the file what it is to be.
    let look = connection.transaction()?;
    check_version(&look, path)?;
    drop(look);
    enter_wal_mode(connection)?;
    // `fullfsync`: on macOS a plain fsync does not survive a power loss; elsewhere it changes nothing.
    // What one large transaction leaves of the log of changes is cut off with the next round of it.
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA fullfsync = 1; PRAGMA checkpoint_fullfsync = 1; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    // The usual case takes no lock: everything is as it should be.
    if user_version(connection)? < SCHEMA_VERSION {
        let transaction = begin(connection)?;
        // Another process may have been first.
        let found = check_version(&transaction, path)?;
        if found < 1 {
            make(&transaction)?;
        } else {
            migrate(&transaction, found)?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Makes a new queue of an empty file.
fn make(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(SCHEMA)?;
    transaction.execute(
        "INSERT INTO work_pool (name, concurrency_limit) VALUES (?1, ?2)",
        (WORK_POOL, DEFAULT_CONCURRENCY_LIMIT),
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)
}

/// Brings the schema from version `found` to the newest.
fn migrate(transaction: &Transaction<'_>, found: i64) -> rusqlite::Result<()> {
    for (version, sql) in (1..=SCHEMA_VERSION)
        .zip(MIGRATIONS)
        .filter(|(version, _)| *version > found)
    {
        transaction.execute_batch(sql)?;
        if version == 3 {
            // It changed the text of the schema: every connection reads it anew.
            let schema: i64 = transaction.pragma_query_value(None, "schema_version", |row| row.get(0))?;
            transaction.pragma_update(None, "schema_version", schema + 1)?;
        }
    }
    Ok(())
}

/// A transaction that writes: what it has read stays so until its end.
pub(in crate::orchestrator) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// The schema's version, 0 for an empty file; refuses one that is newer, or no queue database.
fn check_version(connection: &Connection, path: &Path) -> Result<i64, Fault> {
    let found = user_version(connection)?;
    let application_id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && application_id != APPLICATION_ID {
        let problem = "it is the database of another program: move it away, or set CAPTIONACC_HOME".to_owned();
        return Err(OrchestratorError::StoreCorrupt {
            path: path.to_owned(),
            problem,
        }
        .into());
    }
    if found > SCHEMA_VERSION {
        return Err(OrchestratorError::StoreNewer {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        }
        .into());
    }
    Ok(found)
}

/// SQLite does not call its busy handler where several connections turn one file to WAL at the same time.
fn enter_wal_mode(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(BUSY_TIMEOUT_MS);
    loop {
        let mode: rusqlite::Result<String> =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0));
        match mode {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            other => return other.map(|_| ()),
        }
    }
}

fn translate(fault: Fault, path: &Path) -> OrchestratorError {
    let error = match fault {
        Fault::Refused(error) => return error,
        Fault::Sql(error) => error,
    };
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OrchestratorError::StoreLocked {
            path,
            waited_ms: BUSY_TIMEOUT_MS,
        },
        Some(ErrorCode::DiskFull) => OrchestratorError::StoreFull { path },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            OrchestratorError::StoreReadOnly {
                path,
                source: Box::new(error),
            }
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            let problem = format!("{error}: restore it from a backup, or move it away to start with an empty queue");
            OrchestratorError::StoreCorrupt { path, problem }
        }
        Some(ErrorCode::SystemIoFailure) => OrchestratorError::StoreIo {
            path,
            problem: "reading or writing failed".to_owned(),
            source: Box::new(error),
        },
        _ => OrchestratorError::Internal(format!("{}: {error}", path.display())),
    }
}

/// A queue.db for tests of what is asked of it.
#[cfg(test)]
pub(super) fn open_connection(path: &Path) -> Result<Connection, Fault> {
    open_file(path).map(|file| file.connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_of_an_earlier_version_keeps_its_runs_and_its_checks() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queue.db");
        let old = Connection::open(&path).expect("opens");
        old.execute_batch(include_str!("schema.sql")).expect("version 1");
        old.execute_batch(include_str!("schema_2.sql")).expect("version 2");
        old.pragma_update(None, "application_id", APPLICATION_ID).expect("set");
        old.pragma_update(None, "user_version", 2).expect("set");
        old.execute_batch(
            "INSERT INTO flow_run (id, flow_name, parameters, work_queue, priority, tags, has_status_row, state_type,
               state_name, state_at, state_sequence, status_row_due, created_at, scheduled_at)
             VALUES ('r', 'f', '{}', 'background', 2, '[]', 0, 'SCHEDULED', 'Scheduled', 1, 1, 0, 1, 1);
             INSERT INTO flow_run_state VALUES ('r', 1, 'Scheduled', NULL, 0, 1);
             INSERT INTO asset_materialization (key, flow_run_id, flow_name, metadata, at)
               VALUES ('a', 'r', 'f', '{}', 1), ('b', 'r', 'f', '{}', 2), ('a', 'r', 'f', '{}', 3);
             INSERT INTO worker VALUES ('old', '{\"pid\":1}', '0', 1), ('w', '{\"pid\":2,\"life\":\"l\"}', '0', 1);",
        )
        .expect("a run, assets and workers");
        drop(old);

        let new = open_file(&path).expect("opens").connection;
        assert_eq!(user_version(&new).expect("reads"), SCHEMA_VERSION);
        for (sql, expected) in [
            ("SELECT id FROM flow_run", "r"),
            ("SELECT flow_run_id FROM flow_run_state", "r"),
            ("PRAGMA integrity_check", "ok"),
            (
                "SELECT group_concat(work_queue || ' ' || runs) FROM waiting",
                "background 1,user-initiated 0",
            ),
            (
                "SELECT min(version) || ',' || max(version) FROM asset_materialization WHERE is_newest = 1",
                "2,3",
            ),
            ("SELECT group_concat(name || ' ' || life) FROM worker", "w l"),
            ("SELECT count(*) || '' FROM sqlite_schema WHERE type = 'trigger'", "0"),
        ] {
            let found: String = new.query_row(sql, [], |row| row.get(0)).expect("reads");
            assert_eq!(found, expected, "{sql}");
        }
        for column in ["worker_process", "child_process", "database", "progress"] {
            let explicit: bool = new
                .query_row(
                    "SELECT instr(sql, ?1) > 0 FROM sqlite_schema WHERE name = 'flow_run'",
                    [format!("CHECK ({column} IS NULL OR json_valid({column}))")],
                    |row| row.get(0),
                )
                .expect("reads");
            assert!(explicit, "{column}");
        }
        new.execute("UPDATE flow_run SET progress = '{'", [])
            .expect_err("still checked");
    }

    /// Everything that a schema says, in an order and a spelling of its own.
    fn said_by(connection: &Connection) -> Vec<String> {
        let mut all = connection
            .prepare(
                "SELECT 'table ' || list.name || ' strict=' || strict || ' without_rowid=' || wr || ' checks=' ||
                   (length(sql) - length(replace(sql, 'CHECK (', ''))) || (SELECT group_concat(text, '; ') FROM (
                     SELECT name || ' ' || type || ' ' || \"notnull\" || ' ' || coalesce(dflt_value, '-') || ' ' || pk AS text
                     FROM pragma_table_info(list.name) ORDER BY name))
                   || coalesce((SELECT group_concat(\"from\" || '>' || \"table\" || '.' || \"to\" || ' ' || on_delete, '; ')
                     FROM pragma_foreign_key_list(list.name)), '')
                 FROM pragma_table_list AS list JOIN sqlite_schema USING (name) WHERE list.schema = 'main'
                 UNION ALL
                 SELECT type || ' ' || coalesce(sql, name) FROM sqlite_schema WHERE type <> 'table'",
            )
            .expect("prepares");
        let said = all.query_map([], |row| row.get::<_, String>(0)).expect("reads");
        let mut said: Vec<String> = said
            .map(|text| text.expect("a text").split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        said.sort();
        said
    }

    #[test]
    fn a_new_queue_has_the_schema_that_the_steps_make_of_an_old_one() {
        let mut stepwise = Connection::open_in_memory().expect("opens");
        let transaction = begin(&mut stepwise).expect("begins");
        migrate(&transaction, 0).expect("migrates");
        transaction.commit().expect("commits");
        let mut new = Connection::open_in_memory().expect("opens");
        let transaction = begin(&mut new).expect("begins");
        make(&transaction).expect("makes");
        transaction.commit().expect("commits");
        assert_eq!(said_by(&new), said_by(&stepwise));
        for connection in [&stepwise, &new] {
            let waiting: String = connection
                .query_row(
                    "SELECT group_concat(work_queue || ' ' || runs) FROM waiting",
                    [],
                    |row| row.get(0),
                )
                .expect("reads");
            assert_eq!(waiting, "background 0,user-initiated 0");
        }
    }

    #[test]
    fn a_queue_that_another_process_is_just_making_is_never_taken_for_another_programs() {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..100 {
            let path = folder.path().join(number.to_string()).join("queue.db");
            let together = std::sync::Barrier::new(4);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        together.wait();
                        if let Err(fault) = open_file(&path) {
                            panic!("{fault:?}");
                        }
                    });
                }
            });
        }
    }
}
