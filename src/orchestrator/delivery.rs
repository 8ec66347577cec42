//! What another system that runs are queued at must still hear of them, and whether it answers.

use jiff::Timestamp;
use serde::Serialize;

/// How far the server of an orchestrator is behind, as far as this machine knows without asking it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Messages that it must still hear, of each kind.
    pub waiting: Vec<(MessageKind, u64)>,
    /// When the oldest of them came.
    pub oldest_at: Option<Timestamp>,
    /// Runs that were queued while it was away, and wait here.
    pub kept_runs: u64,
    /// Since when it has not answered; none: it does, or nobody has asked it yet.
    pub away_since: Option<Timestamp>,
    /// Calls of this process that it did not answer as they were meant, of each kind, tries counted one by one.
    pub failed_calls: Vec<(CallFault, u64)>,
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MessageKind {
    /// A state of a run.
    State,
    /// What is known of a run beside its state.
    Labels,
    /// A state of a task run.
    TaskRun,
    /// Something to look at.
    Artifact,
    /// A materialization.
    Asset,
    /// A line of a log.
    Log,
}

impl MessageKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::State,
        Self::Labels,
        Self::TaskRun,
        Self::Artifact,
        Self::Asset,
        Self::Log,
    ];

    /// As queue.db and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Labels => "labels",
            Self::TaskRun => "task_run",
            Self::Artifact => "artifact",
            Self::Asset => "asset",
            Self::Log => "log",
        }
    }
}

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CallFault {
    /// Nothing listens there, or no way leads there.
    Unreachable,
    /// The connection was lost, or no answer came in time.
    Lost,
    /// There were too many calls.
    RateLimited,
    /// The server could not do it: a status of 500 or above, 408 or 425.
    Server,
    /// It did not want to: any other status.
    Refused,
}

impl CallFault {
    /// All of them, each at its own number.
    pub const ALL: [Self; 5] = [
        Self::Unreachable,
        Self::Lost,
        Self::RateLimited,
        Self::Server,
        Self::Refused,
    ];

    /// As metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::RateLimited => "rate_limited",
            Self::Server => "server",
            Self::Refused => "refused",
        }
    }
}
