//! crop-frames: 10 frames a second of the caption strip, into `cropped_frames`.

use serde_json::json;

use super::sampling::{Sampled, Sampling, damage_details, observe_video, remarks, sample_video};
use super::status::StatusKeeper;
use crate::annotations::Completion;
use crate::domain::asset;
use crate::domain::finding::counted;
use crate::domain::flow::{CropBounds, CropFrames, StatusTable};
use crate::domain::flow_run::{ArtifactType, LogLevel};
use crate::engine::{Attempt, FaultKind, TaskError};

/// The part of the attempt's progress that sampling is.
const SAMPLING_SHARE: f64 = 0.98;

pub(super) fn run(attempt: &Attempt, arguments: &CropFrames) -> Result<String, TaskError> {
    let &CropFrames {
        ref files,
        frame_rate_hz,
        on_damage,
        ..
    } = arguments;
    let keeper = StatusKeeper::begin(
        attempt,
        attempt.order().status_table.unwrap_or(StatusTable::CropFramesStatus),
    )?;
    let Cropping {
        bounds,
        version,
        layout,
    } = cropping(attempt, &keeper, arguments)?;
    let sampling = Sampling {
        frame_rate_hz,
        crop: Some(bounds),
        on_damage,
        share: SAMPLING_SHARE,
    };
    let Sampled { mut staging, summary } = sample_video(attempt, &keeper, files, &sampling)?;
    keeper.annotations().set_completion(Completion {
        details: damage_details(&summary).map(|details| details.to_string()),
        is_without_text: false,
    });
    let counts = attempt.task("write_frames", || {
        let mut between = keeper.between_transactions(SAMPLING_SHARE);
        keeper
            .annotations()
            .commit_crop_frames(&mut staging, bounds, version, &mut between)
    })?;

    observe_video(attempt, files, &summary);
    let video = asset::video(&files.video_id);
    let mut made_from = vec![video];
    // What the caller gave was not read there, whatever it says.
    if let Some((bounds, version)) = layout {
        let layout = asset::annotations(&files.video_id, "video_layout_config");
        let metadata = json!({ "crop_bounds": bounds, "crop_bounds_version": version });
        attempt.asset(layout.clone(), metadata, Vec::new(), true);
        made_from.push(layout);
    }
    attempt.asset(
        asset::annotations(&files.video_id, "cropped_frames"),
        json!({
            "frames": counts.frames,
            "bytes": counts.bytes,
            "frame_rate_hz": frame_rate_hz,
            "crop_bounds": bounds,
            "crop_bounds_version": version,
        }),
        made_from,
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
    let remarks = remarks(attempt, &summary);
    attempt.log(
        LogLevel::Info,
        format!(
            "{} cropped frames ({} bytes) are in annotations.db.",
            counts.frames, counts.bytes
        ),
    );
    let frames = counted(counts.frames, "cropped frame", "cropped frames");
    Ok(format!("{frames}{remarks}"))
}

/// What is cut out.
struct Cropping {
    bounds: CropBounds,
    version: u32,
    /// What the layout in annotations.db says, if that was asked and there is one.
    layout: Option<(Option<CropBounds>, Option<i64>)>,
}

/// The bounds and their version: as given, else those of the layout in annotations.db.
fn cropping(attempt: &Attempt, keeper: &StatusKeeper<'_>, arguments: &CropFrames) -> Result<Cropping, TaskError> {
    if let (Some(bounds), Some(version)) = (arguments.crop_bounds, arguments.crop_bounds_version) {
        return Ok(Cropping {
            bounds,
            version,
            layout: None,
        });
    }
    let (layout_bounds, layout_version) = keeper.annotations().layout()?;
    let version = arguments
        .crop_bounds_version
        .or_else(|| layout_version.and_then(|version| u32::try_from(version).ok()))
        .unwrap_or(1)
        .max(1);
    let layout = Some((layout_bounds, layout_version)).filter(|layout| *layout != (None, None));
    if let Some(bounds) = arguments.crop_bounds {
        return Ok(Cropping {
            bounds,
            version,
            layout,
        });
    }
    let Some(bounds) = layout_bounds else {
        let message = format!(
            "argument \"crop-bounds\": missing, and {} has no layout that says: give crop-bounds, or run full-frames first",
            arguments.files.db_path.display()
        );
        return Err(TaskError::new("INVALID_ARGUMENT", message, FaultKind::Input));
    };
    let CropBounds {
        left,
        top,
        right,
        bottom,
    } = bounds;
    attempt.log(
        LogLevel::Info,
        format!("Crop bounds of the layout, version {version}: left {left}, top {top}, right {right}, bottom {bottom}"),
    );
    Ok(Cropping {
        bounds,
        version,
        layout,
    })
}
