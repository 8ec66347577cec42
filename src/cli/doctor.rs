//! `captionacc doctor`: looks at all that this installation needs, and says of each fault how to repair it.
//!
//! It changes nothing: a queue that is not there yet is not made.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fs::{Access, access, statvfs};
use serde::Serialize;
use serde_json::json;

use super::exit;
use super::failure::Failure;
use super::output::{json_line, plain, print};
use super::runtime::{block_on, working_directory};
use crate::domain::flow::{Runner, WorkQueue};
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::StateType;
use crate::ocr::{OcrModels, PpOcr, Recognizer};
use crate::orchestrator;
use crate::orchestrator::local::{LocalOrchestrator, sqlite_version};
use crate::orchestrator::prefect::client::{CLOCK_UNCERTAINTY_MS, Call, PrefectClient, WRITTEN_AGAINST};
use crate::orchestrator::prefect::journal_home;
use crate::orchestrator::queue::{Queue, WorkPool, WorkerRecord};
use crate::settings::prefect::{Credentials, PrefectSettings};
use crate::settings::{OrchestratorChoice, Settings};
use crate::video::media_description;

/// What `captionacc doctor --help` ends with.
pub(super) const EXAMPLES: &str = "\
It exits with 1 if there is an error; a warning is no error.

Examples:
  captionacc doctor
  captionacc doctor --json | jq -r '.findings[] | select(.level != \"ok\") | .fix'";

/// Options of `captionacc doctor`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// One line of JSON: {"level":…,"findings":[{"check","level","message","fix"}]}
    #[arg(long)]
    json: bool,
}

/// Free space below which a queue is soon in trouble.
const FREE_BYTES_ERROR: u64 = 100 << 20;
/// Free space below which a long video may not fit.
const FREE_BYTES_WARNING: u64 = 2 << 30;
/// How long the API may take for the first answer.
const PATIENCE: Duration = Duration::from_secs(5);
const NO_WORKER: &str = "no worker is alive: flow runs are queued and wait";
const START_WORKER: &str = "captionacc worker (captionacc service prints a unit that keeps one running)";
/// Files that a worker with its children's pipes and databases may have open at once, generously.
const OPEN_FILES: u64 = 256;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    level: Level,
    /// What was found.
    message: String,
    /// What to do about it; none where all is well.
    fix: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// The gravest of the findings.
    level: Level,
    version: &'static str,
    findings: Vec<Finding>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding {
            check,
            level: Level::Ok,
            message: message.into(),
            fix: None,
        });
    }

    fn warning(&mut self, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.fault(Level::Warning, check, message, fix);
    }

    fn error(&mut self, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.fault(Level::Error, check, message, fix);
    }

    fn fault(&mut self, level: Level, check: &'static str, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding {
            check,
            level,
            message: message.into(),
            fix: Some(fix.into()),
        });
    }
}

/// Examines everything, reports, and ends with [`exit::FAILED`] if there is an error.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    let mut findings = Findings::default();
    match Settings::from_environment() {
        Ok(settings) => with_settings(&settings, &mut findings),
        Err(error) => findings.error(
            "configuration",
            error.to_line(),
            "correct that setting: nothing works without valid settings",
        ),
    }
    media(&mut findings);
    findings.ok("sqlite", format!("SQLite {}, linked in", sqlite_version()));
    let report = Report {
        level: findings
            .0
            .iter()
            .map(|finding| finding.level)
            .max()
            .unwrap_or(Level::Ok),
        version: env!("CARGO_PKG_VERSION"),
        findings: findings.0,
    };
    print(&if options.json {
        json_line(&report)
    } else {
        text(&report)
    })?;
    Ok(if report.level == Level::Error {
        exit::FAILED
    } else {
        exit::DONE
    })
}

fn text(report: &Report) -> String {
    const WRITES: &str = "writing to a String cannot fail";
    let mut text = format!("captionacc {}\n", report.version);
    for finding in &report.findings {
        let word = finding.level.as_str();
        let message = plain(&finding.message);
        writeln!(text, "{word:<8} {:<14} {message}", finding.check).expect(WRITES);
        if let Some(fix) = &finding.fix {
            writeln!(text, "{:<23} fix: {}", "", plain(fix)).expect(WRITES);
        }
    }
    text
}

fn with_settings(settings: &Settings, findings: &mut Findings) {
    configuration(settings, findings);
    home(settings, findings);
    the_orchestrator(settings, findings);
    flows(settings, findings);
    ocr(settings, findings);
    space(settings, findings);
    limits(settings, findings);
}

fn configuration(settings: &Settings, findings: &mut Findings) {
    let file = match &settings.config_file {
        Some(path) => format!("settings from {} and the environment", path.display()),
        None => "no captionacc.toml: settings from the environment and defaults".to_owned(),
    };
    findings.ok("configuration", file);
}

/// Whether the queue can be written by this user, and read by nobody else.
fn home(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "home";
    let home = &settings.home;
    let shown = home.display();
    let metadata = match fs::metadata(home) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = existing_ancestor(home);
            if access(&parent, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
                findings.ok(CHECK, format!("{shown} will be made at the first use"));
            } else {
                findings.error(
                    CHECK,
                    format!("{shown} is not there, and cannot be made in {}", parent.display()),
                    "make it for this user, or set CAPTIONACC_HOME to a folder that this user can write",
                );
            }
            return;
        }
        Err(error) => {
            let fix = "give this user access to it, or set CAPTIONACC_HOME to another folder";
            findings.error(CHECK, format!("{shown}: {error}"), fix);
            return;
        }
    };
    if !metadata.is_dir() {
        let fix = "set CAPTIONACC_HOME to a folder";
        findings.error(CHECK, format!("{shown} is not a folder"), fix);
    } else if access(home, Access::WRITE_OK | Access::READ_OK | Access::EXEC_OK).is_err() {
        findings.error(
            CHECK,
            format!("{shown} cannot be written by this user"),
            format!(
                "chown it to this user, or set CAPTIONACC_HOME to another folder ({})",
                owner(&metadata)
            ),
        );
    } else if metadata.permissions().mode() & 0o077 != 0 {
        findings.warning(
            CHECK,
            format!(
                "{shown} has mode {:03o}: other users can look into it",
                metadata.permissions().mode() & 0o777
            ),
            format!("chmod 700 {shown}"),
        );
    } else {
        findings.ok(CHECK, format!("{shown}, for this user alone"));
    }
}

fn owner(metadata: &fs::Metadata) -> String {
    format!(
        "it belongs to user {}, this is user {}",
        metadata.uid(),
        rustix::process::geteuid().as_raw()
    )
}

fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// Which orchestrator, why, and whether it works.
fn the_orchestrator(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "orchestrator";
    let because = &settings.orchestrator_reason;
    match (settings.orchestrator, &settings.prefect) {
        (OrchestratorChoice::Embedded, _) => {
            let queue = settings.home.join("queue.db");
            findings.ok(CHECK, format!("embedded ({}); because: {because}", queue.display()));
            embedded(settings, &queue, findings);
        }
        (OrchestratorChoice::Prefect, Some(prefect)) => {
            let found = if prefect.reason == *because {
                String::new()
            } else {
                format!(", from {}", prefect.reason)
            };
            let mode = if prefect.runner_mode {
                "runner mode, without a work pool"
            } else {
                "with a work pool"
            };
            findings.ok(
                CHECK,
                format!("Prefect ({}{found}), {mode}; because: {because}", prefect.api_url),
            );
            the_prefect_api(settings, prefect, findings);
        }
        (OrchestratorChoice::Prefect, None) => findings.error(
            CHECK,
            format!("Prefect, and no address of its API; because: {because}"),
            "captionacc setup, or set PREFECT_API_URL",
        ),
    }
}

fn embedded(settings: &Settings, queue: &Path, findings: &mut Findings) {
    if !queue.exists() {
        findings.ok(
            "queue",
            format!("{} is not there yet: it is made at the first use", queue.display()),
        );
        return;
    }
    inspect_queue(&settings.home, findings);
    match block_on(async { Ok(orchestrator::open::queue(settings).await?.read_work_pool().await?) }) {
        Ok(pool) => {
            work_pool(&pool, findings);
            workers(&pool.workers, findings);
        }
        Err(failure) => findings.error(
            "work pool",
            failure_line(&failure),
            "do as the message says, or choose another orchestrator: captionacc setup",
        ),
    }
}

/// Everything about Prefect that a run needs, in the order in which a run needs it.
fn the_prefect_api(settings: &Settings, prefect: &PrefectSettings, findings: &mut Findings) {
    let client = match PrefectClient::new(prefect.clone()) {
        Ok(client) => client,
        Err(error) => {
            findings.error("prefect", error.to_line(), "correct that setting");
            return;
        }
    };
    let looked = block_on(async {
        if let Err(error) = answers(&client, findings).await {
            fault(&client, "prefect", &error, findings);
            return Ok(());
        }
        clock(&client, findings);
        if !prefect.runner_mode {
            if let Err(error) = pool_at_server(&client, findings).await {
                fault(&client, "work pool", &error, findings);
            }
            if let Err(error) = queues_at_server(&client, findings).await {
                fault(&client, "work queues", &error, findings);
            }
        }
        if let Err(error) = deployments(&client, settings, findings).await {
            fault(&client, "deployments", &error, findings);
        }
        Ok(())
    });
    if let Err(failure) = looked {
        findings.error("prefect", failure_line(&failure), "do as the message says");
    }
    the_journal(settings, prefect, findings);
}

/// What an error of the API means for whoever set this up.
fn fault(client: &PrefectClient, check: &'static str, error: &PrefectError, findings: &mut Findings) {
    let settings = client.settings();
    let fix = match error {
        PrefectError::Unreachable { .. } if settings.is_cloud => {
            "see that this machine reaches that address; behind a proxy, set HTTPS_PROXY".to_owned()
        }
        PrefectError::Unreachable { .. } if !settings.api_url.ends_with("/api") => format!(
            "the address of an API ends with /api: captionacc setup --orchestrator server --api-url {}/api",
            settings.api_url
        ),
        PrefectError::Unreachable { .. } => format!(
            "start the server (prefect server start), or correct the address, which comes from {}",
            settings.reason
        ),
        PrefectError::Unauthorized { .. } if settings.is_cloud => {
            "captionacc setup --orchestrator cloud --api-key-file FILE, with a key that is valid".to_owned()
        }
        PrefectError::Unauthorized { .. } => format!(
            "captionacc setup --orchestrator server --api-url {} --auth-string-file FILE, with the server's user:password",
            settings.api_url
        ),
        PrefectError::Forbidden { .. } => "take a key that may do this, or another plan".to_owned(),
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

async fn pool_at_server(client: &PrefectClient, findings: &mut Findings) -> Result<(), PrefectError> {
    const CHECK: &str = "work pool";
    let pool = client.read_work_pool(&client.settings().work_pool).await?;
    let count = async |states: &[StateType]| {
        let filter = json!({
            "work_pools": { "name": { "any_": [pool.name] } },
            "flow_runs": { "state": { "type": { "any_": states } } },
        });
        client.count_flow_runs(&filter).await
    };
    let active = count(&[StateType::Pending, StateType::Running, StateType::Cancelling]).await?;
    let waiting = count(&[StateType::Scheduled]).await?;
    let limit = pool
        .concurrency_limit
        .map_or("any number of".to_owned(), |limit| limit.to_string());
    let summary = format!("{}: {active} of {limit} slots taken, {waiting} waiting", pool.name);
    if pool.pool_type != "process" {
        findings.error(
            CHECK,
            format!("{summary}; its type is {:?}", pool.pool_type),
            "set CAPTIONACC_WORK_POOL to another name and run captionacc setup: a pool of type process is needed",
        );
    } else if pool.is_paused {
        findings.warning(CHECK, format!("{summary}, paused"), "captionacc pool resume");
    } else if pool.concurrency_limit.is_none() {
        findings.warning(
            CHECK,
            format!("{summary}: runs are not held back"),
            "captionacc setup --limit 2, or captionacc worker --limit 2",
        );
    } else {
        findings.ok(CHECK, summary);
    }
    let online: Vec<String> = client
        .read_workers(&pool.name)
        .await?
        .into_iter()
        .filter(|worker| worker.status.as_deref() == Some("ONLINE"))
        .map(|worker| worker.name)
        .collect();
    if online.is_empty() {
        findings.warning("worker", NO_WORKER, START_WORKER);
    } else {
        findings.ok("worker", format!("{} online at the server", online.join(", ")));
    }
    Ok(())
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
                "captionacc setup",
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
                "captionacc setup",
            ),
            Some(_) => sound.push(format!("{name} (priority {})", queue.priority())),
        }
    }
    if !sound.is_empty() {
        findings.ok(CHECK, sound.join(", "));
    }
    Ok(())
}

async fn deployments(client: &PrefectClient, settings: &Settings, findings: &mut Findings) -> Result<(), PrefectError> {
    const CHECK: &str = "deployments";
    let name = &client.settings().deployment_name;
    let pool = (!client.settings().runner_mode).then_some(&client.settings().work_pool);
    let mut sound = Vec::new();
    for flow in settings.flows.iter() {
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
fn the_journal(settings: &Settings, prefect: &PrefectSettings, findings: &mut Findings) {
    let home = journal_home(&settings.home, prefect);
    if !home.join("queue.db").exists() {
        findings.ok("queue", "no run of this server was worked on or queued here yet");
        return;
    }
    inspect_queue(&home, findings);
    let pool = block_on(async { Ok(LocalOrchestrator::open(&home).await?.read_work_pool().await?) });
    match pool {
        Ok(pool) if prefect.runner_mode => {
            if pool.is_paused {
                findings.warning(
                    "work pool",
                    "this machine's workers are paused",
                    "captionacc pool resume",
                );
            }
            workers(&pool.workers, findings);
        }
        Ok(pool) if pool.workers.iter().any(|worker| worker.is_alive) => workers(&pool.workers, findings),
        Ok(_) => {}
        Err(failure) => findings.error("queue", failure_line(&failure), "do as the message says"),
    }
}

fn failure_line(failure: &Failure) -> String {
    match failure {
        Failure::Orchestrator(error) => format!("{} ({})", error.to_line(), error.code()),
        other => other.to_string(),
    }
}

fn inspect_queue(home: &Path, findings: &mut Findings) {
    const CHECK: &str = "queue";
    let inspected = block_on(async { Ok(LocalOrchestrator::open(home).await?.inspect().await?) });
    match inspected {
        Ok(found) if found.journal_mode != "wal" => findings.warning(
            CHECK,
            format!(
                "journal mode {} instead of wal: its folder may be on a network file system",
                found.journal_mode
            ),
            "set CAPTIONACC_HOME to a folder on a local disk",
        ),
        Ok(found) if found.stored_flow_runs > 0 => findings.warning(
            CHECK,
            format!(
                "{} flow runs wait here until Prefect's API answers",
                found.stored_flow_runs
            ),
            "keep a worker running on this machine: it queues them as soon as the API answers",
        ),
        Ok(found) => findings.ok(
            CHECK,
            format!(
                "sound: schema version {}, {} flow runs, {}",
                found.schema_version,
                found.flow_runs,
                bytes_text(found.bytes)
            ),
        ),
        Err(failure) => findings.error(
            CHECK,
            failure_line(&failure),
            "do as the message says; the flow runs in it can not be used until then",
        ),
    }
}

fn work_pool(pool: &WorkPool, findings: &mut Findings) {
    let waiting: u32 = pool.waiting.iter().map(|(_, count)| count).sum();
    let summary = format!(
        "{}: {} of {} slots taken, {waiting} waiting",
        pool.name, pool.active, pool.concurrency_limit
    );
    if pool.is_paused {
        findings.warning("work pool", format!("{summary}, paused"), "captionacc pool resume");
    } else {
        findings.ok("work pool", summary);
    }
}

/// Workers of this machine.
fn workers(known: &[WorkerRecord], findings: &mut Findings) {
    let alive: Vec<_> = known.iter().filter(|worker| worker.is_alive).collect();
    if alive.is_empty() {
        findings.warning("worker", NO_WORKER, START_WORKER);
    }
    for worker in alive {
        let summary = format!(
            "{} is alive (pid {}, version {})",
            worker.name, worker.process.pid, worker.version
        );
        if worker.version == env!("CARGO_PKG_VERSION") {
            findings.ok("worker", summary);
        } else {
            let fix = "start that worker anew: its flow runs go on after it";
            findings.warning(
                "worker",
                format!("{summary}, this program is {}", env!("CARGO_PKG_VERSION")),
                fix,
            );
        }
    }
}

/// Whether the program of each declared flow would be found.
fn flows(settings: &Settings, findings: &mut Findings) {
    let names: Vec<&str> = settings.flows.iter().map(|flow| flow.name.as_str()).collect();
    findings.ok("flows", names.join(", "));
    for flow in settings.flows.iter() {
        let Runner::Command(runner) = &flow.runner else {
            continue;
        };
        let Some(program) = runner.command.first().filter(|program| !program.contains('{')) else {
            continue;
        };
        let folder = runner.working_directory.clone().map_or_else(working_directory, Ok);
        let Ok(folder) = folder else { continue };
        if !folder.is_dir() {
            findings.warning(
                "flows",
                format!(
                    "flow {}: its working directory {} is not there",
                    flow.name,
                    folder.display()
                ),
                format!("correct working-directory in [flows.{}]", flow.name),
            );
        } else if which::which_in(program, std::env::var_os("PATH"), &folder).is_err() {
            findings.warning(
                "flows",
                format!("flow {}: the program {program:?} is not found", flow.name),
                format!(
                    "install it, or give its full path as the first element of command in [flows.{}]",
                    flow.name
                ),
            );
        }
    }
}

/// Whether the models are there and can be loaded.
fn ocr(settings: &Settings, findings: &mut Findings) {
    let engine = OcrModels::find(settings.ocr_models.as_deref())
        .and_then(|models| PpOcr::load(&models).map(|engine| (models, engine)));
    match engine {
        Ok((models, engine)) => {
            let folder = models.detection.parent().unwrap_or(Path::new("")).display().to_string();
            findings.ok("ocr", format!("{}, models in {folder}", engine.description()));
        }
        Err(error) => findings.error(
            "ocr",
            format!("{error} ({})", error.code()),
            "npm install @captionacc/orchestrator-models (in a checkout: npm run build), or set CAPTIONACC_OCR_MODELS to a folder with the models",
        ),
    }
}

fn media(findings: &mut Findings) {
    let media = media_description();
    let summary = format!(
        "{}; {}; decodes {}",
        media.libraries.join(", "),
        media.license,
        media.decoders.join(", ")
    );
    if media.missing_decoders.is_empty() {
        findings.ok("media", summary);
    } else {
        findings.warning(
            "media",
            format!("{summary}; without {}", media.missing_decoders.join(", ")),
            "videos of those codecs fail: use the program as it is released, or build it with these decoders",
        );
    }
}

/// Space on the disks of the queue and of temporary files.
fn space(settings: &Settings, findings: &mut Findings) {
    let temporary = std::env::temp_dir();
    for (what, folder) in [
        ("home", existing_ancestor(&settings.home)),
        ("temporary files", temporary.clone()),
    ] {
        let shown = folder.display();
        let Ok(found) = statvfs(&folder) else {
            findings.warning(
                "disk",
                format!("{what}: {shown} cannot be looked at"),
                "see that the folder exists",
            );
            continue;
        };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let summary = format!("{what}: {} free on the disk of {shown}", bytes_text(free));
        let fix = "free some space on that disk";
        match free {
            free if free < FREE_BYTES_ERROR => findings.error("disk", summary, fix),
            free if free < FREE_BYTES_WARNING => findings.warning("disk", summary, fix),
            _ => findings.ok("disk", summary),
        }
    }
    if access(&temporary, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        findings.warning(
            "disk",
            format!("{} cannot be written by this user", temporary.display()),
            "set TMPDIR to a folder that this user can write",
        );
    }
}

fn limits(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "limits";
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let child_bytes = settings.child_memory_mb << 20;
    let summary = format!(
        "{processors} processors, {} MB for each child, {} s of silence, grace {} s",
        settings.child_memory_mb,
        settings.stall_timeout_ms / 1000,
        settings.grace_ms / 1000
    );
    match total_memory_bytes() {
        Some(total) if child_bytes > total => findings.warning(
            CHECK,
            format!("{summary}; this machine has only {}", bytes_text(total)),
            "set CAPTIONACC_CHILD_MEMORY_MB to what a child may take of it",
        ),
        _ => findings.ok(CHECK, summary),
    }
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(open_files) = open_files.filter(|open_files| *open_files < OPEN_FILES) {
        findings.warning(
            CHECK,
            format!("a process may have only {open_files} files open"),
            format!("ulimit -n {OPEN_FILES}, or more"),
        );
    }
}

fn total_memory_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// `1.5 GB`, in powers of 1024 as `df -h` has them.
fn bytes_text(bytes: u64) -> String {
    let mut units = ["bytes", "KB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mut amount = bytes as f64;
    while amount >= 1024.0 {
        let Some(larger) = units.next() else { break };
        amount /= 1024.0;
        unit = larger;
    }
    let decimals = usize::from(unit != "bytes" && amount < 10.0);
    format!("{amount:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_bytes_are_short() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KB"),
            (20 << 30, "20 GB"),
        ] {
            assert_eq!(bytes_text(bytes), expected);
        }
    }
}
