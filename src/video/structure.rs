//! What a file's own structure tells that libav passes over in silence: where it should end, where the chain of its
//! elements is broken, and which of its checksums do not fit.
//!
//! libav is made to show what it can: behind damage it looks for the next element that it knows, and the pictures
//! between are missing without a word. Containers that name the length of every element are followed here from one to
//! the next: Matroska, AVI, FLV, Ogg. Ogg has a checksum for every page, Matroska may have one for every cluster (those
//! of ffmpeg do, `WebM` does not).
//!
//! What cannot be known: bytes that were changed within a picture, where the container has no checksum and the decoder
//! finds what it reads plausible. Codecs with an arithmetic coder (H.264 and HEVC with CABAC, VP8, VP9, AV1) have no
//! redundancy: the decoder notices only when it runs out of bytes or meets a forbidden value. libav's decoder of
//! MS-MPEG-4 notices, conceals and does not tell. Of 20 clips of 4 s at 25 Hz, sampled at 10 Hz, with 8 bytes changed
//! within one picture, so many were refused: VP8, HEVC and MS-MPEG-4 0, VP9 3, MJPEG 9 (of which only the pictures that
//! are sampled are decoded), H.264 10, AV1 17, MPEG-1 18, MPEG-2 and MPEG-4 20; Theora in Ogg and H.264 in ffmpeg's
//! Matroska 20. Program streams have no lengths to follow: whole packets that are missing there are missed by nobody.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};

use crc::{Algorithm, CRC_32_ISO_HDLC, Crc, Digest, Table};

/// Boxes of an mp4 file that are looked at for its length: a fragment has two.
const MAX_BOXES: usize = 1_000_000;
/// Elements of a file that are looked at: pictures of two days at 60 Hz, and the sound between them.
const MAX_ELEMENTS: usize = 40_000_000;
/// Bytes that are read at a time for a checksum.
const CHECKSUM_BYTES: usize = 1 << 18;

/// Where a file is not as its own structure has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Break {
    /// The byte.
    pub(super) at: u64,
    /// What is wrong there, for people.
    pub(super) detail: String,
}

impl Break {
    fn of_chain(at: u64) -> Self {
        Self {
            at,
            detail: format!("its structure is broken at byte {at}"),
        }
    }

    fn of_checksum(element: &str, at: u64) -> Self {
        Self {
            at,
            detail: format!("the checksum does not fit of the {element} at byte {at}"),
        }
    }
}

/// Whether the file is shorter than its own structure says, and in what words: libav takes a cut-off mp4 for one
/// that is over.
pub(super) fn declared_end(file: &File) -> io::Result<Option<String>> {
    let length = file.metadata()?.len();
    let head = head_of(file)?;
    let end = if head.get(4..8).is_some_and(is_mp4_box) {
        mp4_end(file, length)?
    } else if is_matroska(&head) {
        matroska_segment(&head).and_then(|(_, end)| end)
    } else if is_avi(&head) {
        little_endian(&head, 4).map(|size| 8 + u64::from(size))
    } else {
        None
    };
    Ok(end
        .filter(|end| *end > length)
        .map(|end| format!("it has {length} bytes and its structure goes on to {end}")))
}

/// The first place where the file is not as its own structure has it, in containers that libav reads on in behind
/// such a place. A file that just ends early has none: that is for [`declared_end`] and libav to tell. Once `stop` is
/// set, nothing is found.
pub(super) fn first_break(file: &File, stop: &AtomicBool) -> io::Result<Option<Break>> {
    let head = head_of(file)?;
    let walk = Walk {
        file,
        length: file.metadata()?.len(),
        stop,
    };
    if let Some((start, end)) = matroska_segment(&head) {
        walk.matroska(start, end)
    } else if is_avi(&head) {
        walk.avi()
    } else if head.starts_with(b"FLV") {
        walk.flv(&head)
    } else if head.starts_with(b"OggS") {
        walk.ogg()
    } else {
        Ok(None)
    }
}

/// The first bytes of a file.
pub(super) fn head_of(file: &File) -> io::Result<Vec<u8>> {
    bytes_at(file, 0, 256)
}

/// Up to `count` bytes from `position` on, fewer at the end of the file.
fn bytes_at(file: &File, position: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count);
    ReadAt { file, position }.take(count as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
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

fn little_endian(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn is_avi(head: &[u8]) -> bool {
    head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ")
}

fn is_matroska(head: &[u8]) -> bool {
    head.starts_with(&[0x1a, 0x45, 0xdf, 0xa3])
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
        let header = bytes_at(file, at, 16)?;
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

/// Whether the header of an AVI chunk can be one: within `movi` a stream's (two digits and what it holds), an index's
/// or one without content; elsewhere any four characters.
fn is_avi_chunk(header: &[u8], is_in_movi: bool) -> bool {
    match header.first_chunk::<4>() {
        None => false,
        Some(b"RIFF" | b"LIST" | b"JUNK" | b"idx1") => true,
        Some([b'i', b'x', stream @ ..]) if is_in_movi => stream.iter().all(u8::is_ascii_digit),
        Some([a, b, content @ ..]) if is_in_movi => {
            a.is_ascii_digit() && b.is_ascii_digit() && content.iter().all(u8::is_ascii_alphanumeric)
        }
        Some(kind) => kind.iter().all(|byte| matches!(byte, b' '..=b'~')),
    }
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

/// A way through a file, from one element to the next.
struct Walk<'a> {
    file: &'a File,
    length: u64,
    stop: &'a AtomicBool,
}

impl Walk<'_> {
    fn read(&self, at: u64, count: usize) -> io::Result<Vec<u8>> {
        bytes_at(self.file, at, count)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Adds the bytes from `from` up to `end` to a checksum; `false` if it was stopped.
    fn sum(&self, sum: &mut Digest<'_, u32, Table<16>>, from: u64, end: u64) -> io::Result<bool> {
        let mut reader = ReadAt {
            file: self.file,
            position: from,
        }
        .take(end - from);
        let mut buffer = vec![0; CHECKSUM_BYTES.min(usize::try_from(end - from).unwrap_or(CHECKSUM_BYTES))];
        while !self.stopped() {
            match reader.read(&mut buffer)? {
                0 => return Ok(true),
                read => sum.update(&buffer[..read]),
            }
        }
        Ok(false)
    }

    /// Matroska: the children of a segment and of a cluster (RFC 9559), by identifier; clusters are looked into.
    fn matroska(&self, start: u64, end: Option<u64>) -> io::Result<Option<Break>> {
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
        let end_or_length = end.unwrap_or(self.length);
        let mut at = start;
        for _ in 0..MAX_ELEMENTS {
            if self.stopped() {
                break;
            }
            if at >= end_or_length {
                return Ok((at > end_or_length && end.is_some()).then(|| Break::of_chain(at)));
            }
            let header = self.read(at, 12)?;
            let identifier_length = header.first().map_or(0, |byte| byte.leading_zeros() as usize + 1);
            let (Some(identifier), Some(rest)) = (header.get(..identifier_length), header.get(identifier_length..))
            else {
                return Ok(Some(Break::of_chain(at)));
            };
            let identifier = identifier
                .iter()
                .try_fold(0_u32, |value, byte| Some(value.checked_mul(256)? | u32::from(*byte)));
            let (Some(identifier), Some((size, length))) = (identifier, ebml_number(rest)) else {
                return Ok(Some(Break::of_chain(at)));
            };
            let content = at + (identifier_length + length) as u64;
            let next = match size {
                _ if identifier == CLUSTER => {
                    let cluster_end = size.map(|size| content.saturating_add(size));
                    if let Some(cluster_end) = cluster_end.filter(|end| *end <= end_or_length)
                        && !self.cluster_fits(content, cluster_end)?
                    {
                        return Ok(Some(Break::of_checksum("cluster", at)));
                    }
                    content
                }
                Some(size) if KNOWN.contains(&identifier) => content.saturating_add(size),
                _ => return Ok(Some(Break::of_chain(at))),
            };
            // The end of a recording that was broken off is libav's to tell.
            if next > end_or_length {
                return Ok(end.is_some().then(|| Break::of_chain(at)));
            }
            at = next;
        }
        Ok(None)
    }

    /// Whether a cluster is as its checksum says; one without is taken as it is.
    fn cluster_fits(&self, content: u64, end: u64) -> io::Result<bool> {
        static SUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);
        // A checksum comes first in its element, and has 4 bytes (RFC 8794).
        const CRC_32: [u8; 2] = [0xbf, 0x84];
        let first = self.read(content, 6)?;
        let Some(expected) = little_endian(&first, 2).filter(|_| first.starts_with(&CRC_32)) else {
            return Ok(true);
        };
        let mut sum = SUM.digest();
        let is_whole = self.sum(&mut sum, (content + 6).min(end), end)?;
        Ok(!is_whole || sum.finalize() == expected)
    }

    /// AVI: chunks, with the lists `movi` and `rec ` looked into. What comes after the last `RIFF` is nobody's.
    fn avi(&self) -> io::Result<Option<Break>> {
        let (mut at, mut riff_end, mut movi_end) = (0, 0, 0);
        let mut is_padded = false;
        for _ in 0..MAX_ELEMENTS {
            let mut header = self.read(at, 12)?;
            if is_padded && !is_avi_chunk(&header, at < movi_end) {
                // Chunks begin at even places, but not those of every writer.
                let unpadded = self.read(at - 1, 12)?;
                if is_avi_chunk(&unpadded, at < movi_end) {
                    (at, header) = (at - 1, unpadded);
                }
            }
            let (Some(kind), Some(size)) = (header.first_chunk::<4>(), little_endian(&header, 4)) else {
                break;
            };
            let list = header.get(8..12);
            let end = at + 8 + u64::from(size);
            if self.stopped() || at >= riff_end && kind != b"RIFF" {
                break;
            }
            let is_entered = kind == b"RIFF" || kind == b"LIST" && matches!(list, Some(b"movi" | b"rec "));
            // The end of a recording that was broken off is libav's to tell.
            if !is_avi_chunk(&header, at < movi_end) || !is_entered && end > self.length && riff_end <= self.length {
                return Ok(Some(Break::of_chain(at)));
            }
            // A recorder that was broken off leaves a size of 0.
            match (kind, list) {
                (b"RIFF", _) => riff_end = if size == 0 { self.length } else { end },
                (b"LIST", Some(b"movi")) => movi_end = if size == 0 { riff_end } else { end },
                _ => {}
            }
            is_padded = !is_entered && end & 1 == 1;
            at = if is_entered { at + 12 } else { end + (end & 1) };
        }
        Ok(None)
    }

    /// FLV: tags, each followed by its length.
    fn flv(&self, head: &[u8]) -> io::Result<Option<Break>> {
        let Some(start) = head.get(5..).and_then(|rest| rest.first_chunk()) else {
            return Ok(None);
        };
        let mut at = u64::from(u32::from_be_bytes(*start)) + 4;
        // Some writers give other numbers than the lengths, and do so from the first tag on.
        let mut has_lengths = None;
        for _ in 0..MAX_ELEMENTS {
            let header = self.read(at, 11)?;
            let Some([kind, size @ ..]) = header.first_chunk::<4>() else {
                break;
            };
            if self.stopped() || header.len() < 11 {
                break;
            }
            // Sound, picture, script data; the last in two forms.
            if !matches!(kind, 8 | 9 | 15 | 18) {
                return Ok(Some(Break::of_chain(at)));
            }
            let length = 11 + size.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            let end = at + length;
            let stated = self.read(end, 4)?;
            let Some(stated) = stated.first_chunk() else { break };
            let fits = u64::from(u32::from_be_bytes(*stated)) == length;
            if !fits && *has_lengths.get_or_insert(fits) {
                return Ok(Some(Break::of_chain(end)));
            }
            has_lengths.get_or_insert(fits);
            at = end + 4;
        }
        Ok(None)
    }

    /// Ogg (RFC 3533): pages, each with a checksum over itself.
    fn ogg(&self) -> io::Result<Option<Break>> {
        const HEADER: usize = 27;
        const CHECKSUM: std::ops::Range<usize> = 22..26;
        static SUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&OGG);
        let mut at = 0;
        for _ in 0..MAX_ELEMENTS {
            let mut header = self.read(at, HEADER)?;
            if self.stopped() || header.is_empty() {
                break;
            }
            if !header.starts_with(b"OggS") {
                return Ok(Some(Break::of_chain(at)));
            }
            let (Some(expected), Some(segments)) = (little_endian(&header, CHECKSUM.start), header.get(26)) else {
                break;
            };
            let lacing = self.read(at + HEADER as u64, usize::from(*segments))?;
            let content = at + (HEADER + lacing.len()) as u64;
            let end = content + lacing.iter().map(|length| u64::from(*length)).sum::<u64>();
            // The end of a recording that was broken off is libav's to tell.
            if end > self.length {
                break;
            }
            header[CHECKSUM].fill(0);
            let mut sum = SUM.digest();
            sum.update(&header);
            sum.update(&lacing);
            if self.sum(&mut sum, content, end)? && sum.finalize() != expected {
                return Ok(Some(Break::of_checksum("page", at)));
            }
            at = end;
        }
        Ok(None)
    }
}

/// The checksum of an Ogg page.
const OGG: Algorithm<u32> = Algorithm {
    width: 32,
    poly: 0x04c1_1db7,
    init: 0,
    refin: false,
    refout: false,
    xorout: 0,
    check: 0x89a1_897f,
    residue: 0,
};

#[cfg(test)]
mod tests {
    use super::ebml_number;

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
}
