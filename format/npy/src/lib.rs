// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The header of NumPy's `.npy` format, versions 1.0, 2.0 and 3.0, as `numpy.lib.format` defines it.
//!
//! A file begins with a magic number, a version, the length of a text, and the text: a Python
//! dictionary of the element type, the order and the shape. The array follows.
//!
//! * [`data_start`] tells where the array begins from the first [`PREFIX_BYTES`] bytes.
//! * [`Header::parse`] reads all of it, and refuses what is not an array of one or two dimensions.
//!
//! Headers come from files that nobody vouches for. Invariant: no input makes this crate panic,
//! recurse, allocate, or read a byte of the text more than a few times. It does not read files and
//! does not judge whether the elements suit a use: that is the caller's rule.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

/// The first bytes of every `.npy` file.
pub const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// As many first bytes of a file as [`data_start`] needs: magic number, version and length.
pub const PREFIX_BYTES: usize = 12;
/// The longest text that [`Header::parse`] reads: far more than NumPy writes.
pub const TEXT_BYTES_MAX: usize = 1 << 16;

/// What the text says, uninterpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Element type in NumPy's notation, such as `<f4`.
    pub descr: &'a str,
    /// Whether the array is in Fortran order: columns, not rows, are contiguous.
    pub fortran_order: bool,
    /// Rows and elements of a row; an array of one dimension is one row.
    pub shape: [u64; 2],
    /// Bytes of the file before the array.
    pub data_start: usize,
}

/// What comes before the text.
struct Prefix<'a> {
    minor_version: u8,
    text_bytes: u32,
    /// Bytes before the text.
    bytes: usize,
    rest: &'a [u8],
}

impl<'a> Prefix<'a> {
    fn parse(file: &'a [u8]) -> Option<Self> {
        let [major, minor_version, rest @ ..] = file.strip_prefix(&MAGIC)? else { return None };
        let (text_bytes, bytes, rest) = match (major, rest) {
            (1, [a, b, rest @ ..]) => (u16::from_le_bytes([*a, *b]).into(), 10, rest),
            (2 | 3, [a, b, c, d, rest @ ..]) => (u32::from_le_bytes([*a, *b, *c, *d]), 12, rest),
            _ => return None,
        };
        Some(Self { minor_version: *minor_version, text_bytes, bytes, rest })
    }
}

/// `data_start(first)` - where the array of the `.npy` file that begins with these bytes begins,
/// by its length field alone; `None` if it is no such file.
///
/// The text is not looked at, and any minor version will do: [`Header::parse`] is the one to ask
/// whether the file can be used.
#[must_use]
pub fn data_start(first: &[u8]) -> Option<u64> {
    let prefix = Prefix::parse(first)?;
    Some(prefix.bytes as u64 + u64::from(prefix.text_bytes))
}

impl<'a> Header<'a> {
    /// `parse(file)` - the header at the start of these bytes; `None` if it is not one, is cut
    /// off, is not what NumPy writes, or describes no array of one or two dimensions.
    #[must_use]
    pub fn parse(file: &'a [u8]) -> Option<Self> {
        let prefix = Prefix::parse(file)?;
        let length = usize::try_from(prefix.text_bytes).ok()?;
        if prefix.minor_version != 0 || length > TEXT_BYTES_MAX {
            return None;
        }
        let text = core::str::from_utf8(prefix.rest.get(..length)?).ok()?;
        let (descr, fortran_order, shape) = dictionary(text)?;
        Some(Self { descr, fortran_order, shape, data_start: prefix.bytes + length })
    }
}

/// The three values of the dictionary, whose keys come in any order.
fn dictionary(text: &str) -> Option<(&str, bool, [u64; 2])> {
    let mut scan = Scan { rest: text };
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    scan.demand('{')?;
    // At most three rounds: NumPy writes no key twice, so a known one is refused.
    while !scan.accept('}') {
        let key = scan.string()?;
        scan.demand(':')?;
        match key {
            "descr" if descr.is_none() => descr = Some(scan.string()?),
            "fortran_order" if fortran_order.is_none() => fortran_order = Some(scan.boolean()?),
            "shape" if shape.is_none() => shape = Some(scan.shape()?),
            _ => return None,
        }
        if !scan.accept(',') {
            scan.demand('}')?;
            break;
        }
    }
    scan.rest.trim().is_empty().then_some((descr?, fortran_order?, shape?))
}

/// What is left of the text.
struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    /// Skips spaces, then takes this character if it comes next.
    fn accept(&mut self, wanted: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
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
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at_checked(end)?;
        // NumPy under Python 2 wrote long integers.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        digits.parse().ok()
    }

    /// `(n,)` is one row of n, `(r, c)` is r rows of c; nothing else can be rows of vectors.
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

#[cfg(test)]
mod tests;
