//! A flow and its deployment's settings, as data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::retry::RetryPolicy;
use super::work_queue::WorkQueue;

/// The status table of annotations.db that a flow keeps for the web app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusTable {
    /// `processing_status`, of full-frames.
    ProcessingStatus,
    /// `crop_frames_status`, of crop-frames.
    CropFramesStatus,
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
    /// [`CropBounds`](super::arguments::CropBounds), as JSON text or as an object.
    CropBounds,
    /// A word of [`OnDamage`](super::arguments::OnDamage).
    OnDamage,
    /// Ids of captions: a list of whole numbers from 1, or its JSON text.
    CaptionIds,
}

/// One parameter of a flow.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterDefinition {
    /// The name as on the old command line: `video-id`.
    pub name: String,
    /// Its form.
    pub kind: ParameterKind,
    /// The value if the caller gives none: `null`, if it is found out where the work is done. A parameter without one is
    /// required.
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
    /// The pipeline `caption-median-ocr` of this crate.
    CaptionMedianOcr,
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
    /// Whether the rows of `captions` that a run names say what becomes of it, in place of a status table.
    pub keeps_captions: bool,
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

    /// Whether annotations.db says what becomes of a run.
    pub const fn keeps_status(&self) -> bool {
        self.status_table.is_some() || self.keeps_captions
    }

    /// What a run for a video is called, for people.
    pub fn run_name(&self, video_id: &str) -> String {
        format!("{} of {video_id}", self.name)
    }

    /// Tags of a run: flow, queue and, where there is one, the video.
    pub fn tags(&self, video_id: Option<&str>) -> Vec<String> {
        let mut tags = vec![self.name.clone(), self.work_queue.as_str().to_owned()];
        if let Some(video_id) = video_id {
            tags.push(format!("video:{video_id}"));
        }
        tags
    }
}
