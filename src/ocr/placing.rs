//! Where the words and characters of a line stand: from the steps in which the model saw them, and from the ink.
//!
//! The model's steps are a third of a character wide and drift, so they say which character is where but not where it ends.
//! What says that are the edges in the picture: those of glyphs are as strong as the line's own, with little between glyphs.
//! Wide characters stand at equal distances, which is found from all of them together.

use std::ops::Range;

use super::recognition::Glyph;
use super::recognizer::Extent;
use super::resample::{Normalization, Region, as_f32, straighten};
use super::writing::{is_wide, parts};
use crate::picture::RgbPicture;

/// A line counts as upright if from its start to its end it rises by less than this part of its height.
const UPRIGHT_RISE: f32 = 0.35;
/// Higher lines are looked at scaled down to this, in pixels.
const MAX_ROWS: f32 = 96.0;
/// What is looked at beside a region, in parts of its height.
const MARGIN_ACROSS: f32 = 0.5;
const MARGIN_DOWN: f32 = 0.25;
/// An outline has two edges: one is at least this strong, measured by the line's strongest, and is where text begins to
/// differ from what is behind it; the other is its glyphs' own. A box runs between the two.
const FAINT_EDGE: f32 = 0.35;
const CLEAR_EDGE: f32 = 0.7;
/// Where there is no ink to see, a box has this much of a region's height cut off above and below.
const PADDING: f32 = 0.12;

/// A distance of characters that is so near to whole pixels was measured a little wrongly.
const NEARLY_WHOLE: f32 = 0.25;

/// A word or a character of a line and where it stands.
pub(super) struct Placed {
    /// Its glyphs.
    pub glyphs: Range<usize>,
    /// Its upright box, in parts of the picture.
    pub extent: Extent,
    /// From the end of the one before it, in parts of the line's height.
    pub gap: f32,
}

/// The boxes of a line that was read in `region`, one for each part of its `glyphs`, as [`parts`] has them.
pub(super) fn place(picture: &RgbPicture, region: &Region, glyphs: &[Glyph<'_>]) -> Vec<Placed> {
    let [across, down] = region.sides();
    let rise = region.across[0].abs().min(region.across[1].abs());
    let straight = if rise < UPRIGHT_RISE * down {
        region.straightened()
    } else {
        *region
    };
    // The glyphs' places were measured in the region as it was read.
    let [start, _] = straight.parts_of(region.origin);
    let length = across / straight.sides()[0];
    let strip = Strip::new(picture, &straight);
    let line = Typeset::new(glyphs, |center| strip.column(start + center * length));
    let faint = strip.edges(&line, FAINT_EDGE);
    let clear = strip.edges(&line, CLEAR_EDGE);
    let [top, bottom] = mean(strip.rows(&line, &faint), strip.rows(&line, &clear));
    let cells = line.cells(&strip, &faint, bottom - top);
    let mut spans: Vec<[f32; 2]> = cells
        .iter()
        .map(|cell| mean(faint.within(cell, &faint), clear.within(cell, &faint)))
        .collect();
    let gaps: Vec<f32> = std::iter::once(0.0)
        .chain(spans.windows(2).map(|pair| pair[1][0] - pair[0][1]))
        .collect();
    line.widen_to_squares(&cells, &mut spans);
    let parts = cells.into_iter().zip(spans).zip(gaps);
    parts
        .map(|((cell, span), gap)| {
            let part = straight.part(
                span.map(|column| strip.across(column)),
                [top, bottom].map(|row| strip.down(row)),
            );
            Placed {
                glyphs: cell.glyphs,
                extent: upright(&part, picture),
                gap: gap / (bottom - top).max(1.0),
            }
        })
        .collect()
}

fn mean(one: [f32; 2], other: [f32; 2]) -> [f32; 2] {
    [f32::midpoint(one[0], other[0]), f32::midpoint(one[1], other[1])]
}

/// The upright box around a region, as parts of the picture, cut off at its edges.
fn upright(region: &Region, picture: &RgbPicture) -> Extent {
    let extent = |axis: usize, pixels: u32| {
        let (origin, across, down) = (region.origin[axis], region.across[axis], region.down[axis]);
        let start = origin + across.min(0.0) + down.min(0.0);
        let end = origin + across.max(0.0) + down.max(0.0);
        let fraction = |position: f32| (f64::from(position) / f64::from(pixels)).clamp(0.0, 1.0);
        (fraction(start), fraction(end) - fraction(start))
    };
    let (left, width) = extent(0, picture.width);
    let (top, height) = extent(1, picture.height);
    Extent {
        left,
        top,
        width,
        height,
    }
}

/// A line of glyphs in columns of a strip.
struct Typeset<'a> {
    glyphs: &'a [Glyph<'a>],
    /// The middle of each glyph.
    centers: Vec<f32>,
}

/// The columns that belong to one part of a line: from where to where it may reach, and the middle of its first and its last
/// glyph.
struct Cell {
    glyphs: Range<usize>,
    reach: [f32; 2],
    middles: [f32; 2],
    /// Where a part of it may be missing and more of it still follow, in columns.
    gap: f32,
}

impl<'a> Typeset<'a> {
    fn new(glyphs: &'a [Glyph<'a>], column: impl Fn(f32) -> f32) -> Self {
        let mut line = Self {
            glyphs,
            centers: glyphs.iter().map(|glyph| column(glyph.center)).collect(),
        };
        line.space_evenly();
        line
    }

    fn is_wide(&self, place: usize) -> bool {
        self.glyphs[place].text.chars().next().is_some_and(is_wide)
    }

    /// Puts the middles of wide characters that follow one another at equal distances.
    fn space_evenly(&mut self) {
        for run in self.wide_runs() {
            let places = run.clone().map(|place| (as_f32(place), self.centers[place]));
            if let Some([first, pitch]) = even_spacing(&places.collect::<Vec<_>>()) {
                for place in run {
                    self.centers[place] = first + pitch * as_f32(place);
                }
            }
        }
    }

    /// Where wide characters follow one another.
    fn wide_runs(&self) -> Vec<Range<usize>> {
        let places: Vec<usize> = (0..self.glyphs.len()).filter(|&place| self.is_wide(place)).collect();
        let runs = places.chunk_by(|before, after| before + 1 == *after);
        runs.map(|run| run[0]..run[run.len() - 1] + 1).collect()
    }

    /// Gives Chinese and Japanese characters that stand at equal distances the squares that they stand in, of whole pixels and
    /// side by side: the web app looks for the columns where most boxes begin and end, which are to be those of lines, not
    /// those of the ink within each square. Punctuation keeps to its ink.
    fn widen_to_squares(&self, cells: &[Cell], spans: &mut [[f32; 2]]) {
        for run in self.wide_runs() {
            let is_letter = |place: usize| self.glyphs[place].text.chars().all(char::is_alphanumeric);
            let letters: Vec<usize> = (0..cells.len())
                .filter(|&cell| run.contains(&cells[cell].glyphs.start) && is_letter(cells[cell].glyphs.start))
                .collect();
            let middle = |&cell: &usize| {
                let [left, right] = spans[cell];
                (as_f32(cells[cell].glyphs.start), f32::midpoint(left, right))
            };
            let Some([first, pitch]) = even_spacing(&letters.iter().map(middle).collect::<Vec<_>>()) else {
                continue;
            };
            // Of characters that are set apart the squares do not touch.
            let widest = letters
                .iter()
                .map(|&cell| spans[cell][1] - spans[cell][0])
                .fold(0.0, f32::max);
            if pitch > 1.15 * widest {
                continue;
            }
            let [first, pitch] = whole_pitch([first, pitch], as_f32(run.start + run.end - 1) / 2.0);
            for cell in letters {
                let middle = first + pitch * as_f32(cells[cell].glyphs.start);
                // A quarter of a pixel within, so that neither end is rounded into the next one.
                spans[cell] = [
                    (middle - pitch / 2.0).round() + 0.25,
                    (middle + pitch / 2.0).round() - 0.25,
                ];
            }
        }
    }

    /// The columns of each part.
    fn cells(&self, strip: &Strip, edges: &Edges, height: f32) -> Vec<Cell> {
        let texts: Vec<&str> = self.glyphs.iter().map(|glyph| glyph.text).collect();
        let mut cells: Vec<Cell> = parts(&texts)
            .into_iter()
            .map(|glyphs| {
                let middles = [self.centers[glyphs.start], self.centers[glyphs.end - 1]];
                // A wide character is about as wide as high; so may be the first and the last of a word.
                let half = if self.is_wide(glyphs.start) { 0.6 } else { 0.8 } * height;
                let reach = [middles[0] - half, middles[1] + half];
                let gap = if self.is_wide(glyphs.start) {
                    height
                } else {
                    0.3 * height
                };
                Cell {
                    glyphs,
                    reach,
                    middles,
                    gap,
                }
            })
            .collect();
        for next in 1..cells.len() {
            let (before, after) = (&cells[next - 1], &cells[next]);
            let between = [before.middles[1], after.middles[0]];
            let expected = self.seam(before, after);
            let cut = edges.emptiest(between, expected, height);
            cells[next - 1].reach[1] = cut;
            cells[next].reach[0] = cut;
        }
        for cell in &mut cells {
            cell.reach = cell.reach.map(|column| column.clamp(0.0, as_f32(strip.width)));
        }
        cells
    }

    /// Where one part should end and the next begin, if all glyphs were of their usual width.
    fn seam(&self, before: &Cell, after: &Cell) -> f32 {
        let spaces = before.glyphs.end..after.glyphs.start;
        if !spaces.is_empty() {
            let sum: f32 = self.centers[spaces.clone()].iter().sum();
            return sum / as_f32(spaces.len());
        }
        let [left, right] = [before.middles[1], after.middles[0]];
        let share = match [self.is_wide(before.glyphs.end - 1), self.is_wide(after.glyphs.start)] {
            [true, false] => 2.0 / 3.0,
            [false, true] => 1.0 / 3.0,
            _ => 0.5,
        };
        left + (right - left) * share
    }
}

/// The start and the distance of places that are about evenly spaced, each given with its number; three at least, or nothing can be
/// told.
fn even_spacing(places: &[(f32, f32)]) -> Option<[f32; 2]> {
    let count = places.len();
    if count < 3 {
        return None;
    }
    // Pairs that are far apart say most of the distance.
    let span = count.div_ceil(2);
    let slope = |end: usize| (places[end].1 - places[end - span].1) / (places[end].0 - places[end - span].0);
    let pitch = median((span..count).map(slope))?;
    let start = median(places.iter().map(|(number, at)| at - pitch * number))?;
    let is_even = |(number, at): &(f32, f32)| (at - start - pitch * number).abs() < 0.45 * pitch;
    places.iter().all(is_even).then_some([start, pitch])
}

/// A spacing of whole pixels if it is nearly that, as it is where a font's size is: lines of one length then end in as few columns
/// as they begin in. The place with the number `middle` stays.
fn whole_pitch([first, pitch]: [f32; 2], middle: f32) -> [f32; 2] {
    let whole = pitch.round();
    if (pitch - whole).abs() > NEARLY_WHOLE {
        return [first, pitch];
    }
    [first + (pitch - whole) * middle, whole]
}

fn median(values: impl Iterator<Item = f32>) -> Option<f32> {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) {
        f32::midpoint(values[middle - 1], upper)
    } else {
        upper
    })
}

/// A region with a margin around it, straightened: how strongly each pixel differs from its left and its upper neighbour.
struct Strip {
    width: usize,
    height: usize,
    /// Columns and rows before the region.
    margin: [f32; 2],
    /// Columns and rows of the region.
    size: [f32; 2],
    /// From a pixel's left neighbour to it; nothing in the first column.
    leftward: Vec<f32>,
    /// From a pixel's upper neighbour to it; nothing in the first row.
    upward: Vec<f32>,
}

impl Strip {
    fn new(picture: &RgbPicture, region: &Region) -> Self {
        let sides = region.sides().map(|side| side.max(1.0));
        let scale = (MAX_ROWS / sides[1]).min(1.0);
        let size = sides.map(|side| (side * scale).round().max(1.0));
        let margin = [(MARGIN_ACROSS * size[1]).ceil(), (MARGIN_DOWN * size[1]).ceil()];
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a size in pixels, positive"
        )]
        let [width, height] = [0, 1].map(|axis| (size[axis] + 2.0 * margin[axis]) as usize);
        let around = [0, 1].map(|axis| [-margin[axis] / size[axis], 1.0 + margin[axis] / size[axis]]);
        let region = region.part(around[0], around[1]);
        let planes = straighten(picture, &region, [width, height], width, &Normalization::UNIT);
        let plane = width * height;
        let difference = |one: usize, other: usize| {
            (0..3)
                .map(|channel| (planes[channel * plane + one] - planes[channel * plane + other]).abs())
                .fold(0.0, f32::max)
        };
        let (mut leftward, mut upward) = (vec![0.0; plane], vec![0.0; plane]);
        for y in 0..height {
            for x in 0..width {
                let pixel = y * width + x;
                leftward[pixel] = edge(x, width, &|at, from| difference(y * width + at, y * width + from));
                upward[pixel] = edge(y, height, &|at, from| difference(at * width + x, from * width + x));
            }
        }
        Self {
            width,
            height,
            margin,
            size,
            leftward,
            upward,
        }
    }

    /// The column at a part of the region's way across, and back.
    fn column(&self, part: f32) -> f32 {
        self.margin[0] + part * self.size[0]
    }

    fn across(&self, column: f32) -> f32 {
        (column - self.margin[0]) / self.size[0]
    }

    fn down(&self, row: f32) -> f32 {
        (row - self.margin[1]) / self.size[1]
    }

    /// The rows of the region itself.
    fn region_rows(&self) -> Range<usize> {
        place_of(self.margin[1])..place_of(self.margin[1] + self.size[1]).min(self.height)
    }

    /// The columns around a place, up to `reach` away.
    fn columns_around(&self, column: f32, reach: f32) -> Range<usize> {
        let end = place_of(column + reach).saturating_add(1).min(self.width);
        place_of(column - reach).min(end)..end
    }

    /// The edges that are at least `share` as strong as the line's own usually are.
    fn edges(&self, line: &Typeset<'_>, share: f32) -> Edges {
        let rows = self.region_rows();
        let reach = 0.25 * self.size[1];
        let strongest = |center: f32| {
            let columns = self.columns_around(center, reach);
            let pixels = rows
                .clone()
                .flat_map(|y| columns.clone().map(move |x| y * self.width + x));
            pixels
                .map(|pixel| self.leftward[pixel].max(self.upward[pixel]))
                .fold(0.0, f32::max)
        };
        let centers = line.centers.iter().zip(line.glyphs);
        let inked = centers.filter(|(_, glyph)| !glyph.text.trim().is_empty());
        let usual = median(inked.map(|(&center, _)| strongest(center))).unwrap_or(0.0);
        // Below a hundredth there is nothing to see in eight bits.
        Edges::new(self, (usual * share).max(0.01), line)
    }

    /// The rows that the line's ink reaches.
    fn rows(&self, line: &Typeset<'_>, edges: &Edges) -> [f32; 2] {
        let region = self.region_rows();
        let usual = [PADDING, 1.0 - PADDING].map(|part| self.margin[1] + part * self.size[1]);
        let needed = if line.glyphs.len() > 2 { 2 } else { 1 };
        let has_ink = |row: usize| edges.row_ink[row] >= needed;
        let middle = region.start.midpoint(region.end);
        let nearest = |distance: &usize| {
            let near = [middle.checked_sub(*distance), Some(middle + *distance)];
            near.into_iter()
                .flatten()
                .find(|&row| row < self.height && has_ink(row))
        };
        let Some(start) = (0..region.len().div_ceil(2)).find_map(|distance| nearest(&distance)) else {
            return usual;
        };
        // Within the region strokes may be apart, as in 二; beyond it, the next row without ink is the end.
        let gap = 3 * region.len() / 10;
        let reach = |rows: &mut dyn Iterator<Item = usize>| {
            let (mut last, mut empty) = (start, 0);
            for row in rows {
                if has_ink(row) {
                    (last, empty) = (row, 0);
                } else {
                    empty += 1;
                    if empty > gap || !region.contains(&row) {
                        break;
                    }
                }
            }
            last
        };
        let (first, last) = (reach(&mut (0..start).rev()), reach(&mut (start..self.height)));
        // Ink far beyond the region is no text of this line.
        let beyond = place_of(0.12 * self.size[1]);
        let top = if first + beyond < region.start {
            usual[0]
        } else {
            let border = (first..=last).find(|&row| edges.row_borders[row] >= needed);
            as_f32(border.unwrap_or(first))
        };
        let bottom = if last >= region.end + beyond {
            usual[1]
        } else {
            let border = (first..(last + 2).min(self.height)).rfind(|&row| edges.row_borders[row] >= needed);
            as_f32(border.unwrap_or(last + 1))
        };
        if bottom > top { [top, bottom] } else { usual }
    }
}

/// How strong the edge before a pixel of a row (or a column) is; `difference` is that of two of its pixels.
///
/// An edge may be spread over two steps, as those of smoothed glyphs are: the stronger one then counts for both.
fn edge(at: usize, length: usize, difference: &dyn Fn(usize, usize) -> f32) -> f32 {
    let Some(before) = at.checked_sub(1) else { return 0.0 };
    let step = difference(at, before);
    let earlier = before
        .checked_sub(1)
        .map(|from| (difference(before, from), difference(at, from)));
    let later = (at + 1 < length).then(|| (difference(at + 1, at), difference(at + 1, before)));
    let neighbours = || earlier.iter().chain(&later);
    if neighbours().any(|(other_step, _)| *other_step > step) {
        return step;
    }
    neighbours().map(|(_, both)| *both).fold(step, f32::max)
}

/// Where a strip's edges are that are strong enough.
struct Edges {
    /// Of each row of the strip, how many columns of the line have an edge at it.
    row_ink: Vec<usize>,
    /// Of each row, how many columns of the line have an edge above it.
    row_borders: Vec<usize>,
    /// Of each column, how many of the region's rows have an edge at it.
    column_ink: Vec<usize>,
    /// Of each column, how many of the region's rows have an edge left of it.
    column_borders: Vec<usize>,
}

impl Edges {
    fn new(strip: &Strip, threshold: f32, line: &Typeset<'_>) -> Self {
        let (width, height) = (strip.width, strip.height);
        let half = 0.4 * strip.size[1];
        let ends = [line.centers.first(), line.centers.last()].map(|end| end.copied().unwrap_or(0.0));
        let columns = place_of(ends[0].min(ends[1]) - half)..place_of(ends[0].max(ends[1]) + half).min(width);
        let rows = strip.region_rows();
        let mut edges = Self {
            row_ink: vec![0; height],
            row_borders: vec![0; height],
            column_ink: vec![0; width],
            column_borders: vec![0; width],
        };
        let is_edge = |map: &[f32], x: usize, y: usize| x < width && y < height && map[y * width + x] >= threshold;
        for y in 0..height {
            for x in 0..width {
                let [left, upper] = [is_edge(&strip.leftward, x, y), is_edge(&strip.upward, x, y)];
                let has_ink = left || upper || is_edge(&strip.leftward, x + 1, y) || is_edge(&strip.upward, x, y + 1);
                if columns.contains(&x) {
                    edges.row_ink[y] += usize::from(left || is_edge(&strip.leftward, x + 1, y) || upper);
                    edges.row_borders[y] += usize::from(upper);
                }
                if rows.contains(&y) {
                    edges.column_ink[x] += usize::from(has_ink);
                    edges.column_borders[x] += usize::from(left);
                }
            }
        }
        edges
    }

    /// The column between two others with the least ink, best near `expected`.
    fn emptiest(&self, [from, to]: [f32; 2], expected: f32, height: f32) -> f32 {
        let height = height.max(1.0);
        let cost = |column: usize| {
            let away = (as_f32(column) + 0.5 - expected) / height;
            as_f32(self.column_ink[column]) / height + 2.0 * away * away
        };
        let columns = place_of(from)..place_of(to).saturating_add(1).min(self.column_ink.len());
        let best = columns.min_by(|&one, &other| cost(one).total_cmp(&cost(other)));
        best.map_or(expected, |column| as_f32(column) + 0.5)
    }

    /// From where to where the ink of a cell reaches; `ink` says where there is any.
    fn within(&self, cell: &Cell, ink: &Edges) -> [f32; 2] {
        let [first, last] = [place_of(cell.reach[0].ceil()), place_of(cell.reach[1])];
        let has_border = |column: &usize| self.column_borders.get(*column).is_some_and(|&count| count > 0);
        let middles = cell.middles.map(place_of);
        // Outwards from the middle of the first glyph and of the last, up to a gap.
        let reach = |columns: &mut dyn Iterator<Item = usize>, middle: usize| {
            let (mut end, mut empty) = (None, 0.0);
            for column in columns {
                if has_border(&column) {
                    end = Some(column);
                }
                let is_empty = ink.column_ink.get(column).is_none_or(|&rows| rows == 0);
                empty = if is_empty { empty + 1.0 } else { 0.0 };
                if empty > cell.gap && column.abs_diff(middle) > 2 {
                    break;
                }
            }
            end
        };
        let left = reach(&mut (first..=middles[0]).rev(), middles[0]);
        let right = reach(&mut (middles[1]..=last), middles[1]);
        // Of a glyph that is left or right of its middle as a whole, the other end is its inner one.
        let left = left.or_else(|| (middles[0]..=last).find(has_border));
        let right = right.or_else(|| (first..=middles[1]).rfind(has_border));
        match [left, right] {
            [Some(left), Some(right)] if right > left => [as_f32(left), as_f32(right)],
            _ => cell.reach,
        }
    }
}

/// The pixel at a place; the first one for what lies before it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a picture, cut off at 0"
)]
fn place_of(position: f32) -> usize {
    position.max(0.0) as usize
}
