// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Everything that can go wrong outside the data path, one variant per cause.
//!
//! A message says what happened, to what, and what the user can do. It never advises to format an
//! image, which may hold data even if it is not recognised. Requests on the data path do not use this
//! enum: they fail with an errno, which is what the driver takes.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of a `vexfs-ublk` command or of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ublk driver is not loaded.
    #[error("/dev/ublk-control is missing: load the driver with `modprobe ublk_drv`")]
    NoDriver,
    /// The control device exists but may not be opened.
    #[error("/dev/ublk-control: {0}: run as root, or give this user the device")]
    Control(#[source] io::Error),
    /// A control command was refused.
    #[error("{command} of device {id} failed: {source}")]
    Command {
        /// The driver's name for the command.
        command: &'static str,
        /// The device.
        id: i64,
        /// The errno of the driver.
        source: io::Error,
    },
    /// A control command did not complete in time.
    #[error(
        "{command} of device {id} did not finish within {seconds} s: the driver hangs; see the kernel log"
    )]
    CommandTimeout {
        /// The driver's name for the command.
        command: &'static str,
        /// The device.
        id: i64,
        /// The time limit.
        seconds: u64,
    },
    /// The device number is taken.
    #[error("device {0} exists already: leave --id out, or see `vexfs-ublk list`")]
    DeviceExists(u32),
    /// The driver lacks a feature that was asked for.
    #[error(
        "this kernel's ublk driver has no {0}: choose another --recovery, or update the kernel"
    )]
    Unsupported(String),
    /// There is no such device.
    #[error("there is no ublk device {0}: `vexfs-ublk list` shows those that exist")]
    NoDevice(u32),
    /// The device exists, but another server made it.
    #[error("device {0} was not made by vexfs-ublk: it has no state in the runtime directory")]
    NotOurs(u32),
    /// The device cannot be recovered in the state it is in.
    #[error("device {id} cannot be recovered: {why}")]
    NotRecoverable {
        /// The device.
        id: u32,
        /// What is in the way.
        why: String,
    },
    /// The device is mounted or open exclusively.
    #[error("/dev/ublkb{0} is in use: unmount it first")]
    Busy(u32),
    /// The device is stopped, but its daemon does not end.
    #[error("device {id} is stopped, but process {pid} does not end: see {log}")]
    DaemonStays {
        /// The device.
        id: u32,
        /// The daemon.
        pid: u32,
        /// Its log.
        log: PathBuf,
    },
    /// The image could not be opened or read.
    #[error("{path}: {source}{}", host_advice(source))]
    Image {
        /// The image.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The image is neither a regular file nor a block device.
    #[error("{0}: neither a regular file nor a block device")]
    ImageKind(PathBuf),
    /// The image is empty.
    #[error("{0}: empty: give it a length first (`truncate -s 1G {0}`)")]
    ImageEmpty(PathBuf),
    /// The image's length is not whole blocks.
    #[error(
        "{path}: its length of {bytes} bytes is not a multiple of the logical block of {block} bytes: extend or cut it"
    )]
    ImageLength {
        /// The image.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The block it must divide into.
        block: u32,
    },
    /// Another process serves the image.
    #[error("{path}: served already: {holder}: an image has one server; stop that one first")]
    ImageLocked {
        /// The image.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The image is mounted or attached to a loop device.
    #[error("{path}: in use: {by}; unmount or detach it first")]
    ImageInUse {
        /// The image.
        path: PathBuf,
        /// By what.
        by: String,
    },
    /// The image does not hold VexFS.
    #[error("{0}: not a VexFS image: check the name, or serve whatever it holds with --raw")]
    NotVexfs(PathBuf),
    /// The engine does not open the filesystem on the image.
    #[error("{path}: {error}{}", engine_advice(error))]
    Filesystem {
        /// The image.
        path: PathBuf,
        /// The engine's reason.
        error: vexfs::Error,
    },
    /// The image changed while its device was down.
    #[error(
        "{path}: {bytes} bytes, but the device has {device} bytes: an image must keep its length"
    )]
    ImageChanged {
        /// The image.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The length of the device that is to be recovered.
        device: u64,
    },
    /// Something under the runtime directory failed.
    #[error("{path}: {source}")]
    Runtime {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// libublk failed without an errno.
    #[error("the ublk queue of device {id} could not be set up: {what}")]
    Queue {
        /// The device.
        id: u32,
        /// libublk's reason.
        what: String,
    },
    /// The daemon ended before the device was there.
    #[error("the daemon ended before the device was ready: see {0}")]
    DaemonDied(PathBuf),
    /// The daemon's own error message, passed on by its parent.
    #[error("{0}")]
    Daemon(String),
    /// No daemon answers on the control socket.
    #[error(
        "{path}: no daemon answers: {source}; if it was killed, `vexfs-ublk recover` starts another"
    )]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The control socket belongs to another user.
    #[error("{0}: permission denied: only root and the image's owner may ask its daemon")]
    NotOwner(PathBuf),
    /// The other side of the control socket broke the protocol.
    #[error("control socket: {0}")]
    Protocol(String),
    /// A command cannot do what its arguments ask for; the whole message.
    #[error("{0}")]
    Refused(String),
    /// Another failure of the system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// The engine does not open the image at `path`.
    #[must_use]
    pub fn refused(path: &Path, error: vexfs::Error) -> Self {
        let path = path.to_owned();
        match error {
            vexfs::Error::NotVexfs => Self::NotVexfs(path),
            error => Self::Filesystem { path, error },
        }
    }
}

impl From<vexfs_image::Error> for Error {
    fn from(error: vexfs_image::Error) -> Self {
        match error {
            vexfs_image::Error::Kind { path, .. } => Self::ImageKind(path),
            vexfs_image::Error::Host { path, source, .. } => Self::Image { path, source },
        }
    }
}

/// What can be done about a filesystem that the engine does not open.
fn engine_advice(error: &vexfs::Error) -> String {
    match (error, vexfs_image::advice(error)) {
        (vexfs::Error::UnknownRoCompat(_), _) => "; serve it with --read-only".to_owned(),
        (_, "") => String::new(),
        (_, advice) => format!("; {advice}"),
    }
}

/// What can be done about a file that cannot be used.
fn host_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => ": run it as the owner or as root",
        Some(libc::ENOENT) => ": check the name",
        Some(libc::EBUSY) => {
            ": it is mounted or held by another program; unmount or stop that first"
        }
        Some(libc::EROFS) => ": it can only be served with --read-only",
        Some(libc::ENOSPC | libc::EDQUOT) => ": make room there",
        _ => "",
    }
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
