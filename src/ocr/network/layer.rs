//! What is computed here rather than by rten, and the nodes that stand for it in a graph.

use rten_onnx::onnx::NodeProto;
use rten_tensor::{NdTensor, NdTensorView};

use super::depthwise::Depthwise;
use super::graph::{is_operator, node};
use super::summing::Sum;

/// The operator of nodes that stand for a layer; their name is its number.
const OPERATOR: &str = "Layer";

/// An operation of our own.
pub(super) enum Layer {
    Depthwise(Depthwise),
    Sum(Sum),
}

impl Layer {
    pub(super) fn run(&self, inputs: &[NdTensorView<f32, 4>]) -> NdTensor<f32, 4> {
        match self {
            Self::Depthwise(layer) => layer.run(&inputs[0]),
            Self::Sum(layer) => layer.run(inputs),
        }
    }
}

/// The node that stands for the layer of this number.
pub(super) fn layer_node(number: usize, inputs: Vec<String>, output: &str) -> NodeProto {
    let mut node = node(OPERATOR, &[], output);
    node.name = Some(number.to_string());
    node.input = inputs;
    node
}

/// The number of the layer that a node stands for.
pub(super) fn layer_number(node: &NodeProto) -> Option<usize> {
    node.name.as_ref().filter(|_| is_operator(node, OPERATOR))?.parse().ok()
}
