//! What the flows do: each pipeline is plain code that runs in a child process, task by task.

mod caption_median_ocr;
mod caption_text;
mod command;
mod crop_frames;
mod fraction;
mod full_frames;
mod sampling;
mod status;
mod text_images;

use crate::engine::{Attempt, TaskError};
use crate::protocol::Work;

/// Runs the flow of this attempt; returns a line that says what was done.
///
/// # Errors
/// What went wrong, and whether another attempt could do better.
pub fn run(attempt: &Attempt) -> Result<String, TaskError> {
    match &attempt.order().work {
        Work::FullFrames(arguments) => full_frames::run(attempt, arguments),
        Work::CropFrames(arguments) => crop_frames::run(attempt, arguments),
        Work::CaptionMedianOcr(arguments) => caption_median_ocr::run(attempt, arguments),
        Work::Command(program) => command::run(attempt, program),
    }
}
