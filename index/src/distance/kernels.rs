// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The inner loops: sums over a row's bytes and a query.
//!
//! Each loop over numbers is written once, over 32 lanes that are added up at the end in one order, and
//! compiled for each set of instructions: nothing is fused or reordered, so all give the same bits. Sums of
//! whole numbers fit 32 bits at 65,536 dimensions. What is left of a row after the last whole chunk is
//! filled up with zeroes, which add nothing.

use crate::types::Element;

/// Numbers that are taken at a time.
const LANES: usize = 32;

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 with BW, and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the target has at compile time.
    Portable,
}

impl Isa {
    /// All that this processor has, the best first; there is at least one.
    pub(crate) fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("popcnt");
            if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                all.push(Self::Avx512);
            }
            if avx2 {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn fold<const BYTES: usize>(
    row: &[u8],
    query: &[f32],
    at: impl Fn(&[u8; BYTES], usize) -> f32,
    term: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (rows, rest_row) = row.as_chunks::<BYTES>();
    let (queries, rest_query) = query.as_chunks::<LANES>();
    for (row, query) in rows.iter().zip(queries) {
        for lane in 0..LANES {
            sums[lane] += term(at(row, lane), query[lane]);
        }
    }
    // In a copy: if the loop's sums had their address taken, they would not stay in registers.
    let mut total = sums;
    if !rest_query.is_empty() {
        let (mut row, mut query) = ([0; BYTES], [0.0; LANES]);
        row[..rest_row.len()].copy_from_slice(rest_row);
        query[..rest_query.len()].copy_from_slice(rest_query);
        for lane in 0..LANES {
            total[lane] += term(at(&row, lane), query[lane]);
        }
    }
    halved(total)
}

/// The sum of all lanes: one half is added to the other, again and again.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn halved(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The same of a row that is decoded a chunk at a time.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn fold_decoded<const BYTES: usize>(
    row: &[u8],
    query: &[f32],
    decode: impl Fn(&[u8; BYTES]) -> [f32; LANES],
    term: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (rows, rest_row) = row.as_chunks::<BYTES>();
    let (queries, rest_query) = query.as_chunks::<LANES>();
    for (row, query) in rows.iter().zip(queries) {
        let row = decode(row);
        for lane in 0..LANES {
            sums[lane] += term(row[lane], query[lane]);
        }
    }
    // In a copy: if the loop's sums had their address taken, they would not stay in registers.
    let mut total = sums;
    if !rest_query.is_empty() {
        let (mut row, mut query) = ([0; BYTES], [0.0; LANES]);
        row[..rest_row.len()].copy_from_slice(rest_row);
        query[..rest_query.len()].copy_from_slice(rest_query);
        let row = decode(&row);
        for lane in 0..LANES {
            total[lane] += term(row[lane], query[lane]);
        }
    }
    halved(total)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn from_f32(bytes: &[u8; 4 * LANES], lane: usize) -> f32 {
    f32::from_le_bytes(bytes.as_chunks::<4>().0[lane])
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn from_bf16(bytes: &[u8; 2 * LANES], lane: usize) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes.as_chunks::<2>().0[lane])) << 16)
}

/// Of finite halves; exact.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn from_f16(bytes: &[u8; 2 * LANES], lane: usize) -> f32 {
    /// What a half's exponent is short of that of a single: 2^112.
    const UP: f32 = f32::from_bits((127 + 112) << 23);
    let half = u32::from(u16::from_le_bytes(bytes.as_chunks::<2>().0[lane]));
    let size = f32::from_bits((half & 0x7fff) << 13) * UP;
    f32::from_bits(size.to_bits() | (half & 0x8000) << 16)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn from_i8(bytes: &[u8; LANES], lane: usize) -> f32 {
    f32::from(bytes[lane].cast_signed())
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn from_u8(bytes: &[u8; LANES], lane: usize) -> f32 {
    f32::from(bytes[lane])
}

/// Sums over pairs of bytes; `term` of two zeroes is zero.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn fold_whole(a: &[u8], b: &[u8], term: impl Fn(u8, u8) -> u32) -> u32 {
    let mut sums = [0u32; LANES];
    let (wide_a, rest_a) = a.as_chunks::<LANES>();
    let (wide_b, rest_b) = b.as_chunks::<LANES>();
    for (x, y) in wide_a.iter().zip(wide_b) {
        for lane in 0..LANES {
            sums[lane] = sums[lane].wrapping_add(term(x[lane], y[lane]));
        }
    }
    let rest = rest_a.iter().zip(rest_b).map(|(&x, &y)| term(x, y));
    sums.into_iter().chain(rest).fold(0, u32::wrapping_add)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
fn count_differing(a: &[u8], b: &[u8]) -> u32 {
    let (words_a, rest_a) = a.as_chunks::<8>();
    let (words_b, rest_b) = b.as_chunks::<8>();
    let words = words_a.iter().zip(words_b);
    let rest = rest_a.iter().zip(rest_b).map(|(x, y)| (x ^ y).count_ones());
    words
        .map(|(x, y)| (u64::from_ne_bytes(*x) ^ u64::from_ne_bytes(*y)).count_ones())
        .chain(rest)
        .sum()
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
const fn dot(a: f32, b: f32) -> f32 {
    a * b
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
const fn square(a: f32, b: f32) -> f32 {
    (a - b) * (a - b)
}

mod portable {
    use super::{
        count_differing, dot, fold, fold_whole, from_bf16, from_f16, from_f32, from_i8, from_u8,
        square,
    };

    pub fn dot_f32(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_f32, dot)
    }
    pub fn l2_f32(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_f32, square)
    }
    pub fn dot_f16(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_f16, dot)
    }
    pub fn l2_f16(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_f16, square)
    }
    pub fn dot_bf16(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_bf16, dot)
    }
    pub fn l2_bf16(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_bf16, square)
    }
    pub fn dot_i8(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_i8, dot)
    }
    pub fn l2_i8(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_i8, square)
    }
    pub fn dot_u8(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_u8, dot)
    }
    pub fn l2_u8(row: &[u8], query: &[f32]) -> f32 {
        fold(row, query, from_u8, square)
    }
    pub fn whole_dot_i8(a: &[u8], b: &[u8]) -> u32 {
        fold_whole(a, b, |x, y| {
            (i32::from(x.cast_signed()) * i32::from(y.cast_signed())).cast_unsigned()
        })
    }
    pub fn whole_l2_i8(a: &[u8], b: &[u8]) -> u32 {
        fold_whole(a, b, |x, y| {
            let apart = u32::from(x.cast_signed().abs_diff(y.cast_signed()));
            apart * apart
        })
    }
    pub fn whole_dot_u8(a: &[u8], b: &[u8]) -> u32 {
        fold_whole(a, b, |x, y| u32::from(x) * u32::from(y))
    }
    pub fn whole_l2_u8(a: &[u8], b: &[u8]) -> u32 {
        fold_whole(a, b, |x, y| u32::from(x.abs_diff(y)) * u32::from(x.abs_diff(y)))
    }
    pub fn bits(a: &[u8], b: &[u8]) -> u32 {
        count_differing(a, b)
    }
}

/// The same loops for one set of instructions. Integers are widened to 16 bits, multiplied and added in
/// pairs; a pair of products of at most 2 x 65,025 fits.
#[cfg(target_arch = "x86_64")]
macro_rules! instructions {
    ($name:ident, $features:literal, $doc:literal) => {
        #[doc = $doc]
        mod $name {
            use super::{
                count_differing, dot, fold, fold_decoded, from_bf16, from_f32, from_i8, from_u8,
                square, x86,
            };

            #[target_feature(enable = $features)]
            pub fn dot_f32(row: &[u8], query: &[f32]) -> f32 {
                fold(row, query, from_f32, dot)
            }
            #[target_feature(enable = $features)]
            pub fn l2_f32(row: &[u8], query: &[f32]) -> f32 {
                fold(row, query, from_f32, square)
            }
            #[target_feature(enable = $features)]
            pub fn dot_f16(row: &[u8], query: &[f32]) -> f32 {
                fold_decoded(row, query, |bytes| x86::from_f16(bytes), dot)
            }
            #[target_feature(enable = $features)]
            pub fn l2_f16(row: &[u8], query: &[f32]) -> f32 {
                fold_decoded(row, query, |bytes| x86::from_f16(bytes), square)
            }
            #[target_feature(enable = $features)]
            pub fn dot_bf16(row: &[u8], query: &[f32]) -> f32 {
                fold(row, query, from_bf16, dot)
            }
            #[target_feature(enable = $features)]
            pub fn l2_bf16(row: &[u8], query: &[f32]) -> f32 {
                fold(row, query, from_bf16, square)
            }
            #[target_feature(enable = $features)]
            pub fn dot_i8(row: &[u8], query: &[f32]) -> f32 {
                fold(row, query, from_i8, dot)
            }
            #[target_feature(enable = $features)]
            pub fn l2_i8(row: &[u8], query: &[f32]) -> f32 {
                fold(row, query, from_i8, square)
            }
            #[target_feature(enable = $features)]
            pub fn dot_u8(row: &[u8], query: &[f32]) -> f32 {
                fold(row, query, from_u8, dot)
            }
            #[target_feature(enable = $features)]
            pub fn l2_u8(row: &[u8], query: &[f32]) -> f32 {
                fold(row, query, from_u8, square)
            }
            #[target_feature(enable = $features)]
            pub fn whole_dot_i8(a: &[u8], b: &[u8]) -> u32 {
                x86::$name::<true, false>(a, b)
            }
            #[target_feature(enable = $features)]
            pub fn whole_l2_i8(a: &[u8], b: &[u8]) -> u32 {
                x86::$name::<true, true>(a, b)
            }
            #[target_feature(enable = $features)]
            pub fn whole_dot_u8(a: &[u8], b: &[u8]) -> u32 {
                x86::$name::<false, false>(a, b)
            }
            #[target_feature(enable = $features)]
            pub fn whole_l2_u8(a: &[u8], b: &[u8]) -> u32 {
                x86::$name::<false, true>(a, b)
            }
            #[target_feature(enable = $features)]
            pub fn bits(a: &[u8], b: &[u8]) -> u32 {
                count_differing(a, b)
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
instructions!(avx512, "avx512f,avx512bw,avx2,f16c,popcnt", "AVX-512.");
#[cfg(target_arch = "x86_64")]
instructions!(avx2, "avx2,f16c,popcnt", "AVX2.");

#[cfg(target_arch = "x86_64")]
#[allow(clippy::cast_ptr_alignment, reason = "the loads ask for no alignment")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_loadu_si128, _mm_shuffle_epi32,
        _mm256_add_epi32, _mm256_castsi256_si128, _mm256_cvtepi8_epi16, _mm256_cvtepu8_epi16,
        _mm256_cvtph_ps, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_setzero_si256, _mm256_storeu_ps, _mm256_sub_epi16, _mm512_add_epi32,
        _mm512_cvtepi8_epi16, _mm512_cvtepu8_epi16, _mm512_madd_epi16, _mm512_reduce_add_epi32,
        _mm512_setzero_si512, _mm512_sub_epi16,
    };

    use super::LANES;

    /// [`super::from_f16`] with F16C.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub fn from_f16(bytes: &[u8; 2 * LANES]) -> [f32; LANES] {
        let mut numbers = [0.0f32; LANES];
        let halves = bytes.as_chunks::<16>().0;
        for (to, from) in numbers.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
            // SAFETY: 16 readable and 32 writable bytes; load and store ask for no alignment.
            unsafe {
                let from = _mm_loadu_si128(std::ptr::from_ref(from).cast::<__m128i>());
                _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(from));
            }
        }
        numbers
    }

    /// The next 32 bytes of both rows, and at the end what is left, filled up with zeroes.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
    fn chunks(a: &[u8], b: &[u8], mut each: impl FnMut(&[u8; LANES], &[u8; LANES])) {
        let (wide_a, rest_a) = a.as_chunks::<LANES>();
        let (wide_b, rest_b) = b.as_chunks::<LANES>();
        for (x, y) in wide_a.iter().zip(wide_b) {
            each(x, y);
        }
        if !rest_a.is_empty() && !rest_b.is_empty() {
            let (mut x, mut y) = ([0; LANES], [0; LANES]);
            x[..rest_a.len()].copy_from_slice(rest_a);
            y[..rest_b.len()].copy_from_slice(rest_b);
            each(&x, &y);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8; LANES]) -> __m256i {
        // SAFETY: 32 readable bytes, and the load asks for no alignment.
        unsafe { _mm256_loadu_si256(std::ptr::from_ref(bytes).cast::<__m256i>()) }
    }

    /// The dot product, or with `L2` the squared distance, of bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    pub fn avx512<const SIGNED: bool, const L2: bool>(a: &[u8], b: &[u8]) -> u32 {
        let mut sum = _mm512_setzero_si512();
        chunks(a, b, |x, y| {
            let (x, y) = (load(x), load(y));
            let (x, y) = if SIGNED {
                (_mm512_cvtepi8_epi16(x), _mm512_cvtepi8_epi16(y))
            } else {
                (_mm512_cvtepu8_epi16(x), _mm512_cvtepu8_epi16(y))
            };
            let (x, y) = if L2 { (_mm512_sub_epi16(x, y), _mm512_sub_epi16(x, y)) } else { (x, y) };
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x, y));
        });
        _mm512_reduce_add_epi32(sum).cast_unsigned()
    }

    /// The same with AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn avx2<const SIGNED: bool, const L2: bool>(a: &[u8], b: &[u8]) -> u32 {
        let mut sum = _mm256_setzero_si256();
        let widen = |half: __m128i| {
            if SIGNED { _mm256_cvtepi8_epi16(half) } else { _mm256_cvtepu8_epi16(half) }
        };
        chunks(a, b, |x, y| {
            let (x, y) = (load(x), load(y));
            let halves = [
                (_mm256_castsi256_si128(x), _mm256_castsi256_si128(y)),
                (_mm256_extracti128_si256::<1>(x), _mm256_extracti128_si256::<1>(y)),
            ];
            for (x, y) in halves {
                let (x, y) = (widen(x), widen(y));
                let (x, y) =
                    if L2 { (_mm256_sub_epi16(x, y), _mm256_sub_epi16(x, y)) } else { (x, y) };
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, y));
            }
        });
        let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b_01_00_11_10>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b_10_11_00_01>(two));
        _mm_cvtsi128_si32(one).cast_unsigned()
    }
}

/// Chooses a loop's build by the instructions.
macro_rules! of_isa {
    ($isa:expr, $name:ident) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::$name,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::$name,
            Isa::Portable => portable::$name,
        }
    };
}

/// The dot product of a row's numbers and a query, or with `l2` their squared distance.
pub(super) fn numbers(isa: Isa, element: Element, l2: bool) -> super::OfNumbers {
    match (element, l2) {
        (Element::F16, false) => of_isa!(isa, dot_f16),
        (Element::F16, true) => of_isa!(isa, l2_f16),
        (Element::Bf16, false) => of_isa!(isa, dot_bf16),
        (Element::Bf16, true) => of_isa!(isa, l2_bf16),
        (Element::I8, false) => of_isa!(isa, dot_i8),
        (Element::I8, true) => of_isa!(isa, l2_i8),
        (Element::U8, false) => of_isa!(isa, dot_u8),
        (Element::U8, true) => of_isa!(isa, l2_u8),
        (Element::F32 | Element::Bit, false) => of_isa!(isa, dot_f32),
        (Element::F32 | Element::Bit, true) => of_isa!(isa, l2_f32),
    }
}

/// The same of a row and a query of bytes; the sum of signed products is signed.
pub(super) fn whole(isa: Isa, element: Element, l2: bool) -> super::OfBytes {
    match (element == Element::I8, l2) {
        (true, false) => of_isa!(isa, whole_dot_i8),
        (true, true) => of_isa!(isa, whole_l2_i8),
        (false, false) => of_isa!(isa, whole_dot_u8),
        (false, true) => of_isa!(isa, whole_l2_u8),
    }
}

/// The number of bits that differ.
pub(super) fn bits(isa: Isa) -> super::OfBytes {
    of_isa!(isa, bits)
}
