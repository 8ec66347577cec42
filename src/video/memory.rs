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

impl Plan {
    /// For so many groups of pictures.
    pub(super) fn of(
        path: &Path,
        facts: &StreamFacts,
        geometry: &Geometry,
        request: &SampleRequest,
        groups: usize,
    ) -> Result<Self, VideoError> {
        let bits = match u64::from(facts.header.bits_per_pixel) {
            0 => USUAL_BITS,
            bits => bits,
        };
        let picture_bytes = geometry.pixels() * bits / 8;
        let of_decoder = picture_bytes * (kept_pictures(&facts.header.codec, facts.header.intra_only) + OWN_PICTURES);
        let fixed = BASE_BYTES + (READ_AHEAD_BYTES + PICTURES_AHEAD_BYTES) as u64;
        let free = request.memory_bytes.saturating_sub(fixed);
        if of_decoder > free {
            let (needs_mb, limit_mb) = ((of_decoder + fixed) >> 20, request.memory_bytes >> 20);
            return Err(VideoError::TooLarge {
                path: path.to_owned(),
                detail: format!(
                    "to decode its pictures takes about {needs_mb} MB of memory, and {limit_mb} MB are allowed: \
                     raise child-memory-mb"
                ),
            });
        }
        let wanted = request.worker_threads.clamp(1, MAX_WORKERS);
        let fitting = usize::try_from(free / of_decoder.max(1)).unwrap_or(MAX_WORKERS);
        let workers = wanted.min(groups).min(fitting).max(1);
        // One long group is shared out by the decoder itself, which holds two more pictures for every thread.
        let more = (free - of_decoder * workers as u64) / workers as u64 / (picture_bytes * 2).max(1);
        let fitting = usize::try_from(more).unwrap_or(MAX_WORKERS).saturating_add(1);
        let threads_each = (wanted / workers.min(groups).max(1)).min(fitting).max(1);
        Ok(Self {
            workers,
            threads_each: if groups > workers { 1 } else { threads_each },
        })
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
