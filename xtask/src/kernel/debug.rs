// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The debug kernel: built here from Debian's source of the same series, configured to find mistakes.
//!
//! Invariant: the stamp holds the fragment of the configuration that the kernel was built
//! with, and every line of it took effect. A changed fragment means another build. Only asking for
//! this kernel builds it, which takes some ten minutes of two processors and three gigabytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::{Context, Result, ensure};

use super::{Kernel, SERIES, STAMP, Which, packages};
use crate::shell::Cmd;
use crate::ui::{Step, Ui};
use crate::workspace::Workspace;

/// Options that are set in addition to the kernel's own configuration for guests.
const CONFIG: &str = include_str!("../../debug.config");
/// Its file name beside the kernel's own fragments.
const FRAGMENT: &str = "vexfs-debug.config";

/// The kernel, if it is built with the configuration that this source has.
pub fn find(workspace: &Workspace) -> Option<Kernel> {
    let place = place(workspace);
    let stamp = fs::read_to_string(place.join(STAMP)).ok()?;
    let tree = tree(&place);
    let release = fs::read_to_string(tree.join("include/config/kernel.release")).ok()?;
    (stamp == CONFIG).then(|| Kernel {
        which: Which::Debug,
        release: release.trim().to_owned(),
        image: tree.join("arch/x86/boot/bzImage"),
        modules: place.join("lib/modules"),
        headers: tree,
    })
}

/// Fetches the source if it is not there and builds what changed.
pub fn build(workspace: &Workspace, ui: Ui) -> Result<Kernel> {
    let place = place(workspace);
    let tree = tree(&place);
    if !tree.is_dir() {
        unpack(workspace, &place, ui)?;
    }
    let stamp = place.join(STAMP);
    if stamp.exists() {
        fs::remove_file(&stamp).with_context(|| format!("cannot remove {}", stamp.display()))?;
    }
    let step = ui.step("debug kernel: configuring");
    fs::write(tree.join("kernel/configs").join(FRAGMENT), CONFIG)
        .context("cannot write the kernel's configuration")?;
    make(&tree).args(["x86_64_defconfig", "kvm_guest.config", FRAGMENT]).run(&step)?;
    let path = tree.join(".config");
    let config =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let without = ineffective(CONFIG, &config);
    ensure!(
        without.is_empty(),
        "the kernel's configuration does not take these lines of xtask/debug.config:\n  {}",
        without.join("\n  ")
    );
    step.done();

    let step =
        ui.step("debug kernel: building (the first time, some ten minutes of two processors)");
    compile(&tree, &step)?;
    let modules = place.join("lib/modules");
    if modules.exists() {
        fs::remove_dir_all(&modules)
            .with_context(|| format!("cannot replace {}", modules.display()))?;
    }
    let install = format!("INSTALL_MOD_PATH={}", place.display());
    make(&tree).args([&install, "modules_install"]).run(&step)?;
    fs::write(&stamp, CONFIG).with_context(|| format!("cannot write {}", stamp.display()))?;
    step.done();
    find(workspace).context("the debug kernel is incomplete")
}

fn place(workspace: &Workspace) -> PathBuf {
    workspace.vm.join("debug-kernel")
}

fn tree(place: &Path) -> PathBuf {
    place.join(format!("linux-source-{SERIES}"))
}

fn unpack(workspace: &Workspace, place: &Path, ui: Ui) -> Result<()> {
    let package = format!("linux-source-{SERIES}");
    let step = ui.step(&format!("debug kernel: fetching {package}"));
    let work = packages::unpack(workspace, std::slice::from_ref(&package), &step)?;
    let source = work.path().join(format!("tree/usr/src/{package}.tar.xz"));
    Cmd::new("tar").arg("-xf").arg(&source).arg("-C").arg(work.path()).run(&step)?;
    fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
    fs::rename(work.path().join(&package), tree(place))
        .context("cannot move the kernel's source to its place")?;
    step.done();
    Ok(())
}

fn make(tree: &Path) -> Cmd {
    Cmd::new("make")
        .arg("-C")
        .arg(tree)
        .without("MAKEFLAGS")
        .without("CARGO_MAKEFLAGS")
        .env("LC_ALL", "C.UTF-8")
}

fn compile(tree: &Path, step: &Step) -> Result<()> {
    let jobs = available_parallelism().map_or(2, usize::from);
    make(tree)
        .args([&format!("-j{jobs}"), "bzImage", "modules"])
        .run(step)
        .context("the debug kernel does not build")?;
    Ok(())
}

/// Lines of a fragment that did not take effect in a configuration.
fn ineffective<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let set: Vec<&str> = config.lines().collect();
    let holds = |line: &str| match line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) {
        // An option that is not set may also be missing, because what it depends on is not set.
        Some((name, "is not set")) => {
            let assigned = format!("{name}=");
            !set.iter().any(|other| other.starts_with(&assigned))
        }
        Some(_) => true,
        None => !line.starts_with("CONFIG_") || set.contains(&line),
    };
    fragment.lines().filter(|line| !holds(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::ineffective;

    #[test]
    fn a_line_the_configuration_does_not_take_is_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_DD=y\n";
        let fragment = "# A comment\nCONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_D is not set\n";
        assert!(ineffective(fragment, config).is_empty());
        let fragment = "CONFIG_B=y\nCONFIG_C=y\n# CONFIG_DD is not set\nCONFIG_A=y\n";
        let named = ["CONFIG_B=y", "CONFIG_C=y", "# CONFIG_DD is not set"];
        assert_eq!(ineffective(fragment, config), named);
    }
}
