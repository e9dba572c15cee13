// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Vector spaces, and how the bytes of a vector are decoded.
//!
//! Invariant: a decoded row can be compared with any other row of its space without NaN or
//! overflow; a vector that cannot is refused here, with the position of the element. Files and slots are
//! not known here.
//!
//! A row keeps its element type. Under cosine, rows of `f32` are normalised; a narrower type could not hold
//! the quotient, so its rows stay as they are and the inverse of their length is kept beside them.

use crate::{
    error::{IndexError, Result},
    types::{Element, Metric},
};

/// The most dimensions a vector may have.
pub const DIM_MAX: u32 = 65_536;
/// The sum of the squares of [`DIM_MAX`] larger elements could overflow.
const MAGNITUDE_MAX: f32 = 1e16;

/// What a file's vectors are and how they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct Space {
    /// Element type.
    pub element: Element,
    /// Metric.
    pub metric: Metric,
    /// Elements of a vector (bits for [`Element::Bit`]).
    pub dim: u32,
}

/// How a file's graphs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct Params {
    /// Of `hnsw_rs` only: links of a node in the upper layers, 2 to 64; the bottom layer has twice as
    /// many. A node of the flat graph has up to 32 whatever this says.
    pub m: u16,
    /// Candidates considered when a node is linked, 8 to 2000; the flat graph considers half as many.
    pub ef_construction: u16,
}

impl Default for Params {
    fn default() -> Self {
        Self { m: 16, ef_construction: 200 }
    }
}

impl Params {
    /// `validate()` - refuses parameters that no graph can be built with.
    pub fn validate(&self) -> Result<()> {
        if (2..=64).contains(&self.m) && (8..=2000).contains(&self.ef_construction) {
            return Ok(());
        }
        Err(IndexError::BadSpec(format!(
            "m={} and ef_construction={} must lie in 2..=64 and 8..=2000",
            self.m, self.ef_construction
        )))
    }
}

impl Space {
    /// `new(element, metric, dim)` - a space; [`validate`](Self::validate) tells whether it can be indexed.
    pub fn new(element: Element, metric: Metric, dim: u32) -> Self {
        Self { element, metric, dim }
    }

    /// `validate()` - refuses a space that no index can serve.
    pub fn validate(&self) -> Result<()> {
        if self.dim == 0 || self.dim > DIM_MAX {
            return Err(IndexError::BadSpec(format!(
                "{} dimensions, between 1 and {DIM_MAX} are supported",
                self.dim
            )));
        }
        if (self.element == Element::Bit) != (self.metric == Metric::Hamming) {
            return Err(IndexError::MetricMismatch { element: self.element, metric: self.metric });
        }
        Ok(())
    }

    /// `vector_bytes()` - bytes of one stored vector.
    pub fn vector_bytes(&self) -> usize {
        let dim = self.dim as usize;
        match self.element {
            Element::F32 => dim * 4,
            Element::F16 | Element::Bf16 => dim * 2,
            Element::I8 | Element::U8 => dim,
            Element::Bit => dim.div_ceil(8),
        }
    }

    /// Decodes one stored vector; `Ok(None)` for a zero vector under cosine: it has no direction.
    pub(crate) fn decode(self, raw: &[u8]) -> Result<Option<Row>> {
        if raw.len() != self.vector_bytes() {
            return Err(IndexError::VectorLength {
                expected: self.vector_bytes(),
                given: raw.len(),
                element: self.element,
                dim: self.dim,
            });
        }
        if self.element == Element::Bit {
            return Ok(Some(Row::Bits(pack_bits(raw, self.dim as usize))));
        }
        let mut row = decode_numbers(self.element, raw);
        if self.element == Element::F32 {
            return Ok(self.admit(&mut row)?.then_some(Row::Numbers(row)));
        }
        self.check(&row)?;
        let mut bytes = raw.to_vec();
        if self.metric != Metric::Cosine {
            return Ok(Some(Row::Narrow { bytes, inverse: 1.0 }));
        }
        if self.element == Element::Bf16 {
            row = within_range(row, &mut bytes);
        }
        let length = length(&row);
        let inverse = (1.0 / length) as f32;
        Ok((length > 0.0).then_some(Row::Narrow { bytes, inverse }))
    }

    /// Turns a query into a row of this space.
    pub(crate) fn decode_query(self, query: &[f32]) -> Result<Row> {
        if self.element == Element::Bit {
            let mut raw = vec![0u8; query.len().div_ceil(8)];
            for (position, &value) in query.iter().enumerate() {
                let one = value.to_bits() == 1.0f32.to_bits();
                if !one && value.abs().to_bits() != 0 {
                    return Err(IndexError::NotABit { position, value });
                }
                raw[position / 8] |= if one { 0x80 >> (position % 8) } else { 0 };
            }
            return Ok(Row::Bits(pack_bits(&raw, query.len())));
        }
        let mut row = query.to_vec();
        if self.admit(&mut row)? { Ok(Row::Numbers(row)) } else { Err(IndexError::ZeroQuery) }
    }

    fn check(self, row: &[f32]) -> Result<()> {
        // Which number is wrong is looked for only if one is: this loop has no exit.
        let most = if self.metric == Metric::Cosine { f32::MAX } else { MAGNITUDE_MAX };
        if row.iter().fold(true, |good, value| good & (value.abs() <= most)) {
            return Ok(());
        }
        for (position, &value) in row.iter().enumerate() {
            if !value.is_finite() {
                return Err(IndexError::NotFinite { position, value });
            }
            if self.metric != Metric::Cosine && value.abs() > MAGNITUDE_MAX {
                return Err(IndexError::TooLarge { position, value });
            }
        }
        Ok(())
    }

    /// Checks the elements and normalises them under cosine; false for a zero vector under cosine.
    fn admit(self, row: &mut [f32]) -> Result<bool> {
        self.check(row)?;
        if self.metric != Metric::Cosine {
            return Ok(true);
        }
        let length = length(row);
        if length == 0.0 {
            return Ok(false);
        }
        let inverse = 1.0 / length;
        for x in row.iter_mut() {
            *x = (f64::from(*x) * inverse) as f32;
        }
        Ok(true)
    }
}

/// The length of a row. As `f64`, the square of no `f32` overflows or becomes zero.
fn length(row: &[f32]) -> f64 {
    // In lanes, so that an addition need not wait for the one before.
    let mut sums = [0.0f64; 8];
    let (chunks, rest) = row.as_chunks::<8>();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    let rest = rest.iter().map(|&x| f64::from(x) * f64::from(x));
    rest.chain(sums).sum::<f64>().sqrt()
}

/// Scales a row whose largest number is very large or very small by a power of two, so that neither its
/// length nor a product is out of range: only the direction counts. Other rows stay as they are.
fn within_range(mut row: Vec<f32>, bytes: &mut [u8]) -> Vec<f32> {
    const FAR: i32 = 32;
    let largest = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let exponent = f64::from(largest).log2().floor();
    if largest == 0.0 || exponent.abs() <= f64::from(FAR) {
        return row;
    }
    let factor = (-exponent).exp2();
    for (x, pair) in row.iter_mut().zip(bytes.as_chunks_mut::<2>().0) {
        let scaled = ((f64::from(*x) * factor) as f32).to_bits() >> 16;
        *pair = (scaled as u16).to_le_bytes();
        *x = f32::from_bits(scaled << 16);
    }
    row
}

/// One decoded vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Row {
    /// A row of `f32`, or a query.
    Numbers(Vec<f32>),
    /// Bits: little-endian words of the file's bytes.
    Bits(Vec<u64>),
    /// A row of a narrower type, and the inverse of its length; 1 if it is not asked for.
    Narrow { bytes: Vec<u8>, inverse: f32 },
}

impl Row {
    /// The row as a query: numbers as they are, bits as 0 and 1.
    pub(crate) fn to_query(&self, dim: usize) -> Vec<f32> {
        match self {
            Self::Numbers(row) => row.clone(),
            Self::Bits(words) => (0..dim)
                // The first bit is the most significant one of the first byte.
                .map(|i| if words[i / 64] >> ((i % 64) ^ 7) & 1 == 1 { 1.0 } else { 0.0 })
                .collect(),
            // Only the array that a row is in knows its type, and gives it out as numbers.
            Self::Narrow { .. } => Vec::new(),
        }
    }
}

pub(crate) fn decode_numbers(element: Element, raw: &[u8]) -> Vec<f32> {
    let pairs = || raw.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match element {
        Element::F32 => {
            raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        Element::F16 => pairs().map(half_to_f32).collect(),
        Element::Bf16 => pairs().map(|h| f32::from_bits(u32::from(h) << 16)).collect(),
        Element::I8 => raw.iter().map(|&b| f32::from(b.cast_signed())).collect(),
        Element::U8 => raw.iter().map(|&b| f32::from(b)).collect(),
        Element::Bit => Vec::new(),
    }
}

/// Packs bits into little-endian words, so that the words' bytes are the file's. Bits past the last dimension
/// are cleared, so that padding never counts as a difference.
fn pack_bits(raw: &[u8], dim: usize) -> Vec<u64> {
    let mut words: Vec<u64> = raw
        .chunks(8)
        .map(|chunk| {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        })
        .collect();
    if let (Some(last), used @ 1..) = (words.last_mut(), dim % 64) {
        *last &= (!0u64 << (64 - used)).swap_bytes();
    }
    words
}

/// IEEE binary16 to binary32; exact, since every half is a single.
fn half_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let exponent = u32::from(half >> 10) & 0x1f;
    let mantissa = u32::from(half) & 0x3ff;
    match exponent {
        0 => {
            // A subnormal half is mantissa * 2^-24: a normal number as a single.
            let magnitude = mantissa as f32 * f32::from_bits((127 - 24) << 23);
            f32::from_bits(sign | magnitude.to_bits())
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_decode_to_their_published_values() {
        for (half, value) in [
            (0x3c00u16, 1.0f32),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x8000, -0.0),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(half_to_f32(half).to_bits(), value.to_bits(), "{half:#x}");
        }
        assert!(half_to_f32(0x7e00).is_nan());
        assert_eq!(half_to_f32(0xfc00).to_bits(), f32::NEG_INFINITY.to_bits());
    }

    #[test]
    fn a_nan_names_its_position_and_a_short_vector_both_lengths() {
        let spec = Space::new(Element::F32, Metric::L2, 3);
        let raw: Vec<u8> = [1.0f32, f32::NAN, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert!(matches!(spec.decode(&raw), Err(IndexError::NotFinite { position: 1, .. })));
        let text = spec.decode(&raw[..8]).unwrap_err().to_string();
        assert!(text.contains("8 bytes") && text.contains("12"), "{text}");
    }

    #[test]
    fn padding_bits_do_not_count() {
        let spec = Space::new(Element::Bit, Metric::Hamming, 12);
        assert_eq!(spec.decode(&[0xab, 0xcf]).unwrap(), spec.decode(&[0xab, 0xc0]).unwrap());
        let row = spec.decode(&[0xab, 0xc0]).unwrap().unwrap();
        assert_eq!(spec.decode_query(&row.to_query(12)).unwrap(), row);
    }

    #[test]
    fn cosine_normalises_extremes_and_knows_zero() {
        let spec = Space::new(Element::F32, Metric::Cosine, 2);
        for scale in [f32::MAX, 1e-45] {
            let row = spec.decode_query(&[scale, 0.0]).unwrap();
            assert_eq!(row, Row::Numbers(vec![1.0, 0.0]));
        }
        assert!(spec.decode(&[0; 8]).unwrap().is_none());
        assert!(matches!(spec.decode_query(&[0.0, 0.0]), Err(IndexError::ZeroQuery)));
    }

    #[test]
    fn narrow_rows_keep_their_bytes_and_know_their_length() {
        for (element, raw) in [
            (Element::I8, vec![3u8, 0xfc]),
            (Element::U8, vec![3, 4]),
            (Element::F16, vec![0x00, 0x42, 0x00, 0xc4]),
            (Element::Bf16, vec![0x40, 0x40, 0x80, 0xc0]),
        ] {
            let row = Space::new(element, Metric::Cosine, 2).decode(&raw).unwrap().unwrap();
            assert_eq!(row, Row::Narrow { bytes: raw, inverse: 0.2 }, "{element}");
        }
        let zero = Space::new(Element::U8, Metric::Cosine, 2).decode(&[0, 0]);
        assert!(zero.unwrap().is_none());
    }

    #[test]
    fn bf16_extremes_are_scaled_to_where_their_length_is_a_number() {
        let spec = Space::new(Element::Bf16, Metric::Cosine, 2);
        for value in [3.0e38f32, 1.2e-38, 9.2e-41] {
            let raw = [value, -value].map(|x| (x.to_bits() >> 16) as u16).map(u16::to_le_bytes);
            let Some(Row::Narrow { bytes, inverse }) = spec.decode(&raw.concat()).unwrap() else {
                panic!("{value}");
            };
            let normal = decode_numbers(Element::Bf16, &bytes);
            assert!((normal[0] * inverse - 0.5f32.sqrt()).abs() < 1e-6, "{value} {normal:?}");
            assert!((normal[0] + normal[1]).abs() < 1e-6);
        }
    }

    #[test]
    fn hamming_is_for_bits_only() {
        for (element, metric) in [(Element::F32, Metric::Hamming), (Element::Bit, Metric::L2)] {
            assert!(Space::new(element, metric, 8).validate().is_err());
        }
    }
}
