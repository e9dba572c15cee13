// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A throw-away guest: its root is the host's own, read-only, under an overlay in memory.
//!
//! Invariant: whatever ends a run (success, panic, timeout, a cut), no process and no mount
//! of it is left, and a run whose kernel log shows trouble has failed. A boot is tried
//! again only for the emulator's own early race. Here are the types; `boot.rs` runs a guest, and
//! `args.rs` is the command.

pub mod accel;
pub mod args;
mod boot;
pub mod disk;
mod initramfs;
mod log;
mod machine;
mod scripts;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::kernel::Kernel;
use crate::workspace::Workspace;
use accel::Accel;

/// What a guest is to do and with what.
#[derive(Debug, Clone)]
pub struct Vm {
    /// Names the log files.
    pub name: String,
    /// The kernel it boots.
    pub kernel: Kernel,
    /// Shell text run as root; `None` is an interactive shell on the terminal.
    pub command: Option<String>,
    /// Where the command starts.
    pub cwd: PathBuf,
    /// Memory in MiB.
    pub memory: u32,
    /// Emulated processors.
    pub cpus: u32,
    /// Limit from power on to the end, if there is one.
    pub timeout: Option<Duration>,
    /// Raw images, `/dev/vda` and so on in this order.
    pub disks: Vec<PathBuf>,
    /// A host directory, writable at `/share`.
    pub share: Option<PathBuf>,
    /// The power is cut as soon as a line of output contains this.
    pub cut_after: Option<String>,
    /// More variables for the command's environment.
    pub env: Vec<(String, String)>,
    /// While the command runs, lines of the kernel's log are passed on too.
    pub kernel_lines: bool,
    /// How its instructions are run; `None` is the fastest way that works here.
    pub accel: Option<Accel>,
}

/// Why a guest stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The command ended with this status.
    Status(i32),
    /// The power was cut where it was asked for.
    Cut,
    /// The time was up.
    TimedOut,
    /// The guest stopped by itself: a panic, or a failed boot.
    Stopped,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Why it stopped.
    pub end: End,
    /// Lines of the kernel log that fail the run.
    pub findings: Vec<String>,
    /// The kernel log, as a file.
    pub log: PathBuf,
    /// Its last lines.
    pub log_tail: Vec<String>,
    /// From power on to the end.
    pub took: Duration,
}

/// Something a guest says while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Said<'a> {
    /// It is up, and its command or shell starts.
    Started,
    /// Bytes of the command's output, as they come.
    Output(&'a [u8]),
    /// One line of the kernel's log.
    Kernel(&'a str),
}

impl Vm {
    /// A guest with the usual equipment that runs `command` at the repository's root.
    pub fn new(
        workspace: &Workspace,
        kernel: &Kernel,
        name: &str,
        command: impl Into<String>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            kernel: kernel.clone(),
            command: Some(command.into()),
            cwd: workspace.root.clone(),
            memory: 2048,
            cpus: 2,
            timeout: Some(Duration::from_secs(300)),
            disks: Vec::new(),
            share: None,
            cut_after: None,
            env: Vec::new(),
            kernel_lines: false,
            accel: None,
        }
    }
}

impl Said<'_> {
    /// Shows it: the command's output on standard output, the kernel's log on standard error.
    pub fn print(self) {
        match self {
            Self::Started => {}
            Self::Output(bytes) => {
                // Errors are ignored: a closed pipe on our side must not stop the guest.
                let _ = std::io::stdout().write_all(bytes);
                let _ = std::io::stdout().flush();
            }
            Self::Kernel(line) => eprintln!("kernel: {line}"),
        }
    }
}

impl Outcome {
    /// What is wrong, in one line; `None` if nothing is.
    pub fn trouble(&self) -> Option<String> {
        if let Some(line) = self.findings.first() {
            let more = match self.findings.len() {
                1 => String::new(),
                n => format!(" (and {} more)", n - 1),
            };
            return Some(format!("the kernel log says: {line}{more}; see {}", self.log.display()));
        }
        let what = match self.end {
            End::Status(0) | End::Cut => return None,
            End::Status(status) => return Some(format!("the command ended with status {status}")),
            End::TimedOut => "the time was up",
            End::Stopped => "the guest stopped before the command ended",
        };
        Some(format!("{what}; see {}", self.log.display()))
    }
}
