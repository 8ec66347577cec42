//! The file: opened without blocking and without libav seeing its path, its packets read.

use std::io;
use std::path::{Path, PathBuf};

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, codec, decoder, ffi, format, media};

use super::description::CONTAINERS;
use super::error::VideoError;
use super::file::{open_file, playlist_kind};
use super::sys;
use super::timeline::Fraction;
use super::{libav, structure};

/// Bytes that libav reads at a time.
const READ_BYTES: usize = 1 << 18;

/// A video file that is open, its streams known, its video stream chosen.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) input: Input,
    pub(super) stream: usize,
    pub(super) time_base: Fraction,
    /// Why the file must be cut off, if its own structure says that it is.
    pub(super) cut_off: Option<String>,
}

impl Source {
    /// Opens `path`: never waits on a pipe or a device, never opens another file.
    pub(super) fn open(path: &Path) -> Result<Self, VideoError> {
        libav::set_up();
        let file = open_file(path)?;
        let io = |source| VideoError::Io {
            path: path.to_owned(),
            source,
        };
        let cut_off = structure::declared_end(&file).map_err(io)?;
        let head = structure::head_of(&file).map_err(io)?;
        if let Some(kind) = playlist_kind(&head) {
            return Err(VideoError::Playlist {
                path: path.to_owned(),
                kind,
            });
        }

        let mut options = Dictionary::new();
        // Containers that hold their own data: no playlist, no `concat`, no image sequence.
        options.set("format_whitelist", &CONTAINERS.map(|(demuxer, ..)| demuxer).join(","));
        // No protocol has this name: whatever a file refers to, it is not opened.
        options.set("protocol_whitelist", "none");
        let stream_io =
            StreamIo::from_read_seek_with_capacity(file, READ_BYTES).map_err(|source| VideoError::Libav {
                step: "set up reading",
                source,
            })?;
        let mut input = match format::input_from_stream(stream_io, None, Some(options)) {
            Ok(input) => input,
            Err(source) => return Err(not_opened(path, source, cut_off)),
        };
        let Some(stream) = sys::best_video_stream(&input) else {
            return Err(no_video_stream(path, &input));
        };
        sys::read_only(&mut input, stream);
        let time_base = input.stream(stream).map(|stream| stream.time_base());
        let time_base = time_base.and_then(positive).ok_or_else(|| VideoError::NotAVideo {
            path: path.to_owned(),
            detail: "its video stream has no time base".to_owned(),
        })?;
        let source = Self {
            path: path.to_owned(),
            input,
            stream,
            time_base,
            cut_off,
        };
        // Before anything is said of its pictures: those of an unknown codec have no size.
        let codec = source.parameters().id();
        if source.cut_off.is_none() && decoder::find(codec).is_none() {
            return Err(VideoError::UnsupportedCodec {
                path: source.path,
                codec: codec.name().to_owned(),
            });
        }
        Ok(source)
    }

    /// The parameters for a decoder of the video stream, as a copy of their own.
    pub(super) fn parameters(&self) -> codec::Parameters {
        let mut copy = codec::Parameters::new();
        if let Some(stream) = self.input.stream(self.stream) {
            copy.clone_from(&stream.parameters());
        }
        copy
    }

    pub(super) fn time_base(&self) -> Rational {
        self.input
            .stream(self.stream)
            .map_or(Rational::new(1, 1000), |stream| stream.time_base())
    }

    /// The next packet of the video stream, `None` at the end of the file.
    pub(super) fn next_packet(&mut self) -> Result<Option<Packet>, VideoError> {
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.stream => return Ok(Some(packet)),
                Ok(()) => {}
                Err(Error::Eof) => return Ok(None),
                // What the demuxers of Matroska and FLV say of a file that ends early.
                Err(Error::InvalidData | Error::Other { errno: ffi::EIO }) if self.cut_off.is_some() => {
                    return Ok(None);
                }
                Err(source) => return Err(self.unreadable(source)),
            }
        }
    }

    fn unreadable(&self, source: Error) -> VideoError {
        match source {
            Error::Other { errno } if errno != ffi::EIO && errno != ffi::EINVAL => VideoError::Io {
                path: self.path.clone(),
                source: io::Error::from_raw_os_error(errno),
            },
            source => VideoError::Truncated {
                path: self.path.clone(),
                detail: format!("the container ends early: {source}"),
            },
        }
    }
}

/// A fraction that is more than 0.
pub(super) fn positive(rational: Rational) -> Option<Fraction> {
    let fraction = Fraction {
        numerator: i64::from(rational.numerator()),
        denominator: i64::from(rational.denominator()),
    };
    (fraction.numerator > 0 && fraction.denominator > 0).then_some(fraction)
}

fn not_opened(path: &Path, source: Error, cut_off: Option<String>) -> VideoError {
    let path = path.to_owned();
    match (source, cut_off) {
        (Error::Other { errno: ffi::ENOMEM }, _) => VideoError::Libav {
            step: "open the file",
            source,
        },
        (_, Some(detail)) => VideoError::Truncated { path, detail },
        (Error::InvalidData | Error::DemuxerNotFound, None) => VideoError::NotAVideo {
            path,
            detail: "no container that is known here".to_owned(),
        },
        (source, None) => VideoError::NotAVideo {
            path,
            detail: source.to_string(),
        },
    }
}

fn no_video_stream(path: &Path, input: &Input) -> VideoError {
    let has = |kind| input.streams().any(|stream| stream.parameters().medium() == kind);
    let found = if has(media::Type::Audio) {
        "sound"
    } else if has(media::Type::Subtitle) {
        "subtitles"
    } else {
        "data"
    };
    VideoError::NoVideoStream {
        path: path.to_owned(),
        found,
    }
}
