// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Checks that files, folders and symbols exist that the documentation names.
//!
//! Three forms are looked up in every tracked `.md` file: the target of a link, `` `a/path` ``, and
//! `` `a/path.rs: symbol` ``. A symbol is a name, `Type::name`, or the beginning of a name with a `*`. A
//! path starts in the page's own folder or in the repository's root. Links to other hosts are skipped, and
//! words with a slash whose first part is not a folder of either.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What is wrong with `page`, a path below `root`, each as `LINE: what`.
pub fn complaints(root: &Path, page: &str) -> Result<Vec<String>> {
    let path = root.join(page);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {page}"))?;
    let places = [path.parent().unwrap_or(root), root];
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced || line.starts_with("    ") {
            continue;
        }
        let wrong = links(line)
            .filter_map(|link| wrong_link(&places[..1], link))
            .chain(quoted(line).filter_map(|word| wrong_path(&places, word)));
        found.extend(wrong.map(|what| format!("{number}: {what}")));
    }
    Ok(found)
}

/// The targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// What stands between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn wrong_link(places: &[&Path], link: &str) -> Option<String> {
    let file = link.split('#').next().unwrap_or_default();
    let elsewhere = file.is_empty() || file.contains("://") || file.starts_with("mailto:");
    (!elsewhere && find(places, file).is_none()).then(|| format!("a link leads nowhere: {link}"))
}

fn wrong_path(places: &[&Path], word: &str) -> Option<String> {
    let (path, symbol) = match word.split_once(": ") {
        Some((path, symbol)) => (path, Some(symbol)),
        None => (word, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-*".contains(c);
    let first = path.split_once('/').filter(|(first, _)| !first.is_empty())?.0;
    if !path.chars().all(plain) || !places.iter().any(|place| place.join(first).is_dir()) {
        return None;
    }
    // Of `tests/e2e/*.sh` the folder is looked up.
    let named = if path.contains('*') { path.rsplit_once('/')?.0 } else { path };
    // What is built need not exist yet.
    if named == "target" || named.starts_with("target/") {
        return None;
    }
    let Some(file) = find(places, named) else { return Some(format!("{path} is not there")) };
    let symbol = symbol?;
    let source = fs::read_to_string(file).unwrap_or_default();
    (!has_symbol(&source, symbol)).then(|| format!("{path} has no {symbol}"))
}

fn find(places: &[&Path], path: &str) -> Option<PathBuf> {
    places.iter().map(|place| place.join(path)).find(|path| path.exists())
}

/// Whether the last part of `symbol` is a word of `source`.
fn has_symbol(source: &str, symbol: &str) -> bool {
    let name = symbol.rsplit("::").next().unwrap_or(symbol);
    let (name, open) = name.strip_suffix('*').map_or((name, false), |name| (name, true));
    let within = |c: char| c.is_alphanumeric() || c == '_';
    !name.is_empty()
        && source.match_indices(name).any(|(at, _)| {
            !source[..at].ends_with(within)
                && (open || !source[at + name.len()..].starts_with(within))
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{complaints, has_symbol};

    #[test]
    fn what_is_not_there_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("docs/img")).unwrap();
        fs::create_dir_all(dir.path().join("src/fs")).unwrap();
        fs::write(dir.path().join("src/fs/inode.rs"), "impl Inode { fn settle_all() {} }").unwrap();
        let good = "[a](img) `src/fs/` `src/fs/inode.rs: Inode::settle_all` `src/fs/*.rs`\n\
                    `src/fs/inode.rs: settle*` [b](https://x/y) [c](#d) `/dev/vda` `and/or`\n\
                    ```\n`src/gone.rs`\n```\n    `src/gone.rs`\n`target/dist` `ls src/x`\n";
        fs::write(dir.path().join("docs/page.md"), good).unwrap();
        assert_eq!(complaints(dir.path(), "docs/page.md").unwrap(), Vec::<String>::new());
        let bad = "`src/gone.rs`\n[a](src/fs)\n`src/fs/inode.rs: settle` `src/gone/*.rs`\n";
        fs::write(dir.path().join("docs/page.md"), bad).unwrap();
        let lines: Vec<String> = complaints(dir.path(), "docs/page.md").unwrap();
        let lines: Vec<&str> = lines.iter().map(|line| &line[..2]).collect();
        assert_eq!(lines, ["1:", "2:", "3:", "3:"]);
    }

    #[test]
    fn a_symbol_is_a_whole_word() {
        assert!(has_symbol("fn open_all()", "open_all") && has_symbol("fn open_all()", "open_*"));
        assert!(!has_symbol("fn open_all()", "open") && !has_symbol("fn reopen()", "open*"));
    }
}
