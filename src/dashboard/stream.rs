//! The stream of what happens, and whether the store answers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::answer::Fault;
use super::app::App;
use super::live::Listener;
use crate::domain::error::OrchestratorError;
use crate::domain::id::FlowRunId;

/// Without news, a sign of life is sent so often: a lost connection is noticed by it, on both sides. A page waits for two of them
/// (`SILENCE_MS` of `live.ts`).
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// An event, because a page does not hear of comments; without an id, which stays that of the last message.
const ALIVE: &[u8] = b"event: alive\ndata:\n\n";
/// A page tries again after so many milliseconds.
const BEGIN: &[u8] = b"retry: 1000\n\n";

/// Whose log is followed, and from which cursor.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamQuery {
    run: Option<String>,
    after: i64,
    /// The id of the last message that the page saw: of one that opens a stream itself, which sets no header.
    last: Option<String>,
}

/// What happens, as server-sent events, from after `Last-Event-ID`.
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let run = match &query.run {
        Some(id) => Some((id.parse::<FlowRunId>().map_err(OrchestratorError::from)?, query.after)),
        None => None,
    };
    let last_seen = headers
        .get(HeaderName::from_static("last-event-id"))
        .and_then(|id| id.to_str().ok())
        .or(query.last.as_deref());
    let listener = app.hub.listen(last_seen, run);
    let messages = futures_util::stream::unfold((listener, true), |(mut listener, is_first)| async move {
        let bytes = if is_first {
            Bytes::from_static(BEGIN)
        } else {
            next(&mut listener).await?
        };
        Some((Ok::<_, std::convert::Infallible>(bytes), (listener, false)))
    });
    Ok(([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(messages)).into_response())
}

async fn next(listener: &mut Listener) -> Option<Bytes> {
    match tokio::time::timeout(SIGN_OF_LIFE, listener.next()).await {
        Ok(message) => message,
        Err(_) => Some(Bytes::from_static(ALIVE)),
    }
}

/// Whether the store answers.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.queue.read_work_pool().await {
        Ok(_) => (StatusCode::OK, "ready\n").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.code())).into_response(),
    }
}
