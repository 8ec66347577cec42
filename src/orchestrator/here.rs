//! What a machine knows by itself of runs that are queued at a server: what is left to say while that server does not answer.

use jiff::Timestamp;

use super::delivery::Delivery;
use crate::domain::flow_run::FlowRun;
use crate::domain::id::FlowRunId;

/// What is known here without asking the server.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownHere {
    /// Runs that workers of this machine are at, newest first.
    pub at_work: Vec<FlowRun>,
    /// Runs that were queued while the server was away, and wait here, oldest first; the first hundred.
    pub kept: Vec<KeptHere>,
    /// The names of this machine's workers that are alive.
    pub living_workers: Vec<String>,
    /// What the server must still hear, and since when it has not answered.
    pub delivery: Delivery,
}

/// A run that waits here for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptHere {
    /// The run, as whoever queued it knows it.
    pub flow_run_id: FlowRunId,
    /// Its flow.
    pub flow_name: String,
    /// Its video, if it is about one.
    pub video_id: Option<String>,
    /// When it was queued.
    pub queued_at: Timestamp,
}
