// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Codes: rows as one byte a dimension, or as they are if they are bits.
//!
//! Numbers have their mean taken off, are rotated, and cut to 128 steps of one scale for all dimensions,
//! so the distance of two codes is proportional to that of the rows and needs no number beside them.
//! [`nibbles`] are made from these. Where rows lie so close together that such codes do not tell them apart, numbers stay as they are.
//! Under dot a row gets one more dimension, which gives all rows the length of the longest: then the nearest
//! row is the one with the largest product (Bachrach et al., RecSys 2014).

use super::{column::Column, kernel::CODE_ALIGN, nibbles, rotation::Rotation};
use crate::{distance, types::Metric, vector::Row, vector_array::VectorArray};

/// Steps of a code.
const STEPS: f32 = 128.0;
/// Rows that mean and scale are taken from, at most.
const SAMPLE_MAX: usize = 4_096;
/// The part of all numbers that the scale may cut off.
const CUT_OFF: f64 = 1e-4;
const SEED: u64 = 0x5eed;

/// What a distance of codes counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Squared steps.
    Squares,
    /// Bits that differ.
    Bits,
    /// The square of the distance of numbers, as the bits of an `f32`.
    Floats,
    /// See [`nibbles`]: from a query to a code, not between two codes.
    Nibbles,
}

impl Kind {
    /// A distance as a number that can be multiplied.
    #[inline]
    pub(super) fn number(self, distance: u32) -> f32 {
        if self == Self::Floats { f32::from_bits(distance) } else { distance as f32 }
    }
}

/// The codes of all nodes, one after the other.
pub(super) struct Codes {
    kind: Kind,
    width: usize,
    bytes: Column<u8>,
    /// Of nibbles: a node's part of every distance to it.
    norms: Column<u32>,
    /// Of nibbles: how many steps of a byte one of their steps is.
    ratio: u32,
}

impl Codes {
    /// `bytes` are a multiple of `width`.
    pub(super) fn new(kind: Kind, width: usize, bytes: impl Into<Column<u8>>) -> Self {
        Self { kind, width, bytes: bytes.into(), norms: Vec::new().into(), ratio: 0 }
    }

    /// What nibbles need further: a norm for each code.
    pub(super) fn with_norms(self, ratio: u32, norms: Column<u32>) -> Self {
        Self { norms, ratio, ..self }
    }

    pub(super) fn norms(&self) -> &Column<u32> {
        &self.norms
    }

    pub(super) fn ratio(&self) -> u32 {
        self.ratio
    }

    /// Makes of the code that the codec gave a query what these codes are compared with.
    pub(super) fn prepare(&self, query: &mut Vec<u8>, codec: &Codec) {
        if let (Kind::Nibbles, Codec::Numbers(quantizer)) = (self.kind, codec) {
            nibbles::query(query, quantizer.mean.len(), self.ratio);
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of a code.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.width
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The code of a node.
    #[inline]
    pub(super) fn get(&self, node: u32) -> &[u8] {
        &self.bytes[node as usize * self.width..][..self.width]
    }
}

/// How rows become codes.
#[derive(Clone, Debug)]
pub(super) enum Codec {
    Numbers(Quantizer),
    /// Bits, in so many words.
    Bits {
        words: usize,
    },
    /// Numbers as they are, where a byte a dimension does not tell rows apart.
    Floats(Lift),
}

/// Rows that all have one length under dot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lift {
    /// Dimensions of a lifted row.
    pub(super) dim: usize,
    /// Length of the longest row under dot; 0 under the other metrics.
    pub(super) longest: f32,
}

/// How rows of numbers become codes.
#[derive(Clone, Debug)]
pub(super) struct Quantizer {
    lift: Lift,
    /// Of the rows, and under dot of the further dimension.
    pub(super) mean: Vec<f32>,
    /// What one step of a code stands for.
    pub(super) step: f32,
    rotation: Rotation,
}

impl Lift {
    fn fit(rows: &VectorArray, nodes: &[u32]) -> Self {
        let is_dot = rows.metric == Metric::Dot;
        let square = |row: &u32| {
            let row = rows.numbers(*row as usize);
            distance::dot(&row, &row)
        };
        let longest =
            if is_dot { nodes.iter().map(square).fold(0.0, f32::max).sqrt() } else { 0.0 };
        let dim = nodes.first().map_or(1, |&row| rows.numbers(row as usize).len());
        Self { dim: dim + usize::from(is_dot), longest }
    }

    /// The row, under dot with its further dimension.
    fn row(&self, row: &[f32], into: &mut Vec<f32>) {
        into.clear();
        into.extend_from_slice(row);
        if self.dim > row.len() {
            into.push((self.longest * self.longest - distance::dot(row, row)).max(0.0).sqrt());
        }
    }

    /// A query. Under dot its length does not change which row is nearest: it is made as long as the
    /// longest row, so that a scale that fits the rows fits it.
    fn query(&self, query: &[f32], into: &mut Vec<f32>) {
        into.clear();
        into.extend_from_slice(query);
        let length = distance::dot(query, query).sqrt();
        if self.dim > query.len() && length > 0.0 {
            let factor = self.longest / length;
            for x in into.iter_mut() {
                *x *= factor;
            }
        }
        into.resize(self.dim, 0.0);
    }
}

impl Quantizer {
    pub(super) fn new(longest: f32, mean: Vec<f32>, step: f32) -> Self {
        let (lift, rotation) = (Lift { dim: mean.len(), longest }, Rotation::new(mean.len(), SEED));
        Self { lift, mean, step, rotation }
    }

    pub(super) fn longest(&self) -> f32 {
        self.lift.longest
    }

    /// Fits mean and step to some of the rows `nodes`, which are in no particular order.
    fn fit(rows: &VectorArray, nodes: &[u32]) -> Self {
        let lift = Lift::fit(rows, nodes);
        let sample = &nodes[..nodes.len().min(SAMPLE_MAX)];
        let mut buffer = Vec::new();
        let mut sums = vec![0.0f64; lift.dim];
        for &row in sample {
            lift.row(&rows.numbers(row as usize), &mut buffer);
            for (sum, x) in sums.iter_mut().zip(&buffer) {
                *sum += f64::from(*x);
            }
        }
        let count = sample.len().max(1) as f64;
        let mean = sums.iter().map(|sum| (sum / count) as f32).collect();
        let mut this = Self::new(lift.longest, mean, 1.0);
        let mut sizes: Vec<f32> = Vec::with_capacity(sample.len() * lift.dim);
        for &row in sample {
            lift.row(&rows.numbers(row as usize), &mut buffer);
            this.centre(&mut buffer);
            sizes.extend(buffer.iter().map(|x| x.abs()));
        }
        if let Some(last) = sizes.len().checked_sub(1) {
            let at = last - (last as f64 * CUT_OFF) as usize;
            let (_, size, _) = sizes.select_nth_unstable_by(at, f32::total_cmp);
            this.step = (*size * 2.0 / STEPS).max(f32::MIN_POSITIVE);
        }
        this
    }

    fn centre(&self, row: &mut [f32]) {
        for (x, mean) in row.iter_mut().zip(&self.mean) {
            *x -= mean;
        }
        self.rotation.apply(row);
    }

    fn encode(&self, lifted: &mut [f32], code: &mut Vec<u8>) {
        self.centre(lifted);
        let scale = 1.0 / self.step;
        let start = code.len();
        code.resize(start + lifted.len(), 0);
        for (to, x) in code[start..].iter_mut().zip(lifted) {
            let step = (*x * scale + STEPS / 2.0).clamp(0.0, STEPS - 1.0);
            *to = step as i32 as u8;
        }
    }
}

impl Codec {
    /// Fits a codec to the rows that become nodes, which are in no particular order.
    pub(super) fn fit(rows: &VectorArray, nodes: &[u32]) -> Self {
        if rows.is_bits() {
            let words = nodes.first().map_or(1, |&row| rows.bits(row as usize).len());
            return Self::Bits { words };
        }
        Self::Numbers(Quantizer::fit(rows, nodes))
    }

    /// Numbers as they are.
    pub(super) fn floats(rows: &VectorArray, nodes: &[u32]) -> Self {
        Self::Floats(Lift::fit(rows, nodes))
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Numbers(_) => Kind::Squares,
            Self::Bits { .. } => Kind::Bits,
            Self::Floats(_) => Kind::Floats,
        }
    }

    /// Bytes of a code.
    pub(super) fn width(&self) -> usize {
        let bytes = match self {
            Self::Numbers(quantizer) => quantizer.mean.len(),
            Self::Bits { words } => words * 8,
            Self::Floats(lift) => lift.dim * 4,
        };
        bytes.next_multiple_of(CODE_ALIGN)
    }

    /// The codes of `nodes`.
    pub(super) fn encode_rows(&self, rows: &VectorArray, nodes: &[u32]) -> Codes {
        let width = self.width();
        let mut bytes = Vec::with_capacity(nodes.len() * width);
        let mut buffer = Vec::new();
        for (node, &row) in nodes.iter().enumerate() {
            match self {
                Self::Numbers(quantizer) => {
                    quantizer.lift.row(&rows.numbers(row as usize), &mut buffer);
                    quantizer.encode(&mut buffer, &mut bytes);
                }
                Self::Bits { .. } => bytes.extend_from_slice(rows.raw(row as usize)),
                Self::Floats(lift) => {
                    lift.row(&rows.numbers(row as usize), &mut buffer);
                    encode_floats(&buffer, &mut bytes);
                }
            }
            bytes.resize((node + 1) * width, 0);
        }
        Codes::new(self.kind(), width, bytes)
    }

    /// Makes `code` the code of a query.
    pub(super) fn encode_query(&self, query: &Row, buffer: &mut Vec<f32>, code: &mut Vec<u8>) {
        code.clear();
        match (self, query) {
            (Self::Numbers(quantizer), Row::Numbers(query)) => {
                quantizer.lift.query(query, buffer);
                quantizer.encode(buffer, code);
            }
            (Self::Floats(lift), Row::Numbers(query)) => {
                lift.query(query, buffer);
                encode_floats(buffer, code);
            }
            (Self::Bits { .. }, Row::Bits(query)) => encode_words(query, code),
            _ => debug_assert!(false, "a query of another space"),
        }
        code.resize(self.width(), 0);
    }
}

fn encode_words(words: &[u64], code: &mut Vec<u8>) {
    code.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn encode_floats(row: &[f32], code: &mut Vec<u8>) {
    code.extend(row.iter().flat_map(|x| x.to_le_bytes()));
}
