//! Runs of ours that are to be stopped, because somebody said so at the server.

use std::sync::Arc;

use tracing::warn;

use super::conversion::superseded_by;
use super::foreign::ForeignRuns;
use super::hints::Hints;
use super::journal::Journal;
use crate::domain::id::FlowRunId;
use crate::domain::state::StateName;

/// Tells the workers of this process that a run is to be stopped.
#[derive(Clone)]
pub(super) struct Stopping {
    journal: Journal,
    foreign: Arc<ForeignRuns>,
    hints: Arc<Hints>,
}

impl Stopping {
    pub(super) const fn new(journal: Journal, foreign: Arc<ForeignRuns>, hints: Arc<Hints>) -> Self {
        Self {
            journal,
            foreign,
            hints,
        }
    }

    /// A run of ours is to be stopped: its worker sees it as being cancelled.
    pub(super) async fn stop(&self, id: FlowRunId, message: String) {
        if self.foreign.is_held(id) {
            self.foreign.stop(id, message);
            self.hints.wake();
            return;
        }
        let newer = superseded_by(Some(&message));
        let noted = self
            .journal
            .forwarding
            .mirror(id, StateName::Cancelling, message, newer)
            .await;
        match noted {
            Ok(true) => self.hints.wake(),
            Ok(false) => {}
            Err(error) => warn!(flow_run_id = %id, error = error.to_line(), "A cancellation could not be noted."),
        }
    }
}
