//! The first span of a run: the call that queues it.

use std::sync::Arc;

use jiff::Timestamp;

use super::span::{Kind, Tracer};
use crate::domain::error::OrchestratorError;
use crate::orchestrator::queue::{Intent, NewFlowRun, Queue, QueuedFlowRun};

/// Queues a run and traces that, as a child of what the run's `trace` says; `called`: when the caller asked for it.
///
/// # Errors
/// Those of [`Queue::create_flow_run`].
pub async fn create_flow_run(
    tracer: &Tracer,
    queue: &dyn Queue,
    mut new: NewFlowRun,
    intent: Arc<Intent>,
    called: Timestamp,
) -> Result<QueuedFlowRun, OrchestratorError> {
    let name = format!("queue {}", new.flow.name);
    let mut span = tracer.start_at(name, Kind::Producer, new.trace, called);
    span.text("captionacc.flow", &new.flow.name);
    span.text("captionacc.work_queue", new.flow.work_queue.as_str());
    if let Some(video_id) = &new.arguments.subject().video_id {
        span.text("captionacc.video_id", video_id);
    }
    new.trace = span.context();
    let queued = queue.create_flow_run(new, intent).await;
    match &queued {
        Ok(queued) => {
            span.text("captionacc.flow_run_id", &queued.flow_run_id.to_string());
            span.flag("captionacc.is_new", queued.created);
        }
        Err(error) => span.fail(error.code()),
    }
    span.end();
    queued
}
