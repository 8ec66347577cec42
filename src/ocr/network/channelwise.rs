//! Finds the convolutions of each channel by itself in a graph.

use super::depthwise::Depthwise;
use super::folding::scaled;
use super::graph::{Graph, attribute, is_operator};
use super::layer::{Layer, layer_node};

/// Makes layers of the convolutions that [`Depthwise`] can do.
pub(super) fn take_depthwise(graph: &mut Graph, layers: &mut Vec<Layer>) {
    for place in 0..graph.nodes.len() {
        let Some((input, mut layer)) = graph.nodes.get(place).and_then(|_| depthwise(graph, place)) else {
            continue;
        };
        let mut output = graph.nodes[place].output[0].clone();
        if let Some(next) = graph.sole_reader(&output)
            && is_operator(&graph.nodes[next], "HardSwish")
        {
            layer.has_hard_swish = true;
            output = graph.nodes.remove(next).output.swap_remove(0);
        }
        graph.nodes[place] = layer_node(layers.len(), vec![input], &output);
        layers.push(Layer::Depthwise(layer));
    }
    graph.prune();
}

fn depthwise(graph: &Graph, place: usize) -> Option<(String, Depthwise)> {
    let node = &graph.nodes[place];
    let weights = graph.constant(node.input.get(1)?)?;
    let [channels, 1, side @ (3 | 5), width] = weights.dims[..] else {
        return None;
    };
    let all = |name: &str, expected: usize| {
        let expected = i64::try_from(expected).unwrap_or(i64::MAX);
        attribute(node, name).is_some_and(|found| found.ints.iter().all(|&value| value == expected))
    };
    let group = attribute(node, "group").and_then(|group| group.i)?;
    let strides = match attribute(node, "strides")?.ints[..] {
        [down @ (1 | 2), across @ (1 | 2)] => [usize::try_from(down).ok()?, usize::try_from(across).ok()?],
        _ => return None,
    };
    let is_plain = is_operator(node, "Conv")
        && width == side
        && usize::try_from(group) == Ok(channels)
        && all("pads", side / 2)
        && (attribute(node, "dilations").is_none() || all("dilations", 1))
        && attribute(node, "auto_pad").is_none_or(|padding| padding.s.as_deref() == Some("NOTSET"));
    if !is_plain {
        return None;
    }
    let mut bias = match node.input.get(2) {
        Some(name) if !name.is_empty() => graph.constant(name)?.values.clone(),
        _ => vec![0.0; channels],
    };
    // What is around the picture is nothing; before the factor and the summand it is what becomes nothing by them.
    let (input, scale, shift) = scaled(graph, &node.input[0]);
    let mut weights = weights.values.clone();
    for (bias, kernel) in bias.iter_mut().zip(weights.chunks_exact_mut(side * side)) {
        *bias += shift * kernel.iter().sum::<f32>();
        for weight in kernel {
            *weight *= scale;
        }
    }
    let layer = Depthwise {
        side,
        strides,
        weights,
        bias,
        surroundings: -shift / scale,
        has_hard_swish: false,
    };
    Some((input, layer))
}
