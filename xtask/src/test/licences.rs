// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Checks that every dependency has a licence that deny.toml allows.
//!
//! cargo-deny reads the same file, but compiling it would take longer than all other checks.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Checks every package of the lock file.
pub fn check(workspace: &Workspace) -> Result<Tally> {
    let allowed = allowed(&workspace.root.join("deny.toml"))?;
    let text = Cmd::cargo()
        .args(["metadata", "--format-version", "1", "--all-features"])
        .dir(&workspace.root)
        .output()?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    ensure!(!packages.is_empty(), "cargo metadata lists no package");
    let mut tally = Tally::default();
    for package in packages {
        let name = package["name"].as_str().unwrap_or("?");
        let licence = package["license"].as_str().unwrap_or("");
        if !permits(licence, &allowed) {
            tally.fail(&format!("licence of {name}: '{licence}' is not allowed by deny.toml"));
        }
    }
    if tally.failures.is_empty() {
        println!("{} packages, licences {}", packages.len(), join(&allowed));
        tally.pass();
    }
    Ok(tally)
}

/// The quoted names of the `allow = [...]` list.
fn allowed(path: &std::path::Path) -> Result<BTreeSet<String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let list = text
        .split_once("allow = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .with_context(|| format!("{} has no 'allow = [...]'", path.display()))?
        .0;
    Ok(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Evaluates an SPDX expression: AND binds tighter than OR; `/` is an old way to write OR.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = either(&tokens, &mut at, allowed);
    value && at == tokens.len()
}

fn either(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut value = both(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        value |= both(tokens, at, allowed);
    }
    value
}

fn both(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut value = single(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        value &= single(tokens, at, allowed);
    }
    value
}

fn single(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(&token) = tokens.get(*at) else { return false };
    *at += 1;
    if token == "(" {
        let value = either(tokens, at, allowed);
        *at += 1;
        return value;
    }
    if tokens.get(*at) == Some(&"WITH") {
        let with = format!("{token} WITH {}", tokens.get(*at + 1).unwrap_or(&""));
        *at += 2;
        return allowed.contains(token) || allowed.contains(&with);
    }
    allowed.contains(token)
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::permits;

    #[test]
    fn expressions_are_evaluated() {
        let allowed = ["MIT", "Apache-2.0"].map(str::to_owned).into();
        assert!(permits("MIT OR GPL-3.0-only", &allowed));
        assert!(permits("MIT/Apache-2.0", &allowed));
        assert!(permits("(MIT OR X) AND Apache-2.0", &allowed));
        assert!(permits("Apache-2.0 WITH LLVM-exception OR X", &allowed));
        assert!(!permits("MIT AND GPL-3.0-only", &allowed));
        assert!(!permits("", &allowed));
        assert!(!permits("MIT X", &allowed));
    }
}
