// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The inner loops: dot product, squared euclidean distance, differing bits.
//!
//! Each loop is written once over independent lanes and compiled twice: plainly, and for AVX2 with
//! FMA, which is chosen at run time. A *rank* orders rows as the metric does but is cheaper, since
//! no root is taken; it becomes the metric's distance once per hit. The caller gives two rows of
//! the same length.

use std::sync::LazyLock;

use crate::types::Metric;

const LANES: usize = 32;

static WIDE: LazyLock<bool> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("popcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
});

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn fold<const FUSED: bool>(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> (f32, f32)) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (wide_a, rest_a) = a.as_chunks::<LANES>();
    let (wide_b, rest_b) = b.as_chunks::<LANES>();
    for (x, y) in wide_a.iter().zip(wide_b) {
        for lane in 0..LANES {
            let (p, q) = term(x[lane], y[lane]);
            sums[lane] = if FUSED { p.mul_add(q, sums[lane]) } else { sums[lane] + p * q };
        }
    }
    let tail: f32 = rest_a
        .iter()
        .zip(rest_b)
        .map(|(&x, &y)| {
            let (p, q) = term(x, y);
            p * q
        })
        .sum();
    sums.iter().sum::<f32>() + tail
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_wide(a: &[f32], b: &[f32]) -> f32 {
    fold::<true>(a, b, |x, y| (x, y))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn l2_squared_wide(a: &[f32], b: &[f32]) -> f32 {
    fold::<true>(a, b, |x, y| (x - y, x - y))
}

/// `dot(a, b)` - the dot product of two rows of one length.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if *WIDE {
        // SAFETY: WIDE is true only if the processor reports avx2, fma and popcnt, which
        // includes every feature that `dot_wide` is compiled for.
        return unsafe { dot_wide(a, b) };
    }
    fold::<false>(a, b, |x, y| (x, y))
}

/// `l2_squared(a, b)` - the squared euclidean distance of two rows of one length.
pub(crate) fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if *WIDE {
        // SAFETY: as in `dot`.
        return unsafe { l2_squared_wide(a, b) };
    }
    fold::<false>(a, b, |x, y| (x - y, x - y))
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn count_differing(a: &[u64], b: &[u64]) -> u32 {
    a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones()).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
fn hamming_wide(a: &[u64], b: &[u64]) -> u32 {
    count_differing(a, b)
}

/// `hamming(a, b)` - the number of differing bits.
pub(crate) fn hamming(a: &[u64], b: &[u64]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if *WIDE {
        // SAFETY: as in `dot`; WIDE includes popcnt.
        return unsafe { hamming_wide(a, b) };
    }
    count_differing(a, b)
}

/// The rank of two number rows under a metric.
pub(crate) fn rank_numbers(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::L2 => l2_squared(a, b),
        // Rows are normalised. Rounding can make the result negative by an ulp.
        Metric::Cosine => (1.0 - dot(a, b)).max(0.0),
        // Subtracted from zero, not negated: -0.0 sorts before 0.0 and would split a tie.
        Metric::Dot | Metric::Hamming => 0.0 - dot(a, b),
    }
}

/// Turns a rank into the metric's distance.
pub(crate) fn distance(metric: Metric, rank: f32) -> f32 {
    match metric {
        Metric::L2 => rank.sqrt(),
        Metric::Cosine | Metric::Dot | Metric::Hamming => rank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_builds_agree_with_plain_sums_at_every_length() {
        for n in 0..100usize {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.71).cos()).collect();
            let plain: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let square: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(x - y).powi(2)).sum();
            for value in [dot(&a, &b), fold::<false>(&a, &b, |x, y| (x, y))] {
                assert!((f64::from(value) - plain).abs() < 1e-4, "dot of {n}");
            }
            for value in [l2_squared(&a, &b), fold::<false>(&a, &b, |x, y| (x - y, x - y))] {
                assert!((f64::from(value) - square).abs() < 1e-4, "l2 of {n}");
            }
        }
    }

    #[test]
    fn hamming_counts_differing_bits() {
        assert_eq!(hamming(&[0b1011, !0], &[0b0010, 0]), 66);
    }
}
