//! What waits for something that no worker does by itself.

use jiff::Timestamp;
use serde::Serialize;

use crate::domain::finding::counted;
use crate::domain::id::FlowRunId;
use crate::domain::state::StateName;

/// What waits, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attention {
    /// Runs whose worker is not to be heard.
    pub stranded: Vec<StrandedRun>,
    /// Flows with runs that wait for a worker that knows them.
    pub unserved: Vec<UnservedFlow>,
    /// Work queues from which nothing is handed out.
    pub paused_queues: Vec<String>,
}

/// A run whose worker is not to be heard: its machine is lost, cut off, or about to come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StrandedRun {
    /// The run.
    pub flow_run_id: FlowRunId,
    /// Its flow.
    pub flow_name: String,
    /// Its video, if it is about one.
    pub video_id: Option<String>,
    /// Its state.
    pub state: StateName,
    /// Since when.
    pub since: Timestamp,
    /// Its worker.
    pub worker_name: Option<String>,
}

/// A flow with runs that wait, and that no worker which is online runs, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnservedFlow {
    /// The flow.
    pub flow_name: String,
    /// Runs that wait.
    pub waiting: u32,
    /// Whether a worker may know it all the same: none is online, or one has not said which flows it knows. This machine does not.
    pub may_be_known: bool,
}

impl StrandedRun {
    /// What it is and what became of its worker, for people.
    pub fn line(&self) -> String {
        let video = self
            .video_id
            .as_ref()
            .map_or_else(String::new, |id| format!(" of {id}"));
        let worker = self.worker_name.as_deref().unwrap_or("unknown");
        format!(
            "flow run {} ({}{video}) is {}, and its worker {worker} is offline",
            self.flow_run_id,
            self.flow_name,
            self.state.as_str()
        )
    }

    /// What to do about it at once.
    pub fn remedy(&self) -> String {
        let id = self.flow_run_id;
        if self.state == StateName::Cancelling {
            format!("captionacc runs cancel {id} ends it at once")
        } else {
            format!(
                "captionacc runs take-over {id} gives it to another worker at once, captionacc runs cancel {id} ends it"
            )
        }
    }
}

impl UnservedFlow {
    /// For people.
    pub fn line(&self) -> String {
        let why = if self.may_be_known {
            "the captionacc.toml here does not declare it, and workers of other homes may"
        } else {
            "no worker that is online does"
        };
        format!(
            "{} for a worker that knows flow {}; {why}",
            counted(self.waiting.into(), "run waits", "runs wait"),
            self.flow_name
        )
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        format!(
            "start a worker on a machine whose captionacc.toml has [flows.{}] (one that was started earlier does not know it), \
             or use one captionacc.toml on all machines",
            self.flow_name
        )
    }
}
