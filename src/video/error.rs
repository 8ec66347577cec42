//! What can be wrong with a video, or go wrong while it is read.

use std::io;
use std::path::PathBuf;

use super::description::extensions;
use super::request::SinkError;
use crate::domain::flow::CropBounds;

/// A video, or a picture, that gave nothing. What was handed to a sink before is not to be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// `VIDEO_NOT_FOUND`: there is no such file.
    #[error("there is no file {path}: check video-path", path = path.display())]
    NotFound {
        /// The path as it was given.
        path: PathBuf,
    },
    /// `VIDEO_NOT_A_FILE`: the path leads to a folder, a pipe or a device.
    #[error("{path} is {kind}, not a file: give the path of a video file", path = path.display())]
    NotAFile {
        /// The path as it was given.
        path: PathBuf,
        /// `a folder`.
        kind: &'static str,
    },
    /// `VIDEO_NOT_READABLE`: this user may not read the file.
    #[error("{path} cannot be read: give this user read access to it", path = path.display())]
    NotReadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `VIDEO_EMPTY`: the file has no bytes.
    #[error("{path} is empty (0 bytes): was its upload finished?", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// `VIDEO_IO`: the system failed to read the file; it may pass.
    #[error("reading {path} failed", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `NOT_A_VIDEO`: none of the known containers.
    #[error(
        "{path} is not a video that can be read ({detail}): give one of these: {extensions}",
        path = path.display(),
        extensions = extensions()
    )]
    NotAVideo {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// `VIDEO_IS_A_PLAYLIST`: the file only names other files, which are never opened.
    #[error("{path} is {kind}, which only names other files: give the video file itself", path = path.display())]
    Playlist {
        /// The file.
        path: PathBuf,
        /// `an HLS playlist`.
        kind: &'static str,
    },
    /// `NO_VIDEO_STREAM`: sound or data alone.
    #[error("{path} has no video stream, only {found}: give a file with a picture", path = path.display())]
    NoVideoStream {
        /// The file.
        path: PathBuf,
        /// `sound`.
        found: &'static str,
    },
    /// `UNSUPPORTED_CODEC`: no decoder for the video stream.
    #[error("{path} is coded as {codec}, for which there is no decoder here: convert it to H.264", path = path.display())]
    UnsupportedCodec {
        /// The file.
        path: PathBuf,
        /// libav's name of the codec.
        codec: String,
    },
    /// `TRUNCATED`: the end of the file is missing.
    #[error("{path} is cut off ({detail}): upload it again", path = path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where it ends and where it should.
        detail: String,
    },
    /// `NO_FRAMES`: a video stream without a picture in it.
    #[error("{path} has a video stream without a single picture that can be shown", path = path.display())]
    NoFrames {
        /// The file.
        path: PathBuf,
    },
    /// `CORRUPT_VIDEO`: too much of it cannot be decoded, or anything where that was not to be taken.
    #[error("{path} is damaged at {at_seconds:.3} s ({detail}): convert or upload it again", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where, on the video's own timeline.
        at_seconds: f64,
        /// What the demuxer or the decoder said.
        detail: String,
    },
    /// `VIDEO_TOO_LARGE`: beyond what is decoded here.
    #[error("{path} is beyond the limits ({detail}): scale or cut it down", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The value and the limit.
        detail: String,
    },
    /// `CROP_OUTSIDE_FRAME`: crop bounds that are empty, inverted or outside the frame.
    #[error(
        "crop bounds {} are {problem}: the frame is {width}x{height} pixels, \
         so 0 <= left < right <= {width} and 0 <= top < bottom <= {height}",
        crop_text(bounds)
    )]
    CropOutsideFrame {
        /// The bounds.
        bounds: CropBounds,
        /// `empty`, `inverted` or `outside the frame`.
        problem: &'static str,
        /// Display width of the frame, in pixels.
        width: u32,
        /// Display height of the frame, in pixels.
        height: u32,
    },
    /// `INVALID_ARGUMENT`: a request that no video can fulfil.
    #[error("{argument} is {value}: {problem}")]
    InvalidArgument {
        /// Its name.
        argument: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        problem: &'static str,
    },
    /// `VIDEO_CHANGED`: the file is not what it was a moment ago; it may be whole the next time.
    #[error("{path} changed while it was read: is it still being written?", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// `INVALID_JPEG`: bytes that are not a JPEG picture.
    #[error("{bytes} bytes are not a JPEG picture that can be decoded ({detail})")]
    InvalidJpeg {
        /// How many bytes.
        bytes: usize,
        /// What the decoder said.
        detail: String,
    },
    /// `CANCELLED`: the stop flag was set.
    #[error("stopped on request while reading the video")]
    Cancelled,
    /// `FRAME_NOT_TAKEN`: the caller's sink refused a frame.
    #[error("sample {sample} could not be stored")]
    Sink {
        /// The sample.
        sample: u64,
        /// What the sink said.
        #[source]
        source: SinkError,
    },
    /// `LIBAV`: a step failed that does not depend on the input, such as for want of memory.
    #[error("libav could not {step}")]
    Libav {
        /// What was tried.
        step: &'static str,
        /// What libav said.
        #[source]
        source: ffmpeg_next::Error,
    },
}

impl VideoError {
    /// Every code, for the documentation and its test.
    pub const CODES: [&'static str; 20] = [
        "VIDEO_NOT_FOUND",
        "VIDEO_NOT_A_FILE",
        "VIDEO_NOT_READABLE",
        "VIDEO_EMPTY",
        "VIDEO_IO",
        "NOT_A_VIDEO",
        "VIDEO_IS_A_PLAYLIST",
        "NO_VIDEO_STREAM",
        "UNSUPPORTED_CODEC",
        "TRUNCATED",
        "NO_FRAMES",
        "CORRUPT_VIDEO",
        "VIDEO_TOO_LARGE",
        "CROP_OUTSIDE_FRAME",
        "INVALID_ARGUMENT",
        "VIDEO_CHANGED",
        "INVALID_JPEG",
        "CANCELLED",
        "FRAME_NOT_TAKEN",
        "LIBAV",
    ];

    /// The stable code of this error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "VIDEO_NOT_FOUND",
            Self::NotAFile { .. } => "VIDEO_NOT_A_FILE",
            Self::NotReadable { .. } => "VIDEO_NOT_READABLE",
            Self::Empty { .. } => "VIDEO_EMPTY",
            Self::Io { .. } => "VIDEO_IO",
            Self::NotAVideo { .. } => "NOT_A_VIDEO",
            Self::Playlist { .. } => "VIDEO_IS_A_PLAYLIST",
            Self::NoVideoStream { .. } => "NO_VIDEO_STREAM",
            Self::UnsupportedCodec { .. } => "UNSUPPORTED_CODEC",
            Self::Truncated { .. } => "TRUNCATED",
            Self::NoFrames { .. } => "NO_FRAMES",
            Self::Corrupt { .. } => "CORRUPT_VIDEO",
            Self::TooLarge { .. } => "VIDEO_TOO_LARGE",
            Self::CropOutsideFrame { .. } => "CROP_OUTSIDE_FRAME",
            Self::InvalidArgument { .. } => "INVALID_ARGUMENT",
            Self::Changed { .. } => "VIDEO_CHANGED",
            Self::InvalidJpeg { .. } => "INVALID_JPEG",
            Self::Cancelled => "CANCELLED",
            Self::Sink { .. } => "FRAME_NOT_TAKEN",
            Self::Libav { .. } => "LIBAV",
        }
    }

    /// Whether the input is at fault, so that the same call fails again: such a failure is never tried again.
    pub const fn is_input_fault(&self) -> bool {
        !matches!(
            self,
            Self::Io { .. } | Self::Changed { .. } | Self::Cancelled | Self::Sink { .. } | Self::Libav { .. }
        )
    }
}

fn crop_text(bounds: &CropBounds) -> String {
    format!(
        "left {}, top {}, right {}, bottom {}",
        bounds.left, bounds.top, bounds.right, bounds.bottom
    )
}
