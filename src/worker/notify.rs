//! Tells the receiver of `notify-url` of every state that a run enters.
//!
//! One worker of a home does it at a time: the one that holds the lock, which the kernel takes from it when it dies. What is
//! still to be told is in the store. It is told one after the other, so that a receiver hears of each run in its order; each at
//! least once, and again with the same id if the answer was lost. While the receiver is away, waits grow up to five minutes; a
//! receiver that does not want to hear of one (a 4xx) is told of the next.

use std::fmt::Write;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use ring::hmac;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::domain::error::OrchestratorError;
use crate::orchestrator::claims::Claims;
use crate::orchestrator::notifications::Notification;
use crate::settings::NotifySettings;

/// How long the receiver may take for one.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked at, whatever the worker's loop hears; also how often another worker asks for the lock.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The wait after the first failure; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait, also if the receiver asks for more.
const MAX_WAIT: Duration = Duration::from_mins(5);
/// How long the worker's end waits for what is still to be told. The next worker tells the rest.
const LAST_TIMEOUT: Duration = Duration::from_secs(3);
const USER_AGENT: &str = concat!("captionacc/", env!("CARGO_PKG_VERSION"));

/// Tells beside the worker's loop.
pub struct Notifier {
    news: Arc<Notify>,
    stopping: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Notifier {
    /// Begins to tell: of all that happens from now on, if this receiver was never told anything.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] if no HTTP client can be made, and those of the store.
    pub async fn begin(orchestrator: Arc<dyn Claims>, settings: NotifySettings) -> Result<Self, OrchestratorError> {
        // Whoever comes first installs it; all install the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TRY_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| OrchestratorError::Config {
                origin: "notify-url".to_owned(),
                problem: format!("no HTTP client can be made: {error}"),
            })?;
        orchestrator.notifications_due(&settings.url).await?;
        let news = Arc::new(Notify::new());
        let (stopping, receiver) = watch::channel(false);
        let teller = Teller {
            orchestrator,
            settings,
            http,
            lock: None,
            complained: false,
        };
        let task = tokio::spawn(teller.run(news.clone(), receiver));
        Ok(Self { news, stopping, task })
    }

    /// Something may have happened.
    pub fn look(&self) {
        self.news.notify_one();
    }

    /// Tells what is left, for some seconds.
    pub async fn finish(mut self) {
        self.stopping.send_replace(true);
        if tokio::time::timeout(LAST_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
            info!("Some notifications were not given yet: the next worker gives them.");
        }
    }
}

struct Teller {
    orchestrator: Arc<dyn Claims>,
    settings: NotifySettings,
    http: Client,
    lock: Option<File>,
    complained: bool,
}

/// What came of telling.
enum Told {
    /// There may be more.
    Some,
    /// Nothing is due, or it cannot be told now.
    Nothing,
}

impl Teller {
    async fn run(mut self, news: Arc<Notify>, mut stopping: watch::Receiver<bool>) {
        loop {
            let told = match self.tell_some().await {
                Ok(told) => told,
                Err(error) => {
                    warn!(
                        code = error.code(),
                        "Notifications can not be read: {}",
                        error.to_line()
                    );
                    Told::Nothing
                }
            };
            if matches!(told, Told::Some) {
                continue;
            }
            if *stopping.borrow() {
                return;
            }
            tokio::select! {
                () = news.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                _ = stopping.changed() => {}
            }
        }
    }

    async fn tell_some(&mut self) -> Result<Told, OrchestratorError> {
        if !self.has_lock() {
            return Ok(Told::Nothing);
        }
        let receiver = self.settings.url.clone();
        let due = self.orchestrator.notifications_due(&receiver).await?;
        if due.dropped > 0 {
            warn!(
                dropped = due.dropped,
                "The receiver of notify-url was away for too long: the oldest notifications were dropped."
            );
        }
        if due.notifications.is_empty() {
            return Ok(Told::Nothing);
        }
        for notification in due.notifications {
            match self.tell(&notification).await {
                Ok(()) => {
                    self.note_that_it_answers();
                    self.orchestrator
                        .notified(&receiver, notification.position, None)
                        .await?;
                }
                Err(Refusal::NotWanted(problem)) => {
                    warn!(
                        flow_run_id = %notification.flow_run_id,
                        state = notification.state.name.as_str(),
                        "The receiver of notify-url does not want a notification, it is dropped: {problem}."
                    );
                    self.orchestrator
                        .notified(&receiver, notification.position, Some(problem))
                        .await?;
                }
                Err(Refusal::NotNow { problem, wait }) => {
                    if !self.complained {
                        self.complained = true;
                        warn!("The receiver of notify-url can not be told; trying again: {problem}.");
                    }
                    let wait = wait.unwrap_or_else(|| backoff(due.failures, fastrand::f64()));
                    self.orchestrator.not_notified(&receiver, problem, wait).await?;
                    return Ok(Told::Nothing);
                }
            }
        }
        Ok(Told::Some)
    }

    fn note_that_it_answers(&mut self) {
        if self.complained {
            self.complained = false;
            info!("The receiver of notify-url answers again.");
        }
    }

    /// Whether this worker is the one that tells.
    fn has_lock(&mut self) -> bool {
        if self.lock.is_none() {
            match try_lock(&self.orchestrator.notifications_lock(&self.settings.url)) {
                Ok(lock) => self.lock = lock,
                Err(error) => warn!(%error, "The lock for notifications can not be taken."),
            }
        }
        self.lock.is_some()
    }

    async fn tell(&self, notification: &Notification) -> Result<(), Refusal> {
        let body = serde_json::to_vec(notification).expect("plain values");
        let mut request = self
            .http
            .post(&self.settings.url)
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", &notification.event_id);
        if let Some(secret) = &self.settings.secret {
            request = request.header("x-captionacc-signature", signature(secret.reveal(), &body));
        }
        let answer = match request.body(body).send().await {
            Ok(answer) => answer,
            Err(error) => {
                // An address may hold a password: causes say enough.
                return Err(Refusal::NotNow {
                    problem: causes(&error.without_url()),
                    wait: None,
                });
            }
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let problem = format!("it answers {status}");
        let is_passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        if status.is_client_error() && !is_passing {
            return Err(Refusal::NotWanted(problem));
        }
        let seconds = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Err(Refusal::NotNow {
            problem,
            wait: seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT)),
        })
    }
}

/// Why something was not told.
enum Refusal {
    /// It is not to be told at all.
    NotWanted(String),
    /// It is to be told later, after this wait if the receiver has said so.
    NotNow { problem: String, wait: Option<Duration> },
}

/// The lock; `None`: another process has it. Its file stays: whoever waits for it looks at one and the same.
fn try_lock(path: &Path) -> std::io::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// `t=SECONDS,v1=HEX`: HMAC-SHA256 of `SECONDS.BODY`, so that a receiver can refuse what is old.
fn signature(secret: &str, body: &[u8]) -> String {
    let seconds = Timestamp::now().as_second();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut signing = hmac::Context::with_key(&key);
    signing.update(format!("{seconds}.").as_bytes());
    signing.update(body);
    let mut text = format!("t={seconds},v1=");
    for byte in signing.sign().as_ref() {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

/// The wait after so many failures and one more; `chance` is in 0..1.
fn backoff(failures: u32, chance: f64) -> Duration {
    FIRST_WAIT
        .saturating_mul(1 << failures.min(16))
        .min(MAX_WAIT)
        .mul_f64(0.8 + 0.4 * chance)
        .min(MAX_WAIT)
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let seconds = |failures| backoff(failures, 0.5).as_secs();
        assert_eq!([0, 1, 2, 5, 30].map(seconds), [1, 2, 4, 32, 300]);
    }
}
