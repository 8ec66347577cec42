//! What commands print: JSON for programs, tables and plain lines for people. Never an escape sequence.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// Writes `text` to stdout at once, with the end of its last line.
///
/// # Errors
/// What the system said; [`io::ErrorKind::BrokenPipe`] if nobody reads stdout any more, which `println!` would panic of.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// `value` as one line of JSON, with its end of line.
pub(super) fn json_line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("what is printed has text keys only");
    line.push('\n');
    line
}

/// `text` for a terminal: a video's id or a child's log line must not be able to move the cursor or forge a line.
pub(super) fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut plain, c| {
        if c.is_control() {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
        plain
    })
}

/// Rows under their headings, in columns that line up; every cell as [`plain`] text.
pub(super) fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `2026-11-25T02:01:59Z`.
pub(super) fn time(timestamp: Timestamp) -> String {
    format!("{timestamp:.0}")
}

/// `1h 2m 3s`, or milliseconds below ten seconds.
pub(super) fn duration(from: Timestamp, to: Timestamp) -> String {
    let duration = to.duration_since(from).max(SignedDuration::ZERO);
    let rounded = if duration < SignedDuration::from_secs(10) {
        SignedDuration::from_millis(i64::try_from(duration.as_millis()).unwrap_or(0))
    } else {
        SignedDuration::from_secs(duration.as_secs())
    };
    format!("{rounded:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_can_not_control_a_terminal() {
        assert_eq!(plain("a\u{1b}[2J\nb 中"), "a\\u{1b}[2J\\nb 中");
    }

    #[test]
    fn columns_line_up_also_with_wide_characters() {
        let text = table(
            ["A", "B"],
            [["中文".to_owned(), "x".to_owned()], ["abcd".to_owned(), "y".to_owned()]],
        );
        assert_eq!(text, "A     B\n中文  x\nabcd  y\n");
    }

    #[test]
    fn durations_are_short() {
        let at = |ms| Timestamp::from_millisecond(ms).expect("in range");
        assert_eq!(duration(at(0), at(1_234)), "1s 234ms");
        assert_eq!(duration(at(0), at(3_723_456)), "1h 2m 3s");
        assert_eq!(duration(at(5), at(0)), "0s");
    }
}
