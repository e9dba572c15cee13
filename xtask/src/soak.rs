// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask soak`: hundreds of power cuts under the kernel module, in a guest.
//!
//! The work is done by tests/e2e/soak.sh, which the tests run with a few cuts.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::build::{self, module};
use crate::kernel::{Kernel, Which};
use crate::shell::quote;
use crate::ui::Ui;
use crate::vm::{End, Said, Vm};
use crate::workspace::Workspace;

/// Begins the line of the guest's output that holds the figures.
const RESULT: &str = "soak-result ";

/// How long to soak.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// Power cuts
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    cuts: u32,
    /// Decides what the workload does and when the power goes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the figures as JSON on standard output, and all else on standard error
    #[arg(long)]
    json: bool,
    /// The guest's kernel
    #[arg(long, value_enum, default_value_t)]
    pub kernel: Which,
    /// Use what target/dist holds, without building it again
    #[arg(long)]
    no_build: bool,
}

/// Runs it; false if anything was lost or the kernel log holds a warning. After a failure the evidence is
/// in target/vm/soak.
pub fn run(workspace: &Workspace, kernel: &Kernel, args: &SoakArgs) -> Result<bool> {
    if !args.no_build {
        build::tools(workspace, build::Profile::Release, Ui::new())?;
        module::build(workspace, kernel, Ui::new())?;
    }
    let keep = workspace.vm.join("soak");
    if keep.exists() {
        fs::remove_dir_all(&keep).with_context(|| format!("cannot empty {}", keep.display()))?;
    }
    fs::create_dir_all(&keep).with_context(|| format!("cannot create {}", keep.display()))?;
    let script = workspace.root.join("tests/e2e/soak.sh");
    let mut vm = Vm::new(workspace, kernel, "soak", quote(&script.display().to_string()));
    vm.memory = 2048 * kernel.which.memory_factor();
    let timeout = Duration::from_secs(300 + 20 * u64::from(args.cuts));
    vm.timeout = Some(timeout * kernel.which.time_factor());
    vm.share = Some(keep.clone());
    vm.env = vec![
        ("VEXFS_SOAK_CUTS".to_owned(), args.cuts.to_string()),
        ("VEXFS_SOAK_SEED".to_owned(), args.seed.to_string()),
        ("VEXFS_SOAK_KEEP".to_owned(), "/share".to_owned()),
    ];
    let mut listener = Listener { json: args.json, line: Vec::new(), figures: None };
    let outcome = vm.run(workspace, &mut |said| listener.hear(said))?;
    let trouble = outcome.trouble();
    if let Some(trouble) = &trouble {
        if !matches!(outcome.end, End::Status(_)) {
            outcome.log_tail.iter().for_each(|line| eprintln!("  | {line}"));
        }
        eprintln!("soak: {trouble}");
        if fs::read_dir(&keep).is_ok_and(|mut dir| dir.next().is_some()) {
            eprintln!("soak: the evidence is in {}", keep.display());
        }
    }
    let well = outcome.end == End::Status(0) && outcome.findings.is_empty();
    if args.json {
        let mut figures = listener.figures.unwrap_or_else(|| json!({ "seed": args.seed }));
        figures["passed"] = well.into();
        figures["trouble"] = trouble.into();
        println!("{figures:#}");
    } else if well && listener.figures.is_none() {
        bail!("the guest succeeded but printed no result: look at tests/e2e/soak.py");
    }
    Ok(well)
}

/// Shows the guest's output and takes the figures out of it.
struct Listener {
    json: bool,
    line: Vec<u8>,
    figures: Option<Value>,
}

impl Listener {
    fn hear(&mut self, said: Said<'_>) {
        let Said::Output(bytes) = said else { return said.print() };
        for &byte in bytes {
            self.line.push(byte);
            if byte != b'\n' {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let text = String::from_utf8_lossy(&line);
            match text.strip_prefix(RESULT) {
                Some(figures) => self.figures = serde_json::from_str(figures).ok(),
                None if self.json => eprint!("{text}"),
                None => Said::Output(&line).print(),
            }
        }
    }
}
