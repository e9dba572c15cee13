// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask soak`: power cuts under the kernel module, by the hundred, in a guest.
//!
//! The work is tests/e2e/soak.sh, which the tests run with a few cuts; this only says how many.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::build::{self, module};
use crate::kernel::Kernel;
use crate::shell::quote;
use crate::ui::Ui;
use crate::vm::args::print;
use crate::vm::{End, Vm};
use crate::workspace::Workspace;

/// How long to soak.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// Power cuts
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    cuts: u32,
    /// Decides what the workload does and when the power goes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use what target/dist holds, without building it again
    #[arg(long)]
    no_build: bool,
}

/// Runs it; false if anything was lost, or the kernel complained.
pub fn run(workspace: &Workspace, kernel: &Kernel, args: &SoakArgs) -> Result<bool> {
    if !args.no_build {
        build::tools(workspace, Ui::new())?;
        module::build(workspace, kernel, Ui::new())?;
    }
    let script = workspace.root.join("tests/e2e/soak.sh");
    let mut vm = Vm::new(workspace, "soak", quote(&script.display().to_string()));
    vm.memory = 2048;
    vm.timeout = Some(Duration::from_secs(300 + 20 * u64::from(args.cuts)));
    vm.env = vec![
        ("VEXFS_SOAK_CUTS".to_owned(), args.cuts.to_string()),
        ("VEXFS_SOAK_SEED".to_owned(), args.seed.to_string()),
    ];
    let outcome = vm.run(workspace, &mut print)?;
    if let Some(trouble) = outcome.trouble() {
        eprintln!("soak: {trouble}");
    }
    Ok(outcome.end == End::Status(0) && outcome.findings.is_empty())
}
