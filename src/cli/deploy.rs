//! `captionacc deploy`: registers the flows with Prefect, and says what that changed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::exit;
use super::failure::Failure;
use super::output::{json_line, plain, print};
use super::runtime::block_on;
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{FlowDefinition, ParameterKind};
use crate::domain::prefect_error::PrefectError;
use crate::orchestrator::prefect::client::{Call, PrefectClient, segment};
use crate::orchestrator::prefect::parameter_schema::parameter_schema;
use crate::settings::prefect::PrefectSettings;
use crate::settings::{OrchestratorChoice, Settings};

/// What Prefect's own worker runs: no path, because a deployment is for every machine.
const EXECUTE: &str = "captionacc execute";

/// What `captionacc deploy --help` ends with.
pub(super) const EXAMPLES: &str = "\
Registers every flow, built in or declared in captionacc.toml, with the Prefect API that is configured. Doing it again
changes nothing. The embedded orchestrator needs no deployments.

Examples:
  captionacc deploy
  captionacc deploy --json
  captionacc deploy --legacy-names
  captionacc deploy --command '/opt/captionacc/bin/captionacc execute'";

/// Options of `captionacc deploy`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// One line of JSON
    #[arg(long)]
    json: bool,
    /// What Prefect's own Python worker runs for a flow run (default: `captionacc execute`, found in its PATH)
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    command: Option<String>,
    /// Also as the Python service that was there before named them: crop-video-frames/production, parameters in snake case
    #[arg(long)]
    legacy_names: bool,
}

/// What became of one deployment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Deployed {
    deployment: String,
    /// `created`, `changed` or `unchanged`.
    outcome: &'static str,
    /// Fields that changed.
    changes: Vec<String>,
    work_pool: Option<String>,
    work_queue: Option<String>,
}

/// Registers the flows.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    let (OrchestratorChoice::Prefect, Some(prefect)) = (settings.orchestrator, settings.prefect.clone()) else {
        return Err(OrchestratorError::Config {
            origin: settings.orchestrator_reason,
            problem: "the embedded orchestrator needs no deployments; for Prefect, run captionacc setup first"
                .to_owned(),
        }
        .into());
    };
    let command = options.command.as_deref().unwrap_or(EXECUTE);
    let client = PrefectClient::new(prefect)?;
    let deployed = block_on(async {
        if !client.settings().runner_mode {
            // A pool that is missing is said once, and before anything was changed.
            client.read_work_pool(&client.settings().work_pool).await.map_err(of)?;
        }
        if client.settings().runner_mode {
            for flow in settings.flows.iter() {
                refuse_while_runs_wait(&client, flow).await?;
            }
        }
        let mut deployed = Vec::new();
        for flow in settings.flows.iter() {
            deployed.push(deploy(&client, flow, wanted(client.settings(), flow, command)).await?);
        }
        let legacy = settings.flows.iter().filter(|_| options.legacy_names);
        for flow in legacy.filter_map(FlowDefinition::as_legacy) {
            let mut wanted = wanted(client.settings(), &flow, command);
            wanted.insert("tags".to_owned(), json!(flow.legacy_tags()));
            // Whatever program it was of, it is of this one from now on.
            for field in ["entrypoint", "path", "pull_steps"] {
                wanted.insert(field.to_owned(), Value::Null);
            }
            deployed.push(deploy(&client, &flow, wanted).await?);
        }
        Ok(deployed)
    })?;
    print(&if options.json {
        json_line(&deployed)
    } else {
        text(client.settings(), &deployed)
    })?;
    Ok(exit::DONE)
}

fn of(error: PrefectError) -> Failure {
    OrchestratorError::from(error).into()
}

async fn deploy(
    client: &PrefectClient,
    flow: &FlowDefinition,
    wanted: Map<String, Value>,
) -> Result<Deployed, Failure> {
    let settings = client.settings();
    let name = &settings.deployment_name;
    let before = match read(client, flow).await {
        Ok(before) => Some(before),
        Err(PrefectError::NotFound { .. }) => None,
        Err(error) => return Err(of(error)),
    };
    let flow_id = client.create_flow(&flow.name).await.map_err(of)?.id;
    let changes: Vec<String> = match &before {
        None => Vec::new(),
        Some(before) => wanted
            .iter()
            // The server keeps a null as an absence where it can.
            .filter(|(field, value)| !is_same(before.get(field.as_str()), value))
            .map(|(field, _)| field.clone())
            .collect(),
    };
    let is_due = before.is_none() || !changes.is_empty();
    let id = before.as_ref().and_then(|before| before.get("id")?.as_str());
    let sent = match id {
        _ if !is_due => Ok(()),
        // Schedules, limits and whatever else people set in Prefect's UI is theirs: only what differs is sent. A pool
        // and a program can only be taken away by registering anew.
        Some(id)
            if !changes
                .iter()
                .any(|field| ["work_pool_name", "entrypoint", "path", "pull_steps"].contains(&field.as_str())) =>
        {
            let patch: Map<String, Value> = wanted
                .into_iter()
                .filter(|(field, _)| changes.contains(field))
                .collect();
            let call = Call::patch(format!("/deployments/{}", segment(id)), &patch);
            client.answer(call).await.map(drop)
        }
        before => {
            let is_to_leave_pool =
                changes.iter().any(|field| field == "work_pool_name") && wanted["work_pool_name"].is_null();
            if let Some(id) = before.filter(|_| is_to_leave_pool) {
                let call = Call::delete(format!("/deployments/{}", segment(id)));
                client.answer(call).await.map_err(of)?;
            }
            let mut body = wanted;
            body.insert("name".to_owned(), json!(name));
            body.insert("flow_id".to_owned(), json!(flow_id));
            client.create_deployment(&Value::Object(body)).await.map(drop)
        }
    };
    if let Err(error) = sent {
        return Err(refused(client, error).await);
    }
    Ok(Deployed {
        deployment: format!("{}/{name}", flow.name),
        outcome: match (&before, is_due) {
            (None, _) => "created",
            (Some(_), true) => "changed",
            (Some(_), false) => "unchanged",
        },
        changes,
        work_pool: (!settings.runner_mode).then(|| settings.work_pool.clone()),
        work_queue: (!settings.runner_mode).then(|| flow.work_queue.as_str().to_owned()),
    })
}

/// Refuses to take a deployment from its pool while runs wait there. The server keeps the pool of one that is registered anew, so that
/// it must be deleted before, and deletes what waits with it.
async fn refuse_while_runs_wait(client: &PrefectClient, flow: &FlowDefinition) -> Result<(), Failure> {
    let before = match read(client, flow).await {
        Ok(before) => before,
        Err(PrefectError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(of(error)),
    };
    if before.get("work_pool_name").is_none_or(Value::is_null) {
        return Ok(());
    }
    let filter = json!({
        "flow_runs": { "deployment_id": { "any_": [before["id"]] }, "state": { "type": { "any_": ["SCHEDULED"] } } },
    });
    match client.count_flow_runs(&filter).await.map_err(of)? {
        0 => Ok(()),
        waiting => Err(OrchestratorError::Config {
            origin: format!("deployment {}/{}", flow.name, client.settings().deployment_name),
            problem: format!(
                "{waiting} of its runs wait in its work pool, and to take it from there it must be made anew, which deletes them: let \
                 a worker of the pool do them, or cancel them, and deploy then"
            ),
        }
        .into()),
    }
}

/// The deployment with every field that the API has.
async fn read(client: &PrefectClient, flow: &FlowDefinition) -> Result<Map<String, Value>, PrefectError> {
    let name = &client.settings().deployment_name;
    let path = format!("/deployments/name/{}/{}", segment(&flow.name), segment(name));
    client.call(Call::get(path)).await
}

/// The deployment as it should be.
fn wanted(settings: &PrefectSettings, flow: &FlowDefinition, command: &str) -> Map<String, Value> {
    let defaults: Map<String, Value> = flow
        .parameters
        .iter()
        // The server would write it into every run, also for workers of an earlier version, which know none such.
        .filter(|parameter| parameter.kind != ParameterKind::OnDamage)
        .filter_map(|parameter| Some((parameter.name.clone(), parameter.default.clone()?)))
        // Found out where the work is done: to the server it is a parameter that may be missing.
        .filter(|(_, default)| !default.is_null())
        .collect();
    let (pool, queue, variables) = if settings.runner_mode {
        (Value::Null, Value::Null, json!({}))
    } else {
        (
            json!(settings.work_pool),
            json!(flow.work_queue.as_str()),
            json!({ "command": command }),
        )
    };
    let fields = json!({
        "description": flow.description,
        "version": env!("CARGO_PKG_VERSION"),
        "tags": [flow.name, flow.work_queue.as_str()],
        "parameters": defaults,
        "parameter_openapi_schema": parameter_schema(flow),
        "enforce_parameter_schema": true,
        "work_pool_name": pool,
        "work_queue_name": queue,
        "job_variables": variables,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => unreachable!("it is written as an object"),
    }
}

/// Whether the server's value says the same: numbers by their value, absence and null alike.
fn is_same(found: Option<&Value>, wanted: &Value) -> bool {
    match (found.unwrap_or(&Value::Null), wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            found.len() == wanted.len() && wanted.iter().all(|(name, value)| is_same(found.get(name), value))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found
                    .iter()
                    .zip(wanted)
                    .all(|(found, wanted)| is_same(Some(found), wanted))
        }
        (Value::Number(found), Value::Number(wanted)) => found.as_f64() == wanted.as_f64(),
        (found, wanted) => found == wanted,
    }
}

/// A refusal that may be the plan's limit says how many deployments there are.
async fn refused(client: &PrefectClient, error: PrefectError) -> Failure {
    let PrefectError::Forbidden { address, call, detail } = error else {
        return of(error);
    };
    let patience = Duration::from_secs(5);
    let count = client
        .call::<u64>(Call::post("/deployments/count", &json!({})).patience(patience))
        .await;
    let used = count.map_or(String::new(), |count| {
        format!(
            " ({count} deployments are registered in this workspace; the free plan of Prefect Cloud allows 5: \
             delete one with `prefect deployment delete`, or choose another plan)"
        )
    });
    of(PrefectError::Forbidden {
        address,
        call,
        detail: format!("{detail}{used}"),
    })
}

fn text(settings: &PrefectSettings, deployed: &[Deployed]) -> String {
    let mut text = format!("Prefect at {}\n", plain(&settings.api_url));
    for one in deployed {
        let place = match (&one.work_pool, &one.work_queue) {
            (Some(pool), Some(queue)) => format!("work pool {pool}, work queue {queue}"),
            _ => "runner mode, no work pool".to_owned(),
        };
        let changes = if one.changes.is_empty() {
            String::new()
        } else {
            format!(": {}", one.changes.join(", "))
        };
        text.push_str(&plain(&format!(
            "  {:9} {} ({place}){changes}",
            one.outcome, one.deployment
        )));
        text.push('\n');
    }
    text.push_str("Next: captionacc worker\n");
    text
}
