//! What every OCR engine does, and the text that it finds.

use std::sync::atomic::AtomicBool;

use super::error::OcrError;
use super::writing::is_tight;
use crate::picture::RgbPicture;

/// A line of text, or a part of one, as it was read in one piece.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// All of its text with the spaces that it has; never empty, without white space at its ends.
    pub text: String,
    /// The mean of the characters' probabilities, `0.0..=1.0`.
    pub confidence: f32,
    /// Its words and characters in reading order; never empty.
    pub boxes: Vec<TextBox>,
}

impl Line {
    /// The upright box around all boxes of the line.
    pub fn extent(&self) -> Extent {
        let mut boxes = self.boxes.iter().map(|part| part.extent);
        let first = boxes.next().expect("a line has at least one box");
        boxes.fold(first, Extent::around)
    }
}

/// A character of Chinese or Japanese text or of its punctuation, or a word of other text: what stands without a space and
/// without such a character beside it.
///
/// Boxes of an upright line share its `top` and `height` to the bit, which is how the line is found again where boxes alone
/// are kept; those of a line that runs up or down share `left` and `width`. Of a slanted line each has its upright box.
#[derive(Debug, Clone, PartialEq)]
pub struct TextBox {
    /// The text; never empty, without white space.
    pub text: String,
    /// The mean of the characters' probabilities, `0.0..=1.0`.
    pub confidence: f32,
    /// Where it stands, close around its glyphs.
    pub extent: Extent,
}

/// A part of a picture in fractions of it, the origin at its top left; within the picture (`left + width <= 1`,
/// `top + height <= 1`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// Left edge, from the picture's left.
    pub left: f64,
    /// Upper edge, from the picture's top.
    pub top: f64,
    /// Extent to the right.
    pub width: f64,
    /// Extent downwards.
    pub height: f64,
}

impl Extent {
    /// The smallest one that holds both.
    fn around(self, other: Self) -> Self {
        let left = self.left.min(other.left);
        let top = self.top.min(other.top);
        Self {
            left,
            top,
            width: (self.left + self.width).max(other.left + other.width) - left,
            height: (self.top + self.height).max(other.top + other.height) - top,
        }
    }
}

/// The texts of `lines` as one: a space between two lines, but none beside a Chinese or Japanese character.
pub fn joined_text(lines: &[Line]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        if !text.is_empty() && !is_tight(&text, &line.text) {
            text.push(' ');
        }
        text + &line.text
    })
}

/// An OCR engine. One engine reads one picture at a time; several engines may run side by side.
pub trait Recognizer: Send {
    /// The texts in `picture`, in reading order: rows from the top, within a row from the left.
    ///
    /// A picture without text, or without pixels, gives no lines.
    ///
    /// # Errors
    /// [`OcrError::Cancelled`] soon after `cancelled` is set; [`OcrError::InvalidPicture`] if the picture's data does
    /// not fit its size; [`OcrError::Inference`] if the engine fails.
    fn recognize(&mut self, picture: &RgbPicture, cancelled: &AtomicBool) -> Result<Vec<Line>, OcrError>;

    /// The engine and its models, for logs and metadata: `PP-OCRv4 detection, PP-OCRv6 small recognition (rten)`.
    fn description(&self) -> String;
}
