//! What a text says: the PP-OCR recognition model (SVTR-LCNet) and its CTC output.

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

/// The characters that the model knows, by class. Class 0 is CTC's blank.
#[derive(Debug)]
pub(super) struct Keys(Vec<String>);

impl Keys {
    /// From a file with one character a line. The model has one class more, a space.
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

/// A region of a picture as the recognition model takes it: blue, green, red, 48 rows.
pub(super) fn recognition_input(picture: &RgbPicture, region: &Region) -> NdTensor<f32, 4> {
    let [across, down] = [region.across, region.down].map(|way| way[0].hypot(way[1]).max(1.0));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let width = (as_f32(HEIGHT) * across / down).ceil().clamp(1.0, as_f32(MAX_WIDTH)) as usize;
    let plane_width = width.next_multiple_of(COLUMNS_A_STEP).max(MIN_WIDTH);
    let planes = straighten(picture, region, [width, HEIGHT], plane_width, &NORMALIZATION);
    NdTensor::from_data([1, 3, HEIGHT, plane_width], planes)
}

/// The text and its confidence from the model's output (step, class), if it is text at all.
///
/// CTC: of each step the most probable class; a class that repeats in the next step counts once, blanks separate.
pub(super) fn decode(probabilities: &NdTensorView<f32, 2>, keys: &Keys) -> Option<(String, f32)> {
    let [steps, _] = probabilities.shape();
    let mut text = String::new();
    let (mut sum, mut characters, mut previous) = (0.0, 0_usize, 0);
    for step in 0..steps {
        let row = probabilities.slice(step);
        let row = row.data().expect("a row of the output is contiguous");
        let (class, probability) = row
            .iter()
            .copied()
            .enumerate()
            .fold((0, f32::MIN), |best, next| if next.1 > best.1 { next } else { best });
        if class != 0 && class != previous {
            text.push_str(&keys.0[class]);
            sum += probability;
            characters += 1;
        }
        previous = class;
    }
    let text = text.trim();
    let confidence = if characters == 0 {
        0.0
    } else {
        (sum / as_f32(characters)).clamp(0.0, 1.0)
    };
    (!text.is_empty() && confidence >= TEXT_THRESHOLD).then(|| (text.to_owned(), confidence))
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
            let decoded = decode(&output(steps).view(), &keys);
            assert_eq!(
                decoded,
                expected.map(|(text, confidence)| (text.to_owned(), confidence)),
                "{steps:?}"
            );
        };
        check(&[], None);
        check(&[(0, 1.0), (0, 1.0)], None);
        check(&[(1, 1.0), (1, 0.9), (0, 1.0), (1, 0.5)], Some(("口口", 0.75)));
        check(
            &[(1, 1.0), (2, 1.0), (4, 1.0), (3, 1.0), (4, 1.0)],
            Some(("口十 a", 1.0)),
        );
        check(&[(4, 1.0)], None);
        check(&[(3, 0.25)], None);
    }
}
