//! The server as everybody here sees it: its client, what its ids mean, its pool, and whether it is away.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::{info, warn};
use uuid::Uuid;

use super::api::PAGE;
#[cfg(feature = "worker")]
use super::client::Call;
use super::client::PrefectClient;
use super::model::{ApiDeployment, ApiWorkPool};
use super::names::{Names, SERVED_TAG};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::Flows;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::StateType;
use crate::settings::prefect::PrefectSettings;

/// How long what is known of the pool is believed.
const POOL_FRESHNESS: Duration = Duration::from_secs(30);

/// How long after it was last met a complaint that is no outage is not repeated.
const REMEMBERED: Duration = Duration::from_mins(1);

/// One server and pool.
pub(super) struct Server {
    client: PrefectClient,
    flows: Flows,
    names: Names,
    pool: Mutex<Option<(Instant, ApiWorkPool)>>,
    /// Whether the pool of this id was made anew.
    made_anew: Mutex<Option<(Uuid, bool)>>,
    /// What was complained about last, so that an outage is one line.
    complained: Mutex<Option<Complained>>,
}

impl Server {
    pub(super) fn new(client: PrefectClient, flows: Flows) -> Self {
        Self {
            client,
            flows,
            names: Names::default(),
            pool: Mutex::default(),
            made_anew: Mutex::default(),
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

    /// Whether the pool was deleted, and made anew if it is there: what it had is in no pool, runs that wait in no queue.
    pub(super) async fn is_pool_made_anew(&self) -> Result<bool, PrefectError> {
        let pool = match self.pool().await {
            Ok(Some(pool)) => pool,
            Ok(None) => return Ok(false),
            Err(PrefectError::NotFound { .. }) => return Ok(true),
            Err(error) => return Err(error),
        };
        let known = *self.made_anew.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, is_made_anew)) = known
            && id == pool.id
        {
            return Ok(is_made_anew);
        }
        let filter = json!({
            "deployments": { "name": { "any_": [self.settings().deployment_name] } },
            "limit": PAGE,
        });
        let deployments = self.client.filter_deployments(&filter).await?;
        if deployments.is_empty() {
            return Ok(false);
        }
        let is_older = |deployment: &ApiDeployment| {
            let times = deployment.created.zip(pool.created);
            times.is_some_and(|(deployment, pool)| deployment < pool)
        };
        let is_made_anew = deployments.iter().any(is_older);
        *self.made_anew.lock().unwrap_or_else(PoisonError::into_inner) = Some((pool.id, is_made_anew));
        Ok(is_made_anew)
    }

    /// A filter of the runs that are this place's: those of the pool, whatever their deployments are called, and our own. In runner mode
    /// those of other programs as well that ask for our workers.
    pub(super) async fn its_runs(&self) -> Result<Value, PrefectError> {
        let settings = self.settings();
        if settings.runner_mode {
            return Ok(json!({ "deployments": {
                "operator": "or_",
                "name": { "any_": [settings.deployment_name] },
                "tags": { "all_": [SERVED_TAG] },
            } }));
        }
        let of_pool = json!({ "work_pools": { "name": { "any_": [settings.work_pool] } } });
        if !self.is_pool_made_anew().await? {
            return Ok(of_pool);
        }
        let mut filter = of_pool;
        filter["limit"] = json!(PAGE);
        let in_pool = self.client.filter_deployments(&filter).await?;
        let ids: Vec<Uuid> = in_pool.iter().map(|deployment| deployment.id).collect();
        Ok(json!({ "deployments": {
            "operator": "or_",
            "name": { "any_": [settings.deployment_name] },
            "id": { "any_": ids },
        } }))
    }

    /// How many of its runs hold a slot, on whatever machine.
    pub(super) async fn slots_taken(&self) -> Result<u32, PrefectError> {
        self.count(&[StateType::Pending, StateType::Running, StateType::Cancelling])
            .await
    }

    /// How many of its runs wait.
    #[cfg(feature = "worker")]
    pub(super) async fn waiting(&self) -> Result<u32, PrefectError> {
        self.count(&[StateType::Scheduled]).await
    }

    async fn count(&self, states: &[StateType]) -> Result<u32, PrefectError> {
        let mut filter = self.its_runs().await?;
        filter["flow_runs"] = json!({ "state": { "type": { "any_": states } } });
        self.client.count_flow_runs(&filter).await
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
        let answers = self.client.answers();
        match outcome {
            Ok(_) => {
                let is_over = |before: &mut Complained| {
                    // What an API answers that something is not there says nothing of the next question.
                    before.answers < answers && (before.is_away || before.at.elapsed() >= REMEMBERED)
                };
                if complained.take_if(is_over).is_some_and(|before| before.is_away) {
                    info!(address = self.client.address(), "Prefect's API answers again.");
                }
            }
            Err(error) => {
                let code = error.code();
                let complaint = Complained {
                    code,
                    is_away: error.is_away(),
                    answers,
                    at: Instant::now(),
                };
                if complained.replace(complaint).is_none_or(|before| before.code != code) {
                    warn!(code, "{}", error.line());
                }
            }
        }
    }
}

/// A complaint.
struct Complained {
    code: &'static str,
    /// Whether it is that the API does not answer.
    is_away: bool,
    /// How many calls were answered by then.
    answers: u64,
    at: Instant,
}

/// What can be complained about.
pub(super) trait Complaint {
    fn code(&self) -> &'static str;
    /// Whether the API does not answer, or cannot.
    fn is_away(&self) -> bool;
    fn line(&self) -> String;
}

impl Complaint for OrchestratorError {
    fn code(&self) -> &'static str {
        Self::code(self)
    }
    fn is_away(&self) -> bool {
        matches!(self, Self::Prefect(error) if error.retryable())
    }
    fn line(&self) -> String {
        self.to_line()
    }
}

impl Complaint for PrefectError {
    fn code(&self) -> &'static str {
        Self::code(self)
    }
    fn is_away(&self) -> bool {
        self.retryable()
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
        let is_complained = || server.complained.lock().expect("whole").is_some();
        let ask = async || server.client.call::<Value>(Call::get("/health")).await;

        drop(listener);
        server.note(&ask().await);
        assert!(is_complained());
        // As a delivery of nothing does.
        server.note(&Ok::<(), OrchestratorError>(()));
        assert!(is_complained(), "nobody has asked it since");

        let listener = TcpListener::bind(address).expect("the port again");
        let answering = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut connection, _) = listener.accept().expect("a call");
                let _ = connection.read(&mut [0; 4096]).expect("its text");
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ntrue";
                connection.write_all(answer.as_bytes()).expect("answered");
            }
        });
        server.note(&ask().await);
        assert!(!is_complained());

        // What is missing was answered too, and the next answer is to another question.
        let missing = PrefectError::NotFound {
            address: address.to_string(),
            what: "work pool \"p\"".to_owned(),
            hint: String::new(),
        };
        server.note::<(), _>(&Err(missing));
        server.note(&ask().await);
        assert!(is_complained(), "it would be said again at every look");
        answering.join().expect("it answered twice");
    }
}
