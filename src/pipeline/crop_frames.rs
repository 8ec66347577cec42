//! crop-frames: 10 frames a second of the caption strip, into `cropped_frames`.

use serde_json::json;

use super::sampling::{Inputs, Sampled, observe_video, sample_video};
use super::status::StatusKeeper;
use crate::domain::asset;
use crate::domain::flow::StatusTable;
use crate::domain::flow_run::ArtifactType;
use crate::engine::{Attempt, FaultKind, TaskError};

/// The part of the attempt's progress that sampling is.
const SAMPLING_SHARE: f64 = 0.98;

pub(super) fn run(attempt: &Attempt) -> Result<String, TaskError> {
    let inputs = Inputs::of(attempt)?;
    let arguments = &attempt.order().arguments;
    let missing = |name: &str| TaskError::new("INVALID_ARGUMENT", format!("the order has no {name}"), FaultKind::Input);
    let bounds = arguments
        .crop_bounds("crop-bounds")
        .ok_or_else(|| missing("crop-bounds"))?;
    let version = arguments
        .number("crop-bounds-version")
        .ok_or_else(|| missing("crop-bounds-version"))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be a whole number when queued"
    )]
    let version = version as u32;

    inputs.check_before_creating(attempt)?;
    let keeper = StatusKeeper::begin(
        attempt,
        attempt.order().status_table.unwrap_or(StatusTable::CropFramesStatus),
    )?;
    let Sampled { mut staging, summary } = sample_video(attempt, &keeper, &inputs, Some(bounds), SAMPLING_SHARE)?;
    let counts = attempt.task("write_frames", || {
        attempt.may_commit()?;
        Ok(keeper.annotations().commit_crop_frames(&mut staging, bounds, version)?)
    })?;

    observe_video(attempt, &inputs, &summary);
    let video = asset::video(&inputs.video_id);
    let layout = asset::annotations(&inputs.video_id, "video_layout_config");
    let bounds_metadata = json!({ "crop_bounds": bounds, "crop_bounds_version": version });
    attempt.asset(layout.clone(), bounds_metadata, Vec::new(), true);
    attempt.asset(
        asset::annotations(&inputs.video_id, "cropped_frames"),
        json!({
            "frames": counts.frames,
            "bytes": counts.bytes,
            "frame_rate_hz": inputs.frame_rate_hz,
            "crop_bounds": bounds,
            "crop_bounds_version": version,
        }),
        vec![video, layout],
        false,
    );
    attempt.artifact(
        "cropped-frames",
        ArtifactType::Table,
        "What was written to annotations.db",
        json!([{
            "frames": counts.frames,
            "bytes": counts.bytes,
            "width": bounds.right - bounds.left,
            "height": bounds.bottom - bounds.top,
            "crop_bounds_version": version,
        }]),
    );
    Ok(format!("{} cropped frames", counts.frames))
}
