//! Where text is: the PP-OCR detection model (DB, "differentiable binarization") and what makes boxes of its output.
//!
//! The model gives, for each pixel of a scaled-down picture, the probability that it lies in the shrunken core of a
//! text line. Connected pixels above a threshold are cores; a core's smallest rectangle, grown again by as much as
//! training shrinks lines (arXiv:1911.08947, section 3.5), is a text box. Thresholds are those of `RapidOCR`.

use rten_imageproc::{BoundingRect, Point, PointF, Polygon, RetrievalMode, RotatedRect, Vec2, find_contours};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};

use super::geometry::smallest_rect;
use super::resample::{Normalization, Region, as_f32, shrink_whole, straighten};
use crate::picture::RgbPicture;

/// The mean and deviation of the `ImageNet` pictures. They are those of red, green, blue, and PP-OCR applies them to
/// blue, green, red: it was trained so.
const NORMALIZATION: Normalization = Normalization::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/// The longer side of the model's input, a trade of accuracy for time: faint captions of 20 pixels in 1080p are
/// partly missed at 960; 1280 finds them and takes half as long again.
const LONGER_SIDE: usize = 960;
/// The model halves its input five times.
const SIDE_MULTIPLE: usize = 32;
/// A pixel belongs to a core above this probability.
const PIXEL_THRESHOLD: f32 = 0.3;
/// A core is text if its pixels' mean probability reaches this.
const BOX_THRESHOLD: f32 = 0.5;
/// A box grows on each side by its area times this over its perimeter. `RapidOCR` has 1.6; with a little more around it the model
/// reads the first and last characters better, with much more it reads small text worse.
const UNCLIP_RATIO: f32 = 1.7;
/// Boxes of one line are put together across a gap of less than this part of their height.
const MAX_GAP: f32 = 0.35;
/// The same for a small piece of a line: between a full-width mark and a quotation mark is nearly the space of a character.
const MAX_GAP_OF_PIECE: f32 = 0.75;
/// Cores thinner than this are noise, in pixels of the model's input.
const MIN_CORE_SIDE: f32 = 3.0;

/// Cores thinner than this, in pixels of a picture that was scaled down, are looked at once more, closer: so small, the model finds
/// their text in part or not at all.
const SMALL_CORE_SIDE: f32 = 7.0;
/// A small core is at least so many times as long as it is thick: what is shorter is hardly a line.
const SMALL_CORE_LENGTH: f32 = 3.0;
/// What is around a small core is looked at with it, in times of its thickness along its line and across: the line may go on, and is
/// twice as high.
const AROUND_SMALL_CORE: [f32; 2] = [8.0, 3.0];
/// How much larger than in the whole picture a part is looked at, where the film has so many pixels.
const CLOSER: f32 = 2.0;
/// Pixels that are looked at closer in one picture, at most: the time of the first look again.
const MOST_PIXELS_CLOSER: usize = 960 * 544;

/// A picture, or a part of one, as the detection model takes it.
pub(super) struct DetectionInput {
    /// Blue, green, red; sides are multiples of 32.
    pub planes: NdTensor<f32, 4>,
    /// The part of the planes that shows the picture, width and height; what is right of it and below is filling.
    used: [usize; 2],
    /// Where its upper left corner is, in pixels of the picture.
    origin: [f32; 2],
    /// Pixels of the picture for one pixel of the input, across and down.
    scale: [f32; 2],
}

/// What the model has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Text boxes in pixels of the picture, each turned so that its text reads across. Not in order.
    pub regions: Vec<Region>,
    /// Parts of the picture with text that is too small here.
    pub closer: Vec<Part>,
}

/// An upright part of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Part {
    /// In pixels of the picture: left and top, right and bottom.
    corners: [[f32; 2]; 2],
}

impl Part {
    /// Both in one, if they share a pixel.
    fn with(&self, other: &Self) -> Option<Self> {
        let [start, end] = self.corners;
        let [other_start, other_end] = other.corners;
        let shares = [0, 1]
            .iter()
            .all(|&axis| start[axis] < other_end[axis] && other_start[axis] < end[axis]);
        shares.then(|| Self {
            corners: [
                [0, 1].map(|axis| start[axis].min(other_start[axis])),
                [0, 1].map(|axis| end[axis].max(other_end[axis])),
            ],
        })
    }

    /// Its sides as the model's input, when one pixel of that is `scale` pixels of the picture.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the picture"
    )]
    fn input_size(&self, scale: [f32; 2]) -> [usize; 2] {
        let [start, end] = self.corners;
        [0, 1].map(|axis| (((end[axis] - start[axis]) / scale[axis]).ceil() as usize).next_multiple_of(SIDE_MULTIPLE))
    }
}

impl DetectionInput {
    /// Scales the picture (at least 1x1) down until its longer side is 960 pixels; a smaller one keeps its size.
    ///
    /// Sides become multiples of 32 by filling rather than by stretching: 1080p is halved exactly, and upright stays
    /// upright.
    pub(super) fn new(picture: &RgbPicture) -> Self {
        let size = [picture.width as usize, picture.height as usize];
        let longer = size[0].max(size[1]);
        let used = if longer <= LONGER_SIDE {
            size
        } else {
            size.map(|side| (side * LONGER_SIDE).div_ceil(longer).max(1))
        };
        let [width, height] = used.map(|side| side.next_multiple_of(SIDE_MULTIPLE));
        let planes = shrink_whole(picture, used, [width, height], &NORMALIZATION);
        let scale = [0, 1].map(|axis| as_f32(size[axis]) / as_f32(used[axis]));
        Self {
            planes: NdTensor::from_data([1, 3, height, width], planes),
            used,
            origin: [0.0; 2],
            scale,
        }
    }

    /// A part of the picture, closer than [`Self::new`] has it.
    pub(super) fn closer(&self, picture: &RgbPicture, part: &Part) -> Self {
        let scale = self.closer_scale();
        let [width, height] = part.input_size(scale);
        let region = Region {
            origin: part.corners[0],
            across: [as_f32(width) * scale[0], 0.0],
            down: [0.0, as_f32(height) * scale[1]],
        };
        let planes = straighten(picture, &region, [width, height], width, &NORMALIZATION);
        Self {
            planes: NdTensor::from_data([1, 3, height, width], planes),
            used: [width, height],
            origin: part.corners[0],
            scale,
        }
    }

    fn closer_scale(&self) -> [f32; 2] {
        self.scale.map(|scale| (scale / CLOSER).max(1.0))
    }

    /// What is in the model's output, a probability for each pixel of the input.
    pub(super) fn found(&self, probabilities: NdTensorView<f32, 2>) -> Found {
        let probabilities = probabilities.slice((..self.used[1], ..self.used[0]));
        let may_be_closer = self.scale[0] > 1.0;
        let mut found = Found::default();
        for contour in find_contours(cores(&probabilities).view(), RetrievalMode::External).iter() {
            let Some(core) = smallest_rect(contour) else {
                continue;
            };
            if may_be_closer && is_small(&core) {
                found.closer.push(self.around(&core));
            }
            if let Some(rect) = grown_core(core, &probabilities) {
                found.regions.push(reading_across(&rect, self.origin, self.scale));
            }
        }
        found.closer = self.worth_a_look(found.closer);
        found
    }

    /// The part of the picture with this core and what may belong to it.
    fn around(&self, core: &RotatedRect) -> Part {
        let thickness = core.width().min(core.height());
        let upright = core.bounding_rect();
        let (left, right) = (upright.left(), upright.right());
        let (top, bottom) = (upright.top(), upright.bottom());
        let [along, across] = AROUND_SMALL_CORE.map(|times| times * thickness);
        let (x, y) = if right - left >= bottom - top {
            (along, across)
        } else {
            (across, along)
        };
        // Not beyond the picture: filling is no text, but costs time.
        let within = |value: f32, axis: usize| value.clamp(0.0, as_f32(self.used[axis])) * self.scale[axis];
        Part {
            corners: [
                [within(left - x, 0), within(top - y, 1)],
                [within(right + x, 0), within(bottom + y, 1)],
            ],
        }
    }

    /// These parts, those that share pixels as one, the largest first, as far as the time for them goes.
    fn worth_a_look(&self, parts: Vec<Part>) -> Vec<Part> {
        let mut parts = united(parts, Part::with);
        let pixels = |part: &Part| part.input_size(self.closer_scale()).iter().product::<usize>();
        parts.sort_by_key(|part| std::cmp::Reverse(pixels(part)));
        let mut left = MOST_PIXELS_CLOSER;
        parts.retain(|part| {
            let fits = pixels(part) <= left;
            if fits {
                left -= pixels(part);
            }
            fits
        });
        parts
    }
}

impl Found {
    /// Takes what a closer look has found, in place of what was found before of the same lines.
    pub(super) fn take_closer(&mut self, closer: Vec<Region>) {
        let covers = |one: &Region, other: &Region| {
            let [across, down] = one.parts_of(other.at(0.5, 0.5));
            (0.0..1.0).contains(&across) && (0.0..1.0).contains(&down)
        };
        // Of a large line that reaches into the part, the closer look has seen a piece.
        let is_piece = |piece: &Region, whole: &Region| piece.sides()[0] < 0.8 * whole.sides()[0];
        self.regions
            .retain(|before| !closer.iter().any(|now| covers(now, before) && !is_piece(now, before)));
        let kept = self.regions.len();
        for now in closer {
            if !self.regions[..kept].iter().any(|before| covers(before, &now)) {
                self.regions.push(now);
            }
        }
    }
}

fn is_small(core: &RotatedRect) -> bool {
    let (thickness, length) = (core.width().min(core.height()), core.width().max(core.height()));
    thickness < SMALL_CORE_SIDE && length >= SMALL_CORE_LENGTH * thickness.max(MIN_CORE_SIDE)
}

/// Puts regions together that are one line, parted where it has a wide gap: a space between two scripts, a comma.
pub(super) fn joined(regions: Vec<Region>) -> Vec<Region> {
    // Either may be the piece of the other.
    united(regions, |one, other| {
        one_line(one, other).or_else(|| one_line(other, one))
    })
}

/// Puts together what belongs together, as `both` says of two, until nothing does.
fn united<T>(mut all: Vec<T>, both: impl Fn(&T, &T) -> Option<T>) -> Vec<T> {
    let mut place = 0;
    while place < all.len() {
        let found = (place + 1..all.len()).find_map(|other| Some((other, both(&all[place], &all[other])?)));
        if let Some((other, whole)) = found {
            all.swap_remove(other);
            all[place] = whole;
            // What belonged to neither may belong to the whole, also what came before.
            place = 0;
        } else {
            place += 1;
        }
    }
    all
}

/// Both regions in one, if they are of a height, in one row, and end where the other begins.
fn one_line(one: &Region, other: &Region) -> Option<Region> {
    let ([width, height], [_, other_height]) = (one.sides(), other.sides());
    let turn = one.across[0] * other.across[1] - one.across[1] * other.across[0];
    let is_parallel = turn.abs() <= 0.03 * width * other.sides()[0] && one.is_sideways() == other.is_sideways();
    let corners =
        [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]].map(|[across, down]| one.parts_of(other.at(across, down)));
    let range = |axis: usize| {
        let values = corners.map(|corner| corner[axis]);
        [
            values.into_iter().fold(f32::MAX, f32::min),
            values.into_iter().fold(f32::MIN, f32::max),
        ]
    };
    let ([left, right], [top, bottom]) = (range(0), range(1));
    let gap = (left - 1.0).max(-right) * width;
    let is_near = |max: f32| (-1.5 * height..max * height).contains(&gap);
    let is_alike =
        (0.75..1.34).contains(&(other_height / height.max(1.0))) && (f32::midpoint(top, bottom) - 0.5).abs() < 0.15;
    // A quotation mark, a stroke: smaller than the line that it stands in.
    let is_piece =
        width > height && right - left < height / width && top > -0.15 && bottom < 1.15 && bottom - top > 0.25;
    (is_near(MAX_GAP) && is_parallel && is_alike || is_near(MAX_GAP_OF_PIECE) && is_piece)
        .then(|| one.part([left.min(0.0), right.max(1.0)], [top.min(0.0), bottom.max(1.0)]))
}

/// The pixels of cores, grown by one to the right and down: joins cores that touch by a corner, and makes the last
/// pixel's index the position of its far edge.
fn cores(probabilities: &NdTensorView<f32, 2>) -> NdTensor<bool, 2> {
    let [height, width] = probabilities.shape();
    let mut mask = vec![false; width * height];
    for y in 0..height {
        for x in 0..width {
            if probabilities[[y, x]] > PIXEL_THRESHOLD {
                for below in [y, y + 1] {
                    for right in [x, x + 1] {
                        if below < height && right < width {
                            mask[below * width + right] = true;
                        }
                    }
                }
            }
        }
    }
    NdTensor::from_data([height, width], mask)
}

/// The text box of a core, in pixels of the input, or nothing if the core is too small or too improbable.
fn grown_core(core: RotatedRect, probabilities: &NdTensorView<f32, 2>) -> Option<RotatedRect> {
    // Tilted by nothing or by a part of a quarter turn: "down" of the box is what is nearest to the picture's down.
    let core = core.orient_towards(Vec2::from_xy(0.0, 1.0));
    let (width, height) = (core.width(), core.height());
    if width.min(height) < MIN_CORE_SIDE || mean_probability(&core, probabilities) < BOX_THRESHOLD {
        return None;
    }
    let distance = width * height * UNCLIP_RATIO / (2.0 * (width + height));
    Some(core.expanded(2.0 * distance, 2.0 * distance))
}

fn mean_probability(rect: &RotatedRect, probabilities: &NdTensorView<f32, 2>) -> f32 {
    let [height, width] = probabilities.shape();
    let corners = rect.corners().map(|corner| {
        #[expect(clippy::cast_possible_truncation, reason = "a position in the input")]
        Point::from_yx(corner.y.round() as i32, corner.x.round() as i32)
    });
    let (mut sum, mut count) = (0.0, 0_usize);
    for pixel in Polygon::new(corners.as_slice()).fill_iter() {
        if let (Ok(y), Ok(x)) = (usize::try_from(pixel.y), usize::try_from(pixel.x))
            && y < height
            && x < width
        {
            sum += probabilities[[y, x]];
            count += 1;
        }
    }
    if count == 0 { 0.0 } else { sum / as_f32(count) }
}

/// The box in pixels of the picture. A box that stands upright is a column of text, or text turned by a quarter: it
/// reads downwards.
fn reading_across(rect: &RotatedRect, origin: [f32; 2], scale: [f32; 2]) -> Region {
    let scaled = |point: PointF| [origin[0] + point.x * scale[0], origin[1] + point.y * scale[1]];
    let [upper_left, upper_right, _, lower_left] = rect.corners().map(scaled);
    let way = |from: [f32; 2], to: [f32; 2]| [to[0] - from[0], to[1] - from[1]];
    if rect.height() >= 1.5 * rect.width() {
        let down = way(upper_right, upper_left);
        return Region {
            origin: upper_right,
            across: way(upper_left, lower_left),
            down,
        };
    }
    Region {
        origin: upper_left,
        across: way(upper_left, upper_right),
        down: way(upper_left, lower_left),
    }
}
