//! What both pipelines share: sampling the video into a staging database.

use serde_json::{Value, json};

use super::fraction::fraction;
use super::status::{StatusKeeper, with_causes};
use crate::annotations::{AnnotationsError, Staging};
use crate::domain::asset;
use crate::domain::flow::{CropBounds, OnDamage, VideoFiles};
use crate::domain::flow_run::{ArtifactType, LogLevel};
use crate::engine::{Attempt, FaultKind, TaskError};
use crate::video::{SampleRequest, SampleSummary, VideoError, sample};

/// Rows of the artifact of a damaged video.
const MAX_STRETCHES: usize = 1000;
/// libav's quality scale for JPEG: 6 is about quality 73 at the smallest size for its likeness.
const JPEG_QSCALE: i32 = 6;

impl From<VideoError> for TaskError {
    fn from(error: VideoError) -> Self {
        let kind = match error.code() {
            "CANCELLED" => FaultKind::Stopped,
            _ if error.is_input_fault() => FaultKind::Input,
            _ => FaultKind::Passing,
        };
        TaskError::new(error.code(), with_causes(&error), kind)
    }
}

/// What a pipeline wants of the video.
pub(super) struct Sampling {
    /// Samples a second.
    pub(super) frame_rate_hz: f64,
    /// Only this part of each frame; the whole frame if `None`.
    pub(super) crop: Option<CropBounds>,
    /// What becomes of a damaged video.
    pub(super) on_damage: OnDamage,
    /// The part of the attempt's progress that it is.
    pub(super) share: f64,
}

impl Sampling {
    fn request(&self, attempt: &Attempt) -> SampleRequest {
        SampleRequest {
            frame_rate_hz: self.frame_rate_hz,
            crop: self.crop,
            worker_threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            memory_bytes: attempt.order().memory_bytes,
            jpeg_qscale: JPEG_QSCALE,
            on_damage: self.on_damage,
        }
    }
}

/// Frames of the video, staged.
pub(super) struct Sampled {
    pub(super) staging: Staging,
    pub(super) summary: SampleSummary,
}

/// Samples the video, as a task.
pub(super) fn sample_video(
    attempt: &Attempt,
    keeper: &StatusKeeper<'_>,
    files: &VideoFiles,
    sampling: &Sampling,
) -> Result<Sampled, TaskError> {
    let Sampling {
        frame_rate_hz, share, ..
    } = *sampling;
    let index_frame_rate_hz = keeper.annotations().index_frame_rate_hz();
    if frame_rate_hz > index_frame_rate_hz {
        let message = format!(
            "frame-rate {frame_rate_hz} Hz is above the index rate of {index_frame_rate_hz} Hz: two frames would share one index"
        );
        return Err(TaskError::new("INVALID_ARGUMENT", message, FaultKind::Input));
    }
    let order = attempt.order();
    let request = sampling.request(attempt);
    attempt.log(
        LogLevel::Info,
        format!("Sampling {} at {frame_rate_hz} Hz.", files.video_path.display()),
    );
    attempt.task("sample_video", || {
        keeper.alive(|| {
            let mut staging = Staging::create(&files.output_dir, &format!("{}-{}", order.flow_run_id, order.attempt))?;
            let mut done = 0;
            let mut staged: Result<(), AnnotationsError> = Ok(());
            let outcome = sample(&files.video_path, &request, attempt.stop_flag(), &mut |frame, total| {
                let index = frame_index(frame.sample, frame_rate_hz, index_frame_rate_hz);
                if let Err(error) = staging.add_frame(index, &frame.jpeg, frame.width, frame.height) {
                    let said = error.to_string();
                    staged = Err(error);
                    return Err(said.into());
                }
                done += 1;
                let fraction = fraction(done, total);
                keeper.progress(fraction);
                attempt.progress("sample_video", done, Some(total), "frames", fraction * share);
                Ok(())
            });
            // What the staging database said is the cause of what the sampler says.
            staged?;
            match outcome {
                Ok(summary) => {
                    attempt.log(LogLevel::Info, facts(&summary));
                    Ok(Sampled { staging, summary })
                }
                Err(error) if error.code() == "CANCELLED" => Err(attempt.stopped()),
                Err(error) => Err(error.into()),
            }
        })
    })
}

/// What the film is and what was taken of it, in a line.
fn facts(summary: &SampleSummary) -> String {
    let info = &summary.info;
    format!(
        "The film is {}x{} {}, {:.1} s at {:.2} Hz: {} samples were taken.",
        info.width, info.height, info.codec, info.duration_seconds, info.frame_rate_hz, summary.samples
    )
}

/// Where the video could not be shown, a row each.
fn stretches(summary: &SampleSummary) -> Value {
    let rows = summary.damage.stretches.iter().take(MAX_STRETCHES).map(|stretch| {
        json!({
            "from_seconds": stretch.from_seconds,
            "to_seconds": stretch.to_seconds,
            "frames": stretch.samples,
            "reason": stretch.reason,
        })
    });
    Value::Array(rows.collect())
}

/// What the row of a completed run says of a damaged video, where people look.
pub(super) fn damage_details(summary: &SampleSummary) -> Option<Value> {
    let damage = summary.damage.summary()?;
    Some(json!({ "reason": damage, "damaged_frames": summary.damage.samples, "damage": stretches(summary) }))
}

/// Says what there is to say of a video beside its frames: as a warning in the log, as an artifact, and as the end of the
/// run's message, which is empty for a video that is whole and tells where it ends.
pub(super) fn remarks(attempt: &Attempt, summary: &SampleSummary) -> String {
    if summary.info.is_hdr {
        let text = "The video is HDR (PQ or HLG). Its pictures are stored as they are coded, without mapping them to the \
                    range of a screen: they look pale.";
        attempt.log(LogLevel::Warning, text.to_owned());
    }
    let damage = summary.damage.summary();
    if let Some(damage) = &damage {
        let samples = summary.damage.samples;
        let text = format!("The video is damaged in places, {samples} frames show an earlier picture: {damage}");
        attempt.log(LogLevel::Warning, text);
        let stretches = stretches(summary);
        attempt.artifact(
            "damage",
            ArtifactType::Table,
            "Where the video could not be shown; of very many places the first thousand",
            stretches,
        );
    }
    [damage, summary.info.open_end()]
        .into_iter()
        .flatten()
        .fold(String::new(), |text, remark| format!("{text}; {remark}"))
}

/// Sample `k` on the index clock: `round(t_seconds * index_framerate_hz)`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a video has less than 2^50 samples"
)]
fn frame_index(sample: u64, frame_rate_hz: f64, index_frame_rate_hz: f64) -> i64 {
    (sample as f64 / frame_rate_hz * index_frame_rate_hz).round() as i64
}

/// The video file as an asset that was found: another file is another version.
pub(super) fn observe_video(attempt: &Attempt, files: &VideoFiles, summary: &SampleSummary) {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(&files.video_path);
    let file = file.map_or(Value::Null, |file| {
        json!({ "size_bytes": file.len(), "modified_at_s": file.mtime(), "device": file.dev(), "inode": file.ino() })
    });
    let info = &summary.info;
    let metadata = json!({
        "path": files.video_path,
        "file": file,
        "width": info.width,
        "height": info.height,
        "duration_seconds": info.duration_seconds,
        "codec": info.codec,
    });
    attempt.asset(asset::video(&files.video_id), metadata, Vec::new(), true);
}

#[cfg(test)]
mod tests {
    use super::frame_index;

    #[test]
    fn samples_are_counted_on_the_index_clock() {
        assert_eq!([0, 1, 2].map(|sample| frame_index(sample, 0.1, 10.0)), [0, 100, 200]);
        assert_eq!([0, 1, 2].map(|sample| frame_index(sample, 10.0, 10.0)), [0, 1, 2]);
        assert_eq!([0, 1, 2].map(|sample| frame_index(sample, 3.0, 10.0)), [0, 3, 7]);
    }
}
