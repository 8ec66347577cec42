//! Lines of a child, bounded: a child that floods or writes garbage costs it its lines, and nobody memory.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::protocol::MAX_LINE_BYTES;

/// Reads the next line without its end into `line`, cut to `most` bytes; `false` at the end of the stream.
///
/// Cancel safe: what was read stays in `line` until the call that completes it returns.
pub async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    most: usize,
) -> std::io::Result<bool> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(available.len());
        let room = most.saturating_sub(line.len()).min(taken);
        line.extend_from_slice(&available[..room]);
        let consumed = end.map_or(taken, |end| end + 1);
        reader.consume(consumed);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Text for a log, of [`MAX_LINE_BYTES`] of the line at most: control characters are made visible, so that a child can not
/// steer the operator's terminal.
pub fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(MAX_LINE_BYTES)])
        .trim_end()
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

/// How many lines an attempt may log, and how many bytes its run.
#[derive(Debug)]
pub struct LineBudget {
    allowance: u32,
    refilled_at: Instant,
    total: u32,
    bytes_left: u64,
    /// Lines left out since the last note.
    pub left_out: u64,
}

impl LineBudget {
    const BURST: u32 = 1000;
    const PER_SECOND: u32 = 200;
    const TOTAL: u32 = 50_000;
    /// Of a run, over all its attempts: what is kept of it may lie in queue.db for months.
    const RUN_BYTES: u64 = 16 << 20;

    /// A full budget, less the bytes that earlier attempts have logged.
    pub fn new(now: Instant, bytes_logged: u64) -> Self {
        Self {
            allowance: Self::BURST,
            refilled_at: now,
            total: 0,
            bytes_left: Self::RUN_BYTES.saturating_sub(bytes_logged),
            left_out: 0,
        }
    }

    /// Whether a line of so many bytes that comes `now` may be kept.
    pub fn take(&mut self, now: Instant, bytes: usize) -> bool {
        let elapsed = now.duration_since(self.refilled_at);
        if elapsed >= Duration::from_secs(1) {
            let seconds = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX);
            self.allowance = self
                .allowance
                .saturating_add(seconds.saturating_mul(Self::PER_SECOND))
                .min(Self::BURST);
            self.refilled_at = now;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.allowance == 0 || self.total >= Self::TOTAL || bytes > self.bytes_left {
            self.left_out += 1;
            return false;
        }
        self.allowance -= 1;
        self.total += 1;
        self.bytes_left -= bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], most: usize) -> Vec<String> {
        let mut reader = tokio::io::BufReader::with_capacity(7, text);
        let mut found = Vec::new();
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line, most).await.expect("memory") {
            found.push(printable(&line));
            line.clear();
        }
        found
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_is_cut_and_the_next_one_is_whole() {
        assert_eq!(
            lines(b"0123456789\nshort\n\nend", 8).await,
            ["01234567", "short", "", "end"]
        );
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\xff\r\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn a_flood_is_left_out_and_counted() {
        let start = Instant::now();
        let mut budget = LineBudget::new(start, 0);
        let kept = (0..5000).filter(|_| budget.take(start, 1)).count();
        assert_eq!((kept, budget.left_out), (1000, 4000));
        assert!(budget.take(start + Duration::from_secs(1), 1));
    }

    #[test]
    fn what_earlier_attempts_have_logged_counts() {
        let start = Instant::now();
        let mut budget = LineBudget::new(start, LineBudget::RUN_BYTES - 10);
        assert!(budget.take(start, 8));
        assert!(!budget.take(start, 3));
        assert!(budget.take(start, 2));
    }
}
