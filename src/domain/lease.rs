//! The right of one attempt to write about its run.

use serde::{Deserialize, Serialize};

use super::id::FlowRunId;

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

impl Lease {
    /// What the processes of the attempt are marked with, so that they are found again.
    pub fn marker(&self) -> String {
        format!("{}:{}", self.flow_run_id, self.fencing_token)
    }
}
