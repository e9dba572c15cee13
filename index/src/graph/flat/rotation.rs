// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A random rotation in `n log n`: signs and Walsh-Hadamard transforms.
//!
//! It spreads what a few dimensions hold over all of them, so that one scale suits every dimension
//! of a code. A length that is no power of two is covered by two transforms that overlap.

/// Rounds of signs and transforms.
const ROUNDS: usize = 3;

/// An orthonormal map, determined by its number of dimensions and its seed.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    dim: usize,
    /// Largest power of two that is not above `dim`.
    block: usize,
    /// One sign for each dimension of each round.
    signs: Vec<f32>,
}

impl Rotation {
    pub(super) fn new(dim: usize, seed: u64) -> Self {
        let mut state = seed;
        let mut next = || {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let sign = |bits: u64| if bits >> 63 == 0 { 1.0 } else { -1.0 };
        let signs = (0..dim * ROUNDS).map(|_| sign(next())).collect();
        Self { dim, block: 1 << dim.max(1).ilog2(), signs }
    }

    /// Rotates `row`, of `dim` numbers.
    pub(super) fn apply(&self, row: &mut [f32]) {
        let scale = 1.0 / (self.block as f32).sqrt();
        for signs in self.signs.chunks_exact(self.dim.max(1)) {
            for (x, sign) in row.iter_mut().zip(signs) {
                *x *= sign;
            }
            transform(&mut row[..self.block], scale);
            if self.block < self.dim {
                transform(&mut row[self.dim - self.block..], scale);
            }
        }
    }
}

/// The Walsh-Hadamard transform of a power of two of numbers, scaled.
fn transform(row: &mut [f32], scale: f32) {
    let mut half = 1;
    while half < row.len() {
        for pair in row.chunks_exact_mut(half * 2) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    for x in row {
        *x *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_angles_stay_at_every_number_of_dimensions() {
        for dim in [1, 2, 3, 7, 16, 100, 384, 768] {
            let rotation = Rotation::new(dim, 5);
            let a: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.7).sin() + 0.1).collect();
            let b: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.3).cos()).collect();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
            let (mut x, mut y) = (a.clone(), b.clone());
            rotation.apply(&mut x);
            rotation.apply(&mut y);
            let tolerance = 1e-4 * dim as f32;
            assert!((dot(&a, &b) - dot(&x, &y)).abs() < tolerance, "{dim}");
            assert!((dot(&a, &a) - dot(&x, &x)).abs() < tolerance, "{dim}");
        }
    }

    #[test]
    fn one_dimension_is_spread_over_all() {
        let mut row = vec![0.0; 384];
        row[3] = 100.0;
        Rotation::new(384, 5).apply(&mut row);
        let largest = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(largest < 25.0, "{largest}");
    }
}
