//! PP-OCR (the models of `PaddleOCR`, Apache-2.0) on rten, which reads the ONNX files as they are.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rten::{ThreadPool, Value};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};

use super::detection::{DetectionInput, Found, joined};
use super::error::OcrError;
use super::models::OcrModels;
use super::network::{Graph, Network};
use super::placing::place;
use super::recognition::{Keys, Reading, RecognitionInput, mean_confidence};
use super::recognizer::{Extent, Line, Recognizer, TextBox};
use super::resample::Region;
use super::writing::may_be_apart;
use crate::picture::RgbPicture;

/// The key of the recognition model's metadata under which its characters are, one a line.
const KEYS_NAME: &str = "character";
/// A text that was read with less confidence may stand on its head; it is tried that way, too. Nearly all that stands upright is
/// read with more.
const UPRIGHT_CONFIDENCE: f32 = 0.9;
/// The same for text that runs up or down, which is as often the one as the other. Letters on their head are read with up to 0.9.
const SIDEWAYS_CONFIDENCE: f32 = 0.97;
/// What runs up or down and is read with less confidence is no text: in a face and in blurred columns the model reads numbers
/// with up to 0.8, and text that stands there with 0.99.
const SIDEWAYS_TEXT_CONFIDENCE: f32 = 0.9;

/// The model reads most spaces, but few between a Chinese character and a Latin word, where it was trained on texts with and
/// without. There a gap of more than this part of the line's height is one. Side bearings leave up to 0.15; a space leaves 0.18
/// and more, less the outlines.
const SPACE_GAP: f32 = 0.17;

/// An engine with PP-OCRv4 mobile's detection and PP-OCRv6 small's recognition: Chinese (simplified and traditional) and Latin,
/// one thread.
pub struct PpOcr {
    weights: Arc<Weights>,
    /// Of one thread: engines side by side do more than threads side by side in one engine.
    thread_pool: Arc<ThreadPool>,
}

/// What engines share.
struct Weights {
    detection: Network,
    recognition: Network,
    keys: Keys,
}

impl PpOcr {
    /// Loads the models.
    ///
    /// # Errors
    /// [`OcrError::ModelIo`], [`OcrError::ModelInvalid`].
    pub fn load(models: &OcrModels) -> Result<Self, OcrError> {
        let detection = parse(&models.detection)?;
        let recognition = parse(&models.recognition)?;
        let keys = recognition.metadata(KEYS_NAME).ok_or_else(|| {
            invalid(
                &models.recognition,
                &format!("it has no list of characters, {KEYS_NAME:?}"),
            )
        })?;
        let network = |graph, path| Network::new(graph).map_err(|error| invalid(path, &error));
        let keys = Keys::parse(keys);
        let engine = Self::with_weights(Arc::new(Weights {
            detection: network(detection, &models.detection)?,
            recognition: network(recognition, &models.recognition)?,
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
        let input = RecognitionInput::new(&blank, &whole);
        let output: NdTensor<f32, 3> = self.run("recognition", &self.weights.recognition, input.planes.view())?;
        let (classes, keys) = (output.size(2), self.weights.keys.classes());
        if classes == keys {
            return Ok(());
        }
        // One class is the blank, one the space.
        let problem = format!("{} characters for {classes} classes", keys - 2);
        Err(invalid(&models.recognition, &problem))
    }

    /// Where text is. What is small is looked at twice, the second time closer.
    fn detect(&self, picture: &RgbPicture, check: &dyn Fn() -> Result<(), OcrError>) -> Result<Vec<Region>, OcrError> {
        let whole = DetectionInput::new(picture);
        let mut found = self.find(&whole)?;
        for part in std::mem::take(&mut found.closer) {
            check()?;
            let closer = self.find(&whole.closer(picture, &part))?;
            found.take_closer(closer.regions);
        }
        Ok(joined(found.regions))
    }

    fn find(&self, input: &DetectionInput) -> Result<Found, OcrError> {
        let output: NdTensor<f32, 4> = self.run("detection", &self.weights.detection, input.planes.view())?;
        Ok(input.found(output.slice((0, 0))))
    }

    /// What a region says, and which way it is up.
    fn read_region(&self, picture: &RgbPicture, region: Region) -> Result<Option<(Reading<'_>, Region)>, OcrError> {
        let first = self.read_upright(picture, &region)?;
        let confidence = first.as_ref().map_or(0.0, Reading::confidence);
        let mut best = first.map(|reading| (reading, region));
        // What is upright may be read a little better on its head: "No" as "ON".
        let (sure, lead) = if region.is_sideways() {
            (SIDEWAYS_CONFIDENCE, 0.0)
        } else {
            (UPRIGHT_CONFIDENCE, 0.1)
        };
        if confidence < sure {
            let region = region.upside_down();
            let turned = self.read_upright(picture, &region)?;
            if let Some(reading) = turned.filter(|reading| reading.confidence() > confidence + lead) {
                best = Some((reading, region));
            }
        }
        let is_text = |reading: &Reading<'_>, region: &Region| {
            reading.is_text() && (!region.is_sideways() || reading.confidence() >= SIDEWAYS_TEXT_CONFIDENCE)
        };
        Ok(best.filter(|(reading, region)| is_text(reading, region)))
    }

    fn read_upright(&self, picture: &RgbPicture, region: &Region) -> Result<Option<Reading<'_>>, OcrError> {
        let input = RecognitionInput::new(picture, region);
        let output: NdTensor<f32, 3> = self.run("recognition", &self.weights.recognition, input.planes.view())?;
        Ok(input.decode(&output.slice(0), &self.weights.keys))
    }

    fn run<const N: usize>(
        &self,
        step: &'static str,
        network: &Network,
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
        let output = network.run(input, &self.thread_pool).map_err(failed)?;
        NdTensor::try_from(output).map_err(|error| failed(error.into()))
    }
}

impl Recognizer for PpOcr {
    fn recognize(&mut self, picture: &RgbPicture, cancelled: &AtomicBool) -> Result<Vec<Line>, OcrError> {
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
        let regions = self.detect(picture, &check)?;
        let mut lines = Vec::with_capacity(regions.len());
        for region in regions {
            check()?;
            if let Some((reading, region)) = self.read_region(picture, region)? {
                lines.push(line(&reading, &region, picture));
            }
        }
        Ok(in_reading_order(lines))
    }

    fn description(&self) -> String {
        "PP-OCRv4 mobile detection, PP-OCRv6 small recognition (rten)".to_owned()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OcrError> {
    fs::read(path).map_err(|source| OcrError::ModelIo {
        path: path.to_owned(),
        source,
    })
}

/// The graph of a model's file.
fn parse(path: &Path) -> Result<Graph, OcrError> {
    Graph::parse(&read(path)?).map_err(|error| invalid(path, &error))
}

fn invalid(path: &Path, problem: &dyn std::fmt::Display) -> OcrError {
    OcrError::ModelInvalid {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

fn line(reading: &Reading<'_>, region: &Region, picture: &RgbPicture) -> Line {
    let glyphs = reading.glyphs();
    let confidence = reading.confidence();
    let mut text = String::new();
    let mut end = 0;
    let boxes = place(picture, region, glyphs)
        .into_iter()
        .map(|placed| {
            let part = &glyphs[placed.glyphs.clone()];
            let word: String = part.iter().map(|glyph| glyph.text).collect();
            let was_read = placed.glyphs.start > end;
            if !text.is_empty() && (was_read || placed.gap > SPACE_GAP && may_be_apart(&text, &word)) {
                text.push(' ');
            }
            text.push_str(&word);
            end = placed.glyphs.end;
            TextBox {
                text: word,
                confidence: mean_confidence(part),
                extent: placed.extent,
            }
        })
        .collect();
    Line {
        text,
        confidence,
        boxes,
    }
}

/// Rows from the top, within a row from the left. Lines are of one row if they share more than half of the lower one's
/// height.
fn in_reading_order(lines: Vec<Line>) -> Vec<Line> {
    let mut lines: Vec<(Extent, Line)> = lines.into_iter().map(|line| (line.extent(), line)).collect();
    lines.sort_by(|(a, _), (b, _)| a.top.total_cmp(&b.top));
    let mut rows: Vec<Vec<(Extent, Line)>> = Vec::new();
    for next in lines {
        match rows.last_mut() {
            Some(row) if shares_row(&row[0].0, &next.0) => row.push(next),
            _ => rows.push(vec![next]),
        }
    }
    for row in &mut rows {
        row.sort_by(|(a, _), (b, _)| a.left.total_cmp(&b.left));
    }
    rows.into_iter().flatten().map(|(_, line)| line).collect()
}

fn shares_row(a: &Extent, b: &Extent) -> bool {
    let shared = (a.top + a.height).min(b.top + b.height) - a.top.max(b.top);
    shared > 0.5 * a.height.min(b.height)
}
