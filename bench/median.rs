//! How long the median of a caption's strips takes: made by decoding them, and of what is decoded already. Prints JSON.
//!
//! Usage: `median STRIPS WIDTH HEIGHT TURNS`

use std::error::Error;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use captionacc::picture::RgbPicture;
use captionacc::video::{MedianLimits, decode_jpeg, encode_jpeg, median_of_jpegs, median_of_pictures};

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let [strips, width, height, turns] = numbers[..] else {
        return Err("give STRIPS WIDTH HEIGHT TURNS".into());
    };
    let threads = std::thread::available_parallelism()?.get();
    let jpegs: Vec<Vec<u8>> = (0..strips)
        .map(|number| encode_jpeg(&strip(number, width, height), 6))
        .collect::<Result<_, _>>()?;
    let pictures: Vec<Vec<u8>> = jpegs
        .iter()
        .take(200)
        .map(|jpeg| decode_jpeg(jpeg).map(|picture| picture.data))
        .collect::<Result<_, _>>()?;
    for _ in 0..turns {
        let mut report = serde_json::Map::new();
        let started = Instant::now();
        let median = median_of_pictures(&pictures, threads);
        report.insert(
            format!("median_of_{}_decoded_s", pictures.len()),
            started.elapsed().as_secs_f64().into(),
        );
        for (name, memory_bytes) in [("in_memory_s", 512 << 20), ("counted_s", 0)] {
            let started = Instant::now();
            let whole = median_of_jpegs::<()>(
                jpegs.len(),
                MedianLimits {
                    threads,
                    // For counts of the whole picture, but not for all pictures.
                    memory_bytes: memory_bytes.max(40 * (width * height * 3) as usize),
                },
                &AtomicBool::new(false),
                &mut |range| Ok(jpegs[range].to_vec()),
                &mut |_| {},
            )?;
            report.insert(name.to_owned(), started.elapsed().as_secs_f64().into());
            assert!(
                pictures.len() < jpegs.len() || whole.data == median,
                "both ways are one"
            );
        }
        println!("{}", serde_json::Value::Object(report));
    }
    Ok(())
}

/// A slope of colours that moves, with noise: as hard to code as footage.
fn strip(number: u32, width: u32, height: u32) -> RgbPicture {
    let mut chance = fastrand::Rng::with_seed(u64::from(number));
    let mut data = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            let slope = ((x + 3 * number) / 8 + y) % 200;
            let noise = chance.u32(0..16);
            data.extend(
                [slope + noise, (slope / 2) + noise, 200 - slope + noise]
                    .map(|value| u8::try_from(value).unwrap_or(255)),
            );
        }
    }
    RgbPicture { width, height, data }
}
