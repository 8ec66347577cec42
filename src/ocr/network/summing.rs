//! Convolutions of pictures of several sizes, added up in the size of the largest one.
//!
//! In rten they are transposed convolutions, which multiply with all of a kernel first and then put the results where they belong,
//! number by number. Here the output's pixels are computed at once: of an enlarged pixel only the outermost ones meet a neighbour.

#![expect(
    clippy::inline_always,
    reason = "only what is inlined into a dispatched operation is compiled for its instructions"
)]

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};

/// So many output channels are computed side by side.
const BLOCK: usize = 4;

/// A sum of convolutions of 3x3, each of a picture that is enlarged first: every pixel to a square of equal ones.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sum {
    pub terms: Vec<Term>,
    /// What is added to each output channel.
    pub bias: Vec<f32>,
}

/// One convolution of a sum.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Term {
    /// How many pixels a pixel becomes, across and down.
    pub enlargement: usize,
    /// The kernels of the enlarged pixels, as [`Kernels`](super::linear) has them; none if they are an input, too.
    pub weights: Option<Vec<f32>>,
}

impl Sum {
    /// The sum for its terms' pictures, each followed by its kernels where the term has none.
    pub(super) fn run(&self, inputs: &[NdTensorView<f32, 4>]) -> NdTensor<f32, 4> {
        let outputs = self.bias.len();
        let mut size = [0; 2];
        let mut data = Vec::new();
        let mut inputs = inputs.iter();
        for (place, term) in self.terms.iter().enumerate() {
            let picture = inputs.next().expect("a picture for each term").to_contiguous();
            let given = term
                .weights
                .is_none()
                .then(|| inputs.next().expect("kernels for the term").to_contiguous());
            let weights = given
                .as_ref()
                .map_or(term.weights.as_deref(), |given| Some(given.data()));
            let [_, channels, height, width] = picture.shape();
            if place == 0 {
                size = [height, width].map(|side| side * term.enlargement);
                data = vec![0.0; outputs * size[0] * size[1]];
            }
            assert_eq!(
                size,
                [height, width].map(|side| side * term.enlargement),
                "sizes of the terms"
            );
            Run {
                enlargement: term.enlargement,
                channels,
                size: [height, width],
                picture: picture.data(),
                weights: weights.expect("kernels of the term"),
                bias: (place == 0).then_some(&self.bias),
                outputs,
                target: &mut data,
            }
            .dispatch();
        }
        NdTensor::from_data([1, outputs, size[0], size[1]], data)
    }
}

/// One term, added to what there is, or put there with the bias.
struct Run<'a> {
    enlargement: usize,
    channels: usize,
    size: [usize; 2],
    picture: &'a [f32],
    weights: &'a [f32],
    bias: Option<&'a Vec<f32>>,
    outputs: usize,
    target: &'a mut [f32],
}

/// Which rows (or columns) of the small picture one of the enlarged pixel's meets, 0 being the one before its own, and the
/// kernel's row for each.
fn taps(phase: usize, enlargement: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    let before = (phase == 0).then_some((0, enlargement + 1));
    let after = (phase + 1 == enlargement).then_some((2, 0));
    before.into_iter().chain([(1, phase + 1)]).chain(after)
}

impl Run<'_> {
    /// The weights for each place of the kernel, there for each block of output channels, there by input channel.
    fn ordered(&self) -> Vec<f32> {
        let side = self.enlargement + 2;
        let places = side * side;
        let padded = self.outputs.next_multiple_of(BLOCK);
        let mut ordered = vec![0.0; places * padded * self.channels];
        for (pair, kernel) in self.weights.chunks_exact(places).enumerate() {
            let (input, output) = (pair / self.outputs, pair % self.outputs);
            let offset = (output / BLOCK * self.channels + input) * BLOCK + output % BLOCK;
            for (place, &weight) in kernel.iter().enumerate() {
                ordered[place * padded * self.channels + offset] = weight;
            }
        }
        ordered
    }

    /// The picture with a frame of nothing, rows of `columns`: row by row, in it channel by channel.
    fn framed(&self, columns: usize) -> Vec<f32> {
        let [height, width] = self.size;
        let mut framed = vec![0.0; (height + 2) * self.channels * columns];
        for (at, row) in self.picture.chunks_exact(width).enumerate() {
            let start = ((at % height + 1) * self.channels + at / height) * columns + 1;
            framed[start..start + width].copy_from_slice(row);
        }
        framed
    }
}

impl SimdOp for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let lanes = isa.f32().len();
        let side = self.enlargement + 2;
        let [height, width] = self.size;
        let vectors = width.div_ceil(lanes);
        let columns = vectors * lanes + 2;
        let (weights, picture) = (self.ordered(), self.framed(columns));
        let block_weights = self.channels * BLOCK;
        let place_weights = self.outputs.next_multiple_of(BLOCK) * self.channels;
        // What fits into the registers beside the weights.
        let most = if lanes >= 16 { 4 } else { 2 };
        let row_length = vectors * lanes;
        // For each output channel of the block, the columns by their place in the enlarged pixel.
        let mut rows = vec![0.0; BLOCK * self.enlargement * row_length];
        let large_width = width * self.enlargement;
        let plane = height * self.enlargement * large_width;
        for y in 0..height * self.enlargement {
            let (row, phase_y) = (y / self.enlargement, y % self.enlargement);
            for block in 0..self.outputs.div_ceil(BLOCK) {
                let channels = block * BLOCK..self.outputs.min((block + 1) * BLOCK);
                let mut bias = [0.0; BLOCK];
                if let Some(all) = self.bias {
                    bias[..channels.len()].copy_from_slice(&all[channels.clone()]);
                }
                for phase_x in 0..self.enlargement {
                    let mut step = Step {
                        picture: &picture,
                        weights: &weights[block * block_weights..],
                        columns,
                        channels: self.channels,
                        place_weights,
                        side,
                        row,
                        phases: [phase_y, phase_x],
                        bias,
                        target: &mut rows,
                        stride: self.enlargement * row_length,
                    };
                    let mut at = 0;
                    while at < vectors {
                        let from = at * lanes;
                        let rest = vectors - at;
                        at += if rest >= 4 && most == 4 {
                            step.run::<I, 4>(isa, from, phase_x * row_length)
                        } else if rest >= 2 {
                            step.run::<I, 2>(isa, from, phase_x * row_length)
                        } else {
                            step.run::<I, 1>(isa, from, phase_x * row_length)
                        };
                    }
                }
                for channel in channels {
                    let start = channel * plane + y * large_width;
                    let target = &mut self.target[start..start + large_width];
                    let source = &rows[channel % BLOCK * self.enlargement * row_length..];
                    let is_first = self.bias.is_some();
                    match self.enlargement {
                        1 => interleave::<1>(target, source, row_length, is_first),
                        2 => interleave::<2>(target, source, row_length, is_first),
                        4 => interleave::<4>(target, source, row_length, is_first),
                        8 => interleave::<8>(target, source, row_length, is_first),
                        factor => unreachable!("enlarged by {factor}"),
                    }
                }
            }
        }
    }
}

/// Puts the columns of enlarged pixels side by side into a row of the output.
#[inline(always)]
fn interleave<const FACTOR: usize>(target: &mut [f32], source: &[f32], row_length: usize, is_first: bool) {
    let sources: [&[f32]; FACTOR] = std::array::from_fn(|phase| &source[phase * row_length..(phase + 1) * row_length]);
    for (x, pixel) in target.as_chunks_mut::<FACTOR>().0.iter_mut().enumerate() {
        for (value, source) in pixel.iter_mut().zip(sources) {
            *value = if is_first { source[x] } else { *value + source[x] };
        }
    }
}

/// Vectors of one row, one column of enlarged pixels and one block of channels.
struct Step<'a> {
    picture: &'a [f32],
    weights: &'a [f32],
    columns: usize,
    channels: usize,
    place_weights: usize,
    side: usize,
    row: usize,
    phases: [usize; 2],
    bias: [f32; BLOCK],
    target: &'a mut [f32],
    stride: usize,
}

impl Step<'_> {
    #[inline(always)]
    fn run<I: Isa, const VECTORS: usize>(&mut self, isa: I, from: usize, offset: usize) -> usize {
        let ops = isa.f32();
        let mut sums = self.bias.map(|bias| [ops.splat(bias); VECTORS]);
        let enlargement = self.side - 2;
        for (y, kernel_y) in taps(self.phases[0], enlargement) {
            for (x, kernel_x) in taps(self.phases[1], enlargement) {
                let weights = &self.weights[(kernel_y * self.side + kernel_x) * self.place_weights..];
                let weights = weights[..self.channels * BLOCK].as_chunks::<BLOCK>().0;
                let pixels = &self.picture[(self.row + y) * self.channels * self.columns + x + from..];
                for (channel, weights) in weights.iter().enumerate() {
                    let values = ops.load_many::<VECTORS>(&pixels[channel * self.columns..]);
                    for (sums, &weight) in sums.iter_mut().zip(weights) {
                        let weight = ops.splat(weight);
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum = ops.mul_add(value, weight, *sum);
                        }
                    }
                }
            }
        }
        for (place, sums) in sums.into_iter().enumerate() {
            let start = place * self.stride + offset + from;
            let target = self.target[start..].chunks_exact_mut(ops.len());
            for (sum, target) in sums.into_iter().zip(target) {
                ops.store(sum, target);
            }
        }
        VECTORS
    }
}
