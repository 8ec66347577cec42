//! Runs: lists, one with all that is kept of it, its log, and what may be done with it.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::again::{queue_again, trace_of};
use super::answer::{Fault, problem_of};
use super::api::{
    BulkAction, BulkRequest, BulkResult, LogPage, Queued, RunPage, RunsFilter, RunsPage, TakeOverRequest,
};
use super::app::App;
use crate::domain::asset::LineageOf;
use crate::domain::error::OrchestratorError;
use crate::domain::flow_run::{FlowRun, LogLine};
use crate::domain::id::FlowRunId;
use crate::domain::state::StateType;
use crate::orchestrator::queue::{FlowRunFilter, Queue};

/// Runs in a page, and most of them.
const PAGE: u32 = 50;
const MAX_PAGE: u32 = 500;
/// So many runs are read at once to look for a text, and so many at all before the page asks again.
const TEXT_BATCH: u32 = 500;
const MAX_TEXT_SCAN: u32 = 2_000;
/// Most runs that one request changes.
const MAX_BULK: usize = 500;

/// A filter as the address has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RunsQuery {
    flow: Option<String>,
    video: Option<String>,
    /// Separated by commas.
    state: Option<String>,
    text: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
}

impl RunsQuery {
    fn filter(&self) -> Result<RunsFilter, OrchestratorError> {
        let words = self.state.as_deref().unwrap_or_default().split(',');
        let states = words.filter(|word| !word.is_empty()).map(|word| {
            let found = StateType::ALL
                .into_iter()
                .find(|state| state.as_str().eq_ignore_ascii_case(word));
            found.ok_or_else(|| OrchestratorError::InvalidArgument {
                argument: "state".to_owned(),
                problem: format!("{word:?} is no type of state"),
            })
        });
        Ok(RunsFilter {
            flow: given(self.flow.as_deref()),
            video: given(self.video.as_deref()),
            states: states.collect::<Result<_, _>>()?,
            text: given(self.text.as_deref()),
        })
    }
}

/// A text that is not empty.
fn given(text: Option<&str>) -> Option<String> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A page of the runs that match.
pub(super) async fn list(State(app): State<Arc<App>>, Query(query): Query<RunsQuery>) -> Result<Json<RunsPage>, Fault> {
    let filter = query.filter()?;
    let before = query.before.as_deref().map(parse_id).transpose()?;
    let limit = query.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    Ok(Json(matching(app.queue.as_ref(), &filter, before, limit).await?))
}

/// Up to `limit` runs that match, older than `before`. Where a text is looked for, fewer may come, with the place to go on.
async fn matching(
    queue: &dyn Queue,
    filter: &RunsFilter,
    before: Option<FlowRunId>,
    limit: u32,
) -> Result<RunsPage, OrchestratorError> {
    let text = filter.text.as_ref().map(|text| text.to_lowercase());
    let batch = if text.is_some() { TEXT_BATCH } else { limit };
    let mut page = RunsPage {
        runs: Vec::new(),
        before,
    };
    let mut scanned = 0;
    loop {
        let runs = queue
            .list_flow_runs(FlowRunFilter {
                flow_name: filter.flow.clone(),
                video_id: filter.video.clone(),
                state_types: filter.states.clone(),
                limit: batch,
                before: page.before,
            })
            .await?;
        let is_last = runs.len() < batch as usize;
        scanned += batch;
        for run in runs {
            page.before = Some(run.flow_run_id);
            if text.as_ref().is_none_or(|text| has_text(&run, text)) {
                page.runs.push(run);
                if page.runs.len() == limit as usize {
                    return Ok(page);
                }
            }
        }
        if is_last {
            page.before = None;
            return Ok(page);
        }
        if scanned >= MAX_TEXT_SCAN {
            return Ok(page);
        }
    }
}

fn has_text(run: &FlowRun, text: &str) -> bool {
    let has = |field: &str| field.to_lowercase().contains(text);
    has(&run.flow_run_id.to_string())
        || has(&run.flow_name)
        || run.video_id.as_deref().is_some_and(has)
        || run.state.message.as_deref().is_some_and(has)
        || run.worker_name.as_deref().is_some_and(has)
        || run.parameters.0.values().any(|value| match value.as_str() {
            Some(value) => has(value),
            None => has(&value.to_string()),
        })
}

/// Whether there is something to do with a run of this state.
fn applies(action: BulkAction, state: StateType) -> bool {
    match action {
        BulkAction::Cancel => !state.is_final() && state != StateType::Cancelling,
        BulkAction::Retry => matches!(state, StateType::Failed | StateType::Crashed | StateType::Cancelled),
    }
}

/// Cancels or retries many runs: those that are named, or all that match.
pub(super) async fn bulk(
    State(app): State<Arc<App>>,
    Json(request): Json<BulkRequest>,
) -> Result<Json<BulkResult>, Fault> {
    let queue = app.queue.as_ref();
    let mut result = BulkResult::default();
    let ids = if let Some(mut ids) = request.ids {
        result.has_more = ids.len() > MAX_BULK;
        ids.truncate(MAX_BULK);
        ids
    } else {
        let (ids, has_more) = ids_of(queue, &request.filter, request.action).await?;
        result.has_more = has_more;
        ids
    };
    for id in ids {
        let done = match request.action {
            BulkAction::Cancel => queue.cancel_flow_run(id).await,
            BulkAction::Retry => queue.retry_flow_run(id).await,
        };
        match done {
            Ok(_) => result.done += 1,
            // It has ended, or goes on, since the page was drawn.
            Err(error @ (OrchestratorError::InvalidState { .. } | OrchestratorError::FlowRunNotFound(_))) => {
                result.skipped += 1;
                result.skipped_because.get_or_insert_with(|| error.to_line());
            }
            Err(error) => {
                result.failed += 1;
                result.problem.get_or_insert_with(|| problem_of(&error));
                // Whoever is away is away for the rest as well.
                if error.retryable() {
                    break;
                }
            }
        }
    }
    Ok(Json(result))
}

/// The runs that match and with which there is something to do, and whether there are more of them.
async fn ids_of(
    queue: &dyn Queue,
    filter: &RunsFilter,
    action: BulkAction,
) -> Result<(Vec<FlowRunId>, bool), OrchestratorError> {
    let mut filter = filter.clone();
    let possible: Vec<StateType> = StateType::ALL
        .into_iter()
        .filter(|state| applies(action, *state))
        .collect();
    filter.states.retain(|state| possible.contains(state));
    if filter.states.is_empty() {
        filter.states = possible;
    }
    let mut ids = Vec::new();
    let mut before = None;
    loop {
        let page = matching(queue, &filter, before, MAX_PAGE).await?;
        ids.extend(page.runs.iter().map(|run| run.flow_run_id));
        before = page.before;
        if before.is_none() || ids.len() > MAX_BULK {
            let has_more = ids.len() > MAX_BULK;
            ids.truncate(MAX_BULK);
            return Ok((ids, has_more));
        }
    }
}

fn parse_id(text: &str) -> Result<FlowRunId, OrchestratorError> {
    Ok(text.parse::<FlowRunId>()?)
}

/// A run with all that is kept of it.
pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<RunPage>, Fault> {
    let id = parse_id(&id)?;
    let run = app.queue.read_flow_run_details(id).await?;
    // What a run that goes on has made is not made yet.
    let assets = if run.flow_run.state.state_type == StateType::Completed {
        let lineage = app.queue.read_lineage_of(LineageOf::Runs(vec![id])).await?;
        lineage.assets.into_values().collect()
    } else {
        Vec::new()
    };
    let process = match run.flow_run.pid {
        Some(_) => app.processes.of(&app.queue.read_work_pool().await?, &run.flow_run),
        None => None,
    };
    let prefect_url = app
        .about
        .prefect_ui
        .as_ref()
        .map(|ui| format!("{ui}/runs/flow-run/{id}"));
    Ok(Json(RunPage {
        run,
        assets,
        process,
        prefect_url,
    }))
}

/// From which cursor on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LogQuery {
    after: i64,
}

/// Lines of a run's log.
pub(super) async fn log(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Json<LogPage>, Fault> {
    let (lines, next) = app.queue.read_logs(parse_id(&id)?, query.after).await?;
    Ok(Json(LogPage { lines, next }))
}

/// A run's whole log as a file.
pub(super) async fn log_file(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Fault> {
    let id = parse_id(&id)?;
    // Read once before the answer begins: an unknown run is an answer of its own.
    let first = app.queue.read_logs(id, 0).await?;
    let pages = futures_util::stream::unfold(Some(first), move |page| {
        let app = Arc::clone(&app);
        async move {
            let (lines, cursor) = page?;
            if lines.is_empty() {
                return None;
            }
            let text: String = lines.iter().map(line_text).collect();
            // An answer that breaks off is no whole file: the reader is told by the connection's end.
            match app.queue.read_logs(id, cursor).await {
                Ok(next) => Some((Ok(Bytes::from(text)), Some(next))),
                Err(error) => Some((Err(std::io::Error::other(error.to_line())), None)),
            }
        }
    });
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"flow-run-{id}.log\""),
        ),
    ];
    Ok((headers, Body::from_stream(pages)).into_response())
}

fn line_text(line: &LogLine) -> String {
    format!("{:.3} {:<7} {}\n", line.timestamp, line.level.as_str(), line.message)
}

/// Cancels a run.
pub(super) async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<FlowRun>, Fault> {
    Ok(Json(app.queue.cancel_flow_run(parse_id(&id)?).await?))
}

/// Retries a run. It goes on in its own trace, that of the call which queued it.
pub(super) async fn retry(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<FlowRun>, Fault> {
    Ok(Json(app.queue.retry_flow_run(parse_id(&id)?).await?))
}

/// Gives a run whose worker is silent to another worker.
pub(super) async fn take_over(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Json(request): Json<TakeOverRequest>,
) -> Result<Json<FlowRun>, Fault> {
    Ok(Json(
        app.queue.take_over_flow_run(parse_id(&id)?, request.is_forced).await?,
    ))
}

/// Queues a new run with the parameters of this one.
pub(super) async fn again(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Queued>, Fault> {
    let run = app.queue.read_flow_run(parse_id(&id)?).await?;
    Ok(Json(queue_again(&app, &run, None, trace_of(&headers)).await?))
}
