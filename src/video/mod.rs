//! Video: probe, decode, sample, crop, JPEG.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::flow::CropBounds;
use crate::picture::RgbPicture;

/// What to sample.
#[derive(Debug, Clone)]
pub struct SampleRequest {
    /// Samples a second.
    pub frame_rate_hz: f64,
    /// Only this part of each frame.
    pub crop: Option<CropBounds>,
    /// Threads that decode.
    pub worker_threads: usize,
    /// libav's JPEG quality scale.
    pub jpeg_qscale: i32,
}

/// What a video is.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Display width, in pixels.
    pub width: u32,
    /// Display height, in pixels.
    pub height: u32,
    /// Length.
    pub duration_seconds: f64,
    /// Mean frame rate.
    pub frame_rate_hz: f64,
    /// `h264`.
    pub codec: String,
}

/// What sampling came to.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleSummary {
    /// The video.
    pub info: VideoInfo,
    /// Samples taken.
    pub samples: u64,
}

/// A sampled frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampledFrame {
    /// k of t = k / rate.
    pub sample: u64,
    /// The picture.
    pub jpeg: Vec<u8>,
    /// Its width.
    pub width: u32,
    /// Its height.
    pub height: u32,
}

/// Why a video gave no samples.
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct VideoError;

impl VideoError {
    /// Stable.
    pub fn code(&self) -> &'static str {
        "STUB"
    }
    /// Never tried again.
    pub fn is_input_fault(&self) -> bool {
        true
    }
}

/// Error of the caller's sink.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Samples.
pub fn sample(
    _path: &Path,
    _request: &SampleRequest,
    _stop: &AtomicBool,
    _sink: &mut dyn FnMut(SampledFrame, u64) -> Result<(), SinkError>,
) -> Result<SampleSummary, VideoError> {
    Err(VideoError)
}

/// Decodes.
pub fn decode_jpeg(_jpeg: &[u8]) -> Result<RgbPicture, VideoError> {
    Err(VideoError)
}
