//! Names behind the API's ids, asked for once.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::api::PAGE;
use super::client::PrefectClient;
use super::model::ApiDeployment;
use crate::domain::flow::{FlowDefinition, WorkQueue, flow_meant_by, legacy_names};
use crate::domain::prefect_error::PrefectError;

/// A deployment without a pool that carries this tag is served by workers in runner mode, whatever program it is of.
/// Others have a program of their own that serves them.
pub(super) const SERVED_TAG: &str = "captionacc";
/// How long our deployments are believed to be there: deleted and deployed again, they have other ids.
const OWN_FRESHNESS: Duration = Duration::from_secs(20);
/// How long what is known of those deployments is believed.
const SERVED_FRESHNESS: Duration = Duration::from_mins(1);
/// More are not kept: a workspace has some dozens.
const MAX_KEPT: usize = 10_000;

/// Whether `captionacc deploy` of some machine has made it: it carries the flow and its queue as tags, and no code.
pub(super) fn is_of_this_program(deployment: &ApiDeployment, flow_name: &str) -> bool {
    deployment.entrypoint.is_none()
        && deployment.tags.iter().any(|tag| tag == flow_name)
        && deployment.tags.iter().any(|tag| WorkQueue::parse(tag).is_some())
}

/// What was asked for before.
#[derive(Debug, Default)]
pub(super) struct Names {
    flows: Mutex<HashMap<Uuid, String>>,
    deployments: Mutex<HashMap<Uuid, ApiDeployment>>,
    /// Deployments of ours by their flow.
    own: Mutex<HashMap<String, Uuid>>,
    /// All of them that are there, and since when they are known.
    all_own: Mutex<Option<(Instant, Vec<Uuid>)>>,
    /// Whether a flow has a deployment of its old name, and since when that is known.
    legacy: Mutex<HashMap<&'static str, (Instant, bool)>>,
    /// Deployments that ask for our workers, and since when they are known.
    served: Mutex<Option<(Instant, Vec<Uuid>)>>,
}

/// Our deployments under the old names of these flows.
async fn legacy_deployments(client: &PrefectClient, flow_names: &BTreeSet<String>) -> Result<Vec<Uuid>, PrefectError> {
    let legacy: Vec<&str> = legacy_names()
        .filter(|name| flow_names.contains(flow_meant_by(name)))
        .collect();
    let filter = json!({
        "flows": { "name": { "any_": legacy } },
        "deployments": { "name": { "any_": [client.settings().deployment_name] } },
        "limit": PAGE,
    });
    let found = client.filter_deployments(&filter).await?;
    let is_ours = |deployment: &ApiDeployment| deployment.entrypoint.is_none();
    Ok(found
        .into_iter()
        .filter(is_ours)
        .map(|deployment| deployment.id)
        .collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The flow of ours that a deployment is of, whatever it is called there: `deploy --legacy-names` makes deployments of the old
/// names. One with code of its own is another program's.
pub(super) fn flow_meant<'a>(flow_name: &'a str, deployment: &ApiDeployment) -> &'a str {
    if deployment.entrypoint.is_none() {
        flow_meant_by(flow_name)
    } else {
        flow_name
    }
}

impl Names {
    /// The name of a flow.
    pub(super) async fn flow(&self, client: &PrefectClient, id: Uuid) -> Result<String, PrefectError> {
        if let Some(name) = lock(&self.flows).get(&id) {
            return Ok(name.clone());
        }
        let name = client.read_flow(id).await?.name;
        let mut flows = lock(&self.flows);
        if flows.len() >= MAX_KEPT {
            flows.clear();
        }
        flows.insert(id, name.clone());
        Ok(name)
    }

    /// A deployment.
    pub(super) async fn deployment(&self, client: &PrefectClient, id: Uuid) -> Result<ApiDeployment, PrefectError> {
        if let Some(deployment) = lock(&self.deployments).get(&id) {
            return Ok(deployment.clone());
        }
        let deployment = client.read_deployment(id).await?;
        self.keep(deployment.clone());
        Ok(deployment)
    }

    /// The id of our deployment of a flow.
    pub(super) async fn own_deployment(&self, client: &PrefectClient, flow: &str) -> Result<Uuid, PrefectError> {
        if let Some(id) = lock(&self.own).get(flow) {
            return Ok(*id);
        }
        let name = &client.settings().deployment_name;
        let deployment = client.read_deployment_by_name(flow, name).await?;
        let id = deployment.id;
        lock(&self.flows).insert(deployment.flow_id, flow.to_owned());
        lock(&self.own).insert(flow.to_owned(), id);
        self.keep(deployment);
        Ok(id)
    }

    /// Our deployments of these flows, as of some seconds ago.
    pub(super) async fn own_deployments(
        &self,
        client: &PrefectClient,
        flow_names: &BTreeSet<String>,
    ) -> Result<Vec<Uuid>, PrefectError> {
        let known = lock(&self.all_own).clone();
        if let Some((at, ids)) = known
            && at.elapsed() < OWN_FRESHNESS
        {
            return Ok(ids);
        }
        let filter = json!({
            "flows": { "name": { "any_": flow_names } },
            "deployments": { "name": { "any_": [client.settings().deployment_name] } },
            "limit": PAGE,
        });
        let found = client.filter_deployments(&filter).await?;
        let mut ids: Vec<Uuid> = found.into_iter().map(|deployment| deployment.id).collect();
        ids.extend(legacy_deployments(client, flow_names).await?);
        *lock(&self.all_own) = Some((Instant::now(), ids.clone()));
        Ok(ids)
    }

    /// Deployments without a pool that ask to be served by our workers, as of at most a minute ago.
    pub(super) async fn served_deployments(&self, client: &PrefectClient) -> Result<Vec<Uuid>, PrefectError> {
        let known = lock(&self.served).clone();
        if let Some((at, ids)) = known
            && at.elapsed() < SERVED_FRESHNESS
        {
            return Ok(ids);
        }
        let filter = json!({ "deployments": { "tags": { "all_": [SERVED_TAG] } }, "limit": PAGE });
        let found = client.filter_deployments(&filter).await?;
        let ids: Vec<Uuid> = found
            .into_iter()
            .filter(|deployment| deployment.work_pool_name.is_none())
            .map(|deployment| deployment.id)
            .collect();
        *lock(&self.served) = Some((Instant::now(), ids.clone()));
        Ok(ids)
    }

    /// Whether there is a deployment of this flow under its old name, as of at most some seconds ago.
    pub(super) async fn has_legacy(&self, client: &PrefectClient, flow: &FlowDefinition) -> Result<bool, PrefectError> {
        let Some(legacy) = flow.legacy_name() else {
            return Ok(false);
        };
        let known = lock(&self.legacy).get(legacy).copied();
        if let Some((at, is_there)) = known
            && at.elapsed() < OWN_FRESHNESS
        {
            return Ok(is_there);
        }
        let names = BTreeSet::from([flow.name.clone()]);
        let is_there = !legacy_deployments(client, &names).await?.is_empty();
        lock(&self.legacy).insert(legacy, (Instant::now(), is_there));
        Ok(is_there)
    }

    /// It is gone: it was deleted, or made anew under another id.
    pub(super) fn forget_own(&self, flow: &str) {
        if let Some(id) = lock(&self.own).remove(flow) {
            lock(&self.deployments).remove(&id);
        }
    }

    fn keep(&self, deployment: ApiDeployment) {
        let mut deployments = lock(&self.deployments);
        if deployments.len() >= MAX_KEPT {
            deployments.clear();
        }
        deployments.insert(deployment.id, deployment);
    }
}
