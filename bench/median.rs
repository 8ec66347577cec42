//! A part of bench/median.mjs: the median of the JPEG files of a folder, made with all cores, and how long it took.
//!
//! Usage: `median FOLDER COPIES MEMORY_MEGABYTES`. Takes each picture COPIES times. Prints a line of JSON: seconds of the whole, from
//! the JPEGs on; of one copy also what decoding takes alone, and the median of what is decoded already. Then it leaves in FOLDER
//! what it decoded (`decoded.rgb`, picture after picture) and the median (`median.rgb`), for another program to compare.

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use std::{fs, thread};

use captionacc::video::{MedianLimits, decode_jpeg, median_of_jpegs, median_of_pictures};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("no folder given")?);
    let mut number = || -> Result<usize, Box<dyn Error>> {
        let argument = arguments.next().ok_or("give FOLDER COPIES MEMORY_MEGABYTES")?;
        Ok(argument.to_string_lossy().parse()?)
    };
    let (copies, megabytes) = (number()?, number()?);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|suffix| suffix == "jpg"));
    files.sort();
    let jpegs: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
    let threads = thread::available_parallelism()?.get();

    let started = Instant::now();
    let median = median_of_jpegs::<()>(
        jpegs.len() * copies,
        MedianLimits {
            threads,
            memory_bytes: megabytes << 20,
        },
        &AtomicBool::new(false),
        &mut |range| Ok(range.map(|place| jpegs[place % jpegs.len()].clone()).collect()),
        &mut |_| {},
    )?;
    let whole = started.elapsed().as_secs_f64();
    if copies > 1 {
        println!("{}", json!({ "wholeSeconds": whole }));
        return Ok(());
    }

    let started = Instant::now();
    let pictures = decoded(&jpegs, threads)?;
    let decoding = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let of_decoded = median_of_pictures(&pictures, threads);
    let medians = started.elapsed().as_secs_f64();
    assert_eq!(median.data, of_decoded, "both ways are one");
    fs::write(folder.join("decoded.rgb"), pictures.concat())?;
    fs::write(folder.join("median.rgb"), median.data)?;
    println!(
        "{}",
        json!({
            "wholeSeconds": whole, "decodingSeconds": decoding, "medianSeconds": medians,
            "width": median.width, "height": median.height,
        })
    );
    Ok(())
}

/// The pixels of all pictures, each thread its share.
fn decoded(jpegs: &[Vec<u8>], threads: usize) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let shares: Vec<_> = thread::scope(|scope| {
        let share = jpegs.len().div_ceil(threads).max(1);
        let decoding: Vec<_> = jpegs
            .chunks(share)
            .map(|share| {
                scope.spawn(move || {
                    let pictures = share.iter().map(|jpeg| decode_jpeg(jpeg).map(|picture| picture.data));
                    pictures.collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        decoding.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut pictures = Vec::with_capacity(jpegs.len());
    for share in shares {
        pictures.extend(share.map_err(|_| "a thread has panicked")??);
    }
    Ok(pictures)
}
