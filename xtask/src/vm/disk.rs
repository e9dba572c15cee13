// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A guest's disks: sparse files on this machine, as command lines name them.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// `FILE` must exist; `FILE=SIZE` is created as a sparse file if it does not.
pub fn prepare(text: &str) -> Result<PathBuf> {
    let (path, size) = match text.rsplit_once('=') {
        Some((path, size)) => (PathBuf::from(path), Some(parse_size(size)?)),
        None => (PathBuf::from(text), None),
    };
    if !path.exists() {
        let size = size.with_context(|| {
            format!("the disk {} is not there: --disk FILE=SIZE creates it", path.display())
        })?;
        let file = File::create(&path)
            .with_context(|| format!("cannot create the disk {}", path.display()))?;
        file.set_len(size).with_context(|| format!("cannot size {}", path.display()))?;
    }
    path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))
}

/// `512M`, `2G`, `4096` in bytes.
pub fn parse_size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 10),
        None => match text.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, 20),
            None => match text.strip_suffix(['g', 'G']) {
                Some(digits) => (digits, 30),
                None => (text, 0),
            },
        },
    };
    let number: u64 =
        digits.parse().with_context(|| format!("'{text}' is no size: 4096, 64K, 512M, 2G"))?;
    number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number)
        .with_context(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("4096").ok(), Some(4096));
        assert_eq!(parse_size("64K").ok(), Some(65536));
        assert_eq!(parse_size("2G").ok(), Some(2 << 30));
        assert!(parse_size("12 parsecs").is_err());
        assert!(parse_size("99999999999999G").is_err());
    }
}
