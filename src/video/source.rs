//! The file: opened without blocking and without libav seeing its path, its packets read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, codec, ffi, format, log, media, packet};

use super::picture::Geometry;
use super::structure::{self, Break};
use super::sys::{self, StreamHeader};
use super::timeline::{Fraction, PacketFacts, Timeline};
use super::{VideoError, VideoInfo};

/// The demuxers that may be used: containers that hold their own data. No playlist, no `concat`, no image sequence.
const CONTAINERS: &str = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,m4v,h264,hevc,ivf,obu";
/// Bytes that libav reads at a time.
const READ_BYTES: usize = 1 << 18;
/// Pictures of one file, which bounds the memory of the packet pass: 60 Hz for two days.
const MAX_PACKETS: usize = 10_000_000;

/// Keeps libav's own lines off stderr: what matters of them is in our errors.
pub(super) fn quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| log::set_level(log::Level::Quiet));
}

/// A video file that is open, its streams known, its video stream chosen.
pub(super) struct Source {
    pub(super) path: PathBuf,
    input: Input,
    stream: usize,
    time_base: Fraction,
    /// Why the file must be cut off, if its own structure says that it is.
    cut_off: Option<String>,
}

/// What stays the same for the whole video.
#[derive(Debug, Clone)]
pub(super) struct StreamFacts {
    pub(super) header: StreamHeader,
    pub(super) time_base: Fraction,
    /// The matrix `a b u c d v x y w` that turns stored pixels into displayed ones, if there is one.
    pub(super) display_matrix: Option<[i32; 9]>,
    /// Mean rate and smallest common rate as libav has them, in Hz; 0 if unknown.
    mean_rate_hz: f64,
    base_rate_hz: f64,
}

/// What the packet pass found.
pub(super) struct Scan {
    pub(super) facts: StreamFacts,
    pub(super) packets: Vec<PacketFacts>,
    pub(super) timeline: Timeline,
}

impl Source {
    /// Opens `path`: never waits on a pipe or a device, never opens another file.
    pub(super) fn open(path: &Path) -> Result<Self, VideoError> {
        quiet();
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
        options.set("format_whitelist", CONTAINERS);
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
        let Some(stream) = input.streams().best(media::Type::Video).map(|stream| stream.index()) else {
            return Err(no_video_stream(path, &input));
        };
        if sys::stream_header(&mut input, stream).cover_art {
            return Err(no_video_stream(path, &input));
        }
        sys::read_only(&mut input, stream);
        let time_base = input.stream(stream).map(|stream| stream.time_base());
        let time_base = time_base.and_then(positive).ok_or_else(|| VideoError::NotAVideo {
            path: path.to_owned(),
            detail: "its video stream has no time base".to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            input,
            stream,
            time_base,
            cut_off,
        })
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

    /// Where the file's structure is broken, if libav would pass over that in silence.
    fn broken_at(&self, stop: &AtomicBool) -> Result<Option<Break>, VideoError> {
        if self.cut_off.is_some() {
            return Ok(None);
        }
        let file = open_file(&self.path)?;
        structure::first_break(&file, stop).map_err(|source| VideoError::Io {
            path: self.path.clone(),
            source,
        })
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

    /// Reads all packets' times. Fails for a file whose end is missing, before anything of it is used.
    pub(super) fn scan(mut self, stop: &AtomicBool) -> Result<Scan, VideoError> {
        let mut packets = Vec::new();
        let mut damaged: Option<(usize, Option<i64>)> = None;
        let broken = self.broken_at(stop)?;
        let mut last_before_break = None;
        while let Some(packet) = self.next_packet()? {
            if stop.load(Ordering::Relaxed) {
                return Err(VideoError::Cancelled);
            }
            if packets.len() == MAX_PACKETS {
                return Err(VideoError::TooLarge {
                    path: self.path,
                    detail: format!("more than {MAX_PACKETS} pictures"),
                });
            }
            if packet.is_corrupt() && damaged.is_none() {
                damaged = Some((packets.len(), packet.pts().or(packet.dts())));
            }
            let is_before =
                |broken: &Break| u64::try_from(packet.position()).is_ok_and(|position| position < broken.at);
            if broken.as_ref().is_some_and(is_before) {
                last_before_break = packet.pts().or(last_before_break);
            }
            packets.push(PacketFacts {
                pts: packet.pts(),
                dts: packet.dts(),
                duration: packet.duration(),
                key: packet.is_key(),
                hidden: sys::is_hidden(&packet),
            });
        }
        if let Some(detail) = self.cut_off {
            return Err(VideoError::Truncated {
                path: self.path,
                detail,
            });
        }
        let header = sys::stream_header(&mut self.input, self.stream);
        let stream = self
            .input
            .stream(self.stream)
            .expect("the stream that was chosen from this file");
        let container_start =
            sys::start_microseconds(&self.input).map(|start| sys::ticks_of_microseconds(start, &stream));
        let mean_rate = positive(stream.avg_frame_rate());
        // Field pictures can come in a packet each; only the decoder can tell.
        let fields = header.interlaced;
        let usual_interval = positive(Rational::new(header.usual_rate.0, header.usual_rate.1))
            .or(mean_rate)
            .and_then(|rate| interval(rate, self.time_base));
        let timeline = Timeline::of(&packets, container_start, usual_interval, self.time_base, fields);
        let origin = timeline.as_ref().and_then(|timeline| timeline.origin).unwrap_or(0);
        if let Some((index, pts)) = damaged {
            if index + 1 == packets.len() {
                return Err(VideoError::Truncated {
                    path: self.path,
                    detail: "its last picture is not whole".to_owned(),
                });
            }
            return Err(VideoError::Corrupt {
                at_seconds: seconds(pts.unwrap_or(origin).saturating_sub(origin), self.time_base),
                path: self.path,
                detail: "the container marks a packet as damaged".to_owned(),
            });
        }
        if let Some(broken) = broken {
            return Err(VideoError::Corrupt {
                at_seconds: seconds(
                    last_before_break.unwrap_or(origin).saturating_sub(origin),
                    self.time_base,
                ),
                path: self.path,
                detail: broken.detail,
            });
        }
        let timeline = timeline.ok_or_else(|| VideoError::NoFrames {
            path: self.path.clone(),
        })?;
        let facts = StreamFacts {
            header,
            time_base: self.time_base,
            display_matrix: stream.side_data().find_map(|data| match data.kind() {
                packet::side_data::Type::DisplayMatrix => matrix(data.data()),
                _ => None,
            }),
            mean_rate_hz: mean_rate.map_or(0.0, Fraction::value),
            base_rate_hz: positive(stream.rate()).map_or(0.0, Fraction::value),
        };
        Ok(Scan {
            facts,
            packets,
            timeline,
        })
    }
}

impl Scan {
    /// Mean frame rate: the container's if the pictures agree with it, so that 29.97 Hz is not 29.9702.
    #[expect(clippy::cast_precision_loss, reason = "less than 2^53 pictures")]
    fn mean_rate_hz(&self) -> f64 {
        let measured = self.timeline.pictures as f64 / self.length_seconds().max(f64::MIN_POSITIVE);
        let stated = self.facts.mean_rate_hz;
        if stated > 0.0 && (!measured.is_finite() || (stated / measured - 1.0).abs() < 0.01) {
            stated
        } else {
            measured
        }
    }

    /// The rate above which samples would only repeat pictures: for a variable rate, the finest spacing in use.
    pub(super) fn own_rate_hz(&self) -> f64 {
        self.mean_rate_hz()
            .max(self.facts.mean_rate_hz)
            .max(self.facts.base_rate_hz)
    }

    fn length_seconds(&self) -> f64 {
        seconds(self.timeline.length, self.facts.time_base)
    }

    pub(super) fn info(&self, geometry: &Geometry) -> VideoInfo {
        VideoInfo {
            width: geometry.width,
            height: geometry.height,
            duration_seconds: self.length_seconds(),
            frame_rate_hz: self.mean_rate_hz(),
            codec: self.facts.header.codec.clone(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time for people and for video_metadata")]
pub(super) fn seconds(ticks: i64, time_base: Fraction) -> f64 {
    ticks as f64 * time_base.value()
}

fn positive(rational: Rational) -> Option<Fraction> {
    let fraction = Fraction {
        numerator: i64::from(rational.numerator()),
        denominator: i64::from(rational.denominator()),
    };
    (fraction.numerator > 0 && fraction.denominator > 0).then_some(fraction)
}

/// A picture's length at `rate`, in ticks.
fn interval(rate: Fraction, time_base: Fraction) -> Option<i64> {
    let ticks = i128::from(rate.denominator) * i128::from(time_base.denominator)
        / (i128::from(rate.numerator) * i128::from(time_base.numerator));
    i64::try_from(ticks).ok().filter(|ticks| *ticks > 0)
}

fn matrix(bytes: &[u8]) -> Option<[i32; 9]> {
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers: Vec<i32> = numbers.iter().map(|bytes| i32::from_ne_bytes(*bytes)).collect();
    numbers.get(..9)?.try_into().ok()
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

fn open_file(path: &Path) -> Result<File, VideoError> {
    let owned = || path.to_owned();
    let refused = |source: io::Error| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput | ErrorKind::InvalidFilename => {
            VideoError::NotFound { path: owned() }
        }
        ErrorKind::PermissionDenied => VideoError::NotReadable { path: owned(), source },
        _ => VideoError::Io { path: owned(), source },
    };
    let check = |metadata: &fs::Metadata| match kind_of(metadata) {
        Some(kind) => Err(VideoError::NotAFile { path: owned(), kind }),
        None => Ok(()),
    };
    // Looked at first, because merely opening a device can do something to it.
    check(&fs::metadata(path).map_err(refused)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Without waiting for a writer, should a pipe have taken the file's place meanwhile.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path).map_err(refused)?;
    let metadata = file.metadata().map_err(refused)?;
    check(&metadata)?;
    if metadata.len() == 0 {
        return Err(VideoError::Empty { path: owned() });
    }
    Ok(file)
}

/// What else a path leads to, if not to a file.
fn kind_of(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return None;
    }
    if kind.is_dir() {
        return Some("a folder");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return Some("a pipe");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    Some("a device")
}

fn playlist_kind(head: &[u8]) -> Option<&'static str> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let kinds: [(&[u8], &str); 6] = [
        (b"#EXTM3U", "an HLS playlist"),
        (b"ffconcat", "a concat list"),
        (b"file ", "a concat list"),
        (b"<MPD", "a DASH manifest"),
        (b"<?xml", "an XML manifest"),
        (b"[playlist]", "a playlist"),
    ];
    kinds
        .into_iter()
        .find(|(start, _)| text.starts_with(start))
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::playlist_kind;

    #[test]
    fn playlists_are_known_by_their_first_words() {
        assert_eq!(playlist_kind(b"#EXTM3U\n"), Some("an HLS playlist"));
        assert_eq!(
            playlist_kind(b"\xef\xbb\xbf  ffconcat version 1.0"),
            Some("a concat list")
        );
        assert_eq!(playlist_kind(b"\0\0\0 ftypisom"), None);
    }
}
