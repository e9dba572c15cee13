// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The engine as one relocatable object for the kernel, and what must be true of it.
//!
//! Invariant: no vector register, no symbol the kernel or our C does not offer, no frame or
//! recursion that a kernel's stack has no room for, and no more calls to panicking code than
//! `kernel/panic-sites.txt` admits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::shell::Cmd;
use crate::ui::{Step, Ui};
use crate::workspace::Workspace;

/// Only the system's compiler comes with the library's source on every Debian 12.
pub const RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "x86_64-kernel";
const FLAGS: &str = "-Zcf-protection=branch -Zfunction-return=thunk-extern \
                     -Cforce-unwind-tables=n";
/// What every function of ours that C calls begins with.
const EXPORTED: &str = "vexfs_rust_";
/// What those begin with that only a module with test hooks calls.
const TEST_HOOKS: &str = "vexfs_rust_test_";
/// What the object may expect of the kernel and of our C.
const ALLOWED: &[&str] = &["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"];
const ALLOWED_PREFIXES: &[&str] = &["__x86_indirect_thunk_", "__x86_return_thunk", "vexfs_host_"];
/// Bytes of the largest frame a function may have: all of them share 16 KiB with the kernel's.
const FRAME_MAX: u64 = 2048;
/// Part of the mangled names of the library's sorts, which recurse with large frames.
const SORTS: &str = "4core5slice4sort";
/// Parts of the mangled names of functions that panic.
const PANICS: &[&str] = &[
    "4core9panicking",
    "slice_index_fail",
    "4core6option13expect_failed",
    "4core6option13unwrap_failed",
    "4core6result13unwrap_failed",
    "4core4cell22panic_already",
    "4core5slice5index",
    "5alloc5alloc18handle_alloc_error",
    "5alloc7raw_vec12handle_error",
    "5alloc7raw_vec17capacity_overflow",
    // Growth that cannot fail politely.
    "do_reserve_and_handle",
    "8grow_one",
    // The cold halves of checks in the library.
    "13assert_failed",
    "17len_mismatch_fail",
    "22panic_on_ord_violation",
];

/// Whether a module has what only tests use: self-tests, and a panic on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// As it is shipped.
    Without,
    /// For `kernel-damage.sh`.
    With,
}

/// Builds and checks it; returns its path. With test hooks it is the same library, linked with more of its functions.
pub fn build(workspace: &Workspace, hooks: Hooks, ui: Ui) -> Result<PathBuf> {
    ensure!(Path::new(RUSTC).is_file(), "{RUSTC} is missing (package rustc-web): run setup");
    let step = ui.step("engine for the kernel (core and alloc from source)");
    let target = workspace.target.join("kernel").join("object");
    Cmd::cargo()
        // With the crate's other types left in, cargo would not optimise across crates.
        .args(["rustc", "--release", "-p", "vexfs-ffi", "--lib", "--crate-type", "staticlib"])
        // Without what only hosts in userspace call.
        .arg("--no-default-features")
        .args(["-Zbuild-std=core,alloc", "-Zjson-target-spec", "--target"])
        .arg(workspace.root.join("kernel/ffi").join(TARGET).with_extension("json"))
        .dir(&workspace.root)
        // The outer cargo speaks for its own compiler.
        .without("RUSTUP_TOOLCHAIN")
        .without("CARGO_ENCODED_RUSTFLAGS")
        .without("RUSTC_WRAPPER")
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .run(&step)
        .context("the engine does not build for the kernel")?;
    let library = target.join(TARGET).join("release/libvexfs_ffi.a");
    let object = path(workspace, hooks);
    link(&library, hooks, &object, &step)?;
    check_undefined(&object)?;
    check_registers(&object)?;
    check_stack(&object)?;
    // The hooks are there to panic.
    if hooks == Hooks::Without {
        let sites = panic_sites(&object)?;
        let list = workspace.target.join("kernel/panic-sites.list");
        judge_panics(&sites, &workspace.root.join("kernel/panic-sites.txt"), &list)?;
    }
    step.done();
    Ok(object)
}

/// Where [`build`] puts the object.
pub fn path(workspace: &Workspace, hooks: Hooks) -> PathBuf {
    workspace.target.join("kernel/object").join(match hooks {
        Hooks::Without => "rust_all.o",
        Hooks::With => "rust_all-test.o",
    })
}

fn link(library: &Path, hooks: Hooks, object: &Path, step: &Step) -> Result<()> {
    step.message("ld -r");
    let symbols = Cmd::new("nm").args(["-g", "--defined-only"]).arg(library).output()?;
    let exported: Vec<&str> = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .filter(|name| name.starts_with(EXPORTED))
        .filter(|name| hooks == Hooks::With || !name.starts_with(TEST_HOOKS))
        .collect();
    ensure!(!exported.is_empty(), "the engine's library exports no {EXPORTED}* function");
    let mut ld = Cmd::new("ld").args(["-r", "--strip-debug", "--gc-sections"]);
    for name in &exported {
        ld = ld.args(["-u", name]);
    }
    ld.arg("--whole-archive").arg(library).arg("-o").arg(object).run(step)?;
    // Bitcode that link-time optimisation leaves behind.
    Cmd::new("objcopy").args(["-R", ".llvmbc", "-R", ".llvmcmd"]).arg(object).run(step)?;
    Ok(())
}

fn check_undefined(object: &Path) -> Result<()> {
    let undefined = Cmd::new("nm").arg("-u").arg(object).output()?;
    let foreign: Vec<&str> = undefined
        .split_whitespace()
        .filter(|word| word.len() > 1)
        .filter(|name| !ALLOWED.contains(name))
        .filter(|name| !ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    ensure!(
        foreign.is_empty(),
        "the engine's object wants symbols no kernel has: {}",
        foreign.join(" ")
    );
    Ok(())
}

/// The kernel's own use of vector registers is not saved around our calls.
pub fn check_registers(object: &Path) -> Result<()> {
    let code = Cmd::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(object).output()?;
    let mut function = "";
    for line in code.lines() {
        if line.ends_with(">:") {
            function = line;
        }
        let vector = ["%xmm", "%ymm", "%zmm", "%st("].iter().any(|name| line.contains(name));
        ensure!(
            !vector,
            "floating point or vector code in {}: {function} {line}",
            object.display()
        );
    }
    Ok(())
}

/// Nobody looks after the kernel's stack at run time: too deep is an oops.
fn check_stack(object: &Path) -> Result<()> {
    let code = Cmd::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(object).output()?;
    let large = large_frames(&code);
    ensure!(
        large.is_empty(),
        "frames of more than {FRAME_MAX} bytes in the engine's object: {}: keep fewer copies of \
         large values, or move a part into a function that is not inlined",
        large.join(", ")
    );
    let symbols = Cmd::new("nm").arg(object).output()?;
    let sorts: Vec<&str> = symbols.split_whitespace().filter(|name| name.contains(SORTS)).collect();
    ensure!(
        sorts.is_empty(),
        "the engine's object has the library's sort, which recurses: {}: sort with a BinaryHeap",
        sorts.join(" ")
    );
    Ok(())
}

/// The functions with too large a frame, and its bytes.
fn large_frames(code: &str) -> Vec<String> {
    let mut large = Vec::new();
    let mut function = "";
    for line in code.lines() {
        if let Some(name) = line.strip_suffix(">:") {
            function = name.split_once('<').map_or(name, |(_, name)| name);
        }
        let taken = line.strip_suffix(",%rsp").and_then(|line| line.split_once("sub"));
        let bytes = taken
            .and_then(|(_, amount)| amount.trim().strip_prefix("$0x"))
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        if let Some(bytes) = bytes.filter(|bytes| *bytes > FRAME_MAX) {
            large.push(format!("{function} ({bytes})"));
        }
    }
    large
}

/// Calls to panicking code: how many in each function.
fn panic_sites(object: &Path) -> Result<BTreeMap<String, usize>> {
    let code = Cmd::new("objdump").args(["-dr", "--no-show-raw-insn"]).arg(object).output()?;
    Ok(count_panics(&code))
}

fn count_panics(code: &str) -> BTreeMap<String, usize> {
    let mut sites = BTreeMap::new();
    let mut function = "";
    for line in code.lines() {
        if let Some(name) = line.strip_suffix(">:") {
            function = name.split_once('<').map_or(name, |(_, name)| name);
            continue;
        }
        let Some((_, relocation)) = line.split_once("R_X86_64_P") else { continue };
        // Panicking code that calls panicking code is reached from a counted call only.
        let panics = |name: &str| PANICS.iter().any(|part| name.contains(part));
        if panics(relocation) && !panics(function) {
            *sites.entry(function.to_owned()).or_default() += 1;
        }
    }
    sites
}

fn judge_panics(sites: &BTreeMap<String, usize>, allowed: &Path, list: &Path) -> Result<()> {
    let count: usize = sites.values().sum();
    let lines: Vec<String> = sites.iter().map(|(name, n)| format!("{n:5} {name}")).collect();
    fs::write(list, lines.join("\n"))
        .with_context(|| format!("cannot write {}", list.display()))?;
    let text = fs::read_to_string(allowed)
        .with_context(|| format!("cannot read {}", allowed.display()))?;
    let limit: usize = text
        .lines()
        .find(|line| !line.starts_with('#'))
        .and_then(|line| line.trim().parse().ok())
        .with_context(|| format!("{} holds no number", allowed.display()))?;
    if count > limit {
        bail!(
            "the kernel object has {count} calls to panicking code, {limit} are admitted by {}: \
             use checked access in the new code; 'c++filt < {}' lists the callers",
            allowed.display(),
            list.display()
        );
    }
    if count < limit {
        eprintln!("note: {count} panic sites left; lower {} from {limit}", allowed.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{count_panics, large_frames};

    #[test]
    fn frames_are_measured() {
        let code = "\
0000 <small>:
   0:\tendbr64
   4:\tsub    $0x7f8,%rsp
   b:\tsub    $0x5000,%rax
0020 <large>:
  20:\tpush   %rbx
  21:\tsub    $0x848,%rsp
";
        assert_eq!(large_frames(code), ["large (2120)"]);
    }

    #[test]
    fn only_calls_from_ordinary_functions_count() {
        let code = "\
0000 <vexfs_rust_one>:
   5:\tcall   a
\t\t\t6: R_X86_64_PLT32\t_RNvNtCs1_4core9panicking18panic_bounds_check-0x4
   b:\tcall   b
\t\t\tc: R_X86_64_PLT32\tmemcpy-0x4
0020 <_RNvNtCs1_4core9panicking9panic_fmt>:
   5:\tcall   a
\t\t\t6: R_X86_64_PLT32\t_RNvNtCs1_4core9panicking18panic_bounds_check-0x4
";
        let sites = count_panics(code);
        assert_eq!(sites.len(), 1);
        assert_eq!(sites.get("vexfs_rust_one"), Some(&1));
    }
}
