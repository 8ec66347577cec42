//! What the flows do: each pipeline is plain code that runs in a child process, task by task.

mod command;
mod crop_frames;
mod full_frames;
mod sampling;
mod status;

use crate::domain::flow::Runner;
use crate::engine::{Attempt, TaskError};

/// Runs the flow of this attempt; returns a line that says what was done.
///
/// # Errors
/// What went wrong, and whether another attempt could do better.
pub fn run(attempt: &Attempt) -> Result<String, TaskError> {
    match &attempt.order().runner {
        Runner::FullFrames => full_frames::run(attempt),
        Runner::CropFrames => crop_frames::run(attempt),
        Runner::Command(runner) => command::run(attempt, runner),
    }
}
