//! The file: opened without blocking and without libav seeing its path, its packets read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, codec, ffi, format, log, media, packet};

use super::picture::Geometry;
use super::sys::{self, StreamHeader};
use super::timeline::{Fraction, PacketFacts, Timeline};
use super::{VideoError, VideoInfo};

/// The demuxers that may be used: containers that hold their own data. No playlist, no `concat`, no image sequence.
const CONTAINERS: &str = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,m4v,h264,hevc,ivf,obu";
/// Bytes that libav reads at a time.
const READ_BYTES: usize = 1 << 18;
/// Pictures of one file, which bounds the memory of the packet pass: 60 Hz for two days.
const MAX_PACKETS: usize = 10_000_000;
/// Boxes of an mp4 file that are looked at for its length: a fragment has two.
const MAX_BOXES: usize = 1_000_000;
/// Elements of a Matroska file that are looked at: pictures, and the sound between them.
const MAX_ELEMENTS: usize = 4 * MAX_PACKETS;

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
        let cut_off = declared_end(&file).map_err(io)?;
        let head = head_of(&file).map_err(io)?;
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

    /// The byte at which the file's structure is broken, where libav would pass over that in silence.
    fn broken_at(&self) -> Result<Option<u64>, VideoError> {
        if self.cut_off.is_some() {
            return Ok(None);
        }
        let file = open_file(&self.path)?;
        matroska_break(&file).map_err(|source| VideoError::Io {
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
        let broken_at = self.broken_at()?;
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
            if broken_at.is_some_and(|at| u64::try_from(packet.position()).is_ok_and(|position| position < at)) {
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
        if let Some(at) = broken_at {
            return Err(VideoError::Corrupt {
                at_seconds: seconds(
                    last_before_break.unwrap_or(origin).saturating_sub(origin),
                    self.time_base,
                ),
                path: self.path,
                detail: format!("its structure is broken at byte {at}"),
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

fn head_of(file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut reader = ReadAt { file, position: 0 };
    reader.by_ref().take(256).read_to_end(&mut head)?;
    Ok(head)
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

/// Reads at a position of its own, so that the file's position stays where libav expects it.
struct ReadAt<'a> {
    file: &'a File,
    position: u64,
}

impl io::Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.position)?;
        #[cfg(windows)]
        let read = std::os::windows::fs::FileExt::seek_read(self.file, buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// Whether the file is shorter than its own structure says, and in what words: libav takes a cut-off mp4 for one
/// that is over.
fn declared_end(file: &File) -> io::Result<Option<String>> {
    let length = file.metadata()?.len();
    let head = head_of(file)?;
    let end = if head.get(4..8).is_some_and(is_mp4_box) {
        mp4_end(file, length)?
    } else if head.starts_with(&[0x1a, 0x45, 0xdf, 0xa3]) {
        matroska_segment(&head).and_then(|(_, end)| end)
    } else if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ") {
        head.get(4..8)
            .and_then(|size| size.try_into().ok())
            .map(|size| 8 + u64::from(u32::from_le_bytes(size)))
    } else {
        None
    };
    Ok(end
        .filter(|end| *end > length)
        .map(|end| format!("it has {length} bytes and its structure goes on to {end}")))
}

fn is_mp4_box(kind: &[u8]) -> bool {
    matches!(
        kind,
        b"ftyp" | b"styp" | b"moov" | b"moof" | b"mdat" | b"free" | b"skip" | b"wide" | b"pnot"
    )
}

/// Where the last box that matters ends.
fn mp4_end(file: &File, length: u64) -> io::Result<Option<u64>> {
    let mut at = 0;
    for _ in 0..MAX_BOXES {
        let mut header = Vec::new();
        ReadAt { file, position: at }.take(16).read_to_end(&mut header)?;
        let (Some(size), Some(kind)) = (header.first_chunk::<4>(), header.get(4..8)) else {
            return Ok(None);
        };
        let size = match (u32::from_be_bytes(*size), header.last_chunk::<8>()) {
            // Up to the end of the file.
            (0, _) => return Ok(None),
            (1, Some(large)) if header.len() == 16 => u64::from_be_bytes(*large),
            (size, _) => u64::from(size),
        };
        let end = at.saturating_add(size);
        if size < 8 {
            return Ok(None);
        }
        if end > length {
            return Ok(matches!(kind, b"moov" | b"moof" | b"mdat").then_some(end));
        }
        at = end;
    }
    Ok(None)
}

/// Where the content of the segment begins, and where it ends unless it is of unknown size as in a live recording.
fn matroska_segment(head: &[u8]) -> Option<(u64, Option<u64>)> {
    let rest = head.strip_prefix(&[0x1a, 0x45, 0xdf, 0xa3])?;
    let (header_size, header_length) = ebml_number(rest)?;
    let segment = 4 + header_length as u64 + header_size?;
    let rest = head.get(usize::try_from(segment).ok()?..)?;
    let (size, length) = ebml_number(rest.strip_prefix(&[0x18, 0x53, 0x80, 0x67])?)?;
    let start = segment + 4 + length as u64;
    Some((start, size.and_then(|size| size.checked_add(start))))
}

/// Where the chain of a Matroska file's elements is broken, if it is. libav then goes on with the next cluster that it
/// finds, and the pictures between are missing without a word.
fn matroska_break(file: &File) -> io::Result<Option<u64>> {
    /// The children of a segment and of a cluster (RFC 9559), by identifier; clusters are looked into.
    const CLUSTER: u32 = 0x1f43_b675;
    const KNOWN: [u32; 16] = [
        0x114d_9b74, // SeekHead
        0x1549_a966, // Info
        0x1654_ae6b, // Tracks
        0x1c53_bb6b, // Cues
        0x1043_a770, // Chapters
        0x1254_c367, // Tags
        0x1941_a469, // Attachments
        0xec,        // Void
        0xbf,        // CRC-32
        0xe7,        // Timestamp
        0x5854,      // SilentTracks
        0xa7,        // Position
        0xab,        // PrevSize
        0xa3,        // SimpleBlock
        0xa0,        // BlockGroup
        0xaf,        // EncryptedBlock
    ];
    let Some((start, end)) = matroska_segment(&head_of(file)?) else {
        return Ok(None);
    };
    let end_or_length = end.unwrap_or(file.metadata()?.len());
    let mut at = start;
    for _ in 0..MAX_ELEMENTS {
        if at >= end_or_length {
            return Ok((at > end_or_length && end.is_some()).then_some(at));
        }
        let mut header = Vec::with_capacity(12);
        ReadAt { file, position: at }.take(12).read_to_end(&mut header)?;
        let identifier_length = header.first().map_or(0, |byte| byte.leading_zeros() as usize + 1);
        let (Some(identifier), Some(rest)) = (header.get(..identifier_length), header.get(identifier_length..)) else {
            return Ok(Some(at));
        };
        let identifier = identifier
            .iter()
            .try_fold(0_u32, |value, byte| Some(value.checked_mul(256)? | u32::from(*byte)));
        let next = match (identifier, ebml_number(rest)) {
            (Some(CLUSTER), Some((_, length))) => Some((0, length)),
            (Some(identifier), Some((Some(size), length))) if KNOWN.contains(&identifier) => Some((size, length)),
            _ => None,
        };
        let Some((size, length)) = next else {
            return Ok(Some(at));
        };
        let element_end = (at + (identifier_length + length) as u64).saturating_add(size);
        // The end of a recording that was broken off is libav's to tell.
        if element_end > end_or_length {
            return Ok(end.is_some().then_some(at));
        }
        at = element_end;
    }
    Ok(None)
}

/// A number of EBML (`None` for "unknown") and the bytes that it takes.
fn ebml_number(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let length = bytes.first()?.leading_zeros() as usize + 1;
    let bytes = bytes.get(..length).filter(|_| length <= 8)?;
    let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let bits = 7 * u32::try_from(length).ok()?;
    let value = value & ((1 << bits) - 1);
    Some(((value != (1 << bits) - 1).then_some(value), length))
}

#[cfg(test)]
mod tests {
    use super::{ebml_number, playlist_kind};

    #[test]
    fn numbers_of_ebml_are_read() {
        assert_eq!(ebml_number(&[0x81]), Some((Some(1), 1)));
        assert_eq!(ebml_number(&[0x40, 0x02, 0xff]), Some((Some(2), 2)));
        assert_eq!(
            ebml_number(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Some((None, 8))
        );
        assert_eq!(ebml_number(&[0x00; 9]), None);
        assert_eq!(ebml_number(&[0x40]), None);
        assert_eq!(ebml_number(&[]), None);
    }

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
