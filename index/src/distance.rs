// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The distances of rows and queries, straight on the bytes that a row has in its file.
//!
//! A *rank* orders rows as the metric does but is cheaper, since no root is taken; it becomes the
//! metric's distance once per hit. The loops are in [`kernels`], one for each element type and set of
//! instructions, chosen at run time.
//!
//! Invariant: which instructions a processor has changes no rank. Whole numbers are summed exactly;
//! floating-point ones in one order, in 32 lanes, without fused operations. Distances of whole numbers
//! that agree in their first 24 bits have equal ranks; equal ranks are ordered by file and slot.

mod kernels;

use std::sync::LazyLock;

use zerocopy::IntoBytes;

use crate::types::{Element, Metric};
pub(crate) use kernels::Isa;

static ISA: LazyLock<Isa> = LazyLock::new(|| Isa::available()[0]);

/// A loop over a row's bytes and a query's numbers.
type OfNumbers = unsafe fn(&[u8], &[f32]) -> f32;
/// A loop over the bytes of two rows.
type OfBytes = unsafe fn(&[u8], &[u8]) -> u32;

/// A query, and the loop that compares it with the rows of one space.
pub(crate) struct Ranker {
    metric: Metric,
    query: Query,
}

enum Query {
    Numbers {
        query: Vec<f32>,
        kernel: OfNumbers,
    },
    /// The query consists of elements of the row's type; `signed` tells how the kernel's sum is read.
    Whole {
        query: Vec<u8>,
        kernel: OfBytes,
        signed: bool,
    },
    Bits {
        query: Vec<u8>,
        kernel: OfBytes,
    },
}

impl Ranker {
    /// For a query of numbers; under cosine it is normalised.
    pub(crate) fn numbers(metric: Metric, element: Element, query: &[f32]) -> Self {
        Self::numbers_with(*ISA, metric, element, query)
    }

    fn numbers_with(isa: Isa, metric: Metric, element: Element, query: &[f32]) -> Self {
        let l2 = metric == Metric::L2;
        let query = match whole(element, query) {
            Some(whole) if metric != Metric::Cosine => {
                let signed = element == Element::I8 && !l2;
                Query::Whole { query: whole, kernel: kernels::whole(isa, element, l2), signed }
            }
            _ => {
                let kernel = kernels::numbers(isa, element, l2);
                Query::Numbers { query: query.to_vec(), kernel }
            }
        };
        Self { metric, query }
    }

    /// For a query of bits, in words of 64.
    pub(crate) fn bits(query: &[u64]) -> Self {
        let query = query.iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { metric: Metric::Hamming, query: Query::Bits { query, kernel: kernels::bits(*ISA) } }
    }

    /// The rank of a row, given as its bytes and the inverse of its length: 1 if it is normalised, and
    /// not used but under cosine.
    #[inline]
    pub(crate) fn rank(&self, row: &[u8], inverse: f32) -> f32 {
        match &self.query {
            Query::Numbers { query, kernel } => {
                // SAFETY: the kernel was chosen for instructions that `Isa::available` has found.
                rank_of(self.metric, unsafe { kernel(row, query) }, inverse)
            }
            Query::Whole { query, kernel, signed } => {
                // SAFETY: as above.
                let sum = unsafe { kernel(row, query) };
                let sum = if *signed { sum.cast_signed() as f32 } else { sum as f32 };
                rank_of(self.metric, sum, inverse)
            }
            // SAFETY: as above.
            Query::Bits { query, kernel } => (unsafe { kernel(row, query) }) as f32,
        }
    }
}

#[inline]
fn rank_of(metric: Metric, sum: f32, inverse: f32) -> f32 {
    match metric {
        Metric::L2 => sum,
        // Rounding can make the result negative by an ulp.
        Metric::Cosine => (1.0 - sum * inverse).max(0.0),
        // Subtracted from zero, not negated: -0.0 sorts before 0.0 and would split a tie.
        Metric::Dot | Metric::Hamming => 0.0 - sum,
    }
}

/// The query as elements of an integer type, if all its numbers are such elements.
fn whole(element: Element, query: &[f32]) -> Option<Vec<u8>> {
    let same = |back: f32, x: f32| back.to_bits() == (x + 0.0).to_bits();
    let one = |x: &f32| match element {
        Element::I8 => same(f32::from(*x as i8), *x).then_some((*x as i8).cast_unsigned()),
        Element::U8 => same(f32::from(*x as u8), *x).then_some(*x as u8),
        _ => None,
    };
    query.iter().map(one).collect()
}

/// Asks for the cache lines of `values`, so that reading them a little later does not wait.
#[inline(always)]
#[allow(clippy::inline_always, reason = "a few instructions")]
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = values.as_ptr().cast::<i8>();
        for line in (0..size_of_val(values)).step_by(64) {
            // SAFETY: a prefetch reads nothing that the program sees, and faults at no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// `dot(a, b)` - the dot product of two rows of one length.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the kernel was chosen for instructions that `Isa::available` has found.
    unsafe { kernels::numbers(*ISA, Element::F32, false)(a.as_bytes(), b) }
}

/// `l2_squared(a, b)` - the squared euclidean distance of two rows of one length.
pub(crate) fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: as in `dot`.
    unsafe { kernels::numbers(*ISA, Element::F32, true)(a.as_bytes(), b) }
}

/// `hamming(a, b)` - the number of differing bits.
pub(crate) fn hamming(a: &[u64], b: &[u64]) -> u32 {
    // SAFETY: as in `dot`.
    unsafe { kernels::bits(*ISA)(a.as_bytes(), b.as_bytes()) }
}

/// The rank of two number rows under a metric; under cosine they are normalised.
pub(crate) fn rank_numbers(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    let sum = if metric == Metric::L2 { l2_squared(a, b) } else { dot(a, b) };
    rank_of(metric, sum, 1.0)
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
    use crate::vector::decode_numbers;

    const NUMBERS: [Element; 5] =
        [Element::F32, Element::F16, Element::Bf16, Element::I8, Element::U8];

    /// Bytes that are a finite number in every element type.
    fn bytes(count: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        // The exponent of a half stays below 16, that of a single near its middle.
        (0..count).map(|i| if i % 2 == 1 { next() & 0xbf } else { next() }).collect()
    }

    fn width(element: Element) -> usize {
        crate::vector::Space::new(element, Metric::L2, 1).vector_bytes()
    }

    #[test]
    fn every_set_of_instructions_gives_the_same_ranks_at_every_length() {
        for element in NUMBERS {
            for n in (0..140usize).chain([384, 1000]) {
                let row = bytes(n * width(element), 7 + n as u32);
                let other = decode_numbers(element, &bytes(n * width(element), 99));
                let half: Vec<f32> = other.iter().map(|x| x * 0.5).collect();
                for metric in [Metric::L2, Metric::Dot, Metric::Cosine] {
                    for query in [&other, &half] {
                        let ranks: Vec<u32> = Isa::available()
                            .into_iter()
                            .map(|isa| Ranker::numbers_with(isa, metric, element, query))
                            .map(|ranker| ranker.rank(&row, 0.25).to_bits())
                            .collect();
                        assert!(
                            ranks.iter().all(|rank| *rank == ranks[0]),
                            "{element} {metric} of {n}: {ranks:x?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn ranks_are_those_of_the_decoded_numbers() {
        for element in NUMBERS {
            for n in [1usize, 5, 31, 32, 33, 100, 385] {
                let row = bytes(n * width(element), 5);
                let query = decode_numbers(element, &bytes(n * width(element), 77));
                let numbers = decode_numbers(element, &row);
                let pairs =
                    || numbers.iter().zip(&query).map(|(a, b)| (f64::from(*a), f64::from(*b)));
                let l2: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
                let dot: f64 = pairs().map(|(a, b)| a * b).sum();
                let size: f64 = pairs().map(|(a, b)| (a * b).abs()).sum();
                let rank =
                    |metric| f64::from(Ranker::numbers(metric, element, &query).rank(&row, 1.0));
                assert!((rank(Metric::L2) - l2).abs() <= l2 * 1e-5 + 1e-37, "{element} l2 of {n}");
                assert!(
                    (rank(Metric::Dot) + dot).abs() <= size * 1e-5 + 1e-37,
                    "{element} dot of {n}"
                );
            }
        }
    }

    /// The largest sums: nothing overflows, and nothing is rounded before the sum is complete.
    #[allow(clippy::float_cmp, reason = "the sums are exact")]
    #[test]
    fn whole_numbers_are_summed_exactly() {
        let dim = crate::vector::DIM_MAX as usize;
        for isa in Isa::available() {
            let rank = |metric, element, row: u8, query: f32| {
                let ranker = Ranker::numbers_with(isa, metric, element, &vec![query; dim]);
                assert!(matches!(ranker.query, Query::Whole { .. }));
                ranker.rank(&vec![row; dim], 1.0)
            };
            let dim = dim as f32;
            assert_eq!(rank(Metric::L2, Element::U8, 255, 0.0), 65025.0 * dim);
            assert_eq!(rank(Metric::Dot, Element::U8, 255, 255.0), -65025.0 * dim);
            assert_eq!(rank(Metric::L2, Element::I8, 0x80, 127.0), 65025.0 * dim);
            assert_eq!(rank(Metric::Dot, Element::I8, 0x80, -128.0), -16384.0 * dim);
            assert_eq!(rank(Metric::Dot, Element::I8, 0x80, 127.0), 16256.0 * dim);
        }
    }

    #[test]
    fn a_query_that_is_not_of_the_element_type_is_compared_as_numbers() {
        for (element, query) in [
            (Element::I8, 128.0),
            (Element::I8, 0.5),
            (Element::U8, -1.0),
            (Element::U8, 256.0),
            (Element::F16, 1.0),
        ] {
            assert!(whole(element, &[0.0, query]).is_none(), "{element} {query}");
        }
        assert_eq!(whole(Element::I8, &[-0.0, -128.0, 127.0]), Some(vec![0, 0x80, 127]));
    }

    #[test]
    fn hamming_counts_differing_bits() {
        assert_eq!(hamming(&[0b1011, !0], &[0b0010, 0]), 66);
        for isa in Isa::available() {
            let (a, b) = (bytes(8 * 33, 1), bytes(8 * 33, 2));
            let truth: u32 = a.iter().zip(&b).map(|(x, y)| (x ^ y).count_ones()).sum();
            // SAFETY: `Isa::available` has found the instructions.
            assert_eq!(unsafe { kernels::bits(isa)(&a, &b) }, truth);
        }
    }
}
