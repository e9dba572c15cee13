// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The report as a picture: bars grouped by cell, relative to the reference, with the ratio
//! written beside ours.
//!
//! One SVG without scripts, fonts or background, readable on light and on dark pages.

use std::fmt::Write;

use super::report::{Cell, Report, Section, Verdict, short};

const WIDTH: f64 = 960.0;
const LABELS: f64 = 290.0;
const RIGHT: f64 = 150.0;
const BAR: f64 = 9.0;
const GAP: f64 = 10.0;
const HEAD: f64 = 64.0;
/// Length of the longest bar, in units of the reference; a longer one is cut, with an arrow at its figure.
const CUT: f64 = 3.0;

/// Muted colours for the others, a strong one for ours; all are visible on white and on black.
const COLOURS: [&str; 5] = ["#9aa5b1", "#b8a1cf", "#86a8c9", "#c9a35b", "#1f9d8a"];
const TEXT: &str = "#7a8490";

/// Draws all sections, one below the other.
pub fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 12.0;
    for section in &report.sections {
        y = draw_section(&mut body, section, y);
    }
    for (name, value) in &report.setting {
        text(&mut body, 12.0, y, "start", 11, "normal", &format!("{name}: {value}"));
        y += 16.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\" \
         viewBox=\"0 0 {WIDTH} {:.0}\" font-family=\"system-ui, sans-serif\">\n{body}</svg>\n",
        y + 8.0,
        y + 8.0
    )
}

fn draw_section(body: &mut String, section: &Section, top: f64) -> f64 {
    let scale = (WIDTH - LABELS - RIGHT) / CUT;
    text(body, 12.0, top + 18.0, "start", 16, "bold", section.title);
    let mut x = 12.0;
    for (index, subject) in section.subjects.iter().enumerate() {
        let colour = colour(section, index);
        rectangle(body, x, top + 30.0, 10.0, 10.0, colour);
        text(body, x + 15.0, top + 39.0, "start", 12, "normal", subject);
        x += 34.0 + 7.2 * subject.len() as f64;
    }
    let right = WIDTH - 12.0;
    text(body, right, top + 39.0, "end", 12, "normal", &format!("ratio: {}", section.ratio));
    let mut y = top + HEAD;
    for cell in &section.cells {
        y = draw_cell(body, section, cell, y, scale);
    }
    let one = LABELS + scale;
    let _ = writeln!(
        body,
        "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{TEXT}\" \
         stroke-dasharray=\"3 3\"/>",
        top + HEAD - 6.0,
        y - GAP + 4.0
    );
    let base = section.references.join(", ");
    text(body, one, top + HEAD - 10.0, "middle", 10, "normal", &format!("best of {base} = 1"));
    y + 26.0
}

fn draw_cell(body: &mut String, section: &Section, cell: &Cell, top: f64, scale: f64) -> f64 {
    let height = BAR * section.subjects.len() as f64;
    let middle = top + height / 2.0 + 4.0;
    text(body, LABELS - 10.0, middle, "end", 12, "normal", &cell.name);
    let reference = section
        .subjects
        .iter()
        .zip(&cell.figures)
        .filter(|(subject, _)| section.references.contains(subject))
        .filter_map(|(_, figure)| figure.map(|f| f.median))
        .fold(0.0, f64::max);
    for (index, figure) in cell.figures.iter().enumerate() {
        let y = top + BAR * index as f64;
        let Some(figure) = figure.as_ref().filter(|_| reference > 0.0) else { continue };
        let relative = figure.median / reference;
        let length = relative.min(CUT) * scale;
        rectangle(body, LABELS, y, length.max(1.0), BAR - 1.5, colour(section, index));
        let ours = index + 1 == section.subjects.len();
        let cut = if relative > CUT { " →" } else { "" };
        let shown = format!("{}{cut}", short(figure.median));
        let weight = if ours { "bold" } else { "normal" };
        text(body, LABELS + length + 4.0, y + BAR - 2.0, "start", 8, weight, &shown);
    }
    if let Some(ratio) = cell.ratio {
        let verdict = cell.verdict();
        let mark = if verdict == Verdict::Below { " ▼" } else { "" };
        let shown = format!("{:.2}{mark}", ratio.median);
        text(body, WIDTH - 12.0, middle, "end", 13, "bold", &shown);
        text(body, WIDTH - 62.0, middle, "end", 10, "normal", &cell.unit);
    }
    top + height + GAP
}

fn colour(section: &Section, index: usize) -> &'static str {
    // The last subject, which is ours, gets the last colour.
    COLOURS[(COLOURS.len() + index - section.subjects.len()) % COLOURS.len()]
}

fn rectangle(body: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let _ = writeln!(
        body,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"1.5\" \
         fill=\"{colour}\"/>"
    );
}

/// Words at a place, with what XML minds replaced.
pub fn text(body: &mut String, x: f64, y: f64, anchor: &str, size: u32, weight: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" \
         font-weight=\"{weight}\" fill=\"{TEXT}\">{words}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::bench::report::Report;
    use crate::bench::sample::{DEVICE, Sample};

    #[test]
    fn every_subject_has_a_bar_and_ours_its_ratio() {
        let sample = |subject: &str, value| Sample {
            section: DEVICE.into(),
            cell: "a < b".into(),
            subject: subject.into(),
            round: 0,
            value,
            unit: "IOPS".into(),
        };
        let samples =
            [sample("null_blk", 1000.0), sample("rublk loop", 100.0), sample("vexfs-ublk", 125.0)];
        let picture = draw(&Report::new(&samples, vec![("kernel", "6.12 & more".into())]));
        // Five in the legend, three of figures.
        assert_eq!(picture.matches("<rect").count(), 8);
        assert!(picture.contains(">1.25<") && picture.contains("a &lt; b"), "{picture}");
        assert!(picture.contains("6.12 &amp; more") && picture.contains("1000 →"), "{picture}");
    }
}
