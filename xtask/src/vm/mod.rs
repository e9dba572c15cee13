// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A throw-away guest: the host's own root under a layer of memory.
//!
//! Invariant: whatever ends a run (success, panic, timeout, a cut), no process and no mount
//! of it is left, and a run whose kernel log shows trouble has failed. A boot is tried
//! again only for the emulator's own early race. `README`-level usage is in `args.rs`.

pub mod accel;
pub mod args;
mod initramfs;
pub mod log;
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::kernel::{Kernel, Which};
use crate::shell::quote;
use crate::workspace::Workspace;
use accel::Accel;
use log::KernelLog;

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// The guest's second script.
const INIT: &str = include_str!("init.sh");

/// What a guest is to do and with what.
#[derive(Debug, Clone)]
pub struct Vm {
    /// Names the log files.
    pub name: String,
    /// The kernel it boots.
    pub kernel: Which,
    /// Shell text run as root; `None` is an interactive shell on the terminal.
    pub command: Option<String>,
    /// Where the command starts.
    pub cwd: PathBuf,
    /// Memory in MiB.
    pub memory: u32,
    /// Emulated processors.
    pub cpus: u32,
    /// From power on to the end; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// Raw images, `/dev/vda` and so on in this order.
    pub disks: Vec<PathBuf>,
    /// A host directory, writable at `/share`.
    pub share: Option<PathBuf>,
    /// The machine loses power as soon as a line of output contains this.
    pub cut_after: Option<String>,
    /// More environment for the command.
    pub env: Vec<(String, String)>,
    /// Hands over the kernel's log lines too while the command runs.
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

/// What came of a run.
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

/// One piece of what a guest says while it runs.
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
    pub fn new(workspace: &Workspace, name: &str, command: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            kernel: Which::Stock,
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

    /// Boots, runs, and reports; `said` hears the guest live.
    pub fn run(&self, workspace: &Workspace, said: &mut dyn FnMut(Said<'_>)) -> Result<Outcome> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a guest needs root here: virtiofsd shows it this machine's own root. Run this as root"
        );
        let kernel = Kernel::need(workspace, self.kernel)?;
        let accel = match self.accel {
            Some(accel) => accel,
            None => Accel::choose(workspace, &kernel)?,
        };
        let first = self.boot(workspace, &kernel, accel, said)?;
        let (outcome, log) = if first.1.boot_race() {
            eprintln!("vm: the emulator's early boot race (Oops: int3); booting again, once");
            self.boot(workspace, &kernel, accel, said)?
        } else {
            first
        };
        drop(log);
        Ok(outcome)
    }

    fn boot(
        &self,
        workspace: &Workspace,
        kernel: &Kernel,
        accel: Accel,
        said: &mut dyn FnMut(Said<'_>),
    ) -> Result<(Outcome, KernelLog)> {
        let run = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&workspace.vm)
            .context("cannot create the guest's run directory")?;
        let token = format!("vexfs-vm-end-{}", std::process::id());
        self.write_run_directory(workspace, kernel, run.path(), &token)?;
        let logs = workspace.vm.join("logs");
        fs::create_dir_all(&logs).context("cannot create the directory of logs")?;
        let log = logs.join(format!("{}.log", self.name));
        let began = Instant::now();
        let (end, kernel_log) = machine::run(
            &machine::Machine {
                vm: self,
                kernel,
                accel,
                run: run.path(),
                token: &token,
                log: &log,
            },
            said,
        )?;
        let tail = kernel_log.lines.len().saturating_sub(40);
        let outcome = Outcome {
            end,
            findings: kernel_log.findings.clone(),
            log,
            log_tail: kernel_log.lines[tail..].to_vec(),
            took: began.elapsed(),
        };
        Ok((outcome, kernel_log))
    }

    fn write_run_directory(
        &self,
        workspace: &Workspace,
        kernel: &Kernel,
        run: &Path,
        token: &str,
    ) -> Result<()> {
        initramfs::build(kernel, &run.join("initramfs"))?;
        fs::write(run.join("init.sh"), INIT)?;
        let mut command = String::new();
        let dist = text(&workspace.dist)?;
        let mut export = |key: &str, value: &str| {
            command.extend(["export ", key, "=", &quote(value), "\n"]);
        };
        export("VEXFS_VM", "1");
        export("VEXFS_KERNEL", self.kernel.name());
        // Scripts that wait, or let something run for a while, do so this many times as long.
        export("VEXFS_PATIENCE", &self.kernel.patience().to_string());
        export("VEXFS_ROOT", text(&workspace.root)?);
        export("VEXFS_DIST", dist);
        export("VEXFS_MODULE", &format!("{dist}/modules/{}/vexfs.ko", kernel.release));
        export(
            "PATH",
            &format!("{dist}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        );
        if !self.disks.is_empty() {
            export("VEXFS_DISK", "/dev/vda");
        }
        for (key, value) in &self.env {
            export(key, value);
        }
        fs::write(run.join("shell.sh"), format!("{command}{}", shell()))?;
        command.push_str(self.command.as_deref().unwrap_or_default());
        command.push('\n');
        fs::write(run.join("command.sh"), command)?;

        let mut keep: Vec<&str> = Vec::new();
        for path in [&workspace.root, &workspace.target, &workspace.dist, &self.cwd] {
            let path = text(path)?;
            let hidden = ["/tmp", "/run", "/dev/shm"];
            if hidden.contains(&path) {
                bail!("{path} is hidden by the guest's own: use a directory inside it");
            }
            let inside = |dir: &&str| path.starts_with(&format!("{dir}/"));
            if hidden.iter().any(inside) && !keep.contains(&path) {
                ensure!(!path.contains([' ', '\'']), "the path {path} holds a blank or a quote");
                keep.push(path);
            }
        }
        let mut env = String::new();
        for (key, value) in [
            ("VM_KEEP", keep.join(" ").as_str()),
            ("VM_MODULES", text(&kernel.modules)?),
            ("VM_SHARE", if self.share.is_some() { "1" } else { "" }),
            ("VM_DISKS", &self.disks.len().to_string()),
            ("VM_CWD", text(&self.cwd)?),
            ("VM_SHELL", if self.command.is_none() { "1" } else { "" }),
            ("VM_TOKEN", token),
        ] {
            env.extend([key, "=", &quote(value), "\n"]);
        }
        fs::write(run.join("env.sh"), env).context("cannot write the guest's scripts")
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

/// The end of the script that becomes the shell: one with line editing, that knows the terminal.
fn shell() -> String {
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.map_or_else(String::new, |size| {
        format!("stty rows {} cols {}\n", size.ws_row, size.ws_col)
    });
    format!(
        "export TERM={} PS1='\\h:\\w\\$ '\n{size}command -v bash >/dev/null && exec bash\nexec sh\n",
        quote(&term)
    )
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}
