//! `captionacc setup`: chooses the orchestrator, makes what it needs, and writes it down.
//!
//! For Prefect that is a profile in Prefect's own profiles.toml, so that the `prefect` command line speaks to the same
//! API. Every question is an option too; without a terminal nothing is asked. Nothing is written before the API has
//! answered with the credentials given.

use std::fmt::Write;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use dialoguer::theme::ColorfulTheme;
use dialoguer::{Input, Password, Select};
use serde::Deserialize;
use serde_json::{Value, json};

use super::exit;
use super::failure::Failure;
use super::output::{plain, print};
use super::runtime::{block_on, limit_parser, working_directory};
use super::toml_file::{TomlFile, set};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{DEFAULT_CONCURRENCY_LIMIT, WORK_POOL, WorkQueue};
use crate::domain::prefect_error::PrefectError;
use crate::orchestrator::prefect::client::{Call, PrefectClient};
use crate::orchestrator::prefect::model::{ApiWorkPool, ApiWorkQueue};
use crate::orchestrator::prefect::{automation, lowering};
use crate::settings::Settings;
use crate::settings::prefect::{Credentials, PrefectSettings, Secret};

/// Job configuration and variables of a pool of type `process`, as Prefect 3.9.1 defines them: its own worker serves
/// the pool too.
const JOB_TEMPLATE: &str = include_str!("process_job_template.json");
const CLOUD_API_URL: &str = "https://api.prefect.cloud/api";
const SERVER_API_URL: &str = "http://127.0.0.1:4200/api";
const DEFAULT_PROFILE: &str = "captionacc";
/// Longest key or auth string that is read.
const MAX_SECRET_BYTES: u64 = 4096;

/// What `captionacc setup --help` ends with.
pub(super) const EXAMPLES: &str = "\
Keys are never taken as an option, because other users of the machine can read options: they are asked for, read from
a file (- is stdin), or taken from PREFECT_API_KEY or PREFECT_API_AUTH_STRING.

Examples:
  captionacc setup                                    # asks
  captionacc setup --orchestrator embedded
  captionacc setup --orchestrator server --api-url http://127.0.0.1:4200/api
  captionacc setup --orchestrator cloud --api-key-file key.txt --workspace my-account/my-workspace";

/// Options of `captionacc setup`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where flow runs are queued
    #[arg(long, value_enum)]
    orchestrator: Option<Place>,
    /// Address of the self-hosted API, with its /api
    #[arg(long, value_name = "URL")]
    api_url: Option<String>,
    /// File with the user:password of the self-hosted API
    #[arg(long, value_name = "FILE")]
    auth_string_file: Option<PathBuf>,
    /// File with the API key of Prefect Cloud
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Workspace of Prefect Cloud, as ACCOUNT/WORKSPACE or its id
    #[arg(long)]
    workspace: Option<String>,
    /// Name of the Prefect profile that is written and made the active one
    #[arg(long, default_value = DEFAULT_PROFILE, value_parser = profile_name)]
    profile: String,
    /// Most flow runs at once (default: what the pool has, 2 for a new one)
    #[arg(long, value_name = "COUNT", value_parser = limit_parser())]
    limit: Option<u32>,
    /// Remove the automation that an earlier setup has made at the server that is configured, and nothing else
    #[arg(long, exclusive = true)]
    remove: bool,
    /// Use no work pool even if the plan allows one: the worker polls the deployments
    #[arg(long)]
    runner_mode: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// In a file on this machine
    Embedded,
    /// In Prefect Cloud
    Cloud,
    /// In a Prefect server of your own
    Server,
}

fn profile_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("letters, digits, dash, underscore and dot only".to_owned())
    }
}

/// Sets up the orchestrator that is asked for.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    if options.remove {
        return remove();
    }
    let working_directory = working_directory()?;
    let environment = |name: &str| std::env::var_os(name);
    // A profile that is wrong is what this command repairs: only what lies beside it is needed.
    let without_prefect = |name: &str| match name {
        "PREFECT_API_URL" => Some("http://127.0.0.1/api".into()),
        "PREFECT_CLIENT_CUSTOM_HEADERS" | "CAPTIONACC_ORCHESTRATOR" => None,
        name => environment(name),
    };
    let settings = Settings::load(&without_prefect, &working_directory)?;
    let config_path = settings
        .config_file
        .clone()
        .unwrap_or_else(|| settings.home.join("captionacc.toml"));
    let asker = Asker::new();
    let place = match options.orchestrator {
        Some(place) => place,
        None => asker.choose_place()?,
    };
    refuse_stray_options(options, place)?;
    if place == Place::Embedded {
        choose(&config_path, "embedded", false)?;
        warn_of_environment(Place::Embedded);
        print(&format!(
            "Flow runs are queued in {}: orchestrator = \"embedded\" is written to {}\nNext: captionacc worker\n",
            plain(&settings.home.join("queue.db").display().to_string()),
            plain(&config_path.display().to_string()),
        ))?;
        return Ok(exit::DONE);
    }
    let own = settings.prefect;
    let pool = own
        .as_ref()
        .map_or_else(|| WORK_POOL.to_owned(), |prefect| prefect.work_pool.clone());
    let outcome = block_on(async {
        let client = match place {
            Place::Cloud => cloud(options, &asker).await?,
            _ => server(options, &asker)?,
        };
        let checked = check(&client).await.map_err(|error| refused(error, &client))?;
        let mode = if options.runner_mode {
            Mode::Runner {
                why: "as asked".to_owned(),
            }
        } else {
            prepare_pool(&client, &pool, options.limit).await?
        };
        let mut settings = client.settings().clone();
        settings.runner_mode = matches!(mode, Mode::Runner { .. });
        settings.work_pool.clone_from(&pool);
        if let Some(own) = &own {
            settings.deployment_name.clone_from(&own.deployment_name);
            settings.lost_after = own.lost_after;
        }
        let watched = watch_for_lost_machines(&PrefectClient::new(settings)?).await;
        Ok((client, checked, mode, watched))
    })?;
    let (client, checked, mode, watched) = outcome;
    let profiles = profiles_path(&environment)?;
    write_profile(&profiles, &options.profile, client.settings())?;
    choose(&config_path, "prefect", matches!(mode, Mode::Runner { .. }))?;
    warn_of_environment(place);
    let mode = match mode {
        Mode::Pool { said } => said,
        Mode::Runner { why } => format!(
            "Runner mode, without a work pool ({why}): the worker polls the deployments and holds the limit itself"
        ),
    };
    print(&format!(
        "Prefect at {}: {checked}\n{}\n{}\nProfile {:?} is written to {} and active\norchestrator = \"prefect\" is written to {}\nNext: captionacc deploy (on one machine, once), then captionacc worker\n",
        plain(client.address()),
        plain(&mode),
        plain(&watched),
        options.profile,
        plain(&profiles.display().to_string()),
        plain(&config_path.display().to_string()),
    ))?;
    Ok(exit::DONE)
}

/// Makes the automation that notices lost machines; what is said of it. Without one the workers notice them alone.
async fn watch_for_lost_machines(client: &PrefectClient) -> String {
    let name = automation::name(client);
    let mut say = |line: String| eprintln!("{}", plain(&line));
    match lowering::ensure(client, &mut say).await {
        Ok(lowered) => {
            let mut said = format!(
                "Automation {name:?} is {}: a run that gives no sign of life for {} s is another worker's, on every machine \
                 (captionacc setup --remove removes it)",
                lowered.outcome.as_str(),
                lowered.now_s,
            );
            if !lowered.kept_by.is_empty() {
                write!(
                    said,
                    "\nIt is not {} s yet, so that no living run is taken for lost: {} beats too slowly for it and does not follow. \
                     Restart or stop it, then: {}",
                    automation::silence_s(client),
                    lowered.kept_by.join(", "),
                    client.settings().setup_command(),
                )
                .expect("writing to a String cannot fail");
            }
            said
        }
        Err(error) => {
            format!("No automation for runs whose machine is lost ({error}): the workers look for them alone")
        }
    }
}

/// Removes what is at the server for everybody, and nothing that holds runs.
fn remove() -> Result<ExitCode, Failure> {
    let settings = Settings::from_environment()?;
    let Some(prefect) = settings.prefect else {
        return Err(OrchestratorError::Config {
            origin: settings.orchestrator_reason,
            problem: "no Prefect API is configured, so that there is nothing to remove".to_owned(),
        }
        .into());
    };
    let client = PrefectClient::new(prefect)?;
    let name = automation::name(&client);
    let was_there = block_on(async { automation::remove(&client).await.map_err(of) })?;
    print(&format!(
        "Automation {name:?} {}\n",
        if was_there { "is removed" } else { "is not there" }
    ))?;
    Ok(exit::DONE)
}

/// An option that the chosen place has no use for is a mistake that would go unnoticed.
fn refuse_stray_options(options: &Options, place: Place) -> Result<(), Failure> {
    let given = [
        ("api-url", options.api_url.is_some(), Place::Server),
        ("auth-string-file", options.auth_string_file.is_some(), Place::Server),
        ("api-key-file", options.api_key_file.is_some(), Place::Cloud),
        ("workspace", options.workspace.is_some(), Place::Cloud),
    ];
    for (name, is_given, belongs) in given {
        if is_given && belongs != place {
            let belongs = if belongs == Place::Cloud { "cloud" } else { "server" };
            return Err(Failure::argument(name, format!("only for --orchestrator {belongs}")));
        }
    }
    if place == Place::Embedded && (options.limit.is_some() || options.runner_mode) {
        return Err(Failure::argument(
            if options.runner_mode { "runner-mode" } else { "limit" },
            "only for Prefect: the embedded limit is set by captionacc worker --limit",
        ));
    }
    Ok(())
}

/// Asks a person, or says which option would have been the answer.
struct Asker {
    is_terminal: bool,
    theme: ColorfulTheme,
}

impl Asker {
    fn new() -> Self {
        Self {
            is_terminal: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
            theme: ColorfulTheme::default(),
        }
    }

    fn need(&self, option: &str, hint: &str) -> Result<(), Failure> {
        if self.is_terminal {
            return Ok(());
        }
        Err(Failure::argument(
            option,
            format!("missing, and there is no terminal to ask on: give {hint}"),
        ))
    }

    fn choose_place(&self) -> Result<Place, Failure> {
        self.need("orchestrator", "--orchestrator embedded, cloud or server")?;
        let items = [
            "Embedded: a file on this machine, nothing else to run",
            "Prefect Cloud: an API key is needed",
            "Prefect server of your own: its address is needed",
        ];
        let chosen = Select::with_theme(&self.theme)
            .with_prompt("Where are flow runs queued?")
            .items(items)
            .default(0)
            .interact()
            .map_err(asking)?;
        Ok([Place::Embedded, Place::Cloud, Place::Server][chosen])
    }

    fn secret(&self, prompt: &str, may_be_empty: bool) -> Result<Option<Secret>, Failure> {
        let text = Password::with_theme(&self.theme)
            .with_prompt(prompt)
            .allow_empty_password(may_be_empty)
            .interact()
            .map_err(asking)?;
        let text = text.trim();
        Ok((!text.is_empty()).then(|| Secret::new(text)))
    }
}

fn asking(error: dialoguer::Error) -> Failure {
    let dialoguer::Error::IO(error) = error;
    OrchestratorError::Config {
        origin: "terminal".to_owned(),
        problem: format!("the question was not answered ({error}): nothing was changed"),
    }
    .into()
}

fn of(error: PrefectError) -> Failure {
    OrchestratorError::from(error).into()
}

fn read_secret(option: &str, path: &Path) -> Result<Secret, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_SECRET_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_SECRET_BYTES).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::argument(option, format!("{} cannot be read: {error}", path.display())))?;
    let text = text.trim();
    // Its value is not shown: it may be the key with something before it.
    if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Failure::argument(
            option,
            format!("{} does not hold one word on one line", path.display()),
        ));
    }
    Ok(Secret::new(text))
}

fn secret_of_environment(name: &str) -> Option<Secret> {
    let text = std::env::var(name).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| Secret::new(text))
}

/// A client of the self-hosted API that is asked for.
fn server(options: &Options, asker: &Asker) -> Result<PrefectClient, Failure> {
    let given = options.api_url.clone().or_else(|| {
        // What the environment says needs no repeating where nobody can be asked.
        std::env::var("PREFECT_API_URL").ok().filter(|_| !asker.is_terminal)
    });
    let was_asked = given.is_none();
    let api_url = if let Some(url) = given {
        url
    } else {
        asker.need("api-url", "--api-url http://HOST:4200/api")?;
        Input::with_theme(&asker.theme)
            .with_prompt("Address of the API")
            .default(std::env::var("PREFECT_API_URL").unwrap_or_else(|_| SERVER_API_URL.to_owned()))
            .interact_text()
            .map_err(asking)?
    };
    let mut settings = PrefectSettings::new(&api_url, "--api-url")?;
    settings.is_cloud = false;
    let auth_string = match &options.auth_string_file {
        Some(path) => Some(read_secret("auth-string-file", path)?),
        None => match secret_of_environment("PREFECT_API_AUTH_STRING") {
            Some(text) => Some(text),
            None if was_asked => asker.secret("user:password of the API (empty: it needs none)", true)?,
            None => None,
        },
    };
    if let Some(text) = auth_string {
        settings.credentials = Credentials::AuthString(text);
    }
    Ok(PrefectClient::new(settings)?)
}

#[derive(Debug, Clone, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of Prefect's answer")]
struct Workspace {
    account_id: uuid::Uuid,
    account_handle: String,
    workspace_id: uuid::Uuid,
    workspace_handle: String,
}

impl Workspace {
    fn handle(&self) -> String {
        format!("{}/{}", self.account_handle, self.workspace_handle)
    }
}

/// A client of the workspace of Prefect Cloud that is asked for.
async fn cloud(options: &Options, asker: &Asker) -> Result<PrefectClient, Failure> {
    let key = match (&options.api_key_file, secret_of_environment("PREFECT_API_KEY")) {
        (Some(path), _) => Some(read_secret("api-key-file", path)?),
        (None, Some(key)) => Some(key),
        (None, None) => {
            asker.need("api-key-file", "--api-key-file FILE, or set PREFECT_API_KEY")?;
            asker.secret("API key (app.prefect.cloud/my/api-keys)", false)?
        }
    };
    let key = key.ok_or_else(|| Failure::argument("api-key-file", "no key was given"))?;
    let base = std::env::var("PREFECT_CLOUD_API_URL").unwrap_or_else(|_| CLOUD_API_URL.to_owned());
    let with_key = |url: &str| -> Result<PrefectClient, Failure> {
        let mut settings = PrefectSettings::new(url, "PREFECT_CLOUD_API_URL")?;
        settings.is_cloud = true;
        settings.credentials = Credentials::ApiKey(key.clone());
        Ok(PrefectClient::new(settings)?)
    };
    let workspaces: Vec<Workspace> = with_key(&base)?.call(Call::get("/me/workspaces")).await.map_err(of)?;
    let handles: Vec<String> = workspaces.iter().map(Workspace::handle).collect();
    let known = if handles.is_empty() {
        "none".to_owned()
    } else {
        handles.join(", ")
    };
    let chosen = match &options.workspace {
        Some(name) => workspaces
            .iter()
            .position(|workspace| {
                workspace.handle() == *name
                    || workspace.workspace_handle == *name
                    || workspace.workspace_id.to_string() == *name
            })
            .ok_or_else(|| Failure::argument("workspace", format!("{name:?} is not one of this key's: {known}")))?,
        None if workspaces.len() == 1 => 0,
        None if workspaces.is_empty() => {
            return Err(Failure::argument(
                "workspace",
                "this key has none: make one in Prefect Cloud",
            ));
        }
        None => {
            asker.need("workspace", &format!("--workspace with one of: {known}"))?;
            Select::with_theme(&asker.theme)
                .with_prompt("Workspace")
                .items(&handles)
                .default(0)
                .interact()
                .map_err(asking)?
        }
    };
    let workspace = &workspaces[chosen];
    with_key(&format!(
        "{}/accounts/{}/workspaces/{}",
        base.trim_end_matches('/'),
        workspace.account_id,
        workspace.workspace_id
    ))
}

/// Asks the API for something that needs the credentials, and says how it went.
async fn check(client: &PrefectClient) -> Result<String, PrefectError> {
    let version = if client.settings().is_cloud {
        "Prefect Cloud".to_owned()
    } else {
        let version = client.read_version().await?;
        if !version.starts_with("3.") {
            return Err(PrefectError::Rejected {
                call: "GET /admin/version".to_owned(),
                status: 200,
                detail: format!("it is Prefect {version:?}, and this program speaks to Prefect 3"),
            });
        }
        format!("Prefect {version}")
    };
    let started = Instant::now();
    let body = json!({ "limit": 1 });
    client.answer(Call::post("/flows/filter", &body)).await?;
    let took_ms = started.elapsed().as_millis();
    Ok(format!("{version} answers within {took_ms} ms"))
}

/// Why an API was not taken, for whoever gave its address and credentials a moment ago.
fn refused(error: PrefectError, client: &PrefectClient) -> Failure {
    let settings = client.settings();
    let url = &settings.api_url;
    let is_no_api = matches!(
        error,
        PrefectError::NotFound { .. } | PrefectError::Rejected { .. } | PrefectError::Fault { .. }
    );
    if is_no_api && !settings.is_cloud && !url.ends_with("/api") {
        return Failure::argument("api-url", format!("{url} is no address of an API: give {url}/api"));
    }
    of(error)
}

enum Mode {
    Pool { said: String },
    Runner { why: String },
}

/// Makes the pool and its queues, or changes what differs.
async fn prepare_pool(client: &PrefectClient, name: &str, limit: Option<u32>) -> Result<Mode, Failure> {
    let pool = match client.read_work_pool(name).await {
        Ok(pool) => Some(pool),
        Err(PrefectError::NotFound { .. }) => None,
        Err(error) => return Err(of(error)),
    };
    let made = match pool {
        None => {
            let template: Value = serde_json::from_str(JOB_TEMPLATE).expect("the file is JSON");
            let body = json!({
                "name": name,
                "type": "process",
                "description": "Caption flows, run by `captionacc worker`",
                "concurrency_limit": limit.unwrap_or(DEFAULT_CONCURRENCY_LIMIT),
                "base_job_template": template,
            });
            match client.create_work_pool(&body).await {
                Ok(_) => "made",
                Err(PrefectError::Forbidden { detail, .. }) => {
                    return Ok(Mode::Runner {
                        why: format!("this plan allows no work pool of type process: {detail}"),
                    });
                }
                // Somebody else made it in between.
                Err(PrefectError::Rejected { status: 409, .. }) => "there",
                Err(error) => return Err(of(error)),
            }
        }
        Some(pool) => adjust_pool(client, &pool, limit).await?,
    };
    for queue in WorkQueue::ALL {
        prepare_queue(client, name, queue).await?;
    }
    let pool = client.read_work_pool(name).await.map_err(of)?;
    let queues = client.read_work_queues(name).await.map_err(of)?;
    let limit = pool
        .concurrency_limit
        .map_or("no limit".to_owned(), |limit| format!("limit {limit}"));
    Ok(Mode::Pool {
        said: format!("Work pool {name} is {made} ({limit}), work queues: {}", listed(queues)),
    })
}

fn listed(mut queues: Vec<ApiWorkQueue>) -> String {
    queues.sort_by_key(|queue| queue.priority);
    let names: Vec<String> = queues
        .iter()
        .map(|queue| format!("{} (priority {})", queue.name, queue.priority.unwrap_or(0)))
        .collect();
    names.join(", ")
}

async fn adjust_pool(client: &PrefectClient, pool: &ApiWorkPool, limit: Option<u32>) -> Result<&'static str, Failure> {
    if pool.pool_type != "process" {
        return Err(OrchestratorError::Config {
            origin: format!("work pool {:?}", pool.name),
            problem: format!(
                "it is of type {:?}, and process is needed: delete it, or set CAPTIONACC_WORK_POOL to another name",
                pool.pool_type
            ),
        }
        .into());
    }
    match limit {
        Some(limit) if pool.concurrency_limit != Some(limit) => {
            let changes = json!({ "concurrency_limit": limit });
            client.update_work_pool(&pool.name, &changes).await.map_err(of)?;
            Ok("changed")
        }
        _ => Ok("there"),
    }
}

/// Priorities are unique: one that is taken moves the others back.
async fn prepare_queue(client: &PrefectClient, pool: &str, queue: WorkQueue) -> Result<(), Failure> {
    let name = queue.as_str();
    let priority = u32::from(queue.priority());
    let found = client.read_work_queues(pool).await.map_err(of)?;
    match found.iter().find(|found| found.name == name) {
        Some(found) if found.priority == Some(priority) => Ok(()),
        Some(_) => {
            let changes = json!({ "priority": priority });
            client.update_work_queue(pool, name, &changes).await.map_err(of)
        }
        None => {
            let body = json!({ "name": name, "priority": priority });
            match client.create_work_queue(pool, &body).await {
                Ok(_) | Err(PrefectError::Rejected { status: 409, .. }) => Ok(()),
                Err(error) => Err(of(error)),
            }
        }
    }
}

/// Where Prefect looks for its profiles.
fn profiles_path(environment: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf, Failure> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("PREFECT_PROFILES_PATH")
        .or_else(|| Some(set("PREFECT_HOME")?.join("profiles.toml")))
        .or_else(|| Some(set("HOME")?.join(".prefect/profiles.toml")))
        .ok_or_else(|| {
            OrchestratorError::Config {
                origin: "HOME".to_owned(),
                problem: "this user has no home directory: set PREFECT_HOME to a folder".to_owned(),
            }
            .into()
        })
}

/// Writes the profile and makes it the active one.
fn write_profile(path: &Path, name: &str, settings: &PrefectSettings) -> Result<(), Failure> {
    let mut file = TomlFile::read(path)?;
    set(file.table(&[])?, "active", name);
    let profile = file.table(&["profiles", name])?;
    set(profile, "PREFECT_API_URL", settings.api_url.as_str());
    let (key, auth_string) = match &settings.credentials {
        Credentials::None => (None, None),
        Credentials::ApiKey(key) => (Some(key), None),
        Credentials::AuthString(text) => (None, Some(text)),
    };
    for (name, secret) in [("PREFECT_API_KEY", key), ("PREFECT_API_AUTH_STRING", auth_string)] {
        match secret {
            Some(secret) => set(profile, name, secret.reveal()),
            // The key of another server is not sent to this one.
            None => drop(profile.remove(name)),
        }
    }
    file.write()?;
    Ok(())
}

/// Writes down what captionacc.toml has to say: that goes before Prefect's own settings.
fn choose(path: &Path, orchestrator: &str, runner_mode: bool) -> Result<(), Failure> {
    let mut file = TomlFile::read(path)?;
    set(file.table(&[])?, "orchestrator", orchestrator);
    if orchestrator == "prefect" {
        let has_table = file.table(&[])?.contains_key("prefect");
        if runner_mode || has_table {
            set(file.table(&["prefect"])?, "runner-mode", runner_mode);
        }
    }
    file.write()?;
    Ok(())
}

/// The environment goes before what was written: said, because nothing else would show it.
fn warn_of_environment(place: Place) {
    let names: &[&str] = if place == Place::Embedded {
        &["CAPTIONACC_ORCHESTRATOR"]
    } else {
        &["CAPTIONACC_ORCHESTRATOR", "PREFECT_API_URL", "PREFECT_PROFILE"]
    };
    for name in names
        .iter()
        .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    {
        eprintln!("warning: {name} is set in the environment and goes before what was written now");
    }
}
