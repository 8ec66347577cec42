//! The orchestrator: where flow runs are queued, claimed, and where what becomes of them is kept.
//!
//! [`Orchestrator`] is what both faces of this crate speak to: the callers' half (queue, read, cancel, retry, watch)
//! and the workers' half (claim, record, finish, recover). [`local`] is the embedded one, [`prefect`] the one over a Prefect API.

pub mod following;
pub mod local;
pub mod prefect;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::assets::AssetLineage;
use crate::error::OrchestratorError;
use crate::flow::{Arguments, FlowDefinition, WorkQueue};
use crate::flow_run::{EventCursor, FlowRun, FlowRunDetails, FlowRunEvent, FlowRunId, LogLevel, LogLine};
use crate::process_identity::ProcessIdentity;
use crate::protocol::{DatabaseIdentity, Materialization};
use crate::settings::{OrchestratorChoice, Settings};
use crate::state::{StateName, StateType};
use prefect::settings::WhenUnreachable;

/// Opens the orchestrator that the settings choose.
///
/// # Errors
/// [`OrchestratorError::Config`] if they choose Prefect and name no API, and what opening queue.db can say.
pub async fn open(settings: &Settings) -> Result<Arc<dyn Orchestrator>, OrchestratorError> {
    match settings.orchestrator {
        OrchestratorChoice::Embedded => Ok(Arc::new(local::LocalOrchestrator::open(&settings.home).await?)),
        OrchestratorChoice::Prefect => {
            let prefect = settings.prefect.clone().ok_or_else(|| OrchestratorError::Config {
                origin: settings.orchestrator_reason.clone(),
                problem: "no Prefect API is configured: run npm run setup, or set PREFECT_API_URL".to_owned(),
            })?;
            let opened = prefect::PrefectOrchestrator::open(prefect, &settings.home, settings.flows.clone()).await?;
            Ok(Arc::new(opened))
        }
    }
}

/// Says whether a caller still wants an operation. Decided once: either it is given up before it is durable, or it
/// becomes durable and can no longer be given up.
#[derive(Debug, Default)]
pub struct Intent(AtomicU8);

const WANTED: u8 = 0;
const COMMITTING: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Intent {
    /// Gives the operation up. `false`: too late, it is (being) made durable.
    pub fn give_up(&self) -> bool {
        match self
            .0
            .compare_exchange(WANTED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            Err(found) => found == GIVEN_UP,
        }
    }

    /// Called by the orchestrator right before it makes the operation durable. `false`: it was given up.
    pub fn commit(&self) -> bool {
        self.0
            .compare_exchange(WANTED, COMMITTING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether it was given up.
    pub fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == GIVEN_UP
    }
}

/// A flow run to queue.
#[derive(Debug, Clone)]
pub struct NewFlowRun {
    /// The flow, as the caller knows it.
    pub flow: FlowDefinition,
    /// Its checked arguments.
    pub arguments: Arguments,
    /// Two calls with one key make one run.
    pub idempotency_key: Option<String>,
    /// How long a Prefect API may take for it, tries included; its client's default where none is given.
    pub patience: Option<Duration>,
    /// What to do if a Prefect API cannot be reached; the settings' choice where none is given.
    pub when_unreachable: Option<WhenUnreachable>,
}

/// A queued flow run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuedFlowRun {
    /// Its id.
    pub flow_run_id: FlowRunId,
    /// Where it waits.
    pub work_queue: WorkQueue,
    /// Whether this call made it; `false`: an equal one was there.
    pub created: bool,
}

/// Which runs to list, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlowRunFilter {
    /// Of this flow.
    pub flow_name: Option<String>,
    /// Of this video.
    pub video_id: Option<String>,
    /// In one of these states; empty: any.
    pub state_types: Vec<StateType>,
    /// At most so many.
    pub limit: u32,
    /// Only runs older than this one.
    pub before: Option<FlowRunId>,
}

/// The work pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkPool {
    /// Its name.
    pub name: String,
    /// Runs at once.
    pub concurrency_limit: u32,
    /// Whether claims stand still.
    pub is_paused: bool,
    /// Runs that hold a slot.
    pub active: u32,
    /// Runs that wait, by queue.
    pub waiting: Vec<(WorkQueue, u32)>,
    /// Workers known, alive or not.
    pub workers: Vec<WorkerRecord>,
}

/// A worker as it announced itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRecord {
    /// `host-PID`.
    pub name: String,
    /// Its process.
    pub process: ProcessIdentity,
    /// Version of this program.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Whether its process lives, in whatever container.
    pub is_alive: bool,
}

/// A claimed attempt: the lease that everything a worker writes about a run goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The run.
    pub flow_run_id: FlowRunId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Grows with every claim; a write with an older one is refused.
    pub fencing_token: i64,
}

/// A claim.
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
}

/// What a worker learned of a run and wants kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The child's process; before it does anything.
    Process(ProcessIdentity),
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
    Progress(crate::flow_run::Progress),
    /// A log line.
    Log(LogLine),
    /// An artifact.
    Artifact(crate::flow_run::Artifact),
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
    /// Changes with every state; [`Orchestrator::status_row_written`] hands it back.
    pub state_sequence: i64,
    /// Process of the last attempt, dead by now.
    pub ended_pid: Option<u32>,
    /// The annotations.db that the run saw.
    pub database: Option<DatabaseIdentity>,
    /// Processes of this queue's attempts on that annotations.db, and whether each is still at work: a pid alone does not
    /// tell, since it may be one of another container.
    pub known_pids: BTreeMap<u32, bool>,
}

/// The queue and everything known of its runs.
///
/// Every method is atomic and durable when it returns, except [`Orchestrator::record`], which may lose the last
/// moments of progress and logs at a power loss. A method that fails has changed nothing.
#[async_trait]
pub trait Orchestrator: Send + Sync {
    // Callers

    /// Queues a run; durable when it returns. An idempotency key that is known returns its run. An equal run that
    /// still waits is returned, and becomes due. For a flow where the latest wins, older runs for the same video
    /// are cancelled, naming this one.
    async fn create_flow_run(&self, new: NewFlowRun, intent: Arc<Intent>) -> Result<QueuedFlowRun, OrchestratorError>;

    /// The run of that id.
    async fn read_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError>;

    /// The run with its states, task runs and artifacts.
    async fn read_flow_run_details(&self, id: FlowRunId) -> Result<FlowRunDetails, OrchestratorError>;

    /// The runs that match, newest first.
    async fn list_flow_runs(&self, filter: FlowRunFilter) -> Result<Vec<FlowRun>, OrchestratorError>;

    /// Log lines after `cursor` (0: from the start), with the next cursor.
    async fn read_logs(&self, id: FlowRunId, cursor: i64) -> Result<(Vec<LogLine>, i64), OrchestratorError>;

    /// What happened to the run since `cursor`. [`following::next_events`] waits for it.
    async fn read_events(
        &self,
        id: FlowRunId,
        cursor: EventCursor,
    ) -> Result<(Vec<FlowRunEvent>, EventCursor), OrchestratorError>;

    /// Cancels a run: one that waits at once, a running one as soon as its worker has stopped it. Twice is once.
    async fn cancel_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError>;

    /// Queues a failed, crashed or cancelled run again, with all its attempts before it; one that waits for its
    /// retry becomes due.
    async fn retry_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError>;

    /// Every asset with its newest materialization.
    async fn read_lineage(&self) -> Result<AssetLineage, OrchestratorError>;

    /// The pool.
    async fn read_work_pool(&self) -> Result<WorkPool, OrchestratorError>;

    /// Stops or resumes claims.
    async fn set_paused(&self, is_paused: bool) -> Result<(), OrchestratorError>;

    /// Changes when anything in the store has changed; cheap enough to ask 10 times a second.
    async fn change_counter(&self) -> Result<i64, OrchestratorError>;

    /// Changes when there may be news of this run; as cheap, and no more often than its events may be asked for.
    async fn news_counter(&self, id: FlowRunId) -> Result<i64, OrchestratorError> {
        let _ = id;
        self.change_counter().await
    }

    // Workers

    /// Announces a worker and sets the pool's limit, if it brings one.
    async fn register_worker(&self, worker: WorkerRecord, limit: Option<u32>) -> Result<(), OrchestratorError>;

    /// Withdraws it.
    async fn deregister_worker(&self, name: &str) -> Result<(), OrchestratorError>;

    /// Takes the next run of one of `flow_names`, if the pool has a free slot: by queue, then by time; never one
    /// whose video is being worked on by another run of its flow.
    async fn claim(&self, worker_name: &str, flow_names: BTreeSet<String>) -> Result<Option<Claim>, OrchestratorError>;

    /// The next run that a claim has taken of a deployment that is not ours; to be run as its own platform's worker
    /// would. It holds a slot until [`Orchestrator::foreign_run_ended`].
    fn take_foreign_run(&self) -> Option<prefect::foreign::ForeignRun> {
        None
    }

    /// Such a run has ended, and has its final state: its slot is free.
    async fn foreign_run_ended(&self, id: FlowRunId) -> Result<(), OrchestratorError> {
        let _ = id;
        Ok(())
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

    /// Ends the attempt. A run that was being cancelled becomes Cancelled, unless it completed. Returns the run.
    async fn finish(&self, lease: Lease, ending: Ending) -> Result<FlowRun, OrchestratorError>;

    /// Of these runs, those that are to be stopped, with the reason.
    async fn cancellations(&self, ids: Vec<FlowRunId>) -> Result<Vec<(FlowRunId, String)>, OrchestratorError>;

    /// Runs whose worker is dead.
    async fn orphaned_runs(&self) -> Result<Vec<OrphanedRun>, OrchestratorError>;

    /// Status rows that are not up to date: of runs that wait or have ended.
    async fn status_rows_due(&self) -> Result<Vec<StatusRowDue>, OrchestratorError>;

    /// Whether a status row is still due as of `state_sequence`: asked right before it is written. Answered from where
    /// [`Orchestrator::status_rows_due`] is.
    async fn status_row_is_due(&self, id: FlowRunId, state_sequence: i64) -> Result<bool, OrchestratorError>;

    /// A status row was brought up to date as of `state_sequence`.
    async fn status_row_written(&self, id: FlowRunId, state_sequence: i64) -> Result<(), OrchestratorError>;

    /// Forgets runs that ended before `ended_before`; the newest materialization of each asset stays. Returns how many.
    async fn apply_retention(&self, ended_before: Timestamp) -> Result<u64, OrchestratorError>;

    /// Returns once a run may have been queued or cancelled, or after `timeout`.
    async fn wait_for_work(&self, timeout: Duration);

    /// What it is, for people: `embedded (/path/queue.db)`.
    fn description(&self) -> String;
}

/// A log line of now.
pub fn log_line(attempt: u32, level: LogLevel, message: impl Into<String>) -> LogLine {
    LogLine {
        attempt,
        level,
        message: message.into(),
        timestamp: Timestamp::now(),
    }
}
