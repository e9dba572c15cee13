// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Files, slots, element types and metrics: the plain values that every other module speaks of.
//!
//! They depend on nothing, errors included, so that errors can name them.

use std::fmt;

/// A file. The caller decides what the number means; VexFS uses the inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// A vector's position in its file, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

/// How one element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// A signed byte, compared as a number.
    I8,
    /// One bit; eight to a byte, the first in the most significant bit, as `numpy.packbits` does.
    Bit,
    /// An unsigned byte, compared as a number.
    U8,
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::Bit => "bit",
            Self::U8 => "u8",
        })
    }
}

/// How two vectors are compared. In every metric a smaller distance is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum Metric {
    /// Euclidean distance; the root is taken.
    L2,
    /// `1 - cos`, from 0 (same direction) to 2 (opposite).
    Cosine,
    /// The negated dot product.
    Dot,
    /// The number of differing bits.
    Hamming,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Hamming => "hamming",
        })
    }
}
