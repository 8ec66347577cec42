//! The server as everybody here sees it: its client, what its ids mean, its pool, and whether it is away.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};
#[cfg(feature = "worker")]
use uuid::Uuid;

#[cfg(feature = "worker")]
use super::client::Call;
use super::client::PrefectClient;
use super::model::ApiWorkPool;
use super::names::Names;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::Flows;
use crate::domain::prefect_error::PrefectError;
use crate::settings::prefect::PrefectSettings;

/// How long what is known of the pool is believed.
const POOL_FRESHNESS: Duration = Duration::from_secs(30);

/// One server and pool.
pub(super) struct Server {
    client: PrefectClient,
    flows: Flows,
    names: Names,
    pool: Mutex<Option<(Instant, ApiWorkPool)>>,
    /// What was complained about last, so that an outage is one line, and how many calls were answered by then.
    complained: Mutex<Option<(&'static str, u64)>>,
}

impl Server {
    pub(super) fn new(client: PrefectClient, flows: Flows) -> Self {
        Self {
            client,
            flows,
            names: Names::default(),
            pool: Mutex::default(),
            complained: Mutex::default(),
        }
    }

    pub(super) const fn client(&self) -> &PrefectClient {
        &self.client
    }

    pub(super) fn settings(&self) -> &PrefectSettings {
        self.client.settings()
    }

    /// The flows that are known here.
    pub(super) const fn flows(&self) -> &Flows {
        &self.flows
    }

    pub(super) const fn names(&self) -> &Names {
        &self.names
    }

    /// The pool as the server has it, at most 30 s old; none in runner mode.
    pub(super) async fn pool(&self) -> Result<Option<ApiWorkPool>, PrefectError> {
        if self.settings().runner_mode {
            return Ok(None);
        }
        let known = self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, pool)) = known
            && at.elapsed() < POOL_FRESHNESS
        {
            return Ok(Some(pool));
        }
        self.refresh_pool().await.map(Some)
    }

    /// The pool as it is now.
    pub(super) async fn refresh_pool(&self) -> Result<ApiWorkPool, PrefectError> {
        let pool = self.client.read_work_pool(&self.settings().work_pool).await?;
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), pool.clone()));
        Ok(pool)
    }

    /// A retry that the server would keep for the process that had the run is offered to every worker.
    #[cfg(feature = "worker")]
    pub(super) async fn offer_to_all(&self, run: Uuid, patience: Duration) -> Result<(), PrefectError> {
        let policy = self
            .client
            .call::<serde_json::Value>(Call::get(format!("/flow_runs/{run}")))
            .await?["empirical_policy"]
            .take();
        let mut policy = policy;
        policy["retry_type"] = serde_json::Value::Null;
        let changes = serde_json::json!({ "empirical_policy": policy });
        self.client.update_flow_run(run, &changes, patience).await
    }

    /// Says once that the server is away, and once that it is back. What went well without asking it anything is no sign of
    /// it. No error of the API ends a worker.
    pub(super) fn note<T, E: Complaint>(&self, outcome: &Result<T, E>) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(_) => {
                if complained
                    .take_if(|(_, answers)| *answers < self.client.answers())
                    .is_some()
                {
                    info!(address = self.client.address(), "Prefect's API answers again.");
                }
            }
            Err(error) => {
                let code = error.code();
                if complained.replace((code, self.client.answers())).map(|(code, _)| code) != Some(code) {
                    warn!(code, "{}", error.line());
                }
            }
        }
    }
}

/// What can be complained about.
pub(super) trait Complaint {
    fn code(&self) -> &'static str;
    fn line(&self) -> String;
}

impl Complaint for OrchestratorError {
    fn code(&self) -> &'static str {
        Self::code(self)
    }
    fn line(&self) -> String {
        self.to_line()
    }
}

impl Complaint for PrefectError {
    fn code(&self) -> &'static str {
        Self::code(self)
    }
    fn line(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use serde_json::Value;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn what_went_well_without_the_api_does_not_say_that_it_answers_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let settings = PrefectSettings::new(&format!("http://{address}/api"), "test").expect("an address");
        let server = Server::new(PrefectClient::new(settings).expect("a client"), Flows::builtin());
        let is_away = || server.complained.lock().expect("whole").is_some();
        let ask = async || server.client.call::<Value>(Call::get("/health")).await;

        drop(listener);
        server.note(&ask().await);
        assert!(is_away());
        // As a delivery of nothing does.
        server.note(&Ok::<(), OrchestratorError>(()));
        assert!(is_away(), "nobody has asked it since");

        let listener = TcpListener::bind(address).expect("the port again");
        let answering = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("a call");
            let _ = connection.read(&mut [0; 4096]).expect("its text");
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ntrue";
            connection.write_all(answer.as_bytes()).expect("answered");
        });
        server.note(&ask().await);
        assert!(!is_away());
        answering.join().expect("it answered");
    }
}
