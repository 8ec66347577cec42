//! The scratch database that a run's frames and text boxes wait in until they are swapped into annotations.db.
//!
//! Theory of operation: the file lies in `output-dir` and lives as long as its [`Staging`]. Its name carries the
//! attempt (`{flow_run_id}-{attempt}`), so that what a killed attempt leaves is found and removed by the next one, or by
//! [`remove_leftovers`]. It has no journal and is never synced: it is worth nothing without the run.
//!
//! Both flows of a video may share an `output-dir` that neither of them found. Whoever makes it leaves a marker beside it
//! first, which says how many folders are made; whoever leaves it last, empty, removes the folders, and then the marker.
//! So no death in between leaves a folder that nobody knows of.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, OpenFlags, params};

use super::error::{AnnotationsError, output_dir_fault, staging_fault};

/// What a row takes beside its text and its picture, roughly.
const ROW_BYTES: u64 = 400;
/// Rows that one transaction takes.
const BATCH_ROWS: u32 = 64;
/// Readers and the writer are threads of one process: whoever waits that long has met a fault.
const BUSY_TIMEOUT: Duration = Duration::from_mins(1);
/// How the names of staging databases begin and end.
const PREFIX: &str = "captionacc-";
const SUFFIX: &str = ".staging";
/// How the name of a marker begins; the number of folders and the name of the topmost one follow.
const MARKER_PREFIX: &str = "captionacc-made-";
/// How often an `output-dir` is made again that another run has just removed.
const CREATE_ATTEMPTS: u32 = 100;

const SCHEMA: &str = "
PRAGMA page_size = 16384;
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = MEMORY;
CREATE TABLE frames (
  frame_index INTEGER PRIMARY KEY,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  image_data BLOB NOT NULL
);
CREATE TABLE boxes (
  frame_index INTEGER NOT NULL,
  box_index INTEGER NOT NULL,
  text TEXT NOT NULL,
  confidence REAL NOT NULL,
  x REAL NOT NULL,
  y REAL NOT NULL,
  width REAL NOT NULL,
  height REAL NOT NULL,
  PRIMARY KEY (frame_index, box_index)
) WITHOUT ROWID;";

/// A text box as it is stored: fractions of the frame, 0..=1.
#[derive(Debug, Clone, PartialEq)]
pub struct StagedBox {
    /// What is read.
    pub text: String,
    /// 0..=1.
    pub confidence: f64,
    /// Left edge.
    pub x: f64,
    /// Lower edge, measured from the **bottom** of the frame.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// A kind of rows that are staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKind {
    Frames,
    Boxes,
}

impl RowKind {
    /// The names of a row's values, in their order. A frame's `box_index` is 0.
    pub(super) const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Frames => &["frame_index", "box_index", "width", "height", "image_data"],
            Self::Boxes => &[
                "frame_index",
                "box_index",
                "text",
                "confidence",
                "x",
                "y",
                "width",
                "height",
            ],
        }
    }
}

/// `frame_index` and `box_index`.
pub(super) type RowKey = (i64, i64);

/// Some staged rows, read into memory.
#[derive(Debug, Default)]
pub(super) struct StagedRows {
    pub(super) rows: Vec<Vec<SqlValue>>,
    /// What they take, roughly.
    pub(super) bytes: u64,
    /// Key of the last one.
    pub(super) last: RowKey,
}

/// How much of a kind is staged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) rows: u64,
    pub(super) picture_bytes: u64,
}

/// The frames and boxes of an attempt. Dropped, it removes its file and the folders that were made for it.
#[derive(Debug)]
pub struct Staging {
    // Closed before the file is removed: fields are dropped after `drop`, so it is taken out there.
    sqlite: Option<Connection>,
    scratch: Scratch,
    pending_rows: u32,
}

/// The file and the folders that are to be removed.
#[derive(Debug)]
struct Scratch {
    file: PathBuf,
    output_dir: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody is there to hear of a failure; what stays is found by its name.
        let _ = fs::remove_file(&self.file);
        remove_made(&self.output_dir);
    }
}

impl Staging {
    /// A new staging database in `output_dir`, which is created if it is not there.
    ///
    /// `name` is `{flow_run_id}-{attempt}`; files that other attempts of the same run left behind are removed.
    ///
    /// # Errors
    /// [`AnnotationsError::OutputDirNotWritable`] (a fault of the input), [`AnnotationsError::DiskFull`] or
    /// [`AnnotationsError::Staging`] (both may pass).
    pub fn create(output_dir: &Path, name: &str) -> Result<Self, AnnotationsError> {
        let output_dir = std::path::absolute(output_dir)
            .map_err(|error| output_dir_fault(error, output_dir, "finding the output-dir"))?;
        let run = name.rsplit_once('-').map_or(name, |(run, _)| run);
        remove_files(&output_dir, run, u32::MAX);
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let file = output_dir.join(format!("{PREFIX}{name}-{}{SUFFIX}", &unique[..8]));
        // Made here, so that the system says why it cannot be, and no link is followed.
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let scratch = Scratch { file, output_dir };
        let mut attempts = 0;
        loop {
            attempts += 1;
            make_folders(&scratch.output_dir)?;
            match options.open(&scratch.file) {
                Ok(_) => break,
                // The other flow's run has just left the folder, and removed it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && attempts < CREATE_ATTEMPTS => {}
                Err(error) => {
                    let doing = "creating the staging database";
                    return Err(output_dir_fault(error, &scratch.output_dir, doing));
                }
            }
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sqlite = open(&scratch.file, flags)?;
        sqlite
            .execute_batch(SCHEMA)
            .map_err(|error| staging_fault(error, &scratch.file, "creating its tables"))?;
        Ok(Self {
            sqlite: Some(sqlite),
            scratch,
            pending_rows: 0,
        })
    }

    /// Stages a frame; `frame_index` is on the index clock. `false`: there is a frame of that index already, which
    /// stays.
    pub fn add_frame(
        &mut self,
        frame_index: i64,
        jpeg: &[u8],
        width: u32,
        height: u32,
    ) -> Result<bool, AnnotationsError> {
        const DOING: &str = "storing a frame";
        self.begin(DOING)?;
        let added = self
            .connection()
            .prepare_cached(
                "INSERT OR IGNORE INTO frames (frame_index, width, height, image_data) VALUES (?1, ?2, ?3, ?4)",
            )
            .and_then(|mut insert| insert.execute(params![frame_index, width, height, jpeg]))
            .map_err(|error| self.fault(error, DOING))?;
        self.added(1, DOING)?;
        Ok(added == 1)
    }

    /// Stages the text boxes of a frame, in reading order, in place of those that it may have.
    ///
    /// Fractions and confidences outside 0..=1 are brought to its edge.
    pub fn add_boxes(&mut self, frame_index: i64, boxes: &[StagedBox]) -> Result<(), AnnotationsError> {
        const DOING: &str = "storing the text boxes of a frame";
        self.begin(DOING)?;
        self.insert_boxes(frame_index, boxes)
            .map_err(|error| self.fault(error, DOING))?;
        self.added(u32::try_from(boxes.len()).unwrap_or(u32::MAX).max(1), DOING)
    }

    fn insert_boxes(&self, frame_index: i64, boxes: &[StagedBox]) -> rusqlite::Result<()> {
        let sqlite = self.connection();
        sqlite
            .prepare_cached("DELETE FROM boxes WHERE frame_index = ?1")?
            .execute([frame_index])?;
        let mut insert = sqlite.prepare_cached("INSERT INTO boxes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        for (box_index, staged) in (0_i64..).zip(boxes) {
            insert.execute(params![
                frame_index,
                box_index,
                staged.text,
                fraction(staged.confidence),
                fraction(staged.x),
                fraction(staged.y),
                fraction(staged.width),
                fraction(staged.height),
            ])?;
        }
        Ok(())
    }

    /// How many rows are staged, and the bytes of their JPEGs.
    pub(super) fn totals(&self, kind: RowKind) -> Result<Totals, AnnotationsError> {
        let sql = match kind {
            RowKind::Frames => "SELECT count(*), coalesce(sum(length(image_data)), 0) FROM frames",
            RowKind::Boxes => "SELECT count(*), 0 FROM boxes",
        };
        let number = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(i64::unsigned_abs);
        self.connection()
            .query_row(sql, [], |row| {
                Ok(Totals {
                    rows: number(row, 0)?,
                    picture_bytes: number(row, 1)?,
                })
            })
            .map_err(|error| self.fault(error, "counting the rows"))
    }

    /// The rows that follow on `after`, in the order of their keys, until they have `bytes`; at least one. `None`: there are
    /// no more.
    pub(super) fn rows_after(
        &self,
        kind: RowKind,
        after: Option<RowKey>,
        bytes: u64,
    ) -> Result<Option<StagedRows>, AnnotationsError> {
        self.read_rows(kind, after.unwrap_or((i64::MIN, i64::MIN)), bytes)
            .map_err(|error| self.fault(error, "reading what is staged"))
    }

    fn read_rows(&self, kind: RowKind, after: RowKey, bytes: u64) -> rusqlite::Result<Option<StagedRows>> {
        let sqlite = self.connection();
        let columns = kind.columns();
        let mut statement = sqlite.prepare_cached(match kind {
            RowKind::Frames => {
                "SELECT frame_index, 0, width, height, image_data FROM frames
                 WHERE frame_index > ?1 AND ?2 IS NOT NULL ORDER BY frame_index"
            }
            RowKind::Boxes => {
                "SELECT frame_index, box_index, text, confidence, x, y, width, height FROM boxes
                 WHERE (frame_index, box_index) > (?1, ?2) ORDER BY frame_index, box_index"
            }
        })?;
        let mut found = statement.query(after)?;
        let mut staged: Option<StagedRows> = None;
        while staged.as_ref().is_none_or(|staged| staged.bytes < bytes) {
            let Some(row) = found.next()? else { break };
            let values = (0..columns.len())
                .map(|at| row.get(at))
                .collect::<rusqlite::Result<Vec<SqlValue>>>()?;
            let staged = staged.get_or_insert_default();
            staged.last = (row.get(0)?, row.get(1)?);
            staged.bytes += ROW_BYTES + values.iter().map(value_bytes).sum::<u64>();
            staged.rows.push(values);
        }
        Ok(staged)
    }

    /// The indexes of the staged frames, ascending.
    pub fn frame_indexes(&self) -> Result<Vec<i64>, AnnotationsError> {
        let read = || -> rusqlite::Result<Vec<i64>> {
            let mut statement = self.connection().prepare("SELECT frame_index FROM frames ORDER BY 1")?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        read().map_err(|error| self.fault(error, "reading the frames' indexes"))
    }

    /// The JPEG of a staged frame.
    pub fn jpeg(&self, frame_index: i64) -> Result<Vec<u8>, AnnotationsError> {
        jpeg(self.connection(), frame_index).map_err(|error| self.fault(error, "reading a frame"))
    }

    /// A reader of all frames staged so far, for another thread.
    ///
    /// It must be gone before the staging database is dropped where open files cannot be removed (Windows).
    pub fn reader(&mut self) -> Result<StagingReader, AnnotationsError> {
        self.flush()?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(StagingReader {
            sqlite: open(&self.scratch.file, flags)?,
            file: self.scratch.file.clone(),
        })
    }

    /// Ends the batch: everything staged is in the file.
    pub(super) fn flush(&mut self) -> Result<(), AnnotationsError> {
        if self.connection().is_autocommit() {
            return Ok(());
        }
        self.pending_rows = 0;
        self.connection()
            .execute_batch("COMMIT")
            .map_err(|error| self.fault(error, "storing a batch"))
    }

    /// The file, complete after [`flush`](Self::flush).
    pub(super) fn file(&self) -> &Path {
        &self.scratch.file
    }

    fn begin(&self, doing: &'static str) -> Result<(), AnnotationsError> {
        if !self.connection().is_autocommit() {
            return Ok(());
        }
        self.connection()
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|error| self.fault(error, doing))
    }

    fn added(&mut self, rows: u32, doing: &'static str) -> Result<(), AnnotationsError> {
        self.pending_rows = self.pending_rows.saturating_add(rows);
        if self.pending_rows < BATCH_ROWS {
            return Ok(());
        }
        self.pending_rows = 0;
        self.connection()
            .execute_batch("COMMIT")
            .map_err(|error| self.fault(error, doing))
    }

    fn connection(&self) -> &Connection {
        self.sqlite.as_ref().expect("it is taken out only when dropped")
    }

    fn fault(&self, error: rusqlite::Error, doing: &'static str) -> AnnotationsError {
        staging_fault(error, &self.scratch.file, doing)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Before the file is removed by `Scratch`.
        self.sqlite.take();
    }
}

/// Reads staged frames, from any thread.
#[derive(Debug)]
pub struct StagingReader {
    sqlite: Connection,
    file: PathBuf,
}

impl StagingReader {
    /// The JPEG of a staged frame.
    pub fn jpeg(&self, frame_index: i64) -> Result<Vec<u8>, AnnotationsError> {
        jpeg(&self.sqlite, frame_index).map_err(|error| staging_fault(error, &self.file, "reading a frame"))
    }
}

/// Removes what the killed attempt `attempt` of the run `flow_run_id`, or an earlier one, left in `output_dir`, and the
/// folder if they made it.
///
/// For the worker, once the attempt is dead. Nothing that is not theirs is touched, and a folder that
/// holds anything else stays.
pub fn remove_leftovers(output_dir: &Path, flow_run_id: &str, attempt: u32) {
    let Ok(output_dir) = std::path::absolute(output_dir) else {
        return;
    };
    remove_files(&output_dir, flow_run_id, attempt);
    remove_made(&output_dir);
}

fn open(file: &Path, flags: OpenFlags) -> Result<Connection, AnnotationsError> {
    Connection::open_with_flags(file, flags)
        .and_then(|sqlite| {
            sqlite.busy_timeout(BUSY_TIMEOUT)?;
            Ok(sqlite)
        })
        .map_err(|error| staging_fault(error, file, "opening it"))
}

fn jpeg(sqlite: &Connection, frame_index: i64) -> rusqlite::Result<Vec<u8>> {
    sqlite
        .prepare_cached("SELECT image_data FROM frames WHERE frame_index = ?1")?
        .query_row([frame_index], |row| row.get(0))
}

fn value_bytes(value: &SqlValue) -> u64 {
    let length = match value {
        SqlValue::Text(text) => text.len(),
        SqlValue::Blob(blob) => blob.len(),
        SqlValue::Null | SqlValue::Integer(_) | SqlValue::Real(_) => 0,
    };
    length as u64
}

/// A number of 0..=1; what is none counts as 0.
fn fraction(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

/// Creates `folder` and those above it that are missing, their marker first.
fn make_folders(folder: &Path) -> Result<(), AnnotationsError> {
    let missing = folder
        .ancestors()
        .take_while(|ancestor| {
            fs::symlink_metadata(ancestor).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        })
        .count();
    if missing > 0 {
        mark_made(folder, missing);
    }
    let to_make: Vec<_> = folder.ancestors().take(missing).collect();
    for ancestor in to_make.into_iter().rev() {
        match fs::create_dir(ancestor) {
            Ok(()) => {}
            // Another run was faster.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                remove_made(folder);
                return Err(output_dir_fault(error, folder, "creating the output-dir"));
            }
        }
    }
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(AnnotationsError::OutputDirNotWritable {
            path: folder.to_owned(),
            source: Box::new(std::io::Error::from(std::io::ErrorKind::NotADirectory)),
        }),
        // The other flow's run has just removed it: it is made again.
        Err(error) if missing == 0 && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(output_dir_fault(error, folder, "looking at the output-dir")),
    }
}

/// Removes `folder` and the `count - 1` folders above it, as far as they are empty.
fn remove_folders(folder: &Path, count: usize) {
    for ancestor in folder.ancestors().take(count) {
        match fs::remove_dir(ancestor) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return,
        }
    }
}

/// The marker that says that `folder` and the `count - 1` folders above it are made by runs: it lies beside the topmost.
fn marker_of(folder: &Path, count: usize) -> Option<PathBuf> {
    let topmost = folder.ancestors().nth(count.checked_sub(1)?)?;
    let mut name = OsString::from(format!("{MARKER_PREFIX}{count}-"));
    name.push(topmost.file_name()?);
    Some(topmost.parent()?.join(name))
}

fn mark_made(folder: &Path, count: usize) {
    if let Some(marker) = marker_of(folder, count) {
        // Without it the folder stays, which is all that comes of it.
        let _ = fs::File::create_new(marker);
    }
}

/// Removes the folders that runs have made for `folder`, as far as they are empty, and the markers of those that are gone.
fn remove_made(folder: &Path) {
    // From the innermost marker outwards: it lies in a folder that an outer one may speak of.
    for count in 1..folder.ancestors().count() {
        let is_marker = |marker: &PathBuf| fs::symlink_metadata(marker).is_ok_and(|found| found.is_file());
        let Some(marker) = marker_of(folder, count).filter(is_marker) else {
            continue;
        };
        remove_folders(folder, count);
        let exists = || folder.ancestors().nth(count - 1).is_some_and(Path::exists);
        if exists() {
            return;
        }
        let _ = fs::remove_file(marker);
        if exists() {
            // Another run has made it again meanwhile, and found its marker there.
            mark_made(folder, count);
        }
    }
}

/// Removes the staging databases of the attempts of `run` up to `newest` in `folder`.
fn remove_files(folder: &Path, run: &str, newest: u32) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let attempt = name.to_str().and_then(|name| attempt_of(name, run));
        if attempt.is_some_and(|attempt| attempt <= newest) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The attempt in the name `captionacc-{run}-{attempt}-{unique}.staging`, if it is one of `run`.
fn attempt_of(name: &str, run: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?.strip_prefix(run)?.strip_prefix('-')?;
    let (attempt, unique) = rest.strip_suffix(SUFFIX)?.split_once('-')?;
    let is_ours = unique.len() == 8 && unique.bytes().all(|byte| byte.is_ascii_hexdigit());
    attempt.parse().ok().filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use super::attempt_of;

    #[test]
    fn only_names_of_the_run_itself_are_its_leftovers() {
        let cases = [
            ("captionacc-run-1-0123abcd.staging", Some(1)),
            ("captionacc-run-12-0123abcd.staging", Some(12)),
            ("captionacc-run-other-1-0123abcd.staging", None),
            ("captionacc-other-1-0123abcd.staging", None),
            ("captionacc-run-1-0123abcd.staging.bak", None),
            ("captionacc-run-1-notes.staging", None),
            ("captionacc-run-1-2-0123abcd.staging", None),
        ];
        for (name, found) in cases {
            assert_eq!(attempt_of(name, "run"), found, "{name}");
        }
    }
}
