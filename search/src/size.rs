// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Sizes as people write and read them, on every command line.

const UNITS: [(&str, u32); 6] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50), ("E", 60)];

/// Parses `4096`, `64M`, `1G`, `2TiB`: bytes, or a number with a unit that is a power of 1024.
///
/// # Errors
/// A message that says what a size looks like.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("'{text}' is not a size: write bytes, or a number with K, M, G or T, as in 64M");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").unwrap_or(&unit);
    if unit.is_empty() && text.len() == digits {
        return Ok(number);
    }
    let shift = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is more than 2^64 bytes"))
}

/// `1.5 GiB`, `12 KiB`, `300 bytes`.
#[must_use]
pub fn human(bytes: u64) -> String {
    let Some((name, shift)) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    let whole = bytes >> shift;
    let tenths = (((bytes & ((1 << shift) - 1)) >> (shift - 10)) * 10) >> 10;
    if tenths == 0 { format!("{whole} {name}iB") } else { format!("{whole}.{tenths} {name}iB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64M", 64 << 20), ("1g", 1 << 30), ("2TiB", 2 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "12 M", "1X", "1iB", "99999999999E", "64MM", "1B"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(human(300), "300 bytes");
        assert_eq!(human(64 << 20), "64 MiB");
        assert_eq!(human(3 << 29), "1.5 GiB");
        assert_eq!(human(u64::MAX), "15.9 EiB");
    }
}
