// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A random rotation in `n log n`: signs and Walsh-Hadamard transforms.
//!
//! It spreads what a few dimensions hold over all of them, so that one scale suits every dimension
//! of a code. A length that is no power of two is covered by two transforms that overlap.

use super::kernel::Isa;

/// Numbers of a register, which the first steps of a transform stay in.
const CHUNK: usize = 16;
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
    isa: Isa,
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
        Self { dim, block: 1 << dim.max(1).ilog2(), signs, isa: Isa::detect() }
    }

    /// Rotates `row`, of `dim` numbers. All instructions add the same numbers in the same order.
    pub(super) fn apply(&self, row: &mut [f32]) {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::available` gives this value only where the processor has the features.
            Isa::Avx512 => unsafe { self.apply_avx512(row) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { self.apply_avx2(row) },
            Isa::Portable => self.apply_with(row, begin_chunk),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn apply_avx512(&self, row: &mut [f32]) {
        self.apply_with(row, |chunk| x86::begin_chunk_avx512(chunk));
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn apply_avx2(&self, row: &mut [f32]) {
        self.apply_with(row, begin_chunk);
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
    fn apply_with(&self, row: &mut [f32], begin: impl Fn(&mut [f32; CHUNK])) {
        let scale = 1.0 / (self.block as f32).sqrt();
        for signs in self.signs.chunks_exact(self.dim.max(1)) {
            for (x, sign) in row.iter_mut().zip(signs) {
                *x *= sign;
            }
            transform(&mut row[..self.block], scale, &begin);
            if self.block < self.dim {
                transform(&mut row[self.dim - self.block..], scale, &begin);
            }
        }
    }
}

/// The Walsh-Hadamard transform of a power of two of numbers, scaled; `begin` does its first steps.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn transform(row: &mut [f32], scale: f32, begin: &impl Fn(&mut [f32; CHUNK])) {
    let mut half = 1;
    if row.len() >= CHUNK {
        for chunk in row.as_chunks_mut::<CHUNK>().0 {
            begin(chunk);
        }
        half = CHUNK;
    }
    butterflies(row, half);
    for x in row {
        *x *= scale;
    }
}

/// The steps of the transform from numbers that are `half` apart.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn butterflies(row: &mut [f32], mut half: usize) {
    while half < row.len() {
        for pair in row.chunks_exact_mut(half * 2) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn begin_chunk(chunk: &mut [f32; CHUNK]) {
    butterflies(chunk, 1);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_loadu_ps, _mm512_mask_sub_ps, _mm512_permute_ps,
        _mm512_shuffle_f32x4, _mm512_storeu_ps,
    };

    /// [`super::begin_chunk`] in one register: a compiler does these steps a number at a time.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn begin_chunk_avx512(chunk: &mut [f32; super::CHUNK]) {
        // Sums, and where a bit of the number's place is set, differences.
        let step = |own: __m512, other: __m512, differences: u16| {
            _mm512_mask_sub_ps(_mm512_add_ps(own, other), differences, other, own)
        };
        // SAFETY: these are 64 readable bytes, and the load asks for no alignment.
        let x = unsafe { _mm512_loadu_ps(chunk.as_ptr()) };
        let x = step(x, _mm512_permute_ps::<0b10_11_00_01>(x), 0xaaaa);
        let x = step(x, _mm512_permute_ps::<0b01_00_11_10>(x), 0xcccc);
        let x = step(x, _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x), 0xf0f0);
        let x = step(x, _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x), 0xff00);
        // SAFETY: these are 64 writable bytes, and the store asks for no alignment.
        unsafe { _mm512_storeu_ps(chunk.as_mut_ptr(), x) };
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
    fn all_instructions_rotate_alike() {
        for dim in [5, 16, 100, 384] {
            let rotated: Vec<Vec<u32>> = Isa::available()
                .into_iter()
                .map(|isa| {
                    let rotation = Rotation { isa, ..Rotation::new(dim, 5) };
                    let mut row: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.7).sin()).collect();
                    rotation.apply(&mut row);
                    row.iter().map(|x| x.to_bits()).collect()
                })
                .collect();
            assert!(rotated.windows(2).all(|pair| pair[0] == pair[1]), "{dim}");
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
