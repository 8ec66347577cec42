//! What stays the same for a whole video.

use super::sys::StreamHeader;
use super::timeline::Fraction;

/// What the container says of the video stream.
#[derive(Debug, Clone)]
pub(super) struct StreamFacts {
    pub(super) header: StreamHeader,
    pub(super) time_base: Fraction,
    /// The matrix `a b u c d v x y w` that turns stored pixels into displayed ones, if there is one.
    pub(super) display_matrix: Option<[i32; 9]>,
    /// Mean rate as libav has it, in Hz; 0 if unknown.
    pub(super) mean_rate_hz: f64,
}

#[expect(clippy::cast_precision_loss, reason = "a time for people and for video_metadata")]
pub(super) fn seconds(ticks: i64, time_base: Fraction) -> f64 {
    ticks as f64 * time_base.value()
}
