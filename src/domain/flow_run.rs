//! Flow runs and what is known about them: states, task runs, logs, progress, artifacts.
//!
//! These types are what every reader sees: serialized (camelCase, RFC 3339 times in UTC) they are the objects of the
//! Node surface and the lines of `captionacc runs --json`.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::flow::{Parameters, WorkQueue};
use super::id::FlowRunId;
use super::state::{StateName, StateType};

/// A state that a flow run or task run is or was in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What rules speak of.
    #[serde(rename = "type")]
    pub state_type: StateType,
    /// What people read.
    pub name: StateName,
    /// Why, for people.
    pub message: Option<String>,
    /// Since when.
    pub timestamp: Timestamp,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Task that it speaks of.
    pub task: String,
    /// Work done, in `unit`.
    pub done: u64,
    /// All of the work, if known.
    pub total: Option<u64>,
    /// `frames`, for example.
    pub unit: String,
    /// Of the whole attempt, 0..=1.
    pub fraction: f64,
    /// When it was reported.
    pub timestamp: Timestamp,
}

/// A flow run as its readers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRun {
    /// Its id.
    pub flow_run_id: FlowRunId,
    /// Name of its flow.
    pub flow_name: String,
    /// `full-frames/production`.
    pub deployment: String,
    /// What it was queued with.
    pub parameters: Parameters,
    /// The video that it is about, if it is about one.
    pub video_id: Option<String>,
    /// The annotations.db that it is about; readers find it among the parameters.
    #[serde(skip)]
    pub db_path: Option<PathBuf>,
    /// The work queue it waits in.
    pub priority: WorkQueue,
    /// Flow, queue, video.
    pub tags: Vec<String>,
    /// Its state now.
    pub state: State,
    /// Attempts begun.
    pub attempt: u32,
    /// Attempts that failed by themselves; interrupted ones do not count.
    pub failed_attempts: u32,
    /// Of the attempt that runs, or of the last one.
    pub progress: Option<Progress>,
    /// The run that took its place, if one did.
    pub superseded_by: Option<FlowRunId>,
    /// Name of the worker that has it, or had it last.
    pub worker_name: Option<String>,
    /// Process of the attempt that runs.
    pub pid: Option<u32>,
    /// When it was queued.
    pub created_at: Timestamp,
    /// When it may run (again).
    pub scheduled_at: Timestamp,
    /// When its first attempt started.
    pub started_at: Option<Timestamp>,
    /// When it reached its final state.
    pub ended_at: Option<Timestamp>,
}

/// A step of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRun {
    /// Its id.
    pub task_run_id: Uuid,
    /// Attempt of the flow run that it belongs to, from 1.
    pub attempt: u32,
    /// Name of the task.
    pub name: String,
    /// How often it was tried within the attempt.
    pub run_count: u32,
    /// Its state now.
    pub state: State,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For whoever looks for a fault.
    Debug,
    /// The life of the run.
    Info,
    /// Unexpected, recovered.
    Warning,
    /// Someone must act.
    Error,
}

impl LogLevel {
    /// Every level, least first.
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warning, Self::Error];

    /// The word that is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// The level behind a stored word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == word)
    }
}

/// A line of a run's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// Attempt that wrote it; 0 before the first.
    pub attempt: u32,
    /// How much it matters.
    pub level: LogLevel,
    /// One line of text.
    pub message: String,
    /// When it was written.
    pub timestamp: Timestamp,
}

/// What kind of thing an artifact holds (<https://docs.prefect.io/v3/concepts/artifacts>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactType {
    /// Rows of a table: a JSON array of objects.
    Table,
    /// A link: JSON text.
    Link,
    /// Markdown: JSON text.
    Markdown,
    /// A percentage: a JSON number, 0..=100.
    Progress,
}

impl ArtifactType {
    /// The word that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Link => "link",
            Self::Markdown => "markdown",
            Self::Progress => "progress",
        }
    }

    /// The type behind a stored word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Table, Self::Link, Self::Markdown, Self::Progress]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// Something that a run leaves for people to look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Lowercase letters, digits and dashes.
    pub key: String,
    /// What `data` holds.
    #[serde(rename = "type")]
    pub artifact_type: ArtifactType,
    /// For people.
    pub description: Option<String>,
    /// The content.
    pub data: Value,
    /// When it was made.
    pub timestamp: Timestamp,
}

/// Everything about one run, for `captionacc runs show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRunDetails {
    /// The run.
    #[serde(flatten)]
    pub flow_run: FlowRun,
    /// Every state it was in, oldest first.
    pub states: Vec<State>,
    /// Its task runs, oldest first.
    pub task_runs: Vec<TaskRun>,
    /// Its artifacts, oldest first.
    pub artifacts: Vec<Artifact>,
}

/// What a watcher of a run sees, in this order within one reading: logs, progress, states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum FlowRunEvent {
    /// The run entered a state.
    State {
        /// The state.
        state: State,
        /// Attempts begun by then.
        attempt: u32,
    },
    /// The attempt came further. Only the newest progress is kept.
    Progress {
        /// How far it is.
        progress: Progress,
    },
    /// A line was logged.
    Log {
        /// The line.
        log: LogLine,
    },
}

/// Where a watcher of a run has come to, and what it has no need of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EventCursor {
    /// It does not ask for log lines.
    pub without_logs: bool,
    /// It does not ask for progress.
    pub without_progress: bool,
    /// States seen.
    pub state: i64,
    /// Last log line seen.
    pub log: i64,
    /// Time of the last progress seen, in ms.
    pub progress_ms: i64,
    /// When the run entered the last state seen, as a Prefect server has it.
    pub state_at: Option<Timestamp>,
    /// The run had ended when it was read: nothing comes after what was read then.
    pub has_ended: bool,
}
