// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Compares the branches in the output of `llvm-cov export` with the set.
//!
//! A generic function is compiled many times, and a crate once for its own tests and once for the
//! others': an outcome counts as taken if any of these copies takes it. The switches of the crash lab's
//! mutants (`mutants::is(...)`, a constant `false` in every build but the lab's) have one outcome
//! that nothing can take. Those are counted separately; nothing else is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::set::Covered;

/// The call that asks whether a mutant was chosen.
const SWITCH: &str = "mutants::is(";

#[derive(Deserialize)]
struct Export {
    data: Vec<Unit>,
}

#[derive(Deserialize)]
struct Unit {
    functions: Vec<Function>,
}

#[derive(Deserialize)]
struct Function {
    /// The mangled name.
    name: String,
    filenames: Vec<String>,
    #[serde(default)]
    branches: Vec<Branch>,
}

/// Line and column of the start, line and column of the end, how often true, how often false, the
/// number of the function's file, and two numbers that are not used.
type Branch = (u32, u32, u32, u32, u64, u64, u32, u32, u32);

/// Where a condition stands: line and column, and those of its end.
type Span = (u32, u32, u32, u32);

/// An outcome that no test took.
#[derive(Debug)]
pub struct Missed {
    /// Line of the condition.
    pub line: u32,
    /// Its column.
    pub column: u32,
    /// What the condition never was.
    pub outcome: bool,
    /// The condition.
    pub text: String,
}

/// One file of the set, in numbers. A condition has two branches.
#[derive(Debug)]
pub struct Found {
    /// Its entry in the set.
    pub covered: &'static Covered,
    /// Branches that can be taken.
    pub branches: usize,
    /// Branches that only a mutant takes, not counted above.
    pub switches: usize,
    /// Those that no test took.
    pub missed: Vec<Missed>,
}

impl Found {
    /// Branches that a test took.
    pub fn taken(&self) -> usize {
        self.branches - self.missed.len()
    }
}

/// Reads an export and looks up every entry of the set in it.
pub fn judge(root: &Path, json: &[u8], set: &'static [Covered]) -> Result<Vec<Found>> {
    let export: Export =
        serde_json::from_slice(json).context("llvm-cov's export is not readable")?;
    let functions: Vec<Function> =
        export.data.into_iter().flat_map(|unit| unit.functions).collect();
    set.iter().map(|covered| look_up(root, &functions, covered)).collect()
}

fn look_up(root: &Path, functions: &[Function], covered: &'static Covered) -> Result<Found> {
    let path = root.join(covered.file);
    let source =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", covered.file))?;
    // Tests are at the end of a file, and do not count.
    let tests = source.lines().position(|line| line == "mod tests {").unwrap_or(usize::MAX);
    let mut seen = BTreeSet::new();
    let mut conditions: BTreeMap<Span, (u64, u64)> = BTreeMap::new();
    let here = |function: &&Function| {
        function.filenames.first().is_some_and(|name| Path::new(name) == path)
    };
    for function in functions.iter().filter(here) {
        if !covered.functions.is_empty() {
            let of = covered.functions.iter().find(|name| in_path(&function.name, name));
            let Some(of) = of else { continue };
            seen.insert(*of);
        }
        for &(line, column, to_line, to_column, yes, no, file, ..) in &function.branches {
            // A macro's own file has another number.
            if file != 0 || line as usize > tests {
                continue;
            }
            let counts = conditions.entry((line, column, to_line, to_column)).or_default();
            counts.0 += yes;
            counts.1 += no;
        }
    }
    for name in covered.functions {
        ensure!(seen.contains(name), "{} has no function {name} in any test program", covered.file);
    }
    if conditions.is_empty() && !functions.iter().any(|function| here(&function)) {
        bail!("{} is in no test program", covered.file);
    }
    Ok(count(covered, &source, conditions))
}

/// Counts branches; `conditions`: how often each was true and false.
fn count(covered: &'static Covered, source: &str, conditions: BTreeMap<Span, (u64, u64)>) -> Found {
    let mut found = Found { covered, branches: 0, switches: 0, missed: Vec::new() };
    for (span, (yes, no)) in conditions {
        let text = text(source, span);
        let chosen = switch(&text);
        for (outcome, count) in [(true, yes), (false, no)] {
            if chosen == Some(outcome) {
                found.switches += 1;
                continue;
            }
            found.branches += 1;
            if count == 0 {
                let (line, column, ..) = span;
                found.missed.push(Missed { line, column, outcome, text: text.clone() });
            }
        }
    }
    found
}

/// Whether a mangled name, of either scheme, has this part in its path.
fn in_path(mangled: &str, part: &str) -> bool {
    let word = format!("{}{part}", part.len());
    mangled.match_indices(&word).any(|(at, _)| {
        // 4open must not be found in 14open_something.
        !mangled[..at].ends_with(|c: char| c.is_ascii_digit())
    })
}

/// If the condition is only a mutant's switch: the outcome that it has when that mutant is chosen.
fn switch(text: &str) -> Option<bool> {
    let bare = text.trim_start_matches('!');
    (bare.starts_with(SWITCH) && bare.ends_with(')') && bare.matches('(').count() == 1)
        .then(|| (text.len() - bare.len()).is_multiple_of(2))
}

/// The source of a span, on one line.
fn text(source: &str, (line, column, to_line, to_column): Span) -> String {
    let mut words = Vec::new();
    for (number, text) in (1..).zip(source.lines()).take(to_line as usize).skip(line as usize - 1) {
        let from = if number == line { column as usize - 1 } else { 0 };
        let to = if number == to_line { to_column as usize - 1 } else { text.len() };
        words.extend(text.get(from..to.min(text.len())).unwrap_or(text).split_whitespace());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_in_mangled_names_of_both_schemes() {
        let old = "_ZN5vexfs6volume15Volume$LT$D$GT$4open17h0123456789abcdefE";
        let new = "_RNvMNtCs1234_5vexfs6volumeINtB2_6VolumepE4open";
        assert!(in_path(old, "open") && in_path(new, "open"));
        assert!(in_path(old, "volume") && in_path(new, "volume"));
        assert!(!in_path("_ZN5vexfs14open_somethingE", "open_something_"));
        assert!(!in_path("_ZN5vexfs14open_something1aE", "open"));
    }

    #[test]
    fn only_a_bare_switch_has_an_outcome_that_nothing_takes() {
        assert_eq!(switch("mutants::is(Mutant::OrphanLeft)"), Some(true));
        assert_eq!(switch("!mutants::is(Mutant::OrphanLeft)"), Some(false));
        assert_eq!(switch("a && mutants::is(Mutant::OrphanLeft)"), None);
        assert_eq!(switch("mutants::is(Mutant::OrphanLeft) && f()"), None);
    }

    #[test]
    fn a_span_is_shown_on_one_line() {
        let source = "fn f() {\n    if a\n        && b {\n    }\n}\n";
        assert_eq!(text(source, (2, 8, 3, 13)), "a && b");
        assert_eq!(text(source, (2, 8, 2, 9)), "a");
    }
}
