// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! vexfs.ko, built by Kbuild in a copy of `kernel/`, without a single warning.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::object::Hooks;
use super::{install, object};
use crate::kernel::Kernel;
use crate::shell::{Cmd, describe};
use crate::ui::{Step, Ui};
use crate::workspace::Workspace;

/// The module with the engine; returns where it was put.
pub fn build(workspace: &Workspace, kernel: &Kernel, ui: Ui) -> Result<PathBuf> {
    with_engine(workspace, kernel, Hooks::Without, ui)
}

/// The module with test hooks, for the scripts that need them; returns where it was put.
pub fn build_test(workspace: &Workspace, kernel: &Kernel, ui: Ui) -> Result<PathBuf> {
    with_engine(workspace, kernel, Hooks::With, ui)
}

fn with_engine(workspace: &Workspace, kernel: &Kernel, hooks: Hooks, ui: Ui) -> Result<PathBuf> {
    let (suffix, place, title, options): (_, _, _, &[&str]) = match hooks {
        Hooks::Without => ("", "vexfs.ko", "", &[]),
        Hooks::With => ("-test", "test/vexfs.ko", " with test hooks", &["TEST_HOOKS=1"]),
    };
    let object = object::build(workspace, hooks, ui)?;
    let step = ui.step(&format!("vexfs.ko for {}{title}", kernel.release));
    let dir = workspace.target.join("kernel").join(format!("{}{suffix}", kernel.release));
    copy_sources(&workspace.root.join("kernel"), &dir)?;
    copy_changed(&object, &dir.join("rust_all.o_shipped"))?;
    let place = workspace.dist.join("modules").join(&kernel.release).join(place);
    make(kernel, &dir, options, &step)?;
    object::check_registers(&dir.join("vexfs.ko"))?;
    install_stripped(&dir, &place, &step)?;
    step.done();
    Ok(place)
}

/// The module without the engine; returns where it was put.
pub fn build_safe(workspace: &Workspace, kernel: &Kernel, ui: Ui) -> Result<PathBuf> {
    let step = ui.step(&format!("vexfs.ko for {} without the engine", kernel.release));
    let dir = workspace.target.join("kernel").join(format!("{}-safe", kernel.release));
    copy_sources(&workspace.root.join("kernel"), &dir)?;
    let place = workspace.dist.join("modules").join(&kernel.release).join("safe/vexfs.ko");
    make(kernel, &dir, &["SAFE=1"], &step)?;
    install_stripped(&dir, &place, &step)?;
    step.done();
    Ok(place)
}

/// Debugging information stays in the build directory, for reading an oops with.
fn install_stripped(dir: &Path, place: &Path, step: &Step) -> Result<()> {
    let stripped = dir.join("stripped.ko");
    Cmd::new("strip")
        .arg("--strip-debug")
        .arg(dir.join("vexfs.ko"))
        .arg("-o")
        .arg(&stripped)
        .run(step)?;
    install(&stripped, place)
}

/// sparse over every C file, test hooks included; returns its complaints about our own files.
pub fn sparse(workspace: &Workspace, kernel: &Kernel, ui: Ui) -> Result<Vec<String>> {
    let step = ui.step("sparse");
    let dir = workspace.target.join("kernel").join(format!("{}-sparse", kernel.release));
    copy_sources(&workspace.root.join("kernel"), &dir)?;
    let object = object::path(workspace, Hooks::With);
    copy_changed(&object, &dir.join("rust_all.o_shipped"))?;
    let (status, lines) = kbuild(kernel, &dir)
        .args(["TEST_HOOKS=1", "C=2", "CHECK=sparse", "CF=-D__CHECK_ENDIAN__"])
        .lines(|line| step.message(line))?;
    if !status.success() {
        bail!("sparse did not run ({}):\n{}", describe(status), complaints(&lines));
    }
    step.done();
    let own = dir.display().to_string();
    let complaint = |line: &String| {
        line.starts_with(&own) && (line.contains("warning:") || line.contains("error:"))
    };
    Ok(lines.into_iter().filter(complaint).collect())
}

fn kbuild(kernel: &Kernel, dir: &Path) -> Cmd {
    Cmd::new("make")
        .arg("-C")
        .arg(&kernel.headers)
        .arg(format!("M={}", dir.display()))
        .args(["-j2", "modules"])
        // What the outer make or cargo left in the environment is not meant for Kbuild.
        .without("MAKEFLAGS")
        .without("CARGO_MAKEFLAGS")
        // Nor are options of ours that the environment may hold.
        .without("SAFE")
        .without("TEST_HOOKS")
        .env("LC_ALL", "C.UTF-8")
}

/// `options` are the variables that `kernel/Kbuild` reads.
fn make(kernel: &Kernel, dir: &Path, options: &[&str], step: &Step) -> Result<()> {
    let (status, lines) = kbuild(kernel, dir).args(options).lines(|line| step.message(line))?;
    if !status.success() {
        bail!("the module does not build ({}):\n{}", describe(status), complaints(&lines));
    }
    let warnings: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.contains("warning:") || line.starts_with("WARNING:"))
        .collect();
    if !warnings.is_empty() {
        // The next build must complain again.
        remove_objects(dir)?;
        bail!("the module builds with warnings:\n{}", warnings.join("\n"));
    }
    Ok(())
}

/// The lines that say what is wrong; all of them if none does.
fn complaints(lines: &[String]) -> String {
    let wrong = |line: &&String| line.contains("rror") || line.contains("undefined");
    let said: Vec<&str> = lines.iter().filter(wrong).map(String::as_str).collect();
    if said.is_empty() { lines.join("\n") } else { said.join("\n") }
}

fn remove_objects(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "o" || ext == "ko") {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Mirrors the C sources, keeping what did not change so that make does nothing about it.
fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.join("include"))
        .with_context(|| format!("cannot create {}", to.display()))?;
    for sub in ["", "include"] {
        let (from, to) = (from.join(sub), to.join(sub));
        if !from.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&to)? {
            let path = entry?.path();
            let known = path.file_name().is_some_and(|name| from.join(name).exists());
            if is_source(&path) && !known {
                fs::remove_file(&path)?;
            }
        }
        for entry in fs::read_dir(&from)? {
            let path = entry?.path();
            if let (true, Some(name)) = (is_source(&path), path.file_name()) {
                copy_changed(&path, &to.join(name))?;
            }
        }
    }
    Ok(())
}

fn is_source(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let code = path.extension().is_some_and(|ext| ext == "c" || ext == "h");
    (code || name == "Kbuild") && !name.ends_with(".mod.c")
}

fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}
