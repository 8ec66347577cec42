//! Pixels for the models: scaled, cut out, normalized, as planes of `f32` in the order blue, green, red
//! (PP-OCR was trained on pictures as `OpenCV` loads them).

use crate::picture::RgbPicture;

/// How much more a pixel stands out from its neighbours than in a mean of areas, the more the picture is scaled down. Strokes of
/// small or faint text are a pixel wide when halved, and a mean takes from them what detection needs.
const SHARPENING: f32 = 0.8;

/// What makes a byte a model's input: `byte * scale + offset`, for blue, green, red.
#[derive(Debug, Clone, Copy)]
pub(super) struct Normalization {
    scale: [f32; 3],
    offset: [f32; 3],
}

impl Normalization {
    /// From 0 to 1.
    pub(super) const UNIT: Self = Self::new([0.0; 3], [1.0; 3]);

    /// `(byte / 255 - mean) / deviation`.
    pub(super) const fn new(mean: [f32; 3], deviation: [f32; 3]) -> Self {
        let (mut scale, mut offset, mut channel) = ([0.0; 3], [0.0; 3], 0);
        while channel < 3 {
            scale[channel] = 1.0 / (255.0 * deviation[channel]);
            offset[channel] = -mean[channel] / deviation[channel];
            channel += 1;
        }
        Self { scale, offset }
    }
}

/// A parallelogram in a picture, in pixels with the origin at the picture's upper left corner: the position of its
/// own upper left corner, and the ways from there to its upper right and its lower left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Region {
    pub origin: [f32; 2],
    pub across: [f32; 2],
    pub down: [f32; 2],
}

impl Region {
    /// Its extent across and down, in pixels.
    pub(super) fn sides(&self) -> [f32; 2] {
        [self.across, self.down].map(|way| way[0].hypot(way[1]))
    }

    /// The point at these parts of its ways across and down; beyond 0 and 1, outside of it.
    pub(super) fn at(&self, across: f32, down: f32) -> [f32; 2] {
        [0, 1].map(|axis| self.origin[axis] + self.across[axis] * across + self.down[axis] * down)
    }

    /// The same part of the picture, turned by a half.
    pub(super) fn upside_down(&self) -> Self {
        Self {
            origin: self.at(1.0, 1.0),
            across: self.across.map(|way| -way),
            down: self.down.map(|way| -way),
        }
    }

    /// Whether it reads up or down rather than across.
    pub(super) fn is_sideways(&self) -> bool {
        self.across[1].abs() > self.across[0].abs()
    }

    /// Where a point is, in parts of its ways across and down, which are taken to be at a right angle.
    pub(super) fn parts_of(&self, point: [f32; 2]) -> [f32; 2] {
        let way = [0, 1].map(|axis| point[axis] - self.origin[axis]);
        [self.across, self.down]
            .map(|side| (way[0] * side[0] + way[1] * side[1]) / (side[0] * side[0] + side[1] * side[1]).max(1.0))
    }

    /// The region between these parts of its ways across and down.
    pub(super) fn part(&self, [left, right]: [f32; 2], [top, bottom]: [f32; 2]) -> Self {
        Self {
            origin: self.at(left, top),
            across: self.across.map(|way| way * (right - left)),
            down: self.down.map(|way| way * (bottom - top)),
        }
    }

    /// The upright rectangle around it, of whole pixels, which reads the same way: for a region that is hardly tilted. Its
    /// ways are along the picture's axes, exactly.
    pub(super) fn straightened(&self) -> Self {
        let corners = [
            self.at(0.0, 0.0),
            self.at(1.0, 0.0),
            self.at(0.0, 1.0),
            self.at(1.0, 1.0),
        ];
        let [horizontal, vertical] = [0, 1].map(|axis| {
            let start = corners
                .iter()
                .map(|corner| corner[axis])
                .fold(f32::MAX, f32::min)
                .floor();
            let end = corners
                .iter()
                .map(|corner| corner[axis])
                .fold(f32::MIN, f32::max)
                .ceil();
            [start, end.max(start + 1.0)]
        });
        let (main, side) = if self.is_sideways() { (1, 0) } else { (0, 1) };
        let way = |axis: usize, along: [f32; 2]| {
            let [start, end] = if axis == 0 { horizontal } else { vertical };
            let mut way = [0.0; 2];
            way[axis] = if along[axis] < 0.0 { start - end } else { end - start };
            way
        };
        let (across, down) = (way(main, self.across), way(side, self.down));
        let origin = [horizontal, vertical];
        Self {
            origin: [0, 1].map(|axis| origin[axis][usize::from(across[axis] + down[axis] < 0.0)]),
            across,
            down,
        }
    }
}

/// The whole picture scaled down to `width` x `height`, sharpened, into the upper left of planes of `plane_width` x
/// `plane_height`; the last column and row are repeated to fill the rest.
pub(super) fn shrink_whole(
    picture: &RgbPicture,
    [width, height]: [usize; 2],
    [plane_width, plane_height]: [usize; 2],
    normalization: &Normalization,
) -> Vec<f32> {
    let source_width = picture.width as usize;
    let columns = shrinking_weights(source_width, width);
    let rows = shrinking_weights(picture.height as usize, height);
    let plane = plane_width * plane_height;
    let mut planes = vec![0.0; 3 * plane];
    // Rows first: one pass over each source row adds it to a row of sums; the sums are then averaged across.
    let mut sums = vec![0.0_f32; source_width * 3];
    for (y, row_weights) in rows.iter().enumerate() {
        sums.fill(0.0);
        for (source_y, &weight) in row_weights.weights.iter().enumerate() {
            let start = (row_weights.first + source_y) * source_width * 3;
            let source = &picture.data[start..start + source_width * 3];
            for (sum, &byte) in sums.iter_mut().zip(source) {
                *sum += f32::from(byte) * weight;
            }
        }
        let (blue, rest) = planes.split_at_mut(plane);
        let (green, red) = rest.split_at_mut(plane);
        let start = y * plane_width;
        let targets = [blue, green, red].map(|plane| &mut plane[start..start + plane_width]);
        let [blue, green, red] = targets;
        for (x, column) in columns.iter().enumerate() {
            let mut rgb = [0.0; 3];
            let pixels = sums[column.first * 3..].as_chunks::<3>().0;
            for (pixel, &weight) in pixels.iter().zip(&column.weights) {
                rgb[0] += pixel[0] * weight;
                rgb[1] += pixel[1] * weight;
                rgb[2] += pixel[2] * weight;
            }
            let Normalization { scale, offset } = normalization;
            blue[x] = rgb[2] * scale[0] + offset[0];
            green[x] = rgb[1] * scale[1] + offset[1];
            red[x] = rgb[0] * scale[2] + offset[2];
        }
        for channel in [blue, green, red] {
            let last = channel[width - 1];
            channel[width..].fill(last);
        }
    }
    for plane in planes.chunks_exact_mut(plane) {
        let (filled, empty) = plane.split_at_mut(height * plane_width);
        let last = &filled[(height - 1) * plane_width..];
        for row in empty.chunks_exact_mut(plane_width) {
            row.copy_from_slice(last);
        }
    }
    planes
}

/// `region` of the picture, straightened to `width` x `height`, into the left of planes of `plane_width` columns; the
/// rest stays 0. What lies outside of the picture repeats its edge.
pub(super) fn straighten(
    picture: &RgbPicture,
    region: &Region,
    [width, height]: [usize; 2],
    plane_width: usize,
    normalization: &Normalization,
) -> Vec<f32> {
    let plane = plane_width * height;
    let mut planes = vec![0.0; 3 * plane];
    // Shrinking takes several samples a pixel and averages them, or thin strokes would drop out.
    let samples_across = samples_a_pixel(region.across, width);
    let samples_down = samples_a_pixel(region.down, height);
    let step_across = region.across.map(|way| way / as_f32(width * samples_across));
    let step_down = region.down.map(|way| way / as_f32(height * samples_down));
    let share = 1.0 / as_f32(samples_across * samples_down);
    for y in 0..height {
        for x in 0..width {
            let mut rgb = [0.0; 3];
            for sample_y in 0..samples_down {
                let down = as_f32(y * samples_down + sample_y) + 0.5;
                for sample_x in 0..samples_across {
                    let across = as_f32(x * samples_across + sample_x) + 0.5;
                    let at = [0, 1].map(|axis| {
                        // Pixel centers lie at halves.
                        region.origin[axis] + across * step_across[axis] + down * step_down[axis] - 0.5
                    });
                    let sample = between_pixels(picture, at);
                    for (sum, value) in rgb.iter_mut().zip(sample) {
                        *sum += value;
                    }
                }
            }
            let index = y * plane_width + x;
            let Normalization { scale, offset } = normalization;
            for channel in 0..3 {
                planes[channel * plane + index] = rgb[2 - channel] * share * scale[channel] + offset[channel];
            }
        }
    }
    planes
}

/// The source pixels that make one target pixel, and each one's weight (the weights add up to 1).
struct PixelWeights {
    first: usize,
    weights: Vec<f32>,
}

/// The mean of the area that each target pixel covers, sharpened: less the mean of half a target pixel on either side of it.
fn shrinking_weights(source: usize, target: usize) -> Vec<PixelWeights> {
    let sharpening = SHARPENING * (1.0 - as_f32(target) / as_f32(source));
    // In integers, with `unit` of them a source pixel: an exact split has no slivers of neighbours.
    let unit = 2 * target;
    let reach = if source == target { 0 } else { source };
    (0..target)
        .map(|index| {
            let (start, end) = (2 * index * source, 2 * (index + 1) * source);
            let (from, to) = (start.saturating_sub(reach), (end + reach).min(unit * source));
            let first = from / unit;
            let weights: Vec<f32> = (first..to.div_ceil(unit))
                .map(|pixel| {
                    let shared = |from: usize, to: usize| {
                        as_f32(to.min((pixel + 1) * unit).saturating_sub(from.max(pixel * unit))) / as_f32(source)
                    };
                    0.5 * (1.0 + 2.0 * sharpening) * shared(start, end)
                        - sharpening * (shared(from, start) + shared(end, to))
                })
                .collect();
            // At the picture's edge there is nothing on one side.
            let sum: f32 = weights.iter().sum();
            PixelWeights {
                first,
                weights: weights.into_iter().map(|weight| weight / sum).collect(),
            }
        })
        .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 1..=8"
)]
fn samples_a_pixel(way: [f32; 2], pixels: usize) -> usize {
    (way[0].hypot(way[1]) / as_f32(pixels) - 0.1).ceil().clamp(1.0, 8.0) as usize
}

/// The picture's red, green and blue at a point between pixel centers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the picture"
)]
fn between_pixels(picture: &RgbPicture, [x, y]: [f32; 2]) -> [f32; 3] {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let x = x.clamp(0.0, as_f32(width - 1));
    let y = y.clamp(0.0, as_f32(height - 1));
    let (left, top) = (x as usize, y as usize);
    let (right, bottom) = ((left + 1).min(width - 1), (top + 1).min(height - 1));
    let (part_x, part_y) = (x - as_f32(left), y - as_f32(top));
    let pixels = picture.data.as_chunks::<3>().0;
    let (upper_left, upper_right) = (pixels[top * width + left], pixels[top * width + right]);
    let (lower_left, lower_right) = (pixels[bottom * width + left], pixels[bottom * width + right]);
    std::array::from_fn(|channel| {
        let mix = |a: u8, b: u8, part: f32| f32::from(a) + (f32::from(b) - f32::from(a)) * part;
        let upper = mix(upper_left[channel], upper_right[channel], part_x);
        let lower = mix(lower_left[channel], lower_right[channel], part_x);
        upper + (lower - upper) * part_y
    })
}

/// A size or a position in pixels as a float; pictures are far below 2^24 pixels a side.
#[expect(clippy::cast_precision_loss, reason = "pixel counts, exact below 2^24")]
pub(super) fn as_f32(pixels: usize) -> f32 {
    pixels as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves bytes as they are.
    const BYTES: Normalization = Normalization {
        scale: [1.0; 3],
        offset: [0.0; 3],
    };

    /// A picture whose pixel (x, y) is (x, y, 7).
    fn ramp(width: u8, height: u8) -> RgbPicture {
        let data = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [x, y, 7]))
            .collect();
        RgbPicture {
            width: width.into(),
            height: height.into(),
            data,
        }
    }

    fn is_near(found: &[f32], expected: &[f32]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4)
    }

    #[test]
    fn halving_keeps_an_even_slope_and_repeats_the_last_row() {
        let planes = shrink_whole(&ramp(8, 8), [4, 4], [5, 5], &BYTES);
        let [blue, green, red] = [0, 1, 2].map(|plane| &planes[plane * 25..][..25]);
        assert!(is_near(blue, &[7.0; 25]), "blue comes first: {blue:?}");
        assert!(is_near(&green[5..15], &[[2.5; 5], [4.5; 5]].concat()), "{green:?}");
        assert!(is_near(&red[1..3], &[2.5, 4.5]), "{red:?}");
        assert_eq!(green[15..20], green[20..]);
        assert!(red.chunks_exact(5).all(|row| is_near(&row[3..4], &row[4..])), "{red:?}");
    }

    #[test]
    fn a_thin_line_stands_out_more_than_in_a_mean() {
        let data = [0, 0, 0, 0, 200, 0, 0, 0].map(|value| [value; 3]).concat().repeat(2);
        let picture = RgbPicture {
            width: 8,
            height: 2,
            data,
        };
        let row = &shrink_whole(&picture, [4, 1], [4, 1], &BYTES)[..4];
        assert!(row[2] > 150.0 && row[1] < 0.0 && row[0].abs() < 1e-4, "{row:?}");
        // At its own size a picture is left as it is.
        let row = &shrink_whole(&picture, [8, 2], [8, 2], &BYTES)[..8];
        assert_eq!(row, [0.0, 0.0, 0.0, 0.0, 200.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn the_shares_of_a_pixel_add_up_to_one() {
        for (source, target) in [(1080, 540), (1079, 540), (7, 7), (1000, 3), (5, 4)] {
            for weights in shrinking_weights(source, target) {
                let sum: f32 = weights.weights.iter().sum();
                assert!((sum - 1.0).abs() < 1e-5, "{source} to {target}: {sum}");
                assert!(weights.first + weights.weights.len() <= source);
            }
        }
    }

    #[test]
    fn an_upright_region_of_equal_size_is_copied() {
        let region = Region {
            origin: [1.0, 2.0],
            across: [3.0, 0.0],
            down: [0.0, 2.0],
        };
        let planes = straighten(&ramp(8, 8), &region, [3, 2], 4, &BYTES);
        assert_eq!(planes[8..16], [2.0, 2.0, 2.0, 0.0, 3.0, 3.0, 3.0, 0.0], "green is y");
        assert_eq!(planes[16..], [1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0, 0.0], "red is x");
    }

    #[test]
    fn a_turned_region_is_straightened() {
        // Reads downwards: its "across" is the picture's down.
        let region = Region {
            origin: [4.0, 0.0],
            across: [0.0, 4.0],
            down: [-4.0, 0.0],
        };
        let planes = straighten(&ramp(4, 4), &region, [4, 4], 4, &BYTES);
        assert_eq!(
            planes[32..36],
            [3.0; 4],
            "red is x: the first row is the picture's last column"
        );
        assert_eq!(planes[16..20], [0.0, 1.0, 2.0, 3.0], "green is y");
    }

    #[test]
    fn a_region_beyond_the_picture_repeats_its_edge() {
        let region = Region {
            origin: [-2.0, -2.0],
            across: [8.0, 0.0],
            down: [0.0, 8.0],
        };
        let planes = straighten(&ramp(4, 4), &region, [8, 8], 8, &BYTES);
        assert_eq!(planes[128..136], [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 3.0, 3.0]);
    }
}
