//! Convolutions of sums, of enlarged pictures and of pictures that stand behind one another, as sums of smaller convolutions.
//!
//! A convolution is linear, and so is what the model does before its 3x3 convolutions: it enlarges a picture of many channels to
//! the next larger one's size, multiplies each channel by a number, adds, and puts pictures behind one another. So each of what
//! goes in can have a convolution of its own, in its own size and before its channels become many: by a kernel that was enlarged
//! instead (a transposed convolution then), multiplied instead, or multiplied with the matrix that makes the many channels.

use rten_onnx::onnx::NodeProto;

use super::graph::{Graph, attribute, is_operator, node};
use super::layer::{Layer, layer_node};
use super::summing::{Sum, Term};

/// Gives each part of what goes into a convolution of 3x3 a convolution of its own. The sums are put into `layers`.
pub(super) fn split_convolutions(graph: &mut Graph, layers: &mut Vec<Layer>) {
    pool_before_widening(graph);
    // From the end, so that what leads to a convolution is still as it was.
    for place in (0..graph.nodes.len()).rev() {
        if let Some(made) = split(graph, place, layers) {
            graph.nodes.splice(place..=place, made);
        }
    }
    graph.prune();
}

/// The mean of many channels that were made of few is made of the mean of the few.
fn pool_before_widening(graph: &mut Graph) {
    for place in 0..graph.nodes.len() {
        let pool = &graph.nodes[place];
        if is_operator(pool, "GlobalAveragePool")
            && let Some(convolution) = graph.producer(&pool.input[0])
            && is_widening(graph, convolution)
        {
            let output = pool.output[0].clone();
            let mean = graph.fresh();
            let mut widening = graph.nodes[convolution].clone();
            let pool = node("GlobalAveragePool", &[&widening.input[0]], &mean);
            widening.input[0] = mean;
            widening.output = vec![output];
            widening.name = None;
            graph.nodes.splice(place..=place, [pool, widening]);
        }
    }
}

/// Whether a node is a convolution of 1x1 without a bias that makes many channels of few.
fn is_widening(graph: &Graph, place: usize) -> bool {
    let convolution = &graph.nodes[place];
    let dims = |name: &String| graph.constant(name).map(|weights| &weights.dims[..]);
    is_operator(convolution, "Conv")
        && convolution.input.len() == 2
        && matches!(dims(&convolution.input[1]), Some([many, few, 1, 1]) if few < many)
        && is_all(convolution, "strides", 1)
        && is_all(convolution, "pads", 0)
}

fn is_all(node: &NodeProto, name: &str, expected: i64) -> bool {
    attribute(node, name).is_none_or(|found| found.ints.iter().all(|&value| value == expected))
}

/// Kernels of a transposed convolution that makes a picture as large as the one after the enlargement by `stride`.
#[derive(Clone)]
struct Kernels {
    inputs: usize,
    outputs: usize,
    side: usize,
    stride: usize,
    /// Input channel, output channel, row, column.
    values: Vec<f32>,
}

impl Kernels {
    /// Of a convolution of 3x3, if it is one that keeps the size.
    fn of(graph: &Graph, place: usize) -> Option<Self> {
        let convolution = &graph.nodes[place];
        let weights = graph.constant(convolution.input.get(1)?)?;
        let [outputs, inputs, 3, 3] = weights.dims[..] else {
            return None;
        };
        let is_plain = is_operator(convolution, "Conv")
            && attribute(convolution, "group").is_none_or(|group| group.i == Some(1))
            && attribute(convolution, "auto_pad").is_none_or(|padding| padding.s.as_deref() == Some("NOTSET"))
            && attribute(convolution, "pads").is_some()
            && is_all(convolution, "pads", 1)
            && is_all(convolution, "strides", 1)
            && is_all(convolution, "dilations", 1);
        // A transposed convolution has its kernel turned by a half.
        let values = (0..inputs * outputs).flat_map(|pair| {
            let kernel = (pair % outputs * inputs + pair / outputs) * 9;
            weights.values[kernel..kernel + 9].iter().rev().copied()
        });
        is_plain.then(|| Self {
            inputs,
            outputs,
            side: 3,
            stride: 1,
            values: values.collect(),
        })
    }

    /// Those for some of the input channels.
    fn part(&self, channels: std::ops::Range<usize>) -> Self {
        let kernels = self.values.len() / self.inputs;
        Self {
            inputs: channels.len(),
            values: self.values[channels.start * kernels..channels.end * kernels].to_vec(),
            ..self.clone()
        }
    }

    /// Those for a picture before each of its pixels became `factor` x `factor` equal ones.
    fn enlarged(&self, factor: usize) -> Self {
        let side = self.side + self.stride * (factor - 1);
        let mut values = vec![0.0; self.inputs * self.outputs * side * side];
        for (kernel, target) in self
            .values
            .chunks_exact(self.side * self.side)
            .zip(values.chunks_exact_mut(side * side))
        {
            for (at, weight) in kernel.iter().enumerate() {
                for copy in 0..factor * factor {
                    let y = at / self.side + self.stride * (copy / factor);
                    let x = at % self.side + self.stride * (copy % factor);
                    target[y * side + x] += weight;
                }
            }
        }
        Self {
            side,
            stride: self.stride * factor,
            values,
            ..*self
        }
    }
}

/// One summand: a convolution of `value`, whose channels are multiplied by 1 more than `gate` has.
struct Summand {
    value: String,
    kernels: Kernels,
    gate: Option<String>,
}

/// The nodes that do what a convolution did, if it is not to stay as it is.
fn split(graph: &mut Graph, place: usize, layers: &mut Vec<Layer>) -> Option<Vec<NodeProto>> {
    let kernels = Kernels::of(graph, place)?;
    let convolution = graph.nodes[place].clone();
    let bias = match convolution.input.get(2) {
        Some(name) => graph.constant(name)?.values.clone(),
        None => vec![0.0; kernels.outputs],
    };
    let mut made = Vec::new();
    let mut inputs = Vec::new();
    let mut terms = Vec::new();
    for summand in summands(graph, &convolution.input[0], kernels) {
        terms.push(term(graph, summand, &mut inputs, &mut made));
    }
    made.push(layer_node(layers.len(), inputs, &convolution.output[0]));
    layers.push(Layer::Sum(Sum { terms, bias }));
    Some(made)
}

fn summands(graph: &Graph, value: &str, kernels: Kernels) -> Vec<Summand> {
    split_value(graph, value, &kernels).unwrap_or_else(|| {
        vec![Summand {
            value: value.to_owned(),
            kernels,
            gate: None,
        }]
    })
}

fn split_value(graph: &Graph, value: &str, kernels: &Kernels) -> Option<Vec<Summand>> {
    let producer = &graph.nodes[graph.producer(value)?];
    match producer.op_type.as_deref()? {
        "Concat" if attribute(producer, "axis")?.i == Some(1) => {
            let mut parts = Vec::new();
            let mut start = 0;
            for input in &producer.input {
                let end = start + channels(graph, input)?;
                parts.extend(summands(graph, input, kernels.part(start..end)));
                start = end;
            }
            (start == kernels.inputs).then_some(parts)
        }
        "Resize" => {
            let factor = enlargement(graph, producer)?;
            Some(summands(graph, &producer.input[0], kernels.enlarged(factor)))
        }
        "Add" => {
            let [one, other] = &producer.input[..] else { return None };
            if graph.constant(one).is_some() || graph.constant(other).is_some() {
                return None;
            }
            let gated = [(one, other), (other, one)].into_iter().find_map(|(value, product)| {
                let gate = gate_of(graph, value, product)?;
                Some(vec![Summand {
                    value: value.clone(),
                    kernels: kernels.clone(),
                    gate: Some(gate),
                }])
            });
            gated.or_else(|| {
                let mut both = summands(graph, one, kernels.clone());
                both.extend(summands(graph, other, kernels.clone()));
                Some(both)
            })
        }
        _ => None,
    }
}

/// What `product` multiplies the channels of `value` by, if it is that.
fn gate_of(graph: &Graph, value: &str, product: &str) -> Option<String> {
    let product = &graph.nodes[graph.producer(product)?];
    if !is_operator(product, "Mul") {
        return None;
    }
    let [one, other] = &product.input[..] else { return None };
    let gate = match [one == value, other == value] {
        [true, false] => other,
        [false, true] => one,
        _ => return None,
    };
    // It comes from a mean of each channel.
    let mut name = gate;
    loop {
        let node = &graph.nodes[graph.producer(name)?];
        match node.op_type.as_deref()? {
            "GlobalAveragePool" => return Some(gate.clone()),
            "HardSigmoid" | "Relu" | "Conv" => name = node.input.first()?,
            _ => return None,
        }
    }
}

fn channels(graph: &Graph, value: &str) -> Option<usize> {
    let node = &graph.nodes[graph.producer(value)?];
    match node.op_type.as_deref()? {
        "Conv" => graph.constant(node.input.get(1)?)?.dims.first().copied(),
        "ConvTranspose" => graph.constant(node.input.get(1)?)?.dims.get(1).copied(),
        "Add" | "Mul" => node.input.iter().find_map(|input| channels(graph, input)),
        "Resize" | "Relu" => channels(graph, node.input.first()?),
        _ => None,
    }
}

/// How many pixels a pixel becomes, across and down, if all of them are equal.
fn enlargement(graph: &Graph, resize: &NodeProto) -> Option<usize> {
    let is =
        |name: &str, expected: &str| attribute(resize, name).is_some_and(|found| found.s.as_deref() == Some(expected));
    let factor = match graph.constant(resize.input.get(2)?)?.values[..] {
        [1.0, 1.0, 2.0, 2.0] => 2,
        [1.0, 1.0, 4.0, 4.0] => 4,
        [1.0, 1.0, 8.0, 8.0] => 8,
        _ => return None,
    };
    let is_plain = resize.input.len() == 3
        && is("mode", "nearest")
        && is("nearest_mode", "floor")
        && is("coordinate_transformation_mode", "asymmetric");
    is_plain.then_some(factor)
}

/// The term of a summand: what goes into it is added to `inputs`, the nodes that make it to `made`.
fn term(graph: &mut Graph, summand: Summand, inputs: &mut Vec<String>, made: &mut Vec<NodeProto>) -> Term {
    let Summand { value, kernels, gate } = summand;
    let enlargement = kernels.stride;
    let Some(gate) = gate else {
        inputs.push(value);
        return Term {
            enlargement,
            weights: Some(kernels.values),
        };
    };
    let Kernels {
        inputs: many,
        outputs,
        side,
        ..
    } = kernels;
    let mut step = |graph: &mut Graph, operator: &str, inputs: &[&str]| {
        let output = graph.fresh();
        made.push(node(operator, inputs, &output));
        output
    };
    let one = graph.add_constant(&[1], vec![1.0]);
    let gate = step(graph, "Add", &[&gate, &one]);
    let column = graph.add_shape(&[many, 1]);
    let gate = step(graph, "Reshape", &[&gate, &column]);
    let weights = graph.add_constant(&[many, outputs * side * side], kernels.values);
    let weights = step(graph, "Mul", &[&weights, &gate]);
    let (value, weights, channels) = match before_widening(graph, &value) {
        None => (value, weights, many),
        Some((few, matrix)) => {
            let channels = matrix.len() / many;
            let turned = (0..matrix.len()).map(|at| matrix[at % many * channels + at / many]);
            let matrix = graph.add_constant(&[channels, many], turned.collect());
            (few, step(graph, "MatMul", &[&matrix, &weights]), channels)
        }
    };
    let shape = graph.add_shape(&[channels, outputs, side, side]);
    let weights = step(graph, "Reshape", &[&weights, &shape]);
    inputs.extend([value, weights]);
    Term {
        enlargement,
        weights: None,
    }
}

/// What a value of many channels was made of and the matrix that made it.
fn before_widening(graph: &Graph, value: &str) -> Option<(String, Vec<f32>)> {
    let place = graph.producer(value).filter(|&place| is_widening(graph, place))?;
    let input = &graph.nodes[place].input;
    Some((input[0].clone(), graph.constant(&input[1])?.values.clone()))
}
