//! Prefect's runs as ours. What Prefect has no field for is kept so:
//!
//! - attempts begun: label `captionacc.attempt`, at least `run_count`;
//! - failed attempts: label `captionacc.failed-attempts`;
//! - the run that took its place: the message of its state, `superseded by flow run …`;
//! - progress: the artifact `progress-{flow}` of the run, its parts in the artifact's metadata;
//! - the attempt of a log line: the logger's name, `captionacc.attempt-2`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::model::{ApiArtifact, ApiFlowRun, ApiLog, ApiState, ApiTaskRun};
use crate::domain::error::OrchestratorError;
use crate::domain::flow::{Parameters, Subject, WorkQueue};
use crate::domain::flow_run::{Artifact, ArtifactType, FlowRun, LogLevel, LogLine, Progress, State, TaskRun};
use crate::domain::id::FlowRunId;
use crate::domain::state::{StateName, StateType};

pub(super) const ATTEMPT: &str = "captionacc.attempt";
pub(super) const FAILED_ATTEMPTS: &str = "captionacc.failed-attempts";
pub(super) const WORKER_NAME: &str = "prefect.worker.name";
const SUPERSEDED_BY: &str = "superseded by flow run ";
const LOGGER: &str = "captionacc.attempt-";

/// Why a run is cancelled for a newer one.
pub(super) fn superseded_message(newer: FlowRunId) -> String {
    format!("{SUPERSEDED_BY}{newer}")
}

/// The run that a message of [`superseded_message`] names.
pub(super) fn superseded_by(message: Option<&str>) -> Option<FlowRunId> {
    message?.strip_prefix(SUPERSEDED_BY)?.get(..36)?.parse().ok()
}

pub(super) fn state(state: &ApiState) -> State {
    State {
        state_type: state.state_type(),
        name: state.state_name(),
        message: state.message.clone(),
        timestamp: state.timestamp,
    }
}

/// The run; `flow_name` and `deployment` were looked up, `queue` is what its flow says where the server's is another.
pub(super) fn flow_run(
    run: &ApiFlowRun,
    flow_name: String,
    deployment: String,
    queue: WorkQueue,
    progress: Option<Progress>,
) -> FlowRun {
    let scheduled_at = run
        .state
        .as_ref()
        .and_then(|state| state.state_details.scheduled_time)
        .or(run.next_scheduled_start_time)
        .or(run.expected_start_time)
        .unwrap_or(run.created);
    let mut own_state = run.state.as_ref().map_or_else(
        || State {
            state_type: StateType::Scheduled,
            name: StateName::Scheduled,
            message: None,
            timestamp: run.created,
        },
        state,
    );
    own_state.name = own_state
        .name
        .seen_at(scheduled_at.as_millisecond(), Timestamp::now().as_millisecond());
    let count = |name: &str| run.label(name).and_then(|text| text.parse::<u32>().ok());
    let is_held = own_state.state_type.holds_slot();
    let parameters = Parameters(run.parameters.clone());
    let subject = Subject::of(&parameters);
    FlowRun {
        flow_run_id: FlowRunId::from_uuid(run.id),
        flow_name,
        deployment,
        parameters,
        video_id: subject.video_id,
        db_path: subject.db_path,
        priority: run
            .work_queue_name
            .as_deref()
            .and_then(WorkQueue::parse)
            .unwrap_or(queue),
        tags: run.tags.clone(),
        attempt: count(ATTEMPT).unwrap_or(0).max(run.run_count),
        failed_attempts: count(FAILED_ATTEMPTS).unwrap_or(0),
        progress,
        superseded_by: superseded_by(own_state.message.as_deref()),
        worker_name: run.label(WORKER_NAME),
        pid: run
            .infrastructure_pid
            .as_ref()
            .filter(|_| is_held)
            .and_then(|pid| pid.parse().ok()),
        created_at: run.created,
        scheduled_at,
        started_at: run.start_time,
        ended_at: run.end_time.filter(|_| own_state.state_type.is_final()),
        state: own_state,
    }
}

pub(super) fn task_run(task_run: &ApiTaskRun) -> TaskRun {
    let started_at = task_run.start_time.unwrap_or(task_run.created);
    TaskRun {
        task_run_id: task_run.id,
        attempt: task_run.flow_run_run_count,
        name: task_run.name.clone(),
        run_count: task_run.run_count,
        state: task_run.state.as_ref().map_or(
            State {
                state_type: StateType::Pending,
                name: StateName::Pending,
                message: None,
                timestamp: task_run.created,
            },
            state,
        ),
        started_at,
        ended_at: task_run.end_time,
    }
}

/// Level numbers are those of Python's `logging`.
pub(super) const fn level_number(level: LogLevel) -> i32 {
    match level {
        LogLevel::Debug => 10,
        LogLevel::Info => 20,
        LogLevel::Warning => 30,
        LogLevel::Error => 40,
    }
}

pub(super) fn logger(attempt: u32) -> String {
    format!("{LOGGER}{attempt}")
}

pub(super) fn log_line(line: ApiLog) -> LogLine {
    LogLine {
        attempt: line
            .name
            .strip_prefix(LOGGER)
            .and_then(|attempt| attempt.parse().ok())
            .unwrap_or(0),
        level: match line.level {
            ..=19 => LogLevel::Debug,
            20..=29 => LogLevel::Info,
            30..=39 => LogLevel::Warning,
            _ => LogLevel::Error,
        },
        message: line.message,
        timestamp: line.timestamp,
    }
}

/// Prefect knows no link type: a link is Markdown that says in its metadata what it was.
pub(super) fn artifact_body(key: &str, artifact_type: &str, data: &Value, token: &str) -> Value {
    let mut metadata = json!({ "captionacc.token": token });
    let (api_type, api_data) = match (artifact_type, data) {
        ("table", rows) => ("table", Value::String(rows.to_string())),
        ("link", Value::String(url)) => {
            metadata["captionacc.link"] = json!(url);
            let is_safe = url.starts_with("http://") || url.starts_with("https://");
            let shown = url.replace(['[', ']', '(', ')', '<', '>'], "");
            let text = if is_safe {
                format!("[{shown}]({shown})")
            } else {
                format!("`{}`", url.replace('`', ""))
            };
            ("markdown", Value::String(text))
        }
        ("progress", number) => ("progress", number.clone()),
        (_, Value::String(text)) => ("markdown", Value::String(text.clone())),
        (_, other) => ("markdown", Value::String(other.to_string())),
    };
    json!({ "key": artifact_key(key), "type": api_type, "data": api_data, "metadata_": metadata })
}

/// Prefect's keys have lowercase letters, digits and dashes.
pub(super) fn artifact_key(key: &str) -> String {
    key.to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .collect()
}

/// `None` for what is no artifact of a reader's interest: results of states, progress.
pub(super) fn artifact(artifact: &ApiArtifact) -> Option<Artifact> {
    let key = artifact.key.clone()?;
    let link = artifact
        .metadata_
        .as_ref()
        .and_then(|metadata| metadata.get("captionacc.link"))
        .filter(|link| link.is_string());
    let (artifact_type, data) = match (artifact.artifact_type.as_deref()?, link) {
        ("table", _) => {
            let data = match &artifact.data {
                Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| artifact.data.clone()),
                other => other.clone(),
            };
            (ArtifactType::Table, data)
        }
        ("markdown", Some(link)) => (ArtifactType::Link, link.clone()),
        ("markdown", None) => (ArtifactType::Markdown, artifact.data.clone()),
        _ => return None,
    };
    Some(Artifact {
        key,
        artifact_type,
        description: artifact.description.clone(),
        data,
        timestamp: artifact.created,
    })
}

/// The artifact that shows how far a run is.
pub(super) fn progress_body(progress: &Progress) -> Value {
    let total = progress.total.map_or_else(|| "?".to_owned(), |total| total.to_string());
    json!({
        "data": (progress.fraction * 1000.0).round() / 10.0,
        "description": format!("{}: {}/{total} {}", progress.task, progress.done, progress.unit),
        "metadata_": { "captionacc.progress": serde_json::to_string(progress).expect("plain values") },
    })
}

pub(super) fn progress(artifacts: &[ApiArtifact]) -> Option<Progress> {
    artifacts
        .iter()
        .filter(|artifact| artifact.artifact_type.as_deref() == Some("progress"))
        .filter_map(|artifact| {
            let text = artifact.metadata_.as_ref()?.get("captionacc.progress")?.as_str()?;
            serde_json::from_str::<Progress>(text).ok()
        })
        .max_by_key(|progress| progress.timestamp)
}

/// Refuses what a Prefect server would take for an instruction: it puts secrets and templates in the place of objects
/// with such a key.
pub(super) fn refuse_instructions(parameters: &Parameters) -> Result<(), OrchestratorError> {
    fn has_instruction(value: &Value) -> bool {
        match value {
            Value::Object(object) => object.contains_key("__prefect_kind") || object.values().any(has_instruction),
            Value::Array(items) => items.iter().any(has_instruction),
            _ => false,
        }
    }
    for (name, value) in &parameters.0 {
        if name == "__prefect_kind" || has_instruction(value) {
            return Err(OrchestratorError::InvalidArgument {
                argument: name.clone(),
                problem: "it has a key \"__prefect_kind\", which Prefect would take for an instruction".to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_refused_wherever_it_hides() {
        let refused = |value: Value| refuse_instructions(&Parameters(value.as_object().expect("an object").clone()));
        assert!(refused(json!({"a": {"b": [1, {"left": 2}]}})).is_ok());
        for value in [
            json!({"__prefect_kind": "json"}),
            json!({"a": {"__prefect_kind": "jinja"}}),
            json!({"a": [[{"b": {"__prefect_kind": "workspace_variable"}}]]}),
        ] {
            let error = refused(value).expect_err("refused");
            assert_eq!(error.code(), "ERR_CAPTIONACC_INVALID_ARGUMENT");
        }
    }

    #[test]
    fn the_newer_run_is_read_from_the_message_and_nothing_else_is() {
        let newer = FlowRunId::generate();
        assert_eq!(superseded_by(Some(&superseded_message(newer))), Some(newer));
        for message in [
            None,
            Some("superseded by flow run soon"),
            Some("superseded by flow run \u{e9}"),
        ] {
            assert_eq!(superseded_by(message), None);
        }
    }

    #[test]
    fn a_link_comes_back_as_it_was() {
        let body = artifact_body("My Key", "link", &json!("file:///tmp/a"), "t");
        assert_eq!(
            (body["key"].as_str(), body["type"].as_str()),
            (Some("my-key"), Some("markdown"))
        );
        let read = artifact(&ApiArtifact {
            id: uuid::Uuid::nil(),
            key: Some("my-key".to_owned()),
            artifact_type: Some("markdown".to_owned()),
            description: None,
            flow_run_id: None,
            data: body["data"].clone(),
            metadata_: body["metadata_"].as_object().cloned(),
            created: Timestamp::UNIX_EPOCH,
        })
        .expect("an artifact");
        assert_eq!(
            (read.artifact_type, read.data),
            (ArtifactType::Link, json!("file:///tmp/a"))
        );
    }
}
