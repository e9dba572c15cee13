// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Counting checks, and reading the counts of test runners.

use std::fmt;

/// Checks that were made.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// How many passed.
    pub passed: usize,
    /// Failures; the first line of each names the check.
    pub failures: Vec<String>,
}

impl Tally {
    /// One check passed.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// One check failed; it is shown at once.
    pub fn fail(&mut self, what: &str) {
        println!("FAILED: {what}");
        self.failures.push(what.to_owned());
    }

    /// The sum of two.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        self.passed += other.passed;
        self.failures.extend_from_slice(&other.failures);
        self
    }

    /// Reads one line of a test's output in the `ok NAME` / `not ok NAME` convention.
    pub fn read_check(&mut self, line: &str, prefix: &str) {
        if line.starts_with("ok ") {
            self.passed += 1;
        } else if let Some(name) = line.strip_prefix("not ok ") {
            self.failures.push(format!("{prefix}: {name}"));
        }
    }

    /// Reads one line of nextest's or cargo test's output.
    pub fn read_runner(&mut self, line: &str) {
        let line = line.trim();
        if line.starts_with("Summary [") {
            self.passed += number_before(line, " passed").unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.passed += number_before(rest, " passed").unwrap_or_default();
        } else if let Some(name) = failed_test(line)
            && !self.failures.contains(&name)
        {
            self.failures.push(name);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failures.len())
    }
}

/// The name of a failed test: nextest's `FAIL [ 0.1s] (1/2) crate test`, cargo's `test x ... FAILED`.
fn failed_test(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("test ") {
        return rest.strip_suffix(" ... FAILED").map(str::to_owned);
    }
    let (word, rest) = line.split_once(" [")?;
    let failed = ["FAIL", "TIMEOUT", "ABORT", "LEAK-FAIL", "XFAIL"].contains(&word)
        || word.starts_with("SIG") && word.bytes().all(|b| b.is_ascii_uppercase());
    let (_, name) = rest.split_once(']')?;
    let name = name.trim();
    // A counter in parentheses stands before the name.
    let name = match name.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, name)) => name.trim(),
        None => name,
    };
    failed.then(|| name.to_owned())
}

fn number_before(line: &str, word: &str) -> Option<usize> {
    let (before, _) = line.split_once(word)?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn both_runners_are_understood() {
        let mut tally = Tally::default();
        tally.read_runner("        FAIL [   0.004s] (3/9) xtask vm::tests::one");
        tally.read_runner("        FAIL [   0.004s] (3/9) xtask vm::tests::one");
        tally.read_runner("     Summary [   0.02s] 9 tests run: 8 passed, 1 failed, 0 skipped");
        tally.read_runner("test src/lib.rs - x (line 3) ... FAILED");
        tally.read_runner("test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured");
        tally.read_runner("     SIGSEGV [   0.004s] (3/9) xtask vm::tests::two");
        assert_eq!(tally.passed, 12);
        assert_eq!(tally.failures.len(), 3);
        assert_eq!(tally.failures[0], "xtask vm::tests::one");
    }

    #[test]
    fn checks_of_scripts_are_counted() {
        let mut tally = Tally::default();
        tally.read_check("ok mount", "t");
        tally.read_check("not ok umount", "t");
        tally.read_check("okay then", "t");
        assert_eq!((tally.passed, tally.failures.len()), (1, 1));
        assert_eq!(tally.to_string(), "1 passed, 1 failed");
    }
}
