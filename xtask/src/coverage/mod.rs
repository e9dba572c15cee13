// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask coverage`: both outcomes of every condition that recovery depends on are taken by
//! the tests, or it fails.
//!
//! The set is in [`set`]. Debian's compiler instruments the packages of the set and no others, in a
//! target directory of its own. LLVM tools of the compiler's own version read the profiles; only this
//! command installs them. A condition is each operand of `&&` and `||`, and what `if`, `while`,
//! `let ... else` and guards test. The compiler does not count arms of a `match`, nor `?`.

mod branches;
mod set;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::build::object::RUSTC;
use crate::setup;
use crate::shell::{Cmd, describe};
use crate::tally::Tally;
use crate::ui::{Step, Ui};
use crate::workspace::Workspace;
use branches::Found;
use set::{PACKAGES, RUNS, Run, SET};

const INSTRUMENT: &str = r#"["-Cinstrument-coverage", "-Zcoverage-options=condition"]"#;

/// How to show the result.
#[derive(Debug, Args)]
pub struct CoverageArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures and prints; false if a branch of the set is missed.
pub fn run(workspace: &Workspace, args: &CoverageArgs) -> Result<bool> {
    let found = measure(workspace)?;
    if args.json {
        println!("{:#}", to_json(&found));
    } else {
        table(&found);
    }
    Ok(found.iter().all(|file| file.missed.is_empty()))
}

/// The same as a part of the tests: each entry of the set is one check.
pub fn check(workspace: &Workspace) -> Result<Tally> {
    let found = measure(workspace)?;
    table(&found);
    let mut tally = Tally::default();
    for file in &found {
        match file.missed.len() {
            0 => tally.pass(),
            missed => tally.fail(&format!("coverage of {}: {missed} missed", file.covered.file)),
        }
    }
    Ok(tally)
}

fn measure(workspace: &Workspace) -> Result<Vec<Found>> {
    let tools = Tools::ready()?;
    let place = workspace.target.join("coverage");
    let profiles = place.join("profiles");
    let ui = Ui::new();
    let step = ui.step("instrumented tests");
    let programs = build(workspace, &place, &step)?;
    step.done();
    // Build scripts have left profiles too.
    if profiles.exists() {
        fs::remove_dir_all(&profiles).context("old profiles cannot be removed")?;
    }
    let step = ui.step("running them");
    for program in &programs {
        program.run(&profiles, &step)?;
    }
    step.done();
    let json = tools.export(&programs, &profiles, &place.join("merged.profdata"))?;
    branches::judge(&workspace.root, &json, SET)
}

/// LLVM's programs, of the compiler's own version: other versions cannot read its profiles.
struct Tools {
    bin: PathBuf,
}

impl Tools {
    fn ready() -> Result<Self> {
        setup::compiling()?;
        setup::add(&["rustc-web"])?;
        let version = Cmd::new(RUSTC).arg("-vV").output()?;
        let major = version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .and_then(|version| version.split('.').next())
            .with_context(|| format!("{RUSTC} does not say which LLVM it has"))?;
        setup::add(&[&format!("llvm-{major}")])?;
        Ok(Self { bin: PathBuf::from(format!("/usr/lib/llvm-{major}/bin")) })
    }

    /// Which branches were taken, as JSON.
    fn export(&self, programs: &[Program], profiles: &Path, merged: &Path) -> Result<Vec<u8>> {
        Cmd::new(self.bin.join("llvm-profdata"))
            .args(["merge", "--sparse", "--failure-mode=any", "--output"])
            .arg(merged)
            .arg(profiles)
            .output()?;
        let mut export = Cmd::new(self.bin.join("llvm-cov"))
            .args(["export", "--format=text", "--skip-expansions", "--instr-profile"])
            .arg(merged);
        for program in programs {
            export = export.arg("--object").arg(&program.path);
        }
        export.bytes()
    }
}

/// A test program, and which of its tests to run.
struct Program {
    run: &'static Run,
    path: PathBuf,
    /// Its package's directory, where cargo would run it.
    dir: PathBuf,
}

impl Program {
    /// Whether a line of cargo's messages is about the program of this run.
    fn from_message(run: &'static Run, line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = message.get("executable")?.as_str()?;
        let manifest = Path::new(message.get("manifest_path")?.as_str()?);
        let target = message.get("target")?;
        let kind = target.get("kind")?.get(0)?.as_str()?;
        let right = match run.test {
            Some(test) => kind == "test" && target.get("name")?.as_str()? == test,
            None => kind == "lib",
        };
        let package = message.get("package_id")?.as_str()?;
        // path+file:///DIRECTORY#NAME@VERSION, or #VERSION alone if the directory has the package's name.
        let (place, id) = package.rsplit_once('#')?;
        let name =
            id.split_once('@').map_or_else(|| place.rsplit('/').next(), |(name, _)| Some(name));
        (right && name == Some(run.package)).then(|| Self {
            run,
            path: path.into(),
            dir: manifest.parent().map(Path::to_owned).unwrap_or_default(),
        })
    }

    fn run(&self, profiles: &Path, step: &Step) -> Result<()> {
        let name = format!("{}.{}", self.run.package, self.run.test.unwrap_or("lib"));
        let (status, lines) = Cmd::new(&self.path)
            .args(["--quiet", self.run.filter])
            .dir(&self.dir)
            .env("LLVM_PROFILE_FILE", profiles.join(format!("{name}-%p.profraw")))
            .lines(|line| step.message(line))?;
        ensure!(
            status.success(),
            "tests of {name} failed ({}):\n{}",
            describe(status),
            lines.join("\n")
        );
        Ok(())
    }
}

/// Builds the test programs; in the order of [`RUNS`].
fn build(workspace: &Workspace, place: &Path, step: &Step) -> Result<Vec<Program>> {
    let mut cargo = Cmd::cargo()
        .args(["test", "--no-run", "--message-format=json-render-diagnostics"])
        .args(["-Zprofile-rustflags", "--lib"])
        .dir(&workspace.root)
        // These would choose the compiler of the cargo that runs us.
        .without("RUSTUP_TOOLCHAIN")
        .without("CARGO_ENCODED_RUSTFLAGS")
        .without("RUSTFLAGS")
        .without("RUSTC_WRAPPER")
        .env("CARGO_TARGET_DIR", place)
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("LLVM_PROFILE_FILE", place.join("profiles/build-%p.profraw"));
    for package in PACKAGES {
        let flags = format!("profile.dev.package.{package}.rustflags={INSTRUMENT}");
        cargo = cargo.arg("--config").arg(flags);
    }
    for run in RUNS {
        cargo = cargo.args(["--package", run.package]);
        if let Some(test) = run.test {
            cargo = cargo.args(["--test", test]);
        }
    }
    let mut said = Vec::new();
    let (status, messages) = cargo.lines(|line| {
        if !line.starts_with('{') {
            step.message(line);
            said.push(line.to_owned());
        }
    })?;
    ensure!(status.success(), "cargo failed ({}):\n{}", describe(status), said.join("\n"));
    RUNS.iter()
        .map(|run| {
            let found = messages.iter().find_map(|line| Program::from_message(run, line));
            found.with_context(|| format!("cargo built no tests for {run:?}"))
        })
        .collect()
}

fn table(found: &[Found]) {
    let width = found.iter().map(|file| file.covered.label().len()).max().unwrap_or(0);
    println!(
        "{:<width$} {:>8} {:>6} {:>6} {:>8}",
        "file", "branches", "taken", "missed", "mutants'"
    );
    for file in found {
        row(width, &file.covered.label(), file.branches, file.taken(), file.switches);
    }
    let sum = |of: fn(&Found) -> usize| found.iter().map(of).sum::<usize>();
    row(width, "total", sum(|f| f.branches), sum(Found::taken), sum(|f| f.switches));
    for file in found {
        for missed in &file.missed {
            println!(
                "missed: {}:{}:{}: never {}: {}",
                file.covered.file, missed.line, missed.column, missed.outcome, missed.text
            );
        }
    }
}

fn row(width: usize, name: &str, branches: usize, taken: usize, switches: usize) {
    println!("{name:<width$} {branches:>8} {taken:>6} {:>6} {switches:>8}", branches - taken);
}

fn to_json(found: &[Found]) -> Value {
    let files: Vec<Value> = found
        .iter()
        .map(|file| {
            let missed: Vec<Value> = file
                .missed
                .iter()
                .map(|missed| {
                    json!({
                        "line": missed.line,
                        "column": missed.column,
                        "never": missed.outcome,
                        "condition": missed.text,
                    })
                })
                .collect();
            json!({
                "file": file.covered.file,
                "functions": file.covered.functions,
                "decides": file.covered.why,
                "branches": file.branches,
                "taken": file.taken(),
                "mutants": file.switches,
                "missed": missed,
            })
        })
        .collect();
    let sum = |of: fn(&Found) -> usize| found.iter().map(of).sum::<usize>();
    json!({ "files": files, "branches": sum(|f| f.branches), "taken": sum(Found::taken) })
}
