//! MP4 and `QuickTime`: boxes.

use std::fs::File;
use std::io;

use super::walk::bytes_at;

/// Boxes of an mp4 file that are looked at for its length: a fragment has two.
const MAX_BOXES: usize = 1_000_000;

/// Whether this is the name of a box that such a file begins with.
pub(super) fn is_box(kind: &[u8]) -> bool {
    matches!(
        kind,
        b"ftyp" | b"styp" | b"moov" | b"moof" | b"mdat" | b"free" | b"skip" | b"wide" | b"pnot"
    )
}

/// Where the last box that matters ends.
pub(super) fn end(file: &File, length: u64) -> io::Result<Option<u64>> {
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
