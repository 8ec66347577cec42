//! A model that is run in pieces: what rten does well, and between them what it does slowly.

use std::sync::Arc;

use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};

use super::channelwise::take_depthwise;
use super::doubling::double_at_the_end;
use super::folding::{fold_after_convolutions, fold_before_convolutions, name_hard_swish};
use super::graph::Graph;
use super::layer::{Layer, layer_number};
use super::linear::split_convolutions;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A model with one picture going in and one tensor coming out.
pub(in crate::ocr) struct Network {
    pieces: Vec<Piece>,
    last: Part,
}

/// A layer and the part of the model that makes what goes into it.
struct Piece {
    part: Part,
    layer: Layer,
    inputs: Vec<usize>,
}

/// A part of the model as rten runs it. Values have numbers: the picture is 0, then come, piece by piece, what its part makes and
/// what its layer makes.
struct Part {
    model: Model,
    inputs: Vec<(NodeId, usize)>,
    outputs: Vec<NodeId>,
}

impl Network {
    /// The network of a model's graph.
    pub(in crate::ocr) fn new(mut graph: Graph) -> Result<Self, Fault> {
        let [picture] = &graph.inputs[..] else {
            return Err(format!("it takes {} inputs instead of one", graph.inputs.len()).into());
        };
        let mut names = vec![picture.clone()];
        fold_after_convolutions(&mut graph);
        name_hard_swish(&mut graph);
        fold_before_convolutions(&mut graph);
        let mut layers = Vec::new();
        split_convolutions(&mut graph, &mut layers);
        double_at_the_end(&mut graph);
        take_depthwise(&mut graph, &mut layers);
        let mut layers: Vec<Option<Layer>> = layers.into_iter().map(Some).collect();
        let mut pieces = Vec::new();
        for node in &graph.nodes {
            let Some(layer) = layer_number(node).and_then(|number| layers.get_mut(number)?.take()) else {
                continue;
            };
            let new: Vec<String> = node
                .input
                .iter()
                .filter(|input| !names.contains(input))
                .cloned()
                .collect();
            let part = Part::new(&graph, &names, &new)?;
            names.extend(new);
            let number = |input: &String| names.iter().position(|name| name == input);
            let inputs = node.input.iter().filter_map(number).collect();
            pieces.push(Piece { part, layer, inputs });
            names.extend(node.output.iter().cloned());
        }
        let last = Part::new(&graph, &names, &graph.outputs)?;
        Ok(Self { pieces, last })
    }

    /// Runs it on one thread of the pool.
    pub(in crate::ocr) fn run(&self, picture: NdTensorView<f32, 4>, pool: &Arc<ThreadPool>) -> Result<Value, Fault> {
        let mut values = Values {
            picture,
            made: Vec::new(),
        };
        for (place, Piece { part, layer, inputs }) in self.pieces.iter().enumerate() {
            for value in part.run(&values, pool)? {
                values.made.push(Some(value.try_into()?));
            }
            let views: Vec<NdTensorView<f32, 4>> = inputs.iter().map(|&number| values.get(number)).collect();
            let output = layer.run(&views);
            values.made.push(Some(output));
            self.forget(&mut values, place + 1);
        }
        let mut outputs = self.last.run(&values, pool)?;
        outputs.pop().ok_or_else(|| "nothing comes out".into())
    }

    /// Drops what the pieces from `place` on do not need.
    fn forget(&self, values: &mut Values<'_>, place: usize) {
        let pieces = || self.pieces[place..].iter();
        let by_parts = || {
            pieces()
                .map(|piece| &piece.part)
                .chain([&self.last])
                .flat_map(|part| part.inputs.iter().map(|(_, number)| *number))
        };
        let by_layers = || pieces().flat_map(|piece| piece.inputs.iter().copied());
        for (place, value) in values.made.iter_mut().enumerate() {
            if value.is_some() && !by_parts().chain(by_layers()).any(|number| number == place + 1) {
                *value = None;
            }
        }
    }
}

/// The picture and what was made of it so far.
struct Values<'a> {
    picture: NdTensorView<'a, f32, 4>,
    made: Vec<Option<NdTensor<f32, 4>>>,
}

impl Values<'_> {
    fn get(&self, number: usize) -> NdTensorView<'_, f32, 4> {
        match number.checked_sub(1) {
            None => self.picture,
            Some(place) => self.made[place].as_ref().expect("needed, so kept").view(),
        }
    }
}

impl Part {
    /// The part of a graph that makes `outputs` of what there is.
    fn new(graph: &Graph, names: &[String], outputs: &[String]) -> Result<Self, Fault> {
        let needed = graph.needed(outputs, names);
        let file = graph.part(&needed, outputs).ok_or("a part of it can not be written")?;
        let model = ModelOptions::with_all_ops().prepack_weights(true).load(file)?;
        let number = |name: &String| names.iter().position(|other| other == name);
        let inputs = needed
            .iter()
            .map(|name| Ok((model.node_id(name)?, number(name).ok_or("an input has no number")?)))
            .collect::<Result<_, Fault>>()?;
        let outputs = outputs
            .iter()
            .map(|output| model.node_id(output))
            .collect::<Result<_, _>>()?;
        Ok(Self { model, inputs, outputs })
    }

    fn run(&self, values: &Values<'_>, pool: &Arc<ThreadPool>) -> Result<Vec<Value>, Fault> {
        if self.outputs.is_empty() {
            return Ok(Vec::new());
        }
        let inputs = self
            .inputs
            .iter()
            .map(|&(id, number)| (id, ValueOrView::from(values.get(number))));
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(pool)));
        Ok(self.model.run(inputs.collect(), &self.outputs, Some(options))?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rten::Model;

    use super::*;

    /// Numbers about as large as a normalized picture's.
    fn picture(shape: [usize; 4]) -> NdTensor<f32, 4> {
        let mut chance = fastrand::Rng::with_seed(7);
        let count: usize = shape.iter().product();
        let data: Vec<f32> = (0..count).map(|_| 4.0 * chance.f32() - 2.0).collect();
        NdTensor::from_data(shape, data)
    }

    /// The network gives what rten gives for the file as it is.
    fn check(file: &str, sizes: &[[usize; 2]], layers: usize) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/models").join(file);
        let file = std::fs::read(&path).expect("the models are there: scripts/fetch-models.sh");
        let network = Network::new(Graph::parse(&file).expect("a graph")).expect("a network");
        assert_eq!(network.pieces.len(), layers, "layers of {}", path.display());
        let model = Model::load(file).expect("a model");
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        for &[height, width] in sizes {
            let picture = picture([1, 3, height, width]);
            let values = |value: Value| -> Vec<f32> {
                let tensor = rten_tensor::Tensor::<f32>::try_from(value).expect("numbers");
                tensor.to_vec()
            };
            let expected = values(model.run_one(picture.view().into(), None).expect("rten's result"));
            let found = values(network.run(picture.view(), &pool).expect("a result"));
            assert_eq!(found.len(), expected.len());
            let differences = found
                .iter()
                .zip(&expected)
                .map(|(found, expected)| (found - expected).abs());
            let most = differences.fold(0.0, f32::max);
            assert!(most < 1e-3, "{width}x{height}: {most}");
        }
    }

    #[test]
    fn the_detection_network_gives_what_its_file_gives() {
        let sizes = [[32, 32], [64, 32], [96, 160], [160, 1184], [544, 960]];
        check("ch_PP-OCRv4_det_infer.onnx", &sizes, 19);
    }

    #[test]
    fn the_recognition_network_gives_what_its_file_gives() {
        let sizes = [[48, 64], [48, 72], [48, 328], [48, 1000]];
        check("PP-OCRv6_rec_small.onnx", &sizes, 13);
    }
}
