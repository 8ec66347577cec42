//! The flows that `captionacc.toml` declares or adjusts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::sources::{Sources, fault};
use super::table::RETRY_DELAY_MS;
use crate::domain::error::{OrchestratorError, did_you_mean};
use crate::domain::flow::{
    CommandRunner, DEFAULT_FLOW_TIMEOUT_MS, FlowDefinition, Flows, ParameterDefinition, ParameterKind, Parameters,
    RetryPolicy, Runner, StatusTable, WorkQueue, fill,
};

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

/// The built-in flows, and those of the `[flows.NAME]` tables.
pub(super) fn load(sources: &Sources) -> Result<Flows, OrchestratorError> {
    let mut flows = Flows::builtin();
    let file = sources.config_file.as_deref().unwrap_or(Path::new(""));
    let origin = &file.display().to_string();
    // Against which relative paths in it are meant.
    let base = file.parent().unwrap_or(Path::new(""));
    for (name, table) in &sources.flows {
        let fault = |problem: String| fault(origin, format!("[flows.{name}] {problem}"));
        let table: FlowTable = table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| fault(with_suggestion(error.message())))?;
        if let Some(delay_ms) = table.retry_delay_ms {
            let checked = RETRY_DELAY_MS.kind.check(&delay_ms.to_string());
            checked.map_err(|problem| fault(format!("retry-delay-ms: {problem}")))?;
        }
        declare(&mut flows, name, &table, origin, base)?;
    }
    if let Some(delay_ms) = sources.number(&RETRY_DELAY_MS)? {
        for name in flows.iter().map(|flow| flow.name.clone()).collect::<Vec<_>>() {
            if let Some(flow) = flows.get_mut(&name) {
                flow.retry.delay_ms = delay_ms;
            }
        }
    }
    Ok(flows)
}

/// What serde says of an unknown field, "unknown field `x`, expected one of `a`, `b`", with the one that was meant.
fn with_suggestion(message: &str) -> String {
    let message = message.trim_end();
    let mut words = message.split('`').skip(1).step_by(2);
    match words.next() {
        Some(word) if message.starts_with("unknown field") => {
            format!(
                "unknown key {word:?}{} (known: {})",
                did_you_mean(word, words.clone()),
                words.collect::<Vec<_>>().join(", ")
            )
        }
        _ => message.to_owned(),
    }
}

/// Adds the flow of a `[flows.NAME]` table, or adjusts a built-in one that it names.
fn declare(
    flows: &mut Flows,
    name: &str,
    table: &FlowTable,
    origin: &str,
    base: &Path,
) -> Result<(), OrchestratorError> {
    let fault = |problem: String| fault(origin, format!("[flows.{name}] {problem}"));
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
        keeps_captions: false,
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
        // A path is meant from where the program starts.
        let folder = table
            .working_directory
            .as_ref()
            .map_or(base.to_owned(), |path| base.join(path));
        let definition = declared_parameter(parameter, value, &folder).map_err(fault)?;
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
    if definition.kind == ParameterKind::Text && default == Some(Value::from("")) {
        // "Nothing" is a default, though no caller may give it.
        definition.default = default;
    } else if let Some(default) = default.filter(|value: &Value| !value.is_null()) {
        let parsed = definition.parse(&default, base);
        let parsed = parsed.map_err(|error| format!("its default: {error}"))?;
        // A number is shown as it was written; `2.0` is the whole number 2.
        let is_as_written = default.is_number() && definition.kind != ParameterKind::PositiveInteger;
        definition.default = Some(if is_as_written { default } else { parsed });
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
            Some(known) if known.kind == ParameterKind::OnDamage && known.default != parameter.default => {
                return Err(format!(
                    "parameter {}: its default is not to be changed, a caller asks for it",
                    parameter.name
                ));
            }
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
        Runner::FullFrames | Runner::CropFrames | Runner::CaptionMedianOcr => &[],
    };
    for template in command.iter().chain(&flow.assets).chain(&flow.upstream_assets) {
        fill(template, &placeholders)?;
    }
    Ok(())
}
