// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! End-to-end tests: each executable `tests/e2e/*.sh` runs in a guest of its own.
//!
//! A script says what it needs in its first lines, `# vm: disk=1G mem=2048 timeout=300`:
//! - `disk=SIZE` a fresh raw disk per size given (`disk=1G,512M` makes two): `/dev/vda`, `/dev/vdb`;
//! - `kernel=debug` it runs on the debug kernel only; on another it is skipped with a line that says so;
//! - `mem=MIB`, `cpus=N`, `timeout=SECONDS` (per boot; of the stock kernel, the debug kernel gets more);
//! - `cut=MARKER` the power is cut when the script prints a line with MARKER, and the script is run a
//!   second time with the same disks and `VEXFS_BOOT=2` (the first time it is 1).
//!
//! `VEXFS_TRUTH` is a file with the true neighbours of the sample queries, a line each.
//!
//! It prints `ok NAME` and `not ok NAME` and exits with 0 if all is well. That it does, and that the
//! kernel log is clean, counts as one more check.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::build::{self, module};
use crate::kernel::{Kernel, Which};
use crate::lab;
use crate::shell::quote;
use crate::tally::Tally;
use crate::truth;
use crate::ui::Ui;
use crate::vm::disk::{self, parse_size};
use crate::vm::{End, Said, Vm};
use crate::workspace::Workspace;

/// What a script's header asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    disks: Vec<u64>,
    memory: Option<u32>,
    cpus: Option<u32>,
    timeout: Option<u64>,
    cut: Option<String>,
    kernel: Which,
}

/// Builds what guests use and runs every script whose name contains `name`.
pub fn all(workspace: &Workspace, kernel: &Kernel, name: Option<&str>) -> Result<Tally> {
    let ui = Ui::new();
    let scripts = scripts(&workspace.root.join("tests/e2e"), name.unwrap_or_default())?;
    ensure!(!scripts.is_empty(), "no executable tests/e2e/*{}*.sh", name.unwrap_or_default());
    let workspace = &workspace.for_tests()?;
    build::tools(workspace, build::Profile::E2e, ui)?;
    lab::build(workspace, false)?;
    module::build(workspace, kernel, ui)?;
    module::build_test(workspace, kernel, ui)?;
    module::build_safe(workspace, kernel, ui)?;
    let mut tally = Tally::default();
    for script in scripts {
        let name = stem(&script);
        let mut lines = |line: &str| println!("  {line}");
        let header = read_header(&script)?;
        if header.kernel == Which::Debug && kernel.which != Which::Debug {
            println!("  {name}: not run: it needs the debug kernel ('--kernel debug')");
            continue;
        }
        match one(workspace, &script, kernel, &mut lines) {
            Ok((checks, seconds)) => {
                println!("  {name}: {checks} in {seconds:.1} s");
                tally = tally.with(&checks);
            }
            Err(error) => tally.fail(&format!("{name}: {error:#}")),
        }
    }
    Ok(tally)
}

/// Runs one script (twice, if the power is to be cut); returns its checks and its seconds.
pub fn one(
    workspace: &Workspace,
    script: &Path,
    kernel: &Kernel,
    show: &mut dyn FnMut(&str),
) -> Result<(Tally, f64)> {
    let name = stem(script);
    let header = read_header(script)?;
    let command = quote(script.to_str().context("a test whose path is not UTF-8")?);
    let mut vm = Vm::new(workspace, kernel, &name, command);
    let scratch = tempfile::Builder::new()
        .prefix("disks-")
        .tempdir_in(&workspace.vm)
        .context("cannot create a directory for the test's disks")?;
    for (number, size) in header.disks.iter().enumerate() {
        let path = scratch.path().join(format!("disk{number}.raw"));
        vm.disks.push(disk::prepare(&format!("{}={size}", path.display()))?);
    }
    vm.memory = header.memory.unwrap_or(vm.memory) * kernel.which.memory_factor();
    vm.cpus = header.cpus.unwrap_or(vm.cpus);
    let timeout = header.timeout.map(Duration::from_secs).or(vm.timeout);
    vm.timeout = timeout.map(|limit| limit * kernel.which.time_factor());
    vm.cut_after.clone_from(&header.cut);

    let truth = truth::write(workspace)?;

    let mut tally = Tally::default();
    let mut seconds = 0.0;
    let boots = if header.cut.is_some() { 2 } else { 1 };
    for boot in 1..=boots {
        vm.env = vec![
            ("VEXFS_BOOT".to_owned(), boot.to_string()),
            ("VEXFS_TRUTH".to_owned(), truth.display().to_string()),
        ];
        if boot == 2 {
            vm.cut_after = None;
            vm.name = format!("{name}-boot2");
        }
        let (end, spent) = boot_once(workspace, &vm, &name, &mut tally, show)?;
        seconds += spent;
        if boot == 1 && boots == 2 && end != End::Cut {
            tally.fail(&format!("{name}: the power was to be cut, and the marker never came"));
            break;
        }
    }
    Ok((tally, seconds))
}

fn boot_once(
    workspace: &Workspace,
    vm: &Vm,
    name: &str,
    tally: &mut Tally,
    show: &mut dyn FnMut(&str),
) -> Result<(End, f64)> {
    let failed = tally.failures.len();
    let mut pending = Vec::new();
    let mut hear = |said: Said<'_>| match said {
        Said::Started => {}
        Said::Kernel(line) => show(&format!("kernel: {line}")),
        Said::Output(bytes) => {
            for &byte in bytes {
                if byte != b'\n' {
                    pending.push(byte);
                    continue;
                }
                let line = String::from_utf8_lossy(&pending).trim_end().to_owned();
                pending.clear();
                tally.read_check(&line, name);
                show(&line);
            }
        }
    };
    let outcome = vm.run(workspace, &mut hear)?;
    match outcome.trouble() {
        None => tally.pass(),
        // The failed checks are counted already; only findings in the kernel log are not.
        Some(_) if tally.failures.len() > failed && outcome.findings.is_empty() => {}
        Some(trouble) => {
            if matches!(outcome.end, End::Stopped | End::TimedOut) {
                outcome.log_tail.iter().for_each(|line| show(&format!("| {line}")));
            }
            tally.fail(&format!("{name}: {trouble}"));
        }
    }
    Ok((outcome.end, outcome.took.as_secs_f64()))
}

fn scripts(dir: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut scripts = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
        if executable
            && path.extension().is_some_and(|ext| ext == "sh")
            && stem(&path).contains(name)
        {
            scripts.push(path);
        }
    }
    scripts.sort();
    Ok(scripts)
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn read_header(script: &Path) -> Result<Header> {
    let text = fs::read_to_string(script)
        .with_context(|| format!("cannot read the test {}", script.display()))?;
    parse_header(&text).with_context(|| format!("the header of {}", stem(script)))
}

fn parse_header(text: &str) -> Result<Header> {
    let mut header = Header::default();
    for line in text.lines().take_while(|line| line.starts_with('#') || line.is_empty()) {
        let Some(settings) = line.strip_prefix("# vm:") else { continue };
        for setting in settings.split_whitespace() {
            let (key, value) =
                setting.split_once('=').with_context(|| format!("'{setting}' is not KEY=VALUE"))?;
            match key {
                "disk" => {
                    for size in value.split(',') {
                        header.disks.push(parse_size(size)?);
                    }
                }
                "mem" => header.memory = Some(number(key, value)?),
                "cpus" => header.cpus = Some(number(key, value)?),
                "timeout" => header.timeout = Some(number(key, value)?),
                "cut" => header.cut = Some(value.to_owned()),
                "kernel" => match Which::from_str(value, false) {
                    Ok(which) => header.kernel = which,
                    Err(_) => bail!("kernel={value}: it may be 'stock' or 'debug'"),
                },
                _ => bail!("'{key}' is not known: disk, mem, cpus, timeout, cut, kernel"),
            }
        }
    }
    Ok(header)
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T> {
    value.parse().ok().with_context(|| format!("{key}={value} is no number"))
}

#[cfg(test)]
mod tests {
    use super::{Header, Which, parse_header};

    #[test]
    fn a_header_is_read_up_to_the_first_command() {
        let text = "#!/bin/bash\n# SPDX\n# vm: disk=1G,512M mem=4096\n# vm: cut=NOW timeout=9\nset -e\n# vm: mem=1\n";
        let expected = Header {
            disks: vec![1 << 30, 512 << 20],
            memory: Some(4096),
            cpus: None,
            timeout: Some(9),
            cut: Some("NOW".to_owned()),
            kernel: Which::Stock,
        };
        assert_eq!(parse_header(text).ok(), Some(expected));
        let debug = parse_header("# vm: kernel=debug").map(|header| header.kernel);
        assert_eq!(debug.ok(), Some(Which::Debug));
        assert!(parse_header("# vm: ram=3").is_err());
        assert!(parse_header("# vm: kernel=realtime").is_err());
    }
}
