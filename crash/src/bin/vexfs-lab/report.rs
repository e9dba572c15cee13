// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the commands have in common: threads, progress, tables.

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::time::Duration;

/// A progress bar on standard error, if that is a terminal. Without `len` it is a clock.
pub fn bar(len: Option<u64>, unit: &str) -> ProgressBar {
    let bar = len.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let place = if len.is_some() { "{wide_bar} {human_pos} of {human_len}" } else { "{spinner}" };
    let style = format!("{{elapsed}} {place} {unit}  {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// An aligned table of names and figures.
pub fn table(lines: &[(&str, u64)]) {
    let width = lines.iter().map(|(_, n)| HumanCount(*n).to_string().len()).max().unwrap_or(0);
    for (name, figure) in lines {
        println!("{name:<28} {:>width$}", HumanCount(*figure).to_string());
    }
}

/// The threads to run: as many as asked for, or one for each processor.
pub fn threads(asked: Option<usize>) -> usize {
    let processors = || std::thread::available_parallelism().ok().map(Into::into);
    asked.or_else(processors).unwrap_or(1).max(1)
}

/// How many a second on each of `threads` processors.
pub fn rate(count: u64, took: Duration, threads: usize) -> u64 {
    (count as f64 / took.as_secs_f64().max(1e-9) / threads.max(1) as f64) as u64
}

/// Quotes an argument for a shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
