// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Sizes and times as people write and read them.

use vexfs::Time;

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
pub fn human(bytes: u64) -> String {
    let Some((name, shift)) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    let whole = bytes >> shift;
    let tenths = (((bytes & ((1 << shift) - 1)) >> (shift - 10)) * 10) >> 10;
    if tenths == 0 { format!("{whole} {name}iB") } else { format!("{whole}.{tenths} {name}iB") }
}

/// `2026-11-24 02:36:11.000000005 UTC`.
pub fn time(time: Time) -> String {
    let days = time.seconds.div_euclid(86_400);
    let second = time.seconds.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:09} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60,
        time.nanos
    )
}

/// The proleptic Gregorian date `days` after 1970-01-01. The calculation lets years begin in March, so
/// that the leap day is the last day of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
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

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00.000000007 UTC"),
            (951_782_400, "2000-02-29 00:00:00.000000007 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59.000000007 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00.000000007 UTC"),
            (-1, "1969-12-31 23:59:59.000000007 UTC"),
        ] {
            assert_eq!(time(Time { seconds, nanos: 7 }), text);
        }
        let _ = time(Time { seconds: i64::MIN, nanos: 0 });
        let _ = time(Time { seconds: i64::MAX, nanos: 0 });
    }
}
