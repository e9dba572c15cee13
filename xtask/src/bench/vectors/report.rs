// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From measurements to results: curves, queries a second at equal recall, and their ratio to the reference.
//!
//! A ratio is made within a round, where both sides ran in turns; only then is the median taken.

use std::fmt::Write;

use serde::Serialize;

use super::curve::{self, Point, Speed};
use super::engines::REFERENCE;
use crate::bench::report::{Spread, short};

/// The recalls at which engines are compared.
pub const RECALLS: [f64; 2] = [0.95, 0.99];

/// One line of the JSON: an engine on a set at one width of the search, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Which engine.
    pub engine: String,
    /// Which set.
    pub set: String,
    /// Searchers at once.
    pub threads: usize,
    /// Candidates considered.
    pub ef: usize,
    /// Found of the true ten, 0 to 1.
    pub recall: f64,
    /// Queries a second by the clock: the median of the rounds.
    pub qps: f64,
    /// The same by the processors' time.
    pub qps_cpu: f64,
    /// Processors' time of building.
    pub build_cpu_s: f64,
    /// Growth of a process, divided by the rows.
    pub bytes_per_vector: f64,
    /// Opening the saved index; null if the engine saves nothing.
    pub open_ms: Option<f64>,
}

/// One engine on one set.
#[derive(Debug, Clone)]
pub struct Row {
    /// Which engine.
    pub engine: &'static str,
    /// In its own words.
    pub version: String,
    /// Processors' time of building.
    pub build_cpu_s: f64,
    /// Growth of a process, divided by the rows.
    pub bytes_per_vector: f64,
    /// The growth was measured while building, for want of a saved index.
    pub while_building: bool,
    /// Opening the saved index.
    pub open_ms: Option<f64>,
    /// What was measured, by width and threads.
    pub cells: Vec<Cell>,
}

/// One width of the search with so many threads.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Candidates considered.
    pub ef: usize,
    /// Searchers at once.
    pub threads: usize,
    /// Found of the true ten.
    pub recall: f64,
    /// Queries a second by the clock, round by round.
    pub qps: Vec<f64>,
    /// The same by the processors' time.
    pub qps_cpu: Vec<f64>,
}

/// Which time queries are counted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The wall's.
    Wall,
    /// The processors'.
    Cpu,
}

impl Cell {
    fn figures(&self, clock: Clock) -> &[f64] {
        match clock {
            Clock::Wall => &self.qps,
            Clock::Cpu => &self.qps_cpu,
        }
    }

    fn median(&self, clock: Clock) -> f64 {
        Spread::of(self.figures(clock).to_vec()).map_or(0.0, |spread| spread.median)
    }
}

impl Row {
    /// The curve over all rounds.
    pub fn curve(&self, threads: usize, clock: Clock) -> Vec<Point> {
        let cells = self.cells.iter().filter(|cell| cell.threads == threads);
        cells.map(|cell| Point { recall: cell.recall, qps: cell.median(clock) }).collect()
    }

    fn in_round(&self, threads: usize, clock: Clock, round: usize) -> Vec<Point> {
        let cells = self.cells.iter().filter(|cell| cell.threads == threads);
        cells
            .filter_map(|cell| {
                Some(Point { recall: cell.recall, qps: *cell.figures(clock).get(round)? })
            })
            .collect()
    }

    fn rounds(&self) -> usize {
        self.cells.first().map_or(0, |cell| cell.qps.len())
    }

    /// How many times as many queries a second as the other at this recall, round by round. True if one
    /// of the curves begins above the recall.
    fn ratio(&self, other: &Self, clock: Clock, recall: f64) -> Option<(Spread, bool)> {
        let mut bound = false;
        let ratios = (0..self.rounds()).filter_map(|round| {
            let ours = curve::at(&self.in_round(1, clock, round), recall)?;
            let theirs = curve::at(&other.in_round(1, clock, round), recall)?;
            bound |= ours.bound || theirs.bound;
            Some(ours.qps / theirs.qps)
        });
        let spread = Spread::of(ratios.collect())?;
        Some((spread, bound))
    }

    /// Two searchers against one, at all widths: the median.
    fn scaling(&self, clock: Clock) -> Option<Spread> {
        let ratios = self.cells.iter().filter(|cell| cell.threads == 2).filter_map(|two| {
            let one = self.cells.iter().find(|one| one.threads == 1 && one.ef == two.ef)?;
            Some(two.median(clock) / one.median(clock))
        });
        Spread::of(ratios.collect())
    }
}

/// Everything about one set.
#[derive(Debug, Clone)]
pub struct Results {
    /// The set's name.
    pub set: String,
    /// The set in words.
    pub about: String,
    /// The engines, ours last.
    pub rows: Vec<Row>,
    /// Engines that are missing, and why.
    pub left_out: Vec<(&'static str, String)>,
}

impl Results {
    /// For programs.
    pub fn records(&self) -> Vec<Record> {
        let record = |row: &Row, cell: &Cell| Record {
            engine: row.engine.to_owned(),
            set: self.set.clone(),
            threads: cell.threads,
            ef: cell.ef,
            recall: cell.recall,
            qps: cell.median(Clock::Wall),
            qps_cpu: cell.median(Clock::Cpu),
            build_cpu_s: row.build_cpu_s,
            bytes_per_vector: row.bytes_per_vector,
            open_ms: row.open_ms,
        };
        let of = |row: &Row| row.cells.iter().map(|cell| record(row, cell)).collect::<Vec<_>>();
        self.rows.iter().flat_map(of).collect()
    }

    /// For people: the curves, then the summary.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.about);
        self.curves(&mut text);
        self.summary(&mut text);
        for row in &self.rows {
            let _ = writeln!(text, "  {:>12}: {}", row.engine, row.version);
        }
        for (engine, why) in &self.left_out {
            let _ = writeln!(text, "  {engine:>12}: left out: {why}");
        }
        text
    }

    fn curves(&self, text: &mut String) {
        let mut efs: Vec<usize> =
            self.rows.iter().flat_map(|row| row.cells.iter().map(|cell| cell.ef)).collect();
        efs.sort_unstable();
        efs.dedup();
        for threads in [1, 2] {
            let _ = writeln!(
                text,
                "\n  {threads} searching: recall, queries a second (and by CPU time)"
            );
            let _ = write!(text, "  {:>12}", "");
            for ef in &efs {
                let _ = write!(text, "  {:>21}", format!("ef {ef}"));
            }
            text.push('\n');
            for row in &self.rows {
                let _ = write!(text, "  {:>12}", row.engine);
                for ef in &efs {
                    let cell = row.cells.iter().find(|c| c.threads == threads && c.ef == *ef);
                    let shown = cell.map_or_else(String::new, |cell| {
                        let (wall, cpu) = (cell.median(Clock::Wall), cell.median(Clock::Cpu));
                        format!("{:.4} {:>5} ({})", cell.recall, short(wall), short(cpu))
                    });
                    let _ = write!(text, "  {shown:>21}");
                }
                text.push('\n');
            }
        }
    }

    fn summary(&self, text: &mut String) {
        let reference = self.rows.iter().find(|row| row.engine == REFERENCE);
        let _ = write!(text, "\n  {:>12}", "at recall");
        for recall in RECALLS {
            let _ =
                write!(text, "  {:>8} {:>22} {:>9}", recall, format!("x {REFERENCE}"), "by CPU");
        }
        let _ = writeln!(
            text,
            "  {:>11} {:>7}  {:>9}  {:>8}  {:>12}",
            "build CPU s", "ratio", "B/vector", "open ms", "2 searching"
        );
        for row in &self.rows {
            let _ = write!(text, "  {:>12}", row.engine);
            for recall in RECALLS {
                let speed = curve::at(&row.curve(1, Clock::Wall), recall);
                let shown = speed.map_or_else(|| "-".into(), speed_text);
                let ratio = |clock| reference.and_then(|other| row.ratio(other, clock, recall));
                let wall = ratio(Clock::Wall).map_or_else(|| "-".into(), ratio_text);
                let cpu = ratio(Clock::Cpu).map_or_else(
                    || "-".into(),
                    |(spread, bound)| format!("{}{:.2}", about(bound), spread.median),
                );
                let _ = write!(text, "  {shown:>8} {wall:>22} {cpu:>9}");
            }
            let built = reference.map_or_else(String::new, |other| {
                format!("{:.2}", row.build_cpu_s / other.build_cpu_s)
            });
            let open = row.open_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1}"));
            let mark = if row.while_building { "*" } else { "" };
            let two = row.scaling(Clock::Wall).zip(row.scaling(Clock::Cpu));
            let two = two.map_or_else(String::new, |(wall, cpu)| {
                format!("{:.2} ({:.2})", wall.median, cpu.median)
            });
            let _ = writeln!(
                text,
                "  {:>11.1} {built:>7}  {:>9}  {open:>8}  {two:>12}",
                row.build_cpu_s,
                format!("{:.0}{mark}", row.bytes_per_vector)
            );
        }
        let _ = writeln!(
            text,
            "  ratios: median of the rounds (least to most), each round by itself; ~: one of the two \
             curves begins above that recall, and its first point stands for it\n  B/vector: growth of \
             a process that opens the saved index and answers every query, files it maps included \
             but for those that hold vectors alone (* nothing to open: growth while building)\n  2 searching: queries a second against \
             one, by the clock (and by CPU time)"
        );
    }
}

fn about(bound: bool) -> &'static str {
    if bound { "~" } else { "" }
}

fn speed_text(speed: Speed) -> String {
    format!("{}{}", if speed.bound { ">=" } else { "" }, short(speed.qps))
}

fn ratio_text((spread, bound): (Spread, bool)) -> String {
    format!("{}{:.2} ({:.2} to {:.2})", about(bound), spread.median, spread.min, spread.max)
}

#[cfg(test)]
pub mod tests {
    use super::{Cell, Results, Row};

    /// Two engines, of which ours is thrice as fast in both rounds, the second on a slower machine.
    pub fn results() -> Results {
        let cells = |factor: f64| {
            let cell = |ef, recall, threads: usize, qps: f64| Cell {
                ef,
                threads,
                recall,
                qps: vec![qps * factor, qps * factor / 2.0],
                qps_cpu: vec![qps * factor; 2],
            };
            vec![
                cell(20, 0.9, 1, 1000.0),
                cell(80, 0.999, 1, 10.0),
                cell(20, 0.9, 2, 1900.0),
                cell(80, 0.999, 2, 19.0),
            ]
        };
        let row = |engine, factor, open_ms| Row {
            engine,
            version: format!("{engine} 1"),
            build_cpu_s: 6.0 / factor,
            bytes_per_vector: 500.0,
            while_building: engine == "hnswlib",
            open_ms,
            cells: cells(factor),
        };
        Results {
            set: "tiny".into(),
            about: "tiny: 4 x 2".into(),
            rows: vec![row("hnswlib", 1.0, None), row("vexfs-index", 3.0, Some(2.5))],
            left_out: vec![("symqg", "no AVX2 < here".into())],
        }
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        let results = results();
        let (ratio, bound) =
            results.rows[1].ratio(&results.rows[0], super::Clock::Wall, 0.95).unwrap();
        assert!((ratio.min - 3.0).abs() < 1e-9 && (ratio.max - 3.0).abs() < 1e-9 && !bound);
        let table = results.table();
        assert!(table.contains("3.00 (3.00 to 3.00)") && table.contains("500*"), "{table}");
        assert!(table.contains("symqg: left out: no AVX2"), "{table}");
        assert!(table.contains("1.90 (1.90)"), "{table}");
    }

    #[test]
    fn the_json_has_the_form_that_was_promised() {
        let json = serde_json::to_value(results().records()).unwrap();
        let list = json.as_array().unwrap();
        assert_eq!(list.len(), 8);
        let names = [
            "engine",
            "set",
            "threads",
            "ef",
            "recall",
            "qps",
            "build_cpu_s",
            "bytes_per_vector",
            "open_ms",
        ];
        for record in list {
            for name in names {
                assert!(record.get(name).is_some(), "{name} is missing in {record}");
            }
        }
        assert_eq!(list[0]["engine"], "hnswlib");
        assert!(list[0]["open_ms"].is_null() && list[7]["open_ms"].as_f64() == Some(2.5));
        // The median of 3000 and 1500.
        assert_eq!(list[4]["qps"].as_f64(), Some(2250.0));
        assert_eq!((list[7]["threads"].as_u64(), list[7]["ef"].as_u64()), (Some(2), Some(80)));
    }
}
