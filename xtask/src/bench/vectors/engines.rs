// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Which engines there are, and making each ready to be started.
//!
//! The bindings for Python are installed into an environment of their own below the target directory, each
//! by itself: one that cannot be installed here leaves the others alone. Nothing is installed twice. What
//! `diskann` takes stands in a lock file of its own, so that it is no part of the product's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::conductor::Engine;
use super::sets::Set;
use crate::setup;
use crate::shell::Cmd;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// The driver, and the versions of what it drives.
const DRIVER: &str = include_str!("peers.py");
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// What our index is compared with: ratios are to this engine.
pub const REFERENCE: &str = "hnswlib";
/// Our index.
pub const OURS: &str = "vexfs-index";

/// All engines, ours last: each with its package, if it is one of Python's.
pub const ENGINES: [(&str, Kind); 8] = [
    (REFERENCE, Kind::Python("hnswlib")),
    ("faiss-hnsw", Kind::Python("faiss-cpu")),
    ("usearch-f16", Kind::Python("usearch")),
    ("symqg", Kind::Python("rabitqlib")),
    ("qdrant-edge", Kind::Python("qdrant-edge-py")),
    ("diskann", Kind::Diskann),
    ("hnsw_rs", Kind::Index),
    (OURS, Kind::Index),
];

/// What an engine is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A package for Python, by this name.
    Python(&'static str),
    /// The crate, in a program of its own.
    Diskann,
    /// An example of the index's crate.
    Index,
}

/// An engine that can be started.
#[derive(Debug, Clone)]
pub struct Ready {
    /// In results.
    pub name: &'static str,
    /// The program, and its first words.
    words: Vec<PathBuf>,
}

impl Ready {
    /// The same engine, started by another program.
    pub fn behind<const N: usize>(&self, words: [PathBuf; N]) -> Self {
        Self { name: self.name, words: words.into_iter().chain(self.words.clone()).collect() }
    }

    /// Starts a process for a set; the index is saved in `scratch`.
    pub fn start(&self, set: &Set, scratch: &Path) -> Result<Engine> {
        fs::create_dir_all(scratch)
            .with_context(|| format!("cannot create {}", scratch.display()))?;
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .arg(self.name)
            .args([&set.corpus_path, &set.queries_path])
            .args([&set.dim().to_string(), set.metric.word()])
            .arg(scratch);
        Engine::start(command, &scratch.with_extension("log"))
    }
}

/// The engines of a run.
#[derive(Debug)]
pub struct Engines {
    /// Those that can be started.
    pub ready: Vec<Ready>,
    /// The others, and why.
    pub left_out: Vec<(&'static str, String)>,
    /// The index's program, which looks at every row for what is true.
    pub exact: Ready,
}

/// Makes those engines ready that are wanted.
pub fn prepare(workspace: &Workspace, ui: Ui, wanted: impl Fn(&str) -> bool) -> Result<Engines> {
    let dir = workspace.target.join("bench/vectors");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let index = index(workspace, ui)?;
    let mut python: Option<Result<Python, String>> = None;
    let (mut ready, mut left_out) = (Vec::new(), Vec::new());
    for (name, kind) in ENGINES.into_iter().filter(|(name, _)| wanted(name)) {
        let words = match kind {
            Kind::Index => Ok(vec![index.clone()]),
            Kind::Diskann => diskann(workspace, ui).map(|program| vec![program]),
            Kind::Python(package) => python
                .get_or_insert_with(|| Python::new(&dir, ui).map_err(|error| short(&error)))
                .as_ref()
                .map_err(|why| anyhow::anyhow!("no environment for Python: {why}"))
                .and_then(|python| python.words(package, ui)),
        };
        match words {
            Ok(words) => ready.push(Ready { name, words }),
            Err(error) => left_out.push((name, short(&error))),
        }
    }
    Ok(Engines { ready, left_out, exact: Ready { name: OURS, words: vec![index] } })
}

/// An error's first and last line: installers say much.
pub fn short(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    lines.next_back().map_or_else(|| first.to_owned(), |last| format!("{first} {last}"))
}

fn index(workspace: &Workspace, ui: Ui) -> Result<PathBuf> {
    let step = ui.step("vexfs-index, for release");
    Cmd::cargo()
        .args(["build", "--release", "-p", "vexfs-index", "--example", "engine"])
        .dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .run(&step)?;
    step.done();
    Ok(workspace.target.join("release/examples/engine"))
}

/// What a filtered search of a set does, beside its baselines: a table.
pub fn filtered(workspace: &Workspace, ui: Ui, set: &Set) -> Result<String> {
    let step = ui.step(&format!("{}: filtered", set.name));
    let table = Cmd::cargo()
        .args(["run", "--quiet", "--release", "-p", "vexfs-index", "--example", "filtered", "--"])
        .args([&set.corpus_path, &set.queries_path])
        .arg(set.metric.word())
        .dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .output()?;
    step.done();
    Ok(table)
}

fn diskann(workspace: &Workspace, ui: Ui) -> Result<PathBuf> {
    let step = ui.step("diskann, for release");
    let target = workspace.target.join("bench/vectors/diskann");
    Cmd::cargo()
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(workspace.root.join("xtask/peers/diskann/Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .run(&step)
        .context("it could not be built")?;
    step.done();
    Ok(target.join("release/vexfs-bench-diskann"))
}

/// The environment, with the driver in it.
struct Python {
    program: PathBuf,
    driver: PathBuf,
    versions: PathBuf,
}

impl Python {
    fn new(dir: &Path, ui: Ui) -> Result<Self> {
        let home = dir.join("python");
        let program = home.join("bin/python");
        let (driver, versions) = (dir.join("peers.py"), dir.join("requirements.txt"));
        for (path, text) in [(&driver, DRIVER), (&versions, REQUIREMENTS)] {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let python = Self { program, driver, versions };
        if python.run(&["-m", "pip", "--version"]).is_err() {
            let make = || Cmd::new("python3").args(["-m", "venv", "--clear"]).arg(&home).output();
            if make().is_err() {
                setup::add(setup::PEERS)?;
                make()?;
            }
        }
        python.install("numpy", ui)?;
        Ok(python)
    }

    fn words(&self, package: &str, ui: Ui) -> Result<Vec<PathBuf>> {
        if let Err(why) = self.install(package, ui) {
            // hnswlib comes as source, and needs a compiler and Python's headers.
            if setup::add(setup::PEERS).is_err() {
                return Err(why);
            }
            self.install(package, ui)?;
        }
        Ok(vec![self.program.clone(), self.driver.clone()])
    }

    fn install(&self, package: &str, ui: Ui) -> Result<()> {
        let pinned = REQUIREMENTS
            .lines()
            .find(|line| line.split_once("==").is_some_and(|(name, _)| name == package));
        let pinned = pinned.with_context(|| format!("{package} has no version"))?;
        let (name, version) = pinned.split_once("==").unwrap_or_default();
        let has =
            format!("import importlib.metadata as m; assert m.version({name:?}) == {version:?}");
        if self.run(&["-c", &has]).is_ok() {
            return Ok(());
        }
        let step = ui.step(&format!("{pinned}, to compare with"));
        Cmd::new(&self.program)
            .args([
                "-m",
                "pip",
                "install",
                "--no-input",
                "--disable-pip-version-check",
                pinned,
                "-c",
            ])
            .arg(&self.versions)
            .run(&step)
            .context("it could not be installed")?;
        step.done();
        Ok(())
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        Cmd::new(&self.program).args(words).output()
    }
}

#[cfg(test)]
mod tests {
    use super::{DRIVER, ENGINES, Kind, REQUIREMENTS, short};

    #[test]
    fn every_engine_of_python_has_a_version_and_a_driver() {
        for (name, kind) in ENGINES {
            let Kind::Python(package) = kind else { continue };
            let line = format!("\n{package}==");
            assert_eq!(REQUIREMENTS.matches(&line).count(), 1, "{package}");
            assert!(DRIVER.contains(&format!("    \"{name}\": ")), "{name}");
        }
    }

    #[test]
    fn a_reason_is_short() {
        let error = anyhow::anyhow!("pip failed:\nmuch\n\nno such version\n").context("no");
        assert_eq!(short(&error), "no: pip failed: no such version");
        assert_eq!(short(&anyhow::anyhow!("one")), "one");
    }
}
