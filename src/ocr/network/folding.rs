//! Multiplications and additions of constants that disappear in the weights of a convolution beside them.

use super::graph::{Graph, attribute, is_operator, node};

/// Takes factors and summands after convolutions, and normalization, into their weights.
pub(super) fn fold_after_convolutions(graph: &mut Graph) {
    let mut place = 0;
    while place < graph.nodes.len() {
        if fold_next(graph, place).is_none() {
            place += 1;
        }
    }
}

/// Takes factors and summands before convolutions without padding into their weights.
pub(super) fn fold_before_convolutions(graph: &mut Graph) {
    for place in 0..graph.nodes.len() {
        let _ = fold_before(graph, place);
    }
    graph.prune();
}

/// `x * clamp(x + 3, 0, 6) / 6` as the one operation that it is.
pub(super) fn name_hard_swish(graph: &mut Graph) {
    for place in 0..graph.nodes.len() {
        if let Some(input) = hard_swish_of(graph, place) {
            let output = graph.nodes[place].output[0].clone();
            graph.nodes[place] = node("HardSwish", &[&input], &output);
        }
    }
    graph.prune();
}

/// `value` is `scale * input + shift`, for each channel or for all.
struct Affine {
    input: String,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

fn affine(graph: &Graph, place: usize) -> Option<Affine> {
    let node = &graph.nodes[place];
    let inputs = &node.input;
    match node.op_type.as_deref()? {
        "BatchNormalization" => {
            let values = |place: usize| Some(&graph.constant(inputs.get(place)?)?.values);
            let (scale, shift, mean, variance) = (values(1)?, values(2)?, values(3)?, values(4)?);
            let epsilon = attribute(node, "epsilon").and_then(|epsilon| epsilon.f).unwrap_or(1e-5);
            let scale: Vec<f32> = scale
                .iter()
                .zip(variance)
                .map(|(scale, variance)| scale / (variance + epsilon).sqrt())
                .collect();
            let shift = shift
                .iter()
                .zip(mean)
                .zip(&scale)
                .map(|((shift, mean), scale)| shift - mean * scale)
                .collect();
            Some(Affine {
                input: inputs[0].clone(),
                scale,
                shift,
            })
        }
        operator @ ("Mul" | "Add") => {
            let [one, other] = &inputs[..] else { return None };
            let (input, values) = match (per_channel(graph, one), per_channel(graph, other)) {
                (Some(values), None) => (other, values),
                (None, Some(values)) => (one, values),
                _ => return None,
            };
            let (scale, shift) = if operator == "Mul" {
                (values, vec![0.0])
            } else {
                (vec![1.0], values)
            };
            Some(Affine {
                input: input.clone(),
                scale,
                shift,
            })
        }
        _ => None,
    }
}

/// The values of a constant that has one for all or one for each channel of a picture.
fn per_channel(graph: &Graph, name: &str) -> Option<Vec<f32>> {
    let constant = graph.constant(name)?;
    let channels = constant.values.len();
    let is_per_channel =
        channels == 1 || matches!(constant.dims[..], [1, count, 1, 1] | [count, 1, 1] if count == channels);
    is_per_channel.then(|| constant.values.clone())
}

/// A convolution's weights with the numbers of its output channels and input channels (of a group).
struct Weights {
    values: Vec<f32>,
    dims: Vec<usize>,
    bias: Vec<f32>,
    is_transposed: bool,
}

impl Weights {
    fn of(graph: &Graph, place: usize) -> Option<Self> {
        let node = &graph.nodes[place];
        let is_transposed = is_operator(node, "ConvTranspose");
        let group = attribute(node, "group").and_then(|group| group.i).unwrap_or(1);
        if !is_transposed && !is_operator(node, "Conv") || is_transposed && group != 1 {
            return None;
        }
        let weights = graph.constant(node.input.get(1)?)?;
        let outputs = *weights.dims.get(usize::from(is_transposed))?;
        let bias = match node.input.get(2) {
            Some(name) if !name.is_empty() => graph.constant(name)?.values.clone(),
            _ => vec![0.0; outputs],
        };
        Some(Self {
            values: weights.values.clone(),
            dims: weights.dims.clone(),
            bias,
            is_transposed,
        })
    }

    /// The output channel of each weight.
    fn channels(&self) -> impl Iterator<Item = usize> + use<> {
        let kernel: usize = self.dims[2..].iter().product();
        let [first, second] = [self.dims[0], self.dims[1]];
        let is_transposed = self.is_transposed;
        (0..first * second * kernel).map(move |place| {
            if is_transposed {
                place / kernel % second
            } else {
                place / kernel / second
            }
        })
    }

    fn put(self, graph: &mut Graph, place: usize) {
        let names = [
            graph.add_constant(&self.dims, self.values),
            graph.add_constant(&[self.bias.len()], self.bias),
        ];
        let input = &mut graph.nodes[place].input;
        input.truncate(1);
        input.extend(names);
    }
}

fn fold_next(graph: &mut Graph, place: usize) -> Option<()> {
    let output = graph.nodes[place].output.first()?.clone();
    let mut weights = Weights::of(graph, place)?;
    let next = graph.sole_reader(&output)?;
    let Affine { input, scale, shift } = affine(graph, next)?;
    if input != output
        || [&scale, &shift]
            .iter()
            .any(|values| ![1, weights.bias.len()].contains(&values.len()))
    {
        return None;
    }
    let of = |values: &[f32], channel: usize| values[channel % values.len()];
    for (channel, value) in weights.channels().zip(&mut weights.values) {
        *value *= of(&scale, channel);
    }
    for (channel, bias) in weights.bias.iter_mut().enumerate() {
        *bias = *bias * of(&scale, channel) + of(&shift, channel);
    }
    weights.put(graph, place);
    graph.nodes[place].output = graph.nodes.remove(next).output;
    Some(())
}

fn fold_before(graph: &mut Graph, place: usize) -> Option<()> {
    let node = &graph.nodes[place];
    let is_padded = attribute(node, "pads").is_some_and(|pads| pads.ints.iter().any(|&pad| pad != 0))
        || attribute(node, "auto_pad").is_some_and(|padding| padding.s.as_deref() != Some("NOTSET"));
    if is_padded || !is_operator(node, "Conv") {
        return None;
    }
    let (input, scale, shift) = scaled(graph, &node.input[0]);
    let mut weights = Weights::of(graph, place).filter(|_| input != graph.nodes[place].input[0])?;
    for (channel, value) in weights.channels().zip(&mut weights.values) {
        weights.bias[channel] += *value * shift;
        *value *= scale;
    }
    weights.put(graph, place);
    graph.nodes[place].input[0] = input;
    Some(())
}

/// What a value is made of by one factor and one summand for all of it: `scale * input + shift`.
pub(super) fn scaled(graph: &Graph, value: &str) -> (String, f32, f32) {
    let (mut input, mut scale, mut shift) = (value.to_owned(), 1.0, 0.0);
    while let Some(place) = graph.producer(&input)
        && let Some(step) = affine(graph, place)
        && let ([factor], [summand]) = (&step.scale[..], &step.shift[..])
    {
        shift += scale * summand;
        scale *= factor;
        input = step.input;
    }
    (input, scale, shift)
}

/// What a division by 6 gives the hard swish of, if it does.
fn hard_swish_of(graph: &Graph, place: usize) -> Option<String> {
    let made_by = |name: &str, operator: &str| {
        let node = &graph.nodes[graph.producer(name)?];
        is_operator(node, operator).then_some(&node.input)
    };
    let is = |name: Option<&String>, expected: f32| name.and_then(|name| graph.number(name)) == Some(expected);
    let division = &graph.nodes[place];
    if !is_operator(division, "Div") || !is(division.input.get(1), 6.0) {
        return None;
    }
    let [one, other] = &made_by(&division.input[0], "Mul")?[..] else {
        return None;
    };
    [(one, other), (other, one)].into_iter().find_map(|(input, gate)| {
        let clip = made_by(gate, "Clip")?;
        let sum = made_by(clip.first()?, "Add")?;
        let is_gate = is(clip.get(1), 0.0) && is(clip.get(2), 6.0) && sum[0] == *input && is(sum.get(1), 3.0);
        is_gate.then(|| input.clone())
    })
}
