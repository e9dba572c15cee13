// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask setup`: packages, and the guest's kernel. Does nothing when nothing is missing.
//!
//! Only missing packages are installed and none is upgraded on purpose; the guest's kernel
//! is unpacked under the target directory, never installed.

use std::collections::HashSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::kernel::{Kernel, Which, debug};
use crate::shell::Cmd;
use crate::sources;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// What building, the guest and the tests use beyond Rust itself.
const PACKAGES: &[&str] = &[
    // The machine in the machine.
    "qemu-system-x86",
    "qemu-system-common",
    "busybox-static",
    "kmod",
    "xz-utils",
    "util-linux",
    "iproute2",
    // The module.
    "gcc-12",
    "gcc",
    "make",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "pahole",
    "binutils",
    "sparse",
    "rustc-web",
    "rust-web-src",
    // The daemon: libublk's bindings are made by bindgen.
    "libc6-dev",
    "libclang-14-dev",
    "clang-14",
    "pkg-config",
    // The tests and the bench.
    "fio",
    "attr",
    "acl",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "python3",
    "diffutils",
    "psmisc",
    "strace",
];

/// Makes everything ready and says what it does; the debug kernel only if that is wanted.
pub fn run(workspace: &Workspace, which: Which) -> Result<Kernel> {
    let stock = stock(workspace, which == Which::Debug && debug::find(workspace).is_none())?;
    match which {
        Which::Stock => Ok(stock),
        Which::Debug => match debug::find(workspace) {
            Some(kernel) => Ok(kernel),
            None => debug::build(workspace, Ui::new()),
        },
    }
}

/// Packages and the stock kernel; `lists`: apt's lists are needed for something else too.
fn stock(workspace: &Workspace, lists: bool) -> Result<Kernel> {
    let ui = Ui::new();
    fs::create_dir_all(&workspace.vm)
        .with_context(|| format!("cannot create {}", workspace.vm.display()))?;
    let missing = missing_packages(PACKAGES)?;
    let kernel = Kernel::find(workspace);
    if let (true, Some(kernel)) = (missing.is_empty() && !lists, kernel.clone()) {
        return Ok(kernel);
    }
    ensure!(cfg!(target_arch = "x86_64"), "VexFS is developed on x86-64; this is another machine");
    if is_root() {
        if (kernel.is_none() || lists)
            && let Some(file) = sources::add_security()?
        {
            eprintln!("   ... apt source of the security suite added: {}", file.display());
        }
        update(ui)?;
    }
    if !missing.is_empty() {
        install(ui, &missing)?;
    }
    match kernel {
        Some(kernel) => Ok(kernel),
        None => Kernel::install(workspace, ui),
    }
}

/// Installs what only one command uses, if it is missing. To be called after [`run`].
pub fn add(packages: &[&str]) -> Result<()> {
    let ui = Ui::new();
    let missing = missing_packages(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if is_root() {
        update(ui)?;
    }
    install(ui, &missing)
}

fn update(ui: Ui) -> Result<()> {
    let step = ui.step("package lists (apt-get update)");
    apt(["update"]).run(&step).context(
        "apt-get update failed: the machine needs its Debian mirrors for the first set-up",
    )?;
    step.done();
    Ok(())
}

fn install(ui: Ui, missing: &[&str]) -> Result<()> {
    ensure!(
        is_root(),
        "these packages are missing and installing them needs root; run this as root, or:\n  \
         apt-get install --no-install-recommends {}",
        missing.join(" ")
    );
    let absent = unknown_packages(missing)?;
    if !absent.is_empty() {
        bail!(
            "apt does not know these packages: {}.\nThe set-up is made for Debian 12 with its \
             'bookworm', 'bookworm-updates' and 'bookworm-security' suites; add what is missing \
             to the apt sources, or install the programs by hand",
            absent.join(" ")
        );
    }
    let step = ui.step(&format!("{} packages: {}", missing.len(), missing.join(" ")));
    apt(["install", "--yes", "--no-install-recommends"])
        .args(missing)
        .run(&step)
        .context("the packages could not be installed")?;
    step.done();
    let still = missing_packages(missing)?;
    ensure!(still.is_empty(), "still missing after the installation: {}", still.join(" "));
    Ok(())
}

/// apt without questions, waiting its turn if another apt is at work.
fn apt<const N: usize>(args: [&str; N]) -> Cmd {
    Cmd::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=600", "-o", "APT::Color=0"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
}

/// Those that are not installed.
fn missing_packages<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let status = fs::read_to_string("/var/lib/dpkg/status").context(
        "this is no Debian machine (no dpkg status): install by hand what 'setup' would, \
         as listed in xtask/src/setup.rs",
    )?;
    let mut installed = HashSet::new();
    let mut name = "";
    for line in status.lines() {
        if let Some(package) = line.strip_prefix("Package: ") {
            name = package;
        } else if line == "Status: install ok installed" || line == "Status: hold ok installed" {
            installed.insert(name);
        }
    }
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// Those that apt cannot install because no source has them.
fn unknown_packages<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let known = Cmd::new("apt-cache").args(["policy"]).args(packages).output()?;
    let mut has = HashSet::new();
    let mut name = "";
    for line in known.lines() {
        if let Some(package) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            name = package;
        } else if line.trim_start().starts_with("Candidate:") && !line.contains("(none)") {
            has.insert(name);
        }
    }
    Ok(packages.iter().copied().filter(|package| !has.contains(package)).collect())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
