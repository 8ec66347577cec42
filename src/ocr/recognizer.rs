//! What every OCR engine does, and the text that it finds.

use std::sync::atomic::AtomicBool;

use super::error::OcrError;
use crate::picture::RgbPicture;

/// A piece of text, as a rule one line or a part of it, and where it stands.
///
/// `left`, `top`, `width` and `height` are fractions of the picture with the origin at its top left; the box lies
/// within the picture (`left + width <= 1`, `top + height <= 1`). A slanted text has its upright bounding box.
#[derive(Debug, Clone, PartialEq)]
pub struct TextBox {
    /// The text; never empty, without white space at its ends.
    pub text: String,
    /// The mean of the characters' probabilities, `0.0..=1.0`.
    pub confidence: f32,
    /// Left edge, from the picture's left.
    pub left: f64,
    /// Upper edge, from the picture's top.
    pub top: f64,
    /// Extent to the right.
    pub width: f64,
    /// Extent downwards.
    pub height: f64,
}

/// An OCR engine. One engine reads one picture at a time; several engines may run side by side.
pub trait Recognizer: Send {
    /// The texts in `picture`, in reading order: rows from the top, within a row from the left.
    ///
    /// A picture without text, or without pixels, gives no boxes.
    ///
    /// # Errors
    /// [`OcrError::Cancelled`] soon after `cancelled` is set; [`OcrError::InvalidPicture`] if the picture's data does
    /// not fit its size; [`OcrError::Inference`] if the engine fails.
    fn recognize(&mut self, picture: &RgbPicture, cancelled: &AtomicBool) -> Result<Vec<TextBox>, OcrError>;

    /// The engine and its models, for logs and metadata: `PP-OCRv4 mobile (rten)`.
    fn description(&self) -> String;
}
