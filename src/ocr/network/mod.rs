//! PP-OCR's networks, run by rten, which reads ONNX files, and made faster around it.
//!
//! rten multiplies matrices as fast as any; what is no such multiplication, it does number by number. So a model's graph is
//! rewritten when it is loaded, by rules that leave its result the same but for rounding (a test holds it to rten's own):
//!
//! - factors and summands disappear in the weights beside them (`folding`);
//! - convolutions of sums and of enlarged pictures become sums of smaller convolutions (`linear`), computed by `summing`;
//! - convolutions of each channel by itself are computed by `depthwise`;
//! - what doubles the picture at the end becomes convolutions of single pixels (`doubling`).
//!
//! What is computed here is a `layer`; `pieces` runs those, and rten what is between. A graph to which no rule applies is run by
//! rten as it is. For PP-OCRv4's detection this takes less than half of the time, of which three convolutions (96 channels to 24,
//! of 136x240 and less), the enlargements before them, and fourteen convolutions of channels were two thirds.

mod channelwise;
mod depthwise;
mod doubling;
mod folding;
mod graph;
mod layer;
mod linear;
mod pieces;
mod summing;

pub(super) use graph::Graph;
pub(super) use pieces::Network;
