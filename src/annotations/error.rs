//! What can go wrong with annotations.db and the staging database.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// A failure on annotations.db or in the scratch folder.
///
/// Three kinds: faults of the input ([`is_input_fault`](Self::is_input_fault), never tried again), the wish of the
/// web app that the run ends ([`is_cancellation`](Self::is_cancellation)), and all others, which may pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnotationsError {
    /// `ANNOTATIONS_NOT_FOUND`: there is no such file, and it is not to be created.
    #[error("{path} does not exist: give the annotations.db that the web app created", path = path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// `ANNOTATIONS_FOLDER_NOT_FOUND`: the folder that the file is to be in does not exist.
    #[error("the folder of {path} does not exist: create it, or correct db-path", path = path.display())]
    FolderNotFound {
        /// The file.
        path: PathBuf,
    },
    /// `ANNOTATIONS_NOT_A_FILE`: the path names something else than a regular file.
    #[error("{path} is {found}, not a regular file: correct db-path", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// `ANNOTATIONS_NOT_A_DATABASE`: the file is not an SQLite database.
    #[error("{path} is not an SQLite database: correct db-path", path = path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// `ANNOTATIONS_CORRUPT`: the database is damaged.
    #[error("{path} is damaged: restore it from a backup, or try \"sqlite3 … .recover\"", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// `ANNOTATIONS_NOT_WRITABLE`: this user may not write the file or its folder.
    #[error("{path} cannot be written: give this user write access to the file and its folder", path = path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What the system or SQLite said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `ANNOTATIONS_SCHEMA`: a table is not as the web app makes it.
    #[error("{path} does not have the web app's schema: {problem}", path = path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Table, column, and what is wrong.
        problem: String,
    },
    /// `ANNOTATIONS_LOCKED`: another program held the file for the whole waiting time.
    #[error("{path} stayed locked by another program for {waited_ms} ms while {doing}", path = path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        waited_ms: u64,
        /// What was to be done.
        doing: &'static str,
    },
    /// `DISK_FULL`: no space left for annotations.db or the staging database.
    #[error("no space left to write {path}{detail}: free some space on its disk", path = path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Sizes, if they are known.
        detail: String,
    },
    /// `ANNOTATIONS_IO`: the system refused an operation on annotations.db.
    #[error("{path}: {doing} failed", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// What the system or SQLite said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `OUTPUT_DIR_NOT_WRITABLE`: the scratch folder cannot be created or written.
    #[error("output-dir {path} cannot be written: give a folder that this user may create and write", path = path.display())]
    OutputDirNotWritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `STAGING_IO`: the staging database cannot be written or read.
    #[error("the staging database {path}: {doing} failed", path = path.display())]
    Staging {
        /// The staging database or its folder.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// What the system or SQLite said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// `VIDEO_DELETED`: the web app has marked the video as deleted.
    #[error("the video of {path} was deleted in the web app", path = path.display())]
    Deleted {
        /// The file.
        path: PathBuf,
    },
    /// `ANNOTATIONS_GONE`: the file that the run worked on is gone, or another one is in its place.
    #[error("{path} is gone or was replaced since the run began", path = path.display())]
    FileGone {
        /// The file.
        path: PathBuf,
    },
    /// `STATUS_ROW_TAKEN`: the status row names the process of another run.
    #[error("process {holder}{} {path}: this attempt writes nothing more", TAKEN_OVER, path = path.display())]
    Superseded {
        /// The file.
        path: PathBuf,
        /// `current_job_id` as found.
        holder: String,
    },
}

/// What [`AnnotationsError::Superseded`] says, whoever it is.
const TAKEN_OVER: &str = " has taken over the status row of";

/// Whether a run that ended with this message lost its status row to another process.
pub fn tells_of_takeover(message: &str) -> bool {
    message.contains(TAKEN_OVER)
}

impl AnnotationsError {
    /// A stable name of the kind of failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "ANNOTATIONS_NOT_FOUND",
            Self::FolderNotFound { .. } => "ANNOTATIONS_FOLDER_NOT_FOUND",
            Self::NotAFile { .. } => "ANNOTATIONS_NOT_A_FILE",
            Self::NotADatabase { .. } => "ANNOTATIONS_NOT_A_DATABASE",
            Self::Corrupt { .. } => "ANNOTATIONS_CORRUPT",
            Self::NotWritable { .. } => "ANNOTATIONS_NOT_WRITABLE",
            Self::Schema { .. } => "ANNOTATIONS_SCHEMA",
            Self::Locked { .. } => "ANNOTATIONS_LOCKED",
            Self::DiskFull { .. } => "DISK_FULL",
            Self::Io { .. } => "ANNOTATIONS_IO",
            Self::OutputDirNotWritable { .. } => "OUTPUT_DIR_NOT_WRITABLE",
            Self::Staging { .. } => "STAGING_IO",
            Self::Deleted { .. } => "VIDEO_DELETED",
            Self::FileGone { .. } => "ANNOTATIONS_GONE",
            Self::Superseded { .. } => "STATUS_ROW_TAKEN",
        }
    }

    /// Whether trying again cannot help as long as the user changes nothing.
    pub const fn is_input_fault(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. }
                | Self::FolderNotFound { .. }
                | Self::NotAFile { .. }
                | Self::NotADatabase { .. }
                | Self::Corrupt { .. }
                | Self::NotWritable { .. }
                | Self::Schema { .. }
                | Self::OutputDirNotWritable { .. }
        )
    }

    /// Whether the run is to end as cancelled: its video is deleted or its file gone, or another run has its place.
    pub const fn is_cancellation(&self) -> bool {
        matches!(
            self,
            Self::Deleted { .. } | Self::FileGone { .. } | Self::Superseded { .. }
        )
    }
}

/// A failure within a transaction, before it is known what SQLite's own errors mean for the file.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's.
    Sqlite(rusqlite::Error),
    /// Ours.
    Known(AnnotationsError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<AnnotationsError> for Fault {
    fn from(error: AnnotationsError) -> Self {
        Self::Known(error)
    }
}

/// What SQLite said; rusqlite keeps its refusals of a statement's text apart.
fn sqlite_error(error: &rusqlite::Error) -> Option<rusqlite::ffi::Error> {
    match error {
        rusqlite::Error::SqlInputError { error, .. } => Some(*error),
        other => other.sqlite_error().copied(),
    }
}

/// Whether another connection's lock is the cause.
pub(super) fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(
        sqlite_error(error).map(|error| error.code),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// What an error of SQLite on annotations.db means, the file's absence apart.
pub(super) fn classified(error: rusqlite::Error, path: &Path, doing: &'static str, waited_ms: u64) -> AnnotationsError {
    let path = path.to_owned();
    let said = sqlite_error(&error);
    match said.map(|error| error.code) {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            AnnotationsError::Locked { path, waited_ms, doing }
        }
        Some(ErrorCode::NotADatabase) => AnnotationsError::NotADatabase { path },
        Some(ErrorCode::DatabaseCorrupt) => AnnotationsError::Corrupt { path, source: error },
        Some(ErrorCode::DiskFull) => AnnotationsError::DiskFull {
            path,
            detail: String::new(),
        },
        Some(ErrorCode::ReadOnly) if said.is_some_and(is_moved) => AnnotationsError::FileGone { path },
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            AnnotationsError::NotWritable {
                path,
                source: Box::new(error),
            }
        }
        // A missing table or column, a CHECK without our words, a trigger that refuses.
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::Unknown) => {
            AnnotationsError::Schema {
                path,
                problem: format!("{doing} failed: {error}"),
            }
        }
        _ => AnnotationsError::Io {
            path,
            doing,
            source: Box::new(error),
        },
    }
}

/// SQLite refuses to begin a journal beside a file that was unlinked or renamed.
fn is_moved(error: rusqlite::ffi::Error) -> bool {
    error.extended_code == rusqlite::ffi::SQLITE_READONLY_DBMOVED
}

/// What an error of SQLite on the staging database means.
pub(super) fn staging_fault(error: rusqlite::Error, path: &Path, doing: &'static str) -> AnnotationsError {
    if sqlite_error(&error).map(|error| error.code) == Some(ErrorCode::DiskFull) {
        return AnnotationsError::DiskFull {
            path: path.to_owned(),
            detail: String::new(),
        };
    }
    AnnotationsError::Staging {
        path: path.to_owned(),
        doing,
        source: Box::new(error),
    }
}

/// What an error of the system on the scratch folder means.
pub(super) fn output_dir_fault(error: io::Error, path: &Path, doing: &'static str) -> AnnotationsError {
    use io::ErrorKind::{
        AlreadyExists, InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied, QuotaExceeded,
        ReadOnlyFilesystem, StorageFull,
    };
    let path = path.to_owned();
    match error.kind() {
        StorageFull | QuotaExceeded => AnnotationsError::DiskFull {
            path,
            detail: String::new(),
        },
        AlreadyExists | InvalidFilename | InvalidInput | NotADirectory | NotFound | PermissionDenied
        | ReadOnlyFilesystem => AnnotationsError::OutputDirNotWritable {
            path,
            source: Box::new(error),
        },
        _ => AnnotationsError::Staging {
            path,
            doing,
            source: Box::new(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqlite_says_is_told_apart_by_what_may_follow() {
        use rusqlite::ffi;
        let cases = [
            (ffi::SQLITE_BUSY, "ANNOTATIONS_LOCKED", false, false),
            (ffi::SQLITE_BUSY_RECOVERY, "ANNOTATIONS_LOCKED", false, false),
            (ffi::SQLITE_LOCKED, "ANNOTATIONS_LOCKED", false, false),
            (ffi::SQLITE_FULL, "DISK_FULL", false, false),
            (ffi::SQLITE_IOERR_WRITE, "ANNOTATIONS_IO", false, false),
            (ffi::SQLITE_NOMEM, "ANNOTATIONS_IO", false, false),
            (ffi::SQLITE_NOTADB, "ANNOTATIONS_NOT_A_DATABASE", true, false),
            (ffi::SQLITE_CORRUPT, "ANNOTATIONS_CORRUPT", true, false),
            (ffi::SQLITE_CANTOPEN, "ANNOTATIONS_NOT_WRITABLE", true, false),
            (ffi::SQLITE_READONLY, "ANNOTATIONS_NOT_WRITABLE", true, false),
            (ffi::SQLITE_READONLY_DBMOVED, "ANNOTATIONS_GONE", false, true),
            (ffi::SQLITE_CONSTRAINT_CHECK, "ANNOTATIONS_SCHEMA", true, false),
            (ffi::SQLITE_ERROR, "ANNOTATIONS_SCHEMA", true, false),
        ];
        for (number, code, is_input_fault, is_cancellation) in cases {
            let said = rusqlite::Error::SqliteFailure(ffi::Error::new(number), None);
            let error = classified(said, Path::new("a.db"), "writing", 1);
            assert_eq!(error.code(), code, "{number}");
            assert_eq!(error.is_input_fault(), is_input_fault, "{number}");
            assert_eq!(error.is_cancellation(), is_cancellation, "{number}");
        }
    }
}
