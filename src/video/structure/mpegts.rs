//! MPEG transport streams: packets of one size, numbered for each stream of the file.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicBool;

use super::walk::{Findings, Walk, head_of};

const SYNC: u8 = 0x47;
const PACKET_BYTES: usize = 188;
/// With a clock before each packet (Blu-ray, camcorders), and with error correction behind it.
const SIZES: [usize; 3] = [PACKET_BYTES, 192, 204];
/// Packets that are read at a time.
const PACKETS_AT_ONCE: usize = 4096;
/// Packets in a row from which the size is known.
const PROOF: usize = 5;

/// Where the packets of a file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    first: usize,
    size: usize,
}

impl Layout {
    /// By the first bytes of a file; they may begin within a packet.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        let fits = |first: usize, size: usize| (0..PROOF).all(|at| head.get(first + at * size) == Some(&SYNC));
        let found = |size: &usize| (0..*size).find(|first| fits(*first, *size)).map(|first| (first, *size));
        let (first, size) = SIZES.iter().find_map(found)?;
        Some(Self { first, size })
    }

    /// What comes before the first byte of a packet that is synchronized on.
    fn lead(self) -> usize {
        if self.size == 192 { 4 } else { 0 }
    }
}

/// A file that ends within a packet broke off; otherwise nobody knows.
pub(super) fn inspect(walk: &Walk<'_>, layout: Layout) -> io::Result<Findings> {
    let mut findings = Findings::default();
    let size = layout.size as u64;
    // Recordings of broadcasts may lose bytes on the way: the last packets tell where the last one begins.
    let tail_from = walk.length.saturating_sub(size * (PROOF as u64 + 2));
    let tail = walk.read(tail_from, layout.size * (PROOF + 2))?;
    let Some(Layout { first, .. }) = Layout::of(&tail).filter(|tail| tail.size == layout.size) else {
        return Ok(findings);
    };
    let begins = (first + layout.size - layout.lead()) % layout.size;
    let rest = (tail.len() - begins) % layout.size;
    if rest != 0 {
        let at = walk.length - rest as u64;
        findings.ends_within("packet", at, at + size, walk.length);
    }
    Ok(findings)
}

/// The bytes where packets of the stream `pid` are missing before. Where a recording begins anew (segments that were
/// joined), the numbers do so as well, and nothing is missing: there the table of programs comes in between, it begins anew
/// itself, and the packet begins a picture. `None` for a file of another kind.
pub(in crate::video) fn lost_packets(file: &File, pid: u16, stop: &AtomicBool) -> io::Result<Option<Vec<u64>>> {
    let mut lost = Vec::new();
    let walk = Walk {
        file,
        length: file.metadata()?.len(),
        stop,
    };
    let Some(layout) = Layout::of(&head_of(file)?) else {
        return Ok(None);
    };
    let (mut number_before, mut table_number) = (None, None);
    let mut new_table_since = false;
    let mut at = layout.first as u64;
    loop {
        let bytes = walk.read(at, layout.size * PACKETS_AT_ONCE)?;
        if bytes.len() < PACKET_BYTES || walk.stopped() {
            return Ok(Some(lost));
        }
        let mut used = 0;
        while let Some(packet) = bytes.get(used..used + PACKET_BYTES) {
            let position = at + used as u64;
            if packet[0] != SYNC {
                // To the next one; what lies between is lost.
                let next = bytes[used..].iter().position(|byte| *byte == SYNC);
                lost.push(position);
                used += next.unwrap_or(bytes.len() - used).max(1);
                continue;
            }
            used += layout.size;
            let id = u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff;
            let (begins, number) = (packet[1] & 0x40 != 0, packet[3] & 15);
            let (has_adaptation, has_payload) = (packet[3] & 0x20 != 0, packet[3] & 0x10 != 0);
            let is_announced = has_adaptation && packet[4] != 0 && packet[5] & 0x80 != 0;
            let follows =
                |last: Option<u8>| last.is_none_or(|last| number == if has_payload { (last + 1) & 15 } else { last });
            if id == 0 {
                new_table_since |= number == 0 || !follows(table_number);
                table_number = Some(number);
            }
            if id != pid {
                continue;
            }
            let is_error = packet[1] & 0x80 != 0;
            let is_expected = follows(number_before) || is_announced || begins && new_table_since;
            if is_error || !is_expected {
                lost.push(position);
            }
            number_before = Some(number);
            new_table_since = false;
        }
        at += used.max(1) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_wherever_they_begin() {
        let file = |first: usize, size: usize| {
            let mut bytes = vec![0; first + size * 8];
            bytes.iter_mut().skip(first).step_by(size).for_each(|byte| *byte = SYNC);
            bytes
        };
        for (first, size) in [(0, 188), (4, 192), (0, 204), (77, 188)] {
            assert_eq!(Layout::of(&file(first, size)), Some(Layout { first, size }));
        }
        assert_eq!(Layout::of(&[0; 4096]), None);
    }
}
