//! Telling a receiver of every state that a run enters: what is still to be told, kept until it is.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use crate::domain::error::OrchestratorError;
use crate::domain::flow::Parameters;
use crate::domain::flow_run::State;
use crate::domain::id::FlowRunId;
use crate::domain::state::{StateName, StateType};

/// What a receiver, named by its address, is still to be told. It hears of all that happens from the first time that it is
/// asked for, whichever process makes it happen.
#[async_trait]
pub trait Notifications: Send + Sync {
    /// What is due now, oldest first, as many as one reading gives. Of more than can be kept waiting the oldest are dropped.
    async fn notifications_due(&self, receiver: &str) -> Result<Due, OrchestratorError>;

    /// It was told of this and of all before; `problem`, if it did not want to hear of it.
    async fn notified(&self, receiver: &str, position: i64, problem: Option<String>) -> Result<(), OrchestratorError>;

    /// It could not be told. It is left alone for `wait`, by all workers.
    async fn not_notified(&self, receiver: &str, problem: String, wait: Duration) -> Result<(), OrchestratorError>;

    /// A file for the lock of the one process that tells it.
    fn notifications_lock(&self, receiver: &str) -> PathBuf;
}

/// What is to be told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Due {
    /// Oldest first.
    pub notifications: Vec<Notification>,
    /// How many were dropped, since more waited than are kept.
    pub dropped: u64,
    /// How often in a row it could not be told.
    pub failures: u32,
}

/// A state that a run has entered, as its receiver reads it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Its place in the order of all states.
    #[serde(skip)]
    pub position: i64,
    /// The same whenever this is told again.
    pub event_id: String,
    /// The run.
    pub flow_run_id: FlowRunId,
    /// Its flow.
    pub flow_name: String,
    /// Its video, if it is about one.
    pub video_id: Option<String>,
    /// The state.
    pub state: State,
    /// The state before it; none of the first.
    pub previous: Option<PreviousState>,
    /// Attempts begun by then.
    pub attempt: u32,
    /// Its parameters.
    pub parameters: Parameters,
}

/// The state that a run has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PreviousState {
    /// Its type.
    #[serde(rename = "type")]
    pub state_type: StateType,
    /// Its name.
    pub name: StateName,
}

/// How telling a receiver goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Notifications that wait.
    pub waiting: i64,
    /// How often in a row it could not be told.
    pub failures: u32,
    /// What went wrong last, and when.
    pub problem: Option<(String, Timestamp)>,
}
