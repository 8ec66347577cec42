//! AVI: chunks.

use std::io;

use super::walk::{Break, Findings, MAX_ELEMENTS, Walk, little_endian};

pub(super) fn is_avi(head: &[u8]) -> bool {
    head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ")
}

/// What writers give too much: they count the file's own head, or fill up to a multiple that they then do not write.
const SIZE_TOLERANCE_BYTES: u64 = 64;

/// Where the file ends by its first size; `None` where that is the end of what is there, but for what writers are wrong by.
/// Whether one of its chunks goes on behind the end is found by [`inspect`].
pub(super) fn end(head: &[u8], length: u64) -> Option<u64> {
    let end = 8 + u64::from(little_endian(head, 4)?);
    (end > length + SIZE_TOLERANCE_BYTES).then_some(end)
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

/// AVI: chunks, with the lists `movi` and `rec ` looked into. What comes after the last `RIFF` is nobody's.
pub(super) fn inspect(walk: &Walk<'_>) -> io::Result<Findings> {
    let mut findings = Findings::default();
    let (mut at, mut riff_end, mut movi_end) = (0, 0, 0);
    let mut is_padded = false;
    for _ in 0..MAX_ELEMENTS {
        let mut header = walk.read(at, 12)?;
        if is_padded && !is_avi_chunk(&header, at < movi_end) {
            // Chunks begin at even places, but not those of every writer.
            let unpadded = walk.read(at - 1, 12)?;
            if is_avi_chunk(&unpadded, at < movi_end) {
                (at, header) = (at - 1, unpadded);
            }
        }
        let (Some(kind), Some(size)) = (header.first_chunk::<4>(), little_endian(&header, 4)) else {
            break;
        };
        let list = header.get(8..12);
        let end = at + 8 + u64::from(size);
        if walk.stopped() || at >= riff_end && kind != b"RIFF" {
            break;
        }
        let is_entered = kind == b"RIFF" || kind == b"LIST" && matches!(list, Some(b"movi" | b"rec "));
        // The end of a recording that was broken off is libav's to tell.
        if !is_avi_chunk(&header, at < movi_end) || !is_entered && end > walk.length && riff_end <= walk.length {
            findings.breaks.push(Break::of_chain(at));
            break;
        }
        // The size of the whole may be a few bytes too large, that of a chunk is not.
        if !is_entered && end > walk.length {
            findings.ends_within("chunk", at, end, walk.length);
            break;
        }
        match (kind, list) {
            (b"RIFF", _) => {
                // A recorder that was broken off leaves a size of 0.
                findings.end_is_known = size != 0;
                riff_end = if size == 0 { walk.length } else { end };
            }
            (b"LIST", Some(b"movi")) => movi_end = if size == 0 { riff_end } else { end },
            _ => {}
        }
        is_padded = !is_entered && end & 1 == 1;
        at = if is_entered { at + 12 } else { end + (end & 1) };
    }
    Ok(findings)
}
