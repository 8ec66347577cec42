//! A run's staged frames take the place of the old ones, status row included.
//!
//! They are filled into shadows (`exchange.rs`) in transactions that are sized by the time that they hold the lock
//! (`pace.rs`); then one short transaction swaps the tables in, with layout, metadata and the completed status row: a reader
//! sees the old set whole or the new set whole, and so does whoever opens the file after a crash. What the app writes
//! meanwhile into the tables that are swapped out goes with them, as it went with the rows of the old set before.
//!
//! In WAL mode the log is brought into the file after each transaction, by this process: nobody else finds more than one
//! transaction of ours in it, and it does not grow with the film.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::attempt::Annotations;
use super::database::Database;
use super::error::{AnnotationsError, Fault};
use super::exchange::{Deleted, Shadow, delete_some, exchange, leftovers};
use super::pace::{MAX_BATCH_BYTES, Pace, pause_after, wait};
use super::schema::{columns, insert_lists};
use super::staging::{RowKind, StagedRows, Staging};
use crate::domain::database::DatabaseIdentity;
use crate::domain::flow::{CropBounds, StatusTable};

/// Space that is to be free beyond what the frames take.
const SPARE_BYTES: u64 = 1 << 20;
/// How often shadows are made anew because the app has changed its tables meanwhile; one transaction writes all then.
const EXCHANGES: u32 = 3;
/// How often old rows are tried to be deleted that a lock keeps; the next run of the video deletes what stays.
pub(super) const CLEARING_TRIES: u32 = 100;
/// Pages of the log that a reader may keep from being brought into the file before the commit slows down (4 MB, at the usual
/// size of a page).
const LOG_PAGES: u64 = 1024;
/// The longest pause between two transactions: the status row wants to be written every two seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const DOING: &str = "writing the frames";

/// What full-frames found out about the video.
#[derive(Debug, Clone, PartialEq)]
pub struct FullFramesOutcome {
    /// Width of the frame in display orientation, in pixels.
    pub frame_width: u32,
    /// Height of the frame in display orientation, in pixels.
    pub frame_height: u32,
    /// Duration of the video.
    pub duration_seconds: f64,
    /// Its frame rate in Hz. A number that is none (not finite, or not above 0) is not stored, nor is such a duration.
    pub fps: f64,
    /// Name of its codec.
    pub codec: String,
}

/// What a commit wrote, and the layout that holds after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitCounts {
    /// Frames written.
    pub frames: u64,
    /// Text boxes written.
    pub boxes: u64,
    /// Bytes of their JPEGs.
    pub bytes: u64,
    /// The crop bounds of `video_layout_config`: the user's, or the whole frame. For crop-frames: those of the frames.
    pub layout_bounds: Option<CropBounds>,
    /// Their version.
    pub layout_version: Option<i64>,
}

/// Where a commit is. Told between transactions: no lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitStep {
    /// There was no file: it is made, and is this one.
    Created(DatabaseIdentity),
    /// Some of what an interrupted attempt left is removed.
    Cleared,
    /// So many of the rows are in the file, and not visible yet.
    Filled {
        /// Rows of all tables.
        rows: u64,
        /// Of how many.
        of: u64,
    },
    /// The next transaction makes them visible: the last moment to be told that another attempt has the run.
    Ready,
    /// They are visible.
    Exchanged,
    /// Some of the old rows are removed. A refusal ends that, and nothing else.
    OldRemoved,
}

/// A table that is written, and what is put into it.
struct Target<'a> {
    table: &'static str,
    kind: RowKind,
    /// Columns, each with the SQL of its value, in the names of [`RowKind::columns`].
    wanted: Vec<(&'a str, &'a str)>,
}

impl<'a> Target<'a> {
    fn frames(table: &'static str, more: &[(&'a str, &'a str)]) -> Self {
        let mut wanted = vec![
            ("frame_index", "frame_index"),
            ("image_data", "image_data"),
            ("width", "width"),
            ("height", "height"),
            ("file_size", "length(image_data)"),
            ("created_at", "datetime('now')"),
        ];
        wanted.extend(more);
        Self {
            table,
            kind: RowKind::Frames,
            wanted,
        }
    }

    fn boxes(timestamp_seconds: &'a str) -> Self {
        Self {
            table: "full_frame_ocr",
            kind: RowKind::Boxes,
            wanted: vec![
                ("frame_index", "frame_index"),
                ("box_index", "box_index"),
                ("text", "text"),
                ("confidence", "confidence"),
                ("x", "x"),
                ("y", "y"),
                ("width", "width"),
                ("height", "height"),
                ("timestamp_seconds", timestamp_seconds),
                ("created_at", "datetime('now')"),
            ],
        }
    }

    /// Puts rows into `table`, which is this target's or its shadow.
    fn insert(&self, sqlite: &Connection, table: &str, staged: &StagedRows) -> Result<(), Fault> {
        let (names, values) = insert_lists(sqlite, table, &self.wanted)?;
        let parameters: Vec<_> = (1..)
            .zip(self.kind.columns())
            .map(|(number, column)| format!("?{number} AS {column}"))
            .collect();
        let mut insert = sqlite.prepare_cached(&format!(
            "INSERT INTO main.{table} ({names}) SELECT {values} FROM (SELECT {})",
            parameters.join(", ")
        ))?;
        for row in &staged.rows {
            insert.execute(params_from_iter(row))?;
        }
        Ok(())
    }
}

/// What is written along with the frames in the transaction that makes them visible.
type Layout = (Option<CropBounds>, Option<i64>);

impl Annotations {
    /// The crop bounds of the layout and their version; `None` for what it does not say, or if there is no layout.
    ///
    /// # Errors
    /// Those of reading.
    pub fn layout(&self) -> Result<(Option<CropBounds>, Option<i64>), AnnotationsError> {
        if self.identity().is_none() {
            return Ok((None, None));
        }
        self.database()?.read("reading the layout", read_layout)
    }

    /// Swaps in what full-frames has staged, with layout row, metadata and the completed status row. `observe` hears of
    /// every step, and can end it.
    ///
    /// The staging database stays as it is: the call can be repeated when it failed for a passing cause.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), those of writing, and those of `observe`; the old set is there then.
    pub fn commit_full_frames<E: From<AnnotationsError>>(
        &mut self,
        staging: &mut Staging,
        outcome: &FullFramesOutcome,
        observe: &mut dyn FnMut(CommitStep) -> Result<(), E>,
    ) -> Result<CommitCounts, E> {
        self.create_before_commit(observe)?;
        let timestamp_seconds = format!("frame_index / {:?}", self.index_frame_rate_hz());
        let targets = [Target::frames("full_frames", &[]), Target::boxes(&timestamp_seconds)];
        self.commit(staging, &targets, observe, &|sqlite| {
            write_layout(sqlite, outcome)?;
            fill_metadata(sqlite, outcome)?;
            Ok(read_layout(sqlite)?)
        })
    }

    /// Swaps in what crop-frames has staged, in place of every cropped frame that there was, with the completed status
    /// row. `observe` hears of every step, and can end it.
    ///
    /// The staging database stays as it is: the call can be repeated when it failed for a passing cause.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), those of writing, and those of `observe`; the old set is there then.
    pub fn commit_crop_frames<E: From<AnnotationsError>>(
        &mut self,
        staging: &mut Staging,
        bounds: CropBounds,
        version: u32,
        observe: &mut dyn FnMut(CommitStep) -> Result<(), E>,
    ) -> Result<CommitCounts, E> {
        self.create_before_commit(observe)?;
        let values = [bounds.left, bounds.top, bounds.right, bounds.bottom, version].map(|value| value.to_string());
        let names = [
            "crop_left",
            "crop_top",
            "crop_right",
            "crop_bottom",
            "crop_bounds_version",
        ];
        let bounds_columns: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        let targets = [Target::frames("cropped_frames", &bounds_columns)];
        let layout = (Some(bounds), Some(i64::from(version)));
        self.commit(staging, &targets, observe, &|_| Ok(layout))
    }

    /// Removes what interrupted attempts have left in the file, in short transactions: they make the file larger, and
    /// nothing else.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), those of writing, and those of `observe`.
    pub fn clear_leftovers<E: From<AnnotationsError>>(
        &mut self,
        observe: &mut dyn FnMut(CommitStep) -> Result<(), E>,
    ) -> Result<(), E> {
        let Ok(database) = self.database() else { return Ok(()) };
        let mut left = Vec::new();
        for table in tables_of(self.table()) {
            left.extend(database.read(DOING, |sqlite| leftovers(sqlite, table))?);
        }
        for shadow in left {
            let mut pace = Pace::new();
            loop {
                let bytes = pace.batch_bytes();
                let (deleted, held) = self.write_some(DOING, 0.0, |sqlite| delete_some(sqlite, &shadow, bytes))?;
                self.let_others_in(held)?;
                match deleted {
                    Deleted::Some(bytes) => pace.learn(bytes, held),
                    Deleted::All => break,
                }
                observe(CommitStep::Cleared)?;
            }
        }
        Ok(())
    }

    fn create_before_commit<E: From<AnnotationsError>>(
        &mut self,
        observe: &mut dyn FnMut(CommitStep) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.identity().is_none() {
            // A late attempt makes no file either.
            observe(CommitStep::Ready)?;
        }
        match self.create()? {
            Some(identity) => observe(CommitStep::Created(identity)),
            None => Ok(()),
        }
    }

    fn commit<E: From<AnnotationsError>>(
        &mut self,
        staging: &mut Staging,
        targets: &[Target<'_>],
        observe: &mut dyn FnMut(CommitStep) -> Result<(), E>,
        write: &dyn Fn(&Connection) -> Result<Layout, Fault>,
    ) -> Result<CommitCounts, E> {
        staging.flush()?;
        let database = self.database()?;
        database.check_file()?;
        // A large row, and what is changed of the trees, beside a whole transaction's rows.
        database.set_for_batches(4 * MAX_BATCH_BYTES)?;
        self.clear_leftovers(observe)?;
        check_free_space(self.database()?, staging.file())?;
        let counts = counts_of(staging, targets)?;
        for _ in 0..EXCHANGES {
            let Some(shadows) = self.make_shadows(targets)? else {
                break;
            };
            let exchanged = self
                .fill(staging, targets, &shadows, observe)
                .and_then(|()| observe(CommitStep::Ready))
                .and_then(|()| self.exchange(targets, &shadows, write).map_err(E::from));
            let is_visible = matches!(exchanged, Ok(Some(_)));
            if is_visible {
                // What is visible stays visible, whatever is thought of it.
                let _ = observe(CommitStep::Exchanged);
            }
            self.clear(&shadows, is_visible, observe);
            if let Some((layout_bounds, layout_version)) = exchanged? {
                return Ok(CommitCounts {
                    layout_bounds,
                    layout_version,
                    ..counts
                });
            }
        }
        observe(CommitStep::Ready)?;
        let (layout_bounds, layout_version) = self.replace_at_once(staging, targets, write)?;
        Ok(CommitCounts {
            layout_bounds,
            layout_version,
            ..counts
        })
    }

    /// `None`: the tables can have none.
    fn make_shadows(&mut self, targets: &[Target<'_>]) -> Result<Option<Vec<Shadow>>, AnnotationsError> {
        let made = self.write_some(DOING, 0.0, |sqlite| {
            let mut shadows = Vec::new();
            for target in targets {
                match Shadow::create(sqlite, target.table)? {
                    Some(shadow) => shadows.push(shadow),
                    None => return Ok(None),
                }
            }
            Ok(Some(shadows))
        });
        match made {
            Ok((Some(shadows), _)) => Ok(Some(shadows)),
            // Those that were made before one could not be.
            Ok((None, _)) => self
                .clear_leftovers(&mut |_| Ok::<_, AnnotationsError>(()))
                .map(|()| None),
            // A text of the app's schema that does not do under another name.
            Err(AnnotationsError::Schema { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn fill<E: From<AnnotationsError>>(
        &mut self,
        staging: &Staging,
        targets: &[Target<'_>],
        shadows: &[Shadow],
        observe: &mut dyn FnMut(CommitStep) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut of = 0;
        for target in targets {
            of += staging.totals(target.kind)?.rows;
        }
        let mut rows = 0;
        for (target, shadow) in targets.iter().zip(shadows) {
            // A byte of text boxes takes longer than one of a picture.
            let mut pace = Pace::new();
            let mut after = None;
            // Read before the lock is taken: the disk may be slow.
            while let Some(staged) = staging.rows_after(target.kind, after, pace.batch_bytes())? {
                after = Some(staged.last);
                let ((), held) = self.write_some(DOING, share(rows, of), |sqlite| {
                    target.insert(sqlite, shadow.name(), &staged)
                })?;
                pace.learn(staged.bytes, held);
                rows += staged.rows.len() as u64;
                self.let_others_in(held)?;
                observe(CommitStep::Filled { rows, of })?;
            }
        }
        Ok(())
    }

    /// `None`: the app has changed its tables meanwhile.
    fn exchange(
        &mut self,
        targets: &[Target<'_>],
        shadows: &[Shadow],
        write: &dyn Fn(&Connection) -> Result<Layout, Fault>,
    ) -> Result<Option<Layout>, AnnotationsError> {
        let exchanged = self.write_last(DOING, |sqlite| {
            for (target, shadow) in targets.iter().zip(shadows) {
                if !shadow.is_like(sqlite, target.table)? {
                    return Ok(None);
                }
            }
            let layout = write(sqlite)?;
            exchange(sqlite, shadows)?;
            Ok(Some(layout))
        });
        let _ = self.database()?.checkpoint();
        exchanged
    }

    /// Removes what the shadows have now: the old rows, or those that did not become visible. What fails here is left to the
    /// next run of the video.
    fn clear<E>(&mut self, shadows: &[Shadow], is_visible: bool, observe: &mut dyn FnMut(CommitStep) -> Result<(), E>) {
        let mut tries = 0;
        for shadow in shadows {
            let mut pace = Pace::new();
            loop {
                let bytes = pace.batch_bytes();
                let Ok(deleted) = self.delete_some(shadow, bytes, is_visible) else {
                    return;
                };
                let held = deleted.as_ref().map_or(Duration::ZERO, |(_, held)| *held);
                match deleted {
                    Some((Deleted::Some(bytes), _)) => pace.learn(bytes, held),
                    Some((Deleted::All, _)) => break,
                    None if tries == CLEARING_TRIES => return,
                    None => tries += 1,
                }
                if self.let_others_in(held).is_err() || (is_visible && observe(CommitStep::OldRemoved).is_err()) {
                    return;
                }
            }
        }
    }

    /// `None`: another program holds the lock.
    fn delete_some(
        &mut self,
        shadow: &Shadow,
        bytes: u64,
        is_visible: bool,
    ) -> Result<Option<(Deleted, Duration)>, AnnotationsError> {
        // Once all is written, the row may name the next run.
        self.try_write_some(DOING, !is_visible, |sqlite| delete_some(sqlite, shadow.name(), bytes))
    }

    fn let_others_in(&self, held: Duration) -> Result<(), AnnotationsError> {
        let_others_in(self.database()?, held);
        Ok(())
    }

    /// For tables that can have no shadow: all in one transaction, however long it takes.
    fn replace_at_once(
        &mut self,
        staging: &Staging,
        targets: &[Target<'_>],
        write: &dyn Fn(&Connection) -> Result<Layout, Fault>,
    ) -> Result<Layout, AnnotationsError> {
        let layout = self.write_last(DOING, |sqlite| {
            for target in targets {
                sqlite.execute(&format!("DELETE FROM main.{}", target.table), [])?;
                let mut after = None;
                while let Some(staged) = staging.rows_after(target.kind, after, MAX_BATCH_BYTES)? {
                    after = Some(staged.last);
                    target.insert(sqlite, target.table, &staged)?;
                }
            }
            write(sqlite).map(Some)
        });
        let _ = self.database()?.checkpoint();
        Ok(layout?.unwrap_or_default())
    }
}

/// After a transaction that has `held` the lock. While a reader keeps the log from being brought into the file, there is no
/// hurry to make it longer.
pub(super) fn let_others_in(database: &Database, held: Duration) {
    let free_since = Instant::now();
    let pause = pause_after(held);
    while database.checkpoint() > LOG_PAGES && free_since.elapsed() < LONGEST_PAUSE {
        wait(Instant::now(), pause);
    }
    wait(free_since, pause);
}

/// The tables that a run with this status table swaps.
pub(super) const fn tables_of(table: StatusTable) -> &'static [&'static str] {
    match table {
        StatusTable::ProcessingStatus => &["full_frames", "full_frame_ocr"],
        StatusTable::CropFramesStatus => &["cropped_frames"],
    }
}

fn counts_of(staging: &Staging, targets: &[Target<'_>]) -> Result<CommitCounts, AnnotationsError> {
    let mut counts = CommitCounts::default();
    for target in targets {
        let totals = staging.totals(target.kind)?;
        match target.kind {
            RowKind::Frames => {
                counts.frames = totals.rows;
                counts.bytes = totals.picture_bytes;
            }
            RowKind::Boxes => counts.boxes = totals.rows,
        }
    }
    Ok(counts)
}

#[expect(clippy::cast_precision_loss, reason = "a fraction for people")]
fn share(rows: u64, of: u64) -> f64 {
    rows as f64 / of.max(1) as f64
}

/// Fails early when the frames cannot fit.
fn check_free_space(database: &Database, staging_file: &Path) -> Result<(), AnnotationsError> {
    let Ok(staged) = std::fs::metadata(staging_file) else {
        return Ok(());
    };
    let (is_wal, reusable) = database.read("looking at its size", |sqlite| {
        let mode: String = sqlite.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        let free_pages = sqlite.query_row("PRAGMA freelist_count", [], whole_number)?;
        let page_bytes = sqlite.query_row("PRAGMA page_size", [], whole_number)?;
        Ok((mode.eq_ignore_ascii_case("wal"), free_pages * page_bytes))
    })?;
    // The log takes no more than a transaction, since it is brought into the file after each.
    let log = if is_wal { staged.len().min(MAX_BATCH_BYTES) } else { 0 };
    let needed = staged.len().saturating_sub(reusable) + log;
    let Some(free) = free_bytes(database.path()) else {
        return Ok(());
    };
    if is_enough(free, needed) {
        return Ok(());
    }
    Err(AnnotationsError::DiskFull {
        path: database.path().to_owned(),
        detail: format!(" ({needed} bytes are needed, {free} are free)"),
    })
}

const fn is_enough(free_bytes: u64, needed_bytes: u64) -> bool {
    free_bytes >= needed_bytes.saturating_add(SPARE_BYTES)
}

/// What this user may still write beside `path`; `None` where the system does not tell.
fn free_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// A count or a size: SQLite's numbers are signed, these are not negative.
fn whole_number(row: &rusqlite::Row<'_>) -> rusqlite::Result<u64> {
    row.get::<_, i64>(0).map(i64::unsigned_abs)
}

/// The user's bounds and version stay; the frame's size is corrected if it is wrong.
fn write_layout(sqlite: &Connection, outcome: &FullFramesOutcome) -> Result<(), Fault> {
    let FullFramesOutcome {
        frame_width,
        frame_height,
        ..
    } = *outcome;
    let found = columns(sqlite, "video_layout_config")?;
    let exists: bool = sqlite.query_row(
        "SELECT EXISTS (SELECT 1 FROM main.video_layout_config WHERE id = 1)",
        [],
        |row| row.get(0),
    )?;
    if exists {
        for (column, value) in [("frame_width", frame_width), ("frame_height", frame_height)] {
            if found.has(column) {
                sqlite.execute(
                    &format!("UPDATE main.video_layout_config SET {column} = ?1 WHERE id = 1 AND {column} IS NOT ?1"),
                    [value],
                )?;
            }
        }
        return Ok(());
    }
    let (width, height) = (frame_width.to_string(), frame_height.to_string());
    let (names, values) = insert_lists(
        sqlite,
        "video_layout_config",
        &[
            ("id", "1"),
            ("frame_width", &width),
            ("frame_height", &height),
            ("crop_left", "0"),
            ("crop_top", "0"),
            ("crop_right", &width),
            ("crop_bottom", &height),
            ("crop_bounds_version", "1"),
            ("updated_at", "datetime('now')"),
        ],
    )?;
    sqlite.execute(
        &format!("INSERT INTO main.video_layout_config ({names}) SELECT {values}"),
        [],
    )?;
    Ok(())
}

/// The layout as it is now; `None` for what is not there or is no whole number.
fn read_layout(sqlite: &Connection) -> rusqlite::Result<(Option<CropBounds>, Option<i64>)> {
    let found = columns(sqlite, "video_layout_config")?;
    let value = |column: &str| -> rusqlite::Result<Option<i64>> {
        if !found.has(column) {
            return Ok(None);
        }
        sqlite
            .query_row(
                &format!("SELECT CAST({column} AS INTEGER) FROM main.video_layout_config WHERE id = 1"),
                [],
                |row| row.get(0),
            )
            .optional()
            .map(Option::flatten)
    };
    let edge =
        |column| -> rusqlite::Result<Option<u32>> { Ok(value(column)?.and_then(|edge| u32::try_from(edge).ok())) };
    let bounds = match (
        edge("crop_left")?,
        edge("crop_top")?,
        edge("crop_right")?,
        edge("crop_bottom")?,
    ) {
        (Some(left), Some(top), Some(right), Some(bottom)) => Some(CropBounds {
            left,
            top,
            right,
            bottom,
        }),
        _ => None,
    };
    Ok((bounds, value("crop_bounds_version")?))
}

/// Fills what is still empty; the rest is the app's.
fn fill_metadata(sqlite: &Connection, outcome: &FullFramesOutcome) -> Result<(), Fault> {
    let found = columns(sqlite, "video_metadata")?;
    // A row that needs more than we know can be made by the app alone.
    sqlite.execute("INSERT OR IGNORE INTO main.video_metadata (id) VALUES (1)", [])?;
    let values: [(&str, rusqlite::types::Value); 5] = [
        ("duration_seconds", measured(outcome.duration_seconds)),
        ("width", i64::from(outcome.frame_width).into()),
        ("height", i64::from(outcome.frame_height).into()),
        ("fps", measured(outcome.fps)),
        (
            "codec",
            Some(outcome.codec.clone()).filter(|codec| !codec.is_empty()).into(),
        ),
    ];
    for (column, value) in values {
        if found.has(column) {
            sqlite.execute(
                &format!("UPDATE main.video_metadata SET {column} = ?1 WHERE id = 1 AND {column} IS NULL"),
                [value],
            )?;
        }
    }
    Ok(())
}

fn measured(value: f64) -> rusqlite::types::Value {
    Some(value).filter(|value| value.is_finite() && *value > 0.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::attempt::OpenRequest;
    use crate::domain::flow::StatusTable;

    #[test]
    fn a_full_disk_leaves_the_old_set_and_is_a_passing_fault() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut annotations = Annotations::open(&OpenRequest {
            path: &folder.path().join("annotations.db"),
            may_create: true,
            identity: None,
            table: StatusTable::CropFramesStatus,
            pid: 1,
            busy_timeout_ms: 1000,
        })
        .expect("it is created");
        let bounds = CropBounds {
            left: 0,
            top: 0,
            right: 8,
            bottom: 8,
        };
        let staged = |count: i64| {
            let mut staging = Staging::create(&folder.path().join("out"), "run-1").expect("it is created");
            for frame_index in 0..count {
                staging
                    .add_frame(frame_index, &[7; 10_000], 8, 8)
                    .expect("it is stored");
            }
            staging
        };
        let mut observe = |_| Ok::<_, AnnotationsError>(());
        annotations.begin().expect("it begins");
        annotations
            .commit_crop_frames(&mut staged(10), bounds, 1, &mut observe)
            .expect("there is space");
        annotations.begin().expect("it begins");
        let limit = |annotations: &Annotations, pages: i64| {
            let sqlite = annotations.database().expect("it is there").sqlite();
            sqlite
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], whole_number)
                .expect("a pragma")
        };
        // SQLite answers SQLITE_FULL for a full disk and for its own limit alike.
        limit(&annotations, 100);
        let mut staging = staged(100);
        let error = annotations
            .commit_crop_frames(&mut staging, bounds, 1, &mut observe)
            .expect_err("it is full");
        assert_eq!(error.code(), "DISK_FULL");
        assert!(!error.is_input_fault() && !error.is_cancellation());
        assert!(error.to_string().contains("annotations.db"), "{error}");
        let frames = "SELECT count(*) FROM cropped_frames";
        let sqlite = annotations.database().expect("it is there").sqlite();
        assert_eq!(sqlite.query_row(frames, [], whole_number).expect(frames), 10);
        limit(&annotations, 1_000_000);
        annotations
            .commit_crop_frames(&mut staging, bounds, 1, &mut observe)
            .expect("there is space again");
        let sqlite = annotations.database().expect("it is there").sqlite();
        assert_eq!(sqlite.query_row(frames, [], whole_number).expect(frames), 100);
    }

    #[test]
    fn space_is_wanted_for_the_frames_and_a_little_more() {
        assert!(is_enough(SPARE_BYTES + 10, 10));
        assert!(!is_enough(SPARE_BYTES + 9, 10));
        assert!(!is_enough(u64::MAX - 1, u64::MAX));
    }
}
