//! `captionacc ocr`: the text of one picture, as the web app's own script printed it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::json;

use super::exit;
use super::failure::Failure;
use super::image::{ImageError, bytes};
use super::output::{json_line, print};
use crate::ocr::{OcrModels, PpOcr, Recognizer, joined_text, reads_language};
use crate::settings::Settings;
use crate::video::decode_picture;

/// What `captionacc ocr --help` ends with.
pub(super) const EXAMPLES: &str = "\
It prints one line of JSON, {\"text\",\"framework\",\"language\"}. All languages that the models know are read, whichever is given;
one that they do not know is a warning on stderr.

Examples:
  captionacc ocr annotation_7.jpg
  captionacc ocr annotation_7.jpg zh-Hans | jq -r .text";

/// Options of `captionacc ocr`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The picture, a JPEG or PNG file
    image: PathBuf,
    /// The language of its text, as a tag
    #[arg(default_value = "zh-Hans")]
    language: String,
}

/// Reads the picture and prints its text.
pub(super) fn perform(options: &Options) -> Result<ExitCode, Failure> {
    let Options { image, language } = options;
    let settings = Settings::from_environment()?;
    let invalid = |problem: String| ImageError::Invalid {
        path: image.clone(),
        problem,
    };
    let picture = decode_picture(&bytes(image)?).map_err(|error| invalid(error.to_string()))?;
    if !reads_language(language) {
        let message = format!("no model reads {language:?}: what it has of Chinese and Latin letters is read");
        let warning = json!({ "warning": { "code": "OCR_LANGUAGE_UNKNOWN", "message": message } });
        // A closed stderr is no reason not to read the picture.
        let _ = io::stderr().write_all(json_line(&warning).as_bytes());
    }
    let mut engine = PpOcr::load(&OcrModels::find(settings.ocr_models.as_deref())?)?;
    let lines = engine.recognize(&picture, &AtomicBool::new(false))?;
    let text = joined_text(&lines);
    print(&json_line(
        &json!({ "text": text, "framework": "PP-OCR", "language": language }),
    ))?;
    Ok(exit::DONE)
}
