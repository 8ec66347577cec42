//! The flows: their parameters, defaults, work queue, retry policy and assets.
//!
//! A flow is built in (`full-frames`, `crop-frames`) or declared in `captionacc.toml` with a program as its runner.
//! Everything that a caller hands over is checked here, once, before anything is stored: what comes out of
//! [`FlowDefinition::parse_arguments`] is complete and typed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::domain::error::{OrchestratorError, did_you_mean};

/// The work pool of this project.
pub const WORK_POOL: &str = "video-processing-pool";
/// How many flow runs the pool runs at once unless told otherwise.
pub const DEFAULT_CONCURRENCY_LIMIT: u32 = 2;

/// Longest text that an argument may have, in bytes: a longer one is a mistake or an attack.
const MAX_ARGUMENT_BYTES: usize = 32 * 1024;

/// A work queue: runs of a lower number are claimed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkQueue {
    /// A person waits for the run.
    UserInitiated,
    /// Nobody waits.
    Background,
}

impl WorkQueue {
    /// Both queues, first one first.
    pub const ALL: [Self; 2] = [Self::UserInitiated, Self::Background];

    /// 1 is claimed before 2.
    pub const fn priority(self) -> u8 {
        match self {
            Self::UserInitiated => 1,
            Self::Background => 2,
        }
    }

    /// The queue's name, which is also the `priority` that Node callers see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserInitiated => "user-initiated",
            Self::Background => "background",
        }
    }

    /// The queue of a stored or configured name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.as_str() == name)
    }
}

/// The status table of annotations.db that a flow keeps for the web app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusTable {
    /// `processing_status`, of full-frames.
    ProcessingStatus,
    /// `crop_frames_status`, of crop-frames.
    CropFramesStatus,
}

/// Crop bounds in pixels of the full frame in display orientation; right and bottom are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CropBounds {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Column after the last.
    pub right: u32,
    /// Row after the last.
    pub bottom: u32,
}

/// What form an argument has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterKind {
    /// Any text that is not empty.
    Text,
    /// A local path; made absolute against the caller's working directory.
    Path,
    /// A number.
    Number,
    /// A number above 0, in Hz.
    FrameRate,
    /// A whole number from 1.
    PositiveInteger,
    /// [`CropBounds`], as JSON text or as an object.
    CropBounds,
}

/// One parameter of a flow.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterDefinition {
    /// The name as on the old command line: `video-id`.
    pub name: String,
    /// Its form.
    pub kind: ParameterKind,
    /// The value if the caller gives none; a parameter without one is required.
    pub default: Option<Value>,
    /// One line for help texts and schemas.
    pub description: String,
}

/// Who does the work of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runner {
    /// The pipeline `full-frames` of this crate.
    FullFrames,
    /// The pipeline `crop-frames` of this crate.
    CropFrames,
    /// An external program.
    Command(CommandRunner),
}

/// An external program as a flow's runner. Never a shell: each element is one argument.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CommandRunner {
    /// Program and arguments; `{parameter}` is replaced by the argument's value, `{{` and `}}` are braces.
    pub command: Vec<String>,
    /// Where the program starts; absolute once the settings are read.
    pub working_directory: Option<PathBuf>,
    /// Added to the environment of the program.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// When and how often a failed flow run is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Further attempts after the first.
    pub retries: u32,
    /// Wait before the first further attempt; it doubles with each, with a jitter of 20 %.
    pub delay_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 3,
            delay_ms: 60_000,
        }
    }
}

impl RetryPolicy {
    /// Longest wait between two attempts.
    const MAX_DELAY_MS: u64 = 3_600_000;

    /// How long to wait after `failed_attempts` attempts failed; `chance` is in 0..1. `None`: it is final.
    pub fn delay_after_ms(&self, failed_attempts: u32, chance: f64) -> Option<u64> {
        if failed_attempts > self.retries {
            return None;
        }
        let doublings = failed_attempts.saturating_sub(1).min(16);
        let base = self.delay_ms.saturating_mul(1 << doublings).min(Self::MAX_DELAY_MS);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most an hour in ms"
        )]
        let jittered = (base as f64 * (0.8 + 0.4 * chance.clamp(0.0, 1.0))) as u64;
        Some(jittered)
    }
}

/// A flow and its deployment's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowDefinition {
    /// `full-frames`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Who does the work.
    pub runner: Runner,
    /// In the order of help texts.
    pub parameters: Vec<ParameterDefinition>,
    /// Where its runs wait.
    pub work_queue: WorkQueue,
    /// When a failed run is tried again.
    pub retry: RetryPolicy,
    /// Longest time of one attempt.
    pub timeout_ms: u64,
    /// Whether a newer run for the same video supersedes an older one, also a running one.
    pub latest_wins: bool,
    /// The status table that the web app polls, if any.
    pub status_table: Option<StatusTable>,
    /// Asset keys that a completed run materializes, with `{parameter}` (command flows; built-in flows know theirs).
    pub assets: Vec<String>,
    /// Asset keys that it reads.
    pub upstream_assets: Vec<String>,
}

/// Longest time of one attempt unless told otherwise: 4 hours.
pub const DEFAULT_FLOW_TIMEOUT_MS: u64 = 4 * 3_600_000;

impl FlowDefinition {
    /// `full-frames/production`.
    pub fn deployment(&self) -> String {
        format!("{}/production", self.name)
    }

    /// Tags of a run: flow, queue and, where there is one, the video.
    pub fn tags(&self, arguments: &Arguments) -> Vec<String> {
        let mut tags = vec![self.name.clone(), self.work_queue.as_str().to_owned()];
        if let Some(video_id) = arguments.text("video-id") {
            tags.push(format!("video:{video_id}"));
        }
        tags
    }

    /// Checks and completes what a caller gave.
    ///
    /// Values may be text or, where they are numbers or bounds, JSON numbers or objects; `null` counts as absent.
    /// Paths become absolute against `working_directory`. Nothing outside the arguments is looked at: whether the
    /// files exist is found out where the work is done.
    ///
    /// # Errors
    /// [`OrchestratorError::InvalidArgument`], naming the argument.
    pub fn parse_arguments(
        &self,
        given: &Map<String, Value>,
        working_directory: &Path,
    ) -> Result<Arguments, OrchestratorError> {
        for name in given.keys() {
            if !self.parameters.iter().any(|parameter| parameter.name == *name) {
                let names: Vec<&str> = self
                    .parameters
                    .iter()
                    .map(|parameter| parameter.name.as_str())
                    .collect();
                return Err(invalid(
                    name,
                    format!(
                        "unknown argument of flow {:?}{} (it takes {})",
                        self.name,
                        did_you_mean(name, names.iter().copied()),
                        names.join(", ")
                    ),
                ));
            }
        }
        let mut arguments = Map::new();
        for parameter in &self.parameters {
            let value = match given.get(&parameter.name) {
                None | Some(Value::Null) => match &parameter.default {
                    Some(default) => default.clone(),
                    None => {
                        return Err(invalid(
                            &parameter.name,
                            format!("missing: flow {:?} needs it ({})", self.name, parameter.description),
                        ));
                    }
                },
                Some(value) => parameter.parse(value, working_directory)?,
            };
            arguments.insert(parameter.name.clone(), value);
        }
        Ok(Arguments(arguments))
    }

    /// JSON schema of the parameters, as Prefect's deployments carry it.
    pub fn parameter_schema(&self) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (position, parameter) in self.parameters.iter().enumerate() {
            let mut schema = match parameter.kind {
                ParameterKind::Text | ParameterKind::Path => json!({"type": "string", "minLength": 1}),
                ParameterKind::Number => json!({"type": "number"}),
                ParameterKind::FrameRate => json!({"type": "number", "exclusiveMinimum": 0}),
                ParameterKind::PositiveInteger => json!({"type": "integer", "minimum": 1}),
                ParameterKind::CropBounds => json!({
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["left", "top", "right", "bottom"],
                    "properties": {
                        "left": {"type": "integer", "minimum": 0},
                        "top": {"type": "integer", "minimum": 0},
                        "right": {"type": "integer", "minimum": 1},
                        "bottom": {"type": "integer", "minimum": 1},
                    },
                }),
            };
            schema["title"] = json!(parameter.name);
            schema["description"] = json!(parameter.description);
            schema["position"] = json!(position);
            match &parameter.default {
                Some(default) => schema["default"] = default.clone(),
                None => required.push(parameter.name.clone()),
            }
            properties.insert(parameter.name.clone(), schema);
        }
        json!({
            "title": "Parameters",
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
            "definitions": {},
        })
    }
}

impl ParameterDefinition {
    fn parse(&self, value: &Value, working_directory: &Path) -> Result<Value, OrchestratorError> {
        let name = &self.name;
        match self.kind {
            ParameterKind::Text => Ok(json!(text(name, value)?)),
            ParameterKind::Path => {
                let path = local_path(name, text(name, value)?, working_directory)?;
                Ok(json!(path))
            }
            ParameterKind::Number => Ok(json!(number(name, value)?)),
            ParameterKind::FrameRate => {
                let rate = number(name, value)?;
                if rate <= 0.0 {
                    return Err(invalid(
                        name,
                        format!("{rate} is not a frame rate: give a number of Hz above 0"),
                    ));
                }
                Ok(json!(rate))
            }
            ParameterKind::PositiveInteger => {
                let number = number(name, value)?;
                if number.fract() != 0.0 || !(1.0..=f64::from(i32::MAX)).contains(&number) {
                    return Err(invalid(
                        name,
                        format!("{number} is not a whole number from 1 to {}", i32::MAX),
                    ));
                }
                #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number in range")]
                Ok(json!(number as i64))
            }
            ParameterKind::CropBounds => crop_bounds(name, value).map(|bounds| json!(bounds)),
        }
    }
}

fn invalid(argument: &str, problem: impl Into<String>) -> OrchestratorError {
    OrchestratorError::InvalidArgument {
        argument: argument.to_owned(),
        problem: problem.into(),
    }
}

/// A value for an error message: JSON, shortened.
fn shown(value: &Value) -> String {
    let mut text: String = value.to_string().chars().take(80).collect();
    if text.len() < value.to_string().len() {
        text.push('…');
    }
    text
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, OrchestratorError> {
    let Value::String(text) = value else {
        return Err(invalid(name, format!("{} is not text", shown(value))));
    };
    if text.trim().is_empty() {
        return Err(invalid(name, "empty: give a value"));
    }
    if text.contains('\0') {
        return Err(invalid(name, "contains a NUL character"));
    }
    if text.len() > MAX_ARGUMENT_BYTES {
        return Err(invalid(name, format!("longer than {MAX_ARGUMENT_BYTES} bytes")));
    }
    Ok(text)
}

fn number(name: &str, value: &Value) -> Result<f64, OrchestratorError> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number {
        Some(number) if number.is_finite() => Ok(number),
        _ => Err(invalid(name, format!("{} is not a finite number", shown(value)))),
    }
}

/// Makes `text` absolute. An address (`http:`, `concat:`) is refused: only local files are opened.
fn local_path(name: &str, text: &str, working_directory: &Path) -> Result<String, OrchestratorError> {
    let scheme_end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
        .unwrap_or(0);
    let is_drive = cfg!(windows) && scheme_end == 1;
    if scheme_end > 0 && text[scheme_end..].starts_with(':') && !is_drive {
        return Err(invalid(
            name,
            format!(
                "{text:?} is an address, not a local path: only local files are opened (a file named so is \"./{text}\")"
            ),
        ));
    }
    let path = working_directory.join(text);
    let path = std::path::absolute(&path).map_err(|error| invalid(name, format!("{text:?}: {error}")))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| invalid(name, "the working directory's path is not UTF-8: give an absolute path"))
}

fn crop_bounds(name: &str, value: &Value) -> Result<CropBounds, OrchestratorError> {
    const FORM: &str = r#"give {"left":…,"top":…,"right":…,"bottom":…} in whole pixels from 0"#;
    let parsed;
    let object = match value {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text)
                .map_err(|error| invalid(name, format!("{} is not JSON ({error}): {FORM}", shown(value))))?;
            &parsed
        }
        other => other,
    };
    let bounds: CropBounds = serde_json::from_value(whole_numbers(object))
        .map_err(|error| invalid(name, format!("{} ({error}): {FORM}", shown(object))))?;
    if bounds.left >= bounds.right || bounds.top >= bounds.bottom {
        return Err(invalid(
            name,
            format!(
                "{} has no area: left must be below right, and top below bottom",
                shown(object)
            ),
        ));
    }
    Ok(bounds)
}

/// JavaScript has one number type: `10.0` is the whole number 10.
fn whole_numbers(value: &Value) -> Value {
    let Value::Object(map) = value else {
        return value.clone();
    };
    let whole = |value: &Value| match value.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => json!(number as i64),
        _ => value.clone(),
    };
    Value::Object(map.iter().map(|(key, value)| (key.clone(), whole(value))).collect())
}

/// The checked, complete arguments of a flow run, by parameter name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Arguments(Map<String, Value>);

impl Arguments {
    /// The text or path of that name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The path of that name.
    pub fn path(&self, name: &str) -> Option<&Path> {
        self.text(name).map(Path::new)
    }

    /// The number of that name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }

    /// The bounds of that name.
    pub fn crop_bounds(&self, name: &str) -> Option<CropBounds> {
        self.0
            .get(name)
            .and_then(|value| serde_json::from_value(value.clone()).ok())
    }

    /// All of them.
    pub const fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// `template` with each `{name}` replaced by the argument's value; `{{` and `}}` stand for braces.
    ///
    /// # Errors
    /// The name that is not a parameter, or the brace that does not close.
    pub fn fill(&self, template: &str) -> Result<String, String> {
        let mut filled = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            filled.push_str(&rest[..at]);
            let brace = &rest[at..];
            if brace.starts_with("{{") || brace.starts_with("}}") {
                filled.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let name_end = brace.starts_with('{').then(|| brace.find('}')).flatten();
            let name = name_end.map(|end| &brace[1..end]).ok_or_else(|| {
                format!("{template:?} has a brace without its other one (a plain brace is written twice)")
            })?;
            match self.0.get(name) {
                Some(Value::String(text)) => filled.push_str(text),
                Some(value) => filled.push_str(&value.to_string()),
                None => return Err(format!("{template:?} names {name:?}, which is no parameter")),
            }
            rest = &brace[name.len() + 2..];
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// All flows that this installation knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Flows(BTreeMap<String, FlowDefinition>);

impl Flows {
    /// The two built-in flows, with their default retry policy and timeout.
    pub fn builtin() -> Self {
        let parameter = |name: &str, kind, default: Option<Value>, description: &str| ParameterDefinition {
            name: name.to_owned(),
            kind,
            default,
            description: description.to_owned(),
        };
        let common = || {
            vec![
                parameter("video-id", ParameterKind::Text, None, "the video's id in the web app"),
                parameter("video-path", ParameterKind::Path, None, "the video file"),
                parameter("db-path", ParameterKind::Path, None, "the video's annotations.db"),
                parameter(
                    "output-dir",
                    ParameterKind::Path,
                    None,
                    "a scratch directory, left as it was found",
                ),
            ]
        };
        let mut full_frames = common();
        full_frames.push(parameter(
            "frame-rate",
            ParameterKind::FrameRate,
            Some(json!(0.1)),
            "sampled frames a second, in Hz",
        ));
        let mut crop_frames = common();
        crop_frames.extend([
            parameter(
                "crop-bounds",
                ParameterKind::CropBounds,
                None,
                "the caption strip, in pixels of the upright frame",
            ),
            parameter(
                "crop-bounds-version",
                ParameterKind::PositiveInteger,
                Some(json!(1)),
                "version of the layout",
            ),
            parameter(
                "frame-rate",
                ParameterKind::FrameRate,
                Some(json!(10.0)),
                "sampled frames a second, in Hz",
            ),
        ]);
        let flow =
            |name: &str, description: &str, runner, parameters, work_queue, latest_wins, status_table| FlowDefinition {
                name: name.to_owned(),
                description: description.to_owned(),
                runner,
                parameters,
                work_queue,
                retry: RetryPolicy::default(),
                timeout_ms: DEFAULT_FLOW_TIMEOUT_MS,
                latest_wins,
                status_table: Some(status_table),
                assets: Vec::new(),
                upstream_assets: Vec::new(),
            };
        let flows = [
            flow(
                "full-frames",
                "A frame every 10 s with the text on it",
                Runner::FullFrames,
                full_frames,
                WorkQueue::Background,
                false,
                StatusTable::ProcessingStatus,
            ),
            flow(
                "crop-frames",
                "10 frames a second of the caption strip",
                Runner::CropFrames,
                crop_frames,
                WorkQueue::UserInitiated,
                true,
                StatusTable::CropFramesStatus,
            ),
        ];
        Self(flows.into_iter().map(|flow| (flow.name.clone(), flow)).collect())
    }

    /// Adds a declared flow, or replaces the one of its name.
    pub fn insert(&mut self, flow: FlowDefinition) {
        self.0.insert(flow.name.clone(), flow);
    }

    /// The flow of that name.
    ///
    /// # Errors
    /// [`OrchestratorError::UnknownFlow`], with the name that was probably meant.
    pub fn get(&self, name: &str) -> Result<&FlowDefinition, OrchestratorError> {
        self.0.get(name).ok_or_else(|| OrchestratorError::UnknownFlow {
            name: name.chars().take(80).collect(),
            hint: did_you_mean(name, self.0.keys().map(String::as_str)),
            known: self.0.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// The flow of that name, to adjust its settings.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut FlowDefinition> {
        self.0.get_mut(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &FlowDefinition> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(extra: &Value) -> Map<String, Value> {
        let mut map =
            json!({"video-id": "v1", "video-path": "a.mp4", "db-path": "/d/annotations.db", "output-dir": "out"});
        for (key, value) in extra.as_object().expect("an object") {
            map[key] = value.clone();
        }
        map.as_object().expect("an object").clone()
    }

    fn parse(flow: &str, extra: &Value) -> Result<Arguments, String> {
        let flows = Flows::builtin();
        let flow = flows.get(flow).expect("a built-in flow");
        flow.parse_arguments(&given(extra), Path::new("/home/app"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn paths_become_absolute_and_defaults_are_filled_in() {
        let arguments = parse("full-frames", &json!({})).expect("valid");
        assert_eq!(arguments.text("video-path"), Some("/home/app/a.mp4"));
        assert_eq!(arguments.text("db-path"), Some("/d/annotations.db"));
        assert_eq!(arguments.number("frame-rate"), Some(0.1));
    }

    #[test]
    fn crop_bounds_are_taken_as_text_or_object() {
        let bounds = CropBounds {
            left: 1,
            top: 2,
            right: 30,
            bottom: 40,
        };
        for value in [
            json!({"left": 1, "top": 2, "right": 30, "bottom": 40}),
            json!(r#"{"left":1,"top":2.0,"right":30,"bottom":40}"#),
        ] {
            let arguments = parse("crop-frames", &json!({"crop-bounds": value})).expect("valid");
            assert_eq!(arguments.crop_bounds("crop-bounds"), Some(bounds));
            assert_eq!(arguments.number("crop-bounds-version"), Some(1.0));
        }
    }

    #[test]
    fn bad_arguments_are_named() {
        let bounds = json!({"left": 0, "top": 0, "right": 9, "bottom": 9});
        for (flow, extra, expected) in [
            ("full-frames", json!({"frame-rte": 1}), "did you mean \"frame-rate\""),
            ("full-frames", json!({"video-id": ""}), "\"video-id\": empty"),
            ("full-frames", json!({"video-id": null}), "\"video-id\": missing"),
            ("full-frames", json!({"video-id": 5}), "5 is not text"),
            ("full-frames", json!({"frame-rate": 0}), "0 is not a frame rate"),
            ("full-frames", json!({"frame-rate": "-1"}), "-1 is not a frame rate"),
            ("full-frames", json!({"frame-rate": "NaN"}), "not a finite number"),
            ("full-frames", json!({"video-path": "http://x/y.mp4"}), "is an address"),
            ("full-frames", json!({"video-path": "concat:a|b"}), "is an address"),
            ("full-frames", json!({"crop-bounds": bounds}), "unknown argument"),
            ("crop-frames", json!({}), "\"crop-bounds\": missing"),
            ("crop-frames", json!({"crop-bounds": "{"}), "is not JSON"),
            (
                "crop-frames",
                json!({"crop-bounds": {"left": 5, "top": 0, "right": 5, "bottom": 9}}),
                "has no area",
            ),
            (
                "crop-frames",
                json!({"crop-bounds": {"left": -1, "top": 0, "right": 5, "bottom": 9}}),
                "whole pixels",
            ),
            (
                "crop-frames",
                json!({"crop-bounds": {"left": 0.5, "top": 0, "right": 5, "bottom": 9}}),
                "whole pixels",
            ),
            (
                "crop-frames",
                json!({"crop-bounds": {"left": 0, "top": 0, "right": 5}}),
                "whole pixels",
            ),
            (
                "crop-frames",
                json!({"crop-bounds": bounds, "crop-bounds-version": 0}),
                "whole number from 1",
            ),
        ] {
            let error = parse(flow, &extra).expect_err("refused");
            assert!(error.contains(expected), "{extra}: {error}");
        }
    }

    #[test]
    fn a_misspelt_flow_is_suggested() {
        let flows = Flows::builtin();
        let error = flows.get("crop-frame").expect_err("unknown").to_string();
        assert!(error.contains("did you mean \"crop-frames\""), "{error}");
    }

    #[test]
    fn templates_are_filled_without_a_shell() {
        let arguments = parse("full-frames", &json!({"video-id": "a b; rm {x}"})).expect("valid");
        assert_eq!(
            arguments.fill("--id={video-id} {{literal}}"),
            Ok("--id=a b; rm {x} {literal}".to_owned())
        );
        assert!(arguments.fill("{nope}").is_err());
        assert!(arguments.fill("{video-id").is_err());
        assert!(arguments.fill("}").is_err());
    }

    #[test]
    fn retries_wait_longer_each_time_and_end() {
        let policy = RetryPolicy {
            retries: 3,
            delay_ms: 1000,
        };
        let delays: Vec<_> = (1..=4).map(|failed| policy.delay_after_ms(failed, 0.5)).collect();
        assert_eq!(delays, [Some(1000), Some(2000), Some(4000), None]);
        assert_eq!(policy.delay_after_ms(1, 0.0), Some(800));
    }
}
