//! What happens to all runs, in one order.

use serde::{Deserialize, Serialize};

use crate::domain::flow_run::FlowRunEvent;
use crate::domain::id::FlowRunId;

/// A place in the order of all events. Only the orchestrator that made it can read it; it lasts as long as the events
/// after it are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeedCursor(pub String);

/// Something that happened to a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FeedEvent {
    /// The run.
    pub flow_run_id: FlowRunId,
    /// Its flow.
    pub flow_name: String,
    /// Its video, if it is about one.
    pub video_id: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub event: FlowRunEvent,
    /// The place after it.
    pub cursor: FeedCursor,
}

/// Events after a place.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedPage {
    /// States and log lines in their order, each once.
    pub events: Vec<FeedEvent>,
    /// The newest progress of each run at work, with its time in ms, which grows with each progress of a run; whether it is
    /// new is for the reader to know. None while more is to be read.
    pub progress: Vec<(i64, FeedEvent)>,
    /// Where to go on. At the end of what there is, it is one and the same, wherever the reader came from.
    pub next: FeedCursor,
    /// Whether more is to be read now.
    pub has_more: bool,
}
