// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Becoming a daemon, and reporting to the command that started it.
//!
//! It forks while the process has one thread. The daemon writes to a pipe: a line `id N`, then `ready`
//! or `failed MESSAGE`. A daemon that dies without either has failed, too.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use vexfs_search::log_line;

/// The daemon's end of the pipe.
pub struct Reporter {
    pipe: Option<File>,
    detached: bool,
}

impl Reporter {
    /// A reporter without a listener, for a process that stays in the foreground.
    #[must_use]
    pub fn silent() -> Self {
        Self { pipe: None, detached: false }
    }

    /// Reports the device's number, once the device exists and the log is open.
    pub fn id(&mut self, id: u32) {
        self.detached = true;
        self.send(&format!("id {id}"));
    }

    /// Reports that the device can be opened. Nothing is reported after that.
    pub fn ready(&mut self) {
        self.send("ready");
        self.pipe = None;
    }

    /// Reports why there is no device.
    pub fn failed(&mut self, error: &Error) {
        if self.detached {
            log_line!("{error}");
        }
        self.send(&format!("failed {}", error.to_string().replace('\n', " ")));
        self.pipe = None;
    }

    fn send(&mut self, line: &str) {
        if let Some(pipe) = &mut self.pipe {
            // It fails if the parent was interrupted; the device does not depend on the parent.
            let _ = pipe.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// Which process this is after [`fork`].
pub enum Role {
    /// The process that the user started; it waits for the daemon.
    Parent(Listener),
    /// The daemon, in a session of its own without a terminal.
    Daemon(Reporter),
}

/// The parent's end of the pipe.
pub struct Listener(BufReader<File>);

impl Listener {
    /// Waits until the daemon serves or has failed. Returns the device's number; if the daemon died, the
    /// error names its log.
    pub fn wait(self, log: impl Fn(Option<u32>) -> std::path::PathBuf) -> Result<u32> {
        let mut id = None;
        for line in self.0.lines() {
            let line = line.map_err(|source| Error::System { what: "daemon", source })?;
            match line.split_once(' ') {
                Some(("id", number)) => id = number.parse().ok(),
                Some(("failed", message)) => return Err(Error::Daemon(message.to_owned())),
                _ if line == "ready" => return id.ok_or_else(|| Error::DaemonDied(log(id))),
                _ => {}
            }
        }
        Err(Error::DaemonDied(log(id)))
    }
}

fn system(what: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |e| Error::System { what, source: e.into() }
}

/// Forks twice, so that the daemon can never get a terminal.
///
/// # Safety
/// The process must have one thread only.
pub unsafe fn fork() -> Result<Role> {
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("pipe"))?;
    // SAFETY: the caller guarantees a single thread, so no other thread leaves the child's memory half
    // changed.
    match unsafe { libc::fork() } {
        -1 => Err(Error::System { what: "fork", source: std::io::Error::last_os_error() }),
        0 => {
            drop(read);
            if rustix::process::setsid().is_err() {
                std::process::exit(1);
            }
            // SAFETY: as above; the first child has one thread as well.
            match unsafe { libc::fork() } {
                0 => Ok(Role::Daemon(Reporter { pipe: Some(File::from(write)), detached: false })),
                -1 => std::process::exit(1),
                // Destructors must not run: they would close or remove what the daemon uses.
                // SAFETY: `_exit` only ends this process.
                _ => unsafe { libc::_exit(0) },
            }
        }
        child => {
            drop(write);
            if let Some(pid) = rustix::process::Pid::from_raw(child) {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
            Ok(Role::Parent(Listener(BufReader::new(File::from(read)))))
        }
    }
}

/// Leaves the caller's directory and standard files: errors go to the log, everything else to `/dev/null`.
/// `truncate` empties the log first.
pub fn detach(log: &Path, truncate: bool) -> Result<()> {
    let failed = |source| Error::Runtime { path: log.to_owned(), source };
    let log_file = File::options().create(true).append(true).open(log).map_err(failed)?;
    if truncate {
        log_file.set_len(0).map_err(failed)?;
    }
    let null: OwnedFd = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|source| Error::Runtime { path: "/dev/null".into(), source })?
        .into();
    rustix::process::chdir("/").map_err(system("chdir"))?;
    rustix::stdio::dup2_stdin(&null).map_err(system("dup2"))?;
    rustix::stdio::dup2_stdout(&null).map_err(system("dup2"))?;
    rustix::stdio::dup2_stderr(&log_file).map_err(system("dup2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(text: &str) -> Result<u32> {
        let (read, write) = rustix::pipe::pipe().unwrap();
        File::from(write).write_all(text.as_bytes()).unwrap();
        Listener(BufReader::new(File::from(read))).wait(|id| format!("log{id:?}").into())
    }

    #[test]
    fn the_parent_gets_the_number_a_message_or_a_death() {
        assert_eq!(receive("id 7\nready\n").unwrap(), 7);
        assert_eq!(receive("id 7\nfailed no luck\n").unwrap_err().to_string(), "no luck");
        assert!(receive("id 7\n").unwrap_err().to_string().contains("logSome(7)"));
        assert!(receive("").unwrap_err().to_string().contains("logNone"));
    }
}
