// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask build`: the tools and the module, collected in the dist directory.
//!
//! `bin/` holds the programs, `modules/<release>/vexfs.ko` the module of each kernel (and
//! `modules/<release>/safe/vexfs.ko` the one without the engine), `share/` the manual pages
//! and shell completions. Nothing is built in the source tree.

pub mod module;
mod object;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::kernel::Kernel;
use crate::shell::Cmd;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// The programs people run.
pub const PROGRAMS: [&str; 4] = ["mkfs.vexfs", "fsck.vexfs", "vexfs", "vexfs-ublk"];
/// The packages that hold them.
const PACKAGES: [&str; 2] = ["vexfs-tools", "vexfs-ublk"];

/// What to build.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Only the module without the engine: it loads, registers nothing, and says so
    #[arg(long)]
    safe: bool,
    /// Only the engine as an object for the kernel, written to FILE (kernel/Makefile wants it)
    #[arg(long, value_name = "FILE", conflicts_with = "safe")]
    object: Option<PathBuf>,
}

/// Runs the command.
pub fn run(workspace: &Workspace, kernel: &Kernel, args: &BuildArgs) -> Result<()> {
    let ui = Ui::new();
    if let Some(to) = &args.object {
        let object = object::build(workspace, ui)?;
        fs::copy(object, to).with_context(|| format!("cannot write {}", to.display()))?;
        println!("{}", to.display());
        return Ok(());
    }
    if args.safe {
        println!("{}", module::build_safe(workspace, kernel, ui)?.display());
        return Ok(());
    }
    tools(workspace, ui)?;
    module::build(workspace, kernel, ui)?;
    println!("{}", workspace.dist.display());
    Ok(())
}

/// The programs, their manual pages and completions.
pub fn tools(workspace: &Workspace, ui: Ui) -> Result<()> {
    let step = ui.step("tools (release)");
    let mut cargo = Cmd::cargo().args(["build", "--release", "--bins"]);
    for package in PACKAGES {
        cargo = cargo.args(["-p", package]);
    }
    cargo.dir(&workspace.root).env("CARGO_TARGET_DIR", &workspace.target).run(&step)?;
    let bin = workspace.dist.join("bin");
    for program in PROGRAMS {
        install(&workspace.target.join("release").join(program), &bin.join(program))?;
    }
    step.done();
    let step = ui.step("manual pages and completions");
    for program in PROGRAMS {
        documents(&bin.join(program), program, &workspace.dist.join("share"))?;
    }
    step.done();
    Ok(())
}

/// What `program` writes about itself with its hidden subcommand, below `share`.
fn documents(path: &Path, program: &str, share: &Path) -> Result<()> {
    let files = [
        (["completions", "bash"].as_slice(), format!("bash-completion/completions/{program}")),
        (&["completions", "zsh"], format!("zsh/site-functions/_{program}")),
        (&["completions", "fish"], format!("fish/vendor_completions.d/{program}.fish")),
        (&["man"], format!("man/man8/{program}.8")),
    ];
    for (args, file) in files {
        let text = Cmd::new(path).args(args).bytes()?;
        let file = share.join(file);
        make_parent(&file)?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Copies a file into place in one step: a guest or a daemon may be using the old one.
pub fn install(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh)
        .and_then(|_| fs::rename(&fresh, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a path without a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))
}
