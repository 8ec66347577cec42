//! What a run of crop-frames does at its end, without the film: stages frames, waits for a line on stdin, and swaps them into an
//! annotations.db. Prints the seconds that it took, from the line on to the moment when they are visible and to the end.
//!
//! Usage: `swap-frames DATABASE OUTPUT_DIR FRAMES BYTES_EACH`

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use captionacc::annotations::{Annotations, AnnotationsError, CommitStep, OpenRequest, Staging};
use captionacc::domain::flow::{CropBounds, StatusTable};

const BOUNDS: CropBounds = CropBounds {
    left: 0,
    top: 400,
    right: 640,
    bottom: 480,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, output_dir, frames, bytes_each] = arguments.as_slice() else {
        return Err("give DATABASE OUTPUT_DIR FRAMES BYTES_EACH".into());
    };
    let (frames, bytes_each): (i64, usize) = (frames.parse()?, bytes_each.parse()?);
    let mut annotations = Annotations::open(&OpenRequest {
        path: Path::new(database),
        may_create: false,
        identity: None,
        table: StatusTable::CropFramesStatus,
        pid: std::process::id(),
        busy_timeout_ms: 60_000,
    })?;
    let mut staging = Staging::create(Path::new(output_dir), "bench-1")?;
    for frame_index in 0..frames {
        let byte = u8::try_from(frame_index % 251)?;
        staging.add_frame(frame_index, &vec![byte; bytes_each], 640, 80)?;
    }
    eprintln!("staged");
    std::io::stdin().read_line(&mut String::new())?;
    let started = Instant::now();
    let mut visible_s = None;
    annotations.begin()?;
    let counts = annotations.commit_crop_frames(&mut staging, BOUNDS, 1, &mut |step| {
        if step == CommitStep::Exchanged {
            visible_s = Some(started.elapsed().as_secs_f64());
        }
        Ok::<_, AnnotationsError>(())
    })?;
    let whole_s = started.elapsed().as_secs_f64();
    let visible_s = visible_s.unwrap_or(whole_s);
    println!(
        "{}",
        serde_json::json!({ "frames": counts.frames, "visible_s": visible_s, "whole_s": whole_s })
    );
    Ok(())
}
