//! Queuing what was queued before.

use std::sync::Arc;

use axum::http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::api::Queued;
use super::app::App;
use crate::annotations::reading::Layout;
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::FlowRun;
use crate::domain::trace::TraceContext;
use crate::orchestrator::queue::NewFlowRun;
use crate::telemetry::create_flow_run;

/// The span of whoever asks, if a header says so, as the W3C has it; a page says nothing.
pub(super) fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    headers.get("traceparent")?.to_str().ok()?.parse().ok()
}

/// Queues a new run with the parameters of `run`; where a layout is given and the flow takes crop bounds, with that layout. `trace`:
/// what its call is part of.
pub(super) async fn queue_again(
    app: &App,
    run: &FlowRun,
    layout: Option<&Layout>,
    trace: Option<TraceContext>,
) -> Result<Queued, OrchestratorError> {
    let called = Timestamp::now();
    let flow = app.settings.flows.get(&run.flow_name)?.clone();
    let mut parameters = run.parameters.0.clone();
    if let Some(layout) = layout {
        with_layout(&mut parameters, layout);
    }
    let arguments = flow.parse_stored(&parameters)?;
    let new = NewFlowRun {
        trace,
        ..NewFlowRun::new(flow, arguments)
    };
    let queued = create_flow_run(&app.tracer, app.queue.as_ref(), new, Arc::default(), called).await?;
    Ok(Queued {
        flow_run_id: queued.flow_run_id,
        flow_name: run.flow_name.clone(),
        video_id: run.video_id.clone(),
    })
}

fn with_layout(parameters: &mut Map<String, Value>, layout: &Layout) {
    for (name, value) in [
        ("crop-bounds", json!(layout.bounds)),
        ("crop-bounds-version", json!(layout.version)),
    ] {
        if let Some(parameter) = parameters.get_mut(name) {
            *parameter = value;
        }
    }
}
