//! MPEG transport streams: packets of one size, numbered for each stream of the file.

use std::collections::BTreeMap;
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

/// Ticks of a time until it begins again: 33 bits, at 90 kHz.
const CLOCK_END: u64 = 1 << 33;
/// Ticks that a time may be ahead of the one before it: 10 s, as the ffmpeg command has it.
const CLOCK_LEAP: u64 = 10 * 90_000;

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
    let (mut number_before, mut table_number) = (None, None);
    let mut new_table_since = false;
    let is_stream = each_packet(file, stop, &mut |position, packet| {
        let Some(packet) = packet else {
            lost.push(position);
            return;
        };
        let (begins, number) = (packet[1] & 0x40 != 0, packet[3] & 15);
        let (has_adaptation, has_payload) = (packet[3] & 0x20 != 0, packet[3] & 0x10 != 0);
        let is_announced = has_adaptation && packet[4] != 0 && packet[5] & 0x80 != 0;
        let follows =
            |last: Option<u8>| last.is_none_or(|last| number == if has_payload { (last + 1) & 15 } else { last });
        let id = id_of(packet);
        if id == 0 {
            new_table_since |= number == 0 || !follows(table_number);
            table_number = Some(number);
        }
        if id != pid {
            return;
        }
        let is_error = packet[1] & 0x80 != 0;
        let is_expected = follows(number_before) || is_announced || begins && new_table_since;
        if is_error || !is_expected {
            lost.push(position);
        }
        number_before = Some(number);
        new_table_since = false;
    })?;
    Ok(is_stream.then_some(lost))
}

/// The bytes of the packets with which another recording begins whose clock is ahead: the time leaps in all streams at once, and
/// the numbers of packets do not go on. A still has neither: its sound goes on meanwhile, or else the numbers behind it. None
/// in a file of another kind.
pub(in crate::video) fn clock_leaps(file: &File, stop: &AtomicBool) -> io::Result<Vec<u64>> {
    let mut leaps = Vec::new();
    let mut numbers = BTreeMap::new();
    let mut last_time = None;
    let mut is_broken = false;
    each_packet(file, stop, &mut |position, packet| {
        let Some(packet) = packet else { return };
        let number = packet[3] & 15;
        if let Some(before) = numbers.insert(id_of(packet), number) {
            let is_next = number == (before + 1) & 15;
            // Without payload, and in a repetition, it stays.
            is_broken |= !is_next && number != before;
        }
        let Some(time) = clock_of(packet).or_else(|| presentation_time_of(packet)) else {
            return;
        };
        // It begins again at 0 after a day.
        let ahead = last_time.map_or(0, |before| time.wrapping_sub(before) % CLOCK_END);
        if is_broken && (CLOCK_LEAP..CLOCK_END / 2).contains(&ahead) {
            leaps.push(position);
        }
        last_time = Some(time);
        is_broken = false;
    })?;
    Ok(leaps)
}

fn id_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff
}

/// The clock that a packet tells, if it does.
fn clock_of(packet: &[u8]) -> Option<u64> {
    let has_clock = packet[3] & 0x20 != 0 && packet[4] >= 7 && packet[5] & 0x10 != 0;
    let bytes: [u8; 5] = *packet.get(6..).filter(|_| has_clock)?.first_chunk()?;
    let bits = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    Some(bits >> 7)
}

/// When what begins in this packet is shown or heard, if it says so (ISO 13818-1, 2.4.3.6).
fn presentation_time_of(packet: &[u8]) -> Option<u64> {
    let lead = 4 + if packet[3] & 0x20 == 0 {
        0
    } else {
        1 + usize::from(packet[4])
    };
    let begins = packet[1] & 0x40 != 0 && packet[3] & 0x10 != 0;
    let header = packet.get(lead..).filter(|_| begins)?;
    let has_time = header.starts_with(&[0, 0, 1]) && header.get(7)? & 0x80 != 0;
    let bytes: [u8; 5] = *header.get(9..).filter(|_| has_time)?.first_chunk()?;
    let [high, upper, upper_low, lower, lower_low] = bytes.map(u64::from);
    Some((high >> 1 & 7) << 30 | upper << 22 | upper_low >> 1 << 15 | lower << 7 | lower_low >> 1)
}

/// Shows every packet and where it lies; `None` where bytes are that are none. `false` for a file of another kind.
fn each_packet(file: &File, stop: &AtomicBool, visit: &mut dyn FnMut(u64, Option<&[u8]>)) -> io::Result<bool> {
    let walk = Walk {
        file,
        length: file.metadata()?.len(),
        stop,
    };
    let Some(layout) = Layout::of(&head_of(file)?) else {
        return Ok(false);
    };
    let mut at = layout.first as u64;
    loop {
        let bytes = walk.read(at, layout.size * PACKETS_AT_ONCE)?;
        if bytes.len() < PACKET_BYTES || walk.stopped() {
            return Ok(true);
        }
        let mut used = 0;
        while let Some(packet) = bytes.get(used..used + PACKET_BYTES) {
            let position = at + used as u64;
            if packet[0] == SYNC {
                visit(position, Some(packet));
                used += layout.size;
            } else {
                // To the next one; what lies between is lost.
                let next = bytes[used..].iter().position(|byte| *byte == SYNC);
                visit(position, None);
                used += next.unwrap_or(bytes.len() - used).max(1);
            }
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
