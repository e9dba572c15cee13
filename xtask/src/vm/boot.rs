// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Runs a guest; a boot that failed because of the emulator's own early race is repeated once.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::accel::Accel;
use super::log::KernelLog;
use super::machine::{self, Machine};
use super::{Outcome, Said, Vm, initramfs, scripts};
use crate::workspace::Workspace;

/// Lines of the kernel's log that an outcome repeats.
const LOG_TAIL: usize = 40;

impl Vm {
    /// Boots, runs the command, and reports; `said` is called with what the guest says while it runs.
    pub fn run(&self, workspace: &Workspace, said: &mut dyn FnMut(Said<'_>)) -> Result<Outcome> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a guest needs root here: virtiofsd shows it this machine's own root. Run this as root"
        );
        let accel = match self.accel {
            Some(accel) => accel,
            None => Accel::choose(workspace, &self.kernel)?,
        };
        let (outcome, log) = self.boot(workspace, accel, said)?;
        if !log.boot_race() {
            return Ok(outcome);
        }
        eprintln!("vm: the emulator's early boot race (Oops: int3); booting again, once");
        Ok(self.boot(workspace, accel, said)?.0)
    }

    fn boot(
        &self,
        workspace: &Workspace,
        accel: Accel,
        said: &mut dyn FnMut(Said<'_>),
    ) -> Result<(Outcome, KernelLog)> {
        let run = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&workspace.vm)
            .context("cannot create the guest's run directory")?;
        let token = format!("vexfs-vm-end-{}", std::process::id());
        initramfs::build(&self.kernel, &run.path().join("initramfs"))?;
        scripts::write(self, workspace, run.path(), &token)?;
        let logs = workspace.vm.join("logs");
        fs::create_dir_all(&logs).context("cannot create the directory of logs")?;
        let log = logs.join(format!("{}.log", self.name));
        let began = Instant::now();
        let machine = Machine { vm: self, accel, run: run.path(), token: &token, log: &log };
        let (end, kernel_log) = machine::run(&machine, said)?;
        let tail = kernel_log.lines.len().saturating_sub(LOG_TAIL);
        let outcome = Outcome {
            end,
            findings: kernel_log.findings.clone(),
            log,
            log_tail: kernel_log.lines[tail..].to_vec(),
            took: began.elapsed(),
        };
        Ok((outcome, kernel_log))
    }
}
