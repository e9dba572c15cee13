// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Queries a second at a recall that nobody measured exactly: between two points of a curve.
//!
//! On a logarithmic scale of both speed and missed neighbours such curves are nearly straight, so that is
//! where it is interpolated. Nothing is carried on past the ends: a curve that begins above the wished
//! recall says 'at least', one that ends below it says nothing.

/// What was measured at one width of the search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Found of the true nearest, 0 to 1.
    pub recall: f64,
    /// Queries a second.
    pub qps: f64,
}

/// Speed at a recall.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Queries a second.
    pub qps: f64,
    /// The curve begins above the recall: at the recall itself it would be this or more.
    pub bound: bool,
}

/// Recall 1 counts as this many missed, or its logarithm would have no end.
const NONE_MISSED: f64 = 1e-5;

/// The speed of a curve at `recall`; `None` if no point reaches it.
pub fn at(points: &[Point], recall: f64) -> Option<Speed> {
    let mut sorted: Vec<Point> = points.to_vec();
    sorted.sort_by(|a, b| a.recall.total_cmp(&b.recall));
    let above = sorted.iter().position(|point| point.recall >= recall)?;
    // A wider search that is faster by chance counts for what lies below it too.
    let best = |points: &[Point]| {
        points.iter().copied().reduce(|best, point| if point.qps > best.qps { point } else { best })
    };
    let upper = best(&sorted[above..])?;
    let Some(lower) = sorted[..above].last().filter(|lower| lower.qps > upper.qps) else {
        return Some(Speed { qps: upper.qps, bound: above == 0 && sorted[0].recall > recall });
    };
    let missed = |recall: f64| (1.0 - recall).max(NONE_MISSED).ln();
    let share =
        (missed(recall) - missed(lower.recall)) / (missed(upper.recall) - missed(lower.recall));
    let qps = lower.qps.ln() + share * (upper.qps.ln() - lower.qps.ln());
    Some(Speed { qps: qps.exp(), bound: false })
}

#[cfg(test)]
mod tests {
    use super::{Point, Speed, at};

    fn curve(points: &[(f64, f64)]) -> Vec<Point> {
        points.iter().map(|&(recall, qps)| Point { recall, qps }).collect()
    }

    #[test]
    fn between_two_points_both_scales_are_logarithmic() {
        // .9 to .999 is two decades of missed neighbours, and .99 is their middle.
        let points = curve(&[(0.999, 100.0), (0.9, 10_000.0)]);
        let found = at(&points, 0.99).unwrap();
        assert!((found.qps - 1000.0).abs() < 1e-6 && !found.bound, "{found:?}");
        assert_eq!(at(&points, 0.9), Some(Speed { qps: 10_000.0, bound: false }));
        let end = at(&points, 0.999).unwrap();
        assert!((end.qps - 100.0).abs() < 1e-9, "{end:?}");
    }

    #[test]
    fn past_the_ends_nothing_is_made_up() {
        let points = curve(&[(0.97, 500.0), (0.98, 400.0)]);
        assert_eq!(at(&points, 0.95), Some(Speed { qps: 500.0, bound: true }));
        assert_eq!(at(&points, 0.99), None);
        assert_eq!(at(&[], 0.5), None);
    }

    #[test]
    fn a_slow_point_that_finds_less_does_not_count() {
        let points = curve(&[(0.90, 50.0), (0.96, 900.0), (1.0, 100.0)]);
        assert_eq!(at(&points, 0.95), Some(Speed { qps: 900.0, bound: false }));
        // All found is a finite place on the scale.
        assert!(at(&points, 0.99).unwrap().qps > 100.0);
    }
}
