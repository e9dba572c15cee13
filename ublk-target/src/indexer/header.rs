// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How a vector file's records are laid out, by its attribute and by the `.npy` header that it may
//! begin with. A file whose header and attribute do not fit is not indexed, and the reason is
//! reported. The header itself is parsed by [`npy`].

use super::slots::Rows;
use vexfs::VectorLayout;
use vexfs_index::{Element, Metric, Params, Space, npy};

/// What a file's vectors are, and where they are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where its rows are.
    pub rows: Rows,
    /// What they are.
    pub space: Space,
    /// How to index them.
    pub params: Params,
}

/// Why a search of a vector file does not find all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is not indexed.
    Unusable(String),
    /// It is not indexed because it holds text: most likely notes beside the vectors.
    Text,
    /// It is indexed, but bytes follow its last whole record.
    Partial(String),
    /// It is indexed, except for rows that cannot be read from the medium.
    Unreadable(String),
}

/// The message about a file that holds text.
pub const TEXT: &str =
    "it holds text, not vectors; if it does hold vectors, give vexfs.vector a header=0";

/// The layout by the attribute and, if the attribute's header is automatic, by the file's first
/// bytes.
pub fn layout(attribute: &VectorLayout, first: &[u8]) -> Result<Layout, Trouble> {
    let space = Space {
        element: element(attribute.element),
        metric: metric(attribute.metric),
        dim: attribute.dim,
    };
    space.validate().map_err(|e| Trouble::Unusable(e.to_string()))?;
    let mut header = attribute.header;
    if attribute.auto_header {
        if let Some(found) = npy::parse(first) {
            check_npy(&found, space, attribute).map_err(Trouble::Unusable)?;
            header = found.header_len;
        } else if let Some(why) = npy::unusable(first) {
            return Err(Trouble::Unusable(why));
        } else if is_text(first) {
            return Err(Trouble::Text);
        }
    }
    let defaults = Params::default();
    let or = |value: u16, default: u16| if value == 0 { default } else { value };
    Ok(Layout {
        rows: Rows::new(attribute, header),
        space,
        params: Params {
            m: or(attribute.m, defaults.m),
            ef_construction: or(attribute.ef_construction, defaults.ef_construction),
        },
    })
}

/// Whether these are lines of text. A directory passes its attribute on to every file in it, also
/// to a list of names beside the vectors. Vectors do not look like text by accident.
fn is_text(first: &[u8]) -> bool {
    // The last character may be cut off.
    let text = match std::str::from_utf8(first) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&first[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    text.contains('\n')
        && !text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

fn check_npy(found: &npy::NpyHeader, space: Space, attribute: &VectorLayout) -> Result<(), String> {
    // A bit array is stored as whole bytes.
    let dim = if space.element == Element::Bit { space.dim.next_multiple_of(8) } else { space.dim };
    if found.element != space.element || found.dim != dim {
        return Err(format!(
            "its .npy header says {} x {}, its vexfs.vector attribute {} x {}: write another array, or a file with another attribute",
            found.element, found.dim, space.element, space.dim
        ));
    }
    if found.fortran && found.rows > 1 && found.dim > 1 {
        return Err("its .npy array is in Fortran order: save numpy.ascontiguousarray(a)".into());
    }
    if attribute.stride != attribute.vector_bytes() || attribute.offset != 0 {
        return Err(
            "its vexfs.vector attribute has a stride or offset, but it is an .npy file".into()
        );
    }
    Ok(())
}

fn element(element: vexfs::Element) -> Element {
    match element {
        vexfs::Element::F32 => Element::F32,
        vexfs::Element::F16 => Element::F16,
        vexfs::Element::Bf16 => Element::Bf16,
        vexfs::Element::I8 => Element::I8,
        vexfs::Element::Bit => Element::Bit,
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

    fn npy(dim: usize) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        npy::write(file.path(), dim, &vec![0.5; dim * 3]).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    #[test]
    fn an_automatic_header_is_read_from_the_file() {
        let attribute = VectorLayout::parse("type=f32,dim=7,metric=cosine").unwrap();
        let bytes = npy(7);
        let found = layout(&attribute, &bytes).unwrap();
        assert_eq!(found.rows.count(bytes.len() as u64), (3, 0));
        assert_eq!(layout(&attribute, &[1, 2, 3]).unwrap().rows.header, 0);
        let fixed = VectorLayout::parse("type=f32,dim=7,metric=cosine,header=9,m=5").unwrap();
        let found = layout(&fixed, &bytes).unwrap();
        assert_eq!((found.rows.header, found.params.m), (9, 5));
    }

    #[test]
    fn what_does_not_fit_is_reported() {
        let attribute = VectorLayout::parse("type=f32,dim=8,metric=l2").unwrap();
        let said = |attribute: &VectorLayout| match layout(attribute, &npy(7)) {
            Err(Trouble::Unusable(why)) => why,
            other => panic!("{other:?}"),
        };
        let error = said(&attribute);
        assert!(error.contains("f32 x 7") && error.contains("f32 x 8"), "{error}");
        let attribute = VectorLayout::parse("type=f16,dim=7,metric=l2").unwrap();
        assert!(said(&attribute).contains("f16 x 7"));
        let attribute = VectorLayout::parse("type=f32,dim=7,metric=l2,stride=32").unwrap();
        assert!(said(&attribute).contains("stride"));
    }

    // An array of doubles was taken for raw vectors, its header for the first of them.
    #[test]
    fn an_npy_file_of_something_else_is_not_taken_for_raw_vectors() {
        let attribute = VectorLayout::parse("type=f32,dim=7,metric=l2").unwrap();
        let mut bytes = npy(7);
        let at = bytes.windows(3).position(|w| w == b"<f4").unwrap();
        bytes[at..at + 3].copy_from_slice(b"<f8");
        match layout(&attribute, &bytes) {
            Err(Trouble::Unusable(why)) => assert!(why.contains("<f8"), "{why}"),
            other => panic!("{other:?}"),
        }
        let by_intent = VectorLayout::parse("type=f32,dim=7,metric=l2,header=0").unwrap();
        assert!(layout(&by_intent, &bytes).is_ok());
    }

    #[test]
    fn text_beside_vectors_is_not_taken_for_vectors() {
        let automatic = VectorLayout::parse("type=f32,dim=2,metric=l2").unwrap();
        let text = "libc6\tGNU C Library\nlibé";
        for end in [text.len(), text.len() - 1] {
            assert_eq!(layout(&automatic, &text.as_bytes()[..end]), Err(Trouble::Text));
        }
        let by_intent = VectorLayout::parse("type=f32,dim=2,metric=l2,header=0").unwrap();
        assert!(layout(&by_intent, text.as_bytes()).is_ok());
        for data in [&[][..], b"no line ends here", b"\n\0\0\0\0\0\x80\x3f", b"\xff\xfe\n"] {
            assert!(layout(&automatic, data).is_ok(), "{data:?}");
        }
    }
}
