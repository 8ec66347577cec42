//! What a text says: the PP-OCR recognition model and its CTC output.

use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};

use super::resample::{Normalization, Region, as_f32, straighten};
use super::writing::is_wide;
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
/// Texts whose mean probability is lower are dropped: captions of 13 pixels and faint ones are read with more than 0.85.
const TEXT_THRESHOLD: f32 = 0.7;
/// The same for texts of one or two characters: in leaves, wheels and faces the model sees a letter or a digit, and is less sure
/// of it than of a real one.
const SHORT_TEXT_THRESHOLD: f32 = 0.85;

/// Between two characters the model may see a space in several steps, in each of them less probably than nothing: if it is there
/// with this probability, one is read. Where there is none it is below 0.001.
const MIN_SPACE: f32 = 0.15;
/// After a wide character, a mark is taken as wide if that is at least this part as probable as the narrow one.
const MIN_WIDE_MARK: f32 = 0.5;

/// The characters that the model knows, by class. Class 0 is CTC's blank.
#[derive(Debug)]
pub(super) struct Keys {
    characters: Vec<String>,
    /// The classes of marks that have a wide twin, each with the twin's.
    wide_twins: Vec<(usize, usize)>,
}

impl Keys {
    /// From a list with one character a line. The model has one class more, a space.
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| line.trim_end_matches('\r').to_owned());
        let characters: Vec<String> = std::iter::once(String::new())
            .chain(lines)
            .chain(std::iter::once(" ".to_owned()))
            .collect();
        let class = |character: char| characters.iter().position(|known| known.chars().eq([character]));
        let marks = ('!'..='~').filter(char::is_ascii_punctuation);
        let wide_twins = marks
            .filter_map(|mark| {
                let wide = char::from_u32(u32::from(mark) + 0xFEE0)?;
                Some((class(mark)?, class(wide)?))
            })
            .collect();
        Self { characters, wide_twins }
    }

    /// How many classes a model with these keys has.
    pub(super) fn classes(&self) -> usize {
        self.characters.len()
    }

    /// The class of the space.
    fn space(&self) -> usize {
        self.characters.len() - 1
    }

    /// The class of the wide form of a mark, if it has one.
    fn wide_twin(&self, class: usize) -> Option<usize> {
        let twin = self.wide_twins.iter().find(|(narrow, _)| *narrow == class);
        twin.map(|(_, wide)| *wide)
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

impl Glyph<'_> {
    fn is_ink(&self) -> bool {
        !self.text.trim().is_empty()
    }

    fn is_wide(&self) -> bool {
        self.text.chars().all(is_wide)
    }

    /// Whether it is a character that a space may stand beside; wide punctuation has its space within itself.
    fn may_have_space(&self) -> bool {
        self.is_ink() && (!self.is_wide() || self.text.chars().all(char::is_alphanumeric))
    }
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

    /// The mean of the characters' probabilities, spaces left out.
    pub(super) fn confidence(&self) -> f32 {
        let ink: Vec<Glyph<'a>> = self.0.iter().copied().filter(Glyph::is_ink).collect();
        mean_confidence(&ink)
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
        let mut gap = Gap::default();
        for step in 0..steps {
            let row = probabilities.slice(step);
            let row = row.data().expect("a row of the output is contiguous");
            let (mut class, probability) = row
                .iter()
                .copied()
                .enumerate()
                .fold((0, f32::MIN), |best, next| if next.1 > best.1 { next } else { best });
            let middle = (as_f32(step) + 0.5) * step_width;
            if class == 0 {
                weight = 0.0;
                gap.add(row[keys.space()], middle);
                previous = class;
                continue;
            }
            let is_after_wide = glyphs.last().is_some_and(Glyph::is_wide);
            if let Some(twin) = keys
                .wide_twin(class)
                .filter(|&twin| row[twin] >= MIN_WIDE_MARK * probability)
                && (is_after_wide || twin == previous)
            {
                class = twin;
            }
            if class == previous
                && let Some(glyph) = glyphs.last_mut()
            {
                // The middle of its steps, by their probabilities.
                glyph.center = (glyph.center * weight + middle * probability) / (weight + probability);
                glyph.confidence = glyph.confidence.max(probability);
                weight += probability;
            } else {
                let glyph = Glyph {
                    text: &keys.characters[class],
                    confidence: probability,
                    center: middle,
                };
                let is_apart = glyph.may_have_space() && glyphs.last().is_some_and(Glyph::may_have_space);
                if let Some((confidence, center)) = gap.space().filter(|_| is_apart) {
                    let text = &keys.characters[keys.space()];
                    glyphs.push(Glyph {
                        text,
                        confidence,
                        center,
                    });
                }
                glyphs.push(glyph);
                weight = probability;
            }
            gap = Gap::default();
            previous = class;
        }
        let first = glyphs.iter().position(Glyph::is_ink)?;
        let last = glyphs.iter().rposition(Glyph::is_ink)?;
        glyphs.truncate(last + 1);
        glyphs.drain(..first);
        Some(Reading(glyphs))
    }
}

/// Steps between two characters.
#[derive(Default)]
struct Gap {
    /// How probable it is that one of them is a space.
    space: f32,
    /// Their places, each times its probability of being one, and those probabilities, added up.
    places: f32,
    weight: f32,
}

impl Gap {
    fn add(&mut self, space: f32, middle: f32) {
        self.space += (1.0 - self.space) * space;
        self.places += space * middle;
        self.weight += space;
    }

    /// The space between the two, if there is one: its probability and its middle.
    fn space(&self) -> Option<(f32, f32)> {
        (self.space >= MIN_SPACE).then(|| (self.space, self.places / self.weight))
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

    /// What is read of steps that have several classes each, over blank, a, !, ！, 口, space.
    fn read(steps: &[&[(usize, f32)]]) -> String {
        let keys = Keys::parse("a\n!\n！\n口\n");
        let mut output = NdTensor::zeros([steps.len(), 6]);
        for (step, classes) in steps.iter().enumerate() {
            for &(class, probability) in *classes {
                output[[step, class]] = probability;
            }
        }
        let input = RecognitionInput {
            planes: NdTensor::zeros([1, 3, 1, steps.len() * 8]),
            used: steps.len() * 8,
        };
        let reading = input.decode(&output.view(), &keys);
        reading.map(|reading| reading.text()).unwrap_or_default()
    }

    #[test]
    fn a_space_that_several_steps_see_a_little_is_read() {
        let letter: &[(usize, f32)] = &[(1, 1.0)];
        let little = |space: f32| -> [(usize, f32); 2] { [(0, 1.0 - space), (5, space)] };
        assert_eq!(read(&[letter, &little(0.06), &little(0.12), letter]), "a a");
        assert_eq!(read(&[letter, &little(0.06), &little(0.05), letter]), "aa");
        assert_eq!(read(&[&little(0.4), letter, &little(0.4)]), "a");
        assert_eq!(read(&[letter, &little(0.4), &[(5, 1.0)], &little(0.4), letter]), "a a");
        assert_eq!(read(&[&[(3, 1.0)], &little(0.4), letter]), "！a");
    }

    #[test]
    fn a_mark_that_may_be_wide_is_wide_after_a_wide_character() {
        let mark: &[(usize, f32)] = &[(2, 0.51), (3, 0.49)];
        let narrow: &[(usize, f32)] = &[(2, 0.8), (3, 0.2)];
        assert_eq!(read(&[&[(4, 1.0)], mark]), "口！");
        assert_eq!(read(&[&[(4, 1.0)], mark, mark]), "口！");
        assert_eq!(read(&[&[(4, 1.0)], narrow]), "口!");
        assert_eq!(read(&[&[(1, 1.0)], mark]), "a!");
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
