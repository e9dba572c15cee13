// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Sizes and times as people write and read them.

use vexfs::Time;
pub use vexfs_search::size::{human, parse};

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
