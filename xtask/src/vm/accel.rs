// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Whether hardware virtualisation works here: tried once with a boot, then remembered.
//!
//! A machine may have `/dev/kvm` and still not run an ordinary guest. KVM is used only if a guest
//! kernel gets as far as looking for its root filesystem. `VEXFS_ACCEL` (kvm, tcg, counted) overrides.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kernel::Kernel;
use crate::workspace::Workspace;

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// How a guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor's own virtualisation.
    Kvm,
    /// QEMU's emulation: works everywhere, some ten times slower.
    Tcg,
    /// Emulation whose clock counts instructions: slower still, but figures do not depend on how busy
    /// the host is. Its processors take turns.
    Counted,
}

/// How long a guest under KVM may take to reach its root filesystem.
const PATIENCE: Duration = Duration::from_secs(8);

impl Accel {
    /// QEMU's options for it.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
            // An instruction takes 2^3 ns.
            Self::Counted => {
                &["-accel", "tcg,thread=single", "-cpu", "max", "-icount", "shift=3,sleep=on"]
            }
        }
    }

    /// The best one that works here.
    pub fn choose(workspace: &Workspace, kernel: &Kernel) -> Result<Self> {
        match std::env::var("VEXFS_ACCEL").as_deref() {
            Ok("kvm") => return Ok(Self::Kvm),
            Ok("tcg") => return Ok(Self::Tcg),
            Ok("counted") => return Ok(Self::Counted),
            Ok(other) => bail!("VEXFS_ACCEL is '{other}': it may be 'kvm', 'tcg' or 'counted'"),
            Err(_) => {}
        }
        if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let known = workspace.vm.join(format!("accel-{}-{}", host.trim(), kernel.release));
        match fs::read_to_string(&known).as_deref() {
            Ok("kvm") => return Ok(Self::Kvm),
            Ok("tcg") => return Ok(Self::Tcg),
            _ => {}
        }
        let accel = if boots(kernel)? { Self::Kvm } else { Self::Tcg };
        let word = if accel == Self::Kvm { "kvm" } else { "tcg" };
        fs::write(&known, word).with_context(|| format!("cannot write {}", known.display()))?;
        Ok(accel)
    }
}

/// Boots the kernel without a root filesystem and waits until it says that it has none.
fn boots(kernel: &Kernel) -> Result<bool> {
    let mut child = Command::new(QEMU)
        .args(["-M", "q35", "-m", "512", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none"])
        .args(Accel::Kvm.options())
        .arg("-kernel")
        .arg(&kernel.image)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {QEMU}: run 'cargo xtask setup'"))?;
    let (send, said) = std::sync::mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    let deadline = Instant::now() + PATIENCE;
    let mut text = Vec::new();
    let mut works = false;
    while !works {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(bytes) = said.recv_timeout(left) else { break };
        text.extend_from_slice(&bytes);
        works = String::from_utf8_lossy(&text).contains("Unable to mount root");
    }
    // Errors mean that it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    Ok(works)
}
