//! Ogg (RFC 3533): pages, each with a checksum over itself.

use std::collections::BTreeSet;
use std::io;

use crc::{Algorithm, Crc, Table};

use super::walk::{Break, Findings, MAX_ELEMENTS, Walk, little_endian};

const HEADER_BYTES: usize = 27;
const CHECKSUM: std::ops::Range<usize> = 22..26;

/// Follows the pages.
pub(super) fn inspect(walk: &Walk<'_>) -> io::Result<Findings> {
    static SUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&OGG);
    let mut findings = Findings::default();
    // Streams whose last page has not come.
    let mut open = BTreeSet::new();
    let mut at = 0;
    for _ in 0..MAX_ELEMENTS {
        let mut header = walk.read(at, HEADER_BYTES)?;
        if walk.stopped() {
            break;
        }
        if header.is_empty() {
            findings.end_is_known = open.is_empty();
            break;
        }
        if header.len() < HEADER_BYTES {
            findings.ends_within("page", at, at + HEADER_BYTES as u64, walk.length);
            break;
        }
        if !header.starts_with(b"OggS") {
            findings.breaks.push(Break::of_chain(at));
            break;
        }
        let (Some(expected), Some(stream)) = (little_endian(&header, CHECKSUM.start), little_endian(&header, 14))
        else {
            break;
        };
        let lacing = walk.read(at + HEADER_BYTES as u64, usize::from(header[26]))?;
        let content = at + (HEADER_BYTES + lacing.len()) as u64;
        let end = content + lacing.iter().map(|length| u64::from(*length)).sum::<u64>();
        if end > walk.length || lacing.len() < usize::from(header[26]) {
            findings.ends_within("page", at, end, walk.length);
            break;
        }
        if header[5] & 4 == 0 {
            open.insert(stream);
        } else {
            open.remove(&stream);
        }
        header[CHECKSUM].fill(0);
        let mut sum = SUM.digest();
        sum.update(&header);
        sum.update(&lacing);
        if walk.sum(&mut sum, content, end)? && sum.finalize() != expected {
            findings.breaks.push(Break::of_checksum("page", at, end));
        }
        at = end;
    }
    Ok(findings)
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
