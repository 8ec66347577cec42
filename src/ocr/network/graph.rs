//! An ONNX graph that can be changed: its nodes in the order of execution, and its constants by name.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::error::Error;

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, ValueInfoProto,
};

/// Numbers that are the same in every run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constant {
    pub dims: Vec<usize>,
    pub values: Vec<f32>,
}

/// The nodes and constants of a model.
pub(in crate::ocr) struct Graph {
    pub nodes: Vec<NodeProto>,
    /// Names of what goes in and what comes out.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    constants: HashMap<String, Constant>,
    /// Constants that are no floats.
    others: Vec<TensorProto>,
    operators: Vec<OperatorSetIdProto>,
    metadata: Vec<StringStringEntryProto>,
    made: usize,
}

impl Graph {
    /// The graph of an ONNX file.
    pub(in crate::ocr) fn parse(file: &[u8]) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let model = ModelProto::parse_buf(file)?;
        let graph = model.graph.ok_or("it has no graph")?;
        let names = |values: Vec<ValueInfoProto>| values.into_iter().filter_map(|value| value.name).collect();
        let mut whole = Self {
            nodes: Vec::new(),
            inputs: names(graph.input),
            outputs: names(graph.output),
            constants: HashMap::new(),
            others: Vec::new(),
            operators: model.opset_import,
            metadata: model.metadata_props,
            made: 0,
        };
        for tensor in graph.initializer {
            whole.take(tensor);
        }
        for node in graph.node {
            let value = node.attribute.iter().find(|attribute| is(attribute, "value"));
            match value.and_then(|value| value.t.clone()) {
                Some(tensor) if node.op_type.as_deref() == Some("Constant") => whole.take(TensorProto {
                    name: node.output.first().cloned(),
                    ..tensor
                }),
                _ => whole.nodes.push(node),
            }
        }
        whole.inputs.retain(|input| !whole.constants.contains_key(input));
        whole.drop_identities();
        Ok(whole)
    }

    /// Takes away nodes that do nothing.
    fn drop_identities(&mut self) {
        let mut sources: HashMap<String, String> = HashMap::new();
        for node in &mut self.nodes {
            for input in &mut node.input {
                if let Some(source) = sources.get(input) {
                    input.clone_from(source);
                }
            }
            if let ([input], [output]) = (&node.input[..], &node.output[..])
                && is_operator(node, "Identity")
                && !self.outputs.contains(output)
            {
                sources.insert(output.clone(), input.clone());
            }
        }
        self.prune();
    }

    fn take(&mut self, tensor: TensorProto) {
        match (&tensor.name, constant(&tensor)) {
            (Some(name), Some(constant)) => {
                self.constants.insert(name.clone(), constant);
            }
            _ => self.others.push(tensor),
        }
    }

    /// An ONNX file of some of the nodes (all that are needed for `outputs`), with other ends.
    pub(super) fn part(&self, inputs: &[String], outputs: &[String]) -> Option<Vec<u8>> {
        let mut wanted: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let mut places = HashSet::new();
        let mut used = HashSet::new();
        while let Some(name) = wanted.pop() {
            if used.insert(name)
                && !inputs.iter().any(|input| input == name)
                && let Some(place) = self.producer(name)
                && places.insert(place)
            {
                wanted.extend(self.nodes[place].input.iter().map(String::as_str));
            }
        }
        let value = |name: &String| ValueInfoProto {
            name: Some(name.clone()),
            ..ValueInfoProto::default()
        };
        let nodes = self.nodes.iter().enumerate();
        let constants = self.constants.iter().filter(|(name, _)| used.contains(name.as_str()));
        let others = self.others.iter();
        let graph = GraphProto {
            node: nodes
                .filter(|(place, _)| places.contains(place))
                .map(|(_, node)| node.clone())
                .collect(),
            initializer: constants
                .map(|(name, constant)| tensor(name, constant))
                .chain(
                    others
                        .filter(|tensor| tensor.name.as_deref().is_some_and(|name| used.contains(name)))
                        .cloned(),
                )
                .collect(),
            input: inputs.iter().map(value).collect(),
            output: outputs.iter().map(value).collect(),
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: Some(8),
            graph: Some(graph),
            opset_import: self.operators.clone(),
            ..ModelProto::default()
        };
        model.write_buf().ok()
    }

    /// Which of `available` the nodes need that lead to `outputs`.
    pub(super) fn needed(&self, outputs: &[String], available: &[String]) -> Vec<String> {
        let mut wanted: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let mut seen = HashSet::new();
        while let Some(name) = wanted.pop() {
            let is_at_hand = available.iter().any(|value| value == name);
            if seen.insert(name)
                && !is_at_hand
                && let Some(place) = self.producer(name)
            {
                wanted.extend(self.nodes[place].input.iter().map(String::as_str));
            }
        }
        available
            .iter()
            .filter(|value| seen.contains(value.as_str()))
            .cloned()
            .collect()
    }

    /// What a model says of itself under a key.
    pub(in crate::ocr) fn metadata(&self, key: &str) -> Option<&str> {
        let entry = self.metadata.iter().find(|entry| entry.key.as_deref() == Some(key));
        entry?.value.as_deref()
    }

    pub(super) fn constant(&self, name: &str) -> Option<&Constant> {
        self.constants.get(name)
    }

    /// The only number of a constant.
    pub(super) fn number(&self, name: &str) -> Option<f32> {
        match self.constant(name)?.values[..] {
            [number] => Some(number),
            _ => None,
        }
    }

    /// The name of a new constant.
    pub(super) fn add_constant(&mut self, dims: &[usize], values: Vec<f32>) -> String {
        let name = self.fresh();
        let dims = dims.to_vec();
        self.constants.insert(name.clone(), Constant { dims, values });
        name
    }

    /// The name of a new constant that is a shape.
    pub(super) fn add_shape(&mut self, dims: &[usize]) -> String {
        let name = self.fresh();
        let numbers = dims.iter().filter_map(|&dim| i64::try_from(dim).ok());
        self.others.push(TensorProto {
            name: Some(name.clone()),
            dims: i64::try_from(dims.len()).into_iter().collect(),
            data_type: Some(DataType::INT64),
            raw_data: Some(RefCell::new(numbers.flat_map(i64::to_le_bytes).collect())),
            ..TensorProto::default()
        });
        name
    }

    /// A name that nothing has.
    pub(super) fn fresh(&mut self) -> String {
        self.made += 1;
        format!("rewritten.{}", self.made)
    }

    /// The place of the node whose result a value is.
    pub(super) fn producer(&self, value: &str) -> Option<usize> {
        self.nodes
            .iter()
            .position(|node| node.output.iter().any(|output| output == value))
    }

    /// The place of the one node that reads a value, if nothing else does.
    pub(super) fn sole_reader(&self, value: &str) -> Option<usize> {
        let reads = |node: &NodeProto| node.input.iter().filter(|input| *input == value).count();
        let mut readers = self.nodes.iter().enumerate().filter(|(_, node)| reads(node) > 0);
        let (place, node) = readers.next()?;
        let is_sole = readers.next().is_none() && reads(node) == 1;
        (is_sole && !self.outputs.iter().any(|output| output == value)).then_some(place)
    }

    /// Takes away the nodes whose results nothing needs.
    pub(super) fn prune(&mut self) {
        let mut wanted = self.outputs.clone();
        let mut places = HashSet::new();
        while let Some(name) = wanted.pop() {
            if let Some(place) = self.producer(&name)
                && places.insert(place)
            {
                wanted.extend(self.nodes[place].input.iter().cloned());
            }
        }
        let mut place = 0;
        self.nodes.retain(|_| {
            place += 1;
            places.contains(&(place - 1))
        });
    }
}

pub(super) fn is_operator(node: &NodeProto, operator: &str) -> bool {
    node.op_type.as_deref() == Some(operator)
}

pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| is(attribute, name))
}

/// A new node without attributes.
pub(super) fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: Some(format!("{output}.{operator}")),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        op_type: Some(operator.to_owned()),
        ..NodeProto::default()
    }
}

pub(super) fn integer_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::INT),
        ..AttributeProto::default()
    }
}

pub(super) fn integer_attributes(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::INTS),
        ..AttributeProto::default()
    }
}

fn is(attribute: &AttributeProto, name: &str) -> bool {
    attribute.name.as_deref() == Some(name)
}

fn constant(tensor: &TensorProto) -> Option<Constant> {
    if tensor.data_type != Some(DataType::FLOAT) {
        return None;
    }
    let dims: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim))
        .collect::<Result<_, _>>()
        .ok()?;
    let values: Vec<f32> = match &tensor.raw_data {
        Some(raw) => {
            let raw = raw.borrow();
            let numbers = raw.as_chunks::<4>().0.iter();
            numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
        None => tensor.float_data.clone(),
    };
    (values.len() == dims.iter().product::<usize>()).then_some(Constant { dims, values })
}

fn tensor(name: &str, constant: &Constant) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: constant
            .dims
            .iter()
            .filter_map(|&dim| i64::try_from(dim).ok())
            .collect(),
        data_type: Some(DataType::FLOAT),
        raw_data: Some(RefCell::new(
            constant.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        )),
        ..TensorProto::default()
    }
}
