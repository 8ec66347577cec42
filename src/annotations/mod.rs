//! annotations.db, the file that a video shares with the web app: its frames, text boxes and status rows.
//!
//! This module is the only code that opens such a file: the child that runs an attempt ([`Annotations`], [`Captions`]), the worker
//! for what is to be said of attempts that are not running ([`StatusRow`], [`CaptionRows`]), and the dashboard, which only reads
//! ([`reading`]). The addon
//! never does: two copies of SQLite in one process break each other's locks.
//!
//! What holds:
//! - The file belongs to the app. Only the pipelines' tables are written, what is not known is not touched, the journal
//!   mode stays as it is, and what a user decided (layout) is kept.
//! - Frames are staged elsewhere ([`Staging`]), filled into tables beside the app's in short transactions, and swapped in by
//!   one at the end (`exchange.rs`): old set or new set, whole. No transaction holds the lock for long (`pace.rs`).
//! - `captions` is the app's: of it, only what says how the reading of a caption goes is written (`captions.rs`).
//! - An attempt writes only as long as the status row names its process. It stops for good when the video is deleted,
//!   the file is gone or another one, or another process is named ([`AnnotationsError::is_cancellation`]). A file that
//!   is gone is never made again, and one that is missing is made only once there are frames to write.

mod attempt;
mod captions;
pub mod check;
mod commit;
mod database;
mod error;
mod exchange;
mod leftovers;
mod pace;
pub mod reading;
mod schema;
mod staging;
mod status;
pub mod text_images;

pub use self::attempt::{Annotations, OpenRequest};
pub use self::captions::{Begun, Caption, CaptionRows, Captions, CroppedFrame, FrameLayout, Standing};
pub use self::commit::{CommitCounts, CommitStep, FullFramesOutcome};
pub use self::error::{AnnotationsError, tells_of_takeover};
pub use self::leftovers::remove_shadows;
pub use self::staging::{StagedBox, Staging, StagingReader, remove_leftovers};
pub use self::status::{Completion, FailureRecord, Stage, StatusRow};
