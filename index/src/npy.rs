// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `.npy` and `.fvecs` files as vector files, and small matrices from `.npy` files.
//!
//! The header itself is parsed by `vexfs-npy`; here is what of it a vector file can be. Files are
//! not trusted: every number is checked, and nothing is read past what the header announces.
//! Source of `.fvecs`: the TEXMEX corpus.

use std::{
    fmt,
    fs::File,
    io::{BufWriter, Read, Write},
    path::Path,
};

pub use vexfs_npy::MAGIC;
use vexfs_npy::{Header, PREFIX_BYTES, TEXT_BYTES_MAX};

use crate::{
    error::{IndexError, Result},
    types::Element,
    vector::{DIM_MAX, decode_numbers},
};

/// How the elements of an `.npy` array are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// `<f8`
    F64,
    /// `<f4`
    F32,
    /// `<f2`
    F16,
    /// `<V2`, as `ml_dtypes.bfloat16` is written.
    Bf16,
    /// `|i1`: numbers, or bits packed as `numpy.packbits` does it, less 128.
    I8,
    /// `|u1`: numbers, or bits packed as `numpy.packbits` does it.
    U8,
    /// `|b1`
    Bool,
}

impl Stored {
    /// `parse(descr)` - the type in NumPy's notation, also without a byte order or with `=`, which
    /// is that of the machine that wrote it: little-endian. Big-endian numbers are none.
    pub fn parse(descr: &str) -> Option<Self> {
        Some(match descr.trim_start_matches(['<', '|', '=']) {
            "f8" => Self::F64,
            "f4" => Self::F32,
            "f2" => Self::F16,
            "V2" => Self::Bf16,
            "i1" | ">i1" => Self::I8,
            "u1" | ">u1" => Self::U8,
            "b1" | "?" => Self::Bool,
            _ => return None,
        })
    }

    /// `bytes()` - bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    fn decode(self, body: &[u8]) -> Vec<f32> {
        let element = match self {
            Self::F64 => {
                let (numbers, _) = body.as_chunks::<8>();
                return numbers.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect();
            }
            Self::U8 => return body.iter().map(|byte| f32::from(*byte)).collect(),
            Self::Bool => return body.iter().map(|byte| f32::from(u8::from(*byte != 0))).collect(),
            Self::F32 => Element::F32,
            Self::F16 => Element::F16,
            Self::Bf16 => Element::Bf16,
            Self::I8 => Element::I8,
        };
        decode_numbers(element, body)
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::Bool => "bool",
        })
    }
}

/// What an `.npy` header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// How the elements are stored.
    pub stored: Stored,
    /// Elements of a row, at least 1.
    pub columns: u64,
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

/// `parse(bytes)` - the header at the start of an `.npy` file; `None` if it is not one, is cut
/// off, or describes something that no vector file can be.
pub fn parse(bytes: &[u8]) -> Option<NpyHeader> {
    let header = Header::parse(bytes)?;
    let [rows, columns] = header.shape;
    let stored = Stored::parse(header.descr)?;
    (1..=u64::from(DIM_MAX)).contains(&columns).then_some(NpyHeader {
        stored,
        columns,
        rows,
        header_len: header.data_start as u64,
        fortran: header.fortran_order,
    })
}

/// `header_bytes(first)` - bytes that [`parse`] needs of the file that begins with these; `None` if
/// its header is longer than any that is read.
pub fn header_bytes(first: &[u8]) -> Option<u64> {
    let most = (PREFIX_BYTES + TEXT_BYTES_MAX) as u64;
    vexfs_npy::data_start(first).filter(|bytes| *bytes <= most)
}

/// `unusable(bytes)` - why the `.npy` file that begins with these bytes is no vector file; `None`
/// if it is one, or no `.npy` file at all.
pub fn unusable(bytes: &[u8]) -> Option<String> {
    if !bytes.starts_with(&MAGIC) || parse(bytes).is_some() {
        return None;
    }
    Some(match Header::parse(bytes) {
        None => "its .npy header is cut off, or not one of a one- or two-dimensional array of \
                 numbers: save such an array with numpy.save"
            .into(),
        Some(header) if Stored::parse(header.descr).is_none() => elements(header.descr),
        Some(Header { shape: [_, columns], .. }) => {
            format!("its .npy rows have {columns} elements: a vector has 1 to {DIM_MAX}")
        }
    })
}

/// Why elements of that type cannot be used, and what to do.
fn elements(descr: &str) -> String {
    let order = if descr.starts_with('>') { "big-endian" } else { "of a type no vector has" };
    format!(
        "its .npy elements are {}, {order}: convert them, to float32 with .astype('<f4')",
        descr.escape_debug()
    )
}

/// `fvecs(bytes)` - the record layout of an `.fvecs` file from its first bytes.
///
/// The format has no magic: `None` only says that these bytes cannot be one.
pub fn fvecs(bytes: &[u8]) -> Option<Fvecs> {
    let dim = u32::from_le_bytes(*bytes.first_chunk()?);
    (1..=DIM_MAX).contains(&dim).then(|| Fvecs { dim, stride: 4 + dim * 4, offset: 4 })
}

/// `read_matrix(path)` - the rows of an `.npy` file as numbers, whatever [`Stored`] they are.
///
/// Anything else, a file of another length than its header says, and a NaN or infinity are
/// refused with what and where.
pub fn read_matrix(path: &Path) -> Result<Matrix> {
    read_stored(path).map(|(matrix, _)| matrix)
}

/// `read_stored(path)` - [`read_matrix`], and how the file stores the numbers.
pub fn read_stored(path: &Path) -> Result<(Matrix, Stored)> {
    read(path).map_err(|why| IndexError::Npy(format!("{}: {why}", path.display())))
}

fn read(path: &Path) -> Result<(Matrix, Stored), String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    read_up_to(&mut file, &mut bytes, (PREFIX_BYTES + TEXT_BYTES_MAX) as u64)?;
    let header = Header::parse(&bytes)
        .ok_or("no .npy header of a one- or two-dimensional array; save it with numpy.save")?;
    let [rows, columns] = header.shape;
    if header.fortran_order && rows > 1 && columns > 1 {
        return Err("it is in Fortran order; save numpy.ascontiguousarray(...)".into());
    }
    let number = Stored::parse(header.descr).ok_or_else(|| elements(header.descr))?;
    if columns == 0 {
        return Err("its rows have no elements".into());
    }
    let (start, descr) = (header.data_start, header.descr.to_owned());
    let wanted = rows.checked_mul(columns).and_then(|count| count.checked_mul(number.bytes()));
    // One byte more shows a file that is too long.
    let end = wanted.and_then(|wanted| wanted.checked_add(start as u64 + 1));
    read_up_to(&mut file, &mut bytes, end.unwrap_or(0))?;
    let body = bytes.get(start..).unwrap_or_default();
    if wanted != Some(body.len() as u64) {
        let more = if end == Some(bytes.len() as u64) { " or more" } else { "" };
        return Err(format!(
            "{rows} rows of {columns} {descr} elements do not make the {} bytes{more} after its header",
            body.len()
        ));
    }
    let (rows, dim, data) = (rows as usize, columns as usize, number.decode(body));
    if let Some(at) = data.iter().position(|x| !x.is_finite()) {
        let (row, column, value) = (at / dim, at % dim, data[at]);
        return Err(format!(
            "row {row}, column {column} is {value}: only finite numbers can be compared"
        ));
    }
    Ok((Matrix { rows, dim, data }, number))
}

/// Reads on until there are `end` bytes: a file may be longer than memory, and a device endless.
fn read_up_to(file: &mut File, bytes: &mut Vec<u8>, end: u64) -> Result<usize, String> {
    let more = end.saturating_sub(bytes.len() as u64);
    file.take(more).read_to_end(bytes).map_err(|error| error.to_string())
}

/// `write(path, dim, data)` - rows of `dim` numbers as a version 1.0 `.npy` file of `<f4`.
pub fn write(path: &Path, dim: usize, data: &[f32]) -> Result<()> {
    if dim == 0 || !data.len().is_multiple_of(dim) {
        return Err(IndexError::Npy(format!(
            "{} numbers cannot be divided into rows of {dim}",
            data.len()
        )));
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

/// A version 1.0 header, padded as NumPy pads it so that rows start at a multiple of 64 bytes.
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
