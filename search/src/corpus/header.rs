// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How a vector file's records are laid out, by its attribute and its content. A file whose content and
//! attribute do not fit is not indexed, and the reason is reported. What content is vectors is decided
//! in [`content`].

use super::content::{self, Bytes, Found};
use super::slots::Rows;
use vexfs::{Error, VectorLayout};
use vexfs_index::{Element, Metric, Params, Space};

/// What a file's vectors are, and where they are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where its rows are.
    pub rows: Rows,
    /// What they are.
    pub space: Space,
    /// How to index them.
    pub params: Params,
    /// Bits are packed into signed bytes, each 128 less than the index takes.
    pub signed_bits: bool,
    /// How many rows the file's header says there are; rows appended later are not among them.
    pub announced: Option<u64>,
}

impl Layout {
    /// Whether rows that were read by this layout are those of another.
    #[must_use]
    pub fn reads_as(&self, other: &Self) -> bool {
        Self { announced: other.announced, ..*self } == *other
    }

    /// What is odd about the end of a file of `count` rows and `size` bytes.
    #[must_use]
    pub fn odd_end(&self, count: u64, size: u64) -> Option<String> {
        let announced = self.announced?;
        if count < announced {
            return Some(format!("its header says {announced} rows, {count} are there"));
        }
        let more = size.saturating_sub(self.rows.start(count));
        (more > 0).then(|| {
            format!("after the {count} rows of its header, {more} bytes are no rows of them: they are not searched")
        })
    }
}

/// Why a search of a vector file does not find all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is not indexed.
    Unusable(String),
    /// It is not indexed because it holds text: most likely notes beside the vectors.
    Text,
    /// It is indexed, but bytes follow its last row, or rows are missing.
    Partial(String),
    /// It is indexed, except for rows that cannot be read from the medium.
    Unreadable(String),
}

/// Why there is no layout.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The file is left out.
    Left(Trouble),
    /// It cannot be read.
    Read(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

/// The message about a file that holds text.
pub const TEXT: &str = "it holds text, not vectors; if it does hold vectors, say so with header=0 in \
                        the vexfs.vector attribute of the file itself";

/// The layout by the attribute and, unless that says that the file is raw, by the file's content.
pub fn layout(attribute: &VectorLayout, file: &mut impl Bytes) -> Result<Layout, Stop> {
    let unusable = |why: String| Stop::Left(Trouble::Unusable(why));
    let space = Space {
        element: element(attribute.element),
        metric: metric(attribute.metric),
        dim: attribute.dim,
    };
    space.validate().map_err(|e| unusable(e.to_string()))?;
    let Found { rows, announced, signed_bits } = if attribute.auto_header {
        content::rows(attribute, file)?
    } else {
        Found::new(Rows::new(attribute, attribute.header))
    };
    let defaults = Params::default();
    let or = |value: u16, default: u16| if value == 0 { default } else { value };
    let params = Params {
        m: or(attribute.m, defaults.m),
        ef_construction: or(attribute.ef_construction, defaults.ef_construction),
    };
    Ok(Layout { rows, space, params, signed_bits, announced })
}

/// The index's name for a type of elements.
fn element(element: vexfs::Element) -> Element {
    match element {
        vexfs::Element::F32 => Element::F32,
        vexfs::Element::F16 => Element::F16,
        vexfs::Element::Bf16 => Element::Bf16,
        vexfs::Element::I8 => Element::I8,
        vexfs::Element::Bit => Element::Bit,
        vexfs::Element::U8 => Element::U8,
    }
}

fn metric(metric: vexfs::Metric) -> Metric {
    match metric {
        vexfs::Metric::L2 => Metric::L2,
        vexfs::Metric::Cosine => Metric::Cosine,
        vexfs::Metric::Dot => Metric::Dot,
        vexfs::Metric::Hamming => Metric::Hamming,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_header_makes_any_content_raw() {
        let text = b"libc6\tGNU C Library\n".as_slice();
        let raw = VectorLayout::parse("type=f32,dim=2,metric=l2,header=9,m=5").unwrap();
        for content in [text, b"\x93NUMPY\x01\0v\0{'descr'", b"PAR1", b""] {
            let found = layout(&raw, &mut &*content).unwrap();
            assert_eq!((found.rows.header, found.params.m), (9, 5));
            assert_eq!((found.rows.limit, found.announced), (u64::MAX, None));
        }
    }

    #[test]
    fn what_only_the_header_announces_does_not_change_how_rows_are_read() {
        let raw = VectorLayout::parse("type=f32,dim=2,metric=l2,raw").unwrap();
        let one = layout(&raw, &mut &[0u8; 16][..]).unwrap();
        assert!(one.reads_as(&Layout { announced: Some(7), ..one }));
        assert!(!one.reads_as(&Layout { signed_bits: true, ..one }));
    }
}
