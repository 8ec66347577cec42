//! Runs of deployments that are not ours: a Python flow in the same work pool, run as Prefect's own process worker
//! would run it.
//!
//! The program (`python -m prefect.engine` unless the pool, deployment or run says otherwise) loads the flow, runs it and
//! reports its states by itself. What remains for a worker: its configuration from job variables and their templates,
//! its process id, its end with its whole tree when it is cancelled, and CRASHED when it ends without a final state.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use uuid::Uuid;

use super::attempt::Wish;
use super::output::{printable, read_line};
use crate::domain::prefect_error::PrefectError;
use crate::domain::state::{StateName, StateType};
use crate::orchestrator::prefect::client::{Call, PrefectClient, segment};
use crate::orchestrator::prefect::foreign::marker_of;
use crate::orchestrator::prefect::model::{ApiDeployment, ApiFlowRun, Proposal};
use crate::process::identity::ProcessIdentity;
use crate::process::tree::{MARKER, clear, kill_all, kill_group_of_ended, terminate_group};
use crate::protocol::MAX_LINE_BYTES;
use crate::settings::prefect::Credentials;

/// How long an engine may take to acknowledge on its control channel.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines of a dead process that its state's message quotes.
const LAST_LINES: usize = 10;
/// How long the streams of a dead process are read on: a grandchild may hold them open.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a killed process may take to be gone.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one report to the API is tried before it is begun anew.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);

/// What became of a run that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum ForeignEnd {
    /// Its program reported a final state, or gave it back itself.
    Reported,
    /// It ended without one: CRASHED.
    Crashed,
    /// It was stopped because it was to be cancelled: CANCELLED.
    Cancelled,
}

/// How a run's program is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobConfiguration {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the worker's own environment.
    pub environment: BTreeMap<String, String>,
    /// Where it starts; none: a temporary folder.
    pub working_directory: Option<PathBuf>,
}

impl JobConfiguration {
    /// The configuration of a run: the pool's template, filled from the defaults of its variables, the deployment's
    /// job variables and the run's, later ones first; `env` of the latter two is merged.
    ///
    /// `workspace_variables` are the values of `{{ prefect.variables.NAME }}`.
    ///
    /// # Errors
    /// A text that names the field at fault.
    pub fn resolve(
        template: &Value,
        deployment: Option<&Map<String, Value>>,
        run: Option<&Map<String, Value>>,
        workspace_variables: &BTreeMap<String, Value>,
    ) -> Result<Self, String> {
        let mut values = Map::new();
        if let Some(properties) = template.pointer("/variables/properties").and_then(Value::as_object) {
            for (name, schema) in properties {
                if let Some(default) = schema.get("default") {
                    values.insert(name.clone(), default.clone());
                }
            }
        }
        for (level, given) in [deployment, run].into_iter().enumerate() {
            for (name, value) in given.into_iter().flatten() {
                match (values.get_mut(name), value) {
                    (Some(Value::Object(before)), Value::Object(more)) if name == "env" && level == 1 => {
                        before.extend(more.clone());
                    }
                    _ => {
                        values.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        let values = Value::Object(values);
        let fields = template.get("job_configuration").cloned().unwrap_or_else(
            || json!({ "command": "{{ command }}", "env": "{{ env }}", "working_dir": "{{ working_dir }}" }),
        );
        let fill = |name: &str| -> Result<Option<Value>, String> {
            let Some(field) = fields.get(name) else { return Ok(None) };
            // A value may itself refer to a variable of the workspace.
            let filled = fill(field, &values, workspace_variables)?;
            let filled = filled
                .map(|value| fill_value(&value, workspace_variables))
                .transpose()?;
            Ok(filled.flatten().filter(|value| !value.is_null()))
        };
        let text = |name: &str| match fill(name)? {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("job variable {name}: {other} is not text")),
        };
        let command = match text("command")? {
            Some(command) => shell_words::split(&command)
                .map_err(|_| format!("job variable command: {command:?} has an open quote"))?,
            None => ["python", "-m", "prefect.engine"].map(str::to_owned).to_vec(),
        };
        if command.is_empty() {
            return Err("job variable command: no program in it".to_owned());
        }
        let environment = match fill("env")? {
            None => BTreeMap::new(),
            Some(Value::Object(variables)) => variables
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| {
                    let is_name = !name.is_empty() && !name.contains(['=', '\0']);
                    let value = match value {
                        Value::String(text) => text,
                        value => value.to_string(),
                    };
                    if is_name && !value.contains('\0') {
                        Ok((name, value))
                    } else {
                        Err(format!("job variable env: {name:?} is no environment variable"))
                    }
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err("job variable env: it is no object".to_owned()),
        };
        Ok(Self {
            command,
            environment,
            working_directory: text("working_dir")?.map(PathBuf::from),
        })
    }
}

/// A parsed placeholder `{{ name }}` of a text: what is before it, the name, what is behind it.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find("{{")?;
    let end = start + text[start..].find("}}")?;
    Some((&text[..start], text[start + 2..end].trim(), &text[end + 2..]))
}

/// Fills the placeholders of a template. One that is the whole text keeps its value's type, and is absent (`None`) if
/// there is no value; one within a text becomes part of it.
fn fill(template: &Value, values: &Value, workspace: &BTreeMap<String, Value>) -> Result<Option<Value>, String> {
    match template {
        Value::String(text) => match placeholder(text) {
            None => Ok(Some(template.clone())),
            Some((before, name, behind)) if before.trim().is_empty() && behind.trim().is_empty() => {
                look_up(name, values, workspace)
            }
            Some(_) => {
                let mut filled = String::new();
                let mut rest = text.as_str();
                while let Some((before, name, behind)) = placeholder(rest) {
                    filled.push_str(before);
                    match look_up(name, values, workspace)? {
                        None | Some(Value::Null) => {}
                        Some(Value::String(text)) => filled.push_str(&text),
                        Some(value) => filled.push_str(&value.to_string()),
                    }
                    rest = behind;
                }
                filled.push_str(rest);
                Ok(Some(Value::String(filled)))
            }
        },
        Value::Object(fields) => {
            let mut filled = Map::new();
            for (name, field) in fields {
                if let Some(value) = fill(field, values, workspace)? {
                    filled.insert(name.clone(), value);
                }
            }
            Ok(Some(Value::Object(filled)))
        }
        Value::Array(items) => {
            let filled: Result<Vec<_>, _> = items.iter().map(|item| fill(item, values, workspace)).collect();
            Ok(Some(Value::Array(filled?.into_iter().flatten().collect())))
        }
        other => Ok(Some(other.clone())),
    }
}

/// Fills only what refers to the workspace: other braces in a value are its own.
fn fill_value(value: &Value, workspace: &BTreeMap<String, Value>) -> Result<Option<Value>, String> {
    match value {
        Value::String(text) if !text.contains("prefect.") => Ok(Some(value.clone())),
        Value::Object(fields) => {
            let mut filled = Map::new();
            for (name, field) in fields {
                if let Some(value) = fill_value(field, workspace)? {
                    filled.insert(name.clone(), value);
                }
            }
            Ok(Some(Value::Object(filled)))
        }
        value => fill(value, &Value::Null, workspace),
    }
}

fn look_up(name: &str, values: &Value, workspace: &BTreeMap<String, Value>) -> Result<Option<Value>, String> {
    if let Some(variable) = name.strip_prefix("prefect.variables.") {
        return match workspace.get(variable) {
            Some(value) => Ok(Some(value.clone())),
            None => Err(format!(
                "variable {variable:?} is not set in Prefect: set it, or take it out of the job variables"
            )),
        };
    }
    if name.starts_with("prefect.blocks.") {
        return Err(format!(
            "{{{{ {name} }}}}: this worker reads no blocks: use a variable, or run this deployment with Prefect's own worker"
        ));
    }
    let mut value = values;
    for part in name.split('.') {
        match value.get(part) {
            Some(inner) => value = inner,
            None => return Ok(None),
        }
    }
    Ok(Some(value.clone()))
}

/// Names of the workspace's variables that these values refer to.
fn variables_in(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let mut rest = text.as_str();
            while let Some((_, name, behind)) = placeholder(rest) {
                names.extend(name.strip_prefix("prefect.variables.").map(str::to_owned));
                rest = behind;
            }
        }
        Value::Array(items) => items.iter().for_each(|item| variables_in(item, names)),
        Value::Object(fields) => fields.values().for_each(|field| variables_in(field, names)),
        _ => {}
    }
}

/// Runs a claimed run (PENDING, ours by its transition) of a deployment that is not ours to its end, and sees to it
/// that it has a final state. No fault of the API ends it: what must be reported is tried until it is.
pub async fn supervise_foreign(
    client: &PrefectClient,
    run: &ApiFlowRun,
    worker_name: &str,
    kill_grace: Duration,
    mut wish: watch::Receiver<Wish>,
) -> ForeignEnd {
    let marker = marker_of(run.id);
    let control = ControlChannel::open().await;
    let started = match start(client, run, worker_name, &marker, control.as_ref()).await {
        Ok(started) => started,
        Err(problem) => {
            warn!(flow_run_id = %run.id, problem, "The run could not be started.");
            return report(
                client,
                run.id,
                StateName::Crashed,
                format!("it could not be started: {problem}"),
            )
            .await;
        }
    };
    let Started {
        mut child,
        process,
        _scratch,
    } = started;
    info!(flow_run_id = %run.id, pid = process.pid, "Started a run of a deployment that is not this program's.");
    let lines = listen(&mut child, run.id);
    let control = control.map(|control| tokio::spawn(control.announce(wish.clone())));
    let mut control = control;
    let mut terminate_at: Option<Instant> = None;
    let mut kill_at: Option<Instant> = None;
    let mut is_asked_to_stop = false;
    wish.mark_changed();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            changed = wish.changed() => {
                let wanted = if changed.is_ok() { wish.borrow_and_update().clone() } else { Wish::Kill };
                if wanted == Wish::Kill {
                    kill_at = Some(Instant::now());
                } else if wanted != Wish::Run && !is_asked_to_stop {
                    kill_at = Some(Instant::now() + kill_grace);
                    terminate_at = Some(match &control {
                        // It says what the signal means, if there is an engine that listens.
                        Some(_) if wanted == Wish::Cancel => Instant::now() + CONTROL_TIMEOUT,
                        _ => Instant::now(),
                    });
                }
                is_asked_to_stop |= wanted != Wish::Run;
                if changed.is_err() {
                    kill_all(&marker, Some(&process));
                    break child.wait().await;
                }
            }
            () = told(&mut control) => {
                control = None;
                if terminate_at.is_some() {
                    terminate_at = Some(Instant::now());
                }
            }
            () = super::attempt::sleep_until(terminate_at) => {
                terminate_at = None;
                terminate_group(&process);
            }
            () = super::attempt::sleep_until(kill_at) => {
                kill_at = None;
                kill_all(&marker, Some(&process));
            }
        }
    };
    // What it started goes with it; an ffmpeg that lives on is what a person who cancels does not expect.
    if let Some(control) = control {
        control.abort();
    }
    kill_group_of_ended(&process);
    let left = clear(&marker, Some(&process), DEATH_TIMEOUT).await;
    if left > 0 {
        warn!(flow_run_id = %run.id, left, "Processes of the run can not be killed; they wait for the system.");
    }
    let last_words = tokio::time::timeout(LAST_WORDS_TIMEOUT, lines).await;
    let last_words = last_words.ok().and_then(Result::ok).unwrap_or_default();
    let wanted = wish.borrow().clone();
    end(client, run.id, &wanted, &status, &last_words).await
}

/// Prefect's control channel, version 1: the engine connects to it, and what it is told before a SIGTERM says that the
/// signal means "cancelled" rather than "crashed". An engine that does not listen is signalled all the same.
struct ControlChannel {
    listener: TcpListener,
    port: u16,
    token: Uuid,
}

impl ControlChannel {
    async fn open() -> Option<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
        let port = listener.local_addr().ok()?.port();
        let token = Uuid::new_v4();
        Some(Self { listener, port, token })
    }

    /// Waits for the engine and for the wish to cancel it, tells it, and returns once it has acknowledged. Never
    /// returns where there is nothing to tell.
    async fn announce(self, mut wish: watch::Receiver<Wish>) {
        let mut engine = loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                return std::future::pending().await;
            };
            // Anyone on this machine can connect; the engine alone knows the token.
            let greeting = tokio::time::timeout(CONTROL_TIMEOUT, greeted(&mut stream, self.token)).await;
            if matches!(greeting, Ok(Ok(true))) {
                break stream;
            }
        };
        if wish.wait_for(|wish| *wish == Wish::Cancel).await.is_err() || engine.write_all(b"c").await.is_err() {
            return std::future::pending().await;
        }
        // Before its acknowledgement comes the hello of version 2, in which that byte does not occur.
        while let Ok(byte) = engine.read_u8().await {
            if byte == b'a' {
                return;
            }
        }
    }
}

/// Whether the first line of a connection is the token.
async fn greeted(stream: &mut TcpStream, token: Uuid) -> std::io::Result<bool> {
    let expected = format!("{token}\n");
    let mut line = vec![0; expected.len()];
    stream.read_exact(&mut line).await?;
    Ok(line == expected.as_bytes())
}

/// Returns once the engine knows what its signal will mean.
async fn told(control: &mut Option<JoinHandle<()>>) {
    match control {
        Some(announcement) => drop(announcement.await),
        None => std::future::pending().await,
    }
}

struct Started {
    child: Child,
    process: ProcessIdentity,
    /// The working directory, if it is a temporary one: removed when this is dropped.
    _scratch: Option<Scratch>,
}

/// A temporary folder.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn start(
    client: &PrefectClient,
    run: &ApiFlowRun,
    worker_name: &str,
    marker: &str,
    control: Option<&ControlChannel>,
) -> Result<Started, String> {
    let said = |error: PrefectError| error.to_string();
    let deployment_id = run.deployment_id.ok_or("it has no deployment")?;
    let deployment = client.read_deployment(deployment_id).await.map_err(said)?;
    let flow = client.read_flow(run.flow_id).await.map_err(said)?;
    let template = match &run.work_pool_name {
        Some(pool) => client.read_work_pool(pool).await.map_err(said)?.base_job_template,
        None => Value::Null,
    };
    let mut names = Vec::new();
    variables_in(&template["job_configuration"], &mut names);
    for variables in [&deployment.job_variables, &run.job_variables].into_iter().flatten() {
        variables_in(&Value::Object(variables.clone()), &mut names);
    }
    let mut workspace = BTreeMap::new();
    for name in names {
        let call = Call::get(format!("/variables/name/{}", segment(&name)));
        match client.call::<Value>(call).await {
            Ok(variable) => {
                workspace.insert(name, variable["value"].clone());
            }
            Err(PrefectError::NotFound { .. }) => {}
            Err(error) => return Err(said(error)),
        }
    }
    let configuration = JobConfiguration::resolve(
        &template,
        deployment.job_variables.as_ref(),
        run.job_variables.as_ref(),
        &workspace,
    )?;
    let scratch = if configuration.working_directory.is_some() {
        None
    } else {
        let folder = std::env::temp_dir().join(format!("captionacc-{}-{}", run.id, Uuid::new_v4()));
        // Of this user alone, and never one that somebody made before.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        Some(Scratch(folder))
    };
    let folder = scratch
        .as_ref()
        .map(|scratch| &scratch.0)
        .or(configuration.working_directory.as_ref());
    let mut command = command_of(&configuration);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    prefect_environment(&mut command, client, run, &deployment, &flow.name, worker_name);
    if let Some(control) = control {
        command
            .env("PREFECT__CONTROL_PORT", control.port.to_string())
            .env("PREFECT__CONTROL_TOKEN", control.token.to_string());
    }
    let child = command
        .envs(&configuration.environment)
        .env(MARKER, marker)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let place = folder.map_or(String::new(), |folder| format!(" in {}", folder.display()));
            format!("{:?}{place}: {error}", configuration.command[0])
        })?;
    let process = child
        .id()
        .and_then(ProcessIdentity::of)
        .ok_or("its process ended at once")?;
    // Without it the server takes a run that is being cancelled for one without a process.
    let changes = json!({ "infrastructure_pid": process.pid.to_string() });
    if let Err(error) = client.update_flow_run(run.id, &changes, Duration::from_secs(5)).await {
        warn!(flow_run_id = %run.id, %error, "The process id could not be reported.");
    }
    Ok(Started {
        child,
        process,
        _scratch: scratch,
    })
}

fn command_of(configuration: &JobConfiguration) -> Command {
    let mut program = configuration.command[0].clone();
    // Debian has no `python`.
    let is_there = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    };
    if program == "python" && !is_there("python") && is_there("python3") {
        "python3".clone_into(&mut program);
    }
    let mut command = Command::new(program);
    command.args(&configuration.command[1..]);
    command.env_remove("NOTIFY_SOCKET");
    command
}

/// What Prefect's engine reads from its environment, as its own worker sets it.
fn prefect_environment(
    command: &mut Command,
    client: &PrefectClient,
    run: &ApiFlowRun,
    deployment: &ApiDeployment,
    flow_name: &str,
    worker_name: &str,
) {
    command
        .env("PREFECT_API_URL", client.address())
        .env("PREFECT__FLOW_RUN_ID", run.id.to_string())
        .env("PREFECT__FLOW_ID", run.flow_id.to_string())
        .env("PREFECT__FLOW_NAME", flow_name)
        .env("PREFECT__DEPLOYMENT_ID", deployment.id.to_string())
        .env("PREFECT__DEPLOYMENT_NAME", &deployment.name)
        .env("PREFECT__WORKER_NAME", worker_name)
        .env("PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS", "false");
    match &client.settings().credentials {
        Credentials::None => {}
        Credentials::ApiKey(key) => {
            command.env("PREFECT_API_KEY", key.reveal());
        }
        Credentials::AuthString(text) => {
            command.env("PREFECT_API_AUTH_STRING", text.reveal());
        }
    }
}

/// Passes on what the process writes, and keeps the last lines.
fn listen(child: &mut Child, id: Uuid) -> JoinHandle<VecDeque<String>> {
    let stdout = child.stdout.take().map(BufReader::new);
    let stderr = child.stderr.take().map(BufReader::new);
    tokio::spawn(async move {
        let (out, err) = tokio::join!(read_all(stdout, id), read_all(stderr, id));
        if err.is_empty() { out } else { err }
    })
}

async fn read_all<R: AsyncRead + Unpin>(stream: Option<BufReader<R>>, id: Uuid) -> VecDeque<String> {
    let mut last = VecDeque::new();
    let Some(mut stream) = stream else { return last };
    let mut line = Vec::new();
    let mut is_open = true;
    while is_open {
        is_open = read_line(&mut stream, &mut line, MAX_LINE_BYTES).await.unwrap_or(false);
        let text = printable(&std::mem::take(&mut line));
        if !text.is_empty() {
            info!(flow_run_id = %id, "{text}");
            last.push_back(text);
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
    }
    last
}

async fn end(
    client: &PrefectClient,
    id: Uuid,
    wanted: &Wish,
    status: &std::io::Result<ExitStatus>,
    last_words: &VecDeque<String>,
) -> ForeignEnd {
    let state_type = loop {
        match client
            .call::<ApiFlowRun>(Call::get(format!("/flow_runs/{id}")).patience(REPORT_PATIENCE))
            .await
        {
            Ok(run) => break run.state.map(|state| state.state_type()),
            Err(PrefectError::NotFound { .. }) => return ForeignEnd::Reported,
            Err(error) => wait_after(id, &error).await,
        }
    };
    match state_type {
        // An engine that was told to end says CRASHED before anybody can stop it.
        Some(StateType::Pending | StateType::Running | StateType::Crashed) if *wanted == Wish::Cancel => {
            report(client, id, StateName::Cancelled, "cancelled on request".to_owned()).await
        }
        Some(state) if state.is_final() || state == StateType::Scheduled => ForeignEnd::Reported,
        Some(StateType::Cancelling) => {
            report(client, id, StateName::Cancelled, "cancelled on request".to_owned()).await
        }
        _ => {
            let mut message = if *wanted == Wish::Run {
                super::attempt::death(status)
            } else {
                "interrupted: its worker was stopped".to_owned()
            };
            if !last_words.is_empty() {
                let lines: Vec<&str> = last_words.iter().map(String::as_str).collect();
                message = format!("{message}. Its last words: {}", lines.join(" | "));
            }
            report(client, id, StateName::Crashed, message).await
        }
    }
}

/// Reports a final state until the API has it.
async fn report(client: &PrefectClient, id: Uuid, name: StateName, message: String) -> ForeignEnd {
    let message: String = message.chars().take(4000).collect();
    let mut proposal = Proposal::new(name, Some(message), Uuid::new_v4());
    if name == StateName::Cancelled {
        proposal = proposal.force();
    }
    loop {
        match client.set_flow_run_state(id, &proposal, REPORT_PATIENCE).await {
            Ok(_) => break,
            Err(error @ PrefectError::NotFound { .. }) => {
                // A 404 of one call may come from what stands before the server.
                if let Err(PrefectError::NotFound { .. }) = client.read_flow_run(id).await {
                    return ForeignEnd::Reported;
                }
                wait_after(id, &error).await;
            }
            Err(error) => wait_after(id, &error).await,
        }
    }
    if name == StateName::Cancelled {
        ForeignEnd::Cancelled
    } else {
        ForeignEnd::Crashed
    }
}

async fn wait_after(id: Uuid, error: &PrefectError) {
    warn!(flow_run_id = %id, %error, "The run's state could not be reported; trying again.");
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(template: &Value, deployment: &Value, run: &Value) -> Result<JobConfiguration, String> {
        let workspace = BTreeMap::from([("bucket".to_owned(), json!("b1"))]);
        JobConfiguration::resolve(template, deployment.as_object(), run.as_object(), &workspace)
    }

    fn process_template() -> Value {
        serde_json::from_str(include_str!("../cli/process_job_template.json")).expect("JSON")
    }

    #[test]
    fn nothing_given_is_prefects_engine_in_a_temporary_folder() {
        let found = resolve(&process_template(), &json!({}), &Value::Null).expect("valid");
        assert_eq!(found.command, ["python", "-m", "prefect.engine"]);
        assert_eq!((found.environment.len(), found.working_directory), (0, None));
        assert_eq!(
            resolve(&json!({}), &Value::Null, &Value::Null).expect("valid").command,
            found.command
        );
    }

    #[test]
    fn the_run_goes_before_the_deployment_and_their_environments_are_merged() {
        let deployment = json!({"command": "a 'b c'", "env": {"A": "1", "B": "2"}, "working_dir": "/d"});
        let run = json!({"env": {"B": "3", "C": 4, "D": null}});
        let found = resolve(&process_template(), &deployment, &run).expect("valid");
        assert_eq!(found.command, ["a", "b c"]);
        assert_eq!(found.working_directory, Some(PathBuf::from("/d")));
        let environment: Vec<_> = found
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(environment, ["A=1", "B=3", "C=4"]);
    }

    #[test]
    fn placeholders_are_filled_within_texts_too() {
        let template = json!({
            "job_configuration": {
                "command": "run --size {{ size }} {{ extra }}",
                "env": {"SIZE": "{{ size }}", "X": "{{ env.X }}", "NONE": "{{ nothing }}", "BUCKET": "s3://{{ prefect.variables.bucket }}"},
                "working_dir": "/data/{{ name }}",
            },
            "variables": {"properties": {"size": {"default": 3}, "name": {}}},
        });
        let found = resolve(&template, &json!({"env": {"X": "x"}, "name": "n"}), &Value::Null).expect("valid");
        assert_eq!(found.command, ["run", "--size", "3"]);
        assert_eq!(found.working_directory, Some(PathBuf::from("/data/n")));
        let environment: Vec<_> = found
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(environment, ["BUCKET=s3://b1", "SIZE=3", "X=x"]);
    }

    #[test]
    fn faults_are_named() {
        for (variables, expected) in [
            (json!({"command": "a 'b"}), "open quote"),
            (json!({"command": 3}), "is not text"),
            (json!({"env": "A=1"}), "it is no object"),
            (json!({"env": {"A=B": "1"}}), "no environment variable"),
            (
                json!({"env": {"A": "{{ prefect.variables.gone }}"}}),
                "\"gone\" is not set",
            ),
            (
                json!({"env": {"A": "{{ prefect.blocks.secret.x }}"}}),
                "reads no blocks",
            ),
        ] {
            let error = resolve(&process_template(), &variables, &Value::Null).expect_err("refused");
            assert!(error.contains(expected), "{variables}: {error}");
        }
    }

    #[test]
    fn braces_of_a_value_are_its_own() {
        let deployment = json!({"env": {"JINJA": "{{ x }}"}});
        let found = resolve(&process_template(), &deployment, &Value::Null).expect("valid");
        assert_eq!(found.environment["JINJA"], "{{ x }}");
    }
}
