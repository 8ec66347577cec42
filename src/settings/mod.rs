//! Settings: read once, from the environment and `captionacc.toml`, and typed from then on.
//!
//! An explicit option goes before the environment, which goes before `captionacc.toml`. That file is the one that
//! `CAPTIONACC_CONFIG` names, else `captionacc.toml` in the working directory, else the one in `CAPTIONACC_HOME`.

pub mod prefect;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::domain::error::{OrchestratorError, did_you_mean};
use crate::domain::flow::{
    CommandRunner, DEFAULT_FLOW_TIMEOUT_MS, FlowDefinition, Flows, ParameterDefinition, ParameterKind, Parameters,
    RetryPolicy, Runner, StatusTable, WorkQueue, fill,
};
use crate::settings::prefect::{PrefectSettings, WhenUnreachable};

/// How long running attempts get to finish after the first signal, unless set.
pub const DEFAULT_GRACE_MS: u64 = 30_000;
/// How long a stopped child has to end itself, unless set.
pub const DEFAULT_KILL_GRACE_MS: u64 = 5_000;
/// How long a run is kept after its end, unless set; the same as Prefect's free plan.
pub const DEFAULT_RETENTION_DAYS: u32 = 7;

/// Which orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrchestratorChoice {
    /// queue.db on this machine.
    Embedded,
    /// A Prefect 3 API.
    Prefect,
}

/// All settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Folder of queue.db; absolute.
    pub home: PathBuf,
    /// The orchestrator to use.
    pub orchestrator: OrchestratorChoice,
    /// Which setting chose it, for people.
    pub orchestrator_reason: String,
    /// Prefect's API, where one is configured, whether it is chosen or not.
    pub prefect: Option<PrefectSettings>,
    /// The configuration file that was read.
    pub config_file: Option<PathBuf>,
    /// The flows, built in and declared.
    pub flows: Flows,
    /// `CAPTIONACC_GRACE_MS`.
    pub grace_ms: u64,
    /// `CAPTIONACC_KILL_GRACE_MS`: how long a stopped child has to end itself before it is killed.
    pub kill_grace_ms: u64,
    /// `CAPTIONACC_LIMIT` or `[worker] limit`; none: what the pool has.
    pub limit: Option<u32>,
    /// `CAPTIONACC_RETENTION_DAYS` or `[worker] retention-days`.
    pub retention_days: u32,
    /// `CAPTIONACC_OCR_MODELS` or `[worker] ocr-models`.
    pub ocr_models: Option<PathBuf>,
    /// `CAPTIONACC_CHILD_MEMORY_MB` or `[worker] child-memory-mb`: most memory of a child with all that it started.
    pub child_memory_mb: u64,
    /// `CAPTIONACC_STALL_TIMEOUT_MS`: a child that says nothing for so long is stopped.
    pub stall_timeout_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ConfigFile {
    orchestrator: Option<String>,
    #[serde(default)]
    worker: WorkerTable,
    #[serde(default)]
    prefect: PrefectTable,
    #[serde(default)]
    flows: BTreeMap<String, FlowTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PrefectTable {
    when_unreachable: Option<WhenUnreachable>,
    runner_mode: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WorkerTable {
    limit: Option<u32>,
    grace_ms: Option<u64>,
    kill_grace_ms: Option<u64>,
    retention_days: Option<u32>,
    ocr_models: Option<PathBuf>,
    child_memory_mb: Option<u64>,
    stall_timeout_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FlowTable {
    description: Option<String>,
    command: Option<Vec<String>>,
    working_directory: Option<PathBuf>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    parameters: toml::Table,
    work_queue: Option<String>,
    timeout_ms: Option<u64>,
    retries: Option<u32>,
    retry_delay_ms: Option<u64>,
    latest_wins: Option<bool>,
    status_table: Option<String>,
    #[serde(default)]
    assets: Vec<String>,
    #[serde(default)]
    upstream_assets: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ParameterTable {
    #[serde(rename = "type")]
    kind: ParameterKind,
    default: Option<toml::Value>,
    #[serde(default)]
    description: String,
}

impl Settings {
    /// The address of Prefect's API, where one is configured.
    pub fn prefect_api_url(&self) -> Option<&str> {
        self.prefect.as_ref().map(|prefect| prefect.api_url.as_str())
    }

    /// Settings of this process.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`], naming the setting at fault.
    pub fn from_environment() -> Result<Self, OrchestratorError> {
        let working_directory = std::env::current_dir().map_err(|error| OrchestratorError::Config {
            origin: "working directory".to_owned(),
            problem: format!("it cannot be read: {error}"),
        })?;
        Self::load(&|name| std::env::var_os(name), &working_directory)
    }

    /// Settings of this environment. Pure but for the files that it reads.
    ///
    /// # Errors
    /// [`OrchestratorError::Config`], naming the setting at fault.
    pub fn load(
        environment: &dyn Fn(&str) -> Option<OsString>,
        working_directory: &Path,
    ) -> Result<Self, OrchestratorError> {
        let environment = Environment(environment);
        let home = match environment.path("CAPTIONACC_HOME") {
            Some(path) => working_directory.join(path),
            None => default_home()
                .ok_or_else(|| config("CAPTIONACC_HOME", "this user has no home directory: set it to a folder"))?,
        };
        let config_file = find_config_file(&environment, working_directory, &home)?;
        let file = match &config_file {
            Some(path) => read_config_file(path)?,
            None => ConfigFile::default(),
        };
        let origin = config_file
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let base = config_file
            .as_ref()
            .and_then(|path| path.parent())
            .unwrap_or(working_directory);

        let mut prefect = PrefectSettings::load(environment.0, working_directory)?;
        let (orchestrator, orchestrator_reason) = choose(&environment, &file, &origin, prefect.as_ref())?;
        if let (Some(prefect), Some(when), None) = (
            prefect.as_mut(),
            file.prefect.when_unreachable,
            environment.path("CAPTIONACC_WHEN_UNREACHABLE"),
        ) {
            prefect.when_unreachable = when;
        }
        if let (Some(prefect), Some(runner_mode), None) = (
            prefect.as_mut(),
            file.prefect.runner_mode,
            environment.path("CAPTIONACC_RUNNER_MODE"),
        ) {
            prefect.runner_mode = runner_mode;
        }

        let retry_delay_ms = environment.number("CAPTIONACC_RETRY_DELAY_MS", 0, 86_400_000)?;
        let mut flows = Flows::builtin();
        for (name, table) in &file.flows {
            declare(&mut flows, name, table, &origin, base)?;
        }
        if let Some(delay_ms) = retry_delay_ms {
            for name in flows.iter().map(|flow| flow.name.clone()).collect::<Vec<_>>() {
                if let Some(flow) = flows.get_mut(&name) {
                    flow.retry.delay_ms = delay_ms;
                }
            }
        }

        let limit = environment
            .number("CAPTIONACC_LIMIT", 1, 64)?
            .map(|limit| u32::try_from(limit).unwrap_or(64));
        let days = environment.number("CAPTIONACC_RETENTION_DAYS", 1, 36_500)?;
        let ranged = |value: Option<u64>, key: &str, least: u64, most: u64| match value {
            Some(value) if !(least..=most).contains(&value) => Err(config(
                &origin,
                format!("[worker] {key} = {value}: give a number from {least} to {most}"),
            )),
            value => Ok(value),
        };
        let file_limit =
            ranged(file.worker.limit.map(u64::from), "limit", 1, 64)?.and_then(|limit| u32::try_from(limit).ok());
        ranged(file.worker.retention_days.map(u64::from), "retention-days", 1, 36_500)?;
        Ok(Self {
            home,
            orchestrator,
            orchestrator_reason,
            prefect,
            flows,
            grace_ms: environment
                .number("CAPTIONACC_GRACE_MS", 0, 86_400_000)?
                .or(file.worker.grace_ms)
                .unwrap_or(DEFAULT_GRACE_MS),
            kill_grace_ms: environment
                .number("CAPTIONACC_KILL_GRACE_MS", 0, 86_400_000)?
                .or(file.worker.kill_grace_ms)
                .unwrap_or(DEFAULT_KILL_GRACE_MS),
            limit: limit.or(file_limit),
            retention_days: days
                .and_then(|days| u32::try_from(days).ok())
                .or(file.worker.retention_days)
                .unwrap_or(DEFAULT_RETENTION_DAYS),
            ocr_models: environment
                .path("CAPTIONACC_OCR_MODELS")
                .map(|path| working_directory.join(path))
                .or_else(|| file.worker.ocr_models.as_ref().map(|path| base.join(path))),
            child_memory_mb: environment
                .number("CAPTIONACC_CHILD_MEMORY_MB", 64, 1 << 20)?
                .or(ranged(file.worker.child_memory_mb, "child-memory-mb", 64, 1 << 20)?)
                .unwrap_or(4096),
            stall_timeout_ms: environment
                .number("CAPTIONACC_STALL_TIMEOUT_MS", 100, 86_400_000)?
                .or(ranged(
                    file.worker.stall_timeout_ms,
                    "stall-timeout-ms",
                    100,
                    86_400_000,
                )?)
                .unwrap_or(600_000),
            config_file,
        })
    }
}

/// Where queue.db lies unless set: this platform's data directory of this user, if the user has one.
pub fn default_home() -> Option<PathBuf> {
    directories::ProjectDirs::from("cc", "CaptionA", "captionacc").map(|directories| directories.data_dir().to_owned())
}

struct Environment<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    /// Set and not empty: an empty variable counts as unset.
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.0)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn text(&self, name: &str) -> Result<Option<String>, OrchestratorError> {
        self.path(name)
            .map(|value| {
                value
                    .into_os_string()
                    .into_string()
                    .map_err(|_| config(name, "is not UTF-8"))
            })
            .transpose()
    }

    fn number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, OrchestratorError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.trim().parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(config(
                name,
                format!("{text:?} is not a whole number from {least} to {most}"),
            )),
        }
    }
}

fn config(origin: &str, problem: impl Into<String>) -> OrchestratorError {
    OrchestratorError::Config {
        origin: origin.to_owned(),
        problem: problem.into(),
    }
}

fn find_config_file(
    environment: &Environment<'_>,
    working_directory: &Path,
    home: &Path,
) -> Result<Option<PathBuf>, OrchestratorError> {
    if let Some(path) = environment.path("CAPTIONACC_CONFIG") {
        let path = working_directory.join(path);
        return if path.is_file() {
            Ok(Some(path))
        } else {
            Err(config(
                "CAPTIONACC_CONFIG",
                format!("there is no file {}", path.display()),
            ))
        };
    }
    Ok([working_directory, home]
        .into_iter()
        .map(|folder| folder.join("captionacc.toml"))
        .find(|path| path.is_file()))
}

fn read_config_file(path: &Path) -> Result<ConfigFile, OrchestratorError> {
    let origin = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| config(&origin, format!("cannot be read: {error}")))?;
    toml::from_str(&text).map_err(|error| config(&origin, error.to_string().trim_end().to_owned()))
}

fn choose(
    environment: &Environment<'_>,
    file: &ConfigFile,
    origin: &str,
    prefect: Option<&PrefectSettings>,
) -> Result<(OrchestratorChoice, String), OrchestratorError> {
    let parse = |origin: &str, word: &str| match word {
        "embedded" => Ok(OrchestratorChoice::Embedded),
        "prefect" => Ok(OrchestratorChoice::Prefect),
        _ => Err(config(
            origin,
            format!(
                "{word:?} is no orchestrator{}: give embedded or prefect",
                did_you_mean(word, ["embedded", "prefect"])
            ),
        )),
    };
    if let Some(word) = environment.text("CAPTIONACC_ORCHESTRATOR")? {
        return Ok((
            parse("CAPTIONACC_ORCHESTRATOR", &word)?,
            format!("CAPTIONACC_ORCHESTRATOR={word}"),
        ));
    }
    if let Some(word) = &file.orchestrator {
        return Ok((parse(origin, word)?, format!("orchestrator = {word:?} in {origin}")));
    }
    Ok(match prefect {
        Some(prefect) => (OrchestratorChoice::Prefect, prefect.reason.clone()),
        None => (
            OrchestratorChoice::Embedded,
            "the default: no setting asks for Prefect".to_owned(),
        ),
    })
}

/// Adds the flow of a `[flows.NAME]` table, or adjusts a built-in one that it names.
fn declare(
    flows: &mut Flows,
    name: &str,
    table: &FlowTable,
    origin: &str,
    base: &Path,
) -> Result<(), OrchestratorError> {
    let fault = |problem: String| config(origin, format!("[flows.{name}] {problem}"));
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    {
        return Err(fault(
            "a flow's name has lowercase letters, digits and dashes, a letter first".to_owned(),
        ));
    }
    let builtin = flows.get(name).ok().cloned();
    let mut flow = builtin.clone().unwrap_or_else(|| FlowDefinition {
        name: name.to_owned(),
        description: String::new(),
        runner: Runner::Command(CommandRunner {
            command: Vec::new(),
            working_directory: None,
            environment: BTreeMap::new(),
        }),
        parameters: Vec::new(),
        work_queue: WorkQueue::Background,
        retry: RetryPolicy::default(),
        timeout_ms: DEFAULT_FLOW_TIMEOUT_MS,
        latest_wins: false,
        status_table: None,
        assets: Vec::new(),
        upstream_assets: Vec::new(),
    });
    if let Some(runner) = declared_command(table, base, builtin.is_some()).map_err(fault)? {
        flow.runner = Runner::Command(runner);
    }
    if let Some(description) = &table.description {
        flow.description.clone_from(description);
    }
    for (parameter, value) in &table.parameters {
        let definition = declared_parameter(parameter, value, base).map_err(fault)?;
        match flow.parameters.iter_mut().find(|known| known.name == *parameter) {
            Some(known) => *known = definition,
            None => flow.parameters.push(definition),
        }
    }
    if let Some(queue) = &table.work_queue {
        flow.work_queue = WorkQueue::parse(queue)
            .ok_or_else(|| fault(format!("work-queue = {queue:?}: give user-initiated or background")))?;
    }
    match table.timeout_ms {
        Some(0) => return Err(fault("timeout-ms = 0: give a number of milliseconds".to_owned())),
        Some(timeout_ms) => flow.timeout_ms = timeout_ms,
        None => {}
    }
    if let Some(retries) = table.retries {
        flow.retry.retries = retries;
    }
    if let Some(delay_ms) = table.retry_delay_ms {
        flow.retry.delay_ms = delay_ms;
    }
    if let Some(latest_wins) = table.latest_wins {
        flow.latest_wins = latest_wins;
    }
    flow.status_table = match table.status_table.as_deref() {
        None => flow.status_table,
        Some("processing_status") => Some(StatusTable::ProcessingStatus),
        Some("crop_frames_status") => Some(StatusTable::CropFramesStatus),
        Some(other) => {
            return Err(fault(format!(
                "status-table = {other:?}: give processing_status or crop_frames_status"
            )));
        }
    };
    if flow.status_table.is_some() && !flow.parameters.iter().any(|parameter| parameter.name == "db-path") {
        return Err(fault("status-table needs a parameter db-path of type path".to_owned()));
    }
    if !table.assets.is_empty() {
        flow.assets.clone_from(&table.assets);
    }
    if !table.upstream_assets.is_empty() {
        flow.upstream_assets.clone_from(&table.upstream_assets);
    }
    check_pipeline(&flow).map_err(fault)?;
    check_templates(&flow).map_err(fault)?;
    flows.insert(flow);
    Ok(())
}

/// The program of a `[flows.NAME]` table; a built-in flow needs none.
fn declared_command(table: &FlowTable, base: &Path, is_builtin: bool) -> Result<Option<CommandRunner>, String> {
    match &table.command {
        Some(command) if command.first().is_some_and(|program| !program.is_empty()) => Ok(Some(CommandRunner {
            command: command.clone(),
            working_directory: Some(
                table
                    .working_directory
                    .as_ref()
                    .map_or(base.to_owned(), |path| base.join(path)),
            ),
            environment: table.environment.clone(),
        })),
        Some(_) => Err("command is empty: give a program and its arguments".to_owned()),
        None if !is_builtin => Err("has no command: give one, as a list of a program and its arguments".to_owned()),
        None if table.working_directory.is_some() || !table.environment.is_empty() => {
            Err("working-directory and environment need a command".to_owned())
        }
        None => Ok(None),
    }
}

/// A parameter of a `[flows.NAME.parameters]` table.
fn declared_parameter(name: &str, value: &toml::Value, base: &Path) -> Result<ParameterDefinition, String> {
    check_parameter_name(name)?;
    let parsed: ParameterTable = value
        .clone()
        .try_into()
        .map_err(|error: toml::de::Error| format!("parameter {name}: {}", error.message()))?;
    let default = parsed
        .default
        .map(|value| serde_json::to_value(value).map_err(|error| format!("parameter {name}: {error}")))
        .transpose()?;
    let mut definition = ParameterDefinition {
        name: name.to_owned(),
        kind: parsed.kind,
        default: None,
        description: parsed.description,
    };
    if let Some(default) = default.filter(|value: &Value| !value.is_null()) {
        let parsed = definition.parse(&default, base);
        let parsed = parsed.map_err(|error| format!("its default: {error}"))?;
        // A number is shown as it was written.
        definition.default = Some(if default.is_number() { default } else { parsed });
    }
    Ok(definition)
}

/// A parameter is an option of `captionacc queue` as well, and must not be one that the command has itself.
fn check_parameter_name(name: &str) -> Result<(), String> {
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if !is_plain {
        return Err(format!(
            "parameter {name:?}: its name has letters, digits, dashes and underscores, a letter first"
        ));
    }
    if ["help", "idempotency-key"].contains(&name) {
        return Err(format!(
            "parameter {name:?}: the name is taken by an option of captionacc queue"
        ));
    }
    Ok(())
}

/// A pipeline knows what it takes: only a default of its parameters can be another one.
fn check_pipeline(flow: &FlowDefinition) -> Result<(), String> {
    if matches!(flow.runner, Runner::Command(_)) {
        return Ok(());
    }
    let flows = Flows::builtin();
    let known = &flows.get(&flow.name).map_err(|error| error.to_string())?.parameters;
    for parameter in &flow.parameters {
        match known.iter().find(|known| known.name == parameter.name) {
            Some(known) if known.kind == parameter.kind => {}
            Some(_) => {
                return Err(format!(
                    "parameter {}: {} takes it in its own type",
                    parameter.name, flow.name
                ));
            }
            None => {
                return Err(format!(
                    "parameter {}: {} takes none of this name",
                    parameter.name, flow.name
                ));
            }
        }
    }
    Ok(())
}

/// Every `{parameter}` of a flow's templates is one of its parameters: found out now rather than in a run.
fn check_templates(flow: &FlowDefinition) -> Result<(), String> {
    let placeholders: serde_json::Map<String, Value> = flow
        .parameters
        .iter()
        .map(|parameter| (parameter.name.clone(), Value::from("x")))
        .collect();
    let placeholders = Parameters(placeholders);
    let command: &[String] = match &flow.runner {
        Runner::Command(runner) => &runner.command,
        Runner::FullFrames | Runner::CropFrames => &[],
    };
    for template in command.iter().chain(&flow.assets).chain(&flow.upstream_assets) {
        fill(template, &placeholders)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)], config: &str) -> Result<Settings, String> {
        let folder = tempfile::tempdir().expect("a folder");
        if !config.is_empty() {
            fs::write(folder.path().join("captionacc.toml"), config).expect("written");
        }
        let variables: BTreeMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::load(&|name| variables.get(name).map(OsString::from), folder.path())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_set_is_the_embedded_orchestrator() {
        let settings = load(&[], "").expect("valid");
        assert_eq!(settings.orchestrator, OrchestratorChoice::Embedded);
        assert_eq!(
            (settings.grace_ms, settings.retention_days, settings.limit),
            (30_000, 7, None)
        );
    }

    #[test]
    fn the_environment_goes_before_the_file_and_the_file_before_prefects_own_settings() {
        let url = ("PREFECT_API_URL", "http://localhost:4200/api");
        for (variables, config, expected) in [
            (vec![url], "", OrchestratorChoice::Prefect),
            (vec![url], "orchestrator = \"embedded\"", OrchestratorChoice::Embedded),
            (
                vec![("CAPTIONACC_ORCHESTRATOR", "prefect")],
                "orchestrator = \"embedded\"",
                OrchestratorChoice::Prefect,
            ),
        ] {
            assert_eq!(
                load(&variables, config).expect("valid").orchestrator,
                expected,
                "{variables:?} {config}"
            );
        }
    }

    #[test]
    fn the_active_prefect_profile_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(
            folder.path().join("profiles.toml"),
            "active = \"cloud\"\n[profiles.cloud]\nPREFECT_API_URL = \"https://example.com/api\"\n",
        )
        .expect("written");
        let settings = load(&[("PREFECT_HOME", folder.path().to_str().expect("UTF-8"))], "").expect("valid");
        assert_eq!(settings.orchestrator, OrchestratorChoice::Prefect);
        assert!(
            settings.orchestrator_reason.contains("\"cloud\""),
            "{}",
            settings.orchestrator_reason
        );
    }

    #[test]
    fn a_program_is_declared_as_a_flow() {
        let settings = load(
            &[],
            r#"
            [flows.train]
            command = ["python3", "train.py", "--version={version}"]
            work-queue = "background"
            retries = 0
            assets = ["models://boundary-detection-{version}"]
            [flows.train.parameters.version]
            type = "text"
            "#,
        )
        .expect("valid");
        let flow = settings.flows.get("train").expect("declared");
        assert_eq!(flow.retry.retries, 0);
        assert!(matches!(&flow.runner, Runner::Command(runner) if runner.command.len() == 3));
    }

    #[test]
    fn faults_of_the_configuration_are_named() {
        for (variables, config, expected) in [
            (
                vec![("CAPTIONACC_ORCHESTRATOR", "embeded")],
                "",
                "did you mean \"embedded\"",
            ),
            (vec![("CAPTIONACC_LIMIT", "0")], "", "CAPTIONACC_LIMIT"),
            (
                vec![("CAPTIONACC_GRACE_MS", "soon")],
                "",
                "\"soon\" is not a whole number",
            ),
            (vec![("CAPTIONACC_CONFIG", "nowhere.toml")], "", "there is no file"),
            (vec![], "limt = 3", "limt"),
            (vec![], "[worker]\nlimit = 0", "limit = 0"),
            (vec![], "[flows.train]\n", "has no command"),
            (
                vec![],
                "[flows.full-frames.parameters.frame-rate]\ntype = \"text\"",
                "its own type",
            ),
            (
                vec![],
                "[flows.full-frames.parameters.rate]\ntype = \"number\"",
                "takes none of this name",
            ),
            (
                vec![],
                "[flows.full-frames.parameters.frame-rate]\ntype = \"frame-rate\"\ndefault = 0",
                "not a frame rate",
            ),
            (vec![], "[flows.Train]\ncommand = [\"x\"]", "lowercase"),
            (vec![], "[flows.train]\ncommand = [\"x\", \"{nope}\"]", "nope"),
            (
                vec![],
                "[flows.train]\ncommand = [\"x\"]\nparameters.'a b' = { type = 'text' }",
                "a letter first",
            ),
            (
                vec![],
                "[flows.train]\ncommand = [\"x\"]\nparameters.help = { type = 'text' }",
                "is taken",
            ),
            (
                vec![],
                "[flows.train]\ncommand = [\"x\"]\nwork-queue = \"fast\"",
                "user-initiated or background",
            ),
            (
                vec![],
                "[flows.train]\ncommand = [\"x\"]\nstatus-table = \"processing_status\"",
                "db-path",
            ),
        ] {
            let error = load(&variables, config).expect_err("refused");
            assert!(error.contains(expected), "{config}: {error}");
        }
    }
}
