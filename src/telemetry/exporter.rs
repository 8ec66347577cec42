//! Sends what has ended to a collector: in the background, in batches, by one task.
//!
//! Theory of operation. Spans go into a queue of bounded length; one that finds no room is dropped and counted. The task takes
//! them from there, gathers for a while, and makes one call of a batch. What a collector does not take within some tries is
//! dropped: nothing is kept for one that is away, and nothing waits for it. Both are said once, and that it takes them again.
//! There is no thread of its own: the task lives on the event loop of whoever began it, and makes its HTTP client with the first
//! batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::messages::{self, ExportRequest, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans};
use crate::settings::traces::{Protocol, TraceSettings};

/// Spans that may wait: some megabytes at most.
const QUEUE: usize = 2048;
/// Most spans of one call.
const BATCH: usize = 512;
/// Tries of a call that may succeed later, and the wait after the first of them; it doubles.
const TRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest that a collector's own wish to be left alone is heeded.
const MAX_WAIT: Duration = Duration::from_secs(5);
const USER_AGENT: &str = concat!("captionacc/", env!("CARGO_PKG_VERSION"));

/// Where spans go that have ended. The end of the last handle ends the exporter.
pub(super) struct Outlet {
    mail: mpsc::Sender<Mail>,
    dropped: Arc<AtomicU64>,
    hurry: Arc<Notify>,
}

enum Mail {
    Span(Box<messages::Span>),
    /// Everything before it is to be sent now; who asked hears when that was tried.
    Flush(oneshot::Sender<()>),
}

impl Outlet {
    /// Exports as the settings say, within the runtime that this is called in.
    pub(super) fn open(settings: TraceSettings) -> Self {
        let (mail, inbox) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let hurry = Arc::new(Notify::new());
        let exporter = Exporter {
            settings,
            dropped: dropped.clone(),
            hurry: hurry.clone(),
            http: None,
            is_away: false,
            has_dropped: false,
        };
        tokio::spawn(exporter.run(inbox));
        Self { mail, dropped, hurry }
    }

    /// Takes a span, if there is room.
    pub(super) fn export(&self, span: messages::Span) {
        if self.mail.try_send(Mail::Span(Box::new(span))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends what came until now, for as long as `patience`.
    pub(super) async fn flush(&self, patience: Duration) {
        let (done, is_done) = oneshot::channel();
        // A collector that has just refused a batch, and is to be asked again later, is asked now.
        self.hurry.notify_one();
        let flushing = async {
            if self.mail.send(Mail::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        let _ = tokio::time::timeout(patience, flushing).await;
    }
}

struct Exporter {
    settings: TraceSettings,
    dropped: Arc<AtomicU64>,
    /// Somebody waits for what is sent. What is heard of it when nothing waits for a collector makes one later try early.
    hurry: Arc<Notify>,
    http: Option<reqwest::Client>,
    /// It was said that the collector takes nothing.
    is_away: bool,
    /// It was said that spans found no room.
    has_dropped: bool,
}

/// Why a collector has not taken a batch.
struct Refusal {
    problem: String,
    /// The same may be taken later.
    is_passing: bool,
    /// After so long, if the collector has said so.
    after: Option<Duration>,
}

impl Exporter {
    async fn run(mut self, mut inbox: mpsc::Receiver<Mail>) {
        while let Some(first) = inbox.recv().await {
            let mut spans = Vec::new();
            let mut flushed = Vec::new();
            let until = Instant::now() + self.settings.delay;
            let mut next = Some(first);
            loop {
                match next {
                    Some(Mail::Span(span)) => spans.push(*span),
                    Some(Mail::Flush(done)) => flushed.push(done),
                    None => break,
                }
                if spans.len() == BATCH {
                    break;
                }
                next = if flushed.is_empty() {
                    tokio::time::timeout_at(until, inbox.recv()).await.ok().flatten()
                } else {
                    inbox.try_recv().ok()
                };
                // What has come by the end of the time goes along.
                if next.is_none() && flushed.is_empty() {
                    next = inbox.try_recv().ok();
                }
            }
            if !spans.is_empty() {
                self.send(spans, !flushed.is_empty()).await;
            }
            for done in flushed {
                // Who asked may have lost patience.
                let _ = done.send(());
            }
            self.say_what_was_dropped();
        }
    }

    /// `is_last`: it is waited for, and there is no time for a collector that is busy.
    async fn send(&mut self, spans: Vec<messages::Span>, mut is_last: bool) {
        let number = spans.len();
        let body = self.encode(spans);
        let mut wait = FIRST_WAIT;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_once(body.clone()).await {
                Ok(()) => {
                    if std::mem::take(&mut self.is_away) {
                        info!(url = self.settings.url, "The collector takes traces again.");
                    }
                    return;
                }
                Err(Refusal {
                    problem,
                    is_passing,
                    after,
                }) => {
                    if is_passing && tries < TRIES && !is_last && !self.is_away {
                        tokio::select! {
                            () = tokio::time::sleep(after.unwrap_or(wait).min(MAX_WAIT)) => wait *= 2,
                            () = self.hurry.notified() => is_last = true,
                        }
                        continue;
                    }
                    if !std::mem::replace(&mut self.is_away, true) {
                        warn!(
                            url = self.settings.url,
                            spans = number,
                            "Traces are not taken, and dropped until they are: {problem}."
                        );
                    }
                    return;
                }
            }
        }
    }

    fn say_what_was_dropped(&mut self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 && !std::mem::replace(&mut self.has_dropped, true) {
            warn!(
                dropped,
                "More spans have ended than the collector takes: the newest were dropped."
            );
        }
    }

    fn encode(&self, spans: Vec<messages::Span>) -> Vec<u8> {
        let resource = self.settings.resource.iter();
        let request = ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: resource
                        .map(|(key, value)| KeyValue::new(key, value.as_str().into()))
                        .collect(),
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(Scope {
                        name: "captionacc".to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                    }),
                    spans,
                }],
            }],
        };
        match self.settings.protocol {
            Protocol::Protobuf => request.encode_to_vec(),
            Protocol::Json => serde_json::to_vec(&request).expect("its keys are texts"),
        }
    }

    async fn try_once(&mut self, body: Vec<u8>) -> Result<(), Refusal> {
        let for_good = |problem: String| Refusal {
            problem,
            is_passing: false,
            after: None,
        };
        let http = match &self.http {
            Some(http) => http,
            None => self
                .http
                .insert(client(&self.settings).map_err(|error| for_good(error.to_string()))?),
        };
        let content_type = match self.settings.protocol {
            Protocol::Protobuf => "application/x-protobuf",
            Protocol::Json => "application/json",
        };
        let request = http
            .post(&self.settings.url)
            .header(CONTENT_TYPE, content_type)
            .body(body);
        let response = request.send().await.map_err(|error| Refusal {
            problem: innermost(&error),
            is_passing: true,
            after: None,
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let is_passing = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        let seconds = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|text| text.to_str().ok()?.parse().ok());
        Err(Refusal {
            problem: format!("it answers {status}"),
            is_passing,
            after: seconds.map(Duration::from_secs),
        })
    }
}

fn client(settings: &TraceSettings) -> Result<reqwest::Client, reqwest::Error> {
    // Whoever comes first installs it; all install the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        // Both were tried when the settings were read.
        if let (Ok(name), Ok(mut value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value.reveal()),
        ) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .timeout(settings.timeout)
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

/// The outermost text of reqwest repeats the address; the innermost says what happened.
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
