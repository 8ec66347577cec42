//! What workers ask of an orchestrator: claim flow runs, keep what becomes of them, and take over from the dead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::notifications::Notifications;
use super::queue::{Queue, WorkerRecord};
use crate::domain::asset::Materialization;
use crate::domain::database::DatabaseIdentity;
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::{Artifact, FlowRun, LogLevel, LogLine, Progress};
use crate::domain::id::FlowRunId;
use crate::domain::lease::Lease;
use crate::domain::state::StateName;
use crate::domain::trace::TraceContext;
use crate::process::identity::ProcessIdentity;

/// The queue as its workers see it. Every method is atomic and durable when it returns, except [`Claims::record`], which
/// may lose the last moments of progress and logs at a power loss. A method that fails has changed nothing.
#[async_trait]
pub trait Claims: Queue + Notifications {
    /// Announces a worker and sets the pool's limits, as far as it brings them.
    async fn register_worker(&self, worker: WorkerRecord, limits: PoolLimits) -> Result<(), OrchestratorError>;

    /// Withdraws it.
    async fn deregister_worker(&self, name: &str) -> Result<(), OrchestratorError>;

    /// Takes the next run of one of `flow_names`, if the pool has a free slot for it: by queue, then by time; never one
    /// whose video is being worked on by another run of its flow. A pool may also hold runs of other programs.
    async fn claim(
        &self,
        worker_name: &str,
        flow_names: BTreeSet<String>,
    ) -> Result<Option<Claimed>, OrchestratorError>;

    /// The program of a foreign run has started.
    async fn foreign_started(&self, id: FlowRunId, process: ProcessIdentity) -> Result<(), OrchestratorError> {
        let _ = (id, process);
        Ok(())
    }

    /// Tells the program of a foreign run, if it listens, that the signal which comes next means its cancellation.
    /// Takes a second at most.
    async fn announce_cancellation(&self, id: FlowRunId) {
        let _ = id;
    }

    /// All processes of a foreign run are gone: sees to it that it has a final state, for as long as that takes, and
    /// frees its slot.
    async fn foreign_ended(&self, id: FlowRunId, ending: ForeignEnding) -> Result<ForeignEnd, OrchestratorError> {
        let _ = (id, ending);
        Ok(ForeignEnd::Reported(None))
    }

    /// When the next scheduled run of one of `flow_names` becomes due, if one waits for its time.
    async fn next_due(&self, flow_names: BTreeSet<String>) -> Result<Option<Timestamp>, OrchestratorError>;

    /// The attempt runs: its process is recorded and the state becomes Running (or Retrying).
    async fn start(&self, lease: Lease, process: ProcessIdentity) -> Result<(), OrchestratorError>;

    /// Keeps what was learned of a run.
    async fn record(&self, lease: Lease, records: Vec<Record>) -> Result<(), OrchestratorError>;

    /// The file whose lock the child of this attempt holds for its life (`life.rs`).
    fn attempt_lock(&self, lease: Lease) -> PathBuf;

    /// Whether the lease holds and the run is still to be done: asked before a child may write its result.
    async fn may_commit(&self, lease: Lease) -> Result<bool, OrchestratorError>;

    /// Whether a newer run of the same flow and annotations.db asks for this caption, or has dealt with it: the run of this
    /// lease leaves it to that one then.
    async fn caption_is_taken(&self, lease: Lease, caption_id: i64) -> Result<bool, OrchestratorError>;

    /// Ends the attempt. A run that was being cancelled becomes Cancelled, unless it completed. Returns the run.
    async fn finish(&self, lease: Lease, ending: Ending) -> Result<FlowRun, OrchestratorError>;

    /// Of these runs, those that are to be stopped, with the reason.
    async fn cancellations(&self, ids: Vec<FlowRunId>) -> Result<Vec<(FlowRunId, String)>, OrchestratorError>;

    /// Runs whose worker is dead.
    async fn orphaned_runs(&self) -> Result<Vec<OrphanedRun>, OrchestratorError>;

    /// Status rows that are not up to date: of runs that wait or have ended.
    async fn status_rows_due(&self) -> Result<Vec<StatusRowDue>, OrchestratorError>;

    /// Whether a status row is still due as of `state_sequence`: asked right before it is written. Answered from where
    /// [`Claims::status_rows_due`] is.
    async fn status_row_is_due(&self, id: FlowRunId, state_sequence: i64) -> Result<bool, OrchestratorError>;

    /// A status row was brought up to date as of `state_sequence`.
    async fn status_row_written(&self, id: FlowRunId, state_sequence: i64) -> Result<(), OrchestratorError>;

    /// Forgets runs that ended before `ended_before`; the newest materialization of each asset stays. Returns how many.
    async fn apply_retention(&self, ended_before: Timestamp) -> Result<u64, OrchestratorError>;

    /// Returns once a run may have been queued or cancelled, or after `timeout`.
    async fn wait_for_work(&self, timeout: Duration);
}

/// Limits that a worker brings to its pool; `None`: what the pool has stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolLimits {
    /// Runs at once.
    pub all: Option<u32>,
    /// Runs of the queue `background` at once.
    pub background: Option<u32>,
}

/// What a claim gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Claimed {
    /// A run of a flow of ours.
    Own(Box<Claim>),
    /// A run of another program's deployment.
    Foreign(Box<ForeignClaim>),
}

impl Claimed {
    /// The claim, if the run is of a flow of ours.
    pub fn own(self) -> Option<Claim> {
        match self {
            Self::Own(claim) => Some(*claim),
            Self::Foreign(_) => None,
        }
    }
}

/// A claimed run of another program's deployment. The program reports what it does itself; its worker starts it, ends it
/// with all its processes, and says so. It holds a slot until [`Claims::foreign_ended`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignClaim {
    /// The run.
    pub flow_run_id: FlowRunId,
    /// Its name, for people.
    pub flow_run_name: String,
    /// The flow, for people.
    pub flow_name: String,
    /// What to start.
    pub program: Program,
    /// The file for the lock that the program's processes hold for their life.
    pub lock: PathBuf,
    /// What its spans are children of.
    pub trace: Option<TraceContext>,
}

impl ForeignClaim {
    /// What its processes are marked with, so that they are found again.
    pub fn marker(&self) -> String {
        foreign_marker(self.flow_run_id)
    }
}

/// What the processes of a foreign run are marked with.
pub fn foreign_marker(id: FlowRunId) -> String {
    format!("foreign:{id}")
}

/// A program to start.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// What to start, looked for in PATH.
    pub command: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to the worker's own environment. May hold secrets.
    pub environment: BTreeMap<String, String>,
    /// Where it starts; none: a temporary folder of its own.
    pub working_directory: Option<PathBuf>,
    /// Whether the worker shows what it writes.
    pub shows_output: bool,
}

impl fmt::Debug for Program {
    /// Values of the environment may be secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Program")
            .field("command", &self.command)
            .field("arguments", &self.arguments)
            .field("environment", &self.environment.keys())
            .field("working_directory", &self.working_directory)
            .field("shows_output", &self.shows_output)
            .finish()
    }
}

/// How the processes of a foreign run came to their end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignEnding {
    /// They were ended because the run was to be cancelled.
    pub is_cancelled: bool,
    /// Its worker was told to stop before the program was started: the run goes back.
    pub is_given_back: bool,
    /// What became of them, for people; said where the program left no final state.
    pub message: String,
}

/// What became of a foreign run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum ForeignEnd {
    /// Its program reported a state that is final, or gave it back itself. None: the run is there no more.
    Reported(Option<StateName>),
    /// It ended without one: Crashed.
    Crashed,
    /// It was stopped because it was to be cancelled: Cancelled.
    Cancelled,
    /// Its program was not started, and it waits again: Scheduled.
    GivenBack,
}

/// A claimed attempt of a run of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// What to hold.
    pub lease: Lease,
    /// The run.
    pub flow_run: FlowRun,
    /// The annotations.db that an earlier attempt saw.
    pub database: Option<DatabaseIdentity>,
    /// What earlier attempts have logged, in bytes.
    pub log_bytes: u64,
    /// What its spans are children of.
    pub trace: Option<TraceContext>,
}

/// What a worker learned of a run and wants kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The annotations.db of this run.
    Database(DatabaseIdentity),
    /// A task run's state.
    TaskRun {
        /// Its id.
        task_run_id: Uuid,
        /// Its name.
        name: String,
        /// Times begun.
        run_count: u32,
        /// Its state.
        state: StateName,
        /// Why.
        message: Option<String>,
    },
    /// How far it is.
    Progress(Progress),
    /// A log line.
    Log(LogLine),
    /// An artifact.
    Artifact(Artifact),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Done: its assets count from now on.
    Completed {
        /// For people.
        message: String,
        /// What it made.
        materializations: Vec<Materialization>,
    },
    /// Failed or crashed; final, or again after a while.
    Failed {
        /// `Failed`, `TimedOut` or `Crashed`.
        state: StateName,
        /// For people.
        message: String,
        /// Wait before the next attempt; `None`: final.
        retry_after: Option<Duration>,
    },
    /// Stopped on request.
    Cancelled {
        /// For people.
        message: String,
    },
    /// Interrupted from outside: given back, not counted.
    GivenBack {
        /// For people.
        message: String,
    },
}

/// A run whose worker has died.
#[derive(Debug, Clone, PartialEq)]
pub struct OrphanedRun {
    /// The dead worker's lease.
    pub lease: Lease,
    /// The run.
    pub flow_run: FlowRun,
    /// Its worker, dead as far as this queue goes.
    pub worker: Option<ProcessIdentity>,
    /// Its child, which may still live.
    pub child: Option<ProcessIdentity>,
}

/// A status row that has to be brought up to date with its run.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusRowDue {
    /// The run.
    pub flow_run: FlowRun,
    /// Changes with every state; [`Claims::status_row_written`] hands it back.
    pub state_sequence: i64,
    /// Process of the last attempt, dead by now.
    pub ended_pid: Option<u32>,
    /// The annotations.db that the run saw.
    pub database: Option<DatabaseIdentity>,
    /// Processes of this queue's attempts on that annotations.db, and whether each is still at work: a pid alone does not
    /// tell, since it may be one of another container.
    pub known_pids: BTreeMap<u32, bool>,
    /// Captions of the run that a newer run has taken: their rows are that one's to write.
    pub taken_captions: BTreeSet<i64>,
    /// Of a run whose machine is lost, and that was no run of this queue's: when it was to begin. Its row is written in place of
    /// that machine, if it still says that it waits or is at work.
    pub left_since: Option<Timestamp>,
}

/// What a message ends with that says that an attempt, and not its run, has ended: another worker has the run.
pub const ATTEMPT_STOPPED: &str = "this attempt is stopped";

/// A log line of now.
pub fn log_line(attempt: u32, level: LogLevel, message: impl Into<String>) -> LogLine {
    LogLine {
        attempt,
        level,
        message: message.into(),
        timestamp: Timestamp::now(),
    }
}
