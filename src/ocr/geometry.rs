//! The smallest rectangle around a contour.
//!
//! rten-imageproc has the same as `min_area_rect`, but the convex hull in it (0.27, sorted by a cosine in `f32`) is not
//! convex for some long flat contours: whole captions were lost in 3 of 60 test frames. This one is exact.

use rten_imageproc::{Point, PointF, RotatedRect, Vec2};

/// The rectangle of the smallest area that holds all `points`, one of its edges along an edge of their convex hull;
/// `None` without points. Points on a line give a rectangle without height.
pub(super) fn smallest_rect(points: &[Point]) -> Option<RotatedRect> {
    let hull = convex_hull(points);
    let first = hull.first()?;
    if hull.len() == 1 {
        return Some(RotatedRect::new(first.to_f32(), Vec2::from_xy(0.0, 1.0), 0.0, 0.0));
    }
    (0..hull.len())
        .map(|index| rect_along(hull[index], hull[(index + 1) % hull.len()], &hull))
        .min_by(|a, b| a.area().total_cmp(&b.area()))
}

/// The smallest rectangle around `hull` with an edge along the line from `start` to `end`.
fn rect_along(start: Point, end: Point, hull: &[Point]) -> RotatedRect {
    let along = Vec2::from_points(start, end).normalized();
    let across = along.perpendicular();
    let (mut near, mut far) = ((0.0_f32, 0.0_f32), (0.0_f32, 0.0_f32));
    for &point in hull {
        let way = Vec2::from_points(start, point);
        let (x, y) = (way.dot(along), way.dot(across));
        near = (near.0.min(x), near.1.min(y));
        far = (far.0.max(x), far.1.max(y));
    }
    let center = start.to_f32().to_vec() + along * f32::midpoint(near.0, far.0) + across * f32::midpoint(near.1, far.1);
    RotatedRect::new(
        PointF::from_yx(center.y, center.x),
        across,
        far.0 - near.0,
        far.1 - near.1,
    )
}

/// The corners of the convex hull, in order around it, by Andrew's monotone chain in integers.
fn convex_hull(points: &[Point]) -> Vec<Point> {
    let mut points = points.to_vec();
    points.sort_unstable_by_key(|point| (point.x, point.y));
    points.dedup();
    if points.len() < 3 {
        return points;
    }
    let half = |points: &mut dyn Iterator<Item = &Point>| {
        let mut chain: Vec<Point> = Vec::new();
        for &point in points {
            while let [.., before, last] = chain[..]
                && turn(before, last, point) <= 0
            {
                chain.pop();
            }
            chain.push(point);
        }
        // The last point is the first one of the other half.
        chain.pop();
        chain
    };
    let mut hull = half(&mut points.iter());
    hull.extend(half(&mut points.iter().rev()));
    hull
}

/// Twice the signed area of the triangle: the sign says to which side `c` lies of the line from `a` to `b`.
fn turn(a: Point, b: Point, c: Point) -> i64 {
    let difference = |to: i32, from: i32| i64::from(to) - i64::from(from);
    difference(b.x, a.x) * difference(c.y, a.y) - difference(b.y, a.y) * difference(c.x, a.x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Width, height and center of the smallest rectangle, turned so that it lies flat.
    fn check(points: &[(i32, i32)], expected: Option<[f32; 4]>) {
        let points: Vec<_> = points.iter().map(|&(x, y)| Point::from_yx(y, x)).collect();
        let rect = smallest_rect(&points).map(|rect| rect.orient_towards(Vec2::from_xy(0.0, 1.0)));
        let found = rect.map(|rect| [rect.width(), rect.height(), rect.center().x, rect.center().y]);
        let near = match (found, expected) {
            (Some(found), Some(expected)) => found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3),
            (found, expected) => found == expected,
        };
        assert!(near, "{points:?}: {found:?}, expected {expected:?}");
    }

    #[test]
    fn the_smallest_rectangle_is_found() {
        check(&[], None);
        check(&[(3, 4)], Some([0.0, 0.0, 3.0, 4.0]));
        check(&[(1, 2), (5, 2)], Some([4.0, 0.0, 3.0, 2.0]));
        check(&[(1, 2), (3, 2), (5, 2)], Some([4.0, 0.0, 3.0, 2.0]));
        check(&[(0, 0), (10, 0), (10, 4), (0, 4), (5, 2)], Some([10.0, 4.0, 5.0, 2.0]));
        // Turned: legs of 10 and 5 along (4, 3) and (-3, 4).
        check(&[(0, 0), (8, 6), (5, 10), (-3, 4)], Some([10.0, 5.0, 2.5, 5.0]));
    }

    #[test]
    fn a_long_flat_contour_keeps_its_height() {
        // A bar with ragged edges, as a caption's core is.
        let contour: Vec<_> = (0..700)
            .flat_map(|x| [(x, 460 + i32::from(x % 7 == 0)), (x, 480 - i32::from(x % 5 == 0))])
            .collect();
        check(&contour, Some([699.0, 20.0, 349.5, 470.0]));
    }
}
