//! What a text says: the PP-OCR recognition model and its CTC output.

use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};

use super::resample::{Normalization, Region, as_f32, straighten};
use crate::picture::RgbPicture;

const NORMALIZATION: Normalization = Normalization::new([0.5; 3], [0.5; 3]);
/// The height of the model's input.
const HEIGHT: usize = 48;
/// The model gives one character step for this many columns.
const COLUMNS_A_STEP: usize = 8;
/// Narrower texts are filled up to this width. Filling up to the 320 columns of the training, as others do, reads short
/// texts no better, takes longer, and finds more digits and letters where there are none.
const MIN_WIDTH: usize = 64;
/// Longer texts are squeezed: a step's cost grows with the number of steps.
const MAX_WIDTH: usize = 4096;
/// Texts whose mean probability is lower are dropped.
const TEXT_THRESHOLD: f32 = 0.5;
/// The same for texts of one or two characters: in leaves, wheels and faces the model sees a letter or a digit, and is less sure
/// of it than of a real one.
const SHORT_TEXT_THRESHOLD: f32 = 0.85;

/// The characters that the model knows, by class. Class 0 is CTC's blank.
#[derive(Debug)]
pub(super) struct Keys(Vec<String>);

impl Keys {
    /// From a list with one character a line. The model has one class more, a space.
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| line.trim_end_matches('\r').to_owned());
        Self(
            std::iter::once(String::new())
                .chain(lines)
                .chain(std::iter::once(" ".to_owned()))
                .collect(),
        )
    }

    /// How many classes a model with these keys has.
    pub(super) fn classes(&self) -> usize {
        self.0.len()
    }
}

/// One character as it was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Glyph<'a> {
    /// The character, or a space.
    pub text: &'a str,
    /// Its probability.
    pub confidence: f32,
    /// Where the model saw it, as a part of the text's width: about its middle, give or take a third of its width.
    pub center: f32,
}

/// A text as it was read; its first and last glyph are no spaces.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading<'a>(Vec<Glyph<'a>>);

impl<'a> Reading<'a> {
    /// The characters in order, at least one.
    pub(super) fn glyphs(&self) -> &[Glyph<'a>] {
        &self.0
    }

    /// The whole text.
    #[cfg(test)]
    fn text(&self) -> String {
        self.0.iter().map(|glyph| glyph.text).collect()
    }

    /// The mean of the characters' probabilities.
    pub(super) fn confidence(&self) -> f32 {
        mean_confidence(&self.0)
    }

    /// Whether it is text at all.
    pub(super) fn is_text(&self) -> bool {
        let threshold = if self.0.len() > 2 {
            TEXT_THRESHOLD
        } else {
            SHORT_TEXT_THRESHOLD
        };
        self.confidence() >= threshold
    }
}

/// The mean probability of `glyphs`; 0 without any.
pub(super) fn mean_confidence(glyphs: &[Glyph<'_>]) -> f32 {
    let sum: f32 = glyphs.iter().map(|glyph| glyph.confidence).sum();
    (sum / as_f32(glyphs.len().max(1))).clamp(0.0, 1.0)
}

/// A region of a picture as the recognition model takes it.
pub(super) struct RecognitionInput {
    /// Blue, green, red, 48 rows.
    pub planes: NdTensor<f32, 4>,
    /// The columns that show the region; what is right of them is filling.
    used: usize,
}

impl RecognitionInput {
    /// Straightens `region` into 48 rows.
    pub(super) fn new(picture: &RgbPicture, region: &Region) -> Self {
        let [across, down] = region.sides().map(|side| side.max(1.0));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let used = (as_f32(HEIGHT) * across / down).ceil().clamp(1.0, as_f32(MAX_WIDTH)) as usize;
        let width = used.next_multiple_of(COLUMNS_A_STEP).max(MIN_WIDTH);
        let planes = straighten(picture, region, [used, HEIGHT], width, &NORMALIZATION);
        let planes = NdTensor::from_data([1, 3, HEIGHT, width], planes);
        Self { planes, used }
    }

    /// What the model's output (step, class) says, if it says anything.
    ///
    /// CTC: of each step the most probable class; a class that repeats in the next step counts once, blanks separate.
    pub(super) fn decode<'a>(&self, probabilities: &NdTensorView<f32, 2>, keys: &'a Keys) -> Option<Reading<'a>> {
        let [steps, _] = probabilities.shape();
        // In parts of the region's width.
        let step_width = as_f32(self.planes.size(3)) / as_f32(steps.max(1)) / as_f32(self.used);
        let mut glyphs: Vec<Glyph<'a>> = Vec::new();
        let (mut previous, mut weight) = (0, 0.0);
        for step in 0..steps {
            let row = probabilities.slice(step);
            let row = row.data().expect("a row of the output is contiguous");
            let (class, probability) = row
                .iter()
                .copied()
                .enumerate()
                .fold((0, f32::MIN), |best, next| if next.1 > best.1 { next } else { best });
            let middle = (as_f32(step) + 0.5) * step_width;
            if class == 0 {
                weight = 0.0;
            } else if class == previous
                && let Some(glyph) = glyphs.last_mut()
            {
                // The middle of its steps, by their probabilities.
                glyph.center = (glyph.center * weight + middle * probability) / (weight + probability);
                glyph.confidence = glyph.confidence.max(probability);
                weight += probability;
            } else {
                glyphs.push(Glyph {
                    text: &keys.0[class],
                    confidence: probability,
                    center: middle,
                });
                weight = probability;
            }
            previous = class;
        }
        let is_ink = |glyph: &Glyph<'_>| !glyph.text.trim().is_empty();
        let first = glyphs.iter().position(is_ink)?;
        let last = glyphs.iter().rposition(is_ink)?;
        glyphs.truncate(last + 1);
        glyphs.drain(..first);
        Some(Reading(glyphs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output for a sequence of (class, probability) over 5 classes: blank, 口, 十, a, space.
    fn output(steps: &[(usize, f32)]) -> NdTensor<f32, 2> {
        let mut output = NdTensor::zeros([steps.len(), 5]);
        for (step, &(class, probability)) in steps.iter().enumerate() {
            output[[step, class]] = probability;
        }
        output
    }

    #[test]
    fn ctc_output_becomes_text() {
        let keys = Keys::parse("口\n十\na\n");
        assert_eq!(keys.classes(), 5);
        let check = |steps: &[(usize, f32)], expected: Option<(&str, f32)>| {
            let input = RecognitionInput {
                planes: NdTensor::zeros([1, 3, 1, steps.len() * 8]),
                used: steps.len() * 8,
            };
            let output = output(steps);
            let reading = input.decode(&output.view(), &keys);
            let found = reading.map(|reading| (reading.text(), reading.confidence()));
            let expected = expected.map(|(text, confidence)| (text.to_owned(), confidence));
            assert_eq!(found, expected, "{steps:?}");
        };
        check(&[], None);
        check(&[(0, 1.0), (0, 1.0)], None);
        check(&[(1, 1.0), (1, 0.9), (0, 1.0), (1, 0.5)], Some(("口口", 0.75)));
        check(
            &[(4, 1.0), (1, 1.0), (2, 1.0), (4, 1.0), (3, 1.0), (4, 1.0)],
            Some(("口十 a", 1.0)),
        );
        check(&[(4, 1.0)], None);
        check(&[(3, 0.25)], Some(("a", 0.25)));
    }

    #[test]
    fn a_character_stands_in_the_middle_of_its_steps() {
        let keys = Keys::parse("口\n十\na\n");
        let steps = [(0, 1.0), (1, 0.5), (1, 1.0), (0, 1.0), (2, 1.0)];
        let input = RecognitionInput {
            planes: NdTensor::zeros([1, 3, 1, 40]),
            used: 20,
        };
        let output = output(&steps);
        let reading = input.decode(&output.view(), &keys).expect("two characters");
        let centers: Vec<_> = reading.glyphs().iter().map(|glyph| glyph.center).collect();
        // The region fills the first half of the steps.
        let middle = (1.5 * 0.5 + 2.5 * 1.0) / 1.5;
        assert!((centers[0] - middle * 0.4).abs() < 1e-6, "{centers:?}");
        assert!((centers[1] - 4.5 * 0.4).abs() < 1e-6, "{centers:?}");
    }
}
