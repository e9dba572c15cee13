// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Moments as text, in UTC: `2026-01-31`, `2026-01-31T12:00:00Z`, `2026-01-31T12:00:00.25Z`.
//!
//! Invariant: what is printed is parsed to the same moment. Years go from 0000 to 9999; there are no leap
//! seconds, as in the times of files.

use std::fmt;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds after that, less than 1,000,000,000.
    pub nanos: u32,
}

const DAY: i64 = 86_400;

/// Days from 1970 to the first of March of a year that is counted from March on, which puts the leap day last.
const fn days_to_march(year: i64) -> i64 {
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) - 719_468
}

/// Days of the year before a month, March being 0.
const fn days_to_month(month: i64) -> i64 {
    (153 * month + 2) / 5
}

fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let first = days_to_march(year) + days_to_month(month);
    let next = if month == 11 {
        days_to_march(year + 1)
    } else {
        days_to_march(year) + days_to_month(month + 1)
    };
    (day >= 1 && first + day <= next).then_some(first + day - 1)
}

impl Instant {
    /// The first and the last that can be printed.
    const FIRST: i64 = (days_to_march(0) - 60) * DAY;
    const END: i64 = (days_to_march(10_000) - 60) * DAY;

    /// A moment by its seconds; `None` before the year 0 and after the year 9999.
    #[must_use]
    pub fn at(seconds: i64) -> Option<Self> {
        (Self::FIRST..Self::END).contains(&seconds).then_some(Self { seconds, nanos: 0 })
    }

    /// The moment that a text says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        let mut number = |digits: usize, before: &[u8]| {
            rest = rest.strip_prefix(before)?;
            let (number, after) = rest.split_at_checked(digits)?;
            rest = after;
            number.iter().try_fold(0i64, |sum, digit| {
                digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'))
            })
        };
        let (year, month, day) = (number(4, b"")?, number(2, b"-")?, number(2, b"-")?);
        if !(1..=12).contains(&month) {
            return None;
        }
        let midnight = days(year, month, day)? * DAY;
        if text.len() == 10 {
            return Some(Self { seconds: midnight, nanos: 0 });
        }
        let (hour, minute, second) = (number(2, b"T")?, number(2, b":")?, number(2, b":")?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let rest = rest.strip_suffix(b"Z")?;
        let nanos = match rest.strip_prefix(b".") {
            None if rest.is_empty() => 0,
            Some(digits)
                if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) =>
            {
                (0..9).fold(0, |sum, at| {
                    sum * 10 + u32::from(digits.get(at).map_or(0, |digit| digit - b'0'))
                })
            }
            _ => return None,
        };
        Some(Self { seconds: midnight + hour * 3600 + minute * 60 + second, nanos })
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, time) = (self.seconds.div_euclid(DAY), self.seconds.rem_euclid(DAY));
        // A year of the calendar is never shorter than this, so that this is the year or the one after it.
        let mut year = (day + 719_468).div_euclid(365).min(10_000);
        while days_to_march(year) > day {
            year -= 1;
        }
        let left = day - days_to_march(year);
        let month = (0..12).rev().find(|month| days_to_month(*month) <= left).unwrap_or(0);
        let day = left - days_to_month(month) + 1;
        let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
        write!(f, "{year:04}-{month:02}-{day:02}")?;
        if time != 0 || self.nanos != 0 {
            write!(f, "T{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)?;
            if self.nanos != 0 {
                write!(f, ".{:09}", self.nanos)?;
            }
            write!(f, "Z")?;
        }
        Ok(())
    }
}
