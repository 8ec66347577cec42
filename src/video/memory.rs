//! How many decoders fit into the memory.

use std::path::Path;

use super::error::VideoError;
use super::facts::StreamFacts;
use super::picture::Geometry;
use super::request::SampleRequest;

/// Bytes of packets that are read ahead of the decoders: several groups of an ordinary video, so that every decoder
/// has one, and a bound for groups of any length.
pub(super) const READ_AHEAD_BYTES: usize = 48 << 20;
/// Pictures that the decoders of later groups may be ahead of the sink, in bytes over all decoders.
pub(super) const PICTURES_AHEAD_BYTES: usize = 64 << 20;
/// The program itself, the packets' times, libav's buffers.
const BASE_BYTES: u64 = 128 << 20;
/// Decoders, at most: more only take memory.
const MAX_WORKERS: usize = 64;
/// Bits of a pixel whose format is not known before it is decoded: 4:2:0 of 10 bit.
const USUAL_BITS: u64 = 24;
/// Pictures that a worker holds beside its decoder's: the one on display, what the scaler and the cutter make of it.
const OWN_PICTURES: u64 = 3;

/// Decoders side by side, and threads of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) workers: usize,
    pub(super) threads_each: usize,
}

/// What there is to be shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tasks {
    /// Groups of pictures, to as many decoders.
    Groups(usize),
    /// One long sequence, to the threads of one decoder.
    Sequence,
    /// A sequence in which something is damaged: with several threads, what a decoder fails at is not the packet that it
    /// was given last, and good pictures are lost with the bad one.
    DamagedSequence,
}

impl Plan {
    pub(super) fn of(
        path: &Path,
        facts: &StreamFacts,
        geometry: &Geometry,
        request: &SampleRequest,
        tasks: Tasks,
    ) -> Result<Self, VideoError> {
        let bits = match u64::from(facts.header.bits_per_pixel) {
            0 => USUAL_BITS,
            bits => bits,
        };
        let picture_bytes = geometry.pixels() * bits / 8;
        let of_decoder = picture_bytes * (kept_pictures(&facts.header.codec, facts.header.intra_only) + OWN_PICTURES);
        let fixed = BASE_BYTES + (READ_AHEAD_BYTES + PICTURES_AHEAD_BYTES) as u64;
        let free = request.memory_bytes.saturating_sub(fixed);
        // What is read and stored ahead has bounds, and need not be so much.
        if of_decoder > request.memory_bytes.saturating_sub(BASE_BYTES) {
            let (needs_mb, limit_mb) = ((of_decoder + BASE_BYTES) >> 20, request.memory_bytes >> 20);
            return Err(VideoError::TooLarge {
                path: path.to_owned(),
                detail: format!(
                    "to decode its pictures takes about {needs_mb} MB of memory, and {limit_mb} MB are allowed: \
                     raise child-memory-mb"
                ),
            });
        }
        let wanted = request.worker_threads.clamp(1, MAX_WORKERS);
        let fitting = |bytes: u64, each: u64| usize::try_from(bytes / each.max(1)).unwrap_or(MAX_WORKERS);
        let groups = if let Tasks::Groups(groups) = tasks { groups } else { 1 };
        let workers = wanted.min(groups).min(fitting(free, of_decoder)).max(1);
        // A decoder holds two more pictures for every further thread.
        let free_each = (free / workers as u64).saturating_sub(of_decoder);
        let threads_each = match tasks {
            Tasks::DamagedSequence => 1,
            Tasks::Groups(groups) if groups > workers => 1,
            Tasks::Groups(_) | Tasks::Sequence => (wanted / workers).min(fitting(free_each, picture_bytes * 2) + 1),
        };
        Ok(Self { workers, threads_each })
    }
}

/// Pictures that a decoder keeps, at most: references, and those that wait for their turn.
fn kept_pictures(codec: &str, intra_only: bool) -> u64 {
    match codec {
        "h264" | "hevc" => 17,
        "vp8" | "vp9" | "av1" => 10,
        _ if intra_only => 2,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::flow::OnDamage;
    use crate::video::sys::StreamHeader;
    use crate::video::timeline::Fraction;

    fn plan(size: (i32, i32), worker_threads: usize, memory_mb: u64, tasks: Tasks) -> Result<Plan, VideoError> {
        let facts = StreamFacts {
            header: StreamHeader {
                width: size.0,
                height: size.1,
                codec: "h264".to_owned(),
                bits_per_pixel: 12,
                ..StreamHeader::default()
            },
            time_base: Fraction {
                numerator: 1,
                denominator: 1000,
            },
            display_matrix: None,
            mean_rate_hz: 25.0,
        };
        let path = Path::new("film.mp4");
        let geometry = Geometry::of(&facts, path)?;
        let request = SampleRequest {
            frame_rate_hz: 10.0,
            crop: None,
            worker_threads,
            memory_bytes: memory_mb << 20,
            jpeg_qscale: 6,
            on_damage: OnDamage::Keep,
        };
        Plan::of(path, &facts, &geometry, &request, tasks)
    }

    #[track_caller]
    fn check(size: (i32, i32), worker_threads: usize, memory_mb: u64, tasks: Tasks, expected: (usize, usize)) {
        let (workers, threads_each) = expected;
        let found = plan(size, worker_threads, memory_mb, tasks).expect("it fits");
        assert_eq!(found, Plan { workers, threads_each });
    }

    #[test]
    fn there_are_as_many_decoders_as_fit_into_the_memory() {
        let (hd, uhd_8k) = ((1920, 1080), (7680, 4320));
        check(hd, 2, 4096, Tasks::Groups(100), (2, 1));
        check(hd, 64, 4096, Tasks::Groups(100), (64, 1));
        check(hd, 8, 4096, Tasks::Groups(2), (2, 4));
        check(hd, 8, 4096, Tasks::Sequence, (1, 8));
        check(hd, 8, 4096, Tasks::DamagedSequence, (1, 1));
        // A picture of 8K takes 47 MB, and a decoder 20 of them.
        check(uhd_8k, 16, 4096, Tasks::Groups(100), (4, 1));
        check(uhd_8k, 16, 1300, Tasks::Groups(100), (1, 1));
        check(uhd_8k, 16, 2048, Tasks::Sequence, (1, 10));
    }

    #[test]
    fn a_film_of_which_one_decoder_does_not_fit_is_refused() {
        let error = plan((7680, 4320), 2, 1024, Tasks::Groups(100)).expect_err("too large");
        assert_eq!((error.code(), error.is_input_fault()), ("VIDEO_TOO_LARGE", true));
        let text = error.to_string();
        assert!(
            text.contains("takes about 1077 MB of memory, and 1024 MB are allowed"),
            "{text}"
        );
    }
}
