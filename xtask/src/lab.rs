// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The crash lab's commands: builds `vexfs-lab` and runs it with the arguments given.
//!
//! Mutants are built in a target directory of their own, so that nothing that is shipped can be linked
//! with them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::shell::{Cmd, describe};
use crate::tally::Tally;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// The program with the index's mutants, and the simulator that finds them.
const INDEX_LAB: &str = "vexfs-index-lab";

/// Arguments that `vexfs-lab` understands.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct LabArgs {
    /// Arguments of vexfs-lab; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs one of the lab's commands; returns its exit status.
pub fn run(workspace: &Workspace, command: &str, args: &LabArgs) -> Result<u8> {
    let program = build(workspace, command == "mutants")?;
    let status = Command::new(&program)
        .arg(command)
        .args(with_index(&program, command))
        .args(&args.args)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// What the part `lab` of the tests runs.
const CHECKS: [(&str, &[&str]); 3] = [
    ("ace", &["--ops", "2", "--states", "1000000", "--torn", "400"]),
    ("simulate", &["--seed", "1", "--seconds", "30"]),
    ("mutants", &[]),
];

/// Explores a million distinct states, simulates for a while, and runs every mutant.
pub fn check(workspace: &Workspace) -> Result<Tally> {
    let mut tally = Tally::default();
    for (command, args) in CHECKS {
        let program = build(workspace, command == "mutants")?;
        println!("-- vexfs-lab {command} {}", args.join(" "));
        let mut found = false;
        let run = Cmd::new(&program).arg(command).args(with_index(&program, command)).args(args);
        let (status, _) = run.lines(|line| {
            println!("{line}");
            found |= line.starts_with("WRONG");
        })?;
        if status.success() && !found {
            tally.pass();
        } else {
            tally.fail(&format!("vexfs-lab {command}: {}", describe(status)));
        }
    }
    Ok(tally)
}

/// Arguments that add the index's mutants to the engine's.
fn with_index(program: &Path, command: &str) -> Vec<OsString> {
    match command {
        "mutants" => vec!["--with".into(), program.with_file_name(INDEX_LAB).into()],
        _ => Vec::new(),
    }
}

/// Builds the lab's program, and with mutants the index's program beside it.
pub fn build(workspace: &Workspace, mutants: bool) -> Result<PathBuf> {
    let target = if mutants { workspace.target.join("mutants") } else { workspace.target.clone() };
    let step = Ui::new().step(if mutants { "vexfs-lab with mutants" } else { "vexfs-lab" });
    let mut cargo = Cmd::cargo()
        .args(["build", "--release", "--package", "vexfs-crash", "--bin", "vexfs-lab"])
        .dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &target);
    if mutants {
        cargo = cargo
            .args(["--package", "vexfs-index", "--bin", INDEX_LAB])
            .args(["--features", "vexfs-crash/mutants,vexfs-index/mutants"]);
    }
    cargo.run(&step)?;
    step.done();
    let program = target.join("release/vexfs-lab");
    ensure!(program.is_file(), "cargo built no {}", program.display());
    Ok(program)
}
