//! Looking into an annotations.db for people: what is there is shown, nothing is written, and no writer waits for it.
//!
//! A [`Reader`] is a connection that may only read. Each of its methods is one short query, so that a writer in rollback mode,
//! which waits for readers, waits for milliseconds. Tables and columns that older files lack are simply not shown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use super::database::regular_file;
use super::error::{AnnotationsError, classified};
use super::schema::{Columns, columns};
use crate::domain::flow::CropBounds;

/// Longest wait for a writer's lock.
const PATIENCE_MS: u64 = 500;
/// A larger picture is none of ours.
const MAX_PICTURE_BYTES: i64 = 64 << 20;
/// Ticks of the index clock a second, unless the video has its own.
const INDEX_RATE_HZ: f64 = 10.0;

/// A connection that only reads.
#[derive(Debug)]
pub struct Reader {
    sqlite: Connection,
    path: PathBuf,
}

/// The frames of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameSet {
    /// How many.
    pub count: u32,
    /// The first index.
    pub first: i64,
    /// The last index.
    pub last: i64,
    /// Pixels of the first picture.
    pub width: u32,
    /// Pixels of the first picture.
    pub height: u32,
    /// When the first was written, as the table has it: changes when the set is made anew.
    pub created_at: Option<String>,
    /// The strip, of cropped frames.
    pub bounds: Option<CropBounds>,
    /// The layout that the strip is from.
    pub bounds_version: Option<i64>,
}

/// The layout row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Pixels of the full frame.
    pub frame_width: u32,
    /// Pixels of the full frame.
    pub frame_height: u32,
    /// The caption strip.
    pub bounds: CropBounds,
    /// Its version.
    pub version: i64,
}

/// A full frame without its picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullFrame {
    /// Its place on the index clock.
    pub frame_index: i64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// A recognized text with its place, in fractions of the frame; `top` is measured from above, unlike the table's `y`.
#[derive(Debug, Clone, PartialEq)]
pub struct TextBox {
    /// The frame.
    pub frame_index: i64,
    /// Its place in reading order.
    pub box_index: i64,
    /// What was read.
    pub text: String,
    /// From 0 to 1.
    pub confidence: f64,
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// A caption: its boundaries, which the app keeps, and what was read off the median of its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptionRow {
    /// Its id.
    pub id: i64,
    /// Its first frame on the index clock.
    pub first: i64,
    /// Its last frame.
    pub last: i64,
    /// `predicted`, `confirmed`, or `gap`: there is none.
    pub boundary_state: Option<String>,
    /// What a person wrote.
    pub text: Option<String>,
    /// What was read.
    pub read_text: Option<String>,
    /// How the reading stands: `pending`, `queued`, `processing`, `complete`, `error`.
    pub reading: Option<String>,
    /// Why it was not read.
    pub error: Option<String>,
    /// When it was read, as the table has it.
    pub read_at: Option<String>,
}

/// A stored picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Its place on the index clock.
    pub frame_index: i64,
    /// A JPEG.
    pub jpeg: Vec<u8>,
}

/// The columns of a row with their values as text, in the table's order; those that are NULL are left out.
pub type Fields = Vec<(String, String)>;

/// Where the full frames, or the cropped ones, lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameTable {
    /// `full_frames`.
    Full,
    /// `cropped_frames`.
    Cropped,
}

impl FrameTable {
    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full_frames",
            Self::Cropped => "cropped_frames",
        }
    }
}

impl Reader {
    /// Opens the file at `path` for reading; it is never made.
    ///
    /// # Errors
    /// What hinders it: no file, no database, no right.
    pub fn open(path: &Path) -> Result<Self, AnnotationsError> {
        // Also tells a pipe from a file: opening one would wait for ever.
        if regular_file(path)?.is_none() {
            return Err(AnnotationsError::NotFound { path: path.to_owned() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(path, flags).and_then(|sqlite| {
            sqlite.busy_timeout(Duration::from_millis(PATIENCE_MS))?;
            sqlite.pragma_update(None, "query_only", true)?;
            Ok(sqlite)
        });
        let sqlite = opened.map_err(|error| classified(error, path, "opening it", PATIENCE_MS))?;
        Ok(Self {
            sqlite,
            path: path.to_owned(),
        })
    }

    /// Ticks of the index clock a second.
    pub fn index_rate_hz(&self) -> Result<f64, AnnotationsError> {
        let found = self.row("video_preferences", &["index_framerate_hz"], |row, _| {
            row.get::<_, Option<f64>>("index_framerate_hz")
        })?;
        Ok(found.flatten().filter(|rate| *rate > 0.0).unwrap_or(INDEX_RATE_HZ))
    }

    /// What a table of frames holds; `None` if it holds none.
    pub fn frame_set(&self, table: FrameTable) -> Result<Option<FrameSet>, AnnotationsError> {
        self.read("counting the frames", |sqlite| {
            let name = table.name();
            let found = columns(sqlite, name)?;
            if !found.has("frame_index") {
                return Ok(None);
            }
            let sql = format!("SELECT count(*), (SELECT min(frame_index) FROM {name}), (SELECT max(frame_index) FROM {name}) FROM {name}");
            let (count, first, last): (u32, Option<i64>, Option<i64>) =
                sqlite.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let (Some(first), Some(last)) = (first, last) else {
                return Ok(None);
            };
            let wanted = [
                "width", "height", "created_at", "crop_left", "crop_top", "crop_right", "crop_bottom", "crop_bounds_version",
            ];
            let listed = listed(&found, &wanted);
            sqlite
                .query_row(
                    &format!("SELECT {listed} FROM {name} WHERE frame_index = ?1"),
                    [first],
                    |row| {
                        Ok(FrameSet {
                            count,
                            first,
                            last,
                            width: row.get::<_, Option<u32>>("width")?.unwrap_or(0),
                            height: row.get::<_, Option<u32>>("height")?.unwrap_or(0),
                            created_at: row.get("created_at")?,
                            bounds: bounds(row)?,
                            bounds_version: row.get("crop_bounds_version")?,
                        })
                    },
                )
                .optional()
        })
    }

    /// The layout row, if there is one.
    pub fn layout(&self) -> Result<Option<Layout>, AnnotationsError> {
        let wanted = [
            "frame_width",
            "frame_height",
            "crop_left",
            "crop_top",
            "crop_right",
            "crop_bottom",
            "crop_bounds_version",
        ];
        let found = self.row("video_layout_config", &wanted, |row, _| {
            let size: (Option<u32>, Option<u32>) = (row.get("frame_width")?, row.get("frame_height")?);
            let version: Option<i64> = row.get("crop_bounds_version")?;
            Ok(match (size, bounds(row)?) {
                ((Some(frame_width), Some(frame_height)), Some(bounds)) => Some(Layout {
                    frame_width,
                    frame_height,
                    bounds,
                    version: version.unwrap_or(1),
                }),
                _ => None,
            })
        })?;
        Ok(found.flatten())
    }

    /// The columns of the only row of a table (`id = 1`): status rows, what is known of the film.
    pub fn fields(&self, table: &'static str) -> Result<Fields, AnnotationsError> {
        let all = self.row(table, &[], |row, found| {
            let mut fields = Fields::new();
            for name in found.names() {
                if let Some(text) = text_of(row.get_ref(name)?) {
                    fields.push((name.to_owned(), text));
                }
            }
            Ok(fields)
        })?;
        Ok(all.unwrap_or_default())
    }

    /// Full frames after an index, in their order.
    pub fn full_frames(&self, after: i64, limit: u32) -> Result<Vec<FullFrame>, AnnotationsError> {
        self.read("listing the frames", |sqlite| {
            let found = columns(sqlite, "full_frames")?;
            if !found.has("frame_index") {
                return Ok(Vec::new());
            }
            let listed = listed(&found, &["width", "height"]);
            sqlite
                .prepare(&format!(
                    "SELECT frame_index, {listed} FROM full_frames WHERE frame_index > ?1 ORDER BY frame_index LIMIT ?2"
                ))?
                .query_map((after, limit), |row| {
                    Ok(FullFrame {
                        frame_index: row.get(0)?,
                        width: row.get::<_, Option<u32>>(1)?.unwrap_or(0),
                        height: row.get::<_, Option<u32>>(2)?.unwrap_or(0),
                    })
                })?
                .collect()
        })
    }

    /// The boxes of the frames from `first` to `last`, in their order, `limit` at most.
    pub fn boxes(&self, first: i64, last: i64, limit: u32) -> Result<Vec<TextBox>, AnnotationsError> {
        self.read("reading the boxes", |sqlite| {
            if !columns(sqlite, "full_frame_ocr")?.has("frame_index") {
                return Ok(Vec::new());
            }
            sqlite
                .prepare(
                    "SELECT frame_index, box_index, text, confidence, x, y, width, height FROM full_frame_ocr
                     WHERE frame_index BETWEEN ?1 AND ?2 ORDER BY frame_index, box_index LIMIT ?3",
                )?
                .query_map((first, last, limit), |row| {
                    let (y, height): (f64, f64) = (row.get(5)?, row.get(7)?);
                    Ok(TextBox {
                        frame_index: row.get(0)?,
                        box_index: row.get(1)?,
                        text: row.get(2)?,
                        confidence: row.get(3)?,
                        left: row.get(4)?,
                        top: 1.0 - y - height,
                        width: row.get(6)?,
                        height,
                    })
                })?
                .collect()
        })
    }

    /// The number of boxes.
    pub fn box_count(&self) -> Result<u32, AnnotationsError> {
        self.count("full_frame_ocr")
    }

    fn count(&self, table: &'static str) -> Result<u32, AnnotationsError> {
        self.read("counting rows", |sqlite| {
            if columns(sqlite, table)?.is_empty() {
                return Ok(0);
            }
            sqlite.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
        })
    }

    /// The captions in the order of time, `limit` at most.
    pub fn captions(&self, limit: u32) -> Result<Vec<CaptionRow>, AnnotationsError> {
        self.read("reading the captions", |sqlite| {
            let found = columns(sqlite, "captions")?;
            if !["id", "start_frame_index", "end_frame_index"]
                .iter()
                .all(|name| found.has(name))
            {
                return Ok(Vec::new());
            }
            let wanted = [
                "boundary_state",
                "text",
                "text_ocr_combined",
                "median_ocr_status",
                "median_ocr_error",
                "median_ocr_processed_at",
            ];
            let listed = listed(&found, &wanted);
            sqlite
                .prepare(&format!(
                    "SELECT id, start_frame_index, end_frame_index, {listed} FROM captions
                     ORDER BY start_frame_index, end_frame_index LIMIT ?1"
                ))?
                .query_map([limit], |row| {
                    let text = |column: &str| row.get_ref(column).map(text_of);
                    Ok(CaptionRow {
                        id: row.get(0)?,
                        first: row.get(1)?,
                        last: row.get(2)?,
                        boundary_state: text("boundary_state")?,
                        text: text("text")?,
                        read_text: text("text_ocr_combined")?,
                        reading: text("median_ocr_status")?,
                        error: text("median_ocr_error")?,
                        read_at: text("median_ocr_processed_at")?,
                    })
                })?
                .collect()
        })
    }

    /// The number of captions.
    pub fn caption_count(&self) -> Result<u32, AnnotationsError> {
        self.count("captions")
    }

    /// The picture on display at `at`: the last one that is not after it, else the first.
    pub fn picture(&self, table: FrameTable, at: i64) -> Result<Option<Picture>, AnnotationsError> {
        self.read("reading a picture", |sqlite| {
            let name = table.name();
            if !columns(sqlite, name)?.has("image_data") {
                return Ok(None);
            }
            let sql = format!(
                "SELECT frame_index, image_data FROM {name} WHERE frame_index = coalesce(
                   (SELECT max(frame_index) FROM {name} WHERE frame_index <= ?1), (SELECT min(frame_index) FROM {name}))
                 AND length(image_data) <= ?2"
            );
            sqlite
                .query_row(&sql, (at, MAX_PICTURE_BYTES), |row| {
                    Ok(Picture {
                        frame_index: row.get(0)?,
                        jpeg: row.get(1)?,
                    })
                })
                .optional()
        })
    }

    /// The row of `table` with `id = 1`, with `wanted` columns (all, if none is named); columns that are not there are NULL.
    fn row<T>(
        &self,
        table: &'static str,
        wanted: &[&'static str],
        take: impl Fn(&Row<'_>, &Columns) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, AnnotationsError> {
        self.read("reading what is known of the video", |sqlite| {
            let found = columns(sqlite, table)?;
            if !found.has("id") {
                return Ok(None);
            }
            let listed = if wanted.is_empty() {
                "*".to_owned()
            } else {
                listed(&found, wanted)
            };
            sqlite
                .query_row(&format!("SELECT {listed} FROM {table} WHERE id = 1"), [], |row| {
                    take(row, &found)
                })
                .optional()
        })
    }

    fn read<T>(
        &self,
        doing: &'static str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, AnnotationsError> {
        read(&self.sqlite).map_err(|error| classified(error, &self.path, doing, PATIENCE_MS))
    }
}

/// The wanted columns for a SELECT, those that are not there as NULL.
fn listed(found: &Columns, wanted: &[&str]) -> String {
    let columns = wanted.iter().map(|column| {
        if found.has(column) {
            (*column).to_owned()
        } else {
            format!("NULL AS {column}")
        }
    });
    columns.collect::<Vec<_>>().join(", ")
}

fn bounds(row: &Row<'_>) -> rusqlite::Result<Option<CropBounds>> {
    let edge = |name: &str| row.get::<_, Option<u32>>(name);
    let (left, top, right, bottom) = (
        edge("crop_left")?,
        edge("crop_top")?,
        edge("crop_right")?,
        edge("crop_bottom")?,
    );
    Ok(match (left, top, right, bottom) {
        (Some(left), Some(top), Some(right), Some(bottom)) => Some(CropBounds {
            left,
            top,
            right,
            bottom,
        }),
        _ => None,
    })
}

fn text_of(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Some(format!("{} bytes", bytes.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(folder: &Path, sql: &str) -> Reader {
        let path = folder.join("annotations.db");
        Connection::open(&path)
            .and_then(|sqlite| sqlite.execute_batch(sql))
            .expect("written");
        Reader::open(&path).expect("it is there")
    }

    #[test]
    fn captions_are_read_in_the_order_of_time_with_what_was_read_of_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let reader = reader(
            folder.path(),
            "CREATE TABLE captions (id INTEGER PRIMARY KEY, start_frame_index INTEGER, end_frame_index INTEGER,
               boundary_state TEXT, text TEXT, text_ocr_combined TEXT, median_ocr_status TEXT, median_ocr_error TEXT,
               median_ocr_processed_at TEXT);
             INSERT INTO captions VALUES
               (1, 50, 60, 'gap', NULL, NULL, 'pending', NULL, NULL),
               (2, 10, 20, 'confirmed', 'by hand', 'read', 'complete', NULL, '2026-11-27 06:00:00'),
               (3, 30, 40, 'predicted', 4, NULL, 'error', 'its frames are missing', NULL);",
        );
        let captions = reader.captions(2).expect("read");
        assert_eq!(captions.iter().map(|caption| caption.id).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(
            captions[0],
            CaptionRow {
                id: 2,
                first: 10,
                last: 20,
                boundary_state: Some("confirmed".to_owned()),
                text: Some("by hand".to_owned()),
                read_text: Some("read".to_owned()),
                reading: Some("complete".to_owned()),
                error: None,
                read_at: Some("2026-11-27 06:00:00".to_owned()),
            }
        );
        assert_eq!(captions[1].text.as_deref(), Some("4"));
        assert_eq!(captions[1].error.as_deref(), Some("its frames are missing"));
        assert_eq!(reader.caption_count().expect("counted"), 3);
    }

    #[test]
    fn captions_of_before_there_were_readings_are_shown_without_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let reader = reader(
            folder.path(),
            "CREATE TABLE captions (id INTEGER PRIMARY KEY, start_frame_index INTEGER, end_frame_index INTEGER, text TEXT);
             INSERT INTO captions VALUES (1, 5, 9, 'by hand');",
        );
        let captions = reader.captions(10).expect("read");
        assert_eq!(captions.len(), 1);
        assert_eq!(
            (captions[0].text.as_deref(), captions[0].reading.as_deref()),
            (Some("by hand"), None)
        );
    }

    #[test]
    fn a_file_without_captions_has_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let reader = reader(folder.path(), "CREATE TABLE other (id INTEGER);");
        assert_eq!(reader.captions(10).expect("read"), []);
        assert_eq!(reader.caption_count().expect("counted"), 0);
    }
}
