// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The vector attribute: how the records of a file are read as vectors.
//!
//! Its text form, such as `type=f32,dim=384,metric=cosine`, is the value of `setfattr -n vexfs.vector`
//! and `getfattr`. The engine stores the attribute and never reads a vector: what a file's contents are
//! is for the index to find out.
//!
//! Invariant: the vector flags of an inode, its item and all its extents agree in every commit, also when
//! a file that has contents is marked or its mark is taken away.

use super::extents::Extent;
use super::inode::Inode;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tree::parse_item;
use crate::types::Time;
use crate::volume::{Need, Volume};
use alloc::vec::Vec;
use core::fmt;
use vexfs_format::features::INCOMPAT_VECTOR_U8;
use vexfs_format::item::{EXTENT_VECTOR, VECTOR_AUTO_HEADER, VECTOR_KNOWN};
use vexfs_format::{Ino, Key, Kind, VectorItem};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Most elements of a vector.
pub const DIM_MAX: u32 = 65_536;
/// Longest record, in bytes.
const STRIDE_MAX: u32 = 1 << 20;
/// Least and most links of a node.
const M: core::ops::RangeInclusive<u16> = 2..=64;
/// Least and most candidates while an index is built.
const EF_CONSTRUCTION: core::ops::RangeInclusive<u16> = 8..=2000;
/// Most extents of a file with contents that can be marked: all are changed in one commit.
const MARKED_EXTENTS_MAX: usize = 256;

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $byte:literal $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// Its name in an attribute's text.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            const fn byte(self) -> u8 {
                match self { $(Self::$variant => $byte),* }
            }

            const fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($byte => Some(Self::$variant),)* _ => None }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

named! {
    /// Type of a vector's elements.
    Element {
        /// IEEE 754 binary32.
        F32 = 1 "f32",
        /// IEEE 754 binary16.
        F16 = 2 "f16",
        /// The upper half of a binary32.
        Bf16 = 3 "bf16",
        /// Signed byte.
        I8 = 4 "i8",
        /// One bit, eight to a byte, the first in the highest bit, as `numpy.packbits` does it.
        Bit = 5 "bit",
        /// Unsigned byte.
        U8 = 6 "u8",
    }
}
named! {
    /// Distance of two vectors.
    Metric {
        /// Euclidean.
        L2 = 1 "l2",
        /// One minus the cosine of the angle.
        Cosine = 2 "cosine",
        /// Minus the inner product.
        Dot = 3 "dot",
        /// Bits that differ.
        Hamming = 4 "hamming",
    }
}

impl Element {
    /// Bytes of a vector of `dim` elements.
    #[must_use]
    pub const fn vector_bytes(self, dim: u32) -> u32 {
        match self {
            Self::F32 => dim.saturating_mul(4),
            Self::F16 | Self::Bf16 => dim.saturating_mul(2),
            Self::I8 | Self::U8 => dim,
            Self::Bit => dim.div_ceil(8),
        }
    }
}

/// The layout of a file of vectors: record `i` starts at `header + i * stride`, its vector `offset` bytes later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VectorLayout {
    /// Type of the elements.
    pub element: Element,
    /// Distance.
    pub metric: Metric,
    /// Elements of a vector.
    pub dim: u32,
    /// Bytes before the first record.
    pub header: u64,
    /// Bytes from one record to the next.
    pub stride: u32,
    /// Bytes from a record's start to its vector.
    pub offset: u32,
    /// The file's contents say what it is and where its records begin. Without it they are raw: records
    /// begin after `header` bytes, whatever these are.
    pub auto_header: bool,
    /// Index parameter: links of a node, 2 to 64; 0 leaves it to the index.
    pub m: u16,
    /// Index parameter: width of the search while building, 8 to 2000; 0 leaves it to the index.
    pub ef_construction: u16,
}

impl VectorLayout {
    /// Parses the text form: `type=f32,dim=384,metric=cosine` and, optionally, `header=BYTES|auto`,
    /// `stride=BYTES`, `offset=BYTES`, `m=N`, `ef_construction=N`. The word `raw` means `header=0`.
    ///
    /// # Errors
    /// [`Error::Invalid`], which says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut element, mut metric, mut dim) = (None, None, None);
        let (mut header, mut auto_header) = (0u64, true);
        let (mut stride, mut offset, mut m, mut ef) = (None, 0u32, 0u16, 0u16);
        for field in text.trim_matches(['\0', '\n', ' ']).split(',') {
            if field.trim() == "raw" {
                (header, auto_header) = (0, false);
                continue;
            }
            let Some((name, value)) = field.split_once('=') else {
                return Err(Error::Invalid(
                    "vexfs.vector: every field is NAME=VALUE, as in 'type=f32,dim=384,metric=cosine'",
                ));
            };
            match name.trim() {
                "type" => {
                    element = Some(Element::from_name(value).ok_or(Error::Invalid(
                        "vexfs.vector: type is one of f32, f16, bf16, i8, u8, bit",
                    ))?);
                }
                "metric" => {
                    metric = Some(Metric::from_name(value).ok_or(Error::Invalid(
                        "vexfs.vector: metric is one of l2, cosine, dot, hamming",
                    ))?);
                }
                "dim" => dim = Some(number(value)?),
                "header" if value == "auto" => auto_header = true,
                "header" => {
                    header = number(value)?;
                    auto_header = false;
                }
                "stride" => stride = Some(number(value)?),
                "offset" => offset = number(value)?,
                "m" => m = number(value)?,
                "ef_construction" => ef = number(value)?,
                _ => {
                    return Err(Error::Invalid(
                        "vexfs.vector: the fields are type, dim, metric, header, stride, offset, m, ef_construction, and the word raw",
                    ));
                }
            }
        }
        let element = element.ok_or(Error::Invalid("vexfs.vector: 'type=' is missing"))?;
        let dim: u32 = dim.ok_or(Error::Invalid("vexfs.vector: 'dim=' is missing"))?;
        let metric =
            metric.unwrap_or(if element == Element::Bit { Metric::Hamming } else { Metric::L2 });
        let bytes = element.vector_bytes(dim);
        let layout = Self {
            element,
            metric,
            dim,
            header,
            stride: stride.unwrap_or(offset.saturating_add(bytes)),
            offset,
            auto_header,
            m,
            ef_construction: ef,
        };
        layout.check()?;
        layout.check_parameters()?;
        Ok(layout)
    }

    /// The index's limits. An attribute that was stored before they were checked is not damaged by them.
    fn check_parameters(&self) -> Result<()> {
        if self.m != 0 && !M.contains(&self.m) {
            return Err(Error::Invalid("vexfs.vector: m is 2 to 64, or 0 for the index's own"));
        }
        if self.ef_construction != 0 && !EF_CONSTRUCTION.contains(&self.ef_construction) {
            return Err(Error::Invalid(
                "vexfs.vector: ef_construction is 8 to 2000, or 0 for the index's own",
            ));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.dim == 0 || self.dim > DIM_MAX {
            return Err(Error::Invalid("vexfs.vector: dim is 1 to 65536"));
        }
        if (self.element == Element::Bit) != (self.metric == Metric::Hamming) {
            return Err(Error::Invalid(
                "vexfs.vector: metric hamming goes with type bit, and only with it",
            ));
        }
        if self.stride > STRIDE_MAX || self.offset.saturating_add(self.vector_bytes()) > self.stride
        {
            return Err(Error::Invalid(
                "vexfs.vector: stride holds offset and vector, and is at most 1048576",
            ));
        }
        if self.header > i64::MAX as u64 / 2 {
            return Err(Error::Invalid("vexfs.vector: header is too long"));
        }
        Ok(())
    }

    /// Bytes of one vector.
    #[must_use]
    pub const fn vector_bytes(&self) -> u32 {
        self.element.vector_bytes(self.dim)
    }

    pub(crate) fn from_item(item: &VectorItem) -> Result<Self> {
        const WRONG: Error = Error::damaged("a vector attribute is malformed");
        let layout = Self {
            element: Element::from_byte(item.element).ok_or(WRONG)?,
            metric: Metric::from_byte(item.metric).ok_or(WRONG)?,
            dim: item.dim.get(),
            header: item.header.get(),
            stride: item.stride.get(),
            offset: item.offset.get(),
            auto_header: item.flags.get() & VECTOR_AUTO_HEADER != 0,
            m: item.m.get(),
            ef_construction: item.ef_construction.get(),
        };
        if item.flags.get() & !VECTOR_KNOWN != 0 {
            return Err(WRONG);
        }
        layout.check().map_err(|_| WRONG)?;
        Ok(layout)
    }

    fn to_item(self) -> VectorItem {
        VectorItem {
            element: self.element.byte(),
            metric: self.metric.byte(),
            flags: U16::new(if self.auto_header { VECTOR_AUTO_HEADER } else { 0 }),
            dim: U32::new(self.dim),
            header: U64::new(self.header),
            stride: U32::new(self.stride),
            offset: U32::new(self.offset),
            m: U16::new(self.m),
            ef_construction: U16::new(self.ef_construction),
            reserved: [0; 20],
        }
    }
}

fn number<T: core::str::FromStr>(text: &str) -> Result<T> {
    text.trim()
        .parse()
        .map_err(|_| Error::Invalid("vexfs.vector: a number is malformed or too large"))
}

impl fmt::Display for VectorLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (element, metric) = (self.element.name(), self.metric.name());
        write!(f, "type={element},dim={},metric={metric}", self.dim)?;
        if !self.auto_header {
            write!(f, ",header={}", self.header)?;
        }
        if self.offset != 0 || self.stride != self.vector_bytes() {
            write!(f, ",stride={},offset={}", self.stride, self.offset)?;
        }
        if self.m != 0 {
            write!(f, ",m={}", self.m)?;
        }
        if self.ef_construction != 0 {
            write!(f, ",ef_construction={}", self.ef_construction)?;
        }
        Ok(())
    }
}

impl<D: Device> Volume<D> {
    pub(crate) fn vector_item(&self, ino: Ino) -> Result<Option<VectorItem>> {
        match self.tree()?.get(Key::new(ino, Kind::Vector, 0))? {
            Some(payload) => {
                parse_item(payload, "a vector attribute has the wrong length").map(Some)
            }
            None => Ok(None),
        }
    }

    /// The vector attribute of a file or directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Miss`].
    pub fn vector(&self, ino: Ino) -> Result<Option<VectorLayout>> {
        if !self.inode(ino)?.vector {
            return Ok(None);
        }
        self.vector_item(ino)?.as_ref().map(VectorLayout::from_item).transpose()
    }

    /// The extents whose flag changes if the file is marked or its mark taken away.
    fn marked_extents(&self, inode: &Inode, marked: bool) -> Result<Vec<Extent>> {
        if inode.vector == marked || !inode.is_file() {
            return Ok(Vec::new());
        }
        let (extents, more) =
            self.overlapping(inode.ino, 0, u64::MAX, MARKED_EXTENTS_MAX, |_| true)?;
        if more {
            return Err(Error::Invalid(
                "vexfs.vector: the file lies in more than 256 pieces: copy it, and mark the copy",
            ));
        }
        Ok(extents)
    }

    /// Sets or removes the vector attribute of a file or directory. New files and directories in a
    /// directory inherit its attribute. A file may have contents: they stay where they are.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a layout that cannot be, or a file in more than 256 extents that gets or
    /// loses its mark; [`Error::NotSupported`] on anything but a file or directory; those of every change.
    pub fn set_vector(&mut self, ino: Ino, layout: Option<&VectorLayout>, now: Time) -> Result<()> {
        if let Some(layout) = layout {
            layout.check()?;
            if layout.element == Element::U8 && self.geometry().incompat & INCOMPAT_VECTOR_U8 == 0 {
                return Err(Error::Invalid(
                    "vexfs.vector: type u8 needs a filesystem with the feature vector_u8: make one with mkfs.vexfs",
                ));
            }
        }
        let marked = layout.is_some();
        let extents = self.marked_extents(&self.inode(ino)?, marked)?;
        let need = if marked { Need::growth() } else { Need::upkeep() };
        // Each extent may lie on a path of its own.
        let leaves = extents.len() as u64 * self.tree()?.levels();
        let plan = self.begin(need.with_leaves(leaves))?;
        let mut inode = plan.inode(ino)?;
        if !inode.is_dir() && !inode.is_file() {
            return Err(Error::NotSupported);
        }
        let key = Key::new(ino, Kind::Vector, 0);
        plan.tree()?.touch(key)?;
        for extent in &extents {
            plan.tree()?.touch(Key::new(ino, Kind::Extent, extent.start))?;
        }
        inode.vector = marked;
        inode.changed(now);
        plan.change(|change| {
            match layout {
                Some(layout) => change.put(key, layout.to_item().as_bytes())?,
                None => {
                    change.remove(key)?;
                }
            }
            for mut extent in extents {
                extent.flags ^= EXTENT_VECTOR;
                change.put_extent(ino, &extent)?;
            }
            change.put_inode(&inode)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn text_round_trips() {
        for text in [
            "type=f32,dim=384,metric=cosine",
            "type=f16,dim=7,metric=dot,header=128",
            "type=f32,dim=128,metric=l2,header=0,stride=516,offset=4",
            "type=bit,dim=1024,metric=hamming,m=24,ef_construction=200",
            "type=u8,dim=128,metric=l2,m=64,ef_construction=2000",
        ] {
            let layout = VectorLayout::parse(text).unwrap();
            assert_eq!(layout.to_string(), text);
            assert_eq!(VectorLayout::from_item(&layout.to_item()).unwrap(), layout);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "type=f32",
            "dim=3",
            "type=f64,dim=3",
            "type=f32,dim=0",
            "type=f32,dim=3,metric=x",
            "type=bit,dim=8,metric=l2",
            "type=f32,dim=8,stride=4",
            "type=f32,dim=99999999999",
            "type=f32,dim=8,colour=red",
            "type=f32,dim=8,m=1",
            "type=f32,dim=8,m=65",
            "type=f32,dim=8,ef_construction=7",
            "type=f32,dim=8,ef_construction=2001",
        ] {
            assert!(VectorLayout::parse(text).is_err(), "{text}");
        }
    }

    // Limits that came later must not turn a filesystem that was good into a damaged one.
    #[test]
    fn a_stored_parameter_beyond_the_limits_is_no_damage() {
        let layout = VectorLayout::parse("type=f32,dim=8,metric=l2").unwrap();
        let stored = VectorLayout { m: 300, ef_construction: 3, ..layout };
        assert_eq!(VectorLayout::from_item(&stored.to_item()).unwrap(), stored);
    }

    #[test]
    fn the_word_raw_is_a_header_of_no_bytes() {
        let raw = VectorLayout::parse("type=f32,dim=8,metric=l2,raw").unwrap();
        assert_eq!(raw, VectorLayout::parse("raw,header=0,type=f32,dim=8,metric=l2").unwrap());
        assert_eq!(raw.to_string(), "type=f32,dim=8,metric=l2,header=0");
    }
}
