// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask demo`: everything from mkfs to a power cut in a throw-away guest, for people to watch.
//!
//! The steps are `tests/e2e/demo.sh`, which the tests run too; this module only shows them.

use std::io::IsTerminal;

use anyhow::Result;

use crate::build;
use crate::kernel::Kernel;
use crate::test::e2e;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// Builds, boots and shows the run; true if every check passed.
pub fn run(workspace: &Workspace, kernel: &Kernel) -> Result<bool> {
    let ui = Ui::new();
    build::tools(workspace, build::Profile::Release, ui)?;
    build::module::build(workspace, kernel, ui)?;
    println!("A guest on Linux {}, the machine's own root under a layer of memory", kernel.release);
    let colour = std::io::stdout().is_terminal();
    let script = workspace.root.join("tests/e2e/demo.sh");
    let (tally, seconds) = e2e::one(workspace, &script, kernel, &mut |line| show(line, colour))?;
    println!("\n{tally} in {seconds:.0} s");
    for failure in &tally.failures {
        println!("  {}", failure.lines().next().unwrap_or_default());
    }
    Ok(tally.failures.is_empty())
}

/// Prints a line as a heading, a check or a figure.
fn show(line: &str, colour: bool) {
    let paint = |code: &str, text: String| {
        if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    };
    if let Some(heading) = line.strip_prefix("== ") {
        println!("{}", paint("1", heading.to_owned()));
    } else if let Some(name) = line.strip_prefix("ok ") {
        println!("  {} {name}", paint("32", "ok    ".to_owned()));
    } else if let Some(name) = line.strip_prefix("not ok ") {
        println!("  {} {name}", paint("31", "FAILED".to_owned()));
    } else {
        println!("      {line}");
    }
}
