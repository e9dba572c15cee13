// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the guest measures and how it tells the host: one line of JSON per figure.
//!
//! A figure belongs to a section, a cell (what was done) and a subject (which device or filesystem
//! did it).

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Every such line of the guest's output starts with this.
const MARK: &str = "bench-sample ";

/// One figure of one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Part of the bench: [`DEVICE`], [`FILES`], [`INDEXING`] or [`FACTS`].
    pub section: String,
    /// What was done.
    pub cell: String,
    /// Who did it.
    pub subject: String,
    /// Which round, from 0.
    pub round: u32,
    /// Higher is better, but for [`FACTS`].
    pub value: f64,
    /// Unit of the value.
    pub unit: String,
}

/// Block devices side by side.
pub const DEVICE: &str = "device";
/// Filesystems side by side.
pub const FILES: &str = "fs";
/// The same device with and without vectors to index.
pub const INDEXING: &str = "indexing";
/// Figures with a limit of their own: lower is better.
pub const FACTS: &str = "facts";

/// Prints a figure for the host.
pub fn give(section: &str, cell: &str, subject: &str, round: u32, value: f64, unit: &str) {
    let sample = Sample {
        section: section.to_owned(),
        cell: cell.to_owned(),
        subject: subject.to_owned(),
        round,
        value,
        unit: unit.to_owned(),
    };
    println!("{}", sample.line());
}

impl Sample {
    /// The line the guest prints.
    pub fn line(&self) -> String {
        let value = json!({
            "section": self.section, "cell": self.cell, "subject": self.subject,
            "round": self.round, "value": self.value, "unit": self.unit,
        });
        format!("{MARK}{value}")
    }

    /// The sample in a line of the guest's output, if it is one.
    pub fn parse(line: &str) -> Result<Option<Self>> {
        let Some(text) = line.strip_prefix(MARK) else { return Ok(None) };
        let value: Value = serde_json::from_str(text)
            .with_context(|| format!("the guest printed a sample that is no JSON: {text}"))?;
        let word = |key: &str| {
            let found = value[key].as_str().map(str::to_owned);
            found.with_context(|| format!("the guest's sample lacks '{key}': {text}"))
        };
        Ok(Some(Self {
            section: word("section")?,
            cell: word("cell")?,
            subject: word("subject")?,
            round: value["round"].as_u64().context("a sample without its round")? as u32,
            value: value["value"].as_f64().context("a sample without its value")?,
            unit: word("unit")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{DEVICE, Sample};

    #[test]
    fn a_sample_survives_its_line() {
        let sample = Sample {
            section: DEVICE.into(),
            cell: "4k random read QD1".into(),
            subject: "rublk \"loop\"".into(),
            round: 3,
            value: 12345.5,
            unit: "IOPS".into(),
        };
        assert_eq!(Sample::parse(&sample.line()).ok(), Some(Some(sample)));
        assert_eq!(Sample::parse("something else").ok(), Some(None));
        assert!(Sample::parse("bench-sample {").is_err());
    }
}
