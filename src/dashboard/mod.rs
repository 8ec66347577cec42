//! The dashboard: what runs, what ran, what was made of what, and the pictures, in a browser.
//!
//! A server in this process with a JSON API over [`Queue`] and over the reader of annotations.db, and the pages that use it. It
//! is the same over the embedded orchestrator and over Prefect.
//!
//! What holds:
//! - It answers on this machine alone unless told otherwise, and nobody without its token (`guard.rs`).
//! - No path from a request reaches the file system: a video is named by an id that a run has.
//! - A text from a video, a log or a file name is text on a page, never HTML; a picture is a JPEG.
//! - However many pages are open, one reader looks at the store (`live.rs`); when none is, nobody does.
//! - An annotations.db is opened for one short reading at a time, and never written.

mod activity;
mod again;
mod answer;
mod api;
mod app;
pub mod check;
mod counted;
mod find;
mod guard;
mod lineage;
mod live;
mod metrics;
mod pages;
mod pool;
mod processes;
mod runs;
mod server;
mod stream;
mod videos;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tokio::net::TcpListener;

pub use self::app::Examine;
pub use self::server::DEFAULT_ADDRESS;
use api::{About, FlowName};
use app::App;
use check::Noted;
use guard::{Guard, Token};
use live::Hub;

use crate::domain::error::OrchestratorError;
use crate::orchestrator::queue::Queue;
use crate::settings::{OrchestratorChoice, Settings};
use crate::telemetry::Tracer;

/// Fewer letters are no secret.
const MIN_TOKEN_LENGTH: usize = 16;
/// Largest body of a request.
const MAX_BODY_BYTES: usize = 256 << 10;
/// How often the store is looked at while a page is open; a server of Prefect's, and its cloud, which counts, less often.
const EMBEDDED_INTERVAL: Duration = Duration::from_millis(250);
/// While nothing runs there is no progress, and a run that begins is soon enough seen.
const EMBEDDED_IDLE_INTERVAL: Duration = Duration::from_millis(500);
const PREFECT_INTERVAL: Duration = Duration::from_secs(2);
const CLOUD_INTERVAL: Duration = Duration::from_secs(5);

/// How a dashboard is to run.
#[derive(Clone, Default)]
pub struct DashboardOptions {
    /// Where to listen; [`DEFAULT_ADDRESS`], or a free port if that is taken, unless given.
    pub address: Option<SocketAddr>,
    /// Names under which it is known beside its address.
    pub hosts: Vec<String>,
    /// The token; a new one unless given.
    pub token: Option<String>,
    /// Nothing can be changed.
    pub read_only: bool,
}

/// A dashboard that listens and does not answer yet.
pub struct Dashboard {
    listener: TcpListener,
    address: SocketAddr,
    token: Token,
    /// Whether whoever opens it knows the token already.
    has_given_token: bool,
    guard: Arc<Guard>,
    router: Router,
    hub: Arc<Hub>,
    tracer: Tracer,
    /// Gone with it.
    noted: Noted,
}

impl Dashboard {
    /// Listens. `examine` looks at the installation as `captionacc doctor` does.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`] where the address cannot be had, or is one of other machines and there is no token.
    pub async fn open(
        options: DashboardOptions,
        settings: Settings,
        queue: Arc<dyn Queue>,
        examine: Examine,
    ) -> Result<Self, OrchestratorError> {
        let refused = |origin: String, problem: String| OrchestratorError::Config { origin, problem };
        let wanted = options.address.unwrap_or(DEFAULT_ADDRESS);
        if let Some(token) = &options.token
            && token.len() < MIN_TOKEN_LENGTH
        {
            return Err(refused(
                "the dashboard's token".to_owned(),
                format!("it has {} characters: give {MIN_TOKEN_LENGTH} or more", token.len()),
            ));
        }
        if !wanted.ip().is_loopback() && options.token.is_none() {
            return Err(refused(
                format!("--listen {wanted}"),
                "other machines could reach the dashboard: give it a token of yours with --token-file, or listen on 127.0.0.1"
                    .to_owned(),
            ));
        }
        let listener = match server::listen(wanted).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && options.address.is_none() => {
                server::listen(SocketAddr::new(wanted.ip(), 0)).await
            }
            listening => listening,
        };
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|error| {
            refused(
                format!("--listen {wanted}"),
                format!("the address cannot be listened on: {error}; give another, or port 0 for a free one"),
            )
        })?;
        let (interval, idle_interval) = match (settings.orchestrator, &settings.prefect) {
            (OrchestratorChoice::Embedded, _) => (EMBEDDED_INTERVAL, EMBEDDED_IDLE_INTERVAL),
            (OrchestratorChoice::Prefect, Some(prefect)) if prefect.is_cloud => (CLOUD_INTERVAL, CLOUD_INTERVAL),
            (OrchestratorChoice::Prefect, _) => (PREFECT_INTERVAL, PREFECT_INTERVAL),
        };
        let noted = Noted::write(&settings.home, address, options.read_only);
        let about = about(&settings, queue.as_ref(), options.read_only);
        let hub = Hub::new(Arc::clone(&queue), interval, idle_interval);
        let has_given_token = options.token.is_some();
        let token = options.token.map_or_else(Token::generate, Token::given);
        let guard = Arc::new(Guard::new(address, options.hosts, token.clone(), options.read_only));
        let tracer = Tracer::begin_prompt(settings.traces.export.as_ref());
        let app = App::new(queue, settings, Arc::clone(&hub), tracer.clone(), about, examine);
        Ok(Self {
            listener,
            address,
            token,
            has_given_token,
            guard,
            router: router(Arc::new(app)),
            hub,
            tracer,
            noted,
        })
    }

    /// The address to open: with the token, unless that was given and so is known.
    pub fn address(&self) -> String {
        if self.has_given_token {
            format!("http://{}/", self.address)
        } else {
            self.address_with_token()
        }
    }

    /// The address with the token.
    pub fn address_with_token(&self) -> String {
        let token = percent_encoding::utf8_percent_encode(self.token.reveal(), percent_encoding::NON_ALPHANUMERIC);
        format!("http://{}/?token={token}", self.address)
    }

    /// What its spans are sent with: the end of a process flushes it.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Answers for ever.
    pub async fn serve(self) {
        let _noted = self.noted;
        tokio::join!(self.hub.run(), server::serve(self.listener, self.guard, self.router));
    }
}

fn about(settings: &Settings, queue: &dyn Queue, read_only: bool) -> About {
    let prefect = settings
        .prefect
        .as_ref()
        .filter(|_| settings.orchestrator == OrchestratorChoice::Prefect);
    About {
        version: env!("CARGO_PKG_VERSION"),
        orchestrator: queue.description(),
        prefect_ui: prefect.and_then(|prefect| prefect_ui(&prefect.api_url, prefect.is_cloud)),
        read_only,
        takes_over: prefect.is_some(),
        flows: settings
            .flows
            .iter()
            .map(|flow| FlowName {
                name: flow.name.clone(),
                description: flow.description.clone(),
            })
            .collect(),
    }
}

/// Where the UI that belongs to an API is (<https://docs.prefect.io/v3/api-ref/rest-api>).
fn prefect_ui(api_url: &str, is_cloud: bool) -> Option<String> {
    let api_url = api_url.trim_end_matches('/');
    if !is_cloud {
        return api_url.strip_suffix("/api").map(str::to_owned);
    }
    let (account, workspace) = api_url.split_once("/accounts/")?.1.split_once("/workspaces/")?;
    Some(format!(
        "https://app.prefect.cloud/account/{account}/workspace/{workspace}"
    ))
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/app.js", get(pages::script))
        .route("/app.css", get(pages::styles))
        .route("/icon.svg", get(pages::icon))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(stream::ready))
        .route("/metrics", get(metrics::show))
        .route("/api/about", get(pool::about))
        .route("/api/stream", get(stream::stream))
        .route("/api/home", get(pool::home))
        .route("/api/overview", get(pool::overview))
        .route("/api/findings", get(pool::findings))
        .route("/api/activity", get(pool::past))
        .route("/api/pool", post(pool::change))
        .route("/api/runs", get(runs::list).post(runs::bulk))
        .route("/api/runs/{id}", get(runs::show))
        .route("/api/runs/{id}/log", get(runs::log))
        .route("/api/runs/{id}/log.txt", get(runs::log_file))
        .route("/api/runs/{id}/cancel", post(runs::cancel))
        .route("/api/runs/{id}/retry", post(runs::retry))
        .route("/api/runs/{id}/take-over", post(runs::take_over))
        .route("/api/runs/{id}/again", post(runs::again))
        .route("/api/videos", get(videos::list))
        .route("/api/video", get(videos::show))
        .route("/api/video/frames", get(videos::full_frames))
        .route("/api/video/frame.jpg", get(videos::full_frame))
        .route("/api/video/thumbnail.jpg", get(videos::thumbnail))
        .route("/api/video/strip.jpg", get(videos::cropped_frame))
        .route("/api/video/captions", get(videos::captions))
        .route("/api/video/caption.jpg", get(videos::caption_picture))
        .route("/api/video/find", get(videos::find))
        .route("/api/lineage", get(lineage::show))
        .route("/api/lineage/run", post(lineage::run_stale))
        .fallback(get(pages::document))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefects_ui_is_found_from_its_api() {
        for (api, is_cloud, expected) in [
            ("http://127.0.0.1:4200/api", false, Some("http://127.0.0.1:4200")),
            ("http://127.0.0.1:4200/api/", false, Some("http://127.0.0.1:4200")),
            ("http://127.0.0.1:4200", false, None),
            (
                "https://api.prefect.cloud/api/accounts/A/workspaces/W",
                true,
                Some("https://app.prefect.cloud/account/A/workspace/W"),
            ),
        ] {
            assert_eq!(prefect_ui(api, is_cloud).as_deref(), expected, "{api}");
        }
    }
}
