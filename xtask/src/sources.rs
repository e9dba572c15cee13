// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! apt's source of the security suite, where the guest's kernel comes from.
//!
//! If the machine lacks it, it is derived from the machine's source for Debian itself: the same mirror,
//! keys and options. No mirror is named here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The suite the kernel is in.
const SECURITY: &str = "bookworm-security";
/// The suite whose source it is derived from.
const BASE: &str = "bookworm";
/// The file that is written if the machine lacks it, without its ending.
const ADDED: &str = "/etc/apt/sources.list.d/vexfs-security";

/// Adds the security suite; returns the file written, or `None` if the machine has it already.
pub fn add_security() -> Result<Option<PathBuf>> {
    let files = files(Path::new("/etc/apt"));
    let texts: Vec<(bool, String)> = files
        .iter()
        .filter_map(|file| Some((is_deb822(file), fs::read_to_string(file).ok()?)))
        .collect();
    if texts.iter().any(|(_, text)| has_suite(text, SECURITY)) {
        return Ok(None);
    }
    for (deb822, text) in &texts {
        let (derived, ending) =
            if *deb822 { (from_deb822(text), "sources") } else { (from_lines(text), "list") };
        if let Some(entry) = derived {
            let path = PathBuf::from(format!("{ADDED}.{ending}"));
            fs::write(&path, entry).with_context(|| format!("cannot write {}", path.display()))?;
            return Ok(Some(path));
        }
    }
    bail!(
        "no apt source of this machine has Debian's '{BASE}', from which '{SECURITY}' could be \
         derived: add '{SECURITY}' to the apt sources and try again"
    )
}

fn files(apt: &Path) -> Vec<PathBuf> {
    let mut files = vec![apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(apt.join("sources.list.d")) {
        let known = |path: &PathBuf| {
            is_deb822(path) || path.extension().is_some_and(|extension| extension == "list")
        };
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(known));
    }
    files
}

fn is_deb822(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sources")
}

fn has_suite(text: &str, suite: &str) -> bool {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .any(|line| line.split_whitespace().any(|word| word == suite))
}

/// `deb [options] URI suite components`
fn from_lines(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (before, rest) = line.trim().split_once("://")?;
        let mut words = rest.split_whitespace();
        let (host_and_path, suite) = (words.next()?, words.next()?);
        (before.starts_with("deb ") && suite == BASE)
            .then(|| format!("{before}://{} {SECURITY} main\n", security(host_and_path)))
    })
}

/// Paragraphs of `Key: value` lines.
fn from_deb822(text: &str) -> Option<String> {
    text.split("\n\n").find(|paragraph| has_suite(paragraph, BASE)).map(|paragraph| {
        let mut entry = String::new();
        for line in paragraph.lines().filter(|line| !line.starts_with('#')) {
            let line = match line.split_once(':') {
                Some(("URIs", uris)) => {
                    let uri = uris.split_whitespace().next().unwrap_or_default();
                    format!("URIs: {}", security(uri))
                }
                Some(("Suites", _)) => format!("Suites: {SECURITY}"),
                Some(("Components", _)) => "Components: main".to_owned(),
                _ => line.to_owned(),
            };
            entry.extend([line.as_str(), "\n"]);
        }
        entry
    })
}

/// The security archive of a mirror: it is beside the main one.
fn security(uri: &str) -> String {
    let uri = uri.trim_end_matches('/');
    if uri.ends_with("-security") { uri.to_owned() } else { format!("{uri}-security") }
}

#[cfg(test)]
mod tests {
    use super::{from_deb822, from_lines, has_suite};

    #[test]
    fn a_line_keeps_its_options_and_mirror() {
        let text = "# deb http://x/debian bookworm main\n\
                    deb [signed-by=/k.gpg] http://mirror.example/debian/ bookworm main contrib\n";
        let expected =
            "deb [signed-by=/k.gpg] http://mirror.example/debian-security bookworm-security main\n";
        assert_eq!(from_lines(text).as_deref(), Some(expected));
        assert!(!has_suite(text, "bookworm-security"));
        assert_eq!(from_lines("deb http://x/debian trixie main"), None);
    }

    #[test]
    fn a_paragraph_keeps_its_keys() {
        let text = "Types: deb\nURIs: http://a/other\nSuites: stable\n\nTypes: deb\n\
                    URIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main contrib\nSigned-By: /k.gpg\n";
        let expected = "Types: deb\nURIs: http://mirror.example/debian-security\n\
                        Suites: bookworm-security\nComponents: main\nSigned-By: /k.gpg\n";
        assert_eq!(from_deb822(text).as_deref(), Some(expected));
    }
}
