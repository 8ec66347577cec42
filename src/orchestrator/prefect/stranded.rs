//! Runs at the server whose worker is not to be heard, and flows that nobody here knows: what `captionacc doctor` and `captionacc pool`
//! name, and how a person ends or gives on such a run without waiting.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::api::PAGE;
use super::automation;
use super::client::PrefectClient;
use super::introductions;
use super::lost::{held_runs, is_fresh, is_online, is_silent, since, worker_of};
use super::model::{ApiFlowRun, ApiState, ApiWorker};
use super::names::is_of_this_program;
use crate::domain::flow::Flows;
use crate::domain::id::FlowRunId;
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::attention::{Attention, StrandedRun, UnservedFlow};
use crate::orchestrator::queue::WorkerRecord;

/// How long who lives may take to say so once it can: some tries of a worker that was not heard.
const SPEAKS_WITHIN: Duration = Duration::from_secs(6);
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Until when those that live have said so.
pub(super) fn speaks_until() -> Instant {
    Instant::now() + SPEAKS_WITHIN
}

/// The workers of the pool once it holds of them that those are heard who should be, or then. Right after an outage, and after a pool was made
/// anew, everybody is silent until they have spoken.
pub(super) async fn workers_once(
    client: &PrefectClient,
    until: Instant,
    are_heard: impl Fn(&[ApiWorker]) -> bool,
) -> Result<Vec<ApiWorker>, PrefectError> {
    loop {
        let workers = client.read_workers(&client.settings().work_pool).await?;
        if are_heard(&workers) || Instant::now() >= until {
            return Ok(workers);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Who is known to live, here and at the server.
pub(super) struct Roll<'a> {
    client: &'a PrefectClient,
    /// Workers of this machine, alive or not.
    local: &'a [WorkerRecord],
    remote: Vec<ApiWorker>,
    /// Until when who is silent may still speak; from the first of them on.
    heard_until: Option<Instant>,
}

impl<'a> Roll<'a> {
    /// Asks the server.
    pub(super) async fn call(client: &'a PrefectClient, local: &'a [WorkerRecord]) -> Result<Self, PrefectError> {
        automation::learn_limit(client).await?;
        let settings = client.settings();
        let remote = if settings.runner_mode {
            Vec::new()
        } else {
            client.read_workers(&settings.work_pool).await?
        };
        Ok(Self {
            client,
            local,
            remote,
            heard_until: None,
        })
    }

    /// Whether the worker of a run that holds a slot is not to be heard.
    pub(super) async fn is_offline(&mut self, run: &ApiFlowRun) -> Result<bool, PrefectError> {
        if let Some(name) = worker_of(run) {
            let of_that_name = || self.local.iter().filter(|worker| worker.name == name);
            if of_that_name().any(|worker| worker.is_alive) {
                return Ok(false);
            }
            // What died here is known to be dead before the server sees it.
            if of_that_name().next().is_some() {
                return Ok(true);
            }
            if is_fresh(self.client, run) {
                return Ok(false);
            }
            if !self.client.settings().runner_mode {
                return Ok(!self.is_heard(&name).await?);
            }
        }
        is_silent(self.client, run).await
    }

    /// Whether a worker says that it lives, in the time that all of them have for it.
    async fn is_heard(&mut self, name: &str) -> Result<bool, PrefectError> {
        if !is_online(self.client, &self.remote, name) {
            let until = *self.heard_until.get_or_insert_with(speaks_until);
            let is_it_heard = |workers: &[ApiWorker]| is_online(self.client, workers, name);
            self.remote = workers_once(self.client, until, is_it_heard).await?;
        }
        Ok(is_online(self.client, &self.remote, name))
    }

    /// Who runs which flows. In runner mode a server knows no workers.
    async fn repertoire(&self) -> Result<Repertoire, PrefectError> {
        let here = self
            .local
            .iter()
            .filter(|worker| worker.is_alive)
            .map(|worker| &worker.name);
        let elsewhere = self.remote.iter().map(|worker| &worker.name);
        let online: HashSet<&String> = here
            .chain(elsewhere.filter(|name| is_online(self.client, &self.remote, name)))
            .collect();
        let mut repertoire = Repertoire {
            is_incomplete: online.is_empty(),
            ..Repertoire::default()
        };
        let mut said = introductions::read(self.client).await?;
        for name in online {
            match said.remove(name) {
                Some(introduction) => repertoire.flows.extend(introduction.flows),
                None => repertoire.is_incomplete = true,
            }
        }
        Ok(repertoire)
    }
}

/// The flows that workers run which are online.
#[derive(Default)]
struct Repertoire {
    flows: HashSet<String>,
    /// Nobody is online, or somebody has not said which flows it runs.
    is_incomplete: bool,
}

/// What waits for a person.
pub(super) async fn attention(
    client: &PrefectClient,
    flows: &Flows,
    local: &[WorkerRecord],
) -> Result<Attention, PrefectError> {
    let mut roll = Roll::call(client, local).await?;
    let names = flows.iter().map(|flow| flow.name.as_str());
    let mut flow_names: HashMap<Uuid, String> = HashMap::new();
    let mut found = Attention::default();
    for run in held_runs(client, names).await? {
        if roll.is_offline(&run).await? {
            let flow_name = match flow_names.get(&run.flow_id) {
                Some(name) => name.clone(),
                None => client.read_flow(run.flow_id).await?.name,
            };
            flow_names.insert(run.flow_id, flow_name.clone());
            found.stranded.push(StrandedRun {
                flow_run_id: FlowRunId::from_uuid(run.id),
                flow_name,
                video_id: run.video_id().map(str::to_owned),
                state: run.state.as_ref().map_or(StateName::Scheduled, ApiState::state_name),
                since: since(&run),
                worker_name: worker_of(&run),
            });
        }
    }
    found.unserved = unserved(client, flows, &roll).await?;
    let settings = client.settings();
    if !settings.runner_mode {
        let queues = client.read_work_queues(&settings.work_pool).await?;
        found.paused_queues = queues
            .into_iter()
            .filter(|queue| queue.is_paused)
            .map(|queue| queue.name)
            .collect();
    }
    Ok(found)
}

/// Flows of this program with runs that wait, and that no worker which is online runs, as far as is known.
async fn unserved(client: &PrefectClient, flows: &Flows, roll: &Roll<'_>) -> Result<Vec<UnservedFlow>, PrefectError> {
    let settings = client.settings();
    let mut filter = json!({
        "deployments": { "name": { "any_": [settings.deployment_name] } },
        "limit": PAGE,
    });
    if !settings.runner_mode {
        filter["work_pools"] = json!({ "name": { "any_": [settings.work_pool] } });
    }
    let mut deployments = client.filter_deployments(&filter).await?;
    // Those of the program itself are everybody's.
    let builtin = Flows::builtin();
    deployments.retain(|deployment| deployment.tags.first().is_none_or(|tag| builtin.get(tag).is_err()));
    if deployments.is_empty() {
        return Ok(Vec::new());
    }
    let repertoire = roll.repertoire().await?;
    let mut found = Vec::new();
    for deployment in deployments {
        let flow_name = client.read_flow(deployment.flow_id).await?.name;
        if builtin.get(&flow_name).is_ok()
            || repertoire.flows.contains(&flow_name)
            || !is_of_this_program(&deployment, &flow_name)
        {
            continue;
        }
        let may_be_known = repertoire.is_incomplete;
        if may_be_known && flows.get(&flow_name).is_ok() {
            continue;
        }
        let waiting = json!({
            "flow_runs": {
                "deployment_id": { "any_": [deployment.id] },
                "state": { "type": { "any_": [StateType::Scheduled] } },
                "next_scheduled_start_time": { "before_": client.server_now() },
            },
        });
        let waiting = client.count_flow_runs(&waiting).await?;
        if waiting > 0 {
            found.push(UnservedFlow {
                flow_name,
                waiting,
                may_be_known,
            });
        }
    }
    Ok(found)
}
