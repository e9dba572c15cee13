// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask test`: runs all checks, or one part of them, and times each part.
//!
//! A part that fails does not stop the next one. Nothing is tried twice. The last line is always
//! `N passed, N failed`.

mod checks;
pub mod e2e;
mod licences;
mod pages;
mod style;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::coverage;
use crate::kernel::Which;
use crate::lab;
use crate::setup;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// What to check.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Only this part
    #[arg(value_enum)]
    part: Option<Part>,
    /// The kernel that the module is built for and that guests run on
    #[arg(long, value_enum, default_value_t)]
    kernel: Which,
    /// Only end-to-end tests, or unit tests, whose name contains this
    name: Option<String>,
}

/// The parts, in the order they run: the quick ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Formatting
    Fmt,
    /// House rules that no other tool knows
    Style,
    /// Licences of all dependencies
    Licences,
    /// Lints, warnings denied
    Clippy,
    /// The documentation of all crates, warnings denied
    Doc,
    /// Unit, property and model tests, natively
    Unit,
    /// The tests take every branch that recovery depends on
    Coverage,
    /// The crash lab: a million states, the simulator, every mutant
    Lab,
    /// The C harness of the FFI
    Ffi,
    /// The module, with and without the engine, and sparse
    Kernel,
    /// Scripts in guests: real kernel, real ublk, real mount
    E2e,
}

struct Line {
    part: Part,
    tally: Tally,
    took: Duration,
}

/// Runs the parts; true when nothing failed.
pub fn run(workspace: &Workspace, args: &TestArgs) -> Result<bool> {
    if args.part.is_none() {
        // Before hours of tests it is better to hear at once what is missing for the last of them.
        setup::guests(workspace, args.kernel)?;
    }
    let mut lines = Vec::new();
    for &part in Part::value_variants() {
        if args.part.is_some_and(|only| only != part) {
            continue;
        }
        println!("\n== {}", title(part));
        let began = Instant::now();
        let tally = check(workspace, part, args).unwrap_or_else(|error| {
            let mut tally = Tally::default();
            tally.fail(&format!("{}: {error:#}", title(part)));
            tally
        });
        let took = began.elapsed();
        println!("== {}: {tally} in {:.1} s", title(part), took.as_secs_f64());
        lines.push(Line { part, tally, took });
    }
    Ok(summary(&lines))
}

/// Sets up what this part needs, and no more, and runs it.
fn check(workspace: &Workspace, part: Part, args: &TestArgs) -> Result<Tally> {
    let name = args.name.as_deref();
    match part {
        Part::Fmt => checks::fmt(workspace),
        Part::Style => style::check(workspace),
        Part::Licences => licences::check(workspace),
        Part::Clippy => {
            setup::compiling()?;
            checks::clippy(workspace)
        }
        Part::Doc => {
            setup::compiling()?;
            checks::doc(workspace)
        }
        Part::Unit => {
            setup::compiling()?;
            checks::unit(workspace, name)
        }
        Part::Coverage => coverage::check(workspace),
        Part::Lab => lab::check(workspace),
        Part::Ffi => checks::ffi(workspace),
        Part::Kernel => {
            let kernel = setup::guests(workspace, args.kernel)?;
            Ok(checks::kernel(workspace, &kernel))
        }
        Part::E2e => {
            let kernel = setup::guests(workspace, args.kernel)?;
            e2e::all(workspace, &kernel, name)
        }
    }
}

fn summary(lines: &[Line]) -> bool {
    let total = lines.iter().fold(Tally::default(), |sum, line| sum.with(&line.tally));
    let time: Duration = lines.iter().map(|line| line.took).sum();
    println!("\n{:<12} {:>7} {:>7} {:>9}", "part", "passed", "failed", "seconds");
    for line in lines {
        println!(
            "{:<12} {:>7} {:>7} {:>9.1}",
            title(line.part),
            line.tally.passed,
            line.tally.failures.len(),
            line.took.as_secs_f64()
        );
    }
    println!(
        "{:<12} {:>7} {:>7} {:>9.1}",
        "total",
        total.passed,
        total.failures.len(),
        time.as_secs_f64()
    );
    if !total.failures.is_empty() {
        println!("\nfailed:");
        for failure in &total.failures {
            println!("  {}", failure.lines().next().unwrap_or_default());
        }
    }
    println!("\n{total}");
    total.failures.is_empty()
}

fn title(part: Part) -> String {
    part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
