//! What killed attempts left in their scratch directories.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::annotations::remove_leftovers;
use crate::domain::flow::Flows;
use crate::domain::flow_run::FlowRun;

/// How long a removal is waited for. On a dead disk it goes on by itself, until the disk or the worker has gone.
const PATIENCE: Duration = Duration::from_millis(500);
/// Removals at once: dead disks must not take all the threads that the worker has for what may wait.
static REMOVALS: Semaphore = Semaphore::const_new(4);

/// Removes what a killed attempt left in its scratch directory. Its processes are dead by now. Only this attempt's: by
/// now another worker may have recovered the run, and its next attempt be at work.
pub async fn remove_scratch(flows: &Flows, run: &FlowRun, attempt: u32) {
    let arguments = flows
        .get(&run.flow_name)
        .and_then(|flow| flow.parse_stored(&run.parameters.0));
    let output_dir = match arguments {
        Ok(arguments) => arguments.output_dir().map(Path::to_owned),
        // The flow has changed since, or is gone.
        Err(_) => run
            .parameters
            .0
            .get("output-dir")
            .and_then(Value::as_str)
            .map(PathBuf::from),
    };
    let output_dir = output_dir.filter(|path| path.is_absolute());
    let Some(output_dir) = output_dir else {
        return;
    };
    let id = run.flow_run_id;
    let folder = output_dir.display().to_string();
    let removing = tokio::spawn(async move {
        let permit = REMOVALS.acquire().await;
        let id = id.to_string();
        let removed = spawn_blocking(move || remove_leftovers(&output_dir, &id, attempt)).await;
        drop(permit);
        removed
    });
    if tokio::time::timeout(PATIENCE, removing).await.is_err() {
        warn!(flow_run_id = %id, folder, "The disk of its output-dir does not answer: what the attempt left there is not removed yet.");
    }
}
