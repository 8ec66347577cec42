//! Matroska and `WebM`: elements, with a checksum for every cluster in files of some writers.

use std::io;

use crc::{CRC_32_ISO_HDLC, Crc, Table};

use super::ebml::ebml_number;
use super::walk::{Break, Findings, MAX_ELEMENTS, Walk, little_endian};

pub(super) fn is_matroska(head: &[u8]) -> bool {
    head.starts_with(&[0x1a, 0x45, 0xdf, 0xa3])
}

/// Where the content of the segment begins, and where it ends unless it is of unknown size as in a live recording.
pub(super) fn segment(head: &[u8]) -> Option<(u64, Option<u64>)> {
    let rest = head.strip_prefix(&[0x1a, 0x45, 0xdf, 0xa3])?;
    let (header_size, header_length) = ebml_number(rest)?;
    let segment = 4 + header_length as u64 + header_size?;
    let rest = head.get(usize::try_from(segment).ok()?..)?;
    let (size, length) = ebml_number(rest.strip_prefix(&[0x18, 0x53, 0x80, 0x67])?)?;
    let start = segment + 4 + length as u64;
    Some((start, size.and_then(|size| size.checked_add(start))))
}

const CLUSTER: u32 = 0x1f43_b675;
const INFO: u32 = 0x1549_a966;
const TIMESTAMP: u32 = 0xe7;
const SIMPLE_BLOCK: u32 = 0xa3;
const BLOCK_GROUP: u32 = 0xa0;
/// The children of a segment and of a cluster (RFC 9559).
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
/// Nanoseconds of a tick, unless the file says otherwise.
const USUAL_TICK_NS: f64 = 1e6;

/// An element: its identifier, where its content begins, and its size unless that is left open.
struct Element {
    identifier: u32,
    content: u64,
    size: Option<u64>,
}

fn element_at(walk: &Walk<'_>, at: u64) -> io::Result<Option<Element>> {
    Ok(element(&walk.read(at, 12)?, at))
}

fn element(bytes: &[u8], at: u64) -> Option<Element> {
    let identifier_length = bytes.first()?.leading_zeros() as usize + 1;
    let (identifier, rest) = bytes.split_at_checked(identifier_length)?;
    let identifier = identifier
        .iter()
        .try_fold(0_u32, |value, byte| Some(value.checked_mul(256)? | u32::from(*byte)))?;
    let (size, length) = ebml_number(rest)?;
    Some(Element {
        identifier,
        content: at + (identifier_length + length) as u64,
        size,
    })
}

/// Follows the elements of the segment from `start` on; clusters are looked into.
pub(super) fn inspect(walk: &Walk<'_>, start: u64, end: Option<u64>) -> io::Result<Findings> {
    let mut findings = Findings {
        end_is_known: end.is_some(),
        ..Findings::default()
    };
    let end_or_length = end.unwrap_or(walk.length);
    let (mut tick_ns, mut duration_ticks) = (USUAL_TICK_NS, None);
    let (mut cluster_ticks, mut last_ticks) = (0, None);
    let mut at = start;
    for _ in 0..MAX_ELEMENTS {
        if walk.stopped() {
            break;
        }
        if at >= end_or_length {
            if at > end_or_length && end.is_some() {
                findings.breaks.push(Break::of_chain(at));
            }
            break;
        }
        let Some(Element {
            identifier,
            content,
            size,
        }) = element_at(walk, at)?
        else {
            // Fewer bytes than the head of an element, of a recording that was broken off.
            if end.is_none() && walk.length - at < 12 {
                findings.ends_within("element", at, at + 12, walk.length);
            } else {
                findings.breaks.push(Break::of_chain(at));
            }
            break;
        };
        let next = match size {
            _ if identifier == CLUSTER => {
                let cluster_end = size.map(|size| content.saturating_add(size));
                if let Some(cluster_end) = cluster_end.filter(|end| *end <= end_or_length)
                    && !cluster_fits(walk, content, cluster_end)?
                {
                    findings.breaks.push(Break::of_checksum("cluster", at, cluster_end));
                }
                content
            }
            Some(size) if KNOWN.contains(&identifier) => content.saturating_add(size),
            _ => {
                findings.breaks.push(Break::of_chain(at));
                break;
            }
        };
        if next > end_or_length {
            if end.is_some() {
                findings.breaks.push(Break::of_chain(at));
            } else {
                findings.ends_within("element", at, next, walk.length);
            }
            break;
        }
        match identifier {
            INFO => (tick_ns, duration_ticks) = info(walk, content, next)?,
            TIMESTAMP => cluster_ticks = unsigned(&walk.read(content, size_of_number(content, next))?),
            // The time of the last one matters where the end is not known.
            SIMPLE_BLOCK | BLOCK_GROUP if end.is_none() => {
                if let Some(relative) = block_time(walk, identifier, content)? {
                    last_ticks = last_ticks.max(Some(cluster_ticks + relative));
                }
            }
            _ => {}
        }
        at = next;
    }
    #[expect(clippy::cast_precision_loss, reason = "a time in milliseconds")]
    let seconds = |ticks: i64| ticks as f64 * tick_ns / 1e9;
    let stated = duration_ticks.map(|ticks: f64| ticks * tick_ns / 1e9);
    // A file of known size has had its length written once it was whole; its sound may be of another length. In one of
    // unknown size it was written before there was anything to measure: that it is reached tells that the end is there, that it
    // is not tells nothing, since what breaks off does so within an element.
    let last = last_ticks
        .map(seconds)
        .filter(|_| end.is_none() && findings.breaks.is_empty());
    findings.compare_announced_length(stated, last);
    Ok(findings)
}

fn size_of_number(content: u64, next: u64) -> usize {
    usize::try_from(next - content).map_or(8, |size| size.min(8))
}

fn unsigned(bytes: &[u8]) -> i64 {
    bytes
        .iter()
        .fold(0, |value: i64, byte| value.wrapping_mul(256) | i64::from(*byte))
}

/// Nanoseconds of a tick, and the length in ticks, of the segment's information.
fn info(walk: &Walk<'_>, content: u64, end: u64) -> io::Result<(f64, Option<f64>)> {
    const TICK: u32 = 0x2a_d7b1;
    const DURATION: u32 = 0x4489;
    let (mut tick_ns, mut duration) = (USUAL_TICK_NS, None);
    let mut at = content;
    while at < end {
        let Some(Element {
            identifier,
            content,
            size: Some(size),
        }) = element_at(walk, at)?
        else {
            break;
        };
        let next = content.saturating_add(size).min(end);
        let number = walk.read(content, size_of_number(content, next))?;
        match identifier {
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a tick")]
            TICK if !number.is_empty() => tick_ns = unsigned(&number) as f64,
            DURATION => {
                duration = match (number.first_chunk(), number.first_chunk()) {
                    (_, Some(eight)) => Some(f64::from_be_bytes(*eight)),
                    (Some(four), None) => Some(f64::from(f32::from_be_bytes(*four))),
                    (None, None) => None,
                }
            }
            _ => {}
        }
        at = next;
    }
    Ok((tick_ns, duration))
}

/// The time of a block in ticks, from its cluster's.
fn block_time(walk: &Walk<'_>, identifier: u32, content: u64) -> io::Result<Option<i64>> {
    let bytes = walk.read(content, 24)?;
    let block = if identifier == SIMPLE_BLOCK {
        Some(bytes.as_slice())
    } else {
        // A group begins with its block, as all writers have it.
        element(&bytes, 0)
            .filter(|block| block.identifier == 0xa1)
            .and_then(|block| bytes.get(usize::try_from(block.content).ok()?..))
    };
    Ok(block.and_then(|block| {
        let (_, track_length) = ebml_number(block)?;
        let time = block.get(track_length..)?.first_chunk()?;
        Some(i64::from(i16::from_be_bytes(*time)))
    }))
}

/// Whether a cluster is as its checksum says; one without is taken as it is.
fn cluster_fits(walk: &Walk<'_>, content: u64, end: u64) -> io::Result<bool> {
    static SUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);
    // A checksum comes first in its element, and has 4 bytes (RFC 8794).
    const CRC_32: [u8; 2] = [0xbf, 0x84];
    let first = walk.read(content, 6)?;
    let Some(expected) = little_endian(&first, 2).filter(|_| first.starts_with(&CRC_32)) else {
        return Ok(true);
    };
    let mut sum = SUM.digest();
    let is_whole = walk.sum(&mut sum, (content + 6).min(end), end)?;
    Ok(!is_whole || sum.finalize() == expected)
}
