//! The server's event stream: runs that became ready, slots that became free, runs of ours that are to be stopped.
//!
//! A hint only. It is connected anew for ever, a dead connection is found by its silence, and what it may have missed
//! is asked for by the safety polls.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
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
use uuid::Uuid;

use super::hints::Hints;
use super::server::Server;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
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

/// Ends whose event has not come are forgotten beyond so many.
const MAX_EXPECTED_ENDS: usize = 100;

/// Runs whose end this process tells: it needs no event for that.
#[derive(Debug, Default)]
pub(super) struct ExpectedEnds(Mutex<VecDeque<Uuid>>);

impl ExpectedEnds {
    /// An event will tell of the run's end, of which this process knows.
    pub(super) fn expect(&self, id: FlowRunId) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() >= MAX_EXPECTED_ENDS {
            ends.pop_front();
        }
        ends.push_back(id.as_uuid());
    }

    /// Whether this process told of the end itself.
    fn take(&self, resource: &str) -> bool {
        let id: Option<Uuid> = resource
            .strip_prefix("prefect.flow-run.")
            .and_then(|id| id.parse().ok());
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ends.iter().position(|known| Some(*known) == id);
        at.and_then(|at| ends.remove(at)).is_some()
    }
}

/// Hears what happens at the server.
pub(super) struct Listener {
    pub(super) server: Arc<Server>,
    pub(super) hints: Arc<Hints>,
    pub(super) ends: Arc<ExpectedEnds>,
}

/// Connects, listens, and connects again, until it is dropped.
pub(super) async fn run(listener: Listener) {
    let mut wait = Duration::from_millis(500);
    loop {
        let connected = tokio::time::Instant::now();
        match listen(&listener).await {
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

async fn listen(listener: &Listener) -> Result<(), String> {
    let resources = resources(&listener.server).await?;
    let mut stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, connect(&listener.server, &resources))
        .await
        .map_err(|_| "no handshake in time".to_owned())??;
    info!("Listening to the server's events.");
    // What happened before is asked for.
    listener.hints.want_check();
    listener.hints.want_poll();
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
                        if hear(listener, text.as_str()) {
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
                // Made anew since, under other ids.
                if self::resources(&listener.server).await.is_ok_and(|now| now != resources) {
                    return Ok(());
                }
            }
            () = sleep_until(second_look) => {
                second_look = None;
                if listener.hints.take_announced() {
                    listener.hints.want_poll();
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
async fn resources(server: &Server) -> Result<Vec<String>, String> {
    let said = |error: PrefectError| error.to_string();
    if let Some(pool) = server.pool().await.map_err(said)? {
        return Ok(vec![format!("prefect.work-pool.{}", pool.id)]);
    }
    let (client, names) = (server.client(), server.names());
    let flow_names = server.flows().iter().map(|flow| flow.name.clone()).collect();
    let mut ids = names.own_deployments(client, &flow_names).await.map_err(said)?;
    ids.extend(names.served_deployments(client).await.map_err(said)?);
    ids.sort_unstable();
    Ok(ids.iter().map(|id| format!("prefect.deployment.{id}")).collect())
}

type Stream = WebSocketStream<reqwest::Upgraded>;

/// The handshake goes through the same client as every call: its TLS, proxy, headers and credentials.
async fn connect(server: &Server, resources: &[String]) -> Result<Stream, String> {
    let key = generate_key();
    let response = server
        .client()
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
    let token = match &server.settings().credentials {
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
    let now = server.client().server_now();
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
fn hear(listener: &Listener, text: &str) -> bool {
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
            listener.hints.want_check();
            listener.hints.want_look();
            false
        }
        "Scheduled" | "Late" | "AwaitingRetry" | "AwaitingConcurrencySlot" | "Resuming" => {
            listener.hints.announce();
            true
        }
        "Completed" | "Failed" | "Crashed" | "Cancelled" | "TimedOut" if listener.ends.take(&event.resource.id) => {
            false
        }
        // An end: a slot is free, or one of ours was ended from elsewhere.
        end => {
            if end != "Completed" {
                listener.hints.want_look();
            }
            let run = event.resource.id.strip_prefix("prefect.flow-run.");
            if let Some(run) = run.and_then(|id| id.parse().ok()) {
                listener.hints.ended(run);
            }
            listener.hints.want_check();
            listener.hints.want_poll();
            false
        }
    }
}
