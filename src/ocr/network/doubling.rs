//! Two transposed convolutions that double a picture each, with one that follows the other, as convolutions of single pixels.
//!
//! Kernels of 2x2 in steps of 2 do not overlap: each pixel becomes four, and each of those four, by themselves. So all sixteen can be
//! computed as channels of the small picture and be put side by side at the end, which for the one channel of the result is
//! little to move.

use rten_onnx::onnx::NodeProto;

use super::graph::{Graph, attribute, integer_attribute, integer_attributes, is_operator, node};

/// Makes convolutions of single pixels of two doublings with a `Relu` between.
pub(super) fn double_at_the_end(graph: &mut Graph) {
    for place in 0..graph.nodes.len() {
        if let Some(made) = doubled_twice(graph, place) {
            graph.nodes.splice(place..=place, made);
            break;
        }
    }
    graph.prune();
}

/// Kernels of a doubling: `weights[input][output][4]`.
struct Doubling {
    inputs: usize,
    outputs: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Doubling {
    fn of(graph: &Graph, node: &NodeProto) -> Option<Self> {
        let weights = graph.constant(node.input.get(1)?)?;
        let [inputs, outputs, 2, 2] = weights.dims[..] else {
            return None;
        };
        let is = |name: &str, expected: i64| {
            attribute(node, name).is_none_or(|found| found.ints.iter().all(|&value| value == expected))
        };
        let is_plain = is_operator(node, "ConvTranspose")
            && attribute(node, "group").is_none_or(|group| group.i == Some(1))
            && attribute(node, "output_shape").is_none()
            && attribute(node, "auto_pad").is_none_or(|padding| padding.s.as_deref() == Some("NOTSET"))
            && attribute(node, "strides").is_some()
            && is("strides", 2)
            && is("pads", 0)
            && is("dilations", 1)
            && is("output_padding", 0);
        let bias = match node.input.get(2) {
            Some(name) => graph.constant(name)?.values.clone(),
            None => vec![0.0; outputs],
        };
        is_plain.then(|| Self {
            inputs,
            outputs,
            weights: weights.values.clone(),
            bias,
        })
    }

    fn weight(&self, input: usize, output: usize, pixel: usize) -> f32 {
        self.weights[(input * self.outputs + output) * 4 + pixel]
    }
}

/// The nodes in place of a doubling of a `Relu` of a doubling.
fn doubled_twice(graph: &mut Graph, place: usize) -> Option<Vec<NodeProto>> {
    let last = &graph.nodes[place];
    let second = Doubling::of(graph, last)?;
    let relu = &graph.nodes[graph.producer(&last.input[0]).filter(|_| second.outputs == 1)?];
    let first_node = &graph.nodes[graph
        .producer(relu.input.first()?)
        .filter(|_| is_operator(relu, "Relu"))?];
    let first = Doubling::of(graph, first_node)?;
    let (input, output) = (first_node.input[0].clone(), last.output[0].clone());

    // The four pixels of the first doubling, each with all of its channels.
    let channels = first.outputs;
    let pixels =
        (0..4 * channels).flat_map(|at| (0..first.inputs).map(move |input| (input, at % channels, at / channels)));
    let weights = pixels
        .map(|(input, output, pixel)| first.weight(input, output, pixel))
        .collect();
    let first_weights = graph.add_constant(&[4 * channels, first.inputs, 1, 1], weights);
    let first_bias = graph.add_constant(&[4 * channels], first.bias.repeat(4));
    // Of the sixteen of the second one, row by row, each is made of the channels of one of those four.
    let weights = (0..16).flat_map(|at| {
        let (y, x) = (at / 4, at % 4);
        let (from, pixel) = (y / 2 * 2 + x / 2, y % 2 * 2 + x % 2);
        let second = &second;
        (0..4 * channels).map(move |input| {
            if input / channels == from {
                second.weight(input % channels, 0, pixel)
            } else {
                0.0
            }
        })
    });
    let second_weights = weights.collect();
    let second_weights = graph.add_constant(&[16, 4 * channels, 1, 1], second_weights);
    let second_bias = graph.add_constant(&[16], second.bias.repeat(16));

    let [wide, positive, sixteen] = [(); 3].map(|()| graph.fresh());
    let pixelwise = |inputs: &[&str], output: &str| {
        let mut convolution = node("Conv", inputs, output);
        convolution.attribute = vec![
            integer_attributes("kernel_shape", &[1; 2]),
            integer_attributes("strides", &[1; 2]),
            integer_attributes("pads", &[0; 4]),
        ];
        convolution
    };
    let mut spread = node("DepthToSpace", &[&sixteen], &output);
    spread.attribute = vec![integer_attribute("blocksize", 4)];
    Some(vec![
        pixelwise(&[&input, &first_weights, &first_bias], &wide),
        node("Relu", &[&wide], &positive),
        pixelwise(&[&positive, &second_weights, &second_bias], &sixteen),
        spread,
    ])
}
