//! The calls of Prefect's API that this program makes, by their names.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::client::{Call, PrefectClient, segment};
use super::limit::whole_seconds;
use super::model::{
    ApiArtifact, ApiDeployment, ApiFlow, ApiFlowRun, ApiLog, ApiOffer, ApiState, ApiTaskRun, ApiWorkPool, ApiWorkQueue,
    ApiWorker, Orchestration, Proposal,
};
use crate::domain::prefect_error::PrefectError;

/// Polls ask for runs of the next moments too: the clocks may differ by so much unnoticed.
const POLL_AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);
/// Most rows that one answer holds.
pub const PAGE: u32 = 200;

impl PrefectClient {
    /// Prefect's version, `3.9.1`; Cloud has none.
    pub async fn read_version(&self) -> Result<String, PrefectError> {
        self.call(Call::get("/admin/version")).await
    }

    /// Registers a flow, or finds it.
    pub async fn create_flow(&self, name: &str) -> Result<ApiFlow, PrefectError> {
        self.call(Call::post("/flows/", &json!({ "name": name }))).await
    }

    /// A flow.
    pub async fn read_flow(&self, id: Uuid) -> Result<ApiFlow, PrefectError> {
        self.call(Call::get(format!("/flows/{id}"))).await
    }

    /// The work pool of that name.
    pub async fn read_work_pool(&self, name: &str) -> Result<ApiWorkPool, PrefectError> {
        let found = self.call(Call::get(format!("/work_pools/{}", segment(name)))).await;
        self.or_missing(found, || format!("work pool {name:?}"), "run captionacc setup")
    }

    /// Makes a work pool. [`PrefectError::Forbidden`]: the plan allows none of that type.
    pub async fn create_work_pool(&self, pool: &Value) -> Result<ApiWorkPool, PrefectError> {
        self.call(Call::post("/work_pools/", pool)).await
    }

    /// Changes a work pool.
    pub async fn update_work_pool(&self, name: &str, changes: &Value) -> Result<(), PrefectError> {
        let found = self
            .answer(Call::patch(format!("/work_pools/{}", segment(name)), changes))
            .await;
        self.or_missing(found, || format!("work pool {name:?}"), "run captionacc setup")
            .map(drop)
    }

    /// The queues of a pool.
    pub async fn read_work_queues(&self, pool: &str) -> Result<Vec<ApiWorkQueue>, PrefectError> {
        self.call(Call::post(
            format!("/work_pools/{}/queues/filter", segment(pool)),
            &json!({}),
        ))
        .await
    }

    /// Makes a queue.
    pub async fn create_work_queue(&self, pool: &str, queue: &Value) -> Result<ApiWorkQueue, PrefectError> {
        self.call(Call::post(format!("/work_pools/{}/queues", segment(pool)), queue))
            .await
    }

    /// Changes a queue.
    pub async fn update_work_queue(&self, pool: &str, queue: &str, changes: &Value) -> Result<(), PrefectError> {
        let path = format!("/work_pools/{}/queues/{}", segment(pool), segment(queue));
        self.answer(Call::patch(path, changes)).await.map(drop)
    }

    /// Workers that report to a pool.
    pub async fn read_workers(&self, pool: &str) -> Result<Vec<ApiWorker>, PrefectError> {
        let path = format!("/work_pools/{}/workers/filter", segment(pool));
        let found = self.call(Call::post(path, &json!({}))).await;
        self.or_missing(found, || format!("work pool {pool:?}"), "run captionacc setup")
    }

    /// Withdraws a worker.
    pub async fn delete_worker(&self, pool: &str, name: &str) -> Result<(), PrefectError> {
        let path = format!("/work_pools/{}/workers/{}", segment(pool), segment(name));
        self.answer(Call::delete(path).patience(Duration::from_secs(2)))
            .await
            .map(drop)
    }

    /// Reports that a worker lives.
    pub async fn worker_heartbeat(&self, pool: &str, name: &str, interval: Duration) -> Result<(), PrefectError> {
        let path = format!("/work_pools/{}/workers/heartbeat", segment(pool));
        let body = json!({ "name": name, "heartbeat_interval_seconds": whole_seconds(interval) });
        let told = self.answer(Call::post(path, &body)).await.map(drop);
        self.or_missing(told, || format!("work pool {pool:?}"), "run captionacc setup")
    }

    /// The deployment `flow/name`.
    pub async fn read_deployment_by_name(&self, flow: &str, name: &str) -> Result<ApiDeployment, PrefectError> {
        let path = format!("/deployments/name/{}/{}", segment(flow), segment(name));
        let found = self.call(Call::get(path)).await;
        self.or_missing(found, || format!("deployment {flow}/{name}"), "run captionacc deploy")
    }

    /// A deployment.
    pub async fn read_deployment(&self, id: Uuid) -> Result<ApiDeployment, PrefectError> {
        self.call(Call::get(format!("/deployments/{id}"))).await
    }

    /// Deployments that match a filter.
    pub async fn filter_deployments(&self, filter: &Value) -> Result<Vec<ApiDeployment>, PrefectError> {
        self.call(Call::post("/deployments/filter", filter)).await
    }

    /// Registers a deployment, or replaces it; whether it was new.
    pub async fn create_deployment(&self, deployment: &Value) -> Result<(ApiDeployment, bool), PrefectError> {
        let call = Call::post("/deployments/", deployment);
        let answer = self.answer(call).await?;
        Ok((self.parse("POST /deployments/", answer.body)?, answer.is_created))
    }

    /// Queues a run of a deployment; whether it is new, or an older one with the same idempotency key, which `run`
    /// must have.
    pub async fn create_flow_run(
        &self,
        deployment: Uuid,
        run: &Value,
        patience: Duration,
    ) -> Result<(ApiFlowRun, bool), PrefectError> {
        debug_assert!(
            run["idempotency_key"].is_string(),
            "repeated without a key, it would be queued twice"
        );
        let path = format!("/deployments/{deployment}/create_flow_run");
        let deadline = Instant::now() + patience;
        // Those before it wait for the same server.
        let Ok(_alone) = tokio::time::timeout(patience, self.one_create()).await else {
            return Err(self.unreachable("no answer in time to the calls before this one".to_owned()));
        };
        let patience = deadline.saturating_duration_since(Instant::now());
        let answer = self.answer(Call::post(path.clone(), run).patience(patience)).await?;
        Ok((self.parse(&path, answer.body)?, answer.is_created))
    }

    /// A run.
    pub async fn read_flow_run(&self, id: Uuid) -> Result<ApiFlowRun, PrefectError> {
        self.call(Call::get(format!("/flow_runs/{id}"))).await
    }

    /// Runs that match a filter, at most [`PAGE`].
    pub async fn filter_flow_runs(&self, filter: &Value) -> Result<Vec<ApiFlowRun>, PrefectError> {
        self.call(Call::post("/flow_runs/filter", filter)).await
    }

    /// How many runs match a filter.
    pub async fn count_flow_runs(&self, filter: &Value) -> Result<u32, PrefectError> {
        self.call(Call::post("/flow_runs/count", filter)).await
    }

    /// Changes a run: `infrastructure_pid`, tags.
    pub async fn update_flow_run(&self, id: Uuid, changes: &Value, patience: Duration) -> Result<(), PrefectError> {
        self.answer(Call::patch(format!("/flow_runs/{id}"), changes).patience(patience))
            .await
            .map(drop)
    }

    /// Adds labels to a run.
    pub async fn label_flow_run(
        &self,
        id: Uuid,
        labels: &Map<String, Value>,
        patience: Duration,
    ) -> Result<(), PrefectError> {
        self.answer(Call::patch(format!("/flow_runs/{id}/labels"), labels).patience(patience))
            .await
            .map(drop)
    }

    /// Proposes a state.
    pub async fn set_flow_run_state(
        &self,
        id: Uuid,
        proposal: &Proposal,
        patience: Duration,
    ) -> Result<Orchestration, PrefectError> {
        self.call(Call::post(format!("/flow_runs/{id}/set_state"), proposal).patience(patience))
            .await
    }

    /// States that a run was in, oldest first.
    pub async fn read_flow_run_states(&self, id: Uuid) -> Result<Vec<ApiState>, PrefectError> {
        self.call(Call::get(format!("/flow_run_states/?flow_run_id={id}")))
            .await
    }

    /// Runs of a pool that are due within 5 s, by queue and time, capped by the pool's free slots.
    pub async fn poll_work_pool(&self, pool: &str, limit: u32) -> Result<Vec<ApiOffer>, PrefectError> {
        let path = format!("/work_pools/{}/get_scheduled_flow_runs", segment(pool));
        // Without it, runs of the coming days are offered too.
        let before = self.server_now() + POLL_AHEAD;
        let body = json!({ "work_queue_names": [], "scheduled_before": before, "limit": limit });
        let found = self.call(Call::post(path, &body)).await;
        self.or_missing(found, || format!("work pool {pool:?}"), "run captionacc setup")
    }

    /// Runs of deployments without a pool that are due within 5 s.
    pub async fn poll_deployments(&self, ids: &[Uuid], limit: u32) -> Result<Vec<ApiFlowRun>, PrefectError> {
        let before = self.server_now() + POLL_AHEAD;
        let body = json!({ "deployment_ids": ids, "scheduled_before": before, "limit": limit });
        self.call(Call::post("/deployments/get_scheduled_flow_runs", &body))
            .await
    }

    /// Task runs that match a filter.
    pub async fn filter_task_runs(&self, filter: &Value) -> Result<Vec<ApiTaskRun>, PrefectError> {
        self.call(Call::post("/task_runs/filter", filter)).await
    }

    /// Adds lines to logs. Sent twice, they are there twice.
    pub async fn create_logs(&self, lines: &[ApiLog]) -> Result<(), PrefectError> {
        self.answer(Call::post("/logs/", &lines)).await.map(drop)
    }

    /// Log lines that match a filter.
    pub async fn filter_logs(&self, filter: &Value) -> Result<Vec<ApiLog>, PrefectError> {
        self.call(Call::post("/logs/filter", filter)).await
    }

    /// Makes an artifact.
    pub async fn create_artifact(&self, artifact: &Value) -> Result<ApiArtifact, PrefectError> {
        self.call(Call::post("/artifacts/", artifact).once()).await
    }

    /// Changes an artifact.
    pub async fn update_artifact(&self, id: Uuid, changes: &Value) -> Result<(), PrefectError> {
        self.answer(Call::patch(format!("/artifacts/{id}"), changes))
            .await
            .map(drop)
    }

    /// Artifacts that match a filter.
    pub async fn filter_artifacts(&self, filter: &Value) -> Result<Vec<ApiArtifact>, PrefectError> {
        self.call(Call::post("/artifacts/filter", filter)).await
    }

    /// Emits events. One with a known id counts once.
    pub async fn create_events(&self, events: &[Value]) -> Result<(), PrefectError> {
        self.answer(Call::post("/events", &events)).await.map(drop)
    }

    /// Keeps a slot of a deployment's limit.
    pub async fn renew_concurrency_lease(&self, lease: Uuid, seconds: u32) -> Result<(), PrefectError> {
        let path = format!("/v2/concurrency_limits/leases/{lease}/renew");
        self.answer(Call::post(path, &json!({ "lease_duration": seconds })))
            .await
            .map(drop)
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, call: &str, body: Value) -> Result<T, PrefectError> {
        T::deserialize(body).map_err(|error| PrefectError::Fault {
            address: self.address().to_owned(),
            call: call.to_owned(),
            problem: format!("its answer is not what was asked for: {error}"),
        })
    }

    fn or_missing<T>(
        &self,
        found: Result<T, PrefectError>,
        what: impl FnOnce() -> String,
        hint: &str,
    ) -> Result<T, PrefectError> {
        found.map_err(|error| match error {
            PrefectError::NotFound { .. } => self.missing(what(), hint),
            error => error,
        })
    }
}
