// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The headers of `.npy` and `.fvecs` files, and small matrices from `.npy` files.
//!
//! Headers come from untrusted files: parsing is one pass without recursion, every number is
//! checked, and what is not understood is `None`. Source: numpy's `numpy.lib.format`, versions
//! 1.0, 2.0 and 3.0, and the TEXMEX corpus for `.fvecs`.

use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    path::Path,
};

use crate::{
    error::{IndexError, Result},
    vector::{DIM_MAX, Element},
};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Far above what numpy writes, far below what could hurt.
const HEADER_MAX: usize = 1 << 16;

/// What an `.npy` header says, in the terms of a vector file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// Element type; bytes (`|u1`) are packed bits, two-byte voids (`<V2`) are bf16.
    pub element: Element,
    /// Elements of a row.
    pub dim: u32,
    /// Rows; a one-dimensional array is one row.
    pub rows: u64,
    /// Bytes before the first row.
    pub header_len: u64,
    /// Whether columns, not rows, are contiguous.
    pub fortran: bool,
}

/// Where `.fvecs` records keep their vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fvecs {
    /// Elements (`f32`) of a vector.
    pub dim: u32,
    /// Bytes of a record.
    pub stride: u32,
    /// Bytes of a record before its vector.
    pub offset: u32,
}

/// Rows of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub dim: usize,
    /// Row after row.
    pub data: Vec<f32>,
}

impl Matrix {
    /// `row(i)` - one row, or nothing past the last.
    pub fn row(&self, row: usize) -> &[f32] {
        if row < self.rows { &self.data[row * self.dim..][..self.dim] } else { &[] }
    }
}

/// What the header says, as written.
struct Raw<'a> {
    descr: &'a str,
    fortran: bool,
    shape: [u64; 2],
    header_len: usize,
}

/// `parse(bytes)` - the header at the start of an `.npy` file; `None` if it is not one, is cut
/// off, or describes something that no vector file can be.
pub fn parse(bytes: &[u8]) -> Option<NpyHeader> {
    let raw = parse_raw(bytes)?;
    let [rows, columns] = raw.shape;
    let element = element(raw.descr)?;
    let columns = if element == Element::Bit { columns.checked_mul(8)? } else { columns };
    let dim = u32::try_from(columns).ok().filter(|dim| (1..=DIM_MAX).contains(dim))?;
    Some(NpyHeader { element, dim, rows, header_len: raw.header_len as u64, fortran: raw.fortran })
}

fn element(descr: &str) -> Option<Element> {
    Some(match descr {
        "<f4" => Element::F32,
        "<f2" => Element::F16,
        "<V2" | "|V2" => Element::Bf16,
        "|i1" | "<i1" => Element::I8,
        "|u1" | "<u1" => Element::Bit,
        _ => return None,
    })
}

/// `unusable(bytes)` - why the `.npy` file that begins with these bytes is no vector file; `None`
/// if it is one, or no `.npy` file at all.
pub fn unusable(bytes: &[u8]) -> Option<String> {
    if !bytes.starts_with(MAGIC) || parse(bytes).is_some() {
        return None;
    }
    Some(match parse_raw(bytes) {
        None => "its .npy header is cut off, or not one of a one- or two-dimensional array of \
                 numbers: save such an array with numpy.save"
            .into(),
        Some(raw) if element(raw.descr).is_none() => format!(
            "its .npy elements are {}: convert them, to float32 with .astype('float32')",
            raw.descr.escape_debug()
        ),
        Some(Raw { shape: [_, columns], .. }) => {
            format!("its .npy rows have {columns} elements: a vector has 1 to {DIM_MAX}")
        }
    })
}

fn parse_raw(bytes: &[u8]) -> Option<Raw<'_>> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (&[major, minor], rest) = rest.split_first_chunk::<2>()?;
    let (length, prefix) = match (major, minor) {
        (1, 0) => (usize::from(u16::from_le_bytes(*rest.first_chunk()?)), 2),
        (2 | 3, 0) => (usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()?, 4),
        _ => return None,
    };
    if length > HEADER_MAX {
        return None;
    }
    let text = std::str::from_utf8(rest.get(prefix..prefix + length)?).ok()?;
    let mut scan = Scan { rest: text };
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    scan.demand('{')?;
    while !scan.accept('}') {
        let key = scan.string()?;
        scan.demand(':')?;
        // A key that occurs twice is not something numpy writes.
        match key {
            "descr" if descr.is_none() => descr = Some(scan.string()?),
            "fortran_order" if fortran.is_none() => fortran = Some(scan.boolean()?),
            "shape" if shape.is_none() => shape = Some(scan.shape()?),
            _ => return None,
        }
        if !scan.accept(',') {
            scan.demand('}')?;
            break;
        }
    }
    if !scan.rest.trim().is_empty() {
        return None;
    }
    Some(Raw {
        descr: descr?,
        fortran: fortran?,
        shape: shape?,
        header_len: MAGIC.len() + 2 + prefix + length,
    })
}

/// What is left of a header's text.
struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn accept(&mut self, wanted: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn demand(&mut self, wanted: char) -> Option<()> {
        self.accept(wanted).then_some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let quote = if self.accept('\'') {
            '\''
        } else {
            self.demand('"')?;
            '"'
        };
        let (text, rest) = self.rest.split_once(quote)?;
        self.rest = rest;
        Some(text)
    }

    fn boolean(&mut self) -> Option<bool> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Some(value);
            }
        }
        None
    }

    fn number(&mut self) -> Option<u64> {
        self.rest = self.rest.trim_start();
        let digits = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        number.parse().ok()
    }

    /// `(n,)` as one row of n, `(r, c)` as it is; nothing else can be rows of vectors.
    fn shape(&mut self) -> Option<[u64; 2]> {
        self.demand('(')?;
        let first = self.number()?;
        self.demand(',')?;
        if self.accept(')') {
            return Some([1, first]);
        }
        let second = self.number()?;
        self.accept(',');
        self.demand(')')?;
        Some([first, second])
    }
}

/// `fvecs(bytes)` - the record layout of an `.fvecs` file from its first bytes.
///
/// The format has no magic: `None` only says that these bytes cannot be one.
pub fn fvecs(bytes: &[u8]) -> Option<Fvecs> {
    let dim = u32::from_le_bytes(*bytes.first_chunk()?);
    (1..=DIM_MAX).contains(&dim).then(|| Fvecs { dim, stride: 4 + dim * 4, offset: 4 })
}

/// `read_matrix(path)` - the rows of an `.npy` file of `f2`, `f4`, `f8` or `i1` elements.
///
/// Anything else, a file of another length than its header says, and a NaN or infinity are
/// refused with what and where.
pub fn read_matrix(path: &Path) -> Result<Matrix> {
    let refuse = |why: String| IndexError::Npy(format!("{}: {why}", path.display()));
    let io = |error: std::io::Error| refuse(error.to_string());
    let file = File::open(path).map_err(io)?;
    // What has no header, or more than it says, is not read to its end: a device has none.
    let mut bytes = Vec::new();
    let read_up_to = |bytes: &mut Vec<u8>, end: u64| {
        let more = end.saturating_sub(bytes.len() as u64);
        (&file).take(more).read_to_end(bytes).map_err(io)
    };
    read_up_to(&mut bytes, HEADER_MAX as u64 + 12)?;
    let raw = parse_raw(&bytes).ok_or_else(|| {
        refuse("no .npy header of a one- or two-dimensional array; save it with numpy.save".into())
    })?;
    let [rows, columns] = raw.shape;
    if raw.fortran && rows > 1 && columns > 1 {
        return Err(refuse("it is in Fortran order; save numpy.ascontiguousarray(...)".into()));
    }
    let element = match raw.descr {
        "<f8" => 8usize,
        "<f4" => 4,
        "<f2" => 2,
        "|i1" | "<i1" => 1,
        other => {
            return Err(refuse(format!(
                "its elements are {other}; convert them to float32 with .astype('float32')"
            )));
        }
    };
    let (header_len, descr) = (raw.header_len, raw.descr.to_owned());
    let wanted = rows.checked_mul(columns).and_then(|count| count.checked_mul(element as u64));
    let end = wanted.and_then(|wanted| wanted.checked_add(header_len as u64 + 1));
    read_up_to(&mut bytes, end.unwrap_or(0))?;
    let body = &bytes[header_len..];
    if wanted != Some(body.len() as u64) || columns == 0 {
        let more = if end == Some(bytes.len() as u64) { " or more" } else { "" };
        return Err(refuse(format!(
            "{rows} rows of {columns} {descr} elements do not make the {} bytes{more} after its header",
            body.len()
        )));
    }
    let data: Vec<f32> = match element {
        8 => body.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        _ => crate::vector::decode_numbers(
            match element {
                4 => Element::F32,
                2 => Element::F16,
                _ => Element::I8,
            },
            body,
        ),
    };
    let (rows, dim) = (rows as usize, columns as usize);
    if let Some(at) = data.iter().position(|x| !x.is_finite()) {
        return Err(refuse(format!(
            "row {}, column {} is {}: only finite numbers can be compared",
            at / dim,
            at % dim,
            data[at]
        )));
    }
    Ok(Matrix { rows, dim, data })
}

/// `write(path, dim, data)` - rows of `dim` numbers as a version 1.0 `.npy` file of `<f4`.
pub fn write(path: &Path, dim: usize, data: &[f32]) -> Result<()> {
    if dim == 0 || !data.len().is_multiple_of(dim) {
        return Err(IndexError::Npy(format!("{} numbers are no rows of {dim}", data.len())));
    }
    let put = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(&header("<f4", data.len() / dim, dim))?;
        for x in data {
            out.write_all(&x.to_le_bytes())?;
        }
        out.flush()
    };
    put().map_err(IndexError::storage(format!("writing {}", path.display())))
}

/// A version 1.0 header, padded as numpy pads it so that rows start at a multiple of 64.
pub(crate) fn header(descr: &str, rows: usize, dim: usize) -> Vec<u8> {
    let dict =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(length as u16).to_le_bytes());
    bytes.extend_from_slice(format!("{dict:<width$}\n", width = length - 1).as_bytes());
    bytes
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
