// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From figures to results: medians, their spread, ratios, and whether that is enough.
//!
//! Ratios are made within a round, where both sides saw the same noise, and only then is
//! their median taken.

use std::fmt::Write;

use serde_json::{Value, json};

use super::sample::{DEVICE, FACTS, FILES, INDEXING, Sample};
use super::{device, facts, files, indexing};

/// The median of some figures, and their extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these figures; `None` without any.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[half - 1], values[half])
        } else {
            values[half]
        };
        Some(Self { median, min, max })
    }

    /// Half of what lies between the extremes, in percent of the median.
    pub fn percent(&self) -> f64 {
        if self.median > 0.0 { (self.max - self.min) / 2.0 / self.median * 100.0 } else { 0.0 }
    }

    fn json(&self) -> Value {
        json!({"median": self.median, "min": self.min, "max": self.max})
    }
}

/// How a cell came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At or above the target.
    Reached,
    /// The median is below the target, but some rounds reached it: noise decides.
    Near,
    /// Below the target in every round.
    Below,
    /// It has no target.
    Free,
}

impl Verdict {
    /// In a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Near => "near",
            Self::Below => "BELOW",
            Self::Free => "",
        }
    }
}

/// One cell: the same thing done by all subjects.
#[derive(Debug, Clone)]
pub struct Cell {
    /// What was done.
    pub name: String,
    /// Of the figures.
    pub unit: String,
    /// Each subject's figures; `None` if it has none.
    pub figures: Vec<Option<Spread>>,
    /// Ours over the reference.
    pub ratio: Option<Spread>,
    /// The target: the smallest ratio that is enough, if there is one.
    pub wanted: Option<f64>,
}

impl Cell {
    /// Whether the ratio is enough.
    pub fn verdict(&self) -> Verdict {
        match (self.wanted, self.ratio) {
            (Some(wanted), Some(ratio)) if ratio.median >= wanted => Verdict::Reached,
            (Some(wanted), Some(ratio)) if ratio.max >= wanted => Verdict::Near,
            (Some(_), Some(_)) => Verdict::Below,
            _ => Verdict::Free,
        }
    }
}

/// One part of the bench.
#[derive(Debug, Clone)]
pub struct Section {
    /// Its name in the JSON.
    pub key: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What the ratio is of.
    pub ratio: &'static str,
    /// The columns; the last one is ours.
    pub subjects: &'static [&'static str],
    /// What every figure is shown relative to in a picture.
    pub references: &'static [&'static str],
    /// The rows.
    pub cells: Vec<Cell>,
}

/// A figure with a limit.
#[derive(Debug, Clone)]
pub struct Fact {
    /// What it is.
    pub name: &'static str,
    /// Its figures.
    pub spread: Spread,
    /// What it has to stay below.
    pub limit: f64,
    /// Of both.
    pub unit: &'static str,
}

/// Everything that was measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// Cells with subjects side by side.
    pub sections: Vec<Section>,
    /// Figures of ours alone.
    pub facts: Vec<Fact>,
    /// How it was measured: names and values.
    pub setting: Vec<(&'static str, String)>,
}

impl Report {
    /// Sorts the figures into cells, in the order of their arrival.
    pub fn new(samples: &[Sample], setting: Vec<(&'static str, String)>) -> Self {
        let device = Section {
            key: DEVICE,
            title: "Block devices on the same image",
            ratio: "vexfs-ublk / rublk loop",
            subjects: &device::SUBJECTS,
            references: &[device::REFERENCE],
            cells: Vec::new(),
        };
        let files = Section {
            key: FILES,
            title: "Filesystems on the same vexfs-ublk device",
            ratio: "vexfs / best of ext4, xfs",
            subjects: &files::SUBJECTS,
            references: &files::REFERENCES,
            cells: Vec::new(),
        };
        let indexing = Section {
            key: INDEXING,
            title: "The same device with and without vectors to index",
            ratio: "vectors / no vectors",
            subjects: &indexing::SUBJECTS,
            references: &indexing::SUBJECTS[..1],
            cells: Vec::new(),
        };
        let sections = [device, files, indexing].into_iter().filter_map(|mut section| {
            section.cells = cells(samples, &section);
            (!section.cells.is_empty()).then_some(section)
        });
        let facts = facts::LIMITS.into_iter().filter_map(|(name, limit, unit)| {
            let of_it = samples.iter().filter(|s| s.section == FACTS && s.cell == name);
            let spread = Spread::of(of_it.map(|s| s.value).collect())?;
            Some(Fact { name, spread, limit, unit })
        });
        Self { sections: sections.collect(), facts: facts.collect(), setting }
    }

    /// How many cells and facts miss their target.
    pub fn below(&self) -> usize {
        let cells = self.sections.iter().flat_map(|section| &section.cells);
        cells.filter(|cell| cell.verdict() == Verdict::Below).count()
            + self.facts.iter().filter(|fact| fact.spread.median >= fact.limit).count()
    }

    /// The report for programs.
    pub fn json(&self) -> Value {
        let sections: Vec<Value> = self
            .sections
            .iter()
            .map(|section| {
                let cells: Vec<Value> =
                    section.cells.iter().map(|cell| cell_json(section, cell)).collect();
                json!({"section": section.key, "title": section.title, "ratio": section.ratio,
                       "cells": cells})
            })
            .collect();
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|fact| {
                json!({"name": fact.name, "unit": fact.unit, "limit": fact.limit,
                       "figure": fact.spread.json()})
            })
            .collect();
        let setting: serde_json::Map<String, Value> =
            self.setting.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        json!({"setting": setting, "sections": sections, "facts": facts})
    }

    /// The report for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.setting {
            let _ = writeln!(text, "{name:>10}: {value}");
        }
        for section in &self.sections {
            let _ = writeln!(text, "\n{}", section.title);
            let name = section.cells.iter().map(|cell| cell.name.len()).max().unwrap_or(0);
            let _ = write!(text, "  {:name$}", "median ± spread");
            for subject in section.subjects {
                let _ = write!(text, "  {subject:>14}");
            }
            let _ = writeln!(text, "  {:>6}  {}", "unit", section.ratio);
            for cell in &section.cells {
                let _ = write!(text, "  {:name$}", cell.name);
                for figure in &cell.figures {
                    let shown = figure.as_ref().map_or_else(|| "-".to_owned(), figure_text);
                    let _ = write!(text, "  {shown:>14}");
                }
                let ratio = cell.ratio.map_or_else(String::new, |ratio| {
                    format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max)
                });
                let verdict = cell.verdict().word();
                let _ = writeln!(text, "  {:>6}  {ratio:22} {verdict}", cell.unit);
            }
        }
        if !self.facts.is_empty() {
            let _ = writeln!(text, "\nLimits");
            for fact in &self.facts {
                let reached = fact.spread.median < fact.limit;
                let (median, max) = (fact.spread.median, fact.spread.max);
                let _ = writeln!(
                    text,
                    "  {:34} {median:>8.1} {} (at most {max:.1}; limit {}) {}",
                    fact.name,
                    fact.unit,
                    fact.limit,
                    if reached { "reached" } else { "MISSED" }
                );
            }
        }
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
    }
}

fn figure_text(figure: &Spread) -> String {
    format!("{} ±{:>2.0}%", short(figure.median), figure.percent())
}

/// A figure in about four digits.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 99_950.0 => format!("{:.0}k", v / 1e3),
        v if v >= 9_995.0 => format!("{:.1}k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn cell_json(section: &Section, cell: &Cell) -> Value {
    let figures: serde_json::Map<String, Value> = section
        .subjects
        .iter()
        .zip(&cell.figures)
        .filter_map(|(subject, figure)| Some(((*subject).to_owned(), figure.as_ref()?.json())))
        .collect();
    json!({"cell": cell.name, "unit": cell.unit, "figures": figures,
           "ratio": cell.ratio.map(|ratio| ratio.json()), "wanted": cell.wanted,
           "verdict": cell.verdict().word()})
}

fn cells(samples: &[Sample], section: &Section) -> Vec<Cell> {
    let mut names: Vec<&str> = Vec::new();
    for sample in samples.iter().filter(|sample| sample.section == section.key) {
        if !names.contains(&sample.cell.as_str()) {
            names.push(&sample.cell);
        }
    }
    // Direct before buffered, whatever the first round began with.
    names.sort_by_key(|name| name.ends_with("buffered image"));
    names.into_iter().map(|name| one_cell(samples, section, name)).collect()
}

fn one_cell(samples: &[Sample], section: &Section, name: &str) -> Cell {
    let own: Vec<&Sample> =
        samples.iter().filter(|s| s.section == section.key && s.cell == name).collect();
    let of = |subject: &'static str| own.iter().filter(move |s| s.subject == subject);
    let ours = section.subjects.last().copied().unwrap_or_default();
    let ratios = of(ours).filter_map(|sample| {
        let others = section.references.iter().filter_map(|reference| {
            of(reference).find(|other| other.round == sample.round).map(|other| other.value)
        });
        let best = others.fold(0.0, f64::max);
        (best > 0.0).then(|| sample.value / best)
    });
    let wanted = match section.key {
        DEVICE => 1.0,
        INDEXING if !name.starts_with(indexing::COPY) => indexing::DEVICE_WANTED,
        INDEXING => indexing::COPY_WANTED,
        _ => 0.5,
    };
    Cell {
        name: name.to_owned(),
        unit: own.first().map(|sample| sample.unit.clone()).unwrap_or_default(),
        figures: section
            .subjects
            .iter()
            .map(|subject| Spread::of(of(subject).map(|s| s.value).collect()))
            .collect(),
        ratio: Spread::of(ratios.collect()),
        wanted: (!name.starts_with(files::DURABLE)).then_some(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Spread, Verdict, short};
    use crate::bench::sample::{DEVICE, FACTS, FILES, Sample};

    fn sample(section: &str, cell: &str, subject: &str, round: u32, value: f64) -> Sample {
        Sample {
            section: section.into(),
            cell: cell.into(),
            subject: subject.into(),
            round,
            value,
            unit: "IOPS".into(),
        }
    }

    #[test]
    fn the_middle_of_figures() {
        let spread = Spread::of(vec![3.0, 1.0, 10.0, 5.0]).unwrap();
        assert_eq!(spread, Spread { median: 4.0, min: 1.0, max: 10.0 });
        assert!(Spread::of(vec![7.0]).unwrap().percent() < 1e-9);
        assert_eq!(Spread::of(vec![]), None);
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        // The second round ran on a machine twice as fast; the ratio does not care.
        let samples = [
            sample(DEVICE, "read", "rublk loop", 0, 100.0),
            sample(DEVICE, "read", "vexfs-ublk", 0, 110.0),
            sample(DEVICE, "read", "vexfs-ublk", 1, 220.0),
            sample(DEVICE, "read", "rublk loop", 1, 200.0),
        ];
        let report = Report::new(&samples, vec![]);
        let cell = &report.sections[0].cells[0];
        assert!((cell.ratio.unwrap().median - 1.1).abs() < 1e-9);
        assert_eq!(cell.verdict(), Verdict::Reached);
        assert_eq!(report.below(), 0);
    }

    #[test]
    fn ours_is_compared_with_the_better_of_the_references() {
        let mut samples = vec![
            sample(FILES, "create", "ext4", 0, 100.0),
            sample(FILES, "create", "xfs", 0, 300.0),
            sample(FILES, "create", "vexfs", 0, 120.0),
            sample(FACTS, "mkfs, 1 TiB sparse", "vexfs", 0, 1500.0),
        ];
        let report = Report::new(&samples, vec![]);
        assert_eq!(report.sections[0].cells[0].verdict(), Verdict::Below);
        assert_eq!(report.below(), 2);
        samples.push(sample(FILES, "create", "xfs", 1, 100.0));
        samples.push(sample(FILES, "create", "vexfs", 1, 55.0));
        let near = Report::new(&samples, vec![]);
        assert_eq!(near.sections[0].cells[0].verdict(), Verdict::Near);
        assert!(near.table().contains("vexfs / best of ext4, xfs"), "{}", near.table());
    }

    #[test]
    fn what_waits_for_the_medium_is_not_judged() {
        let samples = [
            sample(FILES, "durable: append", "ext4", 0, 100.0),
            sample(FILES, "durable: append", "vexfs", 0, 1.0),
        ];
        let report = Report::new(&samples, vec![]);
        assert_eq!(report.sections[0].cells[0].verdict(), Verdict::Free);
    }

    #[test]
    fn figures_are_short() {
        let shown: Vec<String> =
            [0.5, 12.34, 123.4, 9999.0, 54_321.0, 123_456.0].into_iter().map(short).collect();
        assert_eq!(shown, ["0.50", "12.3", "123", "10.0k", "54.3k", "123k"]);
    }
}
