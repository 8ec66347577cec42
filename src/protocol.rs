//! What worker and child say to each other, one JSON line each, versioned.
//!
//! The worker writes the [`WorkOrder`] as the first line of the child's stdin and keeps stdin open: its end means
//! that the worker has gone, and the child stops. The child writes [`ChildEvent`]s to its stdout. The only other
//! thing that a worker says is [`WorkerMessage`], the answer to [`ChildEvent::MayCommit`].
//!
//! A message is a [`frame`], which has one bound: checked where it is written, so that none is cut where it is read.
//!
//! The worker takes every line of a child for hostile: one that does not parse is kept as a line of its log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::domain::asset::Materialization;
use crate::domain::database::DatabaseIdentity;
use crate::domain::flow::{CaptionMedianOcr, CommandArguments, CropFrames, FullFrames, StatusTable};
use crate::domain::flow_run::{ArtifactType, LogLevel};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::domain::trace::TraceContext;

/// The version of this protocol. Worker and child are the same executable, replaced perhaps while the worker runs.
pub const PROTOCOL_VERSION: u32 = 5;

/// Longest line of a program, or of a log, in bytes: what is longer is cut.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Longest message, in bytes, less its end of line. A log line fits however it is escaped, and so do the assets of every
/// order that fits: they repeat its arguments.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// A message that is longer than [`MAX_FRAME_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes, more than the {MAX_FRAME_BYTES} that a message may have")]
pub struct FrameTooLong {
    /// What it would have had.
    pub bytes: usize,
}

/// The message as it is written: one line of JSON with its end.
///
/// # Errors
/// [`FrameTooLong`].
pub fn frame(message: &impl Serialize) -> Result<Vec<u8>, FrameTooLong> {
    let mut line = serde_json::to_vec(message).expect("messages are JSON");
    if line.len() > MAX_FRAME_BYTES {
        return Err(FrameTooLong { bytes: line.len() });
    }
    line.push(b'\n');
    Ok(line)
}

/// All that a child needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkOrder {
    /// [`PROTOCOL_VERSION`] of the worker.
    pub protocol_version: u32,
    /// The run.
    pub flow_run_id: FlowRunId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The flow's name.
    pub flow_name: String,
    /// What to do.
    pub work: Work,
    /// The file whose lock the child takes before it does anything, and holds for its life: the run is nobody else's as
    /// long as it is held. A file that is gone means that the run was taken back.
    pub lock: PathBuf,
    /// The status table to keep, if any.
    pub status_table: Option<StatusTable>,
    /// The annotations.db that an earlier attempt saw: it must be that one, and is never made anew.
    pub database: Option<DatabaseIdentity>,
    /// Where the OCR models lie, if that was set.
    pub ocr_models: Option<PathBuf>,
    /// Most memory that the attempt may take, in bytes.
    pub memory_bytes: u64,
    /// Whether nobody waits for the run: it gives way to whom somebody waits for.
    #[serde(default)]
    pub gives_way: bool,
    /// How long a program has to end itself before it is killed.
    pub grace_ms: u64,
    /// What spans of a program are children of.
    pub trace: Option<TraceContext>,
}

/// The work of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// The pipeline `full-frames`.
    FullFrames(FullFrames),
    /// The pipeline `crop-frames`.
    CropFrames(CropFrames),
    /// The pipeline `caption-median-ocr`.
    CaptionMedianOcr(CaptionMedianOcr),
    /// An external program.
    Command(Program),
}

/// An external program, its templates filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// What it is started with; the first word is the program.
    pub words: Vec<String>,
    /// Where it starts; absolute.
    pub working_directory: Option<PathBuf>,
    /// Added to its environment.
    pub environment: BTreeMap<String, String>,
    /// Asset keys that it materializes.
    pub assets: Vec<String>,
    /// Asset keys that it reads.
    pub upstream_assets: Vec<String>,
    /// What the run was queued with.
    pub arguments: CommandArguments,
}

impl Work {
    /// The annotations.db that it is about, if it is about one.
    pub fn db_path(&self) -> Option<&Path> {
        match self {
            Self::FullFrames(FullFrames { files, .. }) | Self::CropFrames(CropFrames { files, .. }) => {
                Some(&files.db_path)
            }
            Self::CaptionMedianOcr(captions) => Some(&captions.db_path),
            Self::Command(program) => program.arguments.db_path.as_deref(),
        }
    }
}

/// Why an attempt did not do its work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, `NOT_A_VIDEO`.
    pub code: String,
    /// One line for a person.
    pub message: String,
    /// Whether another attempt could do better.
    pub retryable: bool,
    /// The task that failed, if one did.
    pub task: Option<String>,
}

/// A line of a child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ChildEvent {
    /// First instruction: the order is read, work begins.
    Started {
        /// Of the child.
        protocol_version: u32,
    },
    /// The annotations.db that this attempt works on.
    DatabaseSeen {
        /// Which file it is.
        identity: DatabaseIdentity,
    },
    /// A task run entered a state.
    TaskRun {
        /// Chosen by the child.
        task_run_id: Uuid,
        /// Its name.
        name: String,
        /// Times that it was begun in this attempt.
        run_count: u32,
        /// Its state.
        state: StateType,
        /// Why.
        message: Option<String>,
    },
    /// How far the attempt is.
    Progress {
        /// The task at work.
        task: String,
        /// Done, in `unit`.
        done: u64,
        /// All, if known.
        total: Option<u64>,
        /// `frames`.
        unit: String,
        /// Of the attempt, 0..=1.
        fraction: f64,
    },
    /// A line for the log.
    Log {
        /// Weight.
        level: LogLevel,
        /// One line.
        message: String,
    },
    /// Something to look at.
    Artifact {
        /// Its key.
        key: String,
        /// Its type.
        artifact_type: ArtifactType,
        /// For people.
        description: Option<String>,
        /// Content.
        data: Value,
    },
    /// An asset was materialized; it counts when the run completes.
    Asset {
        /// Which, from what.
        materialization: Materialization,
    },
    /// Asks for leave to write the result. The child waits for [`WorkerMessage`].
    MayCommit {
        /// The caption whose result it is, if it is one's: a newer run may have asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        caption_id: Option<i64>,
    },
    /// The work is done and written.
    Completed {
        /// One line for people.
        message: String,
    },
    /// The work is not done.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// Stopped because it was asked to, or because the video is deleted.
    Cancelled {
        /// Why.
        message: String,
    },
}

/// The worker's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum WorkerMessage {
    /// The attempt holds its run: it may write.
    Commit,
    /// It no longer does, or is to stop: it must not.
    Stop,
    /// It holds its run, but a newer one has asked for this caption: that one is left to it.
    Leave,
}
