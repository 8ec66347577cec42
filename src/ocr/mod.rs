//! Text in pictures: what stands where in a frame, in reading order.
//!
//! A [`Recognizer`] turns one [`RgbPicture`](crate::picture::RgbPicture) into [`Line`]s of [`TextBox`]es. The one engine so
//! far is [`PpOcr`] (Chinese and Latin), which [`OcrModels`] finds the files of. [`recognize_all`] spreads many
//! frames over several engines, a thread each: two engines side by side read twice as many frames, while a second
//! thread inside one engine gains a third at best.
//!
//! This module knows no video and no database: pictures come in, lines of text go out. Nothing here reads the
//! environment.

mod check;
mod detection;
mod error;
mod geometry;
mod language;
mod models;
mod network;
mod parallel;
mod placing;
mod pp_ocr;
mod recognition;
mod recognizer;
mod resample;
mod writing;

pub use check::check;
pub use error::{FrameError, OcrError};
pub use language::reads_language;
pub use models::OcrModels;
pub use parallel::recognize_all;
pub use pp_ocr::PpOcr;
pub use recognizer::{Extent, Line, Recognizer, TextBox, joined_text};
pub use writing::is_tight;
