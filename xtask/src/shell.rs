// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Runs other programs; errors name the program and show its output.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::ui::Step;

/// A program about to run; standard input is always empty.
#[derive(Debug)]
pub struct Cmd {
    name: String,
    command: Command,
}

/// How many lines of a failed program's output an error repeats.
const TAIL: usize = 40;

impl Cmd {
    /// `program`, looked up in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let name = Path::new(program.as_ref())
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut command = Command::new(program);
        // cargo sets it to its own toolchain's libraries, which other programs must not load.
        command.stdin(Stdio::null()).env_remove("LD_LIBRARY_PATH");
        Self { name, command }
    }

    /// The cargo that runs us.
    pub fn cargo() -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Removes a variable of its environment.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Where it runs.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it and returns its standard output; its standard error is shown only on failure.
    pub fn output(self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// Like [`Cmd::output`], for output that is not text.
    pub fn bytes(mut self) -> Result<Vec<u8>> {
        let output = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| missing(&self.name))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{} failed ({}):\n{}", self.name, describe(output.status), said.trim_end());
        }
        Ok(output.stdout)
    }

    /// Runs it and shows its output as the step's messages; an error repeats the last lines.
    pub fn run(self, step: &Step) -> Result<Vec<String>> {
        let name = self.name.clone();
        let (status, lines) = self.lines(|line| step.message(line))?;
        if !status.success() {
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            bail!("{name} failed ({}):\n{}", describe(status), tail.join("\n"));
        }
        Ok(lines)
    }

    /// Runs it and passes each line of its standard output and standard error to `each`.
    pub fn lines(mut self, mut each: impl FnMut(&str)) -> Result<(ExitStatus, Vec<String>)> {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| missing(&self.name))?;
        let (send, receive) = std::sync::mpsc::channel();
        let mut readers = Vec::new();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
            child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        ];
        for stream in streams.into_iter().flatten() {
            let send = send.clone();
            readers.push(thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    line.clear();
                    if send.send(text).is_err() {
                        break;
                    }
                }
            }));
        }
        drop(send);
        let mut lines = Vec::new();
        for line in receive {
            each(&line);
            lines.push(line);
        }
        for reader in readers {
            // It has reached the end of its stream, or the channel would still be open.
            let _ = reader.join();
        }
        let status = child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok((status, lines))
    }
}

fn missing(name: &str) -> String {
    format!("cannot start {name}: is it installed? 'cargo xtask setup' installs what is needed")
}

/// An exit status in words.
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended without a status".to_owned(),
    }
}

/// Looks a program up in `PATH` and the system's own directories.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// Quotes a word for `sh`.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
