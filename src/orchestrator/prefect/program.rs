//! The program of a run that is not ours, as Prefect's own process worker would start it: the pool's base job template,
//! filled from job variables, and what Prefect's engine reads from its environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::client::{Call, PrefectClient, segment};
use super::control::ControlChannel;
use super::model::ApiFlowRun;
use crate::domain::prefect_error::PrefectError;
use crate::orchestrator::claims::Program;
use crate::settings::prefect::Credentials;

/// Asks for what the program of a run consists of. The error is for people.
pub(super) async fn program_of(
    client: &PrefectClient,
    run: &ApiFlowRun,
    flow_name: &str,
    worker_name: &str,
    control: Option<&ControlChannel>,
) -> Result<Program, String> {
    let said = |error: PrefectError| error.to_string();
    let deployment_id = run.deployment_id.ok_or("it has no deployment")?;
    // Its job variables may have changed since its name was read.
    let deployment = client.read_deployment(deployment_id).await.map_err(said)?;
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
    let mut words = configuration.command.into_iter();
    let mut environment: BTreeMap<String, String> = [
        ("PREFECT_API_URL", client.address().to_owned()),
        ("PREFECT__FLOW_RUN_ID", run.id.to_string()),
        ("PREFECT__FLOW_ID", run.flow_id.to_string()),
        ("PREFECT__FLOW_NAME", flow_name.to_owned()),
        ("PREFECT__DEPLOYMENT_ID", deployment.id.to_string()),
        ("PREFECT__DEPLOYMENT_NAME", deployment.name),
        ("PREFECT__WORKER_NAME", worker_name.to_owned()),
        ("PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS", "false".to_owned()),
    ]
    .into_iter()
    .chain(control.into_iter().flat_map(ControlChannel::environment))
    .chain(match &client.settings().credentials {
        Credentials::None => None,
        Credentials::ApiKey(key) => Some(("PREFECT_API_KEY", key.reveal().to_owned())),
        Credentials::AuthString(text) => Some(("PREFECT_API_AUTH_STRING", text.reveal().to_owned())),
    })
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    environment.extend(configuration.environment);
    Ok(Program {
        command: present(words.next().unwrap_or_default()),
        arguments: words.collect(),
        environment,
        working_directory: configuration.working_directory,
        shows_output: configuration.stream_output,
    })
}

/// Debian has no `python`.
fn present(command: String) -> String {
    let is_there = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    };
    if command == "python" && !is_there("python") && is_there("python3") {
        return "python3".to_owned();
    }
    command
}

/// How a run's program is started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct JobConfiguration {
    /// Program and arguments.
    command: Vec<String>,
    /// Added to the worker's own environment.
    environment: BTreeMap<String, String>,
    /// Where it starts; none: a temporary folder.
    working_directory: Option<PathBuf>,
    /// Whether the worker shows what it writes.
    stream_output: bool,
}

impl JobConfiguration {
    /// The configuration of a run: the pool's template, filled from the defaults of its variables, the deployment's
    /// job variables and the run's, later ones first; `env` of the latter two is merged.
    ///
    /// `workspace_variables` are the values of `{{ prefect.variables.NAME }}`.
    ///
    /// The error names the field at fault.
    fn resolve(
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
        let fields = template.get("job_configuration").cloned().unwrap_or_else(|| {
            json!({ "command": "{{ command }}", "env": "{{ env }}", "working_dir": "{{ working_dir }}",
                "stream_output": "{{ stream_output }}" })
        });
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
            stream_output: fill("stream_output")? != Some(Value::Bool(false)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(template: &Value, deployment: &Value, run: &Value) -> Result<JobConfiguration, String> {
        let workspace = BTreeMap::from([("bucket".to_owned(), json!("b1"))]);
        JobConfiguration::resolve(template, deployment.as_object(), run.as_object(), &workspace)
    }

    fn process_template() -> Value {
        serde_json::from_str(include_str!("../../cli/process_job_template.json")).expect("JSON")
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
