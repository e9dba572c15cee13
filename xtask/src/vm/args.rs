// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask vm`: a shell or one command in a throw-away guest.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::disk::prepare;
use super::{End, Said, Vm};
use crate::kernel::{Kernel, Which};
use crate::shell::quote;
use crate::ui::Ui;
use crate::workspace::Workspace;

/// A shell, or one command, in a throw-away guest.
///
/// The guest's root is this machine's own, read-only, under an overlay in memory: everything that is
/// installed here is there, and nothing the guest writes is kept. /tmp, /run and /dev/shm are its own;
/// /host/tmp is this machine's /tmp. `$VEXFS_ROOT` is the repository, `$VEXFS_DIST` what `build` made (its
/// bin/ is in PATH), `$VEXFS_MODULE` the module for its kernel: `insmod $VEXFS_MODULE`.
///
/// The exit status is the command's, 124 after a timeout, or 1 if the guest died or its kernel log
/// holds a warning.
#[derive(Debug, Args)]
pub struct VmArgs {
    /// The guest's kernel
    #[arg(long, value_enum, default_value_t)]
    pub kernel: Which,
    /// Seconds until the guest is stopped; 0 means never
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Raw image for /dev/vda, /dev/vdb ...; FILE=SIZE (1G, 512M) creates it when missing
    #[arg(long, value_name = "FILE[=SIZE]")]
    disk: Vec<String>,
    /// Memory in MiB; the debug kernel gets twice as much
    #[arg(long, default_value_t = 2048)]
    mem: u32,
    /// Emulated processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Host directory, writable in the guest at /share
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Cut the power (SIGKILL) when a line of output contains this; exits with 0 then, with 1 if it never comes
    #[arg(long, value_name = "MARKER")]
    cut_after: Option<String>,
    /// Name of the kernel's log in target/vm/logs
    #[arg(long, default_value = "vm")]
    name: String,
    /// Show the kernel's log on standard error while the command runs
    #[arg(long, short)]
    kernel_log: bool,
    /// Set a variable of the command's environment
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// One word is a line for the shell, more are a program and its arguments, none starts a shell
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs it; returns the exit status.
pub fn run(workspace: &Workspace, kernel: &Kernel, args: VmArgs) -> Result<u8> {
    let interactive = args.command.is_empty();
    ensure!(
        !interactive || on_terminal(),
        "a shell needs a terminal: give a command after '--' or run this on a terminal"
    );
    let vm = machine(workspace, kernel, args)?;
    // A boot takes a while under emulation, and prints nothing.
    let mut booting =
        interactive.then(|| Ui::new().step("a shell in the guest; 'exit' or ctrl-d powers it off"));
    let outcome = vm.run(workspace, &mut |said| {
        if matches!(said, Said::Started)
            && let Some(step) = booting.take()
        {
            step.done();
        }
        said.print();
    })?;
    if let Some(trouble) = outcome.trouble() {
        if !matches!(outcome.end, End::Status(_)) {
            for line in &outcome.log_tail {
                eprintln!("  | {line}");
            }
        }
        eprintln!("vm: {trouble}");
    }
    Ok(match outcome.end {
        End::TimedOut => 124,
        End::Status(0) if vm.cut_after.is_some() => {
            eprintln!("vm: the command ended and the marker never came");
            1
        }
        End::Status(0) | End::Cut => u8::from(!outcome.findings.is_empty()),
        End::Status(status) => u8::try_from(status).unwrap_or(1).max(1),
        End::Stopped => 1,
    })
}

/// The guest that the arguments describe.
fn machine(workspace: &Workspace, kernel: &Kernel, args: VmArgs) -> Result<Vm> {
    let command = match args.command.as_slice() {
        [] => None,
        [line] => Some(line.clone()),
        words => Some(words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")),
    };
    let mut vm = Vm::new(workspace, kernel, &args.name, command.clone().unwrap_or_default());
    vm.timeout = (args.timeout > 0 && command.is_some()).then(|| Duration::from_secs(args.timeout));
    vm.command = command;
    vm.cwd = std::env::current_dir().context("the current directory is gone")?;
    vm.memory = args.mem * args.kernel.memory_factor();
    vm.cpus = args.cpus;
    vm.disks = args.disk.iter().map(|disk| prepare(disk)).collect::<Result<_>>()?;
    vm.share = args.share;
    vm.cut_after = args.cut_after;
    vm.kernel_lines = args.kernel_log;
    for variable in &args.env {
        let (key, value) = variable
            .split_once('=')
            .with_context(|| format!("--env {variable}: it is NAME=VALUE"))?;
        vm.env.push((key.to_owned(), value.to_owned()));
    }
    Ok(vm)
}

/// Whether an interactive shell makes sense.
fn on_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}
