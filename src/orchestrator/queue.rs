//! What callers ask of an orchestrator: queue flow runs, read about them, cancel and retry them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::attention::Attention;
use super::delivery::Delivery;
use super::events::EventPage;
use super::feed::{FeedCursor, FeedPage};
use super::here::KnownHere;
use crate::domain::asset::{AssetLineage, LineageOf};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{Arguments, FlowDefinition, WorkQueue};
use crate::domain::flow_run::{EventCursor, FlowRun, FlowRunDetails, LogLine, Progress};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::domain::trace::TraceContext;
use crate::process::identity::ProcessIdentity;
use crate::settings::prefect::WhenUnreachable;

/// The queue as its callers see it. A method that fails has changed nothing; one that returns is durable.
#[async_trait]
pub trait Queue: Send + Sync {
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

    /// The run that is due longest, of those that wait for a slot.
    async fn oldest_waiting(&self) -> Result<Option<FlowRun>, OrchestratorError> {
        let filter = FlowRunFilter {
            state_types: vec![StateType::Scheduled],
            limit: 500,
            ..FlowRunFilter::default()
        };
        let now = Timestamp::now();
        let waiting = self.list_flow_runs(filter).await?.into_iter();
        Ok(waiting
            .filter(|run| run.scheduled_at <= now)
            .min_by_key(|run| run.scheduled_at))
    }

    /// Log lines after `cursor` (0: from the start), with the next cursor.
    async fn read_logs(&self, id: FlowRunId, cursor: i64) -> Result<(Vec<LogLine>, i64), OrchestratorError>;

    /// How far runs at work are, of those of which this machine knows it better than a server that they are queued at: what
    /// [`Queue::list_flow_runs`] says of them, without asking it. None where nobody else is asked in the first place.
    async fn read_progress(&self) -> Result<Vec<(FlowRunId, Progress)>, OrchestratorError> {
        Ok(Vec::new())
    }

    /// What happened to the run since `cursor`. [`crate::orchestrator::following::next_events`] waits for it.
    async fn read_events(&self, id: FlowRunId, cursor: EventCursor) -> Result<EventPage, OrchestratorError>;

    /// What happened to all runs after a cursor; without one, only where their order ends now.
    /// [`crate::orchestrator::watching::Watching`] waits for it.
    async fn read_feed(&self, after: Option<&FeedCursor>) -> Result<FeedPage, OrchestratorError>;

    /// Cancels a run: one that waits at once, a running one as soon as its worker has stopped it. Twice is once.
    async fn cancel_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError>;

    /// Queues a failed, crashed or cancelled run again, with all its attempts before it; one that waits for its
    /// retry becomes due.
    async fn retry_flow_run(&self, id: FlowRunId) -> Result<FlowRun, OrchestratorError>;

    /// Gives a run whose worker is not to be heard to another worker, without waiting until it counts as lost; `is_forced`: also
    /// one whose worker was heard a moment ago. One that was to be stopped is cancelled. A queue of one machine notices the
    /// death of its workers at once, and does so by itself.
    async fn take_over_flow_run(&self, id: FlowRunId, is_forced: bool) -> Result<FlowRun, OrchestratorError> {
        let _ = is_forced;
        Err(OrchestratorError::InvalidState {
            flow_run_id: id,
            state: self.read_flow_run(id).await?.state.name,
            problem: "the workers of this queue take over the runs of a dead one by themselves, within a second"
                .to_owned(),
        })
    }

    /// What waits for a person.
    async fn read_attention(&self) -> Result<Attention, OrchestratorError> {
        Ok(Attention::default())
    }

    /// What a server that runs are queued at must still hear from this machine; none: nobody else hears of them. It is not asked.
    async fn read_delivery(&self) -> Result<Option<Delivery>, OrchestratorError> {
        Ok(None)
    }

    /// What this machine knows by itself of runs that are queued at a server, which is not asked; none: there is no server.
    async fn read_known_here(&self) -> Result<Option<KnownHere>, OrchestratorError> {
        Ok(None)
    }

    /// Every asset with its newest materialization.
    async fn read_lineage(&self) -> Result<AssetLineage, OrchestratorError>;

    /// Some assets with their newest materializations, as they stand in the whole.
    async fn read_lineage_of(&self, which: LineageOf) -> Result<AssetLineage, OrchestratorError> {
        Ok(self.read_lineage().await?.of(&which))
    }

    /// The pool.
    async fn read_work_pool(&self) -> Result<WorkPool, OrchestratorError>;

    /// Stops or resumes claims.
    async fn set_paused(&self, is_paused: bool) -> Result<(), OrchestratorError>;

    /// Sets how many runs the pool runs at once. What runs goes on, also beyond a lower limit.
    async fn set_concurrency_limit(&self, limit: u32) -> Result<(), OrchestratorError>;

    /// Changes when anything in the store has changed; cheap enough to ask 10 times a second.
    async fn change_counter(&self) -> Result<i64, OrchestratorError>;

    /// Changes when there may be news of this run; as cheap, and no more often than its events may be asked for.
    async fn news_counter(&self, id: FlowRunId) -> Result<i64, OrchestratorError> {
        let _ = id;
        self.change_counter().await
    }

    /// Changes when there may be news of any run; as cheap, and no more often than the feed may be asked for.
    async fn feed_counter(&self) -> Result<i64, OrchestratorError> {
        self.change_counter().await
    }

    /// What it is, for people: `embedded (/path/queue.db)`.
    fn description(&self) -> String;
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
    /// What its spans are children of, if anything is traced.
    pub trace: Option<TraceContext>,
}

impl NewFlowRun {
    /// A run that is queued as any other: nothing of what a caller may wish for it.
    pub const fn new(flow: FlowDefinition, arguments: Arguments) -> Self {
        Self {
            flow,
            arguments,
            idempotency_key: None,
            patience: None,
            when_unreachable: None,
            trace: None,
        }
    }
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
    /// Of these, runs of the queue `background` at once.
    pub background_limit: u32,
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
