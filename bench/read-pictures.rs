//! A part of bench/ocr.mjs: reads pictures one after the other with one engine on one thread, and says what was read, where, and
//! how long it took.
//!
//! Usage: `read-pictures MODELS FOLDER`. Prints one line of JSON as bench/python/recognize.py does, where a
//! box is a line, with its words and characters in `parts`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use captionacc::ocr::{Extent, OcrModels, PpOcr, Recognizer};
use captionacc::video::decode_picture;
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let models = arguments.next().ok_or("no folder of models given")?;
    let folder = arguments.next().ok_or("no folder of pictures given")?;
    let started = Instant::now();
    let mut engine = PpOcr::load(&OcrModels::find(Some(&models))?)?;
    let mut files: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| {
        file.extension()
            .is_some_and(|suffix| suffix == "jpg" || suffix == "png")
    });
    files.sort();
    read(&mut engine, files.first().ok_or("no pictures")?)?;
    let start_seconds = started.elapsed().as_secs_f64();
    let frames = files
        .iter()
        .map(|file| read(&mut engine, file))
        .collect::<Result<Vec<_>, _>>()?;
    println!("{}", json!({ "startSeconds": start_seconds, "frames": frames }));
    Ok(())
}

fn read(engine: &mut PpOcr, file: &Path) -> Result<Value, Box<dyn Error>> {
    let (started, cpu) = (Instant::now(), cpu_seconds()?);
    let picture = decode_picture(&fs::read(file)?)?;
    let lines = engine.recognize(&picture, &AtomicBool::new(false))?;
    let (wall_seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let (width, height) = (f64::from(picture.width), f64::from(picture.height));
    let place = |extent: &Extent, text: &str, confidence: f32| {
        json!({
            "text": text,
            "confidence": confidence,
            "left": extent.left * width,
            "top": extent.top * height,
            "right": (extent.left + extent.width) * width,
            "bottom": (extent.top + extent.height) * height,
        })
    };
    let boxes: Vec<Value> = lines
        .iter()
        .map(|line| {
            let parts = line
                .boxes
                .iter()
                .map(|part| place(&part.extent, &part.text, part.confidence));
            let mut entry = place(&line.extent(), &line.text, line.confidence);
            entry["parts"] = parts.collect();
            entry
        })
        .collect();
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    Ok(json!({ "name": name, "wallSeconds": wall_seconds, "cpuSeconds": cpu_seconds, "boxes": boxes }))
}

/// What all threads of this process have used, to the nanosecond.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let mut sum = 0.0;
    for thread in fs::read_dir("/proc/self/task")? {
        let spent = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += spent.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(sum / 1e9)
}
