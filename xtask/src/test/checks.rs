// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Parts of the tests that need no guest.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::build::module;
use crate::kernel::Kernel;
use crate::shell::{Cmd, describe};
use crate::tally::Tally;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// Checks that rustfmt has nothing to change.
pub fn fmt(workspace: &Workspace) -> Result<Tally> {
    one(cargo(workspace, &["fmt", "--all", "--", "--check"]), "cargo fmt finds something to change")
}

/// Checks that clippy has no warnings.
pub fn clippy(workspace: &Workspace) -> Result<Tally> {
    let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    one(cargo(workspace, &args), "clippy has warnings")
}

/// Checks that rustdoc has no warnings, such as links that lead nowhere.
pub fn doc(workspace: &Workspace) -> Result<Tally> {
    let doc = cargo(workspace, &["doc", "--workspace", "--no-deps"]);
    one(doc.env("RUSTDOCFLAGS", "-D warnings"), "cargo doc has warnings")
}

/// Runs the native tests, with nextest where it is installed because it is faster, and the examples in
/// the documentation.
pub fn unit(workspace: &Workspace, name: Option<&str>) -> Result<Tally> {
    let nextest = Cmd::cargo().args(["nextest", "--version"]).output().is_ok();
    let mut tally = Tally::default();
    if nextest {
        let run = cargo(workspace, &["nextest", "run", "--workspace", "--no-fail-fast"])
            .args(["--no-tests", "pass", "--color", "never"])
            .args(name);
        runner(run, &mut tally, "cargo nextest")?;
        if name.is_none() {
            runner(
                cargo(workspace, &["test", "--workspace", "--doc", "--no-fail-fast"]),
                &mut tally,
                "doc tests",
            )?;
        }
    } else {
        let run = cargo(workspace, &["test", "--workspace", "--no-fail-fast"]).args(name);
        runner(run, &mut tally, "cargo test")?;
    }
    Ok(tally)
}

/// Runs the C harness, which calls every function of the header in userspace.
pub fn ffi(workspace: &Workspace) -> Result<Tally> {
    let script = workspace.root.join("kernel/harness/run.sh");
    ensure!(script.is_file(), "the harness {} is missing", script.display());
    let mut tally = Tally::default();
    scripted(&script, workspace, &mut tally)?;
    Ok(tally)
}

/// Checks that the module builds without a warning, with and without the engine, and that sparse finds
/// nothing.
pub fn kernel(workspace: &Workspace, kernel: &Kernel) -> Tally {
    let ui = Ui::new();
    let mut tally = Tally::default();
    let mut note = |done: Result<()>, what: &str| match done {
        Ok(()) => tally.pass(),
        Err(error) => tally.fail(&format!("{what}: {error:#}")),
    };
    note(module::build(workspace, kernel, ui).map(drop), "vexfs.ko");
    note(module::build_test(workspace, kernel, ui).map(drop), "vexfs.ko with test hooks");
    note(module::build_safe(workspace, kernel, ui).map(drop), "vexfs.ko without the engine");
    let sparse = module::sparse(workspace, kernel, ui).and_then(|complaints| {
        ensure!(complaints.is_empty(), "complaints:\n{}", complaints.join("\n"));
        Ok(())
    });
    note(sparse, "sparse");
    tally
}

fn cargo(workspace: &Workspace, args: &[&str]) -> Cmd {
    Cmd::cargo().args(args).dir(&workspace.root).env("CARGO_TARGET_DIR", &workspace.target)
}

/// Runs a command that is one check.
fn one(command: Cmd, complaint: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    let (status, _) = command.lines(|line| println!("{line}"))?;
    if status.success() {
        tally.pass();
    } else {
        tally.fail(&format!("{complaint} ({})", describe(status)));
    }
    Ok(tally)
}

/// Runs a test runner and counts the results that it prints.
fn runner(command: Cmd, tally: &mut Tally, what: &str) -> Result<()> {
    let failed = tally.failures.len();
    let (status, _) = command.lines(|line| {
        println!("{line}");
        tally.read_runner(line);
    })?;
    // It did not even build, or died: there is no test to name.
    if !status.success() && tally.failures.len() == failed {
        tally.fail(&format!("{what} failed ({})", describe(status)));
    }
    Ok(())
}

/// Runs a script that prints `ok NAME` and `not ok NAME`.
fn scripted(script: &Path, workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    let name = script.strip_prefix(&workspace.root).unwrap_or(script).display().to_string();
    let failed = tally.failures.len();
    let (status, _) = Cmd::new("bash")
        .arg(script)
        .dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .lines(|line| {
            println!("{line}");
            tally.read_check(line, &name);
        })?;
    if status.success() && tally.failures.len() == failed {
        tally.pass();
    } else if tally.failures.len() == failed {
        tally.fail(&format!("{name} ended with {}", describe(status)));
    }
    Ok(())
}
