//! The same model in operations that rten does faster.
//!
//! rten multiplies matrices. Of a convolution it first makes a matrix of all patches of the picture, which for a kernel of 3x3
//! is nine times the picture; where few channels come out, that copying takes longer than the arithmetic. A transposed
//! convolution multiplies first and then adds up nine shifted results of those few channels. With its kernel turned by a half it
//! computes the same sums. In PP-OCRv4's detection three convolutions (96 channels to 24, of 136x240 and less) took more than
//! half of all time.

use std::cell::RefCell;

use rten_onnx::onnx::{AttributeProto, DataType, GraphProto, ModelProto, NodeProto, TensorProto};

/// Convolutions with more channels coming out than this part of those going in are left alone.
const MAX_SHARE: usize = 3;

/// The ONNX file with its narrowing convolutions as transposed ones. A file that is not understood comes back as it was: whoever
/// loads it says what is wrong.
pub(super) fn with_narrow_convolutions_transposed(file: Vec<u8>) -> Vec<u8> {
    let Ok(mut model) = ModelProto::parse_buf(&file) else {
        return file;
    };
    let Some(graph) = &mut model.graph else { return file };
    for place in 0..graph.node.len() {
        transpose(graph, place);
    }
    model.write_buf().unwrap_or(file)
}

/// Rewrites a node if it is a convolution of the kind, all of whose values are understood.
fn transpose(graph: &mut GraphProto, place: usize) -> Option<()> {
    let node = &graph.node[place];
    let [_, weights, ..] = &node.input[..] else { return None };
    let readers = graph.node.iter().filter(|other| other.input.contains(weights));
    let turned = turned_weights(node, constant(graph, weights)?).filter(|_| readers.count() == 1)?;
    let weights = weights.clone();
    *constant_mut(graph, &weights)? = turned;
    graph.node[place].op_type = Some("ConvTranspose".to_owned());
    Some(())
}

/// The constant of this name: an initializer, or what a node of its own holds.
fn constant<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a TensorProto> {
    let initializer = graph
        .initializer
        .iter()
        .find(|tensor| tensor.name.as_deref() == Some(name));
    initializer.or_else(|| {
        let node = graph.node.iter().find(|node| is_constant(node, name))?;
        attribute(node, "value")?.t.as_ref()
    })
}

fn constant_mut<'a>(graph: &'a mut GraphProto, name: &str) -> Option<&'a mut TensorProto> {
    let initializer = graph
        .initializer
        .iter_mut()
        .find(|tensor| tensor.name.as_deref() == Some(name));
    initializer.or_else(|| {
        let node = graph.node.iter_mut().find(|node| is_constant(node, name))?;
        let value = node
            .attribute
            .iter_mut()
            .find(|attribute| attribute.name.as_deref() == Some("value"));
        value?.t.as_mut()
    })
}

fn is_constant(node: &NodeProto, name: &str) -> bool {
    node.op_type.as_deref() == Some("Constant") && node.output.iter().any(|output| output == name)
}

/// The weights of the transposed convolution.
fn turned_weights(node: &NodeProto, tensor: &TensorProto) -> Option<TensorProto> {
    let is = |name: &str, expected: &[i64]| attribute(node, name).is_none_or(|found| found.ints == expected);
    let group = attribute(node, "group").and_then(|group| group.i).unwrap_or(1);
    let is_plain = node.op_type.as_deref() == Some("Conv")
        && group == 1
        && attribute(node, "auto_pad").is_none_or(|padding| padding.s.as_deref() == Some("NOTSET"))
        && attribute(node, "pads").is_some_and(|pads| pads.ints == [1; 4])
        && is("strides", &[1; 2])
        && is("dilations", &[1; 2])
        && tensor.data_type == Some(DataType::FLOAT);
    let [outputs, inputs, 3, 3] = tensor.dims[..] else {
        return None;
    };
    let [outputs, inputs] = [usize::try_from(outputs).ok()?, usize::try_from(inputs).ok()?];
    let weights = floats(tensor).filter(|weights| weights.len() == outputs * inputs * 9)?;
    if !is_plain || outputs * MAX_SHARE > inputs {
        return None;
    }
    let mut turned = Vec::with_capacity(weights.len() * 4);
    for input in 0..inputs {
        for output in 0..outputs {
            let kernel = (output * inputs + input) * 9;
            let half_turned = weights[kernel..kernel + 9].iter().rev();
            turned.extend(half_turned.flat_map(|weight| weight.to_le_bytes()));
        }
    }
    Some(TensorProto {
        name: tensor.name.clone(),
        dims: vec![tensor.dims[1], tensor.dims[0], 3, 3],
        data_type: Some(DataType::FLOAT),
        raw_data: Some(RefCell::new(turned)),
        ..TensorProto::default()
    })
}

fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    match &tensor.raw_data {
        Some(raw) => Some(
            raw.borrow()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
        ),
        None => (!tensor.float_data.is_empty()).then(|| tensor.float_data.clone()),
    }
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute
        .iter()
        .find(|attribute| attribute.name.as_deref() == Some(name))
}
