//! Processes of foreign runs whose worker is dead.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::domain::id::FlowRunId;
use crate::orchestrator::claims::foreign_marker;
use crate::process::tree::{clear, marked, may_search};

/// How long the processes of a run that is to end may take to be gone.
const DEATH_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether processes of such a run live. What can not be looked at counts as one: the search may wait for a process that hangs,
/// so it is done beside, as every other.
pub(super) async fn is_left_behind(id: FlowRunId) -> bool {
    let Some(permit) = may_search() else { return true };
    let searching = spawn_blocking(move || {
        let lives = !marked(&foreign_marker(id)).is_empty();
        drop(permit);
        lives
    });
    timeout(DEATH_TIMEOUT, searching)
        .await
        .map_or(true, |lives| lives.unwrap_or(true))
}

/// Ends what lives of such a run; whether nothing is left.
pub(super) async fn end_left_behind(id: FlowRunId) -> bool {
    clear(&foreign_marker(id), None, DEATH_TIMEOUT).await == 0
}
