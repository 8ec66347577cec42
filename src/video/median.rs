//! The picture that many JPEGs have in common: for each pixel and colour the median over all of them, exactly.
//!
//! Where all decoded pictures fit into the memory that may be used, the median of each value is found by its bits, from
//! the highest down: a bit is set if no more values than the median's rank are below the number that this makes. Counting
//! values below a number is what processors do best, 16 and more of them at once, and a block of values stays in the nearest
//! cache for all eight bits.
//!
//! Where they do not fit, the JPEGs are decoded twice: once to count the upper four bits of every value, which tells
//! those of the median, once to count the lower four bits of the values that have these upper ones. That takes 37 bytes a
//! value, however many pictures there are; where even that is too much, the picture is made in bands of rows.
//!
//! Of an even number, the median is the mean of the two in the middle without what is after the point, as
//! `numpy.median(…).astype(uint8)` has it.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::error::VideoError;
use super::jpeg::decode_jpeg;
use crate::picture::RgbPicture;

/// Most pictures: their counts are numbers of 16 bits.
pub const MAX_PICTURES: usize = u16::MAX as usize;

/// Values that are looked at together.
const LANES: usize = 64;
/// Pictures that one thread decodes before values are counted.
const BATCH_OF_A_THREAD: usize = 4;
/// The same where all pictures stay: threads wait for each other less often.
const BATCH_THAT_STAYS: usize = 16;
/// Bytes that counting takes a value: two times sixteen for the counts, and what is known of the median.
const COUNTING_BYTES: usize = 37;

/// What a median may use.
#[derive(Debug, Clone, Copy)]
pub struct MedianLimits {
    /// Threads at once.
    pub threads: usize,
    /// Most bytes for decoded pictures and counts. At least a picture a thread is needed, whatever this says.
    pub memory_bytes: usize,
}

/// Why there is no median.
#[derive(Debug, thiserror::Error)]
pub enum MedianError<E> {
    /// The caller could not give the pictures.
    #[error("the pictures could not be read")]
    Fetch(E),
    /// One cannot be decoded.
    #[error("picture {position} can not be decoded")]
    Decode {
        /// Which, from 0.
        position: usize,
        /// Why.
        #[source]
        source: VideoError,
    },
    /// One has another size than the first.
    #[error("picture {position} has {} x {} pixels, the first one {} x {}", found.0, found.1, first.0, first.1)]
    Size {
        /// Which, from 0.
        position: usize,
        /// Its width and height.
        found: (u32, u32),
        /// Those of the first.
        first: (u32, u32),
    },
    /// There are none, or more than [`MAX_PICTURES`].
    #[error("{0} pictures: a median is made of 1 to {MAX_PICTURES}")]
    Count(usize),
    /// The stop flag was set.
    #[error("stopped on request")]
    Cancelled,
}

/// The median of the JPEGs `0..count`.
///
/// `fetch` gives those of a range, in order, on the calling thread; it is asked once for each, or more often where they do
/// not fit into the memory, and then has to give the same. `progress` hears how much is done, 0..=1.
///
/// # Errors
/// [`MedianError`]. [`MedianError::Cancelled`] within some pictures a thread after `stop` is set.
pub fn median_of_jpegs<E>(
    count: usize,
    limits: MedianLimits,
    stop: &AtomicBool,
    fetch: &mut dyn FnMut(Range<usize>) -> Result<Vec<Vec<u8>>, E>,
    progress: &mut dyn FnMut(f64),
) -> Result<RgbPicture, MedianError<E>> {
    if count == 0 || count > MAX_PICTURES {
        return Err(MedianError::Count(count));
    }
    let threads = limits.threads.clamp(1, 64);
    let mut decoding = Decoding {
        threads,
        size: None,
        stop,
    };
    let mut first = decoding.batch(0..threads.min(count), fetch)?;
    let (width, height) = decoding.size.expect("a picture was decoded");
    let row_bytes = width as usize * 3;
    let mut median = RgbPicture {
        width,
        height,
        data: vec![0; row_bytes * height as usize],
    };
    if median.data.len().saturating_mul(count) <= limits.memory_bytes {
        while first.len() < count {
            let next = first.len()..(first.len() + threads * BATCH_THAT_STAYS).min(count);
            first.extend(decoding.batch(next, fetch)?);
            progress(share(first.len(), count));
        }
        select(&first, &mut median.data, threads);
        return Ok(median);
    }
    drop(first);
    let rows_at_once = (limits.memory_bytes / COUNTING_BYTES / row_bytes.max(1)).clamp(1, height as usize);
    let bands = (height as usize).div_ceil(rows_at_once);
    let passes = 2 * bands * count;
    let mut done = 0;
    for (band, part) in median.data.chunks_mut(rows_at_once * row_bytes).enumerate() {
        let from = band * rows_at_once * row_bytes;
        let mut counting = Counting::new(part.len(), count);
        for pass in [Counting::count_upper, Counting::count_lower] {
            let mut at = 0;
            while at < count {
                let next = at..(at + threads * BATCH_OF_A_THREAD).min(count);
                done += next.len();
                at = next.end;
                let pictures = decoding.batch(next, fetch)?;
                let parts: Vec<&[u8]> = pictures
                    .iter()
                    .map(|picture| &picture[from..from + part.len()])
                    .collect();
                pass(&mut counting, &parts, threads);
                progress(share(done, passes));
            }
            counting.end_pass();
        }
        counting.write(part);
    }
    Ok(median)
}

/// The median of pictures of one size that are decoded already, as bytes.
///
/// # Panics
/// If there are none, more than [`MAX_PICTURES`], or some of another size.
pub fn median_of_pictures(pictures: &[Vec<u8>], threads: usize) -> Vec<u8> {
    let mut median = vec![0; pictures[0].len()];
    select(pictures, &mut median, threads.clamp(1, 64));
    median
}

#[expect(clippy::cast_precision_loss, reason = "a fraction for people")]
fn share(done: usize, of: usize) -> f64 {
    done as f64 / of as f64
}

/// Decoded pictures' values, all of one size.
struct Decoding<'a> {
    threads: usize,
    size: Option<(u32, u32)>,
    stop: &'a AtomicBool,
}

impl Decoding<'_> {
    /// The pictures of a range, decoded side by side.
    fn batch<E>(
        &mut self,
        range: Range<usize>,
        fetch: &mut dyn FnMut(Range<usize>) -> Result<Vec<Vec<u8>>, E>,
    ) -> Result<Vec<Vec<u8>>, MedianError<E>> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(MedianError::Cancelled);
        }
        let jpegs = fetch(range.clone()).map_err(MedianError::Fetch)?;
        let next = AtomicUsize::new(0);
        let decoded: Mutex<Vec<Option<Result<RgbPicture, VideoError>>>> =
            Mutex::new(jpegs.iter().map(|_| None).collect());
        thread::scope(|scope| {
            for _ in 0..self.threads.min(jpegs.len()) {
                let (next, decoded, jpegs) = (&next, &decoded, &jpegs);
                scope.spawn(move || {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(jpeg) = jpegs.get(at) else { return };
                        let picture = decode_jpeg(jpeg);
                        decoded.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(picture);
                    }
                });
            }
        });
        let decoded = decoded.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut pictures = Vec::with_capacity(decoded.len());
        for (position, picture) in range.zip(decoded) {
            let picture = picture
                .expect("each was decoded by one of the threads")
                .map_err(|source| MedianError::Decode { position, source })?;
            let found = (picture.width, picture.height);
            let first = *self.size.get_or_insert(found);
            if found != first {
                return Err(MedianError::Size { position, found, first });
            }
            pictures.push(picture.data);
        }
        Ok(pictures)
    }
}

/// Values of one block in all pictures, picture by picture.
type Block = Vec<[u8; LANES]>;

/// The medians of pictures that are all at hand, into `medians`.
fn select(pictures: &[Vec<u8>], medians: &mut [u8], threads: usize) {
    // Whole blocks for each thread, so that all but the last one are full.
    let each = medians.len().div_ceil(threads).next_multiple_of(LANES);
    thread::scope(|scope| {
        for (number, part) in medians.chunks_mut(each).enumerate() {
            scope.spawn(move || {
                let mut block: Block = vec![[0; LANES]; pictures.len()];
                for (at, medians) in part.chunks_mut(LANES).enumerate() {
                    let from = number * each + at * LANES;
                    for (lanes, picture) in block.iter_mut().zip(pictures) {
                        lanes[..medians.len()].copy_from_slice(&picture[from..from + medians.len()]);
                    }
                    medians.copy_from_slice(&median_of_block(&block)[..medians.len()]);
                }
            });
        }
    });
}

/// The median of each lane.
fn median_of_block(block: &[[u8; LANES]]) -> [u8; LANES] {
    let (lower_rank, upper_rank) = middle(block.len());
    let mut lower = [0_u8; LANES];
    for bit in (0..8).rev() {
        let trial = lower.map(|value| value | 1 << bit);
        let below = count(block, &trial, |value, trial| value < trial);
        for lane in 0..LANES {
            if below[lane] <= lower_rank {
                lower[lane] = trial[lane];
            }
        }
    }
    if lower_rank == upper_rank {
        return lower;
    }
    let up_to = count(block, &lower, |value, lower| value <= lower);
    let mut next = [u8::MAX; LANES];
    for lanes in block {
        for lane in 0..LANES {
            let value = lanes[lane];
            next[lane] = next[lane].min(if value > lower[lane] { value } else { u8::MAX });
        }
    }
    std::array::from_fn(|lane| {
        let upper = if up_to[lane] > upper_rank {
            lower[lane]
        } else {
            next[lane]
        };
        mean(lower[lane], upper)
    })
}

/// In how many pictures each lane is as `is` says of it and `than`.
#[inline]
fn count(block: &[[u8; LANES]], than: &[u8; LANES], is: impl Fn(u8, u8) -> bool) -> [u16; LANES] {
    let mut total = [0_u16; LANES];
    // As many as a count of one byte can hold.
    for some in block.chunks(usize::from(u8::MAX)) {
        let mut counts = [0_u8; LANES];
        for lanes in some {
            for lane in 0..LANES {
                counts[lane] = counts[lane].wrapping_add(u8::from(is(lanes[lane], than[lane])));
            }
        }
        for lane in 0..LANES {
            total[lane] += u16::from(counts[lane]);
        }
    }
    total
}

/// Ranks of the two values in the middle, from 0; of an odd number they are one.
fn middle(count: usize) -> (u16, u16) {
    let rank = |rank: usize| u16::try_from(rank).expect("at most MAX_PICTURES");
    (rank((count - 1) / 2), rank(count / 2))
}

const fn mean(lower: u8, upper: u8) -> u8 {
    u8::midpoint(lower, upper)
}

/// Counts over pictures that come and go.
struct Counting {
    /// Of upper halves of bytes first, then of lower ones.
    counts: Vec<[u16; 16]>,
    known: Vec<Known>,
    ranks: (u16, u16),
    is_upper_known: bool,
}

/// What is known of a value's two in the middle after the first pass.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Upper half of the lower one.
    lower: u8,
    /// Upper half of the upper one.
    upper: u8,
    /// The least lower half below that one, seen so far.
    least: u8,
    /// Rank of the lower one among those that share its upper half.
    rank: u16,
}

impl Counting {
    fn new(values: usize, pictures: usize) -> Self {
        let nothing = Known {
            lower: 0,
            upper: 0,
            least: 15,
            rank: 0,
        };
        Self {
            counts: vec![[0; 16]; values],
            known: vec![nothing; values],
            ranks: middle(pictures),
            is_upper_known: false,
        }
    }

    fn count_upper(&mut self, pictures: &[&[u8]], threads: usize) {
        self.side_by_side(pictures, threads, |counts, _, values| {
            for (counts, value) in counts.iter_mut().zip(values) {
                counts[usize::from(value >> 4)] += 1;
            }
        });
    }

    fn count_lower(&mut self, pictures: &[&[u8]], threads: usize) {
        self.side_by_side(pictures, threads, |counts, known, values| {
            for ((counts, known), value) in counts.iter_mut().zip(known).zip(values) {
                let (upper, lower) = (value >> 4, value & 15);
                counts[usize::from(lower)] += u16::from(upper == known.lower);
                if upper == known.upper {
                    known.least = known.least.min(lower);
                }
            }
        });
    }

    /// Each thread has a part of the values, and all pictures.
    fn side_by_side(
        &mut self,
        pictures: &[&[u8]],
        threads: usize,
        count: impl Fn(&mut [[u16; 16]], &mut [Known], &[u8]) + Sync,
    ) {
        let each = self.counts.len().div_ceil(threads).max(1);
        let count = &count;
        thread::scope(|scope| {
            let parts = self.counts.chunks_mut(each).zip(self.known.chunks_mut(each));
            for (number, (counts, known)) in parts.enumerate() {
                scope.spawn(move || {
                    let from = number * each;
                    for picture in pictures {
                        count(counts, known, &picture[from..from + counts.len()]);
                    }
                });
            }
        });
    }

    /// After the first pass, what is known of the two in the middle; the counts begin anew.
    fn end_pass(&mut self) {
        if self.is_upper_known {
            return;
        }
        self.is_upper_known = true;
        for (counts, known) in self.counts.iter_mut().zip(&mut self.known) {
            (known.lower, known.rank) = find(counts, self.ranks.0);
            known.upper = find(counts, self.ranks.1).0;
            *counts = [0; 16];
        }
    }

    fn write(&self, medians: &mut [u8]) {
        // The second of two in the middle is the next one, or the first of its upper half.
        let is_even = self.ranks.0 != self.ranks.1;
        for ((median, counts), known) in medians.iter_mut().zip(&self.counts).zip(&self.known) {
            let lower = known.lower << 4 | find(counts, known.rank).0;
            let upper = if !is_even {
                lower
            } else if known.upper == known.lower {
                known.lower << 4 | find(counts, known.rank + 1).0
            } else {
                known.upper << 4 | known.least
            };
            *median = mean(lower, upper);
        }
    }
}

/// Where the value of this rank is counted, and its rank there.
fn find(counts: &[u16; 16], rank: u16) -> (u8, u16) {
    let mut left = rank;
    for (at, &count) in (0..).zip(counts) {
        if left < count {
            return (at, left);
        }
        left -= count;
    }
    (15, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is written down in a school book.
    fn plain(values: &mut [u8]) -> u8 {
        values.sort_unstable();
        let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        let sum = u16::from(lower) + u16::from(upper);
        u8::try_from(sum / 2).expect("a mean of bytes")
    }

    /// Pictures of so many values, some of few levels and some of many.
    fn pictures(count: usize, values: usize) -> Vec<Vec<u8>> {
        let mut chance = fastrand::Rng::with_seed(count as u64);
        (0..count)
            .map(|_| {
                (0..values)
                    .map(|at| match at % 4 {
                        0 => chance.u8(..),
                        1 => chance.u8(100..104),
                        2 => *chance.choice([0, 255, 15, 16].iter()).expect("four"),
                        _ => 7,
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn both_ways_find_the_median_that_sorting_finds() {
        for count in [1, 2, 3, 4, 5, 8, 99, 100, 255, 256, 257, 511, 700] {
            let values = 3 * LANES + 5;
            let pictures = pictures(count, values);
            let expected: Vec<u8> = (0..values)
                .map(|at| plain(&mut pictures.iter().map(|picture| picture[at]).collect::<Vec<_>>()))
                .collect();
            for threads in [1, 3] {
                let mut selected = vec![0; values];
                select(&pictures, &mut selected, threads);
                assert_eq!(selected, expected, "{count} pictures, {threads} threads");

                let mut counting = Counting::new(values, count);
                for pass in [Counting::count_upper, Counting::count_lower] {
                    for some in pictures.chunks(10) {
                        let some: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
                        pass(&mut counting, &some, threads);
                    }
                    counting.end_pass();
                }
                let mut counted = vec![0; values];
                counting.write(&mut counted);
                assert_eq!(counted, expected, "{count} pictures, {threads} threads, counted");
            }
        }
    }
}
