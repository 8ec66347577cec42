//! The server's event stream: runs that became ready, slots that became free, runs of ours that are to be stopped.
//!
//! A hint only. It is connected anew for ever, a dead connection is found by its silence, and what it may have missed
//! is asked for by the safety polls.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::{debug, info};

use super::Inner;
use crate::settings::prefect::Credentials;

/// How often the other side is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// A connection that says nothing for so long, not even an answer to a ping, is dead.
const SILENCE: Duration = Duration::from_secs(40);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// An event comes out of the transaction that it tells of: the poll right after it may be too early.
const SECOND_LOOK: Duration = Duration::from_millis(150);
/// Events are small.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Connects, listens, and connects again, until it is dropped.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut wait = Duration::from_millis(500);
    loop {
        let connected = tokio::time::Instant::now();
        match listen(&inner).await {
            Ok(()) => debug!("The event stream was closed."),
            Err(problem) => debug!(problem, "The event stream was lost."),
        }
        if connected.elapsed() > SILENCE {
            wait = Duration::from_millis(500);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(30));
    }
}

async fn listen(inner: &Arc<Inner>) -> Result<(), String> {
    let resources = resources(inner).await?;
    let mut stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, connect(inner, &resources))
        .await
        .map_err(|_| "no handshake in time".to_owned())??;
    info!("Listening to the server's events.");
    // What happened before is asked for.
    inner.check_wanted.store(true, Ordering::Relaxed);
    inner.want_poll();
    let mut ping = tokio::time::interval(PING_INTERVAL);
    let mut silent_since = tokio::time::Instant::now();
    let mut second_look: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            message = stream.next() => {
                silent_since = tokio::time::Instant::now();
                match message {
                    None | Some(Ok(Message::Close(_))) => return Ok(()),
                    Some(Err(error)) => return Err(error.to_string()),
                    Some(Ok(Message::Text(text))) => {
                        if hear(inner, text.as_str()) {
                            second_look = Some(tokio::time::Instant::now() + SECOND_LOOK);
                        }
                    }
                    Some(Ok(_)) => {}
                }
            }
            _ = ping.tick() => {
                if silent_since.elapsed() > SILENCE {
                    return Err("no answer to pings".to_owned());
                }
                stream
                    .send(Message::Ping(Vec::new().into()))
                    .await
                    .map_err(|error| error.to_string())?;
            }
            () = sleep_until(second_look) => {
                second_look = None;
                if inner.announced.swap(0, Ordering::Relaxed) > 0 {
                    inner.want_poll();
                }
            }
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The pool, or our deployments where there is none.
async fn resources(inner: &Inner) -> Result<Vec<String>, String> {
    if let Some(pool) = inner.pool().await.map_err(|error| error.to_string())? {
        return Ok(vec![format!("prefect.work-pool.{}", pool.id)]);
    }
    let mut resources = Vec::new();
    for flow in inner.flows.iter() {
        if let Ok(id) = inner.names.own_deployment(&inner.client, &flow.name).await {
            resources.push(format!("prefect.deployment.{id}"));
        }
    }
    // One that asks later is polled for until the next connection.
    let served = inner.names.served_deployments(&inner.client).await;
    let served = served.map_err(|error| error.to_string())?;
    resources.extend(served.iter().map(|id| format!("prefect.deployment.{id}")));
    Ok(resources)
}

type Stream = WebSocketStream<reqwest::Upgraded>;

/// The handshake goes through the same client as every call: its TLS, proxy, headers and credentials.
async fn connect(inner: &Inner, resources: &[String]) -> Result<Stream, String> {
    let key = generate_key();
    let response = inner
        .client
        .request(Method::GET, "/events/out")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_PROTOCOL, "prefect")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .send()
        .await
        .map_err(|error| error.without_url().to_string())?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("it answered {}", response.status()));
    }
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accepted.map(header::HeaderValue::as_bytes) != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err("its handshake is not valid".to_owned());
    }
    let upgraded = response
        .upgrade()
        .await
        .map_err(|error| error.without_url().to_string())?;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let mut stream = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(limits)).await;
    let token = match &inner.settings().credentials {
        Credentials::None => Value::Null,
        Credentials::ApiKey(secret) | Credentials::AuthString(secret) => json!(secret.reveal()),
    };
    say(&mut stream, &json!({ "type": "auth", "token": token })).await?;
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => {
                let answer: Value = serde_json::from_str(text.as_str()).map_err(|error| error.to_string())?;
                if answer["type"] == "auth_success" {
                    break;
                }
                return Err("its credentials were refused".to_owned());
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) | None => return Err("its credentials were refused".to_owned()),
            Some(Err(error)) => return Err(error.to_string()),
        }
    }
    let now = inner.client.server_now();
    let far = now + jiff::SignedDuration::from_hours(24 * 365);
    let filter = json!({
        "type": "filter",
        "backfill": false,
        "filter": {
            "event": { "prefix": ["prefect.flow-run."] },
            "any_resource": { "id": resources },
            "occurred": { "since": now - jiff::SignedDuration::from_mins(1), "until": far },
        },
    });
    say(&mut stream, &filter).await?;
    Ok(stream)
}

async fn say(stream: &mut Stream, message: &Value) -> Result<(), String> {
    stream
        .send(Message::Text(message.to_string().into()))
        .await
        .map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct Heard {
    #[serde(rename = "type")]
    kind: String,
    event: Option<HeardEvent>,
}

#[derive(Deserialize)]
struct HeardEvent {
    event: String,
    resource: HeardResource,
}

#[derive(Deserialize)]
struct HeardResource {
    #[serde(rename = "prefect.resource.id")]
    id: String,
}

/// Takes an event for what it may mean; whether a run may be ready that a poll does not see yet.
fn hear(inner: &Inner, text: &str) -> bool {
    let Ok(Heard {
        kind,
        event: Some(event),
    }) = serde_json::from_str::<Heard>(text)
    else {
        return false;
    };
    if kind != "event" {
        return false;
    }
    match event.event.strip_prefix("prefect.flow-run.").unwrap_or_default() {
        "Pending" | "Running" | "Retrying" | "heartbeat" | "Submitting" | "InfrastructurePending" | "" => false,
        "Cancelling" => {
            inner.check_wanted.store(true, Ordering::Relaxed);
            inner.wake.notify_one();
            false
        }
        "Scheduled" | "Late" | "AwaitingRetry" | "AwaitingConcurrencySlot" | "Resuming" => {
            inner.announced.fetch_add(1, Ordering::Relaxed);
            inner.want_poll();
            true
        }
        "Completed" | "Failed" | "Crashed" | "Cancelled" | "TimedOut" if is_known_end(inner, &event.resource.id) => {
            false
        }
        // An end: a slot is free, or one of ours was ended from elsewhere.
        _ => {
            inner.check_wanted.store(true, Ordering::Relaxed);
            inner.want_poll();
            false
        }
    }
}

/// Whether this process told of the end itself.
fn is_known_end(inner: &Inner, resource: &str) -> bool {
    let mut ended = inner.ended.lock().unwrap_or_else(PoisonError::into_inner);
    let id = resource
        .strip_prefix("prefect.flow-run.")
        .and_then(|id| id.parse().ok());
    let at = ended.iter().position(|known| Some(*known) == id);
    at.and_then(|at| ended.remove(at)).is_some()
}
