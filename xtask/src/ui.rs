// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Shows progress.
//!
//! On a terminal a step is a spinner with its last line of output; elsewhere, as in CI, one line when it
//! starts and one when it ends.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How progress is shown.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    terminal: bool,
}

/// One running step; dropping it without [`Step::done`] leaves it marked as failed.
#[derive(Debug)]
pub struct Step {
    title: String,
    began: Instant,
    bar: Option<ProgressBar>,
    finished: bool,
}

impl Ui {
    /// Progress goes to standard error, so that standard output holds only results.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// Announces a step.
    pub fn step(self, title: &str) -> Step {
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed:>4} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("   ... {title}");
        }
        Step { title: title.to_owned(), began: Instant::now(), bar, finished: false }
    }
}

impl Step {
    /// Sets the text beside the spinner; it is not shown elsewhere.
    pub fn message(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.trim().to_owned());
        }
    }

    /// The step succeeded.
    pub fn done(mut self) {
        self.finish("ok");
    }

    fn finish(&mut self, word: &str) {
        self.finished = true;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{word:>6} {} ({:.1} s)", self.title, self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.finish("FAILED");
        }
    }
}
