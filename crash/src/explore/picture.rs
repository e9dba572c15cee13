// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Draws the states explored: a row for each number of writes that were not durable at the cut, with
//! how many states there were and which generation came back.
//!
//! One SVG without scripts, fonts or background, readable on light and on dark pages.

use super::tally::PointTally;
use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 250.0;
const ROW: f64 = 22.0;
const TOP: f64 = 84.0;
const TEXT: &str = "#7a8490";
/// The promised generation, the one being committed, a later one.
const COLOURS: [&str; 3] = ["#86a8c9", "#1f9d8a", "#c9a35b"];
const WRONG: &str = "#d1495b";

/// All points with the same number of unflushed writes.
#[derive(Default)]
struct Row {
    points: u64,
    states: u64,
    evaluations: u64,
    failed: u64,
    /// States by how much newer their generation is than the oldest that came back at the point.
    newer: [u64; COLOURS.len()],
}

/// Points with this many writes or more share one row.
const MANY: usize = 16;

/// Draws what was explored.
#[must_use]
pub fn draw(points: &[PointTally]) -> String {
    let mut rows: BTreeMap<usize, Row> = BTreeMap::new();
    for point in points {
        let row = rows.entry(point.writes.min(MANY)).or_default();
        row.points += 1;
        row.states += point.states;
        row.evaluations += point.evaluations;
        row.failed += point.failed;
        let oldest = point.generations.keys().next().copied().unwrap_or(0);
        for (generation, states) in &point.generations {
            let newer = (generation - oldest).min(COLOURS.len() as u64 - 1) as usize;
            row.newer[newer] += states;
        }
    }
    let states: u64 = rows.values().map(|row| row.states).sum();
    let evaluations: u64 = rows.values().map(|row| row.evaluations).sum();
    let most = rows.values().map(|row| row.states).max().unwrap_or(1).max(10) as f64;
    // Rows differ by orders of magnitude: a bar's length is the logarithm.
    let scale = (WIDTH - LEFT - RIGHT) / (1.0 + most.log10());
    let mut body = String::new();
    let title = format!(
        "{} states at {} points of a cut, from {} runs of the engine",
        grouped(states),
        grouped(points.len() as u64),
        grouped(evaluations)
    );
    text(&mut body, 12.0, 24.0, "start", 16, "bold", &title);
    let names = ["the promised generation came back", "the one being committed", "a later one"];
    let mut x = 12.0;
    for (name, colour) in names.iter().zip(COLOURS) {
        rectangle(&mut body, x, 38.0, 10.0, 10.0, colour);
        text(&mut body, x + 15.0, 47.0, "start", 12, "normal", name);
        x += 40.0 + 6.6 * name.len() as f64;
    }
    rectangle(&mut body, x, 38.0, 10.0, 10.0, WRONG);
    text(&mut body, x + 15.0, 47.0, "start", 12, "normal", "wrong");
    text(&mut body, LEFT - 8.0, 72.0, "end", 12, "normal", "writes not durable at the cut");
    text(&mut body, LEFT, 72.0, "start", 12, "normal", "states (logarithmic)");
    let right = WIDTH - 12.0;
    text(&mut body, right, 72.0, "end", 12, "normal", "states / points / runs");
    let mut y = TOP;
    for (writes, row) in &rows {
        let label = if *writes == MANY { format!("{MANY} or more") } else { writes.to_string() };
        text(&mut body, LEFT - 8.0, y + 13.0, "end", 12, "normal", &label);
        let length = scale * (1.0 + (row.states.max(1) as f64).log10());
        let parts = row.newer.iter().copied().zip(COLOURS).chain([(row.failed, WRONG)]);
        let mut x = LEFT;
        for (count, colour) in parts {
            let width = length * count as f64 / row.states.max(1) as f64;
            if width > 0.0 {
                rectangle(&mut body, x, y, width, ROW - 6.0, colour);
            }
            x += width;
        }
        let figures = format!(
            "{} / {} / {}",
            grouped(row.states),
            grouped(row.points),
            grouped(row.evaluations)
        );
        text(&mut body, right, y + 13.0, "end", 12, "normal", &figures);
        y += ROW;
    }
    let height = y + 8.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"system-ui, sans-serif\">\n{body}</svg>\n"
    )
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn rectangle(body: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let _ = writeln!(
        body,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{colour}\"/>"
    );
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, size: u32, weight: &str, what: &str) {
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
         font-weight=\"{weight}\" fill=\"{TEXT}\">{what}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_and_every_figure_is_drawn() {
        let point = |writes, states, failed| PointTally {
            writes,
            states,
            failed,
            evaluations: 2,
            generations: [(7, states - failed)].into(),
            ..PointTally::default()
        };
        let svg = draw(&[point(1, 2, 0), point(3, 12_345, 5), point(40, 9, 0)]);
        for part in ["12,356 states", "12,345 / 1 / 2", "16 or more", WRONG, "</svg>"] {
            assert!(svg.contains(part), "no {part}");
        }
    }
}
