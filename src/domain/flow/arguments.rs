//! The checked, complete arguments of a flow run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::parameters::{CAPTION_IDS, Parameters};
use super::subject::Subject;

/// Arguments, by the flow that takes them. Made by
/// [`FlowDefinition::parse_arguments`](super::definition::FlowDefinition::parse_arguments).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arguments {
    /// Of the pipeline `full-frames`.
    FullFrames(FullFrames),
    /// Of the pipeline `crop-frames`.
    CropFrames(CropFrames),
    /// Of the pipeline `caption-median-ocr`.
    CaptionMedianOcr(CaptionMedianOcr),
    /// Of an external program.
    Command(CommandArguments),
}

/// What the pipelines that read a video take; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoFiles {
    /// The video's id in the web app.
    pub video_id: String,
    /// The video file.
    pub video_path: PathBuf,
    /// The video's annotations.db.
    pub db_path: PathBuf,
    /// A scratch directory, left as it was found.
    pub output_dir: PathBuf,
}

/// Arguments of `full-frames`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FullFrames {
    /// Which video.
    pub files: VideoFiles,
    /// Sampled frames a second, above 0.
    pub frame_rate_hz: f64,
    /// What becomes of a damaged video.
    pub on_damage: OnDamage,
}

/// Arguments of `crop-frames`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CropFrames {
    /// Which video.
    pub files: VideoFiles,
    /// The caption strip; the layout's where none is given.
    pub crop_bounds: Option<CropBounds>,
    /// Version of the layout that the bounds are from, from 1; what the layout says where none is given.
    pub crop_bounds_version: Option<u32>,
    /// Sampled frames a second, above 0.
    pub frame_rate_hz: f64,
    /// What becomes of a damaged video.
    pub on_damage: OnDamage,
}

/// Arguments of `caption-median-ocr`; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptionMedianOcr {
    /// The video's id in the web app.
    pub video_id: String,
    /// The video's annotations.db.
    pub db_path: PathBuf,
    /// The video's folder: pictures go to `text_images` in it.
    pub video_dir: PathBuf,
    /// Which captions, each once, in the order in which they are read.
    pub caption_ids: Vec<i64>,
    /// What the captions are written in, as in BCP 47.
    pub language: String,
}

/// What `language` is unless a caller says otherwise.
pub const DEFAULT_LANGUAGE: &str = "zh-Hans";

/// Arguments of a program, by parameter name; each of its parameter's form. Those of the names that every flow shares are
/// typed as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandArguments {
    /// By parameter name, as its templates have them.
    pub values: Parameters,
    /// `video-id`.
    pub video_id: Option<String>,
    /// `db-path`; absolute.
    pub db_path: Option<PathBuf>,
    /// `output-dir`; absolute.
    pub output_dir: Option<PathBuf>,
}

/// What becomes of a video that is damaged in places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDamage {
    /// What can be shown is shown, and the damage reported: a sample whose picture cannot be decoded is the last good
    /// picture before it. An error all the same if more than a tenth of the samples are hit.
    #[default]
    Keep,
    /// Any damage is an error.
    Fail,
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

impl Arguments {
    /// The video that the run is about, if it is about one.
    pub fn video_id(&self) -> Option<&str> {
        match self {
            Self::FullFrames(FullFrames { files, .. }) | Self::CropFrames(CropFrames { files, .. }) => {
                Some(&files.video_id)
            }
            Self::CaptionMedianOcr(captions) => Some(&captions.video_id),
            Self::Command(program) => program.video_id.as_deref(),
        }
    }

    /// The annotations.db that the run is about, if it is about one.
    pub fn db_path(&self) -> Option<&Path> {
        match self {
            Self::FullFrames(FullFrames { files, .. }) | Self::CropFrames(CropFrames { files, .. }) => {
                Some(&files.db_path)
            }
            Self::CaptionMedianOcr(captions) => Some(&captions.db_path),
            Self::Command(program) => program.db_path.as_deref(),
        }
    }

    /// The scratch directory of the run, if it has one.
    pub fn output_dir(&self) -> Option<&Path> {
        match self {
            Self::FullFrames(FullFrames { files, .. }) | Self::CropFrames(CropFrames { files, .. }) => {
                Some(&files.output_dir)
            }
            Self::CaptionMedianOcr(_) => None,
            Self::Command(program) => program.output_dir.as_deref(),
        }
    }

    /// What the run is about.
    pub fn subject(&self) -> Subject {
        Subject {
            video_id: self.video_id().map(str::to_owned),
            db_path: self.db_path().map(Path::to_owned),
        }
    }

    /// As they are stored and shown: equal arguments are equal parameters.
    pub fn to_parameters(&self) -> Parameters {
        match self {
            Self::Command(program) => program.values.clone(),
            Self::FullFrames(full) => {
                let mut parameters = full.files.to_parameters();
                parameters.insert("frame-rate".to_owned(), json!(full.frame_rate_hz));
                insert_unless_default(&mut parameters, full.on_damage);
                Parameters(parameters)
            }
            Self::CropFrames(crop) => {
                let mut parameters = crop.files.to_parameters();
                if let Some(bounds) = crop.crop_bounds {
                    parameters.insert("crop-bounds".to_owned(), json!(bounds));
                }
                if let Some(version) = crop.crop_bounds_version {
                    parameters.insert("crop-bounds-version".to_owned(), json!(version));
                }
                parameters.insert("frame-rate".to_owned(), json!(crop.frame_rate_hz));
                insert_unless_default(&mut parameters, crop.on_damage);
                Parameters(parameters)
            }
            Self::CaptionMedianOcr(captions) => Parameters(Map::from_iter([
                ("video-id".to_owned(), json!(captions.video_id)),
                ("db-path".to_owned(), json!(captions.db_path)),
                ("video-dir".to_owned(), json!(captions.video_dir)),
                (CAPTION_IDS.to_owned(), json!(captions.caption_ids)),
                ("language".to_owned(), json!(captions.language)),
            ])),
        }
    }
}

/// What nobody asked for is not written: servers, workers and idempotency keys of earlier versions know no such parameter.
fn insert_unless_default(parameters: &mut Map<String, Value>, on_damage: OnDamage) {
    if on_damage != OnDamage::default() {
        parameters.insert("on-damage".to_owned(), json!(on_damage));
    }
}

impl VideoFiles {
    fn to_parameters(&self) -> Map<String, Value> {
        Map::from_iter([
            ("video-id".to_owned(), json!(self.video_id)),
            ("video-path".to_owned(), json!(self.video_path)),
            ("db-path".to_owned(), json!(self.db_path)),
            ("output-dir".to_owned(), json!(self.output_dir)),
        ])
    }
}
