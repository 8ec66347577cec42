//! What is asked of this room, and what comes of it.

use super::damage::Damage;
use crate::domain::flow::{CropBounds, OnDamage};

/// What to sample.
#[derive(Debug, Clone)]
pub struct SampleRequest {
    /// Samples a second: above 0, at most 1000, above the video's own as well.
    pub frame_rate_hz: f64,
    /// Only this part of each frame; the whole frame if `None`.
    pub crop: Option<CropBounds>,
    /// Threads that decode, from 1; fewer are used where their pictures would not fit into the memory.
    pub worker_threads: usize,
    /// What all of it may take, in bytes.
    pub memory_bytes: u64,
    /// libav's JPEG quality scale, 1 (best) to 31.
    pub jpeg_qscale: i32,
    /// What becomes of a video that is damaged in places.
    pub on_damage: OnDamage,
}

/// The highest rate that is taken: more is a mistake.
pub(super) const MAX_RATE_HZ: f64 = 1000.0;

/// What a video is. Sizes are those of display: rotation and pixel aspect are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Display width, in pixels.
    pub width: u32,
    /// Display height, in pixels.
    pub height: u32,
    /// From the start of the timeline to the end of the last picture.
    pub duration_seconds: f64,
    /// Mean frame rate.
    pub frame_rate_hz: f64,
    /// libav's name of the codec: `h264`, `hevc`, `vp9`, `av1`.
    pub codec: String,
    /// Its light is coded as PQ or HLG: stored pictures are pale, they are not mapped to the range of a screen.
    pub is_hdr: bool,
    /// Whether the file tells where it ends, so that a missing end would have been noticed.
    pub end_is_known: bool,
    /// What the file says of its length, if it does in words of its own.
    pub stated_seconds: Option<f64>,
}

impl VideoInfo {
    /// Says until when there are pictures and what the file says of its length, where a missing end goes unnoticed.
    pub fn open_end(&self) -> Option<String> {
        if self.end_is_known {
            return None;
        }
        let until = format!("pictures until {:.1} s", self.duration_seconds);
        Some(match self.stated_seconds {
            Some(stated) => format!("{until}, the file says {stated:.1} s"),
            None => format!("{until}, the file does not say how long it is"),
        })
    }
}

/// What sampling came to.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleSummary {
    /// The video.
    pub info: VideoInfo,
    /// Samples taken: one for every whole k from 0 with k / rate before the video's end.
    pub samples: u64,
    /// What could not be shown.
    pub damage: Damage,
}

/// A sampled frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampledFrame {
    /// k of t = k / rate.
    pub sample: u64,
    /// The picture as a full-range 4:2:0 JPEG, in display orientation and aspect, and in the film's colours.
    pub jpeg: Vec<u8>,
    /// Its width: of the crop bounds, or of the whole frame.
    pub width: u32,
    /// Its height.
    pub height: u32,
}

/// Error of the caller's sink.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;
