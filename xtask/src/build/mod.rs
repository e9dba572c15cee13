// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask build`: the tools and the module, collected in the dist directory.
//!
//! `bin/` holds the programs, `modules/<release>/vexfs.ko` the module of each kernel (and
//! `modules/<release>/safe/vexfs.ko` the one without the engine; tests add
//! `modules/<release>/test/vexfs.ko`, the one with test hooks), `share/` the manual pages
//! and shell completions. Nothing is built in the source tree.

pub mod module;
pub mod object;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use self::object::Hooks;
use crate::kernel::Kernel;
use crate::shell::Cmd;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// The programs people run: what cargo calls them, what they are installed as, and the
/// section of their manual page.
const PROGRAMS: [(&str, &str, u8); 4] = [
    ("mkfs-vexfs", "mkfs.vexfs", 8),
    ("fsck-vexfs", "fsck.vexfs", 8),
    ("vexfs", "vexfs", 1),
    ("vexfs-ublk", DAEMON, 8),
];
/// It documents itself with subcommands, the other tools with a flag.
const DAEMON: &str = "vexfs-ublk";
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
    /// With what only tests use: self-tests, and a panic on request; the module goes to `modules/<release>/test`
    #[arg(long, conflicts_with = "safe")]
    test_hooks: bool,
}

/// Runs the command.
pub fn run(workspace: &Workspace, kernel: &Kernel, args: &BuildArgs) -> Result<()> {
    let ui = Ui::new();
    if let Some(to) = &args.object {
        let hooks = if args.test_hooks { Hooks::With } else { Hooks::Without };
        let object = object::build(workspace, hooks, ui)?;
        fs::copy(object, to).with_context(|| format!("cannot write {}", to.display()))?;
        println!("{}", to.display());
        return Ok(());
    }
    if args.safe {
        println!("{}", module::build_safe(workspace, kernel, ui)?.display());
        return Ok(());
    }
    if args.test_hooks {
        println!("{}", module::build_test(workspace, kernel, ui)?.display());
        return Ok(());
    }
    tools(workspace, Profile::Release, ui)?;
    module::build(workspace, kernel, ui)?;
    println!("{}", workspace.dist.display());
    Ok(())
}

/// How programs are compiled: a profile of Cargo's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For people.
    Release,
    /// For the guests of tests: in half the time.
    E2e,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::E2e => "e2e",
        }
    }
}

/// The programs, their manual pages and completions.
pub fn tools(workspace: &Workspace, profile: Profile, ui: Ui) -> Result<()> {
    let step = ui.step(&format!("tools ({})", profile.name()));
    let mut cargo = Cmd::cargo().args(["build", "--profile", profile.name(), "--bins"]);
    for package in PACKAGES {
        cargo = cargo.args(["-p", package]);
    }
    cargo.dir(&workspace.root).env("CARGO_TARGET_DIR", &workspace.target).run(&step)?;
    let bin = workspace.dist.join("bin");
    for (built, program, _) in PROGRAMS {
        install(&workspace.target.join(profile.name()).join(built), &bin.join(program))?;
    }
    step.done();
    let step = ui.step("manual pages and completions");
    let share = workspace.dist.join("share");
    for (_, program, section) in PROGRAMS {
        let manual = share.join(format!("man/man{section}"));
        if program == DAEMON {
            fs::create_dir_all(&manual)?;
            Cmd::new(bin.join(program)).arg("man").arg(&manual).output()?;
        } else {
            let page = Cmd::new(bin.join(program)).args(["--generate", "man"]).bytes()?;
            write(&manual.join(format!("{program}.{section}")), &page)?;
        }
        for (shell, file) in [
            ("bash", format!("bash-completion/completions/{program}")),
            ("zsh", format!("zsh/site-functions/_{program}")),
            ("fish", format!("fish/vendor_completions.d/{program}.fish")),
        ] {
            let word = if program == DAEMON { "completions" } else { "--generate" };
            let script = Cmd::new(bin.join(program)).args([word, shell]).bytes()?;
            write(&share.join(file), &script)?;
        }
    }
    step.done();
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
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
