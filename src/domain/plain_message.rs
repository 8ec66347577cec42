//! Messages for people who are not to know where the server keeps its files.

use std::path::Path;

/// `message` with the name of a file in place of its path, wherever one stands: those of `known` and of what lies beside,
/// above or below them, whatever characters they have, and what else looks like an absolute path.
pub fn without_folders<'a>(message: &str, known: impl IntoIterator<Item = &'a Path>) -> String {
    let mut known: Vec<&str> = known
        .into_iter()
        .filter(|path| path.is_absolute())
        .flat_map(Path::ancestors)
        .filter_map(Path::to_str)
        .filter(|path| path.len() > 1)
        .collect();
    known.sort_unstable_by_key(|path| std::cmp::Reverse(path.len()));
    let mut plain = String::with_capacity(message.len());
    let mut rest = message;
    while !rest.is_empty() {
        // What comes before a path ends a word: neither 1/2 nor https://host/ is one.
        let is_word_before = plain.ends_with(|before: char| before.is_alphanumeric() || "/:.-_".contains(before));
        let path = if rest.starts_with('/') && !is_word_before {
            path_at(rest, &known)
        } else {
            ""
        };
        if path.is_empty() {
            let next = rest.chars().next().map_or(0, char::len_utf8);
            plain.push_str(&rest[..next]);
            rest = &rest[next..];
        } else {
            let name = path.trim_end_matches('/').rsplit('/').next();
            plain.push_str(name.unwrap_or_default());
            rest = &rest[path.len()..];
        }
    }
    plain
}

/// The path that `text` begins with; empty if it is none of several parts.
fn path_at<'a>(text: &'a str, known: &[&str]) -> &'a str {
    let is_end = |character: char| character.is_whitespace() || "\"'`),;:".contains(character);
    let is_whole = |path: &&&str| {
        text.strip_prefix(**path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest.starts_with(is_end))
    };
    let from = known.iter().find(is_whole).map_or(0, |path| path.len());
    let end = text[from..].find(is_end).map_or(text.len(), |at| from + at);
    let path = &text[..end];
    if from > 0 || path.trim_end_matches('/').matches('/').count() > 1 {
        path
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_without_its_path() {
        let known = [
            Path::new("/srv/the app's videos/v 1/annotations.db"),
            Path::new("/tmp/v.mp4"),
        ];
        for (message, expected) in [
            ("/tmp/v.mp4 is empty (VIDEO_EMPTY)", "v.mp4 is empty (VIDEO_EMPTY)"),
            (
                "/srv/the app's videos/v 1/annotations.db is damaged: /srv/the app's videos/v 1/annotations.db: no",
                "annotations.db is damaged: annotations.db: no",
            ),
            ("/srv/the app's videos/v 1/text_images/a.jpg can not", "a.jpg can not"),
            (
                "the folder of /srv/the app's videos/v 1 is gone",
                "the folder of v 1 is gone",
            ),
            ("in \"/opt/models/x.onnx\": no", "in \"x.onnx\": no"),
            ("(/opt/models/x.onnx)", "(x.onnx)"),
            (
                "3/4 frames, and/or https://host/a/b/c",
                "3/4 frames, and/or https://host/a/b/c",
            ),
            ("nothing of /, /tmp and /proc", "nothing of /, tmp and /proc"),
            ("片/tmp/v.mp4", "片/tmp/v.mp4"),
            ("", ""),
        ] {
            assert_eq!(without_folders(message, known), expected);
        }
    }
}
