// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How wide a search of one segment has to be for a wished recall: measured, and kept with its graph.
//!
//! A sample of the segment's own rows is searched for through the graph and exactly. What counts is a lower
//! bound of the recall that was measured, with 95 % confidence; and because queries lie farther from rows than
//! rows from each other, only a part of what the wish allows to be missed may be missed. Where no width meets
//! that, there is none, and the segment is scanned.

use std::{collections::BTreeMap, sync::Arc};

/// Rows that are searched for, at most and at least.
const SAMPLE_MAX: usize = 256;
const SAMPLE_MIN: usize = 64;
/// Rows that are compared exactly, in all, as far as the least sample allows.
const COMPARED: usize = 1 << 25;
/// Of a normal distribution, the part below this is 95 %.
const ONE_SIDED: f64 = 1.645;
/// After n trials without a failure, one in n/3 is still thinkable with 5 %.
const NONE_FAILED: f64 = 3.0;

/// How much more of a query's neighbours is missed than of a row's, at most: on the real embeddings, twice.
const HARDER: f64 = 3.0;

/// Widths that are measured.
const WIDTHS: [usize; 16] =
    [12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096];

/// What was measured of one graph: for each number of neighbours, the recall of widths.
pub(crate) type Curves = BTreeMap<usize, Arc<Curve>>;

/// Widths in ascending order, with the least recall that they are known to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curve(Vec<(usize, f64)>);

impl Curve {
    /// The least width that surely finds this part of the neighbours.
    pub(crate) fn width(&self, recall: f64) -> Option<usize> {
        let missed = (1.0 - recall) / HARDER;
        self.0.iter().find(|(_, least)| 1.0 - *least <= missed).map(|(width, _)| *width)
    }

    /// Measures widths of up to `most`, until one finds everything. `found(row, width)` is the part
    /// of the `k` nearest of a row, without itself, that a search finds; a failure ends it.
    pub(crate) fn measure<E>(
        rows: usize,
        (k, most): (usize, usize),
        mut found: impl FnMut(usize, usize) -> Result<f64, E>,
    ) -> Result<Self, E> {
        let sample = (COMPARED / rows.max(1)).clamp(SAMPLE_MIN, SAMPLE_MAX).min(rows);
        let mut curve = Vec::new();
        for width in WIDTHS.into_iter().map(|width| width.max(k)).filter(|width| *width <= most) {
            if curve.last().is_some_and(|(last, _)| *last == width) {
                continue;
            }
            let parts = (0..sample)
                .map(|at| found((at as u64 * rows as u64 / sample as u64) as usize, width))
                .collect::<Result<Vec<f64>, E>>()?;
            let least = least(&parts, k);
            curve.push((width, least));
            if parts.iter().all(|part| *part >= 1.0) {
                break;
            }
        }
        Ok(Self(curve))
    }
}

/// The mean that these parts, each of `k` trials, show with 95 % confidence.
fn least(parts: &[f64], k: usize) -> f64 {
    let n = parts.len().max(1) as f64;
    let mean = parts.iter().sum::<f64>() / n;
    let variance = parts.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    mean - (ONE_SIDED * (variance / n).sqrt()).max(NONE_FAILED / (n * k as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_met_by_what_was_measured_less_its_error() {
        let curve = Curve::measure::<()>(10_000, (10, 200), |row, width| {
            Ok(if width >= 100 || row % 9 > 0 { 1.0 } else { width as f64 / 100.0 })
        })
        .unwrap();
        assert_eq!(curve.width(0.97), Some(96), "{curve:?}");
        assert_eq!(curve.width(0.99), Some(128), "{curve:?}");
        assert_eq!(curve.width(0.999), None, "2,560 trials do not show that");
        let narrow = curve.width(0.8).unwrap();
        assert!((12..96).contains(&narrow), "{curve:?}");
    }

    #[test]
    fn widths_hold_k_neighbours_and_are_not_measured_beyond_what_pays() {
        let mut asked = Vec::new();
        let curve = Curve::measure::<()>(100, (50, 100), |_, width| {
            asked.push(width);
            Ok(0.5)
        })
        .unwrap();
        asked.dedup();
        assert_eq!(asked, [50, 64, 96]);
        assert_eq!(curve.width(0.6), None);
        assert!(Curve::measure(100, (10, 100), |_, _| Err(())).is_err());
    }
}
