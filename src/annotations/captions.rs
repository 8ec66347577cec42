//! The captions of an annotations.db in the hands of a run that reads their text off the median of their frames.
//!
//! `captions` is the app's table. Of its rows, only what the reading is about is written, and only of captions that the
//! run names. There is no holder's pid in them: a caption is the run's as long as its row says `processing`, with the
//! boundaries that were read. The app says `queued` when it asks for a caption anew: whoever finds that leaves the row alone.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::database::Database;
use super::error::{AnnotationsError, Fault};
use super::schema;
use crate::domain::database::DatabaseIdentity;

/// Captions that one transaction writes: so few that nobody waits for its end.
const ROWS_AT_ONCE: usize = 250;
const READING_FRAMES: &str = "reading the cropped frames";

/// The captions and cropped frames of a video.
#[derive(Debug)]
pub struct Captions {
    database: Database,
}

/// A caption as it was when its reading began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// Its id.
    pub id: i64,
    /// Its first frame.
    pub start_frame_index: i64,
    /// Its last frame.
    pub end_frame_index: i64,
}

/// Whether what was read of a caption is still asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is as it was when its reading began.
    Same,
    /// Its boundaries are others now.
    Moved,
    /// Somebody has asked for it anew, or written it.
    Taken,
    /// There is no such caption any more.
    Gone,
}

/// What the captions of a run are at its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Begun {
    /// To be read.
    pub queued: Vec<i64>,
    /// Read by an earlier attempt, or by a newer run.
    pub complete: Vec<i64>,
    /// Not there.
    pub gone: Vec<i64>,
}

/// A row of `cropped_frames`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CroppedFrame {
    /// Its index.
    pub frame_index: i64,
    /// Its picture.
    pub jpeg: Vec<u8>,
    /// The layout that it was cropped by.
    pub layout: FrameLayout,
}

/// Where a frame was cut out, and by which version of the layout; what the table does not say is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameLayout {
    /// `crop_bounds_version`.
    pub version: Option<i64>,
    /// Left, top, right, bottom.
    pub bounds: [Option<i64>; 4],
}

impl Captions {
    /// Opens the file; the columns that a reading needs are added to `captions` where they are missing.
    ///
    /// # Errors
    /// Faults of the input: as [`Annotations::open`](super::Annotations::open) has them, and a file without `captions`.
    /// Cancellations: marked as deleted, or not the file of `identity`. Passing: locked, no space, I/O.
    pub fn open(
        path: &Path,
        identity: Option<DatabaseIdentity>,
        busy_timeout_ms: u64,
    ) -> Result<Self, AnnotationsError> {
        let database = Database::open(path, identity, busy_timeout_ms)?;
        if database.read("opening it", schema::is_deleted)? {
            return Err(deleted(&database));
        }
        schema::ensure_captions(&database)?;
        Ok(Self { database })
    }

    /// Which file this is.
    pub const fn identity(&self) -> DatabaseIdentity {
        self.database.identity()
    }

    /// Whether the video is still there.
    ///
    /// # Errors
    /// The cancellations: [`AnnotationsError::FileGone`], [`AnnotationsError::Deleted`]; and those of reading.
    pub fn check(&self) -> Result<(), AnnotationsError> {
        self.database.check_file()?;
        if self.database.read("looking at the video's state", schema::is_deleted)? {
            return Err(deleted(&self.database));
        }
        Ok(())
    }

    /// Those of these captions that have been read.
    ///
    /// # Errors
    /// Those of reading.
    pub fn complete_among(&self, ids: &[i64]) -> Result<Vec<i64>, AnnotationsError> {
        self.database.read("looking at captions", |sqlite| {
            let mut complete = Vec::new();
            for &id in ids {
                if status(sqlite, id)?.as_deref() == Some("complete") {
                    complete.push(id);
                }
            }
            Ok(complete)
        })
    }

    /// Writes `queued` into the rows of these captions, but for those that are complete if `keeps_complete`.
    ///
    /// # Errors
    /// As [`check`](Self::check), and those of writing.
    pub fn begin(&self, ids: &[i64], keeps_complete: bool) -> Result<Begun, AnnotationsError> {
        let mut begun = Begun::default();
        for some in ids.chunks(ROWS_AT_ONCE) {
            let part = self.write("writing that captions wait", |sqlite| {
                let mut part = Begun::default();
                for &id in some {
                    match status(sqlite, id)? {
                        None => part.gone.push(id),
                        Some(status) if keeps_complete && status == "complete" => part.complete.push(id),
                        Some(_) => {
                            set_status(sqlite, id, "queued", None)?;
                            part.queued.push(id);
                        }
                    }
                }
                Ok(part)
            })?;
            begun.queued.extend(part.queued);
            begun.complete.extend(part.complete);
            begun.gone.extend(part.gone);
        }
        Ok(begun)
    }

    /// Takes a caption: its row says `processing`. `None`: there is no such caption.
    ///
    /// # Errors
    /// As [`check`](Self::check), and those of writing.
    pub fn take(&self, id: i64) -> Result<Option<Caption>, AnnotationsError> {
        self.write("writing that a caption is read", |sqlite| {
            let Some(caption) = read(sqlite, id)? else {
                return Ok(None);
            };
            set_status(sqlite, id, "processing", None)?;
            Ok(Some(caption))
        })
    }

    /// Gives a caption back that was taken: its row says `queued` again, unless somebody has written it.
    ///
    /// # Errors
    /// As [`check`](Self::check), and those of writing.
    pub fn give_back(&self, id: i64) -> Result<(), AnnotationsError> {
        self.write("writing that a caption waits", |sqlite| {
            if status(sqlite, id)?.as_deref() == Some("processing") {
                set_status(sqlite, id, "queued", None)?;
            }
            Ok(())
        })
    }

    /// Whether what was read of the caption is still asked for.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn standing(&self, caption: &Caption) -> Result<Standing, AnnotationsError> {
        self.check()?;
        self.database
            .read("looking at a caption", |sqlite| standing(sqlite, caption))
    }

    /// Writes the text of a caption, if it is as it was; else nothing.
    ///
    /// # Errors
    /// As [`check`](Self::check), and those of writing.
    pub fn complete(&self, caption: &Caption, text: &str) -> Result<Standing, AnnotationsError> {
        self.write("writing the text of a caption", |sqlite| {
            let standing = standing(sqlite, caption)?;
            if standing == Standing::Same {
                let text_pending = if schema::columns(sqlite, "captions")?.has("text_pending") {
                    ", text_pending = 1"
                } else {
                    ""
                };
                sqlite
                    .prepare_cached(&format!(
                        "UPDATE captions SET text_ocr_combined = ?2, median_ocr_status = 'complete', median_ocr_error = NULL,
                           median_ocr_processed_at = datetime('now'){text_pending} WHERE id = ?1"
                    ))?
                    .execute((caption.id, text))?;
            }
            Ok(standing)
        })
    }

    /// Writes why a caption has no text, if it is as it was; else nothing.
    ///
    /// # Errors
    /// As [`check`](Self::check), and those of writing.
    pub fn fail(&self, caption: &Caption, reason: &str) -> Result<Standing, AnnotationsError> {
        self.write("writing that a caption can not be read", |sqlite| {
            let standing = standing(sqlite, caption)?;
            if standing == Standing::Same {
                set_status(sqlite, caption.id, "error", Some(reason))?;
            }
            Ok(standing)
        })
    }

    /// The same whatever its boundaries are by now.
    ///
    /// # Errors
    /// As [`check`](Self::check), and those of writing.
    pub fn fail_moved(&self, id: i64, reason: &str) -> Result<(), AnnotationsError> {
        self.write("writing that a caption can not be read", |sqlite| {
            if status(sqlite, id)?.as_deref() == Some("processing") {
                set_status(sqlite, id, "error", Some(reason))?;
            }
            Ok(())
        })
    }

    /// The longest way on the index clock from one frame to the next, where none is missing: 1 where every index has its
    /// frame. `None`: there are no frames, or but one.
    ///
    /// # Errors
    /// Those of reading.
    pub fn longest_step(&self) -> Result<Option<i64>, AnnotationsError> {
        self.database.read(READING_FRAMES, |sqlite| {
            if schema::columns(sqlite, "cropped_frames")?.is_empty() {
                return Ok(None);
            }
            let number = |sql| sqlite.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
            // One question each: each is answered by an index, or by one end of the table.
            let count = number("SELECT count(*) FROM cropped_frames")?.unwrap_or(0);
            let first = number("SELECT min(frame_index) FROM cropped_frames")?;
            let last = number("SELECT max(frame_index) FROM cropped_frames")?;
            let (Some(first), Some(last)) = (first, last) else {
                return Ok(None);
            };
            if count < 2 {
                return Ok(None);
            }
            Ok(Some(longest_step(last - first, count - 1)))
        })
    }

    /// The indexes of the frames there are, in order.
    ///
    /// # Errors
    /// Those of reading.
    pub fn frame_indexes(&self, range: RangeInclusive<i64>) -> Result<Vec<i64>, AnnotationsError> {
        self.database.read(READING_FRAMES, |sqlite| {
            if schema::columns(sqlite, "cropped_frames")?.is_empty() {
                return Ok(Vec::new());
            }
            sqlite
                .prepare_cached(
                    "SELECT frame_index FROM cropped_frames WHERE frame_index BETWEEN ?1 AND ?2 ORDER BY frame_index",
                )?
                .query_map((range.start(), range.end()), |row| row.get(0))?
                .collect()
        })
    }

    /// The frames there are, in order. To be asked for few at a time: it is one look at the database.
    ///
    /// # Errors
    /// Those of reading.
    pub fn frames(&self, range: RangeInclusive<i64>) -> Result<Vec<CroppedFrame>, AnnotationsError> {
        self.database.read(READING_FRAMES, |sqlite| {
            let found = schema::columns(sqlite, "cropped_frames")?;
            let names = [
                "crop_bounds_version",
                "crop_left",
                "crop_top",
                "crop_right",
                "crop_bottom",
            ];
            let [version, left, top, right, bottom] = names.map(|name| if found.has(name) { name } else { "NULL" });
            sqlite
                .prepare_cached(&format!(
                    "SELECT frame_index, image_data, {version}, {left}, {top}, {right}, {bottom} FROM cropped_frames
                     WHERE frame_index BETWEEN ?1 AND ?2 ORDER BY frame_index"
                ))?
                .query_map((range.start(), range.end()), |row| {
                    Ok(CroppedFrame {
                        frame_index: row.get(0)?,
                        jpeg: row.get(1)?,
                        layout: FrameLayout {
                            version: row.get(2)?,
                            bounds: [row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?],
                        },
                    })
                })?
                .collect()
        })
    }

    fn write<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, AnnotationsError> {
        self.database.write(doing, |sqlite| {
            if schema::is_deleted(sqlite)? {
                return Err(deleted(&self.database).into());
            }
            work(sqlite)
        })
    }
}

fn deleted(database: &Database) -> AnnotationsError {
    AnnotationsError::Deleted {
        path: database.path().to_owned(),
    }
}

fn read(sqlite: &Connection, id: i64) -> rusqlite::Result<Option<Caption>> {
    sqlite
        .prepare_cached("SELECT start_frame_index, end_frame_index FROM captions WHERE id = ?1")?
        .query_row([id], |row| {
            Ok(Caption {
                id,
                start_frame_index: row.get(0)?,
                end_frame_index: row.get(1)?,
            })
        })
        .optional()
}

/// From the mean of so many steps: frames that are missing here and there change it little. A frame rate that does not divide
/// the clock's has steps of two lengths, and a mean well between them.
fn longest_step(way: i64, steps: i64) -> i64 {
    let nearest = ((way + steps / 2) / steps).max(1);
    let off = (way - nearest * steps).abs() / nearest;
    if off <= (steps / 20).max(2) {
        nearest
    } else {
        way / steps + 1
    }
}

/// What the row says of the reading; `None`: there is none.
fn status(sqlite: &Connection, id: i64) -> rusqlite::Result<Option<String>> {
    sqlite
        .prepare_cached("SELECT coalesce(median_ocr_status, '') FROM captions WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()
}

fn set_status(sqlite: &Connection, id: i64, status: &str, error: Option<&str>) -> rusqlite::Result<()> {
    sqlite
        .prepare_cached("UPDATE captions SET median_ocr_status = ?2, median_ocr_error = ?3 WHERE id = ?1")?
        .execute((id, status, error))?;
    Ok(())
}

fn standing(sqlite: &Connection, caption: &Caption) -> rusqlite::Result<Standing> {
    let (Some(now), Some(status)) = (read(sqlite, caption.id)?, status(sqlite, caption.id)?) else {
        return Ok(Standing::Gone);
    };
    Ok(if status != "processing" {
        Standing::Taken
    } else if now == *caption {
        Standing::Same
    } else {
        Standing::Moved
    })
}

/// The worker's access to the rows of captions that a run names: what becomes of them while no attempt runs. Each call opens
/// the file, writes and closes. Nothing is made; where the table has no column for it, nothing is written.
///
/// Only rows that wait or are at work are written, and those with a fault where the run is to begin anew. A row that is
/// complete stays so.
#[derive(Clone, Copy)]
pub struct CaptionRows<'a> {
    path: &'a Path,
    ids: &'a BTreeSet<i64>,
    identity: Option<DatabaseIdentity>,
    still_due: Option<&'a dyn Fn() -> bool>,
}

/// How long a lock is waited for when the worker writes rows.
const WORKER_BUSY_TIMEOUT_MS: u64 = 10_000;
/// How often it is asked whether rows are still due that change while it is asked.
const QUESTIONS: u32 = 5;

/// What a row says of its reading.
type Said = (String, Option<String>, Option<String>);

impl<'a> CaptionRows<'a> {
    /// What the web app shows of the captions of a cancelled run.
    pub const CANCELLED_MESSAGE: &'static str = "Processing cancelled";

    /// The rows of these captions in the annotations.db at `path`.
    pub const fn new(path: &'a Path, ids: &'a BTreeSet<i64>) -> Self {
        Self {
            path,
            ids,
            identity: None,
            still_due: None,
        }
    }

    /// The file that the run saw: another one (of a video uploaded anew) is not written.
    #[must_use]
    pub const fn with_identity(mut self, identity: Option<DatabaseIdentity>) -> Self {
        self.identity = identity;
        self
    }

    /// Asked right before rows are written, as [`StatusRow::with_still_due`](super::StatusRow::with_still_due) has it.
    #[must_use]
    pub const fn with_still_due(mut self, still_due: &'a dyn Fn() -> bool) -> Self {
        self.still_due = Some(still_due);
        self
    }

    /// The run waits for its turn again, because of this where there is a reason.
    ///
    /// # Errors
    /// As [`StatusRow`](super::StatusRow) has them.
    pub fn mark_queued(&self, reason: Option<&str>) -> Result<(), AnnotationsError> {
        self.write(
            "writing that captions wait",
            &["pending", "queued", "processing", "error"],
            "queued",
            reason,
        )
    }

    /// The run has ended without the text of these captions.
    ///
    /// # Errors
    /// As [`StatusRow`](super::StatusRow) has them.
    pub fn mark_ended(&self, reason: &str) -> Result<(), AnnotationsError> {
        self.write(
            "writing that captions were not read",
            &["pending", "queued", "processing"],
            "error",
            Some(reason),
        )
    }

    fn write(
        &self,
        doing: &'static str,
        from: &[&str],
        to: &str,
        reason: Option<&str>,
    ) -> Result<(), AnnotationsError> {
        let database = Database::open(self.path, self.identity, WORKER_BUSY_TIMEOUT_MS)?;
        if database.read(doing, schema::is_deleted)? {
            return Err(deleted(&database));
        }
        let columns = database.read(doing, |sqlite| schema::columns(sqlite, "captions"))?;
        if !["median_ocr_status", "median_ocr_error"]
            .iter()
            .all(|name| columns.has(name))
        {
            return Ok(());
        }
        let ids: Vec<i64> = self.ids.iter().copied().collect();
        for some in ids.chunks(ROWS_AT_ONCE) {
            self.write_some(&database, doing, some, |status| from.contains(&status), to, reason)?;
        }
        Ok(())
    }

    /// The rows are compared under the lock with what they were before the question: whoever claims the run after it, and
    /// writes them, is never written over.
    fn write_some(
        &self,
        database: &Database,
        doing: &'static str,
        ids: &[i64],
        is_ours: impl Fn(&str) -> bool,
        to: &str,
        reason: Option<&str>,
    ) -> Result<(), AnnotationsError> {
        for _ in 0..QUESTIONS {
            let before = database.read(doing, |sqlite| said(sqlite, ids))?;
            if self.still_due.is_some_and(|still_due| !still_due()) {
                return Ok(());
            }
            let is_done = database.write(doing, |sqlite| {
                if schema::is_deleted(sqlite)? {
                    return Err(deleted(database).into());
                }
                if said(sqlite, ids)? != before {
                    return Ok(false);
                }
                for (id, said) in ids.iter().zip(&before) {
                    if said.as_ref().is_some_and(|(status, ..)| is_ours(status)) {
                        set_status(sqlite, *id, to, reason)?;
                    }
                }
                Ok(true)
            })?;
            if is_done {
                return Ok(());
            }
        }
        // Somebody writes them all the time: later, perhaps.
        Err(AnnotationsError::Locked {
            path: self.path.to_owned(),
            waited_ms: 0,
            doing,
        })
    }
}

fn said(sqlite: &Connection, ids: &[i64]) -> rusqlite::Result<Vec<Option<Said>>> {
    let mut said = sqlite.prepare_cached(
        "SELECT coalesce(median_ocr_status, ''), median_ocr_error, start_frame_index || ' ' || end_frame_index
         FROM captions WHERE id = ?1",
    )?;
    ids.iter()
        .map(|id| {
            said.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::longest_step;

    /// Of the samples `0..=count` at this rate, on a clock of 10 Hz, without the frames `missing`.
    fn of(rate_hz: f64, count: i64, missing: i64) -> i64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "small numbers"
        )]
        let last = (count as f64 * 10.0 / rate_hz).round() as i64;
        longest_step(last, count - missing)
    }

    #[test]
    fn the_step_of_a_film_is_known_although_frames_are_missing() {
        for (rate_hz, count, missing, expected) in [
            (10.0, 9, 1, 1),
            (10.0, 9, 2, 1),
            (10.0, 4800, 200, 1),
            (10.0, 1, 0, 1),
            (5.0, 10, 1, 2),
            (5.0, 2000, 30, 2),
            (1.0, 50, 1, 10),
            (0.1, 5, 0, 100),
            (3.0, 60, 0, 4),
            (4.0, 60, 1, 3),
            (7.0, 60, 0, 2),
            (9.0, 60, 0, 2),
        ] {
            assert_eq!(
                of(rate_hz, count, missing),
                expected,
                "{rate_hz} Hz, {count} less {missing}"
            );
        }
    }
}
