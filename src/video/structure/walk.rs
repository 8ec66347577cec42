//! A way through a file from one element to the next, and what is found on it.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicBool, Ordering};

use crc::{Digest, Table};

/// Elements of a file that are looked at: pictures of two days at 60 Hz, and the sound between them.
pub(super) const MAX_ELEMENTS: usize = 40_000_000;
/// Bytes that are read at a time for a checksum.
const CHECKSUM_BYTES: usize = 1 << 18;
/// What a file may be shorter than it says: its length may count sound, or be rounded.
const LENGTH_TOLERANCE_SECONDS: f64 = 1.5;

/// Where a file is not as its own structure has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::video) struct Break {
    /// The byte.
    pub(in crate::video) at: u64,
    /// Where the element ends of which the checksum does not fit: something within is damaged. `None` for a break in the
    /// chain of elements: what comes next was lost.
    pub(in crate::video) until: Option<u64>,
    /// What is wrong there, for people.
    pub(in crate::video) detail: String,
}

impl Break {
    pub(super) fn of_chain(at: u64) -> Self {
        Self {
            at,
            until: None,
            detail: format!("its structure is broken at byte {at}"),
        }
    }

    pub(super) fn of_checksum(element: &str, at: u64, until: u64) -> Self {
        Self {
            at,
            until: Some(until),
            detail: format!("the checksum does not fit of the {element} at byte {at}"),
        }
    }
}

/// What a file's own structure tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::video) struct Findings {
    /// Where it is broken, in order.
    pub(in crate::video) breaks: Vec<Break>,
    /// Why its end must be missing.
    pub(in crate::video) cut_off: Option<String>,
    /// Its length in the file's own words.
    pub(in crate::video) stated_seconds: Option<f64>,
    /// Whether a missing end would have been noticed.
    pub(in crate::video) end_is_known: bool,
}

impl Findings {
    /// Compares what the file says of its length with the time of its last element.
    pub(super) fn compare_length(&mut self, stated_seconds: Option<f64>, last_seconds: Option<f64>) {
        let Some(Lengths { stated, last }) = self.lengths(stated_seconds, last_seconds) else {
            return;
        };
        self.end_is_known = true;
        if self.cut_off.is_none() && is_too_short(stated, last) {
            self.cut_off = Some(format!(
                "it says that it is {stated:.1} s long, and ends at {last:.1} s"
            ));
        }
    }

    /// The same of a length that was written before the film was: it may be wrong, and proves nothing unless it is reached.
    pub(super) fn compare_announced_length(&mut self, stated_seconds: Option<f64>, last_seconds: Option<f64>) {
        if let Some(Lengths { stated, last }) = self.lengths(stated_seconds, last_seconds) {
            self.end_is_known = !is_too_short(stated, last);
        }
    }

    fn lengths(&mut self, stated_seconds: Option<f64>, last_seconds: Option<f64>) -> Option<Lengths> {
        self.stated_seconds = stated_seconds.filter(|stated| *stated > 0.0 && stated.is_finite());
        Some(Lengths {
            stated: self.stated_seconds?,
            last: last_seconds?,
        })
    }

    /// An element that goes on behind the end of the file.
    pub(super) fn ends_within(&mut self, element: &str, at: u64, end: u64, length: u64) {
        self.cut_off = Some(format!(
            "it has {length} bytes and the {element} at byte {at} goes on to {end}"
        ));
    }
}

/// How long a film is in seconds, in its own words and by its last element.
struct Lengths {
    stated: f64,
    last: f64,
}

fn is_too_short(stated_seconds: f64, last_seconds: f64) -> bool {
    stated_seconds - last_seconds > LENGTH_TOLERANCE_SECONDS.max(stated_seconds / 100.0)
}

/// A way through a file.
pub(super) struct Walk<'a> {
    pub(super) file: &'a File,
    pub(super) length: u64,
    pub(super) stop: &'a AtomicBool,
}

impl Walk<'_> {
    pub(super) fn read(&self, at: u64, count: usize) -> io::Result<Vec<u8>> {
        bytes_at(self.file, at, count)
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Adds the bytes from `from` up to `end` to a checksum; `false` if it was stopped.
    pub(super) fn sum(&self, sum: &mut Digest<'_, u32, Table<16>>, from: u64, end: u64) -> io::Result<bool> {
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
}

/// Up to `count` bytes from `position` on, fewer at the end of the file.
pub(super) fn bytes_at(file: &File, position: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count);
    ReadAt { file, position }.take(count as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first bytes of a file.
pub(in crate::video) fn head_of(file: &File) -> io::Result<Vec<u8>> {
    bytes_at(file, 0, 4096)
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

pub(super) fn little_endian(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}
