// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Codes of half a byte a dimension: what wide rows are walked on.
//!
//! A walk over wide codes waits for memory: half as many bytes are two thirds of its time. They are made from codes
//! of a byte, which a graph is built on and which are not kept. A query stays a code of a byte, so only
//! one side of a distance is coarse.
//!
//! With a byte `b` of the query and a half byte `c` of the row, whose step is [`Codes::ratio`] bytes,
//!
//! ```text
//! 4 / ratio * |query - row|^2 = ratio * sum (2c - 15)^2 - 2 * sum (2c - 15) (2b - 127) + sum (2b - 127)^2 / ratio
//! ```
//!
//! The first term is kept for each row, the last one computed for each query. All of it are whole numbers that fit 32
//! bits at 65,536 dimensions, so that all instructions rank alike.

use super::codes::{Codes, Kind};

/// Fewer dimensions take no more cache lines as bytes than they would save.
pub(super) const DIM_MIN: usize = 192;
/// Dimensions in 64 bytes of a code: the first half of them in the low half bytes.
const GROUP: usize = 128;
/// The step of a half byte, in deviations, at which numbers that are spread normally lose least.
const STEP: f32 = 0.335;
/// The largest step, in steps of a byte: then 16 of them cover all.
pub(super) const RATIO_MAX: u32 = 8;

/// Bytes of a code of so many dimensions.
pub(super) fn width(dim: usize) -> usize {
    dim.next_multiple_of(GROUP) / 2
}

/// The codes of `bytes`, which have `dim` dimensions, one for one.
pub(super) fn of(bytes: &Codes, dim: usize) -> Codes {
    let (ratio, width) = (ratio(bytes, dim), width(dim));
    let mut half_of = [0u8; 128];
    for (byte, half) in (0i32..).zip(half_of.iter_mut()) {
        *half = ((2 * byte - 127).div_euclid(2 * ratio as i32) + 8).clamp(0, 15) as u8;
    }
    let mut halves = vec![0u8; bytes.len() * width];
    let mut norms = Vec::with_capacity(bytes.len());
    for (code, to) in bytes.bytes().chunks_exact(bytes.width()).zip(halves.chunks_exact_mut(width))
    {
        let mut norm = 0;
        for (at, &byte) in code[..dim].iter().enumerate() {
            let half = half_of[usize::from(byte & 127)];
            let (group, place) = (at / GROUP, at % GROUP);
            to[group * GROUP / 2 + place % 64] |= half << (place / 64 * 4);
            norm += (2 * i32::from(half) - 15).pow(2).cast_unsigned();
        }
        norms.push(norm * ratio);
    }
    Codes::new(Kind::Nibbles, width, halves).with_norms(ratio, norms.into())
}

/// How many steps of a byte a step of half a byte is.
fn ratio(bytes: &Codes, dim: usize) -> u32 {
    // The nodes are in a shuffled order.
    let sample = bytes.bytes().chunks_exact(bytes.width()).take(1024);
    let (mut sum, mut count) = (0.0f64, 0.0f64);
    for &byte in sample.flat_map(|code| &code[..dim]) {
        sum += (f64::from(byte) - 63.5).powi(2);
        count += 1.0;
    }
    let deviation = (sum / count.max(1.0)).sqrt();
    ((deviation * f64::from(STEP)).round() as u32).clamp(1, RATIO_MAX)
}

/// Makes of a query's bytes what half bytes are compared with: a signed number for each dimension, and then
/// the part of a distance that is the query's.
pub(super) fn query(code: &mut Vec<u8>, dim: usize, ratio: u32) {
    let (mut sum, mut squares) = (0i32, 0u32);
    for byte in &mut code[..dim] {
        let number = 2 * i32::from(*byte) - 127;
        sum += number;
        squares += number.pow(2).cast_unsigned();
        *byte = (number as i8).cast_unsigned();
    }
    code.truncate(dim);
    code.resize(2 * width(dim), 0);
    // Rounded up, so that no distance is negative.
    let own = (30 * sum).cast_unsigned().wrapping_add(squares.div_ceil(ratio));
    code.extend_from_slice(&own.to_le_bytes());
}

/// The numbers of a query, and its part of every distance.
#[inline]
pub(super) fn parts(query: &[u8]) -> (&[u8], u32) {
    match query.split_last_chunk::<4>() {
        Some((numbers, own)) => (numbers, u32::from_le_bytes(*own)),
        None => (&[], 0),
    }
}

/// A distance, of the sum of the products of a query's numbers and a row's half bytes.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
pub(super) fn distance(norm: u32, own: u32, products: u32) -> u32 {
    norm.wrapping_add(own).wrapping_sub(products.wrapping_mul(4))
}

/// The sum of the products, as the bits of a signed number; the compiler vectorises it for the features of its caller.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
pub(super) fn products(numbers: &[u8], code: &[u8]) -> u32 {
    let (groups, _) = numbers.as_chunks::<GROUP>();
    let (codes, _) = code.as_chunks::<64>();
    let mut sums = [0i32; 64];
    for (numbers, code) in groups.iter().zip(codes) {
        for lane in 0..64 {
            let low = i32::from(numbers[lane].cast_signed()) * i32::from(code[lane] & 15);
            let high = i32::from(numbers[lane + 64].cast_signed()) * i32::from(code[lane] >> 4);
            sums[lane] += low + high;
        }
    }
    sums.iter().sum::<i32>().cast_unsigned()
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::{
        _mm256_add_epi32, _mm256_and_si256, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setzero_si256,
        _mm256_srli_epi16, _mm512_and_si512, _mm512_dpbusd_epi32, _mm512_loadu_si512,
        _mm512_set1_epi8, _mm512_setzero_si512, _mm512_srli_epi16,
    };

    use crate::graph::flat::kernel::x86::{sum_of, sums_of};

    /// [`super::products`] with each of four codes, with AVX-512.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn four_products_avx512(numbers: &[u8], codes: [&[u8]; 4]) -> [u32; 4] {
        let groups = numbers.len() / 128;
        assert!(codes.iter().all(|code| code.len() >= groups * 64));
        let low = _mm512_set1_epi8(15);
        let mut sums = [_mm512_setzero_si512(); 4];
        for at in 0..groups {
            // SAFETY: there are 128 readable bytes from here, and the loads ask for no alignment.
            let (first, second) = unsafe {
                let numbers = numbers.as_ptr().add(at * 128);
                (_mm512_loadu_si512(numbers.cast()), _mm512_loadu_si512(numbers.add(64).cast()))
            };
            let mut one = 0;
            while one < 4 {
                // SAFETY: there are 64 readable bytes from here, and the load asks for no alignment.
                let code = unsafe { _mm512_loadu_si512(codes[one].as_ptr().add(at * 64).cast()) };
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(code), low);
                let sum = _mm512_dpbusd_epi32(sums[one], _mm512_and_si512(code, low), first);
                sums[one] = _mm512_dpbusd_epi32(sum, high, second);
                one += 1;
            }
        }
        sums_of(sums)
    }

    /// [`super::products`] with AVX2.
    #[allow(clippy::cast_ptr_alignment, reason = "the loads ask for no alignment")]
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn products_avx2(numbers: &[u8], code: &[u8]) -> u32 {
        let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
        let mut sum = _mm256_setzero_si256();
        let (groups, _) = numbers.as_chunks::<128>();
        let (codes, _) = code.as_chunks::<64>();
        for (numbers, code) in groups.iter().zip(codes) {
            for half in [0, 32] {
                // SAFETY: all are 32 readable bytes, and these loads ask for no alignment.
                let (code, first, second) = unsafe {
                    (
                        _mm256_loadu_si256(code.as_ptr().add(half).cast()),
                        _mm256_loadu_si256(numbers.as_ptr().add(half).cast()),
                        _mm256_loadu_si256(numbers.as_ptr().add(half + 64).cast()),
                    )
                };
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(code), low);
                // Two products of at most 15 and 127 fit into a signed number of 16 bits, and four.
                let pairs = _mm256_maddubs_epi16(_mm256_and_si256(code, low), first);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
                let pairs = _mm256_maddubs_epi16(high, second);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        sum_of(sum)
    }
}
