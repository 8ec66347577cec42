//! What `captionacc doctor` says of Prefect: everything that a run needs of the API, in the order in which it needs it.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::automation::{self, Found};
use super::client::{CLOCK_UNCERTAINTY_MS, Call, PrefectClient, WRITTEN_AGAINST};
use super::journal_home;
use super::lost::is_online;
use super::model::ApiWorker;
use super::server::Server;
use super::stranded::{attention, speaks_until, workers_once};
use crate::domain::finding::{Findings, counted};
use crate::domain::flow::{Flows, WorkQueue, default_background_limit};
use crate::domain::prefect_error::PrefectError;
use crate::orchestrator::local::check::{NO_WORKER, START_WORKER, check_queue, check_workers, line, read_pool, untold};
use crate::orchestrator::queue::WorkerRecord;
use crate::settings::prefect::{Credentials, PrefectSettings};

/// How long the API may take for the first answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The API and what is there for these flows, and what the machine with this home keeps of it. `background_limit` is what this
/// home's settings say, if they do.
pub async fn check(home: &Path, prefect: &PrefectSettings, flows: &Flows, background_limit: Option<u32>) -> Findings {
    let mut findings = Findings::default();
    let client = match PrefectClient::new(prefect.clone()) {
        Ok(client) => client,
        Err(error) => {
            findings.error("prefect", error.to_line(), "correct that setting");
            return findings;
        }
    };
    let local = known_workers(home, prefect).await;
    let answered = answers(&client, &mut findings).await;
    let is_away = answered.is_err();
    let silent = match answered {
        Ok(()) => at_server(&client, flows, background_limit, &local, &mut findings).await,
        Err(error) => {
            fault(&client, "prefect", &error, &mut findings);
            Vec::new()
        }
    };
    the_journal(home, prefect, is_away, &silent, &mut findings).await;
    findings
}

/// Workers of this machine, alive or not, if any has served this server.
async fn known_workers(home: &Path, prefect: &PrefectSettings) -> Vec<WorkerRecord> {
    let home = journal_home(home, prefect);
    if !home.join("queue.db").exists() {
        return Vec::new();
    }
    read_pool(&home).await.map(|pool| pool.workers).unwrap_or_default()
}

/// What is there at the server, and which workers of this machine live and are not heard.
async fn at_server(
    client: &PrefectClient,
    flows: &Flows,
    background_limit: Option<u32>,
    local: &[WorkerRecord],
    findings: &mut Findings,
) -> Vec<String> {
    clock(client, findings);
    let mut reports = Vec::new();
    let mut is_pool_missing = false;
    if !client.settings().runner_mode {
        match pool_at_server(client, flows, background_limit, local, findings).await {
            Ok(found) => reports = found,
            Err(error) => {
                is_pool_missing = matches!(error, PrefectError::NotFound { .. });
                fault(client, "work pool", &error, findings);
            }
        }
        if let Err(error) = queues_at_server(client, findings).await {
            fault(client, "work queues", &error, findings);
        }
    }
    if let Err(error) = deployments(client, flows, findings).await {
        fault(client, "deployments", &error, findings);
    }
    lost_machines(client, findings).await;
    match attention(client, flows, local).await {
        Ok(found) => {
            for run in &found.stranded {
                findings.warning("flow runs", run.line(), run.remedy());
            }
            for flow in &found.unserved {
                findings.warning("flows", flow.line(), flow.remedy());
            }
        }
        // Said already.
        Err(PrefectError::NotFound { .. }) if is_pool_missing => {}
        Err(error) => fault(client, "flow runs", &error, findings),
    }
    silent_workers(client, local, &reports, findings)
}

/// Who notices that a machine is lost.
async fn lost_machines(client: &PrefectClient, findings: &mut Findings) {
    const CHECK: &str = "lost machines";
    let name = automation::name(client);
    let own_s = automation::silence_s(client);
    let after_s = client.settings().lost_after().as_secs_f64();
    let set_up = client.settings().setup_command();
    match automation::find(client).await {
        Ok(Some(found)) if !found.is_enabled => {
            findings.warning(CHECK, format!("the automation {name:?} is switched off"), set_up);
        }
        Ok(Some(found)) if !found.is_right => findings.warning(
            CHECK,
            format!("the automation {name:?} does not do what captionacc setup made it for"),
            set_up,
        ),
        Ok(Some(Found {
            silence_s: Some(silence_s),
            ..
        })) if silence_s != own_s && client.settings().lost_after.is_some() => findings.warning(
            CHECK,
            format!(
                "automation {name:?}: {silence_s} s without a sign of life, and a run is another worker's; all workers hold to that, and \
                 CAPTIONACC_LOST_AFTER_MS of this machine says {own_s} s"
            ),
            format!(
                "set CAPTIONACC_LOST_AFTER_MS={} ([prefect] lost-after-ms) here as well; or, to make it {own_s} s for all machines: {set_up}",
                silence_s * 1000
            ),
        ),
        Ok(Some(found)) => findings.ok(
            CHECK,
            format!(
                "automation {name:?}: {} s without a sign of life, and a run is another worker's",
                found.silence_s.unwrap_or(own_s)
            ),
        ),
        // The workers do it alone.
        Ok(None) => findings.ok(
            CHECK,
            format!("workers take over runs after {after_s} s of silence; the server has no automation for it ({set_up} makes it)"),
        ),
        Err(_) => findings.ok(
            CHECK,
            format!("workers take over runs after {after_s} s of silence; the server has no automations"),
        ),
    }
}

/// What an error of the API means for whoever set this up.
fn fault(client: &PrefectClient, check: &'static str, error: &PrefectError, findings: &mut Findings) {
    let settings = client.settings();
    let fix = match error {
        PrefectError::Unreachable { .. } if settings.is_cloud => {
            "see that this machine reaches that address; behind a proxy, set HTTPS_PROXY".to_owned()
        }
        PrefectError::Unreachable { .. }
        | PrefectError::NotFound { .. }
        | PrefectError::Rejected { .. }
        | PrefectError::Fault { .. }
            if !settings.is_cloud && !settings.api_url.ends_with("/api") =>
        {
            format!(
                "the address of an API ends with /api: captionacc setup --orchestrator server --api-url {}/api",
                settings.api_url
            )
        }
        PrefectError::Rejected {
            status: 400, detail, ..
        } if detail.contains("API version") => {
            "update this program: the server no longer takes what it speaks".to_owned()
        }
        PrefectError::Unreachable { .. } => format!(
            "start the server (prefect server start), or correct the address: {}",
            settings.setup_command()
        ),
        PrefectError::Unauthorized { .. } if settings.is_cloud => {
            "captionacc setup --orchestrator cloud --api-key-file FILE, with a key that is valid".to_owned()
        }
        PrefectError::Unauthorized { .. } => format!(
            "captionacc setup --orchestrator server --api-url {} --auth-string-file FILE, with the server's user:password",
            settings.api_url
        ),
        PrefectError::Forbidden { .. } => "take a key that may do this, or another plan".to_owned(),
        PrefectError::NotFound { what, .. } if what.starts_with("work pool") => settings.setup_command(),
        PrefectError::NotFound { hint, .. } => hint.clone(),
        PrefectError::RateLimited { .. } => "wait a minute; fewer followers and workers call less often".to_owned(),
        _ => "look into the server's own log".to_owned(),
    };
    findings.error(check, format!("{error} ({})", error.code()), fix);
}

/// Whether the API answers, and takes these credentials; with its version.
async fn answers(client: &PrefectClient, findings: &mut Findings) -> Result<(), PrefectError> {
    let settings = client.settings();
    let started = Instant::now();
    client
        .answer(Call::post("/flows/filter", &json!({ "limit": 1 })).patience(PATIENCE))
        .await?;
    let took_ms = started.elapsed().as_millis();
    let credentials = match settings.credentials {
        Credentials::None => "without credentials",
        Credentials::ApiKey(_) => "takes the API key",
        Credentials::AuthString(_) => "takes the auth string",
    };
    let answered = format!("{} answers within {took_ms} ms, {credentials}", client.address());
    if settings.is_cloud {
        findings.ok("prefect", format!("{answered}; Prefect Cloud"));
        return Ok(());
    }
    let version = client.read_version().await?;
    let answered = format!("{answered}; Prefect {version}, and this program was written against {WRITTEN_AGAINST}");
    match generation(&version) {
        Some((3, minor)) if minor >= generation(WRITTEN_AGAINST).map_or(0, |known| known.1) => {
            findings.ok("prefect", answered);
        }
        Some((3, _)) => findings.warning(
            "prefect",
            answered,
            format!("update the server: pip install 'prefect>={WRITTEN_AGAINST},<4'"),
        ),
        _ => findings.error("prefect", answered, "use a server of Prefect 3"),
    }
    Ok(())
}

/// `3.9.1` is of (3, 9).
fn generation(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Prefect says when a run is due, and this machine when that is.
fn clock(client: &PrefectClient, findings: &mut Findings) {
    let Some(offset_ms) = client.clock_offset_ms() else {
        return;
    };
    let seconds = offset_ms / 1000;
    if offset_ms.abs() > CLOCK_UNCERTAINTY_MS {
        let direction = if offset_ms > 0 { "ahead of" } else { "behind" };
        findings.warning(
            "clock",
            format!(
                "the server's clock is {} s {direction} this machine's: times of states and logs differ by that",
                seconds.abs()
            ),
            "set both by the network: timedatectl set-ntp true",
        );
    } else {
        findings.ok(
            "clock",
            format!(
                "the server's clock is this machine's, to {} s",
                CLOCK_UNCERTAINTY_MS / 1000
            ),
        );
    }
}

/// The pool, and who reports to it.
async fn pool_at_server(
    client: &PrefectClient,
    flows: &Flows,
    background_limit: Option<u32>,
    local: &[WorkerRecord],
    findings: &mut Findings,
) -> Result<Vec<ApiWorker>, PrefectError> {
    const CHECK: &str = "work pool";
    let pool = client.read_work_pool(&client.settings().work_pool).await?;
    let server = Server::new(client.clone(), flows.clone());
    let (active, waiting) = (server.slots_taken().await?, server.waiting().await?);
    let limit = pool
        .concurrency_limit
        .map_or("any number of".to_owned(), |limit| limit.to_string());
    // A server does not know of it: each machine holds its own runs to it.
    let background_limit = background_limit.or_else(|| pool.concurrency_limit.map(default_background_limit));
    let background = background_limit.map_or(String::new(), |limit| {
        format!(" (at most {limit} by background runs of this home)")
    });
    let summary = format!(
        "{}: {active} of {limit} slots taken{background}, {waiting} waiting",
        pool.name
    );
    if pool.pool_type != "process" {
        findings.error(
            CHECK,
            format!("{summary}; its type is {:?}", pool.pool_type),
            format!(
                "a pool of type process is needed: set CAPTIONACC_WORK_POOL to another name, then {}",
                client.settings().setup_command()
            ),
        );
    } else if pool.is_paused {
        findings.warning(CHECK, format!("{summary}, paused"), "captionacc pool resume");
    } else if pool.concurrency_limit.is_none() {
        findings.warning(
            CHECK,
            format!("{summary}: runs are not held back"),
            "captionacc worker --limit 2",
        );
    } else {
        findings.ok(CHECK, summary);
    }
    let are_heard = |workers: &[ApiWorker]| {
        let is_heard = |name: &str| is_online(client, workers, name);
        let mut here = local.iter().filter(|worker| worker.is_alive);
        here.all(|worker| is_heard(&worker.name))
            && (workers.is_empty() || workers.iter().any(|worker| is_heard(&worker.name)))
    };
    let reports = workers_once(client, speaks_until(), are_heard).await?;
    let is_reported = reports
        .iter()
        .any(|report| local.iter().any(|worker| worker.is_alive && worker.name == report.name));
    let online: Vec<String> = reports
        .iter()
        .filter(|worker| is_online(client, &reports, &worker.name))
        .map(|worker| worker.name.clone())
        // What has died here is known here first.
        .filter(|name| {
            let mut known = local.iter().filter(|worker| worker.name == *name).peekable();
            known.peek().is_none() || known.any(|worker| worker.is_alive)
        })
        .collect();
    let alive_here = local.iter().any(|worker| worker.is_alive);
    if online.is_empty() && alive_here && is_reported {
        // `silent_workers` says more.
    } else if online.is_empty() && alive_here {
        findings.warning(
            "worker",
            "a worker of this home is alive, and the server has not heard of it: the pool was made anew, or it cannot reach the server",
            "wait half a minute, then look into the worker's own log",
        );
    } else if online.is_empty() {
        findings.warning("worker", NO_WORKER, START_WORKER);
    } else {
        findings.ok("worker", format!("{} online at the server", online.join(", ")));
    }
    Ok(reports)
}

/// Workers of this machine whose process lives and of which the server no longer hears: they hang, or are cut off.
/// `reports`: who reports to the pool.
fn silent_workers(
    client: &PrefectClient,
    local: &[WorkerRecord],
    reports: &[ApiWorker],
    findings: &mut Findings,
) -> Vec<String> {
    let mut silent = Vec::new();
    for worker in local.iter().filter(|worker| worker.is_alive) {
        let report = reports.iter().find(|report| report.name == worker.name);
        let Some(heard_at) = report.and_then(|report| report.last_heartbeat_time) else {
            continue;
        };
        if is_online(client, reports, &worker.name) {
            continue;
        }
        let silence = client.server_now().duration_since(heard_at);
        findings.warning(
            "worker",
            format!(
                "{} lives, and has not been heard for {} s (pid {}): it hangs, stands still, or cannot reach the server",
                worker.name,
                silence.as_secs(),
                worker.process.pid
            ),
            "look into its log; start it anew if it says nothing: its flow runs go on after it",
        );
        silent.push(worker.name.clone());
    }
    silent
}

async fn queues_at_server(client: &PrefectClient, findings: &mut Findings) -> Result<(), PrefectError> {
    const CHECK: &str = "work queues";
    let pool = &client.settings().work_pool;
    let found = match client.read_work_queues(pool).await {
        // The pool was missed already.
        Err(PrefectError::NotFound { .. }) => return Ok(()),
        found => found?,
    };
    let mut sound = Vec::new();
    for queue in WorkQueue::ALL {
        let name = queue.as_str();
        match found.iter().find(|found| found.name == name) {
            None => findings.error(
                CHECK,
                format!("{pool} has no work queue {name}: its runs are not queued where they should be"),
                client.settings().setup_command(),
            ),
            Some(found) if found.is_paused => findings.warning(
                CHECK,
                format!("work queue {name} is paused: its runs wait"),
                format!("prefect work-queue resume {name} --pool {pool}"),
            ),
            Some(found) if found.priority != Some(u32::from(queue.priority())) => findings.warning(
                CHECK,
                format!(
                    "work queue {name} has priority {}, and {} is wanted",
                    found
                        .priority
                        .map_or("none".to_owned(), |priority| priority.to_string()),
                    queue.priority()
                ),
                client.settings().setup_command(),
            ),
            Some(_) => sound.push(format!("{name} (priority {})", queue.priority())),
        }
    }
    if !sound.is_empty() {
        findings.ok(CHECK, sound.join(", "));
    }
    Ok(())
}

async fn deployments(client: &PrefectClient, flows: &Flows, findings: &mut Findings) -> Result<(), PrefectError> {
    const CHECK: &str = "deployments";
    let name = &client.settings().deployment_name;
    let pool = (!client.settings().runner_mode).then_some(&client.settings().work_pool);
    let mut sound = Vec::new();
    for flow in flows.iter() {
        let shown = format!("{}/{name}", flow.name);
        match client.read_deployment_by_name(&flow.name, name).await {
            Err(PrefectError::NotFound { .. }) => findings.error(
                CHECK,
                format!("{shown} is not registered: its runs cannot be queued"),
                "captionacc deploy",
            ),
            Err(error) => return Err(error),
            Ok(found) if found.work_pool_name.as_ref() != pool => {
                let place = |pool: Option<&String>| {
                    pool.map_or_else(|| "no work pool".to_owned(), |pool| format!("work pool {pool}"))
                };
                findings.error(
                    CHECK,
                    format!(
                        "{shown} belongs to {}, and the worker serves {}",
                        place(found.work_pool_name.as_ref()),
                        place(pool)
                    ),
                    "captionacc deploy",
                );
            }
            Ok(found) if pool.is_some() && found.work_queue_name.as_deref() != Some(flow.work_queue.as_str()) => {
                findings.warning(
                    CHECK,
                    format!(
                        "{shown} queues in {}, and {} is wanted",
                        found.work_queue_name.as_deref().unwrap_or("no work queue"),
                        flow.work_queue.as_str()
                    ),
                    "captionacc deploy",
                );
            }
            Ok(_) => sound.push(shown),
        }
    }
    if !sound.is_empty() {
        let mut summary = sound.join(", ");
        if client.settings().is_cloud {
            // The free plan has room for 5.
            let count: u64 = client.call(Call::post("/deployments/count", &json!({}))).await?;
            write!(summary, "; {count} deployments in this workspace").expect("writing to a String cannot fail");
        }
        findings.ok(CHECK, summary);
    }
    Ok(())
}

/// What this machine keeps of the server's runs, once it does.
async fn the_journal(
    home: &Path,
    prefect: &PrefectSettings,
    is_away: bool,
    silent: &[String],
    findings: &mut Findings,
) {
    let home = journal_home(home, prefect);
    if !home.join("queue.db").exists() {
        findings.ok("queue", "no run of this server was worked on or queued here yet");
        return;
    }
    findings.extend(check_queue(&home).await);
    let untold = untold(&home).await;
    // What is on its way while the server answers is no fault.
    if is_away && untold > 0 {
        findings.warning(
            "outbox",
            format!(
                "{} here for the server to answer: states, log lines, artifacts of this home's runs",
                counted(untold, "message waits", "messages wait")
            ),
            "keep a worker of this home running, and the home: all of it is told as soon as the API answers",
        );
    }
    match read_pool(&home).await {
        Ok(pool) if prefect.runner_mode => {
            if pool.is_paused {
                findings.warning("work pool", "this home's workers are paused", "captionacc pool resume");
            }
            findings.extend(check_workers("worker", &pool.workers));
        }
        Ok(pool) => {
            if !pool.workers.is_empty() && !pool.workers.iter().any(|worker| worker.is_alive) {
                let names: Vec<&str> = pool.workers.iter().map(|worker| worker.name.as_str()).collect();
                findings.warning(
                    "own worker",
                    format!(
                        "{} of this home died, and no other one of it is alive",
                        names.join(", ")
                    ),
                    "captionacc worker; what it had is done by workers of other machines meanwhile, if there are any",
                );
            }
            let heard = |worker: &&WorkerRecord| worker.is_alive && !silent.contains(&worker.name);
            let heard: Vec<WorkerRecord> = pool.workers.iter().filter(heard).cloned().collect();
            if !heard.is_empty() {
                findings.extend(check_workers("own worker", &heard));
            }
        }
        Err(error) => findings.error("queue", line(&error), "do as the message says"),
    }
}
