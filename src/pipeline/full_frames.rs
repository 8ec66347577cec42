//! full-frames: a frame every 10 s with the text on it, into `full_frames`, `full_frame_ocr` and the layout row.

use std::error::Error;
use std::sync::Mutex;
use std::thread;

use serde_json::json;

use super::fraction::fraction;
use super::sampling::{Sampled, Sampling, damage_details, observe_video, remarks, sample_video};
use super::status::{StatusKeeper, with_causes};
use crate::annotations::{Completion, FullFramesOutcome, Stage, StagedBox, Staging};
use crate::domain::asset;
use crate::domain::finding::counted;
use crate::domain::flow::{FullFrames, StatusTable};
use crate::domain::flow_run::{ArtifactType, LogLevel};
use crate::engine::{Attempt, FaultKind, TaskError};
use crate::ocr::{Line, OcrError, OcrModels, PpOcr, Recognizer, TextBox, recognize_all};
use crate::video::{SampleSummary, decode_jpeg};

/// The part of the attempt's progress that sampling is; recognition is most of the rest.
const SAMPLING_SHARE: f64 = 0.3;
const RECOGNITION_SHARE: f64 = 0.68;
/// Rows of the artifact that shows what was read.
const SHOWN_TEXTS: usize = 100;

impl From<OcrError> for TaskError {
    fn from(error: OcrError) -> Self {
        let kind = match error.code() {
            "CANCELLED" | "OCR_CANCELLED" => FaultKind::Stopped,
            _ if error.is_input_fault() => FaultKind::Input,
            _ => FaultKind::Passing,
        };
        TaskError::new(error.code(), with_causes(&error), kind)
    }
}

pub(super) fn run(attempt: &Attempt, arguments: &FullFrames) -> Result<String, TaskError> {
    let &FullFrames {
        ref files,
        frame_rate_hz,
        on_damage,
    } = arguments;
    let sampling = Sampling {
        frame_rate_hz,
        crop: None,
        on_damage,
        share: SAMPLING_SHARE,
    };
    let keeper = StatusKeeper::begin(
        attempt,
        attempt.order().status_table.unwrap_or(StatusTable::ProcessingStatus),
    )?;
    let Sampled { mut staging, summary } = sample_video(attempt, &keeper, files, &sampling)?;

    keeper.stage(Stage::RunningOcr)?;
    let texts = attempt.task("recognize_text", || {
        keeper.alive(|| recognize(attempt, &keeper, &mut staging))
    })?;

    keeper.stage(Stage::AnalyzingLayout)?;
    let info = &summary.info;
    let outcome = FullFramesOutcome {
        frame_width: info.width,
        frame_height: info.height,
        duration_seconds: info.duration_seconds,
        fps: info.frame_rate_hz,
        codec: info.codec.clone(),
    };
    keeper
        .annotations()
        .set_completion(completion(attempt, &summary, &texts));
    let counts = attempt.task("write_frames", || {
        let mut between = keeper.between_transactions(SAMPLING_SHARE + RECOGNITION_SHARE);
        keeper
            .annotations()
            .commit_full_frames(&mut staging, &outcome, &mut between)
    })?;

    observe_video(attempt, files, &summary);
    let video = asset::video(&files.video_id);
    let frames = asset::annotations(&files.video_id, "full_frames");
    let recognized = asset::annotations(&files.video_id, "full_frame_ocr");
    let layout = asset::annotations(&files.video_id, "video_layout_config");
    let frames_metadata = json!({
        "frames": counts.frames,
        "bytes": counts.bytes,
        "width": info.width,
        "height": info.height,
        "frame_rate_hz": frame_rate_hz,
    });
    attempt.asset(frames.clone(), frames_metadata, vec![video.clone()], false);
    attempt.asset(
        recognized,
        json!({ "boxes": counts.boxes, "engine": texts.engine }),
        vec![frames],
        false,
    );
    // The layout as it is now: found, and made here only where there was none. No run makes it anew, so it depends on nothing.
    let layout_metadata = json!({
        "crop_bounds": counts.layout_bounds,
        "crop_bounds_version": counts.layout_version,
    });
    attempt.asset(layout, layout_metadata, Vec::new(), true);
    attempt.artifact(
        "recognized-text",
        ArtifactType::Table,
        "The first texts that were read",
        json!(texts.first),
    );
    let remarks = remarks(attempt, &summary);
    let frames = counted(counts.frames, "frame", "frames");
    let boxes = counted(counts.boxes, "text box", "text boxes");
    Ok(format!("{frames}, {boxes}{remarks}"))
}

/// What the web app looks for in `error_details` to show that a film has no text, rather than an error.
const WITHOUT_TEXT: &str = "No valid boxes found";

fn completion(attempt: &Attempt, summary: &SampleSummary, texts: &Texts) -> Completion {
    let damage = damage_details(summary);
    let is_without_text = texts.first.is_empty();
    let details = if is_without_text {
        let reason = match damage.as_ref().and_then(|damage| damage["reason"].as_str()) {
            Some(damage) => format!("{WITHOUT_TEXT}; {damage}"),
            None => WITHOUT_TEXT.to_owned(),
        };
        let mut details = damage.unwrap_or_else(|| json!({}));
        details["reason"] = json!(reason);
        details["flow_run_id"] = json!(attempt.order().flow_run_id);
        details["attempt"] = json!(attempt.order().attempt);
        Some(details)
    } else {
        damage
    };
    Completion {
        details: details.map(|details| details.to_string()),
        is_without_text,
    }
}

struct Texts {
    engine: String,
    first: Vec<serde_json::Value>,
}

/// Reads the text of every staged frame, as many frames at once as there are cores.
fn recognize(attempt: &Attempt, keeper: &StatusKeeper<'_>, staging: &mut Staging) -> Result<Texts, TaskError> {
    let indexes = staging.frame_indexes()?;
    let models = OcrModels::find(attempt.order().ocr_models.as_deref())?;
    let first = PpOcr::load(&models)?;
    let cores = thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let engine_count = cores.min(indexes.len()).max(1);
    let engine = first.description();
    let mut engines: Vec<Box<dyn Recognizer>> = Vec::with_capacity(engine_count);
    for _ in 1..engine_count {
        engines.push(Box::new(first.fork()));
    }
    engines.push(Box::new(first));
    attempt.log(
        LogLevel::Info,
        format!("Reading the text of {} frames with {engine}", indexes.len()),
    );

    let reader = Mutex::new(staging.reader()?);
    let fetch = |at: usize| -> Result<_, Box<dyn Error + Send + Sync>> {
        let jpeg = reader
            .lock()
            .map_err(|_| "a reader of frames panicked")?
            .jpeg(indexes[at])?;
        Ok(decode_jpeg(&jpeg)?)
    };
    let total = u64::try_from(indexes.len()).unwrap_or(u64::MAX);
    let mut done = 0;
    let mut shown = Vec::new();
    let outcome = recognize_all(
        &mut engines,
        indexes.len(),
        &fetch,
        attempt.stop_flag(),
        &mut |at, lines| {
            let frame_index = indexes[at];
            let staged: Vec<StagedBox> = lines.iter().flat_map(|line| &line.boxes).map(stored).collect();
            staging.add_boxes(frame_index, &staged)?;
            shown.extend(shown_lines(frame_index, lines));
            if shown.len() > 4 * SHOWN_TEXTS {
                keep_first(&mut shown);
            }
            done += 1;
            keeper.progress(fraction(done, total));
            let overall = SAMPLING_SHARE + RECOGNITION_SHARE * fraction(done, total);
            attempt.progress("recognize_text", done, Some(total), "frames", overall);
            Ok(())
        },
    );
    if outcome.is_err() {
        attempt.check_stop()?;
    }
    outcome?;
    keep_first(&mut shown);
    let first = shown.into_iter().map(|shown| shown.row).collect();
    Ok(Texts { engine, first })
}

/// A line of a frame, for people.
struct Shown {
    frame_index: i64,
    row: serde_json::Value,
}

/// Rows that say of each line which boxes of `full_frame_ocr` it is, which that table itself has no column for.
fn shown_lines(frame_index: i64, lines: Vec<Line>) -> impl Iterator<Item = Shown> {
    lines.into_iter().scan(0, move |next, line| {
        let first = *next;
        *next += line.boxes.len();
        let row = json!({
            "frame_index": frame_index,
            "boxes": if line.boxes.len() == 1 { first.to_string() } else { format!("{first}-{}", *next - 1) },
            "text": line.text,
            "confidence": f64::from(line.confidence),
        });
        Some(Shown { frame_index, row })
    })
}

/// Frames are done in any order: the earliest ones are shown.
fn keep_first(shown: &mut Vec<Shown>) {
    shown.sort_by_key(|line| line.frame_index);
    shown.truncate(SHOWN_TEXTS);
}

/// As stored: `y` is the lower edge, from the bottom.
fn stored(text: &TextBox) -> StagedBox {
    StagedBox {
        text: text.text.clone(),
        confidence: f64::from(text.confidence),
        x: text.extent.left,
        y: (1.0 - text.extent.top - text.extent.height).clamp(0.0, 1.0),
        width: text.extent.width,
        height: text.extent.height,
    }
}
