// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the commands need of the machine: Debian packages, and the guest's kernel.
//!
//! `cargo xtask setup` makes everything ready; other commands ask for their own part of it. Only
//! missing packages are installed, none is upgraded on purpose, and nothing happens where nothing
//! is missing. The guest's kernel is unpacked below the target directory, never installed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::kernel::{Kernel, Which, debug, stock};
use crate::shell::Cmd;
use crate::sources;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// What compiling the whole workspace takes beyond Rust: libublk's bindings are made by bindgen,
/// which loads libclang.
const LIBCLANG: &[&str] = &["libc6-dev", "libclang-14-dev", "clang-14"];

/// What the module, the guests and the tests in them use.
const GUESTS: &[&str] = &[
    // The guest.
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

/// What installing the engines takes that `cargo xtask bench vectors` compares with.
pub const PEERS: &[&str] = &["python3", "python3-venv", "python3-dev", "g++"];

/// Makes the machine ready for guests, and for all else; builds the debug kernel if that is asked for.
pub fn guests(workspace: &Workspace, which: Which) -> Result<Kernel> {
    let debug = debug::find(workspace);
    let stock = stock(workspace, which == Which::Debug && debug.is_none())?;
    match (which, debug) {
        (Which::Stock, _) => Ok(stock),
        (Which::Debug, Some(kernel)) => Ok(kernel),
        (Which::Debug, None) => debug::build(workspace, Ui::new()),
    }
}

/// Makes the machine ready to compile the workspace natively.
pub fn compiling() -> Result<()> {
    if has_libclang() {
        return Ok(());
    }
    add(LIBCLANG).context(
        "compiling vexfs-ublk needs libclang, for the bindings of libublk. Without it the rest \
         can be tested: cargo test --workspace --exclude vexfs-ublk",
    )
}

/// Whether bindgen finds a libclang, from whatever package it is.
fn has_libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let library = |entry: std::io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libclang.so") || name.starts_with("libclang-")
        })
    };
    let holds = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.any(library));
    let llvm = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut versions = llvm.filter(|dir| dir.file_name().to_string_lossy().starts_with("llvm-"));
    let mut system = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"].into_iter();
    system.any(|dir| holds(Path::new(dir))) || versions.any(|dir| holds(&dir.path().join("lib")))
}

/// Installs the packages and the stock kernel. `lists`: apt's lists are also needed for something else.
fn stock(workspace: &Workspace, lists: bool) -> Result<Kernel> {
    let ui = Ui::new();
    fs::create_dir_all(&workspace.vm)
        .with_context(|| format!("cannot create {}", workspace.vm.display()))?;
    let missing = missing_packages(&[GUESTS, LIBCLANG].concat())?;
    let kernel = stock::find(workspace);
    if let (true, Some(kernel)) = (missing.is_empty() && !lists, kernel.clone()) {
        return Ok(kernel);
    }
    ensure!(
        cfg!(target_arch = "x86_64"),
        "guests and the kernel module need x86-64; this is another architecture"
    );
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
        None => stock::install(workspace, ui),
    }
}

/// Installs those of the packages that are missing.
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
    apt(["update"])
        .run(&step)
        .context("apt-get update failed: the first set-up needs the machine's Debian mirrors")?;
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

/// apt-get that asks nothing, and waits if another apt is running.
fn apt<const N: usize>(args: [&str; N]) -> Cmd {
    Cmd::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=600", "-o", "APT::Color=0"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
}

/// Those of the packages that are not installed.
fn missing_packages<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let status = fs::read_to_string("/var/lib/dpkg/status").context(
        "this is not a Debian machine (it has no dpkg status): install by hand the packages \
         listed in xtask/src/setup.rs",
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

/// Those of the packages that no apt source has.
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
