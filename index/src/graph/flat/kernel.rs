// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Distances of codes, by whatever instructions the processor has.
//!
//! Three kinds: the squared euclidean distance of bytes from 0 to 127; the number of bits that differ;
//! and the squared euclidean distance of numbers, which is not negative, so that its bits are in its order. A code is a multiple of [`CODE_ALIGN`] bytes. All implementations of the first two return the same
//! number: the arithmetic is of integers and fits 32 bits at 65,536 dimensions. Numbers are added in one order.

/// Codes are padded to a multiple of so many bytes: a cache line, and the widest vector register.
pub(super) const CODE_ALIGN: usize = 64;

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    /// AVX-512 with BW and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the target has at compile time; on AArch64 that includes NEON.
    Portable,
}

impl Isa {
    /// The best that this processor has.
    pub(super) fn detect() -> Self {
        Self::available().first().copied().unwrap_or(Self::Portable)
    }

    /// All that this processor has, the best first.
    pub(super) fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let popcnt = is_x86_feature_detected!("popcnt");
            if popcnt
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self::Avx512);
            }
            if popcnt && is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }
}

/// The squared distance of bytes; the compiler vectorises it for the features of its caller.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
pub(super) fn squares(a: &[u8], b: &[u8]) -> u32 {
    let (a, _) = a.as_chunks::<16>();
    let (b, _) = b.as_chunks::<16>();
    let mut sums = [0u32; 16];
    for (x, y) in a.iter().zip(b) {
        for lane in 0..16 {
            let apart = u16::from(x[lane].abs_diff(y[lane]));
            sums[lane] += u32::from(apart * apart);
        }
    }
    sums.iter().sum()
}

/// The number of bits that differ.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
pub(super) fn bits(a: &[u8], b: &[u8]) -> u32 {
    let (a, _) = a.as_chunks::<8>();
    let (b, _) = b.as_chunks::<8>();
    a.iter()
        .zip(b)
        .map(|(x, y)| (u64::from_ne_bytes(*x) ^ u64::from_ne_bytes(*y)).count_ones())
        .sum()
}

/// The squared distance of numbers of 32 bits, as bits: their order is that of the numbers.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the body takes on its caller's target features")]
pub(super) fn floats(a: &[u8], b: &[u8]) -> u32 {
    let (a, _) = a.as_chunks::<64>();
    let (b, _) = b.as_chunks::<64>();
    let mut sums = [0.0f32; 16];
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.as_chunks::<4>().0, y.as_chunks::<4>().0);
        for lane in 0..16 {
            let apart = f32::from_le_bytes(x[lane]) - f32::from_le_bytes(y[lane]);
            sums[lane] += apart * apart;
        }
    }
    sums.iter().sum::<f32>().to_bits()
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, __m512i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32,
        _mm256_abs_epi8, _mm256_add_epi32, _mm256_castsi256_si128, _mm256_extracti128_si256,
        _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16,
        _mm256_setzero_si256, _mm256_sub_epi8, _mm512_abs_epi8, _mm512_add_epi32,
        _mm512_castsi512_si256, _mm512_dpbusd_epi32, _mm512_extracti64x4_epi64, _mm512_loadu_si512,
        _mm512_reduce_add_epi32, _mm512_setzero_si512, _mm512_sub_epi8, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    /// [`super::squares`] with AVX-512.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn squares_avx512(a: &[u8], b: &[u8]) -> u32 {
        let (a, _) = a.as_chunks::<64>();
        let (b, _) = b.as_chunks::<64>();
        let add = |sum: __m512i, x: &[u8; 64], y: &[u8; 64]| {
            // SAFETY: both are 64 readable bytes, and these loads ask for no alignment.
            let (x, y) = unsafe {
                (_mm512_loadu_si512(x.as_ptr().cast()), _mm512_loadu_si512(y.as_ptr().cast()))
            };
            let apart = _mm512_abs_epi8(_mm512_sub_epi8(x, y));
            _mm512_dpbusd_epi32(sum, apart, apart)
        };
        // Two sums, since each has to wait for its last addition.
        let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        let (pairs_a, rest_a) = a.as_chunks::<2>();
        let (pairs_b, rest_b) = b.as_chunks::<2>();
        for ([x0, x1], [y0, y1]) in pairs_a.iter().zip(pairs_b) {
            even = add(even, x0, y0);
            odd = add(odd, x1, y1);
        }
        for (x, y) in rest_a.iter().zip(rest_b) {
            even = add(even, x, y);
        }
        _mm512_reduce_add_epi32(_mm512_add_epi32(even, odd)).cast_unsigned()
    }

    /// [`super::squares`] of a code and each of four, with AVX-512.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn four_squares_avx512(code: &[u8], others: [&[u8]; 4]) -> [u32; 4] {
        let chunks = code.len() / 64;
        assert!(others.iter().all(|other| other.len() >= chunks * 64));
        let mut sums = [_mm512_setzero_si512(); 4];
        for at in 0..chunks {
            // SAFETY: all have 64 readable bytes from here, and the load asks for no alignment.
            let x = unsafe { _mm512_loadu_si512(code.as_ptr().add(at * 64).cast()) };
            let mut four = 0;
            while four < 4 {
                // SAFETY: as above.
                let y = unsafe { _mm512_loadu_si512(others[four].as_ptr().add(at * 64).cast()) };
                let apart = _mm512_abs_epi8(_mm512_sub_epi8(x, y));
                sums[four] = _mm512_dpbusd_epi32(sums[four], apart, apart);
                four += 1;
            }
        }
        sums_of(sums)
    }

    /// The sum of the lanes of each: transposed, so that they are added side by side.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn sums_of([a, b, c, d]: [__m512i; 4]) -> [u32; 4] {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let quarters =
            _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let halves = _mm256_add_epi32(
            _mm512_castsi512_si256(quarters),
            _mm512_extracti64x4_epi64::<1>(quarters),
        );
        let sums =
            _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
        // SAFETY: both are 16 bytes, of which any are numbers.
        unsafe { std::mem::transmute::<__m128i, [u32; 4]>(sums) }
    }

    /// [`super::squares`] with AVX2.
    #[allow(clippy::cast_ptr_alignment, reason = "the loads ask for no alignment")]
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn squares_avx2(a: &[u8], b: &[u8]) -> u32 {
        let (a, _) = a.as_chunks::<32>();
        let (b, _) = b.as_chunks::<32>();
        let ones = _mm256_set1_epi16(1);
        let mut sum = _mm256_setzero_si256();
        for (x, y) in a.iter().zip(b) {
            // SAFETY: both are 32 readable bytes, and these loads ask for no alignment.
            let (x, y) = unsafe {
                (
                    _mm256_loadu_si256(std::ptr::from_ref(x).cast::<__m256i>()),
                    _mm256_loadu_si256(std::ptr::from_ref(y).cast::<__m256i>()),
                )
            };
            let apart = _mm256_abs_epi8(_mm256_sub_epi8(x, y));
            // Two squares of at most 127 fit into a signed number of 16 bits.
            let pairs = _mm256_maddubs_epi16(apart, apart);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
        sum_of(sum)
    }

    /// The sum of the lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn sum_of(sum: __m256i) -> u32 {
        let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b_01_00_11_10>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b_10_11_00_01>(two));
        _mm_cvtsi128_si32(one).cast_unsigned()
    }
}
