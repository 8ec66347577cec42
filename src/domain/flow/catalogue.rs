//! All flows that an installation knows.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::arguments::{DEFAULT_LANGUAGE, OnDamage};
use super::definition::{
    DEFAULT_FLOW_TIMEOUT_MS, FlowDefinition, ParameterDefinition, ParameterKind, Runner, StatusTable,
};
use super::parameters::CAPTION_IDS;
use super::retry::RetryPolicy;
use super::work_queue::WorkQueue;
use crate::domain::error::{OrchestratorError, did_you_mean};

/// All flows that this installation knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Flows(BTreeMap<String, FlowDefinition>);

impl Flows {
    /// The built-in flows, with their default retry policy and timeout.
    pub fn builtin() -> Self {
        let mut full_frames = of_a_video();
        full_frames.push(parameter(
            "frame-rate",
            ParameterKind::FrameRate,
            Some(json!(0.1)),
            "sampled frames a second, in Hz",
        ));
        full_frames.push(on_damage());
        let mut crop_frames = of_a_video();
        crop_frames.extend([
            parameter(
                "crop-bounds",
                ParameterKind::CropBounds,
                Some(Value::Null),
                "the caption strip, in pixels of the upright frame; the layout's unless given",
            ),
            parameter(
                "crop-bounds-version",
                ParameterKind::PositiveInteger,
                Some(Value::Null),
                "version of the layout; what the layout says unless given",
            ),
            parameter(
                "frame-rate",
                ParameterKind::FrameRate,
                Some(json!(10.0)),
                "sampled frames a second, in Hz",
            ),
            on_damage(),
        ]);
        let flows = [
            FlowDefinition {
                status_table: Some(StatusTable::ProcessingStatus),
                ..flow(
                    "full-frames",
                    "A frame every 10 s with the text on it",
                    Runner::FullFrames,
                    full_frames,
                    WorkQueue::Background,
                )
            },
            FlowDefinition {
                latest_wins: true,
                status_table: Some(StatusTable::CropFramesStatus),
                ..flow(
                    "crop-frames",
                    "10 frames a second of the caption strip",
                    Runner::CropFrames,
                    crop_frames,
                    WorkQueue::UserInitiated,
                )
            },
            // The newest request counts for each caption by itself, not for the run: what else an older run names goes on.
            FlowDefinition {
                keeps_captions: true,
                ..flow(
                    "caption-median-ocr",
                    "The text of captions, each read off the median of its frames",
                    Runner::CaptionMedianOcr,
                    of_captions(),
                    WorkQueue::UserInitiated,
                )
            },
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

fn parameter(name: &str, kind: ParameterKind, default: Option<Value>, description: &str) -> ParameterDefinition {
    ParameterDefinition {
        name: name.to_owned(),
        kind,
        default,
        description: description.to_owned(),
    }
}

/// What the flows take that read a video.
fn of_a_video() -> Vec<ParameterDefinition> {
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
}

fn on_damage() -> ParameterDefinition {
    parameter(
        "on-damage",
        ParameterKind::OnDamage,
        Some(json!(OnDamage::Keep)),
        "keep: show what can be shown of a damaged video and report the rest; fail: do not",
    )
}

/// What the flow takes that reads captions.
fn of_captions() -> Vec<ParameterDefinition> {
    vec![
        parameter("video-id", ParameterKind::Text, None, "the video's id in the web app"),
        parameter("db-path", ParameterKind::Path, None, "the video's annotations.db"),
        parameter(
            "video-dir",
            ParameterKind::Path,
            None,
            "the video's folder: pictures go to text_images in it",
        ),
        parameter(
            CAPTION_IDS,
            ParameterKind::CaptionIds,
            None,
            "ids of the captions to read, as a JSON list",
        ),
        parameter(
            "language",
            ParameterKind::Text,
            Some(json!(DEFAULT_LANGUAGE)),
            "what the captions are written in",
        ),
    ]
}

/// A flow of this crate, as most of them are.
fn flow(
    name: &str,
    description: &str,
    runner: Runner,
    parameters: Vec<ParameterDefinition>,
    work_queue: WorkQueue,
) -> FlowDefinition {
    FlowDefinition {
        name: name.to_owned(),
        description: description.to_owned(),
        runner,
        parameters,
        work_queue,
        retry: RetryPolicy::default(),
        timeout_ms: DEFAULT_FLOW_TIMEOUT_MS,
        latest_wins: false,
        status_table: None,
        keeps_captions: false,
        assets: Vec::new(),
        upstream_assets: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_flow_is_suggested() {
        let flows = Flows::builtin();
        let error = flows.get("crop-frame").expect_err("unknown").to_string();
        assert!(error.contains("did you mean \"crop-frames\""), "{error}");
    }
}
