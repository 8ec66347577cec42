//! Names behind the API's ids, asked for once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::client::PrefectClient;
use super::error::PrefectError;
use super::model::ApiDeployment;

/// More are not kept: a workspace has some dozens.
const MAX_KEPT: usize = 10_000;

/// What was asked for before.
#[derive(Debug, Default)]
pub(super) struct Names {
    flows: Mutex<HashMap<Uuid, String>>,
    deployments: Mutex<HashMap<Uuid, ApiDeployment>>,
    /// Deployments of ours by their flow.
    own: Mutex<HashMap<String, Uuid>>,
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
