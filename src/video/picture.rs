//! From a decoded picture to the part of it that is stored: cut, turned into display orientation, full range.

use std::path::Path;
use std::sync::LazyLock;

use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;

use super::colour::Matrix;
use super::error::VideoError;
use super::facts::StreamFacts;
use super::sys::{self, Scaler};
use crate::domain::flow::CropBounds;

/// Pixels of the largest picture that is decoded: 8192x4608, 8K with some room. A frame of it takes 57 MB, and a
/// decoder keeps up to 17.
pub(super) const MAX_PIXELS: u64 = 8192 * 4608;
/// The longest side: what JPEG and libav's encoder can have is more.
const MAX_SIDE: u32 = 16384;

/// How stored pixels become displayed ones: first `transpose` (rows become columns), then the flips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Orientation {
    pub(super) transpose: bool,
    pub(super) flip_x: bool,
    pub(super) flip_y: bool,
}

impl Orientation {
    /// Of a display matrix `a b u c d v x y w`, which takes (x, y) to (ax + cy, bx + dy). Turns that are not by a
    /// right angle are taken for the nearest one: players do so, or ignore them.
    pub(super) fn of(matrix: &[i32; 9]) -> Self {
        let [a, b, _, c, d, ..] = *matrix;
        let size = |value: i32| i64::from(value).abs();
        if size(b) + size(c) > size(a) + size(d) {
            Self {
                transpose: true,
                flip_x: c < 0,
                flip_y: b < 0,
            }
        } else {
            Self {
                transpose: false,
                flip_x: a < 0,
                flip_y: d < 0,
            }
        }
    }
}

/// The sizes of a video's pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// As displayed, in pixels.
    pub(super) width: u32,
    pub(super) height: u32,
    /// As decoded, in pixels.
    stored_width: u32,
    stored_height: u32,
    /// The stored width with square pixels.
    square_width: u32,
    orientation: Orientation,
}

impl Geometry {
    pub(super) fn of(facts: &StreamFacts, path: &Path) -> Result<Self, VideoError> {
        let header = &facts.header;
        let side = |value: i32| u32::try_from(value).ok().filter(|value| *value > 0);
        let (Some(stored_width), Some(stored_height)) = (side(header.width), side(header.height)) else {
            return Err(VideoError::NotAVideo {
                path: path.to_owned(),
                detail: format!("its pictures are {}x{} pixels", header.width, header.height),
            });
        };
        let square_width = match header.pixel_aspect {
            (wide, high) if wide > 0 && high > 0 && wide != high => {
                let (wide, high) = (u64::from(wide.unsigned_abs()), u64::from(high.unsigned_abs()));
                let scaled = (u64::from(stored_width) * wide + high / 2) / high;
                u32::try_from(scaled.max(1)).unwrap_or(u32::MAX)
            }
            _ => stored_width,
        };
        let widest = stored_width.max(square_width);
        let pixels = u64::from(widest) * u64::from(stored_height);
        if pixels > MAX_PIXELS || widest > MAX_SIDE || stored_height > MAX_SIDE {
            return Err(VideoError::TooLarge {
                path: path.to_owned(),
                detail: format!(
                    "its pictures are {widest}x{stored_height} pixels, at most {MAX_PIXELS} pixels and {MAX_SIDE} a side are decoded"
                ),
            });
        }
        let orientation = facts.display_matrix.as_ref().map(Orientation::of).unwrap_or_default();
        let (width, height) = if orientation.transpose {
            (stored_height, square_width)
        } else {
            (square_width, stored_height)
        };
        Ok(Self {
            width,
            height,
            stored_width,
            stored_height,
            square_width,
            orientation,
        })
    }

    /// Pixels of a decoded picture, or of one with square pixels if that is larger.
    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.stored_width.max(self.square_width)) * u64::from(self.stored_height)
    }

    /// The whole frame, or `crop` if it lies within it.
    pub(super) fn bounds(&self, crop: Option<CropBounds>) -> Result<CropBounds, VideoError> {
        let (width, height) = (self.width, self.height);
        let bounds = crop.unwrap_or(CropBounds {
            left: 0,
            top: 0,
            right: width,
            bottom: height,
        });
        let problem = if bounds.left > bounds.right || bounds.top > bounds.bottom {
            "inverted"
        } else if bounds.left == bounds.right || bounds.top == bounds.bottom {
            "empty"
        } else if bounds.right > width || bounds.bottom > height {
            "outside the frame"
        } else {
            return Ok(bounds);
        };
        Err(VideoError::CropOutsideFrame {
            bounds,
            problem,
            width,
            height,
        })
    }
}

/// The stored rows or columns from which those of the output come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Axis {
    /// The first stored position that is needed, even.
    first: u32,
    /// How many from there, even unless the picture ends.
    count: u32,
    /// For each luma position of the output, one from `first`.
    luma: Vec<usize>,
    /// For each chroma position of the output, the two stored ones whose mean it is: with an odd offset, a chroma
    /// sample of the output lies between two.
    chroma: Vec<(usize, usize)>,
    /// The stored chroma positions that belong to the luma of the output, each once, and for each luma position which
    /// of them.
    beside: Vec<usize>,
    beside_of: Vec<usize>,
}

impl Axis {
    /// Positions `start..end` of an axis of `length` stored positions, counted from the other end if `flip`.
    fn new(start: u32, end: u32, length: u32, flip: bool) -> Self {
        let (low, high) = if flip {
            (length - end, length - start)
        } else {
            (start, end)
        };
        let first = low & !1;
        let count = (high.div_ceil(2) * 2).min(length) - first;
        let positions = (low..high).map(|at| (at - first) as usize);
        let luma: Vec<usize> = if flip {
            positions.rev().collect()
        } else {
            positions.collect()
        };
        let chroma = luma
            .chunks(2)
            .map(|pair| (pair[0] / 2, pair.last().expect("chunks are not empty") / 2))
            .collect();
        let mut beside: Vec<usize> = Vec::with_capacity(luma.len() / 2 + 1);
        let mut beside_of = Vec::with_capacity(luma.len());
        for at in luma.iter().map(|at| at / 2) {
            if beside.last() != Some(&at) {
                beside.push(at);
            }
            beside_of.push(beside.len() - 1);
        }
        Self {
            first,
            count,
            luma,
            chroma,
            beside,
            beside_of,
        }
    }
}

impl Axis {
    /// Where the positions are in order, whether the first one is the second of the two that share a chroma sample, as 1 or
    /// 0.
    fn odd_start(&self) -> Option<usize> {
        let first = *self.luma.first()?;
        (self.luma.len() == 1 || self.luma.last() > self.luma.first()).then_some(first & 1)
    }
}

/// Cuts one part out of every picture of a video.
pub(super) struct Cutter {
    geometry: Geometry,
    /// Along the stored columns and rows.
    columns: Axis,
    rows: Axis,
    width: u32,
    height: u32,
    scaler: Scaler,
    /// Of the last picture: its matrix and range, and what they take to become those of a JPEG.
    matrix: Option<((i32, bool), Option<Matrix>)>,
}

/// What the numbers of a picture need beside being moved.
#[derive(Debug, Clone, Copy)]
enum Treatment<'a> {
    Nothing,
    FullRange(&'a Range),
    Matrix(&'a Matrix),
}

impl Cutter {
    /// `bounds` lie within the frame ([`Geometry::bounds`]).
    pub(super) fn new(geometry: Geometry, bounds: CropBounds) -> Self {
        let Orientation {
            transpose,
            flip_x,
            flip_y,
        } = geometry.orientation;
        let across = (bounds.left, bounds.right, flip_x);
        let down = (bounds.top, bounds.bottom, flip_y);
        let ((left, right, flip_columns), (top, bottom, flip_rows)) =
            if transpose { (down, across) } else { (across, down) };
        Self {
            geometry,
            columns: Axis::new(left, right, geometry.square_width, flip_columns),
            rows: Axis::new(top, bottom, geometry.stored_height, flip_rows),
            width: bounds.right - bounds.left,
            height: bounds.bottom - bounds.top,
            scaler: Scaler::new(),
            matrix: None,
        }
    }

    fn matrix(&mut self, number: i32, full_range: bool) -> Option<Matrix> {
        let of = (number, full_range);
        match self.matrix {
            Some((last, matrix)) if last == of => matrix,
            _ => {
                let matrix = Matrix::new(number, full_range);
                self.matrix = Some((of, matrix));
                matrix
            }
        }
    }

    /// The part of `decoded`, as a full-range 4:2:0 picture in the colours of a JPEG.
    pub(super) fn cut(&mut self, decoded: &frame::Video) -> Result<frame::Video, VideoError> {
        let layout = sys::layout(decoded);
        let geometry = self.geometry;
        let as_stored = layout.width == geometry.stored_width && layout.height == geometry.stored_height;
        let square = geometry.square_width == geometry.stored_width;
        let mut output = frame::Video::new(Pixel::YUVJ420P, self.width, self.height);

        let planes = || {
            Some([
                sys::plane(decoded, 0)?,
                sys::plane(decoded, 1)?,
                sys::plane(decoded, 2)?,
            ])
        };
        if let (true, Some(planes)) = (as_stored && square, planes()) {
            let matrix = self.matrix(layout.matrix, layout.full_range);
            let treatment = match &matrix {
                Some(matrix) => Treatment::Matrix(matrix),
                None if layout.full_range => Treatment::Nothing,
                None => Treatment::FullRange(&FULL_RANGE),
            };
            self.copy(planes, [self.columns.first, self.rows.first], treatment, &mut output);
            return Ok(output);
        }

        // Another pixel format, size or aspect: the scaler makes the stored picture one of the usual kind first, and
        // of the part alone where no size changes. RGB gets a JPEG's matrix by that; YUV keeps its own.
        let matrix = if layout.is_rgb {
            None
        } else {
            self.matrix(layout.matrix, true)
        };
        let treatment = matrix.as_ref().map_or(Treatment::Nothing, Treatment::Matrix);
        let failed = |source| VideoError::Libav {
            step: "convert a picture",
            source,
        };
        let (columns, rows) = (&self.columns, &self.rows);
        let part = (as_stored && square)
            .then(|| sys::part(decoded, columns.first, rows.first, columns.count, rows.count))
            .flatten();
        let (usual, origin) = if let Some(part) = part {
            let mut usual = frame::Video::new(Pixel::YUVJ420P, columns.count, rows.count);
            self.scaler.run(&part, &mut usual).map_err(failed)?;
            (usual, [0, 0])
        } else {
            let mut usual = frame::Video::new(Pixel::YUVJ420P, geometry.square_width, geometry.stored_height);
            self.scaler.run(decoded, &mut usual).map_err(failed)?;
            (usual, [columns.first, rows.first])
        };
        let planes = [0, 1, 2].map(|index| (usual.data(index), usual.stride(index)));
        self.copy(planes, origin, treatment, &mut output);
        Ok(output)
    }

    /// Copies the three planes of a 4:2:0 picture; the axes count from `origin`, which is even.
    fn copy(&self, planes: [(&[u8], usize); 3], origin: [u32; 2], treatment: Treatment<'_>, output: &mut frame::Video) {
        let transpose = self.geometry.orientation.transpose;
        let same = |positions: &[usize]| positions.iter().map(|at| (*at, *at)).collect::<Vec<_>>();
        let luma = (same(&self.columns.luma), same(&self.rows.luma));
        let from = [0, 1, 2].map(|index| {
            let (bytes, stride) = planes[index];
            let [left, top] = origin.map(|at| (at / if index == 0 { 1 } else { 2 }) as usize);
            Plane {
                bytes: &bytes[top * stride + left..],
                stride,
            }
        });
        for (index, from) in from.into_iter().enumerate() {
            let (columns, rows) = match index {
                0 => (&luma.0, &luma.1),
                _ => (&self.columns.chroma, &self.rows.chroma),
            };
            let table = match treatment {
                Treatment::FullRange(range) if index == 0 => Some(&range.luma),
                Treatment::FullRange(range) => Some(&range.chroma),
                Treatment::Nothing | Treatment::Matrix(_) => None,
            };
            let target_stride = output.stride(index);
            let target = output.data_mut(index).chunks_mut(target_stride);
            let in_order = |(at, column): (usize, &(usize, usize))| *column == (at + columns[0].0, at + columns[0].0);
            let are_in_order = columns.iter().enumerate().all(in_order);
            if transpose {
                for (target, column) in target.zip(columns) {
                    from.copy_column(*column, rows, table, target);
                }
            } else {
                for (target, row) in target.zip(rows) {
                    from.copy_row(*row, columns, are_in_order, table, target);
                }
            }
        }
        if let Treatment::Matrix(matrix) = treatment {
            self.recolour(matrix, [from[1], from[2]], output);
        }
    }

    /// Takes a copied picture from its own matrix and range to those of a JPEG; `chroma` is that of the film.
    fn recolour(&self, matrix: &Matrix, chroma: [Plane<'_>; 2], output: &mut frame::Video) {
        let transpose = self.geometry.orientation.transpose;
        let (along, across) = if transpose {
            (&self.rows, &self.columns)
        } else {
            (&self.columns, &self.rows)
        };
        let mut beside = [vec![0; along.beside.len()], vec![0; along.beside.len()]];
        let mut of_chroma = vec![0; along.beside.len()];
        // Room for two of every chroma sample, also of the first and the last.
        let mut of_luma = vec![0; along.beside.len() * 2];
        let odd_start = along.odd_start();
        let mut last = None;
        let stride = output.stride(0);
        for (luma, at) in output.data_mut(0).chunks_mut(stride).zip(&across.luma) {
            // Two rows of luma have one of chroma.
            if last.replace(at / 2) != Some(at / 2) {
                for (plane, beside) in chroma.iter().zip(&mut beside) {
                    plane.gather(at / 2, &along.beside, odd_start.is_some(), transpose, beside);
                }
                matrix.corrections(&beside[0], &beside[1], &mut of_chroma);
                match odd_start {
                    Some(_) => {
                        for (pair, correction) in of_luma.chunks_exact_mut(2).zip(&of_chroma) {
                            pair.fill(*correction);
                        }
                    }
                    None => {
                        for (of_luma, beside) in of_luma.iter_mut().zip(&along.beside_of) {
                            *of_luma = of_chroma[*beside];
                        }
                    }
                }
            }
            let begins = odd_start.unwrap_or(0);
            matrix.luma(&mut luma[..along.luma.len()], &of_luma[begins..]);
        }
        let mut cb = output.data(1).to_vec();
        matrix.chroma(&mut cb, output.data_mut(2));
        output.data_mut(1).copy_from_slice(&cb);
    }
}

/// The bytes of a plane from its first needed position on.
#[derive(Clone, Copy)]
struct Plane<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl Plane<'_> {
    /// The bytes at `positions` of a row, or of a column.
    fn gather(self, line: usize, positions: &[usize], are_in_order: bool, is_column: bool, target: &mut [u8]) {
        if are_in_order && !is_column {
            let start = line * self.stride + positions[0];
            target.copy_from_slice(&self.bytes[start..start + positions.len()]);
            return;
        }
        for (target, position) in target.iter_mut().zip(positions) {
            let (row, column) = if is_column {
                (*position, line)
            } else {
                (line, *position)
            };
            *target = self.bytes[row * self.stride + column];
        }
    }

    fn copy_row(
        self,
        row: (usize, usize),
        columns: &[(usize, usize)],
        are_in_order: bool,
        table: Option<&[u8; 256]>,
        target: &mut [u8],
    ) {
        if row.0 == row.1 && are_in_order {
            let start = row.0 * self.stride + columns[0].0;
            let source = &self.bytes[start..start + columns.len()];
            match table {
                None => target[..source.len()].copy_from_slice(source),
                Some(table) => {
                    for (target, byte) in target.iter_mut().zip(source) {
                        *target = table[usize::from(*byte)];
                    }
                }
            }
            return;
        }
        for (target, column) in target.iter_mut().zip(columns) {
            *target = self.mean(row, *column, table);
        }
    }

    fn copy_column(
        self,
        column: (usize, usize),
        rows: &[(usize, usize)],
        table: Option<&[u8; 256]>,
        target: &mut [u8],
    ) {
        for (target, row) in target.iter_mut().zip(rows) {
            *target = self.mean(*row, column, table);
        }
    }

    fn mean(
        self,
        (row, other_row): (usize, usize),
        (column, other_column): (usize, usize),
        table: Option<&[u8; 256]>,
    ) -> u8 {
        let at = |row: usize, column: usize| u16::from(self.bytes[row * self.stride + column]);
        let sum = at(row, column) + at(row, other_column) + at(other_row, column) + at(other_row, other_column);
        let mean = u8::try_from((sum + 2) / 4).expect("a mean of bytes is a byte");
        table.map_or(mean, |table| table[usize::from(mean)])
    }
}

/// Limited range to full range.
#[derive(Debug)]
struct Range {
    luma: [u8; 256],
    chroma: [u8; 256],
}

/// libswscale's own arithmetic (`lumRangeToJpeg_c`, `chrRangeToJpeg_c` on 15 bits, then rounded to 8), so that the
/// bytes are those that the `ffmpeg` command gets.
static FULL_RANGE: LazyLock<Range> = LazyLock::new(|| {
    let table = |limit: i32, factor: i32, offset: i32, shift: i32| {
        std::array::from_fn(|value| {
            let wide = i32::try_from(value << 7).expect("15 bits").min(limit);
            let full = (wide * factor - offset) >> shift;
            u8::try_from(((full + 64) >> 7).clamp(0, 255)).expect("clamped to a byte")
        })
    };
    Range {
        luma: table(30189, 19077, 39_057_361, 14),
        chroma: table(30775, 4663, 9_289_992, 12),
    }
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_become_turns_and_flips() {
        let one = 1 << 16;
        let orientation = |a, b, c, d| Orientation::of(&[a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]);
        let turned = |transpose, flip_x, flip_y| Orientation {
            transpose,
            flip_x,
            flip_y,
        };
        assert_eq!(orientation(1, 0, 0, 1), turned(false, false, false));
        assert_eq!(
            orientation(0, 1, -1, 0),
            turned(true, true, false),
            "a quarter turn clockwise"
        );
        assert_eq!(orientation(-1, 0, 0, -1), turned(false, true, true));
        assert_eq!(orientation(0, -1, 1, 0), turned(true, false, true));
        assert_eq!(orientation(-1, 0, 0, 1), turned(false, true, false));
        assert_eq!(Orientation::of(&[i32::MIN; 9]), turned(false, true, true));
    }

    #[test]
    fn odd_offsets_take_the_mean_of_two_chroma_samples() {
        let axis = Axis::new(3, 7, 10, false);
        assert_eq!((axis.first, axis.count), (2, 6));
        assert_eq!(axis.luma, [1, 2, 3, 4]);
        assert_eq!(axis.chroma, [(0, 1), (1, 2)]);
        let axis = Axis::new(0, 3, 10, true);
        assert_eq!((axis.first, axis.count), (6, 4));
        assert_eq!(axis.luma, [3, 2, 1]);
        assert_eq!(axis.chroma, [(1, 1), (0, 0)]);
        let axis = Axis::new(8, 9, 9, false);
        assert_eq!(
            (axis.first, axis.count, axis.luma, axis.chroma),
            (8, 1, vec![0], vec![(0, 0)])
        );
    }

    #[test]
    fn limited_range_becomes_full_range() {
        let Range { luma, chroma } = &*FULL_RANGE;
        assert_eq!(
            [luma[0], luma[16], luma[126], luma[235], luma[255]],
            [0, 0, 128, 255, 255]
        );
        assert_eq!([chroma[16], chroma[128], chroma[240]], [0, 128, 255]);
    }
}
