// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The curves of one set as a picture: recall to the right, queries a second upwards.
//!
//! One SVG without scripts, fonts or background, readable on light and on dark pages. Both axes are
//! logarithmic, the lower one in what is missed: from .9 to .99 is as far as from .99 to .999.

use std::fmt::Write;

use super::curve::Point;
use super::engines::OURS;
use super::report::{Clock, Results};
use crate::bench::report::short;
use crate::bench::svg::text;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 50.0;
/// Colours that are visible on white and on black; ours is the strong one.
const COLOURS: [&str; 7] =
    ["#9aa5b1", "#b8a1cf", "#86a8c9", "#c9a35b", "#c98686", "#8fb07a", "#a89078"];
const STRONG: &str = "#1f9d8a";
/// Marks of the lower axis.
const MARKS: [f64; 7] = [0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999];
/// What is found wholly stands here.
const LAST: f64 = 0.99995;

/// Draws one set, with one searcher.
pub fn draw(results: &Results) -> String {
    let curves: Vec<(&str, Vec<Point>)> = results
        .rows
        .iter()
        .map(|row| (row.engine, row.curve(1, Clock::Wall)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let all = || curves.iter().flat_map(|(_, points)| points);
    let lowest = all().map(|p| p.recall).fold(0.95, f64::min).clamp(0.0, 0.95);
    let least = all().map(|p| p.qps).fold(f64::MAX, f64::min).clamp(1.0, 1e9);
    let most = all().map(|p| p.qps).fold(least * 2.0, f64::max);
    let across = |recall: f64| {
        let missed = |recall: f64| -(1.0 - recall.min(LAST)).ln();
        let share = (missed(recall) - missed(lowest)) / (missed(LAST) - missed(lowest));
        LEFT + share * (WIDTH - LEFT - RIGHT)
    };
    let up = |qps: f64| {
        let share = (qps.max(1.0) / least).ln() / (most / least).ln();
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    };
    let mut body = String::new();
    text(&mut body, 12.0, 26.0, "start", 16, "bold", &results.about);
    text(&mut body, 12.0, 46.0, "start", 12, "normal", "queries a second, one searcher");
    for mark in MARKS.into_iter().filter(|mark| *mark >= lowest) {
        line(&mut body, (across(mark), TOP), (across(mark), HEIGHT - BOTTOM));
        text(
            &mut body,
            across(mark),
            HEIGHT - BOTTOM + 18.0,
            "middle",
            11,
            "normal",
            &mark.to_string(),
        );
    }
    for qps in (0..9).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power))) {
        if (least..=most).contains(&qps) {
            line(&mut body, (LEFT, up(qps)), (WIDTH - RIGHT, up(qps)));
            text(&mut body, LEFT - 6.0, up(qps) + 4.0, "end", 11, "normal", &short(qps));
        }
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    text(&mut body, middle, HEIGHT - 12.0, "middle", 12, "normal", "recall@10");
    for (number, (engine, points)) in curves.iter().enumerate() {
        let places = points.iter().map(|point| (across(point.recall), up(point.qps))).collect();
        curve(&mut body, engine, number, places);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\">\n{body}</svg>\n"
    )
}

fn curve(body: &mut String, engine: &str, number: usize, mut places: Vec<(f64, f64)>) {
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ours = engine == OURS;
    let colour = if ours { STRONG } else { COLOURS[number % COLOURS.len()] };
    let width = if ours { 3.0 } else { 1.8 };
    let mut path = String::new();
    for (x, y) in &places {
        let _ = write!(path, "{x:.1},{y:.1} ");
        let _ = writeln!(body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    let _ = writeln!(
        body,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        path.trim_end()
    );
    let y = TOP + 20.0 * number as f64;
    let _ = writeln!(
        body,
        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
        WIDTH - RIGHT + 16.0,
        y - 9.0
    );
    let weight = if ours { "bold" } else { "normal" };
    text(body, WIDTH - RIGHT + 32.0, y, "start", 12, weight, engine);
}

/// A line of the grid.
pub(super) fn line(body: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        body,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#7a8490\" \
         stroke-opacity=\"0.35\"/>",
        from.0, from.1, to.0, to.1
    );
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::bench::vectors::report::tests::results;

    #[test]
    fn every_engine_has_a_curve_and_ours_the_strong_one() {
        let picture = draw(&results());
        assert_eq!(picture.matches("<polyline").count(), 2);
        // One searcher only: two widths of two engines.
        assert_eq!(picture.matches("<circle").count(), 4);
        assert_eq!(picture.matches("stroke-width=\"3\"").count(), 1);
        assert!(picture.contains(">vexfs-index<") && !picture.contains("NaN"), "{picture}");
    }
}
