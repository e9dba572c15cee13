// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! House rules that no other tool knows: licence lines, lengths, unfinished work, the kernel's C style,
//! and that the documentation names only what exists.
//!
//! Only files that git tracks are read. What rustfmt and sparse check is not checked again.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::pages;
use crate::shell::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Longest source file, in lines.
const LINES: usize = 700;
/// Longest function of the engine, in lines.
const FUNCTION_LINES: usize = 80;
/// Columns of C, where a tab counts as up to eight. Lines with messages may be longer, so that a message
/// can be searched for.
const COLUMNS: usize = 120;

/// Looks at every tracked source file and page.
pub fn check(workspace: &Workspace) -> Result<Tally> {
    let files = Cmd::new("git").arg("ls-files").dir(&workspace.root).output()?;
    let mut tally = Tally::default();
    let mut looked = 0;
    for name in files.lines() {
        let Some((_, kind)) = name.rsplit_once('.') else { continue };
        let path = workspace.root.join(name);
        // A tracked file may be missing in this working tree.
        if !["rs", "c", "h", "sh", "md"].contains(&kind) || !path.exists() {
            continue;
        }
        looked += 1;
        let found = if kind == "md" {
            pages::complaints(&workspace.root, name)?
        } else {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
            let mut found = complaints(kind, &text);
            if kind == "rs" && name.starts_with("src/") {
                found.extend(long_functions(&text));
            }
            found
        };
        for complaint in found {
            tally.fail(&format!("{name}:{complaint}"));
        }
    }
    ensure!(looked > 0, "git tracks no source file");
    if tally.failures.is_empty() {
        println!("{looked} files follow the house's rules");
        tally.pass();
    }
    Ok(tally)
}

/// What is wrong with a file, each as `LINE: what`.
fn complaints(kind: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.lines().take(3).any(|line| line.contains("SPDX-License-Identifier:")) {
        found.push("1: no SPDX-License-Identifier in the first lines".to_owned());
    }
    let count = text.lines().count();
    if kind != "h" && count > LINES {
        found.push(format!("{count}: longer than {LINES} lines"));
    }
    // Spelled in two parts, or this file would complain about itself.
    let unfinished = ["todo!", "unimplemented!"].map(|name| format!("{name}("));
    let marks = [["FIX", "ME"], ["X", "XX"]].map(|parts| parts.concat());
    for (number, line) in (1..).zip(text.lines()) {
        let mut say = |what: &str| found.push(format!("{number}: {what}"));
        if unfinished.iter().any(|call| line.contains(call.as_str()))
            || line
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| marks.iter().any(|m| m == word))
        {
            say("unfinished work");
        }
        if line.ends_with([' ', '\t']) {
            say("blanks at the end of the line");
        }
        if kind == "c" || kind == "h" {
            if line.starts_with("        ") {
                say("indented by spaces; the kernel's C uses tabs");
            }
            let columns: usize =
                line.chars().fold(0, |at, c| if c == '\t' { at / 8 * 8 + 8 } else { at + 1 });
            if kind == "c" && columns > COLUMNS && !line.contains('"') {
                say("longer than 120 columns");
            }
            let words = ["if(", "for(", "while(", "switch("];
            if words.iter().any(|word| line.trim_start().starts_with(word)) {
                say("no blank before the parenthesis");
            }
        }
    }
    found
}

/// Functions of Rust source, as rustfmt leaves it: one ends where a line is a brace that is indented
/// as its first line.
fn long_functions(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let Some((before, after)) = words.split_once("fn ") else { continue };
        let first = |c: char| c.is_alphabetic() || c == '_';
        // Only qualifiers stand before it: `pub(crate) const fn`.
        let qualified = before.chars().all(|c| c.is_ascii_lowercase() || "()_ ".contains(c));
        if !qualified || !after.starts_with(first) || words.ends_with(['}', ';']) {
            continue;
        }
        let indent = &line[..line.len() - words.len()];
        let ends = |line: &&str| line.strip_prefix(indent).is_some_and(|rest| rest == "}");
        let Some(length) = lines[start..].iter().position(ends) else { continue };
        if length + 1 > FUNCTION_LINES {
            let name: String =
                after.chars().take_while(|&c| c == '_' || c.is_alphanumeric()).collect();
            found.push(format!(
                "{}: {name} has {} lines, more than {FUNCTION_LINES}",
                start + 1,
                length + 1
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{complaints, long_functions};

    #[test]
    fn a_function_ends_at_a_brace_of_its_own_indentation() {
        let of = |lines: usize| {
            let body = "        if x {\n        }\n".repeat(lines / 2 - 1);
            format!(
                "impl X {{\n    pub(crate) const fn long(\n    ) {{\n{body}    }}\n    fn f();\n}}\n"
            )
        };
        // The parameters' line is one more.
        assert_eq!(long_functions(&of(78)).len(), 0);
        assert_eq!(long_functions(&of(80)), ["2: long has 81 lines, more than 80"]);
        assert_eq!(long_functions("// what fn is for\nlet f = |fn_| 1;\n").len(), 0);
    }

    #[test]
    fn each_rule_can_fail() {
        let good = "// SPDX-License-Identifier: X\n\tif (x)\n";
        assert!(complaints("c", good).is_empty());
        assert_eq!(complaints("c", "int x;\n").len(), 1);
        let bad = "// SPDX-License-Identifier: X\n        if(x) \n\tfor(;;)\n";
        assert_eq!(complaints("c", bad).len(), 4);
        let long = format!("// SPDX-License-Identifier: X\n\t{}\n", "x".repeat(113));
        assert_eq!(complaints("c", &long).len(), 1);
        let mark = ["// SPDX-License-Identifier: X\n// FIX", "ME later\n"].concat();
        assert_eq!(complaints("rs", &mark).len(), 1);
        let many = format!("// SPDX-License-Identifier: X\n{}", "\n".repeat(700));
        assert_eq!(complaints("rs", &many).len(), 1);
    }
}
