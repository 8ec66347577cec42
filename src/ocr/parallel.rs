//! Many frames over several engines.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::error::{FrameError, OcrError};
use super::recognizer::{Line, Recognizer};
use crate::picture::RgbPicture;

/// Recognizes the text of the frames `0..count`, one thread an engine.
///
/// Each engine takes the next frame as soon as it is done with one, so that all are busy until the frames run out.
/// `fetch` is called on the engine's thread (decoding a JPEG happens there); `sink` on the calling thread, once for
/// each frame, in the order in which the frames are done, which need not be theirs. A slow `sink` slows the engines
/// down rather than letting results pile up.
///
/// # Errors
/// The first failure of an engine or a closure ends it: no further frame is begun, `sink` is not called again, and
/// frames in work are abandoned. [`OcrError::Cancelled`] soon after `cancelled` is set.
///
/// # Panics
/// If `engines` is empty while there are frames; a panic of an engine or of `fetch` is passed on.
pub fn recognize_all(
    engines: &mut [Box<dyn Recognizer>],
    count: usize,
    fetch: &(dyn Fn(usize) -> Result<RgbPicture, FrameError> + Sync),
    cancelled: &AtomicBool,
    sink: &mut dyn FnMut(usize, Vec<Line>) -> Result<(), FrameError>,
) -> Result<(), OcrError> {
    assert!(
        count == 0 || !engines.is_empty(),
        "frames to read, but no engine to read them"
    );
    let next_index = AtomicUsize::new(0);
    // Set by the caller's cancellation as well as by a failure, so that an engine has one flag to look at.
    let stop = AtomicBool::new(false);
    let (sender, results) = mpsc::sync_channel(engines.len() * 2);

    thread::scope(|scope| {
        for engine in engines.iter_mut().take(count) {
            let (sender, next_index, stop) = (sender.clone(), &next_index, &stop);
            scope.spawn(move || {
                loop {
                    let index = next_index.fetch_add(1, Ordering::Relaxed);
                    if index >= count || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let lines = read_frame(engine.as_mut(), index, count, fetch, cancelled, stop);
                    let failed = lines.is_err();
                    // A closed channel means that the calling thread has given up, for a reason of its own.
                    if sender.send((index, lines)).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop(sender);

        let outcome = results.iter().try_for_each(|(index, lines)| {
            if cancelled.load(Ordering::Relaxed) {
                return Err(OcrError::Cancelled);
            }
            sink(index, lines?).map_err(|source| OcrError::Sink { index, count, source })
        });
        stop.store(true, Ordering::Relaxed);
        // Engines that wait for room in the channel must see that nobody takes their results any more.
        drop(results);
        outcome
    })
}

fn read_frame(
    engine: &mut dyn Recognizer,
    index: usize,
    count: usize,
    fetch: &(dyn Fn(usize) -> Result<RgbPicture, FrameError> + Sync),
    cancelled: &AtomicBool,
    stop: &AtomicBool,
) -> Result<Vec<Line>, OcrError> {
    if cancelled.load(Ordering::Relaxed) {
        stop.store(true, Ordering::Relaxed);
        return Err(OcrError::Cancelled);
    }
    let picture = fetch(index).map_err(|source| OcrError::Fetch { index, count, source })?;
    engine.recognize(&picture, cancelled)
}
