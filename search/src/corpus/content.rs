// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a file in a marked directory is, by its content.
//!
//! A directory passes its mark on to everything that is put there. Invariant: a file is taken as vectors
//! only where its bytes say so: an `.npy` header, a `.safetensors` header, or the length words of
//! `.fvecs` and `.bvecs`. Everything else is left out with what it is and what can be done. It decides
//! where the rows lie; whether every length word is right is checked when the rows are read.

use super::header::{Stop, Trouble};
use super::slots::Rows;
use std::ops::Range;
use vexfs::{Element, Error, VectorLayout};
use vexfs_index::npy::{self, Stored};

/// Bytes at the start of a file that are always looked at.
pub const HEAD_BYTES: u64 = 4096;
/// Largest length word that begins a row.
const LENGTH_WORD_MAX: u32 = 65_536;
/// Longest header of a `.safetensors` file that is read.
const TENSORS_BYTES_MAX: u64 = 1 << 20;

/// A file's bytes, as far as they are asked for.
pub trait Bytes {
    /// Its length.
    fn size(&self) -> u64;
    /// The bytes in the range, which is cut at the end; zeroes where nothing was written.
    fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, Error>;
    /// Whether all bytes of the range were written.
    fn written(&self, range: Range<u64>) -> bool;
}

/// Where the rows of a file lie that its content shows to be vectors.
pub fn rows(attribute: &VectorLayout, file: &mut impl Bytes) -> Result<Found, Stop> {
    let mut head = file.read(0..HEAD_BYTES)?;
    if head.is_empty() {
        return Ok(Found::new(Rows::new(attribute, 0)));
    }
    if head.starts_with(&npy::MAGIC) {
        if let Some(more) = npy::header_bytes(&head).filter(|more| *more > head.len() as u64) {
            head = file.read(0..more)?;
        }
        return numpy(attribute, &head, file);
    }
    if let Some(length) = tensors_length(&head) {
        return tensors(attribute, length, file);
    }
    if let Some(found) = records(attribute, &head, file)? {
        return Ok(found);
    }
    Err(Stop::Left(match name(&head) {
        Some(Kind::Text) => Trouble::Text,
        Some(Kind::Of(what)) => Trouble::Unusable(format!(
            "it is {what}: only .npy, .safetensors, .fvecs and .bvecs files are searched"
        )),
        None => Trouble::Unusable(RAW.into()),
    }))
}

/// The message about bytes that nothing is known of.
pub const RAW: &str = "it holds raw bytes of unknown kind; if they are vectors, say so with header=0 \
                       in the vexfs.vector attribute of the file itself";

/// Where rows were found.
pub struct Found {
    /// Where they are.
    pub rows: Rows,
    /// How many the file's header says there are.
    pub announced: Option<u64>,
    /// Bits are packed into signed bytes, each 128 less than what `numpy.packbits` gives.
    pub signed_bits: bool,
}

impl Found {
    /// Rows that nothing is said about.
    pub const fn new(rows: Rows) -> Self {
        Self { rows, announced: None, signed_bits: false }
    }
}

fn left<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Left(Trouble::Unusable(why.into())))
}

/// Whether columns of that type are the attribute's vectors; and if so, whether they are signed bits.
fn fits(attribute: &VectorLayout, stored: Stored, columns: u64) -> Option<bool> {
    let dim = u64::from(attribute.dim);
    let (same, signed_bits) = match (attribute.element, stored) {
        (Element::F32, Stored::F32)
        | (Element::F16, Stored::F16)
        | (Element::Bf16, Stored::Bf16)
        | (Element::I8, Stored::I8)
        | (Element::U8, Stored::U8) => (columns == dim, false),
        (Element::Bit, Stored::U8) => (columns == dim.div_ceil(8), false),
        (Element::Bit, Stored::I8) => (columns == dim.div_ceil(8), true),
        _ => (false, false),
    };
    same.then_some(signed_bits)
}

/// The attribute's type and length, as a mismatch is reported.
fn wanted(attribute: &VectorLayout) -> String {
    let packed = match attribute.element {
        Element::Bit => format!(" (packed: u8 x {})", attribute.dim.div_ceil(8)),
        _ => String::new(),
    };
    format!("{} x {}{packed}", attribute.element.name(), attribute.dim)
}

fn no_stride(attribute: &VectorLayout, what: &str) -> Result<(), Stop> {
    if attribute.stride != attribute.vector_bytes() || attribute.offset != 0 {
        return left(format!(
            "its vexfs.vector attribute has a stride or offset, but it is {what} file"
        ));
    }
    Ok(())
}

fn numpy(attribute: &VectorLayout, head: &[u8], file: &mut impl Bytes) -> Result<Found, Stop> {
    let Some(found) = npy::parse(head) else {
        return left(npy::unusable(head).unwrap_or_else(|| RAW.into()));
    };
    let Some(signed_bits) = fits(attribute, found.stored, found.columns) else {
        return left(format!(
            "its .npy header says {} x {}, its vexfs.vector attribute {}: write another array, or set an attribute that fits",
            found.stored,
            found.columns,
            wanted(attribute)
        ));
    };
    if found.fortran && found.rows > 1 && found.columns > 1 {
        return left("its .npy array is in Fortran order: save numpy.ascontiguousarray(a)");
    }
    no_stride(attribute, "an .npy")?;
    let mut rows = Rows::new(attribute, found.header_len);
    // What was appended counts as rows, unless it is another array with a header of its own.
    let end = rows.start(found.rows);
    let next = file.read(end..end.saturating_add(npy::MAGIC.len() as u64))?;
    if !next.is_empty() && npy::MAGIC.starts_with(&next) {
        rows.limit = found.rows;
    }
    Ok(Found { rows, announced: Some(found.rows), signed_bits })
}

/// Bytes of the JSON header, if the file begins as a `.safetensors` file does.
fn tensors_length(head: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(*head.first_chunk()?);
    let sane = (2..=100_000_000).contains(&length) && head.get(8) == Some(&b'{');
    sane.then_some(length)
}

/// A matrix in a `.safetensors` file.
struct Tensor {
    stored: Stored,
    shape: [u64; 2],
    bytes: Range<u64>,
}

impl Tensor {
    /// `None` for what is no matrix of a type that vectors can have.
    fn parse(value: &serde_json::Value) -> Option<Self> {
        let stored = match value.get("dtype")?.as_str()? {
            "F32" => Stored::F32,
            "F16" => Stored::F16,
            "BF16" => Stored::Bf16,
            "I8" => Stored::I8,
            "U8" => Stored::U8,
            _ => return None,
        };
        let pair = |name| {
            let [a, b] = value.get(name)?.as_array()?.as_slice() else { return None };
            Some([a.as_u64()?, b.as_u64()?])
        };
        let [start, end] = pair("data_offsets")?;
        let tensor = Self { stored, shape: pair("shape")?, bytes: start..end };
        let [rows, columns] = tensor.shape;
        let length = rows.checked_mul(columns)?.checked_mul(stored.bytes())?;
        (end.checked_sub(start)? == length).then_some(tensor)
    }
}

fn tensors(attribute: &VectorLayout, length: u64, file: &mut impl Bytes) -> Result<Found, Stop> {
    if length > TENSORS_BYTES_MAX {
        return left(format!("its .safetensors header of {length} bytes is too long to read"));
    }
    let text = file.read(8..8 + length)?;
    let Ok(serde_json::Value::Object(tensors)) = serde_json::from_slice(&text) else {
        return left("its .safetensors header is cut off or malformed");
    };
    let all: Vec<_> = tensors.iter().filter(|(name, _)| *name != "__metadata__").collect();
    let mut fitting = all.iter().filter_map(|(_, value)| {
        let tensor = Tensor::parse(value)?;
        Some((fits(attribute, tensor.stored, tensor.shape[1])?, tensor))
    });
    let (Some((signed_bits, tensor)), None) = (fitting.next(), fitting.next()) else {
        let count = all.len();
        return left(format!(
            "it is a .safetensors file of {count} tensors, not exactly one of which is a matrix of {}: save that alone",
            wanted(attribute)
        ));
    };
    no_stride(attribute, "a .safetensors")?;
    let mut rows = Rows::new(attribute, (8 + length).saturating_add(tensor.bytes.start));
    rows.limit = tensor.shape[0];
    Ok(Found { rows, announced: Some(tensor.shape[0]), signed_bits })
}

/// Rows that each begin with their length, as in `.fvecs` and `.bvecs`; `None` if they do not.
fn records(
    attribute: &VectorLayout,
    head: &[u8],
    file: &mut impl Bytes,
) -> Result<Option<Found>, Stop> {
    let Some(first) = head.first_chunk().map(|word| u32::from_le_bytes(*word)) else {
        return Ok(None);
    };
    if !(1..=LENGTH_WORD_MAX).contains(&first) {
        return Ok(None);
    }
    let own = u64::from(attribute.vector_bytes()) / u64::from(attribute.dim).max(1);
    let own = if attribute.element == Element::Bit { 0 } else { own };
    if own > 0 && first == attribute.dim && regular(first, own, file)? {
        if attribute.element == Element::I8 {
            return left(
                "its rows begin with their length, as in .bvecs, whose elements are unsigned: set type=u8",
            );
        }
        if attribute.element == Element::F32 && integers(first, head) {
            return left(
                "it is an .ivecs file, of 32-bit integers: only .fvecs and .bvecs are searched",
            );
        }
        let stride = 4 + attribute.vector_bytes();
        let plain = attribute.stride == attribute.vector_bytes() && attribute.offset == 0;
        if !plain && (attribute.stride, attribute.offset) != (stride, 4) {
            return left(format!(
                "its rows begin with their length, as in .fvecs: its vexfs.vector attribute needs stride={stride},offset=4, or neither"
            ));
        }
        let mut rows = Rows::new(attribute, 0);
        (rows.stride, rows.offset, rows.word) = (u64::from(stride), 4, Some(first));
        return Ok(Some(Found::new(rows)));
    }
    for (width, name) in [(4, ".fvecs or .ivecs file of 4-byte"), (1, ".bvecs file of 1-byte")] {
        if regular(first, width, file)? {
            return left(format!(
                "it is a {name} elements, {first} to a row, its vexfs.vector attribute says {}",
                wanted(attribute)
            ));
        }
    }
    Ok(None)
}

/// Whether the file is rows of `dim` elements of `width` bytes after a word that is `dim`: the second
/// row, one in the middle and the last say so, as far as they are written.
fn regular(dim: u32, width: u64, file: &mut impl Bytes) -> Result<bool, Error> {
    let stride = 4 + u64::from(dim) * width;
    let whole = file.size() / stride;
    for row in [1, whole / 2, whole.saturating_sub(1)] {
        let word = row * stride..row * stride + 4;
        if word.end > file.size() || !file.written(word.clone()) {
            continue;
        }
        if file.read(word)? != dim.to_le_bytes() {
            return Ok(false);
        }
    }
    Ok(whole > 0)
}

/// Whether the numbers of the first row are small integers and no floats: as floats they are so small
/// that no model gives them.
fn integers(dim: u32, head: &[u8]) -> bool {
    let row = head.get(4..).unwrap_or_default();
    let numbers = row.as_chunks::<4>().0.iter().take(dim as usize);
    let mut numbers = numbers.map(|bytes| u32::from_le_bytes(*bytes)).filter(|bits| *bits != 0);
    numbers.clone().next().is_some() && numbers.all(|bits| bits < 1 << 23)
}

enum Kind {
    Of(&'static str),
    Text,
}

/// First bytes of what people keep beside vectors, and what it is.
const MAGICS: &[(&[u8], &str)] = &[
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow (Feather) file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"FEA1", "a Feather file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"\x04\x22\x4d\x18", "compressed with lz4"),
    (b"GGUF", "a GGUF model"),
    (b"b0VIM ", "an editor's swap file"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"MATLAB", "a MATLAB file"),
    (b"Ix", "an index of Faiss"),
    (b"IH", "an index of Faiss"),
    (b"Iw", "an index of Faiss"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG\r\n", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
];

/// What begins with these bytes.
fn name(head: &[u8]) -> Option<Kind> {
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Some(Kind::Of(zip(head)));
    }
    if head.get(8..12) == Some(b"DUCK") {
        return Some(Kind::Of("a DuckDB database"));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(Kind::Of("a tar archive"));
    }
    // Protocols 2 and 3 go on with any instruction, later ones with a frame.
    if let [0x80, 2..=3, ..] | [0x80, 4..=5, 0x95, ..] = head {
        return Some(Kind::Of("a Python pickle (also what torch.save writes)"));
    }
    if let Some(text) = text(head) {
        let json = matches!(text.trim_start().as_bytes().first(), Some(b'{' | b'['));
        return Some(if json { Kind::Of("JSON") } else { Kind::Text });
    }
    let magic = MAGICS.iter().find(|(magic, _)| head.starts_with(magic));
    magic.map(|(_, what)| Kind::Of(what))
}

/// What a zip archive is, by its first entry's name.
fn zip(head: &[u8]) -> &'static str {
    let length = head.get(26..28).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let name = head.get(30..30 + length).unwrap_or_default();
    if name.ends_with(b".npy") {
        "an .npz archive (save its array alone with numpy.save)"
    } else if name.ends_with(b"/data.pkl") || name.ends_with(b"/version") {
        "a PyTorch file (save the tensor with numpy.save)"
    } else {
        "a zip archive"
    }
}

/// The first bytes as text, if they are that: UTF-8 without control characters.
fn text(head: &[u8]) -> Option<&str> {
    // The last character may be cut off.
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\x0c');
    (!text.contains(control)).then_some(text)
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
