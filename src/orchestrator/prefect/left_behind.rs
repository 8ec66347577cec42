//! Processes of foreign runs whose worker is dead.

use std::time::Duration;

use crate::domain::id::FlowRunId;
use crate::orchestrator::claims::foreign_marker;
use crate::process::tree::{clear, marked};

/// How long the processes of a run that is to end may take to be gone.
const DEATH_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether processes of such a run live.
pub(super) fn is_left_behind(id: FlowRunId) -> bool {
    !marked(&foreign_marker(id)).is_empty()
}

/// Ends what lives of such a run; whether nothing is left.
pub(super) async fn end_left_behind(id: FlowRunId) -> bool {
    clear(&foreign_marker(id), None, DEATH_TIMEOUT).await == 0
}
