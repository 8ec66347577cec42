//! A film without any text is no failure, and the web app is told so by the words that it looks for.

use captionacc::domain::state::StateName;
use serde_json::{Value, json};

use crate::studio::{Studio, ffmpeg, ocr_models};
use crate::world::World;

#[test]
fn a_film_without_text_completes_and_the_web_app_is_told_that_there_is_none() {
    let world = World::with("", &[("CAPTIONACC_OCR_MODELS", &ocr_models())]);
    let worker = world.start_worker();
    let studio = Studio::new(&world.path("videos"), "v");
    let film = studio.folder.join("video.mp4");
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "color=c=0x305030:s=320x180:d=2",
        "-pix_fmt",
        "yuv420p",
        film.to_str().expect("a path of ours"),
    ]);
    let id = world.queue("full-frames", studio.full_frames());
    let run = world.wait_for(id, StateName::Completed);
    assert_eq!(run.state.message.as_deref(), Some("2 frames, 0 text boxes"));
    assert_eq!(
        studio.processing(),
        ("error".to_owned(), None, Some("No text detected".to_owned()))
    );
    let details: String = studio.value("SELECT error_details FROM processing_status");
    let details: Value = serde_json::from_str(&details).expect("JSON");
    assert_eq!(
        details,
        json!({ "reason": "No valid boxes found", "flow_run_id": id, "attempt": 1 })
    );
    let done: bool = studio.value(
        "SELECT processing_completed_at IS NOT NULL AND error_occurred_at IS NOT NULL AND frame_extraction_progress = 1
           AND ocr_progress = 1 AND layout_analysis_progress = 1 FROM processing_status",
    );
    assert!(done);
    assert_eq!(studio.frames("full_frames").len(), 2);
    worker.stop();
}
