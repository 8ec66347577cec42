//! The swap: a run's staged frames take the place of the old ones in one transaction, status row included.
//!
//! The staging database is attached read-only, so the transaction writes one file only and is as atomic as any of
//! SQLite's: a reader sees the old set whole or the new set whole, and so does whoever opens the file after a crash.

use std::fmt::Write as _;
use std::path::Path;

use rusqlite::Connection;

use super::database::Database;
use super::error::{AnnotationsError, Fault, classified};
use super::schema::{columns, insert_lists};
use super::staging::Staging;
use super::status::{Hold, Row, fence};
use super::{Annotations, Stage};
use crate::domain::flow::CropBounds;

/// Space that is to be free beyond what the frames take.
const SPARE_BYTES: u64 = 1 << 20;
/// The staging database within the transaction.
const STAGING: &str = "captionacc_staging";

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl Annotations {
    /// Swaps in what full-frames has staged, with layout row, metadata and the completed status row.
    ///
    /// The staging database stays as it is: the call can be repeated when it failed for a passing cause.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), and those of writing; nothing is written then.
    pub fn commit_full_frames(
        &mut self,
        staging: &mut Staging,
        outcome: &FullFramesOutcome,
    ) -> Result<CommitCounts, AnnotationsError> {
        let rate = self.index_frame_rate_hz;
        self.commit(staging, |sqlite| {
            replace_frames(sqlite, "full_frames", &[])?;
            replace_boxes(sqlite, rate)?;
            write_layout(sqlite, outcome)?;
            fill_metadata(sqlite, outcome)?;
            let (bounds, version) = read_layout(sqlite)?;
            Ok((count(sqlite, "boxes")?, bounds, version))
        })
    }

    /// Swaps in what crop-frames has staged, in place of every cropped frame that there was, with the completed status
    /// row.
    ///
    /// The staging database stays as it is: the call can be repeated when it failed for a passing cause.
    ///
    /// # Errors
    /// As [`check_fence`](Self::check_fence), and those of writing; nothing is written then.
    pub fn commit_crop_frames(
        &mut self,
        staging: &mut Staging,
        bounds: CropBounds,
        version: u32,
    ) -> Result<CommitCounts, AnnotationsError> {
        let values = [bounds.left, bounds.top, bounds.right, bounds.bottom, version].map(|value| value.to_string());
        let names = [
            "crop_left",
            "crop_top",
            "crop_right",
            "crop_bottom",
            "crop_bounds_version",
        ];
        let bounds_columns: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        self.commit(staging, |sqlite| {
            replace_frames(sqlite, "cropped_frames", &bounds_columns)?;
            Ok((0, Some(bounds), Some(i64::from(version))))
        })
    }

    fn commit(
        &mut self,
        staging: &mut Staging,
        write: impl FnOnce(&Connection) -> Result<(u64, Option<CropBounds>, Option<i64>), Fault>,
    ) -> Result<CommitCounts, AnnotationsError> {
        const DOING: &str = "writing the frames";
        staging.flush()?;
        let Self {
            database, table, pid, ..
        } = self;
        database.check_file()?;
        check_free_space(database, staging.file())?;
        let attached = Attached::attach(database, staging.file())?;
        database.set_synchronous("FULL")?;
        let outcome = database.write(DOING, |sqlite| {
            // A row that names nobody was reset by the web app, which waits for a result: it gets this one.
            let (Hold::Held | Hold::Released) = fence(sqlite, database.path(), *table, *pid)?;
            let (boxes, layout_bounds, layout_version) = write(sqlite)?;
            let counts = CommitCounts {
                frames: count(sqlite, "frames")?,
                boxes,
                bytes: staged_bytes(sqlite)?,
                layout_bounds,
                layout_version,
            };
            Row::of(sqlite, *table)?.write_completed()?;
            Ok(counts)
        });
        drop(attached);
        if outcome.is_ok() {
            self.last_progress = None;
            self.stage = Stage::AnalyzingLayout;
        }
        outcome
    }
}

/// The staging database, attached to the connection until it is dropped.
struct Attached<'a>(&'a Database);

impl<'a> Attached<'a> {
    fn attach(database: &'a Database, file: &Path) -> Result<Self, AnnotationsError> {
        let uri = file_uri(file);
        database
            .sqlite()
            .execute(&format!("ATTACH DATABASE ?1 AS {STAGING}"), [uri])
            .map_err(|error| classified(error, file, "attaching the staging database", 0))
            .map_err(|error| AnnotationsError::Staging {
                path: file.to_owned(),
                doing: "attaching it",
                source: Box::new(error),
            })?;
        Ok(Self(database))
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // At worst it stays attached until the connection is closed, and a second attempt says so.
        let _ = self.0.sqlite().execute_batch(&format!("DETACH DATABASE {STAGING}"));
    }
}

/// `file:…?mode=ro&immutable=1`, every byte of the path that could mean something else escaped
/// (<https://www.sqlite.org/uri.html>). Immutable: nobody writes it now, and it needs no lock.
fn file_uri(file: &Path) -> String {
    let mut uri = "file:".to_owned();
    #[cfg(unix)]
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str());
    #[cfg(not(unix))]
    let text = format!("/{}", file.to_string_lossy().replace('\\', "/"));
    #[cfg(not(unix))]
    let bytes = text.as_bytes();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            write!(uri, "%{byte:02X}").expect("a String takes all");
        }
    }
    uri.push_str("?mode=ro&immutable=1");
    uri
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
    // In WAL mode all of it goes to the log first.
    let needed = staged.len().saturating_sub(if is_wal { 0 } else { reusable });
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
#[cfg(unix)]
fn free_bytes(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
const fn free_bytes(_path: &Path) -> Option<u64> {
    None
}

/// A count or a size: SQLite's numbers are signed, these are not negative.
fn whole_number(row: &rusqlite::Row<'_>) -> rusqlite::Result<u64> {
    row.get::<_, i64>(0).map(i64::unsigned_abs)
}

fn count(sqlite: &Connection, staged_table: &str) -> rusqlite::Result<u64> {
    sqlite.query_row(
        &format!("SELECT count(*) FROM {STAGING}.{staged_table}"),
        [],
        whole_number,
    )
}

fn staged_bytes(sqlite: &Connection) -> rusqlite::Result<u64> {
    sqlite.query_row(
        &format!("SELECT coalesce(sum(length(image_data)), 0) FROM {STAGING}.frames"),
        [],
        whole_number,
    )
}

fn replace_frames(sqlite: &Connection, table: &str, more: &[(&str, &str)]) -> Result<(), Fault> {
    let mut wanted = vec![
        ("frame_index", "frame_index"),
        ("image_data", "image_data"),
        ("width", "width"),
        ("height", "height"),
        ("file_size", "length(image_data)"),
        ("created_at", "datetime('now')"),
    ];
    wanted.extend(more);
    let (names, values) = insert_lists(sqlite, table, &wanted)?;
    sqlite.execute(&format!("DELETE FROM main.{table}"), [])?;
    sqlite.execute(
        &format!("INSERT INTO main.{table} ({names}) SELECT {values} FROM {STAGING}.frames ORDER BY frame_index"),
        [],
    )?;
    Ok(())
}

fn replace_boxes(sqlite: &Connection, index_frame_rate_hz: f64) -> Result<(), Fault> {
    let wanted = [
        ("frame_index", "frame_index"),
        ("box_index", "box_index"),
        ("text", "text"),
        ("confidence", "confidence"),
        ("x", "x"),
        ("y", "y"),
        ("width", "width"),
        ("height", "height"),
        // ?1 is named in every case, so that the number of parameters is the same.
        ("timestamp_seconds", "frame_index / ?1"),
        ("created_at", "datetime('now')"),
    ];
    let (names, values) = insert_lists(sqlite, "full_frame_ocr", &wanted)?;
    sqlite.execute("DELETE FROM main.full_frame_ocr", [])?;
    sqlite.execute(
        &format!(
            "INSERT INTO main.full_frame_ocr ({names}) SELECT {values} FROM {STAGING}.boxes \
             WHERE ?1 > 0 ORDER BY frame_index, box_index"
        ),
        [index_frame_rate_hz],
    )?;
    Ok(())
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
fn read_layout(sqlite: &Connection) -> Result<(Option<CropBounds>, Option<i64>), Fault> {
    let found = columns(sqlite, "video_layout_config")?;
    let value = |column: &str| -> rusqlite::Result<Option<i64>> {
        if !found.has(column) {
            return Ok(None);
        }
        sqlite.query_row(
            &format!("SELECT CAST({column} AS INTEGER) FROM main.video_layout_config WHERE id = 1"),
            [],
            |row| row.get(0),
        )
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
    use crate::annotations::OpenRequest;
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
        annotations.begin().expect("it begins");
        annotations
            .commit_crop_frames(&mut staged(10), bounds, 1)
            .expect("there is space");
        annotations.begin().expect("it begins");
        let limit = |annotations: &Annotations, pages: i64| {
            let sqlite = annotations.database.sqlite();
            sqlite
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], whole_number)
                .expect("a pragma")
        };
        // SQLite answers SQLITE_FULL for a full disk and for its own limit alike.
        limit(&annotations, 100);
        let mut staging = staged(100);
        let error = annotations
            .commit_crop_frames(&mut staging, bounds, 1)
            .expect_err("it is full");
        assert_eq!(error.code(), "DISK_FULL");
        assert!(!error.is_input_fault() && !error.is_cancellation());
        assert!(error.to_string().contains("annotations.db"), "{error}");
        let frames = "SELECT count(*) FROM cropped_frames";
        let sqlite = annotations.database.sqlite();
        assert_eq!(sqlite.query_row(frames, [], whole_number).expect(frames), 10);
        limit(&annotations, 1_000_000);
        annotations
            .commit_crop_frames(&mut staging, bounds, 1)
            .expect("there is space again");
        let sqlite = annotations.database.sqlite();
        assert_eq!(sqlite.query_row(frames, [], whole_number).expect(frames), 100);
    }

    #[test]
    fn space_is_wanted_for_the_frames_and_a_little_more() {
        assert!(is_enough(SPARE_BYTES + 10, 10));
        assert!(!is_enough(SPARE_BYTES + 9, 10));
        assert!(!is_enough(u64::MAX - 1, u64::MAX));
    }

    #[cfg(unix)]
    #[test]
    fn what_means_something_in_a_uri_is_escaped() {
        assert_eq!(
            file_uri(Path::new("/a b/?#%é")),
            "file:/a%20b/%3F%23%25%C3%A9?mode=ro&immutable=1"
        );
    }
}
