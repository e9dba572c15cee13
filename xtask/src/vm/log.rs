// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Judges the guest's kernel log.
//!
//! A run whose log holds one of these signs has failed, whatever the command's status was.

/// Signs of trouble at any time, also while booting.
const ALWAYS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "BUG ",
    "Oops",
    "general protection",
    "KASAN",
    "KFENCE",
    "UBSAN",
    "Kernel panic",
    "Call Trace:",
    "unable to handle",
    "soft lockup",
    "hard LOCKUP",
    "boot failed",
    // The kernel has turned one of its checks off.
    "leak detector disabled",
    "locking correctness validator",
    "lock debugging",
];

/// Signs of trouble once the command runs (some harmless boot messages contain these words).
const RUNNING: &[&str] = &[
    "hung task",
    "blocked for more than",
    "self-detected stall",
    "detected stalls",
    "detected expedited stalls",
    "leak",
    "Objects remaining",
    "still has objects",
    "page allocation failure",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "Busy inodes after unmount",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "scheduling while atomic",
    "sleeping function called",
    "bad unlock balance",
    "segfault at",
    "trap invalid opcode",
    "Out of memory",
    "invoked oom-killer",
];

/// The line that `init.sh` writes into the kernel log when the command starts.
pub const STARTS: &str = "vexfs-vm: command starts";

/// The one known race of the emulator with live patching, early in boot.
const BOOT_RACE: &str = "Oops: int3";

/// The kernel log of one boot, line by line.
#[derive(Debug, Default)]
pub struct KernelLog {
    /// Every line, without its line ending.
    pub lines: Vec<String>,
    /// Whether the command has started.
    pub started: bool,
    /// The lines that fail the run.
    pub findings: Vec<String>,
}

impl KernelLog {
    /// Takes one line in; true when it is a finding.
    pub fn push(&mut self, line: &str) -> bool {
        let line = line.trim_end();
        self.started |= line.contains(STARTS);
        let found = ALWAYS.iter().any(|sign| line.contains(sign))
            || self.started && RUNNING.iter().any(|sign| line.contains(sign));
        if found {
            self.findings.push(line.to_owned());
        }
        self.lines.push(line.to_owned());
        found
    }

    /// Whether this is the emulator's boot race, which happens before anything of ours runs.
    pub fn boot_race(&self) -> bool {
        !self.started && self.findings.iter().any(|line| line.contains(BOOT_RACE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_a_finding_and_a_quiet_log_is_none() {
        let mut log = KernelLog::default();
        assert!(!log.push("[    0.1] x86/cpu: leak mitigation"));
        assert!(log.push("[    0.2] WARNING: CPU: 0 PID: 1 at fs/inode.c:1"));
        log.push(&format!("[    1.0] {STARTS}"));
        assert!(log.push("[    2.0] kmemleak: 3 new suspected memory leaks"));
        assert_eq!(log.findings.len(), 2);
        assert!(!log.boot_race());
    }

    #[test]
    fn only_an_early_int3_is_the_boot_race() {
        let mut early = KernelLog::default();
        early.push("[    0.5] Oops: int3: 0000 [#1] PREEMPT SMP");
        assert!(early.boot_race());
        let mut late = KernelLog::default();
        late.push(STARTS);
        late.push("Oops: int3: 0000");
        assert!(!late.boot_race());
    }
}
