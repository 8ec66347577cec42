//! PP-OCR (the models of `PaddleOCR`, Apache-2.0) on rten, which reads the ONNX files as they are.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rten::{Model, ModelOptions, RunOptions, ThreadPool, Value};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};

use super::detection::DetectionInput;
use super::error::OcrError;
use super::models::OcrModels;
use super::recognition::{Keys, decode, recognition_input};
use super::recognizer::{Recognizer, TextBox};
use super::resample::Region;
use crate::picture::RgbPicture;

/// An engine with PP-OCRv4 mobile: Chinese (simplified, and many traditional characters) and Latin, one thread.
pub struct PpOcr {
    weights: Arc<Weights>,
    /// Of one thread: engines side by side do more than threads side by side in one engine.
    thread_pool: Arc<ThreadPool>,
}

/// What engines share.
struct Weights {
    detection: Model,
    recognition: Model,
    keys: Keys,
}

impl PpOcr {
    /// Loads the models.
    ///
    /// # Errors
    /// [`OcrError::ModelIo`], [`OcrError::ModelInvalid`].
    pub fn load(models: &OcrModels) -> Result<Self, OcrError> {
        let keys = read(&models.keys)?;
        let keys = String::from_utf8(keys).map_err(|_| invalid(&models.keys, &"not UTF-8"))?;
        let keys = Keys::parse(&keys);
        let detection = load_model(&models.detection)?;
        let recognition = load_model(&models.recognition)?;
        let engine = Self::with_weights(Arc::new(Weights {
            detection,
            recognition,
            keys,
        }));
        engine.check_keys(models)?;
        Ok(engine)
    }

    /// A second engine that shares the weights; the two run side by side.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::with_weights(Arc::clone(&self.weights))
    }

    fn with_weights(weights: Arc<Weights>) -> Self {
        Self {
            weights,
            thread_pool: Arc::new(ThreadPool::with_num_threads(1)),
        }
    }

    /// Keys of another model would give wrong text without any error.
    fn check_keys(&self, models: &OcrModels) -> Result<(), OcrError> {
        let blank = RgbPicture {
            width: 48,
            height: 48,
            data: vec![0; 48 * 48 * 3],
        };
        let whole = Region {
            origin: [0.0; 2],
            across: [48.0, 0.0],
            down: [0.0, 48.0],
        };
        let input = recognition_input(&blank, &whole);
        let output: NdTensor<f32, 3> = self.run("recognition", &self.weights.recognition, input.view())?;
        let (classes, keys) = (output.size(2), self.weights.keys.classes());
        if classes == keys {
            return Ok(());
        }
        // One class is the blank, one the space.
        let problem = format!("{} characters for a recognition model of {classes} classes", keys - 2);
        Err(invalid(&models.keys, &problem))
    }

    fn detect(&self, picture: &RgbPicture) -> Result<Vec<Region>, OcrError> {
        let input = DetectionInput::new(picture);
        let output: NdTensor<f32, 4> = self.run("detection", &self.weights.detection, input.planes.view())?;
        Ok(input.regions(output.slice((0, 0))))
    }

    fn read_region(&self, picture: &RgbPicture, region: &Region) -> Result<Option<(String, f32)>, OcrError> {
        let input = recognition_input(picture, region);
        let output: NdTensor<f32, 3> = self.run("recognition", &self.weights.recognition, input.view())?;
        Ok(decode(&output.slice(0), &self.weights.keys))
    }

    fn run<const N: usize>(
        &self,
        step: &'static str,
        model: &Model,
        input: NdTensorView<f32, 4>,
    ) -> Result<NdTensor<f32, N>, OcrError>
    where
        NdTensor<f32, N>: TryFrom<Value, Error: std::error::Error + Send + Sync + 'static>,
    {
        let [_, _, height, width] = input.shape();
        let failed = |source| OcrError::Inference {
            step,
            width,
            height,
            source,
        };
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.thread_pool)));
        let output = model
            .run_one(input.into(), Some(options))
            .map_err(|error| failed(error.into()))?;
        NdTensor::try_from(output).map_err(|error| failed(error.into()))
    }
}

impl Recognizer for PpOcr {
    fn recognize(&mut self, picture: &RgbPicture, cancelled: &AtomicBool) -> Result<Vec<TextBox>, OcrError> {
        let (width, height) = (picture.width as usize, picture.height as usize);
        if width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) != Some(picture.data.len()) {
            return Err(OcrError::InvalidPicture {
                width: picture.width,
                height: picture.height,
                bytes: picture.data.len(),
            });
        }
        if picture.data.is_empty() {
            return Ok(Vec::new());
        }
        let check = || {
            if cancelled.load(Ordering::Relaxed) {
                Err(OcrError::Cancelled)
            } else {
                Ok(())
            }
        };
        check()?;
        let regions = self.detect(picture)?;
        let mut boxes = Vec::with_capacity(regions.len());
        for region in &regions {
            check()?;
            if let Some((text, confidence)) = self.read_region(picture, region)? {
                boxes.push(text_box(text, confidence, region, picture));
            }
        }
        Ok(in_reading_order(boxes))
    }

    fn description(&self) -> String {
        "PP-OCRv4 mobile (rten)".to_owned()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OcrError> {
    fs::read(path).map_err(|source| OcrError::ModelIo {
        path: path.to_owned(),
        source,
    })
}

fn load_model(path: &Path) -> Result<Model, OcrError> {
    ModelOptions::with_all_ops()
        .prepack_weights(true)
        .load(read(path)?)
        .map_err(|error| invalid(path, &error))
}

fn invalid(path: &Path, problem: &dyn std::fmt::Display) -> OcrError {
    OcrError::ModelInvalid {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

/// The upright box around a region, as fractions, cut off at the picture's edges.
fn text_box(text: String, confidence: f32, region: &Region, picture: &RgbPicture) -> TextBox {
    let extent = |axis: usize, pixels: u32| {
        let (origin, across, down) = (region.origin[axis], region.across[axis], region.down[axis]);
        let start = origin + across.min(0.0) + down.min(0.0);
        let end = origin + across.max(0.0) + down.max(0.0);
        let fraction = |position: f32| (f64::from(position) / f64::from(pixels)).clamp(0.0, 1.0);
        (fraction(start), fraction(end) - fraction(start))
    };
    let (left, width) = extent(0, picture.width);
    let (top, height) = extent(1, picture.height);
    TextBox {
        text,
        confidence,
        left,
        top,
        width,
        height,
    }
}

/// Rows from the top, within a row from the left. Boxes are of one row if they share more than half of the lower
/// one's height.
fn in_reading_order(mut boxes: Vec<TextBox>) -> Vec<TextBox> {
    boxes.sort_by(|a, b| a.top.total_cmp(&b.top));
    let mut rows: Vec<Vec<TextBox>> = Vec::new();
    for next in boxes {
        match rows.last_mut() {
            Some(row) if shares_row(&row[0], &next) => row.push(next),
            _ => rows.push(vec![next]),
        }
    }
    for row in &mut rows {
        row.sort_by(|a, b| a.left.total_cmp(&b.left));
    }
    rows.into_iter().flatten().collect()
}

fn shares_row(a: &TextBox, b: &TextBox) -> bool {
    let shared = (a.top + a.height).min(b.top + b.height) - a.top.max(b.top);
    shared > 0.5 * a.height.min(b.height)
}
