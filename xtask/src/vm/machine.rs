// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One boot: the processes, the sockets between us and the guest, and the loop that listens.
//!
//! The kernel's log comes on the serial console; the command's output on a virtio port,
//! ended by a record separator, the run's token and the status.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::accel::{Accel, QEMU};
use super::log::KernelLog;
use super::{End, Said, Vm};
use crate::shell::{describe, which};

/// Comes before the end token in the command's output.
const SEPARATOR: u8 = 0x1e;
/// A guest that has not started its command by then is given up.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// The guest kernel's timer frequency (`CONFIG_HZ`).
const GUEST_HZ: u64 = 250;
/// How long QEMU may take to end after it was told to.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What one boot needs.
pub struct Machine<'a> {
    pub vm: &'a Vm,
    pub accel: Accel,
    pub run: &'a Path,
    pub token: &'a str,
    pub log: &'a Path,
}

enum Event {
    Console(UnixStream),
    Kernel(String),
    Output(Vec<u8>),
}

/// A child process that is killed when its owner is dropped.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Restores the terminal's settings when dropped: QEMU does not if it is killed.
struct Terminal(Option<rustix::termios::Termios>);

impl Terminal {
    fn save() -> Self {
        Self(rustix::termios::tcgetattr(std::io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            let now = rustix::termios::OptionalActions::Now;
            // An error means that the terminal is gone.
            let _ = rustix::termios::tcsetattr(std::io::stdin(), now, settings);
        }
    }
}

/// Boots the machine and listens until it ends.
pub fn run(machine: &Machine<'_>, said: &mut dyn FnMut(Said<'_>)) -> Result<(End, KernelLog)> {
    // Socket paths are limited to 107 bytes, which a target directory may exceed.
    let sockets = tempfile::Builder::new()
        .prefix("vexfs-vm-")
        .tempdir_in("/tmp")
        .context("cannot create a directory for the guest's sockets in /tmp")?;
    let (send, events) = channel();
    listen_console(&sockets.path().join("console"), send.clone())?;
    listen_output(&sockets.path().join("output"), send)?;
    let mut daemons = vec![share(machine, sockets.path(), "root", Path::new("/"), "always")?];
    if let Some(dir) = &machine.vm.share {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("the share {} is not there", dir.display()))?;
        daemons.push(share(machine, sockets.path(), "share", &dir, "auto")?);
    }
    // Declared first, so that it is dropped after QEMU has ended.
    let _terminal = machine.vm.command.is_none().then(Terminal::save);
    let mut qemu = Owned(start_qemu(machine, sockets.path())?);
    let log_file = File::create(machine.log)
        .with_context(|| format!("cannot create the log {}", machine.log.display()))?;
    let mut listener = Listener {
        machine,
        monitor: sockets.path().join("monitor"),
        console: None,
        log: KernelLog::default(),
        log_file,
        output: Output::new(machine.token, machine.vm.cut_after.clone()),
        asking: false,
        said,
    };
    let end = listener.listen(&mut qemu, &events);
    drop(qemu);
    drop(daemons);
    // Events that were still in the channel when QEMU ended.
    while let Ok(event) = events.recv_timeout(Duration::from_millis(200)) {
        listener.take(event);
    }
    let log = listener.log;
    Ok((end?, log))
}

struct Listener<'a> {
    machine: &'a Machine<'a>,
    monitor: PathBuf,
    console: Option<UnixStream>,
    log: KernelLog,
    log_file: File,
    output: Output,
    /// The kernel is printing traces that we asked for, which are not findings.
    asking: bool,
    said: &'a mut dyn FnMut(Said<'_>),
}

impl Listener<'_> {
    fn listen(&mut self, qemu: &mut Owned, events: &Receiver<Event>) -> Result<End> {
        let began = Instant::now();
        loop {
            let connected = match events.recv_timeout(Duration::from_millis(100)) {
                Ok(event) => {
                    self.take(event);
                    true
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if self.output.cut {
                qemu.0.kill().context("cannot cut the guest's power")?;
                return Ok(End::Cut);
            }
            if let Some(status) = self.output.status {
                end_orderly(&mut qemu.0)?;
                return Ok(End::Status(status));
            }
            if let Some(status) = qemu.0.try_wait().context("cannot wait for QEMU")? {
                return self.ended(status, events);
            }
            if !connected {
                thread::sleep(Duration::from_millis(50));
            }
            let limit = BOOT_LIMIT * self.machine.vm.kernel.which.time_factor();
            let late = !self.log.started && began.elapsed() > limit;
            if late || self.machine.vm.timeout.is_some_and(|limit| began.elapsed() > limit) {
                self.ask_what_hangs(events);
                return Ok(End::TimedOut);
            }
        }
    }

    /// QEMU has ended: takes in the events that are left, and decides how the run ended.
    fn ended(&mut self, status: ExitStatus, events: &Receiver<Event>) -> Result<End> {
        while let Ok(event) = events.recv_timeout(Duration::from_millis(300)) {
            self.take(event);
        }
        if self.output.cut {
            return Ok(End::Cut);
        }
        if let Some(status) = self.output.status {
            return Ok(End::Status(status));
        }
        let said = self.qemu_said();
        if self.log.lines.is_empty() && !status.success() {
            bail!("QEMU did not start:\n{said}");
        }
        // A guest that stops by itself ends QEMU with success.
        if !status.success() {
            let ended = format!("QEMU: {}", describe(status));
            for line in std::iter::once(ended.as_str()).chain(said.lines()) {
                self.take(Event::Kernel(line.to_owned()));
            }
        }
        Ok(End::Stopped)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Console(stream) => self.console = Some(stream),
            Event::Kernel(line) => {
                let before = self.log.started;
                let found = self.log.push(&line);
                if self.log.started && !before {
                    (self.said)(Said::Started);
                }
                // A full disk must not stop the run; the lines are in memory too.
                let _ = writeln!(self.log_file, "{}", line.trim_end());
                if (found && !self.asking) || self.machine.vm.kernel_lines && self.log.started {
                    (self.said)(Said::Kernel(line.trim_end()));
                }
                self.output.watch(&line);
            }
            Event::Output(bytes) => {
                let text = self.output.take(&bytes);
                if !text.is_empty() {
                    (self.said)(Said::Output(&text));
                }
            }
        }
    }

    /// Makes the kernel print all blocked tasks and the processors' backtraces into its log.
    fn ask_what_hangs(&mut self, events: &Receiver<Event>) {
        let judged = self.log.findings.len();
        self.asking = true;
        for key in *b"lw" {
            let Ok(mut monitor) = UnixStream::connect(&self.monitor) else { return };
            let asked = monitor.write_all(b"chardev-send-break console\n");
            thread::sleep(Duration::from_millis(300));
            if asked.is_err() {
                return;
            }
            if let Some(console) = &mut self.console
                && console.write_all(&[key]).is_err()
            {
                return;
            }
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until {
                if let Ok(event) = events.recv_timeout(Duration::from_millis(100)) {
                    self.take(event);
                }
            }
        }
        // The traces we asked for are not findings.
        self.log.findings.truncate(judged);
    }

    fn qemu_said(&self) -> String {
        std::fs::read_to_string(self.machine.run.join("qemu.log")).unwrap_or_default()
    }
}

/// The command's output: forwarded as it comes, watched for the marker and for the end.
struct Output {
    token: Vec<u8>,
    marker: Option<String>,
    held: Vec<u8>,
    line: Vec<u8>,
    status: Option<i32>,
    cut: bool,
}

impl Output {
    fn new(token: &str, marker: Option<String>) -> Self {
        let token = token.as_bytes().to_vec();
        Self { token, marker, held: Vec::new(), line: Vec::new(), status: None, cut: false }
    }

    /// Takes in bytes of the port; returns those that the command printed.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if self.held.is_empty() && byte != SEPARATOR {
                text.push(byte);
                self.line.push(byte);
                if byte == b'\n' {
                    let line = String::from_utf8_lossy(&self.line).into_owned();
                    self.line.clear();
                    self.watch(&line);
                }
                continue;
            }
            self.held.push(byte);
            if byte == b'\n' {
                match self.end_status() {
                    Some(status) => self.status = Some(status),
                    None => text.extend_from_slice(&self.held),
                }
                self.held.clear();
            }
        }
        text
    }

    fn watch(&mut self, line: &str) {
        self.cut |= self.marker.as_ref().is_some_and(|marker| line.contains(marker.as_str()));
    }

    fn end_status(&self) -> Option<i32> {
        let rest = self.held[1..].strip_prefix(self.token.as_slice())?;
        std::str::from_utf8(rest).ok()?.trim().parse().ok()
    }
}

fn listen_console(path: &Path, send: Sender<Event>) -> Result<()> {
    let listener = UnixListener::bind(path).context("cannot listen for the guest's console")?;
    thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else { return };
        if let Ok(writer) = stream.try_clone() {
            let _ = send.send(Event::Console(writer));
        }
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            if send.send(Event::Kernel(text)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn listen_output(path: &Path, send: Sender<Event>) -> Result<()> {
    let listener = UnixListener::bind(path).context("cannot listen for the guest's output")?;
    thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut buffer = vec![0_u8; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if send.send(Event::Output(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Starts the virtiofs daemon that makes `dir` visible in the guest.
fn share(
    machine: &Machine<'_>,
    sockets: &Path,
    name: &str,
    dir: &Path,
    cache: &str,
) -> Result<Owned> {
    let program = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .or_else(|| which("virtiofsd"))
        .context("virtiofsd is missing (package qemu-system-common): run 'cargo xtask setup'")?;
    let socket = sockets.join(name);
    let log = File::create(machine.run.join(format!("virtiofsd-{name}.log")))?;
    let mut child = Owned(
        bound_to_us(&program)
            .arg(format!("--socket-path={}", socket.display()))
            .args(["-o", &format!("source={}", dir.display())])
            .args(["-o", &format!("cache={cache}"), "-o", "sandbox=chroot", "-o", "xattr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start virtiofsd")?,
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() {
        if let Some(status) = child.0.try_wait()? {
            let log = machine.run.join(format!("virtiofsd-{name}.log"));
            let said = std::fs::read_to_string(log).unwrap_or_default();
            bail!("virtiofsd ended at once ({status}):\n{said}");
        }
        if Instant::now() > deadline {
            bail!("virtiofsd does not open its socket");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

/// A command that the kernel kills if we die first.
fn bound_to_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn start_qemu(machine: &Machine<'_>, sockets: &Path) -> Result<Child> {
    let vm = machine.vm;
    let chardev =
        |id: &str, path: &str| format!("socket,id={id},path={}", sockets.join(path).display());
    let mut command = bound_to_us(Path::new(QEMU));
    command
        .args(["-M", "q35", "-smp", &vm.cpus.to_string(), "-m", &vm.memory.to_string()])
        .args(machine.accel.options())
        .args(["-object", &format!("memory-backend-memfd,id=mem,size={}M,share=on", vm.memory)])
        .args(["-numa", "node,memdev=mem", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-monitor"])
        .arg(format!("unix:{},server=on,wait=off", sockets.join("monitor").display()))
        .args(["-chardev", &chardev("console", "console"), "-serial", "chardev:console"])
        .args(["-chardev", &chardev("root", "root")])
        .args(["-device", "vhost-user-fs-pci,chardev=root,tag=hostroot"])
        .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
        .args(["-chardev", &chardev("output", "output")])
        .args(["-device", "virtserialport,chardev=output,name=vexfs.out"]);
    if vm.share.is_some() {
        command
            .args(["-chardev", &chardev("share", "share")])
            .args(["-device", "vhost-user-fs-pci,chardev=share,tag=share"]);
    }
    if vm.command.is_none() {
        command
            .args(["-chardev", "stdio,id=terminal,signal=off"])
            .args(["-device", "virtconsole,chardev=terminal"])
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit());
    } else {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }
    for disk in &vm.disks {
        // A comma separates options; doubled, it is part of the path.
        let path = disk.display().to_string().replace(',', ",,");
        command.args([
            "-drive",
            &format!("file={path},if=virtio,format=raw,cache=writeback,discard=unmap"),
        ]);
    }
    add_kernel(&mut command, machine);
    command
        .stderr(File::create(machine.run.join("qemu.log"))?)
        .spawn()
        .with_context(|| format!("cannot start {QEMU}: run 'cargo xtask setup' to install it"))
}

fn add_kernel(command: &mut Command, machine: &Machine<'_>) {
    let append = format!(
        "console=ttyS0 panic=-1 oops=panic loglevel=5 maxcpus=1 lpj={} vexfs.run={}",
        loops_per_jiffy(),
        machine.run.display()
    );
    command
        .arg("-kernel")
        .arg(&machine.vm.kernel.image)
        .arg("-initrd")
        .arg(machine.run.join("initramfs"))
        .args(["-append", &append]);
}

/// Value for `lpj=`, which saves the guest a second of calibration per processor. It need not be exact.
fn loops_per_jiffy() -> u64 {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = cpus.lines().find_map(|line| {
        let (_, value) = line.strip_prefix("cpu MHz")?.split_once(':')?;
        value.trim().parse::<f64>().ok()
    });
    mhz.unwrap_or(2500.0) as u64 * 1_000_000 / GUEST_HZ
}

/// Asks QEMU to end, so that it closes its images, and kills it if it does not.
fn end_orderly(qemu: &mut Child) -> Result<()> {
    let pid = rustix::process::Pid::from_child(qemu);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        .context("cannot end the guest")?;
    let deadline = Instant::now() + END_LIMIT;
    while qemu.try_wait().context("cannot wait for QEMU")?.is_none() {
        if Instant::now() > deadline {
            qemu.kill().context("cannot kill QEMU")?;
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Output;

    #[test]
    fn the_end_is_recognised_across_pieces_and_not_shown() {
        let mut output = Output::new("tok", None);
        assert_eq!(output.take(b"hello\nwor"), b"hello\nwor");
        assert_eq!(output.take(b"ld\x1eto"), b"ld");
        assert_eq!(output.take(b"k 7\n"), b"");
        assert_eq!(output.status, Some(7));
    }

    #[test]
    fn a_separator_of_the_command_itself_is_passed_on() {
        let mut output = Output::new("tok", None);
        assert_eq!(output.take(b"a\x1eb\nc"), b"a\x1eb\nc");
        assert_eq!(output.status, None);
    }

    #[test]
    fn the_marker_cuts_only_where_it_is_asked_for() {
        let mut output = Output::new("tok", Some("CUT HERE".to_owned()));
        output.take(b"not yet\nCUT");
        assert!(!output.cut);
        output.take(b" HERE\n");
        assert!(output.cut);
    }
}
