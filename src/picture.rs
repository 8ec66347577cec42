//! A decoded picture as it travels from video to OCR.

/// An 8-bit RGB picture, top row first, without padding: `data.len() == width * height * 3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbPicture {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `R G B` bytes, row by row.
    pub data: Vec<u8>,
}
