//! The tables that the pipelines write: made where they are missing, taken as they are where they exist.
//!
//! Older files have fewer columns, newer ones more. What is written is therefore the intersection of what we know and
//! what is there ([`columns`]); only what a run cannot do without is added or demanded.

use rusqlite::Connection;

use super::database::Database;
use super::error::{AnnotationsError, Fault};
use crate::domain::flow::StatusTable;

const FULL_FRAMES: &str = "
CREATE TABLE IF NOT EXISTS full_frames (
  frame_index INTEGER PRIMARY KEY,
  image_data BLOB NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  file_size INTEGER NOT NULL,
  created_at TEXT NOT NULL DEFAULT (datetime('now'))
);";

const CROPPED_FRAMES: &str = "
CREATE TABLE IF NOT EXISTS cropped_frames (
  frame_index INTEGER PRIMARY KEY,
  image_data BLOB NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  file_size INTEGER NOT NULL,
  crop_left INTEGER NOT NULL,
  crop_top INTEGER NOT NULL,
  crop_right INTEGER NOT NULL,
  crop_bottom INTEGER NOT NULL,
  crop_bounds_version INTEGER DEFAULT 1,
  created_at TEXT NOT NULL DEFAULT (datetime('now'))
);
CREATE INDEX IF NOT EXISTS idx_cropped_frames_crop_version ON cropped_frames (crop_bounds_version);";

const FULL_FRAME_OCR: &str = "
CREATE TABLE IF NOT EXISTS full_frame_ocr (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  frame_index INTEGER NOT NULL,
  box_index INTEGER NOT NULL,
  text TEXT NOT NULL,
  confidence REAL NOT NULL,
  x REAL NOT NULL,
  y REAL NOT NULL,
  width REAL NOT NULL,
  height REAL NOT NULL,
  timestamp_seconds REAL,
  predicted_label TEXT CHECK (predicted_label IN ('in', 'out')),
  predicted_confidence REAL,
  model_version TEXT,
  predicted_at TEXT,
  created_at TEXT NOT NULL DEFAULT (datetime('now')),
  UNIQUE (frame_index, box_index)
);
CREATE INDEX IF NOT EXISTS idx_full_frame_ocr_frame ON full_frame_ocr (frame_index);";

const VIDEO_LAYOUT_CONFIG: &str = "
CREATE TABLE IF NOT EXISTS video_layout_config (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  frame_width INTEGER NOT NULL,
  frame_height INTEGER NOT NULL,
  crop_left INTEGER NOT NULL DEFAULT 0,
  crop_top INTEGER NOT NULL DEFAULT 0,
  crop_right INTEGER NOT NULL,
  crop_bottom INTEGER NOT NULL,
  crop_bounds_version INTEGER NOT NULL DEFAULT 1,
  updated_at TEXT NOT NULL DEFAULT (datetime('now'))
);";

const VIDEO_METADATA: &str = "
CREATE TABLE IF NOT EXISTS video_metadata (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  duration_seconds REAL,
  width INTEGER,
  height INTEGER,
  fps REAL,
  codec TEXT
);";

const PROCESSING_STATUS: &str = "
CREATE TABLE IF NOT EXISTS processing_status (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  status TEXT NOT NULL DEFAULT 'upload_complete' CHECK (status IN (
    'uploading', 'upload_complete', 'pending_duplicate_resolution', 'extracting_frames', 'running_ocr',
    'analyzing_layout', 'processing_complete', 'error')),
  upload_progress REAL NOT NULL DEFAULT 0.0,
  frame_extraction_progress REAL NOT NULL DEFAULT 0.0,
  ocr_progress REAL NOT NULL DEFAULT 0.0,
  layout_analysis_progress REAL NOT NULL DEFAULT 0.0,
  error_message TEXT,
  error_details TEXT,
  error_occurred_at TEXT,
  current_job_id TEXT,
  processing_attempts INTEGER NOT NULL DEFAULT 0,
  last_heartbeat_at TEXT,
  deleted INTEGER NOT NULL DEFAULT 0,
  deleted_at TEXT,
  upload_started_at TEXT,
  upload_completed_at TEXT,
  processing_started_at TEXT,
  processing_completed_at TEXT,
  created_at TEXT NOT NULL DEFAULT (datetime('now')),
  updated_at TEXT NOT NULL DEFAULT (datetime('now'))
);";

const CROP_FRAMES_STATUS: &str = "
CREATE TABLE IF NOT EXISTS crop_frames_status (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  status TEXT NOT NULL DEFAULT 'queued',
  processing_started_at TEXT,
  processing_completed_at TEXT,
  current_job_id TEXT,
  error_message TEXT,
  error_details TEXT,
  error_occurred_at TEXT,
  retry_count INTEGER NOT NULL DEFAULT 0
);";

/// A table that a run writes.
struct Table {
    name: &'static str,
    create: &'static str,
    /// Without these the table is not the one we know.
    required: &'static [&'static str],
    /// Added where they are missing: the fence needs `current_job_id`; `crop_frames_status` is the pipeline's own; a text needs
    /// its place.
    added: &'static [(&'static str, &'static str)],
}

const FRAMES_TABLES: [Table; 4] = [
    Table {
        name: "full_frames",
        create: FULL_FRAMES,
        required: &["frame_index", "image_data"],
        added: &[],
    },
    Table {
        name: "full_frame_ocr",
        create: FULL_FRAME_OCR,
        required: &[
            "frame_index",
            "box_index",
            "text",
            "confidence",
            "x",
            "y",
            "width",
            "height",
        ],
        added: &[],
    },
    Table {
        name: "video_layout_config",
        create: VIDEO_LAYOUT_CONFIG,
        required: &["id"],
        added: &[],
    },
    Table {
        name: "video_metadata",
        create: VIDEO_METADATA,
        required: &["id"],
        added: &[],
    },
];

const CROP_TABLES: [Table; 1] = [Table {
    name: "cropped_frames",
    create: CROPPED_FRAMES,
    required: &[
        "frame_index",
        "image_data",
        "crop_left",
        "crop_top",
        "crop_right",
        "crop_bottom",
    ],
    added: &[],
}];

const PROCESSING_STATUS_TABLE: Table = Table {
    name: "processing_status",
    create: PROCESSING_STATUS,
    required: &["id", "status"],
    added: &[("current_job_id", "TEXT")],
};

const CROP_STATUS_TABLE: Table = Table {
    name: "crop_frames_status",
    create: CROP_FRAMES_STATUS,
    required: &["id", "status"],
    added: &[
        ("processing_started_at", "TEXT"),
        ("processing_completed_at", "TEXT"),
        ("current_job_id", "TEXT"),
        ("error_message", "TEXT"),
        ("error_details", "TEXT"),
        ("error_occurred_at", "TEXT"),
        ("retry_count", "INTEGER NOT NULL DEFAULT 0"),
    ],
};

/// What a reading writes into the app's `captions`. Files of before there were readings have no columns for it: without them,
/// nobody would see the text.
const CAPTIONS_TABLE: Table = Table {
    name: "captions",
    create: "",
    required: &["id", "start_frame_index", "end_frame_index"],
    added: &[
        ("text_ocr_combined", "TEXT"),
        ("median_ocr_status", "TEXT NOT NULL DEFAULT 'pending'"),
        ("median_ocr_error", "TEXT"),
        ("median_ocr_processed_at", "TEXT"),
    ],
};

/// Makes sure of what a reading of captions writes; the table itself is the app's to make.
pub(super) fn ensure_captions(database: &Database) -> Result<(), AnnotationsError> {
    if database
        .read("looking for captions", |sqlite| columns(sqlite, "captions"))?
        .is_empty()
    {
        return Err(AnnotationsError::Schema {
            path: database.path().to_owned(),
            problem: "it has no table captions".to_owned(),
        });
    }
    ensure(database, &[CAPTIONS_TABLE])
}

/// The name of a status table.
pub(super) const fn status_table_name(table: StatusTable) -> &'static str {
    status_table(table).name
}

const fn status_table(table: StatusTable) -> &'static Table {
    match table {
        StatusTable::ProcessingStatus => &PROCESSING_STATUS_TABLE,
        StatusTable::CropFramesStatus => &CROP_STATUS_TABLE,
    }
}

/// Makes sure of the tables that a run with this status table writes. Writes only if something is missing.
pub(super) fn ensure_run_tables(database: &Database, table: StatusTable) -> Result<(), AnnotationsError> {
    let frames: &[Table] = match table {
        StatusTable::ProcessingStatus => &FRAMES_TABLES,
        StatusTable::CropFramesStatus => &CROP_TABLES,
    };
    ensure(database, frames)?;
    ensure_status_table(database, table)
}

/// Makes sure of the status table alone.
pub(super) fn ensure_status_table(database: &Database, table: StatusTable) -> Result<(), AnnotationsError> {
    ensure(database, std::slice::from_ref(status_table(table)))
}

fn ensure(database: &Database, tables: &[Table]) -> Result<(), AnnotationsError> {
    const DOING: &str = "creating the tables that are missing";
    let missing = database.read(DOING, |sqlite| {
        let mut missing = false;
        for table in tables {
            let found = columns(sqlite, table.name)?;
            missing |= found.is_empty() || table.added.iter().any(|(column, _)| !found.has(column));
        }
        Ok(missing)
    })?;
    if missing {
        database.write(DOING, |sqlite| {
            for table in tables {
                let mut found = columns(sqlite, table.name)?;
                if found.is_empty() {
                    sqlite.execute_batch(table.create)?;
                    found = columns(sqlite, table.name)?;
                }
                for (column, declaration) in table.added.iter().filter(|(column, _)| !found.has(column)) {
                    sqlite.execute_batch(&format!("ALTER TABLE {} ADD COLUMN {column} {declaration}", table.name))?;
                }
            }
            Ok(())
        })?;
    }
    for table in tables {
        let found = database.read(DOING, |sqlite| columns(sqlite, table.name))?;
        if let Some(column) = table.required.iter().find(|column| !found.has(column)) {
            return Err(AnnotationsError::Schema {
                path: database.path().to_owned(),
                problem: format!("table {} has no column {column}", table.name),
            });
        }
    }
    Ok(())
}

/// The columns that a table has, in lower case; none if there is no such table.
#[derive(Debug, Clone)]
pub(super) struct Columns(Vec<String>);

impl Columns {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, column: &str) -> bool {
        self.0.iter().any(|found| found == column)
    }

    /// In the table's order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Looks up the columns of `table`.
pub(super) fn columns(sqlite: &Connection, table: &str) -> rusqlite::Result<Columns> {
    let mut statement = sqlite.prepare_cached("SELECT lower(name) FROM pragma_table_info(?1)")?;
    let names = statement.query_map([table], |row| row.get(0))?;
    Ok(Columns(names.collect::<rusqlite::Result<_>>()?))
}

/// Whether the web app has marked the video as deleted: whatever the flow, that is said in `processing_status`.
pub(super) fn is_deleted(sqlite: &Connection) -> rusqlite::Result<bool> {
    if !columns(sqlite, "processing_status")?.has("deleted") {
        return Ok(false);
    }
    sqlite.query_row(
        "SELECT EXISTS (SELECT 1 FROM processing_status WHERE id = 1 AND coalesce(deleted, 0) <> 0)",
        [],
        |row| row.get(0),
    )
}

/// Names and SQL of the columns to write, those left out that the table does not have.
pub(super) fn insert_lists<'a>(
    sqlite: &Connection,
    table: &str,
    wanted: &[(&'a str, &'a str)],
) -> Result<(String, String), Fault> {
    let found = columns(sqlite, table)?;
    let kept: Vec<_> = wanted.iter().filter(|(column, _)| found.has(column)).collect();
    let join =
        |part: fn(&(&'a str, &'a str)) -> &'a str| kept.iter().map(|pair| part(pair)).collect::<Vec<_>>().join(", ");
    Ok((join(|pair| pair.0), join(|pair| pair.1)))
}
