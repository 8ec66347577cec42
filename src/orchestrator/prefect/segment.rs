//! Segments of paths: texts with everything escaped that could change the path's meaning.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~').remove(b'.');

/// The text as one segment, of a URL or of a file's path.
pub fn segment(text: &str) -> String {
    let escaped = utf8_percent_encode(text, ESCAPED).to_string();
    // "." and ".." are no names.
    if text.trim_matches('.').is_empty() {
        return escaped.replace('.', "%2E");
    }
    escaped
}

/// The text of a segment.
pub(super) fn text_of(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_cannot_leave_its_place() {
        for (text, escaped) in [("a/b ?#%", "a%2Fb%20%3F%23%25"), ("..", "%2E%2E"), ("v1.2", "v1.2")] {
            assert_eq!(segment(text), escaped);
            assert_eq!(text_of(escaped), text);
        }
    }
}
