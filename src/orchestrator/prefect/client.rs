//! A client of Prefect's REST API: one connection pool, retries by what went wrong, errors that say what to do.
//!
//! A call has a patience: how long it may take with all its retries. Within it, what is known to pass (408, 425, 429
//! with its `Retry-After`, 502, 503, lost connections) is tried again, a call that may not be repeated blindly only
//! where the server cannot have acted on it. Bodies are sent whole, with their length, because Cloud takes no other.
//!
//! The self-hosted server closes a connection after 5 idle seconds, and its SQLite answers a share of writes with 503
//! within milliseconds ("database is locked"): idle connections are dropped after 4 s, and a 503 is repeated after some
//! ms rather than seconds.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::error::OrchestratorError;
use crate::domain::prefect_error::PrefectError;
use crate::orchestrator::delivery::CallFault;
use crate::settings::prefect::{Credentials, PrefectSettings};

use super::limit::Limit;
pub use super::segment::segment;
use super::turns::{Hurry, Turns};

/// The version of the REST API that this client speaks (that of Prefect 3.9.1).
pub const API_VERSION: &str = "0.8.4";
/// The version of Prefect that this client was written against.
pub const WRITTEN_AGAINST: &str = "3.9.1";
/// The server reads the client's version from here: without one it takes concurrency leases away.
const USER_AGENT: &str = concat!("prefect/3.9.1 (API 0.8.4) captionacc/", env!("CARGO_PKG_VERSION"));
/// How long one try may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the 5 s after which uvicorn closes an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a refused connection is tried again: a server that is not there will not be there in a moment.
const REFUSED_RETRIES: u32 = 3;
/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// A smaller difference between the clocks can not be told from none.
pub const CLOCK_UNCERTAINTY_MS: i64 = 5000;
/// Longest `Retry-After` that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

/// How long a call may take with its retries, unless the caller says otherwise.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);

/// One call of the API.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    body: Option<Value>,
    patience: Duration,
    is_repeatable: bool,
}

impl Call {
    fn new(method: Method, path: impl Into<String>, body: Option<Value>) -> Self {
        Self {
            method,
            path: path.into(),
            body,
            patience: DEFAULT_PATIENCE,
            is_repeatable: true,
        }
    }

    /// Reads `path`, which is relative to the API's address and begins with a slash.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, None)
    }

    /// Posts `body`.
    pub fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self::new(Method::POST, path, Some(json_of(body)))
    }

    /// Patches with `body`.
    pub fn patch(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self::new(Method::PATCH, path, Some(json_of(body)))
    }

    /// Puts `body`.
    pub fn put(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self::new(Method::PUT, path, Some(json_of(body)))
    }

    /// Deletes.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path, None)
    }

    /// How long it may take with all its retries.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// It would be done twice if it were sent twice: it is repeated only where the server cannot have acted on it.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.is_repeatable = false;
        self
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Whether the server writes into its database for it before it answers. A poll notes that it was made; events are kept later.
    fn writes(&self) -> bool {
        let reads = ["/filter", "/count", "/events"];
        self.method != Method::GET && !reads.iter().any(|end| self.path.ends_with(end))
    }
}

fn json_of(body: &impl Serialize) -> Value {
    serde_json::to_value(body).expect("what this program sends is JSON")
}

/// An answer: whether something was made by the call (201), and its JSON (`null` where there is none).
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status was 201.
    pub is_created: bool,
    /// The body.
    pub body: Value,
}

/// A client; clones share their connections.
#[derive(Debug, Clone)]
pub struct PrefectClient {
    shared: Arc<Shared>,
}

/// See [`PrefectClient::one_create`].
#[derive(Debug)]
pub struct Alone<'a> {
    _create: tokio::sync::MutexGuard<'a, ()>,
    _hurry: Hurry<'a>,
}

#[derive(Debug)]
struct Shared {
    settings: PrefectSettings,
    http: reqwest::Client,
    base: Url,
    /// No call goes out before: the API said so.
    paused_until: Mutex<Option<Instant>>,
    clock_offset_ms: Mutex<Option<i64>>,
    /// Calls that the API has answered well.
    answers: AtomicU64,
    /// Tries that failed, by [`CallFault::ALL`].
    failures: [AtomicU64; CallFault::ALL.len()],
    /// Since when it has not answered at all.
    away_since: Mutex<Option<Timestamp>>,
    csrf: tokio::sync::Mutex<Option<String>>,
    csrf_client: String,
    /// One create at a time: SQLite refuses most of several at once.
    creates: tokio::sync::Mutex<()>,
    /// Writing calls of all processes of a home, one at a time.
    turns: Turns,
    /// How long a run may be silent.
    limit: Limit,
}

/// How one try ended short of an answer.
enum Setback {
    /// Nothing was sent.
    Refused(String),
    /// The connection was lost, or it took too long: the server may have acted.
    Lost(String),
    /// The server said to try again.
    Busy {
        status: StatusCode,
        detail: String,
        after: Option<Duration>,
    },
    /// The CSRF token is missing or stale.
    Csrf,
    /// For good.
    Final(PrefectError),
}

impl PrefectClient {
    /// A client for these settings. Sends nothing.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] for certificates that cannot be read.
    pub fn new(settings: PrefectSettings) -> Result<Self, OrchestratorError> {
        // Fails only where another provider was installed before, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        headers.insert("x-prefect-api-version", HeaderValue::from_static(API_VERSION));
        for (name, value) in &settings.custom_headers {
            if let (Ok(name), Ok(mut value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value.reveal()),
            ) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let config = |problem: String| OrchestratorError::Config {
            origin: settings.reason.clone(),
            problem,
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .tls_danger_accept_invalid_certs(settings.skips_tls_verification);
        if let Some(path) = &settings.ssl_cert_file {
            let read = std::fs::read(path).map_err(|error| error.to_string());
            let certificates = read.and_then(|pem| {
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| "it holds no PEM certificates".to_owned())
            });
            let certificates =
                certificates.map_err(|problem| config(format!("certificates {}: {problem}", path.display())))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder
            .build()
            .map_err(|error| config(format!("no HTTP client can be made: {error}")))?;
        let base = Url::parse(&settings.api_url).map_err(|error| config(format!("PREFECT_API_URL: {error}")))?;
        Ok(Self {
            shared: Arc::new(Shared {
                settings,
                http,
                base,
                paused_until: Mutex::new(None),
                clock_offset_ms: Mutex::new(None),
                answers: AtomicU64::new(0),
                failures: Default::default(),
                away_since: Mutex::new(None),
                csrf: tokio::sync::Mutex::new(None),
                csrf_client: uuid::Uuid::new_v4().to_string(),
                creates: tokio::sync::Mutex::new(()),
                turns: Turns::new(None),
                limit: Limit::default(),
            }),
        })
    }

    /// The same, whose writing calls take turns with those of other processes that share this folder; not on Cloud, which needs none.
    /// For a client that nobody has a clone of yet.
    #[must_use]
    pub fn taking_turns_in(mut self, folder: &Path) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared).filter(|shared| !shared.settings.is_cloud) {
            shared.turns = Turns::new(Some(folder));
        }
        self
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &PrefectSettings {
        &self.shared.settings
    }

    /// How long a run may be silent for everybody: what the server's automation says, as far as it was read; else what is set here.
    pub fn lost_after(&self) -> Duration {
        self.shared.limit.holds(self.shared.settings.lost_after())
    }

    /// A part of the time after which silence is death: what a living worker needs to be heard again, and for how long nobody else
    /// has a run of one that was heard.
    pub fn hearing_time(&self) -> Duration {
        self.lost_after() / 3
    }

    /// How often a worker here says that it and its runs live.
    pub fn pace(&self) -> Duration {
        let settings = &self.shared.settings;
        self.shared.limit.pace(settings.lost_after(), settings.is_cloud)
    }

    /// Whether the server has been asked for its limit.
    pub fn knows_limit(&self) -> bool {
        self.shared.limit.is_known()
    }

    /// What the server's automation says, if it has one.
    pub fn learn_limit(&self, at_server: Option<Duration>) {
        self.shared.limit.learn(at_server);
    }

    /// The API's address, for people.
    pub fn address(&self) -> &str {
        &self.shared.settings.api_url
    }

    /// Now by the server's clock, as far as it is known to differ from ours.
    pub fn server_now(&self) -> Timestamp {
        let offset_ms = self.clock_offset_ms().unwrap_or(0);
        let is_known = offset_ms.abs() > CLOCK_UNCERTAINTY_MS;
        Timestamp::now() + jiff::SignedDuration::from_millis(if is_known { offset_ms } else { 0 })
    }

    /// The server's clock minus ours, in ms, to some seconds: a server that is busy writes an old time into its
    /// answers. `None` before the first answer.
    pub fn clock_offset_ms(&self) -> Option<i64> {
        *self
            .shared
            .clock_offset_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds off other creates of this client until it is dropped, and what other processes of the home tell the server.
    pub async fn one_create(&self) -> Alone<'_> {
        let hurry = self.shared.turns.hurry().await;
        Alone {
            _create: self.shared.creates.lock().await,
            _hurry: hurry,
        }
    }

    /// Makes a call and reads its answer as `T`.
    ///
    /// # Errors
    /// What became of it; an answer that is no `T` is [`PrefectError::Fault`].
    pub async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, PrefectError> {
        let name = call.name();
        let answer = self.answer(call).await?;
        T::deserialize(answer.body)
            .map_err(|error| self.fault(name, format!("its answer is not what was asked for: {error}")))
    }

    /// Makes a call.
    ///
    /// # Errors
    /// What became of it.
    pub async fn answer(&self, call: Call) -> Result<Answer, PrefectError> {
        let started = Instant::now();
        let deadline = started + call.patience;
        let mut refused = 0;
        let mut tries = 0_u32;
        let mut csrf_tries = 0;
        loop {
            self.wait_for_leave(&call, deadline).await?;
            let trying = self.try_once(&call, deadline);
            let outcome = if call.writes() && !self.settings().is_cloud {
                self.shared.turns.within(trying).await
            } else {
                trying.await
            };
            self.keep_count(&outcome);
            let setback = match outcome {
                Ok(answer) => return Ok(answer),
                Err(setback) => setback,
            };
            tries += 1;
            let backoff = backoff(tries);
            let (wait, error) = match setback {
                Setback::Final(error) => return Err(error),
                Setback::Csrf if csrf_tries < 2 => {
                    csrf_tries += 1;
                    self.fetch_csrf(deadline).await?;
                    continue;
                }
                Setback::Csrf => {
                    return Err(self.forbidden(&call, "the CSRF token was refused".to_owned()));
                }
                Setback::Refused(problem) => {
                    refused += 1;
                    let error = self.unreachable(problem);
                    if refused > REFUSED_RETRIES {
                        return Err(error);
                    }
                    (backoff.max(Duration::from_millis(50)), error)
                }
                Setback::Lost(problem) => {
                    let error = self.unreachable(problem);
                    if !call.is_repeatable {
                        return Err(error);
                    }
                    (backoff, error)
                }
                Setback::Busy { status, detail, after } => {
                    let is_certain = matches!(status.as_u16(), 425 | 429 | 503);
                    let error = if status == StatusCode::TOO_MANY_REQUESTS {
                        let wait = after.unwrap_or(Duration::from_secs(2)).min(MAX_RETRY_AFTER);
                        self.pause(wait);
                        PrefectError::RateLimited {
                            address: self.address().to_owned(),
                            retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                        }
                    } else {
                        self.fault(call.name(), format!("{status}: {detail}"))
                    };
                    if !call.is_repeatable && !is_certain {
                        return Err(error);
                    }
                    let backoff = if self.is_locked(status) {
                        backoff_of_locked(tries)
                    } else {
                        backoff
                    };
                    (after.unwrap_or(backoff).min(MAX_RETRY_AFTER), error)
                }
            };
            if Instant::now() + wait >= deadline {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_once(&self, call: &Call, deadline: Instant) -> Result<Answer, Setback> {
        let timeout = deadline.saturating_duration_since(Instant::now()).min(TRY_TIMEOUT);
        let request = self.request(call.method.clone(), &call.path);
        let request = self.with_csrf(request, &call.method).await;
        let request = match &call.body {
            Some(body) => request.json(body),
            // A POST without a body carries its length too.
            None if call.method == Method::POST => request.header(header::CONTENT_LENGTH, "0"),
            None => request,
        };
        let response = request.timeout(timeout).send().await.map_err(|error| setback(&error))?;
        self.note_clock(response.headers());
        let status = response.status();
        let after = retry_after(response.headers());
        let body = read_bounded(response).await;
        if status.is_success() {
            let bytes = body?;
            let body = if bytes.is_empty() {
                Value::Null
            } else {
                // Cut short or garbled by something in between: the same as a lost connection.
                serde_json::from_slice(&bytes).map_err(|_| Setback::Lost("its answer is no JSON".to_owned()))?
            };
            self.shared.answers.fetch_add(1, Ordering::Relaxed);
            return Ok(Answer {
                is_created: status == StatusCode::CREATED,
                body,
            });
        }
        let detail = detail(&body.unwrap_or_default());
        Err(match status.as_u16() {
            408 | 425 | 429 | 500 | 502 | 503 | 504 => Setback::Busy { status, detail, after },
            401 => Setback::Final(self.unauthorized()),
            403 if detail.contains("CSRF token") => Setback::Csrf,
            403 => Setback::Final(self.forbidden(call, detail)),
            404 => Setback::Final(PrefectError::NotFound {
                address: self.address().to_owned(),
                what: call.name(),
                hint: detail,
            }),
            400 if detail.contains("API version") => Setback::Final(PrefectError::Rejected {
                call: call.name(),
                status: status.as_u16(),
                detail: format!("{detail} Update this program: the server no longer takes what it speaks"),
            }),
            _ => Setback::Final(PrefectError::Rejected {
                call: call.name(),
                status: status.as_u16(),
                detail,
            }),
        })
    }

    /// A request with everything that shows who asks.
    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.shared.base.as_str().trim_end_matches('/'));
        let request = self.shared.http.request(method, url);
        match &self.shared.settings.credentials {
            Credentials::None => request,
            Credentials::ApiKey(key) => request.bearer_auth(key.reveal()),
            Credentials::AuthString(text) => {
                let (user, password) = text.reveal().split_once(':').unwrap_or((text.reveal(), ""));
                request.basic_auth(user, Some(password))
            }
        }
    }

    async fn with_csrf(&self, request: reqwest::RequestBuilder, method: &Method) -> reqwest::RequestBuilder {
        if *method == Method::GET {
            return request;
        }
        match self.shared.csrf.lock().await.as_ref() {
            Some(token) => request
                .header("prefect-csrf-token", token)
                .header("prefect-csrf-client", &self.shared.csrf_client),
            None => request,
        }
    }

    /// Asked for only once the server wants one, which spares every other server the question.
    async fn fetch_csrf(&self, deadline: Instant) -> Result<(), PrefectError> {
        let path = format!("/csrf-token?client={}", self.shared.csrf_client);
        let call = Call::get(path);
        let answer = self.try_once(&call, deadline).await.map_err(|setback| match setback {
            Setback::Final(error) => error,
            Setback::Refused(problem) | Setback::Lost(problem) => self.unreachable(problem),
            Setback::Busy { status, detail, .. } => self.fault(call.name(), format!("{status}: {detail}")),
            Setback::Csrf => self.forbidden(&call, "no CSRF token is given out".to_owned()),
        })?;
        *self.shared.csrf.lock().await = answer
            .body
            .get("token")
            .and_then(Value::as_str)
            .filter(|token| HeaderValue::from_str(token).is_ok())
            .map(str::to_owned);
        Ok(())
    }

    async fn wait_for_leave(&self, call: &Call, deadline: Instant) -> Result<(), PrefectError> {
        loop {
            let until = *self.shared.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(until) = until.filter(|until| *until > Instant::now()) else {
                return Ok(());
            };
            if until >= deadline {
                let left = until.saturating_duration_since(Instant::now());
                tracing::debug!(call = call.name(), "Held back by the API's rate limit.");
                return Err(PrefectError::RateLimited {
                    address: self.address().to_owned(),
                    retry_after_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                });
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut paused = self.shared.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |before| before.max(until)));
    }

    fn keep_count(&self, outcome: &Result<Answer, Setback>) {
        let fault = match outcome {
            // The CSRF token is part of a call that goes on.
            Ok(_) | Err(Setback::Csrf) => None,
            Err(Setback::Refused(_)) => Some(CallFault::Unreachable),
            Err(Setback::Lost(_)) => Some(CallFault::Lost),
            Err(Setback::Busy { status, .. }) if *status == StatusCode::TOO_MANY_REQUESTS => {
                Some(CallFault::RateLimited)
            }
            Err(Setback::Busy { .. }) => Some(CallFault::Server),
            Err(Setback::Final(_)) => Some(CallFault::Refused),
        };
        if let Some(fault) = fault {
            self.shared.failures[fault as usize].fetch_add(1, Ordering::Relaxed);
        }
        let mut away_since = self.shared.away_since.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(Setback::Refused(_) | Setback::Lost(_)) => {
                away_since.get_or_insert_with(Timestamp::now);
            }
            // A proxy before a server that is gone answers so.
            Err(Setback::Busy { status, .. }) if matches!(status.as_u16(), 502..=504) && !self.is_locked(*status) => {
                away_since.get_or_insert_with(Timestamp::now);
            }
            _ => *away_since = None,
        }
    }

    /// A server of one's own says so of its SQLite, for a moment.
    fn is_locked(&self, status: StatusCode) -> bool {
        status == StatusCode::SERVICE_UNAVAILABLE && !self.settings().is_cloud
    }

    /// Since when no call of this process was answered; none: the last one was.
    pub(super) fn away_since(&self) -> Option<Timestamp> {
        *self.shared.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries that failed since the start of this process, by kind.
    pub(super) fn failed_calls(&self) -> Vec<(CallFault, u64)> {
        let counts = self.shared.failures.iter().map(|count| count.load(Ordering::Relaxed));
        CallFault::ALL.into_iter().zip(counts).collect()
    }

    /// How many calls the API has answered well.
    pub(super) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// The header is cut to a second and may be old by some more: the greatest of a clock's differences is the nearest.
    fn note_clock(&self, headers: &HeaderMap) {
        let date = headers
            .get(header::DATE)
            .and_then(|date| date.to_str().ok())
            .and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        let Some(date) = date else { return };
        let offset_ms = date.timestamp().as_millisecond() + 500 - Timestamp::now().as_millisecond();
        let mut known = self
            .shared
            .clock_offset_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = match *known {
            Some(before) if (before - offset_ms).abs() <= CLOCK_UNCERTAINTY_MS => Some(before.max(offset_ms)),
            _ => Some(offset_ms),
        };
    }

    pub(super) fn unreachable(&self, problem: String) -> PrefectError {
        PrefectError::Unreachable {
            address: self.address().to_owned(),
            problem,
            origin: self.settings().reason.clone(),
        }
    }

    fn unauthorized(&self) -> PrefectError {
        PrefectError::Unauthorized {
            address: self.address().to_owned(),
            credentials: match self.shared.settings.credentials {
                Credentials::None => "call without credentials",
                Credentials::ApiKey(_) => "API key",
                Credentials::AuthString(_) => "auth string",
            },
        }
    }

    fn forbidden(&self, call: &Call, detail: String) -> PrefectError {
        PrefectError::Forbidden {
            address: self.address().to_owned(),
            call: call.name(),
            detail,
        }
    }

    fn fault(&self, call: String, problem: String) -> PrefectError {
        PrefectError::Fault {
            address: self.address().to_owned(),
            call,
            problem,
        }
    }

    /// [`PrefectError::NotFound`] that says what is missing and what to do.
    pub(super) fn missing(&self, what: String, hint: &str) -> PrefectError {
        PrefectError::NotFound {
            address: self.address().to_owned(),
            what,
            hint: hint.to_owned(),
        }
    }
}

/// Milliseconds at first, seconds in the end.
fn backoff(tries: u32) -> Duration {
    jittered(tries.min(9))
}

/// Where a server of one's own says that it is unavailable, its SQLite is locked: for a moment, and again for whoever
/// comes at another writer's turn. Many short waits get through, few long ones do not.
fn backoff_of_locked(tries: u32) -> Duration {
    jittered(tries.min(6))
}

fn jittered(doublings: u32) -> Duration {
    let base_ms = 5_u64 << doublings;
    Duration::from_millis(fastrand::u64(base_ms / 2..base_ms + base_ms / 2))
}

fn setback(error: &reqwest::Error) -> Setback {
    let is_connect = error.is_connect();
    // The outermost text of reqwest repeats the address; the innermost says what happened.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let problem = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        cause.to_string()
    };
    if is_connect && !error.is_timeout() {
        Setback::Refused(problem)
    } else {
        Setback::Lost(problem)
    }
}

async fn read_bounded(mut response: reqwest::Response) -> Result<Vec<u8>, Setback> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| setback(&error))? {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(Setback::Lost(format!(
                "its answer is longer than {MAX_ANSWER_BYTES} bytes"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What the API says of an error, as one line of bounded length.
fn detail(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |name: &str| match value.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Null) | None => None,
        Some(other) => Some(other.to_string()),
    };
    let mut said = text("detail")
        .or_else(|| text("exception_detail"))
        .or_else(|| text("exception_message"))
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    said.retain(|c| !c.is_control());
    if said.trim().is_empty() {
        return "no reason given".to_owned();
    }
    said.chars().take(500).collect()
}

/// Seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = at.as_millisecond() - Timestamp::now().as_millisecond();
    Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_of_what_the_api_said() {
        assert_eq!(detail(br#"{"detail": "no\nsuch"}"#), "nosuch");
        assert_eq!(
            detail(br#"{"exception_message": "Service Unavailable"}"#),
            "Service Unavailable"
        );
        assert_eq!(detail(b""), "no reason given");
        assert_eq!(detail(&[b'x'; 9000]).len(), 500);
    }
}
