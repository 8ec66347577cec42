//! annotations.db, the file that a video shares with the web app: its frames, text boxes and status rows.
//!
//! This module is the only code that opens such a file, in two processes: the child that runs an attempt
//! ([`Annotations`]), and the worker for what is to be said of attempts that are not running ([`StatusRow`]). The addon
//! never does: two copies of SQLite in one process break each other's locks.
//!
//! What holds:
//! - The file belongs to the app. Only the pipelines' tables are written, what is not known is not touched, the journal
//!   mode stays as it is, and what a user decided (layout) is kept.
//! - Frames are staged elsewhere ([`Staging`]) and swapped in by one transaction at the end: old set or new set, whole.
//! - An attempt writes only as long as the status row names its process. It stops for good when the video is deleted,
//!   the file is gone or another one, or another process is named ([`AnnotationsError::is_cancellation`]). A file that
//!   is gone is never made again.

mod commit;
mod database;
mod error;
mod schema;
mod staging;
mod status;

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use self::database::Database;
use self::status::{Hold, Row, fence};
use crate::domain::flow::StatusTable;

pub use self::commit::{CommitCounts, FullFramesOutcome};
pub use self::error::AnnotationsError;
pub use self::staging::{StagedBox, Staging, StagingReader, remove_leftovers};
pub use self::status::{FailureRecord, Stage, StatusRow};
pub use crate::domain::database::DatabaseIdentity;

/// Ticks a second of the index clock, unless `video_preferences` says otherwise.
pub const DEFAULT_INDEX_FRAME_RATE_HZ: f64 = 10.0;

/// Progress is written this often at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// The same where a write locks readers out (any journal mode but WAL): a tenth of the polls would find it locked.
const PROGRESS_INTERVAL_LOCKING: Duration = Duration::from_millis(500);

/// What an attempt opens.
#[derive(Debug, Clone, Copy)]
pub struct OpenRequest<'a> {
    /// The file.
    pub path: &'a Path,
    /// Whether it is created if it is not there.
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
#[derive(Debug)]
pub struct Annotations {
    database: Database,
    table: StatusTable,
    pid: u32,
    stage: Stage,
    index_frame_rate_hz: f64,
    progress_interval: Duration,
    last_progress: Option<Instant>,
}

impl Annotations {
    /// Opens the file and makes sure of the tables that the attempt writes. An empty file counts as a new database.
    ///
    /// # Errors
    /// Faults of the input: no such file or folder, not a regular file, not a database, damaged, not writable, tables of
    /// another kind. Cancellations: marked as deleted, or not the file of `identity`. Passing: locked, no space, I/O.
    pub fn open(request: &OpenRequest<'_>) -> Result<Self, AnnotationsError> {
        const DOING: &str = "opening it";
        let database = Database::open(
            request.path,
            request.may_create,
            request.identity,
            request.busy_timeout_ms,
        )?;
        if database.read(DOING, schema::is_deleted)? {
            return Err(AnnotationsError::Deleted {
                path: database.path().to_owned(),
            });
        }
        schema::ensure_run_tables(&database, request.table)?;
        let index_frame_rate_hz = database.read(DOING, index_frame_rate_hz)?;
        let mode: String = database.read(DOING, |sqlite| {
            sqlite.query_row("PRAGMA journal_mode", [], |row| row.get(0))
        })?;
        Ok(Self {
            database,
            table: request.table,
            pid: request.pid,
            stage: Stage::ExtractingFrames,
            index_frame_rate_hz,
            progress_interval: if mode.eq_ignore_ascii_case("wal") {
                PROGRESS_INTERVAL
            } else {
                PROGRESS_INTERVAL_LOCKING
            },
            last_progress: None,
        })
    }

    /// Which file this is.
    pub const fn identity(&self) -> DatabaseIdentity {
        self.database.identity()
    }

    /// `video_preferences.index_framerate_hz`, or [`DEFAULT_INDEX_FRAME_RATE_HZ`].
    pub const fn index_frame_rate_hz(&self) -> f64 {
        self.index_frame_rate_hz
    }

    /// Writes that the run starts, as this attempt's process. Whoever the row named before has lost it.
    ///
    /// # Errors
    /// [`AnnotationsError::Deleted`], [`AnnotationsError::FileGone`], and those of writing.
    pub fn begin(&mut self) -> Result<(), AnnotationsError> {
        let (table, pid) = (self.table, self.pid);
        self.database.write("writing that the run starts", |sqlite| {
            if schema::is_deleted(sqlite)? {
                return Err(AnnotationsError::Deleted {
                    path: self.database.path().to_owned(),
                }
                .into());
            }
            Row::of(sqlite, table)?.write_started(pid)
        })?;
        self.stage = Stage::ExtractingFrames;
        self.last_progress = None;
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
        if self
            .last_progress
            .is_some_and(|last| now.saturating_duration_since(last) < self.progress_interval)
        {
            return Ok(());
        }
        self.last_progress = Some(now);
        if self.table == StatusTable::CropFramesStatus {
            // It has no column for it.
            return Ok(());
        }
        let fraction = if fraction.is_nan() {
            0.0
        } else {
            fraction.clamp(0.0, 1.0)
        };
        let (table, pid, stage) = (self.table, self.pid, self.stage);
        self.database.try_write("writing the progress", |sqlite| {
            let hold = fence(sqlite, self.database.path(), table, pid)?;
            let row = Row::of(sqlite, table)?;
            if hold == Hold::Released {
                row.write_taken_again(pid, stage)?;
            }
            row.write_progress(stage, fraction)
        })?;
        Ok(())
    }

    /// Whether the attempt may go on. A row that the web app has reset (it names nobody) is taken again.
    ///
    /// # Errors
    /// The cancellations: [`AnnotationsError::FileGone`], [`AnnotationsError::Deleted`],
    /// [`AnnotationsError::Superseded`]; and those of reading.
    pub fn check_fence(&mut self) -> Result<(), AnnotationsError> {
        const DOING: &str = "looking at the status row";
        self.database.check_file()?;
        let (table, pid) = (self.table, self.pid);
        let (is_deleted, holder) = self.database.read(DOING, |sqlite| {
            Ok((schema::is_deleted(sqlite)?, Row::of(sqlite, table)?.holder()?))
        })?;
        // The usual case takes no lock that anyone notices.
        if !is_deleted && holder == status::Holder::Process(pid.to_string()) {
            return Ok(());
        }
        self.guarded(DOING, self.stage, |_| Ok(()))
    }

    /// Writes that the run is complete, for a flow whose frames are not written here.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), and those of writing.
    pub fn complete_external(&mut self) -> Result<(), AnnotationsError> {
        let (table, pid) = (self.table, self.pid);
        self.database.write("writing that the run is complete", |sqlite| {
            fence(sqlite, self.database.path(), table, pid)?;
            Row::of(sqlite, table)?.write_completed()
        })
    }

    /// Writes the row if the attempt may go on; takes it again if the app has reset it.
    fn guarded(
        &self,
        doing: &'static str,
        stage: Stage,
        write: impl FnOnce(&Row<'_>) -> Result<(), error::Fault>,
    ) -> Result<(), AnnotationsError> {
        let (table, pid) = (self.table, self.pid);
        self.database.write(doing, |sqlite| {
            let hold = fence(sqlite, self.database.path(), table, pid)?;
            let row = Row::of(sqlite, table)?;
            if hold == Hold::Released {
                row.write_taken_again(pid, stage)?;
            }
            write(&row)
        })
    }
}

/// The version of SQLite that is linked in.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
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
