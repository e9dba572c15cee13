// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The vector attribute: how the records of a file are read as vectors.
//!
//! Its text form, such as `type=f32,dim=384,metric=cosine`, is the value of `setfattr -n vexfs.vector`
//! and `getfattr`. The engine stores the attribute and never reads a vector.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::tree::parse_item;
use crate::types::Time;
use crate::volume::{Need, Volume};
use core::fmt;
use vexfs_format::item::{VECTOR_AUTO_HEADER, VECTOR_KNOWN};
use vexfs_format::{Ino, Key, Kind, VectorItem};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Most elements of a vector.
pub const DIM_MAX: u32 = 65_536;
/// Longest record, in bytes.
const STRIDE_MAX: u32 = 1 << 20;

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
            Self::I8 => dim,
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
    /// The header's length is read from the file (`.npy`); `header` is used for a file without one.
    pub auto_header: bool,
    /// Index parameter: links of a node; 0 leaves it to the index.
    pub m: u16,
    /// Index parameter: width of the search while building; 0 leaves it to the index.
    pub ef_construction: u16,
}

impl VectorLayout {
    /// Parses the text form: `type=f32,dim=384,metric=cosine` and, optionally, `header=BYTES|auto`,
    /// `stride=BYTES`, `offset=BYTES`, `m=N`, `ef_construction=N`.
    ///
    /// # Errors
    /// [`Error::Invalid`], which says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut element, mut metric, mut dim) = (None, None, None);
        let (mut header, mut auto_header) = (0u64, true);
        let (mut stride, mut offset, mut m, mut ef) = (None, 0u32, 0u16, 0u16);
        for field in text.trim_matches(['\0', '\n', ' ']).split(',') {
            let Some((name, value)) = field.split_once('=') else {
                return Err(Error::Invalid(
                    "vexfs.vector: every field is NAME=VALUE, as in 'type=f32,dim=384,metric=cosine'",
                ));
            };
            match name.trim() {
                "type" => {
                    element = Some(Element::from_name(value).ok_or(Error::Invalid(
                        "vexfs.vector: type is one of f32, f16, bf16, i8, bit",
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
                        "vexfs.vector: the fields are type, dim, metric, header, stride, offset, m, ef_construction",
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
        Ok(layout)
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

    /// Sets or removes the vector attribute: of an empty file, or of a directory, whose new files and
    /// directories inherit it.
    ///
    /// # Errors
    /// [`Error::Invalid`] on a file that has contents, [`Error::NotSupported`] on anything else, and those of every change.
    pub fn set_vector(&mut self, ino: Ino, layout: Option<&VectorLayout>, now: Time) -> Result<()> {
        if let Some(layout) = layout {
            layout.check()?;
        }
        let need = if layout.is_some() { Need::growth() } else { Need::upkeep() };
        let plan = self.begin(need)?;
        let mut inode = plan.inode(ino)?;
        if !inode.is_dir() && !inode.is_file() {
            return Err(Error::NotSupported);
        }
        if inode.is_file() && (inode.size > 0 || inode.blocks > 0) {
            return Err(Error::Invalid(
                "vexfs.vector is set on an empty file, or on a directory before files are put there",
            ));
        }
        let key = Key::new(ino, Kind::Vector, 0);
        plan.tree()?.touch(key)?;
        inode.vector = layout.is_some();
        inode.changed(now);
        plan.change(|change| {
            match layout {
                Some(layout) => change.put(key, layout.to_item().as_bytes())?,
                None => {
                    change.remove(key)?;
                }
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
        ] {
            assert!(VectorLayout::parse(text).is_err(), "{text}");
        }
    }
}
