//! Names behind the API's ids, asked for once.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::api::PAGE;
use super::client::PrefectClient;
use super::model::ApiDeployment;
use crate::domain::flow::WorkQueue;
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
    /// Deployments that ask for our workers, and since when they are known.
    served: Mutex<Option<(Instant, Vec<Uuid>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let ids: Vec<Uuid> = found.into_iter().map(|deployment| deployment.id).collect();
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
