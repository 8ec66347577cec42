//! The lines of a caption as one text.

use crate::ocr::{Line, is_tight};

/// The texts of the lines, which are in reading order: a line of the picture a line of the text. Pieces of one line that stand
/// beside each other have a space between them where both are Latin text; Chinese has none.
pub(super) fn text_of(lines: &[Line]) -> String {
    let mut text = String::new();
    let mut before: Option<&Line> = None;
    for piece in lines {
        if let Some(before) = before {
            if !are_beside(before, piece) {
                text.push('\n');
            } else if !is_tight(&text, &piece.text) {
                text.push(' ');
            }
        }
        text.push_str(&piece.text);
        before = Some(piece);
    }
    text
}

/// Whether two pieces stand in one line: they share at least half of the lower one's height.
fn are_beside(one: &Line, other: &Line) -> bool {
    let (one, other) = (one.extent(), other.extent());
    let top = one.top.max(other.top);
    let bottom = (one.top + one.height).min(other.top + other.height);
    bottom - top >= one.height.min(other.height) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocr::{Extent, TextBox};

    fn piece(text: &str, left: f64, top: f64) -> Line {
        let part = TextBox {
            text: text.to_owned(),
            confidence: 1.0,
            extent: Extent {
                left,
                top,
                width: 0.1,
                height: 0.2,
            },
        };
        Line {
            text: text.to_owned(),
            confidence: 1.0,
            boxes: vec![part],
        }
    }

    #[test]
    fn lines_stay_lines_and_words_stay_apart() {
        for (boxes, expected) in [
            (vec![], ""),
            (vec![piece("你好世界", 0.1, 0.1)], "你好世界"),
            (vec![piece("你", 0.1, 0.1), piece("好", 0.2, 0.12)], "你好"),
            (vec![piece("Hello", 0.1, 0.1), piece("world", 0.3, 0.15)], "Hello world"),
            (
                vec![piece("我是", 0.1, 0.1), piece("Tom", 0.3, 0.1), piece("，", 0.4, 0.1)],
                "我是Tom，",
            ),
            (
                vec![piece("first", 0.1, 0.1), piece("second", 0.1, 0.5)],
                "first\nsecond",
            ),
            (vec![piece("上", 0.1, 0.1), piece("下", 0.1, 0.35)], "上\n下"),
        ] {
            assert_eq!(text_of(&boxes), expected);
        }
    }
}
