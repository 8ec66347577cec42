//! Convolutions of each channel by itself, which rten does number by number: here a vector of numbers at once.

#![expect(
    clippy::inline_always,
    reason = "only what is inlined into a dispatched operation is compiled for its instructions"
)]

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};

/// A convolution of each channel with a kernel of its own, as large an output as the input over the stride.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Depthwise {
    /// Sides of the kernels, an odd number.
    pub side: usize,
    /// Down and across.
    pub strides: [usize; 2],
    /// The kernels, one after the other, and what is added to each channel.
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
    /// What stands around the input.
    pub surroundings: f32,
    /// Whether `x * clamp(x + 3, 0, 6) / 6` comes after it.
    pub has_hard_swish: bool,
}

impl Depthwise {
    /// The convolution of one picture of the weights' channels.
    pub(super) fn run(&self, input: &NdTensorView<f32, 4>) -> NdTensor<f32, 4> {
        let [_, channels, height, width] = input.shape();
        assert_eq!(channels, self.bias.len(), "channels of the input and of the kernels");
        let size = [height.div_ceil(self.strides[0]), width.div_ceil(self.strides[1])];
        let mut output = vec![0.0; channels * size[0] * size[1]];
        let input = input.to_contiguous();
        let run = Run {
            layer: self,
            input: input.data(),
            input_size: [height, width],
            output: &mut output,
            size,
        };
        match self.side {
            3 => Sided::<3>(run).dispatch(),
            5 => Sided::<5>(run).dispatch(),
            other => unreachable!("kernels of {other}"),
        }
        NdTensor::from_data([1, channels, size[0], size[1]], output)
    }
}

struct Run<'a> {
    layer: &'a Depthwise,
    input: &'a [f32],
    input_size: [usize; 2],
    output: &'a mut [f32],
    size: [usize; 2],
}

/// A side that the compiler knows.
struct Sided<'a, const SIDE: usize>(Run<'a>);

/// A channel with its surroundings. Of each row first the columns that the kernel's first column meets, then those that its second
/// one meets, as many as the stride: then neighbours in a row are neighbours in the output.
struct Plane {
    rows: usize,
    columns: usize,
    stride: usize,
    margin: usize,
    data: Vec<f32>,
    line: Vec<f32>,
}

impl Plane {
    #[inline(always)]
    fn fill(&mut self, channel: &[f32], width: usize) {
        let Self {
            columns,
            stride,
            margin,
            ..
        } = *self;
        let inside = channel.chunks_exact(width);
        let targets = self.data.chunks_exact_mut(columns * stride).skip(margin);
        for (target, source) in targets.zip(inside) {
            if stride == 1 {
                target[margin..margin + width].copy_from_slice(source);
            } else {
                self.line[margin..margin + width].copy_from_slice(source);
                let (even, odd) = target.split_at_mut(columns);
                let pairs = self.line.as_chunks::<2>().0;
                for ((pair, even), odd) in pairs.iter().zip(even).zip(odd) {
                    *even = pair[0];
                    *odd = pair[1];
                }
            }
        }
    }
}

impl<const SIDE: usize> SimdOp for Sided<'_, SIDE> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self(run) = self;
        let ops = isa.f32();
        let lanes = ops.len();
        let layer = run.layer;
        let ([height, width], [out_height, out_width], [stride_down, stride]) =
            (run.input_size, run.size, layer.strides);
        let vectors = out_width.div_ceil(lanes);
        let columns = vectors * lanes + SIDE;
        let rows = (out_height - 1) * stride_down + SIDE;
        let mut plane = Plane {
            rows: rows.max(height + SIDE / 2),
            columns,
            stride,
            margin: SIDE / 2,
            data: Vec::new(),
            line: vec![layer.surroundings; columns * stride],
        };
        plane.data = vec![layer.surroundings; plane.rows * columns * stride];
        let mut line = vec![0.0; vectors * lanes];
        let inputs = run.input.chunks_exact(height * width);
        let outputs = run.output.chunks_exact_mut(out_height * out_width);
        let kernels = layer.weights.chunks_exact(SIDE * SIDE).zip(&layer.bias);
        for ((input, output), (kernel, &bias)) in inputs.zip(outputs).zip(kernels) {
            plane.fill(input, width);
            for (y, row) in output.chunks_exact_mut(out_width).enumerate() {
                let window = &plane.data[y * stride_down * columns * stride..];
                let mut at = 0;
                while at < vectors {
                    let from = at * lanes;
                    let rest = vectors - at;
                    let mut step = Step {
                        window: &window[from..],
                        columns,
                        stride,
                        kernel,
                        bias,
                        has_hard_swish: layer.has_hard_swish,
                        target: &mut line[from..],
                    };
                    at += if rest >= 4 {
                        step.run::<I, SIDE, 4>(isa)
                    } else if rest >= 2 {
                        step.run::<I, SIDE, 2>(isa)
                    } else {
                        step.run::<I, SIDE, 1>(isa)
                    };
                }
                row.copy_from_slice(&line[..out_width]);
            }
        }
    }
}

/// A few vectors of one row of the output.
struct Step<'a> {
    window: &'a [f32],
    columns: usize,
    stride: usize,
    kernel: &'a [f32],
    bias: f32,
    has_hard_swish: bool,
    target: &'a mut [f32],
}

impl Step<'_> {
    /// Computes `VECTORS` vectors and gives how many they were.
    #[inline(always)]
    fn run<I: Isa, const SIDE: usize, const VECTORS: usize>(&mut self, isa: I) -> usize {
        let ops = isa.f32();
        let mut sums = [ops.splat(self.bias); VECTORS];
        for y in 0..SIDE {
            for x in 0..SIDE {
                let weight = ops.splat(self.kernel[y * SIDE + x]);
                let start = (y * self.stride + x % self.stride) * self.columns + x / self.stride;
                let values = ops.load_many::<VECTORS>(&self.window[start..]);
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = ops.mul_add(value, weight, *sum);
                }
            }
        }
        for (sum, target) in sums.into_iter().zip(self.target.chunks_exact_mut(ops.len())) {
            let value = if self.has_hard_swish {
                let gate = ops.clamp(ops.add(sum, ops.splat(3.0)), ops.zero(), ops.splat(6.0));
                ops.mul(ops.mul(sum, gate), ops.splat(1.0 / 6.0))
            } else {
                sum
            };
            ops.store(value, target);
        }
        VECTORS
    }
}
