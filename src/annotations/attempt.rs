//! An attempt's hold on annotations.db: opened, its status row kept as long as the row is the attempt's.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::database::Database;
use super::error::{AnnotationsError, Fault};
use super::schema;
use super::status::{Completion, Hold, Holder, Holding, Row, Stage, fence};
use crate::domain::database::DatabaseIdentity;
use crate::domain::flow::StatusTable;

/// Ticks a second of the index clock, unless `video_preferences` says otherwise.
const DEFAULT_INDEX_FRAME_RATE_HZ: f64 = 10.0;
/// Progress is written this often at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// The same where a write locks readers out (any journal mode but WAL): a tenth of the polls would find it locked.
const PROGRESS_INTERVAL_LOCKING: Duration = Duration::from_millis(500);

/// What an attempt opens.
#[derive(Debug, Clone, Copy)]
pub struct OpenRequest<'a> {
    /// The file.
    pub path: &'a Path,
    /// Whether it may be missing: it is made then, once there is something to write.
    pub may_create: bool,
    /// The file that an earlier attempt saw: no other one will do.
    pub identity: Option<DatabaseIdentity>,
    /// The status table that the attempt keeps; it also says which tables it writes.
    pub table: StatusTable,
    /// The process that the web app may send SIGTERM to.
    pub pid: u32,
    /// How long a lock is waited for.
    pub busy_timeout_ms: u64,
}

/// An annotations.db in the hands of a running attempt.
///
/// A file that is missing is made only by a commit or by [`create`](Self::create), so that a fault of the input that is found
/// before leaves none; until then, what is to be said in the status row is not said.
#[derive(Debug)]
pub struct Annotations {
    database: Option<Database>,
    path: PathBuf,
    busy_timeout_ms: u64,
    table: StatusTable,
    holding: Holding,
    stage: Stage,
    index_frame_rate_hz: f64,
    progress_interval: Duration,
    last_progress: Option<Instant>,
    completion: Completion,
}

impl Annotations {
    /// Opens the file and makes sure of the tables that the attempt writes. An empty file counts as a new database.
    ///
    /// # Errors
    /// Faults of the input: no such file or folder, not a regular file, not a database, damaged, not writable, tables of
    /// another kind. Cancellations: marked as deleted, or not the file of `identity`. Passing: locked, no space, I/O.
    pub fn open(request: &OpenRequest<'_>) -> Result<Self, AnnotationsError> {
        let OpenRequest { path, identity, .. } = *request;
        let database = Database::find(path, identity, request.busy_timeout_ms)?;
        if database.is_none() && !request.may_create {
            return Err(AnnotationsError::NotFound { path: path.to_owned() });
        }
        let mut annotations = Self {
            database: None,
            path: path.to_owned(),
            busy_timeout_ms: request.busy_timeout_ms,
            table: request.table,
            holding: Holding::of_process(request.pid),
            stage: Stage::ExtractingFrames,
            index_frame_rate_hz: DEFAULT_INDEX_FRAME_RATE_HZ,
            progress_interval: PROGRESS_INTERVAL_LOCKING,
            last_progress: None,
            completion: Completion::default(),
        };
        match database {
            Some(database) => annotations.take(database)?,
            None => Database::check_creatable(path)?,
        }
        Ok(annotations)
    }

    fn take(&mut self, database: Database) -> Result<(), AnnotationsError> {
        const DOING: &str = "opening it";
        if database.read(DOING, schema::is_deleted)? {
            return Err(AnnotationsError::Deleted {
                path: database.path().to_owned(),
            });
        }
        schema::ensure_run_tables(&database, self.table)?;
        self.index_frame_rate_hz = database.read(DOING, index_frame_rate_hz)?;
        let mode: String = database.read(DOING, |sqlite| {
            sqlite.query_row("PRAGMA journal_mode", [], |row| row.get(0))
        })?;
        if mode.eq_ignore_ascii_case("wal") {
            self.progress_interval = PROGRESS_INTERVAL;
        }
        self.database = Some(database);
        Ok(())
    }

    /// Makes the file if it is missing, and writes in it that the run has started; `None` if it is there.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`begin`](Self::begin). A folder that is gone by now is a cancellation.
    pub fn create(&mut self) -> Result<Option<DatabaseIdentity>, AnnotationsError> {
        if self.database.is_some() {
            return Ok(None);
        }
        let stage = self.stage;
        let database = Database::create(&self.path, self.busy_timeout_ms).map_err(|error| match error {
            AnnotationsError::FolderNotFound { path } => AnnotationsError::FileGone { path },
            other => other,
        })?;
        let identity = database.identity();
        self.take(database)?;
        self.begin()?;
        self.stage(stage)?;
        Ok(Some(identity))
    }

    /// Which file this is; `None` as long as there is none.
    pub fn identity(&self) -> Option<DatabaseIdentity> {
        self.database.as_ref().map(Database::identity)
    }

    /// `video_preferences.index_framerate_hz`, or 10.
    pub const fn index_frame_rate_hz(&self) -> f64 {
        self.index_frame_rate_hz
    }

    /// Writes that the run starts, as this attempt's process. Whoever the row named before has lost it.
    ///
    /// # Errors
    /// [`AnnotationsError::Deleted`], [`AnnotationsError::FileGone`], and those of writing.
    pub fn begin(&mut self) -> Result<(), AnnotationsError> {
        self.stage = Stage::ExtractingFrames;
        self.last_progress = None;
        let Some(database) = &self.database else { return Ok(()) };
        let (table, pid) = (self.table, self.holding.pid());
        self.holding = database.write("writing that the run starts", |sqlite| {
            if schema::is_deleted(sqlite)? {
                return Err(AnnotationsError::Deleted {
                    path: database.path().to_owned(),
                }
                .into());
            }
            let row = Row::of(sqlite, table)?;
            row.write_started(pid)?;
            Ok(row.holding(pid)?)
        })?;
        Ok(())
    }

    /// Enters a stage: those before it are at 1.0, its own progress at 0. `crop_frames_status` knows no stages.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), and those of writing.
    pub fn stage(&mut self, stage: Stage) -> Result<(), AnnotationsError> {
        self.guarded("writing the stage", stage, |row| row.write_stage(stage))?;
        self.stage = stage;
        self.last_progress = None;
        Ok(())
    }

    /// Writes the stage's progress (0..=1) and the heartbeat, at most 10 times a second (2 times where a write locks
    /// readers out): to be called as often as one likes. A locked file is passed over; the next call tries again.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), and those of writing but for a lock.
    pub fn progress(&mut self, fraction: f64, now: Instant) -> Result<(), AnnotationsError> {
        if !self.is_progress_due(now) {
            return Ok(());
        }
        let Some(database) = &self.database else { return Ok(()) };
        let (table, stage, holding) = (self.table, self.stage, &self.holding);
        let written = database.try_write("writing the progress", |sqlite| {
            let hold = fence(sqlite, database.path(), table, holding)?;
            let row = Row::of(sqlite, table)?;
            let holding = row.taken_again_if(hold, holding, stage)?;
            row.write_progress(stage, fraction)?;
            Ok(holding)
        })?;
        if let Some((holding, _)) = written {
            self.holding = holding;
        }
        Ok(())
    }

    /// Whether it is time to write the progress; noted as written then. `crop_frames_status` has no column for it.
    fn is_progress_due(&mut self, now: Instant) -> bool {
        let is_early = |last: Instant| now.saturating_duration_since(last) < self.progress_interval;
        if self.last_progress.is_some_and(is_early) {
            return false;
        }
        self.last_progress = Some(now);
        self.table == StatusTable::ProcessingStatus
    }

    /// Whether the attempt may go on. A row that the web app has reset (it names nobody) is taken again.
    ///
    /// # Errors
    /// The cancellations: [`AnnotationsError::FileGone`], [`AnnotationsError::Deleted`],
    /// [`AnnotationsError::Superseded`]; and those of reading.
    pub fn check_fence(&mut self) -> Result<(), AnnotationsError> {
        const DOING: &str = "looking at the status row";
        let Some(database) = &self.database else { return Ok(()) };
        database.check_file()?;
        let (table, pid) = (self.table, self.holding.pid());
        let (is_deleted, holder, holding) = database.read(DOING, |sqlite| {
            let row = Row::of(sqlite, table)?;
            Ok((schema::is_deleted(sqlite)?, row.holder()?, row.holding(pid)?))
        })?;
        // The usual case takes no lock that anyone notices.
        if !is_deleted && holder == Holder::Process(pid.to_string()) && holding == self.holding {
            return Ok(());
        }
        self.guarded(DOING, self.stage, |_| Ok(()))
    }

    /// Writes that the run is complete, for a flow whose frames are not written here.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), and those of writing.
    pub fn complete_external(&mut self) -> Result<(), AnnotationsError> {
        let Some(database) = &self.database else { return Ok(()) };
        let (table, holding) = (self.table, &self.holding);
        database.write("writing that the run is complete", |sqlite| {
            fence(sqlite, database.path(), table, holding)?;
            Row::of(sqlite, table)?.write_completed(&Completion::default())
        })
    }

    /// Writes the row if the attempt may go on; takes it again if the app has reset it.
    fn guarded(
        &mut self,
        doing: &'static str,
        stage: Stage,
        write: impl FnOnce(&Row<'_>) -> Result<(), Fault>,
    ) -> Result<(), AnnotationsError> {
        let Some(database) = &self.database else { return Ok(()) };
        let (table, holding) = (self.table, &self.holding);
        self.holding = database.write(doing, |sqlite| {
            let hold = fence(sqlite, database.path(), table, holding)?;
            let row = Row::of(sqlite, table)?;
            let holding = row.taken_again_if(hold, holding, stage)?;
            write(&row)?;
            Ok(holding)
        })?;
        Ok(())
    }

    // For commits.

    /// The file, once it is there.
    pub(super) fn database(&self) -> Result<&Database, AnnotationsError> {
        let missing = || AnnotationsError::NotFound {
            path: self.path.clone(),
        };
        self.database.as_ref().ok_or_else(missing)
    }

    /// One of many transactions: `work`, with progress and heartbeat where they are due, if the attempt may go on. Says
    /// how long the lock was held.
    pub(super) fn write_some<T>(
        &mut self,
        doing: &'static str,
        fraction: f64,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<(T, Duration), AnnotationsError> {
        let is_progress_due = self.is_progress_due(Instant::now());
        let (table, stage, holding) = (self.table, self.stage, &self.holding);
        let database = self.database()?;
        let ((done, holding), held) = database.write_measured(doing, |sqlite| {
            let hold = fence(sqlite, database.path(), table, holding)?;
            let row = Row::of(sqlite, table)?;
            let holding = row.taken_again_if(hold, holding, stage)?;
            if is_progress_due {
                row.write_progress(stage, fraction)?;
            }
            Ok((work(sqlite)?, holding))
        })?;
        self.holding = holding;
        Ok((done, held))
    }

    /// As [`write_some`](Self::write_some) without the progress, but gives up on a lock after a moment: `None`. Once the run has
    /// ended (`is_held` is false), its row may name the next one: that the video is not deleted is all that is asked.
    pub(super) fn try_write_some<T>(
        &mut self,
        doing: &'static str,
        is_held: bool,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<Option<(T, Duration)>, AnnotationsError> {
        let database = self.database()?;
        database.try_write(doing, |sqlite| {
            if is_held {
                fence(sqlite, database.path(), self.table, &self.holding)?;
            } else if schema::is_deleted(sqlite)? {
                return Err(AnnotationsError::Deleted {
                    path: database.path().to_owned(),
                }
                .into());
            }
            work(sqlite)
        })
    }

    /// What the row says once all is done, beside that it is.
    pub fn set_completion(&mut self, completion: Completion) {
        self.completion = completion;
    }

    /// The last transaction of the run: `work`, and the row says that all is done; not if it says `None`.
    ///
    /// A row that names nobody was reset by the web app, which waits for a result: it gets this one.
    pub(super) fn write_last<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<Option<T>, Fault>,
    ) -> Result<Option<T>, AnnotationsError> {
        let (table, holding, completion) = (self.table, &self.holding, &self.completion);
        let database = self.database()?;
        database.set_synchronous("FULL")?;
        let done = database.write(doing, |sqlite| {
            let (Hold::Held | Hold::Released) = fence(sqlite, database.path(), table, holding)?;
            let done = work(sqlite)?;
            if done.is_some() {
                Row::of(sqlite, table)?.write_completed(completion)?;
            }
            Ok(done)
        })?;
        self.last_progress = None;
        self.stage = Stage::AnalyzingLayout;
        Ok(done)
    }

    /// The status table that the attempt keeps.
    pub(super) const fn table(&self) -> StatusTable {
        self.table
    }
}

fn index_frame_rate_hz(sqlite: &Connection) -> rusqlite::Result<f64> {
    if !schema::columns(sqlite, "video_preferences")?.has("index_framerate_hz") {
        return Ok(DEFAULT_INDEX_FRAME_RATE_HZ);
    }
    let rate: Option<Option<f64>> = sqlite
        .query_row(
            "SELECT CAST(index_framerate_hz AS REAL) FROM video_preferences WHERE id = 1",
            [],
            |row| row.get(0),
        )
        .optional()?;
    Ok(rate
        .flatten()
        .filter(|rate| rate.is_finite() && *rate > 0.0)
        .unwrap_or(DEFAULT_INDEX_FRAME_RATE_HZ))
}
