//! What Prefect's API answers, as far as it is used. Everything here is hostile until it was read into these types.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::domain::state::{StateName, StateType};
use crate::domain::trace::TraceContext;
use crate::settings::table::DAY_MS;

/// The label that tells the trace of a run: Prefect's own client writes and reads it (`prefect/telemetry/run_telemetry.py`).
pub const TRACEPARENT: &str = "__OTEL_TRACEPARENT";

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ApiFlow {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
}

/// A state of a run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ApiState {
    /// `SCHEDULED` and so on, `PAUSED` among them.
    #[serde(rename = "type")]
    pub state_type: String,
    /// Any name.
    pub name: Option<String>,
    /// Why.
    pub message: Option<String>,
    /// Since when.
    pub timestamp: Timestamp,
    /// More about it.
    #[serde(default)]
    pub state_details: ApiStateDetails,
    /// What a run that ended returned.
    #[serde(default)]
    pub data: Value,
}

/// More about a state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ApiStateDetails {
    /// When a scheduled run is due.
    pub scheduled_time: Option<Timestamp>,
    /// The transition that led to it.
    pub transition_id: Option<Uuid>,
    /// A slot of the deployment's limit.
    pub deployment_concurrency_lease_id: Option<Uuid>,
}

impl ApiState {
    /// The nearest state type of ours; a paused run waits.
    pub fn state_type(&self) -> StateType {
        StateType::ALL
            .into_iter()
            .find(|known| known.as_str() == self.state_type)
            .unwrap_or(StateType::Scheduled)
    }

    /// The nearest state name of ours.
    pub fn state_name(&self) -> StateName {
        let state_type = self.state_type();
        self.name
            .as_deref()
            .and_then(StateName::parse)
            .filter(|name| name.state_type() == state_type)
            .unwrap_or(match state_type {
                StateType::Scheduled => StateName::Scheduled,
                StateType::Pending => StateName::Pending,
                StateType::Running => StateName::Running,
                StateType::Cancelling => StateName::Cancelling,
                StateType::Cancelled => StateName::Cancelled,
                StateType::Completed => StateName::Completed,
                StateType::Failed => StateName::Failed,
                StateType::Crashed => StateName::Crashed,
            })
    }
}

/// A flow run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ApiFlowRun {
    /// Its id.
    pub id: Uuid,
    /// A name for people, two words.
    pub name: String,
    /// Its flow.
    pub flow_id: Uuid,
    /// Its deployment, if it has one.
    pub deployment_id: Option<Uuid>,
    /// Its parameters.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: Map<String, Value>,
    /// Times that it came to run.
    #[serde(default)]
    pub run_count: u32,
    /// Its state; none for a run that was made without.
    pub state: Option<ApiState>,
    /// Its queue.
    pub work_queue_name: Option<String>,
    /// Its pool.
    pub work_pool_name: Option<String>,
    /// Its process or container, as its worker wrote it.
    pub infrastructure_pid: Option<String>,
    /// What it adds to the pool's job variables.
    #[serde(default)]
    pub job_variables: Option<Map<String, Value>>,
    /// How it is to be retried, if whoever made it has said so.
    #[serde(default)]
    pub empirical_policy: ApiRetries,
    /// When it was made.
    pub created: Timestamp,
    /// When it was meant to start first.
    pub expected_start_time: Option<Timestamp>,
    /// When it is to start, if it waits.
    pub next_scheduled_start_time: Option<Timestamp>,
    /// When it started.
    pub start_time: Option<Timestamp>,
    /// When it ended.
    pub end_time: Option<Timestamp>,
}

/// How a run is to be retried.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct ApiRetries {
    /// Further attempts after one that failed.
    pub retries: Option<u32>,
    /// Seconds before each.
    pub retry_delay: Option<f64>,
}

impl ApiFlowRun {
    /// The order in which runs were made: of several for one video the greatest is the latest.
    pub const fn made(&self) -> (Timestamp, Uuid) {
        (self.created, self.id)
    }

    /// The video that it is about, by whichever name its caller gave it.
    pub fn video_id(&self) -> Option<&str> {
        let given = self
            .parameters
            .get("video-id")
            .or_else(|| self.parameters.get("video_id"));
        given.and_then(Value::as_str)
    }

    /// Whether its arguments have the names of the Python service that was there before: it may be that service's own.
    pub fn is_by_old_names(&self) -> bool {
        self.parameters.contains_key("video_id") && !self.parameters.contains_key("video-id")
    }

    /// What its spans are children of, if its label says so.
    pub fn trace(&self) -> Option<TraceContext> {
        self.label(TRACEPARENT)?.parse().ok()
    }

    /// The label of that name, if it is text or a number.
    pub fn label(&self, name: &str) -> Option<String> {
        match self.labels.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ApiDeployment {
    /// Its id.
    pub id: Uuid,
    /// Its name, after the flow's.
    pub name: String,
    /// Its flow.
    pub flow_id: Uuid,
    /// Its pool; none in runner mode.
    pub work_pool_name: Option<String>,
    /// Its queue.
    pub work_queue_name: Option<String>,
    /// Whether its schedules stand still.
    #[serde(default)]
    pub paused: bool,
    /// Its default parameters.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Tags that its runs get.
    #[serde(default)]
    pub tags: Vec<String>,
    /// For people.
    pub description: Option<String>,
    /// The version that was deployed.
    pub version: Option<String>,
    /// Schema of its parameters.
    #[serde(default)]
    pub parameter_openapi_schema: Value,
    /// Runs of it at once.
    pub concurrency_limit: Option<u32>,
    /// What it adds to the pool's job variables.
    #[serde(default)]
    pub job_variables: Option<Map<String, Value>>,
    /// Where its code is, for Prefect's own engine.
    pub entrypoint: Option<String>,
    /// The folder of its code.
    pub path: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// A work pool.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ApiWorkPool {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// `process`.
    #[serde(rename = "type")]
    pub pool_type: String,
    /// Runs at once; none: as many as there are.
    pub concurrency_limit: Option<u32>,
    /// Whether nothing is handed out.
    #[serde(default)]
    pub is_paused: bool,
    /// Job configuration and its variables.
    #[serde(default)]
    pub base_job_template: Value,
    /// Runs that hold a slot.
    #[serde(default)]
    pub active_slots: Option<u32>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// A work queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ApiWorkQueue {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// 1 is first.
    pub priority: Option<u32>,
    /// Runs at once.
    pub concurrency_limit: Option<u32>,
    /// Whether nothing is handed out.
    #[serde(default)]
    pub is_paused: bool,
}

/// A worker that reported to a pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ApiWorker {
    /// Its name.
    pub name: String,
    /// `ONLINE` or `OFFLINE`.
    pub status: Option<String>,
    /// First seen.
    pub created: Option<Timestamp>,
    /// Last seen.
    pub last_heartbeat_time: Option<Timestamp>,
    /// How often it says that it lives.
    pub heartbeat_interval_seconds: Option<i64>,
}

impl ApiWorker {
    /// How often it says that it lives, if that is a pace: anybody may tell a server any number.
    pub fn pace_s(&self) -> Option<u64> {
        let pace_s = u64::try_from(self.heartbeat_interval_seconds?).ok()?;
        (1..=DAY_MS / 1000).contains(&pace_s).then_some(pace_s)
    }
}

/// A run that a poll of a pool offers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ApiOffer {
    /// The run.
    pub flow_run: ApiFlowRun,
}

/// What became of a proposed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It is the run's state.
    Accept,
    /// Another one is.
    Reject,
    /// Ask again later.
    Wait,
    /// The run's state has not changed.
    Abort,
}

/// Prefect's answer to a proposed state. The HTTP status says nothing about it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Orchestration {
    /// The run's state; none where it has none.
    pub state: Option<ApiState>,
    /// What became of the proposal.
    pub status: Verdict,
    /// Why.
    #[serde(default)]
    pub details: OrchestrationDetails,
}

/// Why a proposal was not accepted.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct OrchestrationDetails {
    /// For people.
    pub reason: Option<String>,
    /// With [`Verdict::Wait`].
    pub delay_seconds: Option<f64>,
}

/// A state to propose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proposal {
    state: ProposedState,
    force: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ProposedState {
    #[serde(rename = "type")]
    state_type: StateType,
    name: String,
    message: Option<String>,
    data: Option<Value>,
    state_details: Value,
}

impl Proposal {
    /// Proposes a state. The same `transition_id` makes the same proposal sent twice one.
    pub fn new(name: StateName, message: Option<String>, transition_id: Uuid) -> Self {
        let state_type = name.state_type();
        Self {
            state: ProposedState {
                state_type,
                name: name.as_str().to_owned(),
                message,
                // A completed run whose data is null may run again; this says that it has a result of its own.
                data: (state_type == StateType::Completed).then(|| serde_json::json!({"type": "captionacc"})),
                state_details: serde_json::json!({ "transition_id": transition_id }),
            },
            force: false,
        }
    }

    /// When a scheduled run is due.
    #[must_use]
    pub fn due_at(mut self, at: Timestamp) -> Self {
        self.state.state_details["scheduled_time"] = serde_json::json!(at);
        self
    }

    /// What `run_deployment` returns of a completed run.
    #[must_use]
    pub fn with_result(mut self, result: Value) -> Self {
        self.state.data = Some(result);
        self
    }

    /// Skips the server's rules.
    #[must_use]
    pub const fn force(mut self) -> Self {
        self.force = true;
        self
    }
}

/// A line of a run's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiLog {
    /// `prefect.flow_runs`.
    pub name: String,
    /// 10, 20, 30, 40 or 50.
    pub level: i32,
    /// The line.
    pub message: String,
    /// When it was written.
    pub timestamp: Timestamp,
    /// Its run.
    pub flow_run_id: Option<Uuid>,
    /// Its own id, which the server gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// When the server noted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

/// A task run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ApiTaskRun {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The attempt of the flow run.
    #[serde(default)]
    pub flow_run_run_count: u32,
    /// Times begun.
    #[serde(default)]
    pub run_count: u32,
    /// Its state.
    pub state: Option<ApiState>,
    /// When it started.
    pub start_time: Option<Timestamp>,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
}

/// An artifact.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ApiArtifact {
    /// Its id.
    pub id: Uuid,
    /// Its key; results of states have none.
    pub key: Option<String>,
    /// `table` and so on.
    #[serde(rename = "type")]
    pub artifact_type: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// The run that it is of.
    #[serde(default)]
    pub flow_run_id: Option<Uuid>,
    /// Its content.
    #[serde(default)]
    pub data: Value,
    /// More, of ours.
    #[serde(default)]
    pub metadata_: Option<Map<String, Value>>,
    /// When it was made.
    pub created: Timestamp,
}
