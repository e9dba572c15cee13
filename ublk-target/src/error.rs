// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Everything that can go wrong outside the data path, one variant per cause.
//!
//! Messages say what happened, to what, and what the user can do. Requests on the data path
//! do not use this enum: they fail with a bare errno, because that is what the driver takes.

use std::io;
use std::path::PathBuf;

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
    /// A control command did not come back.
    #[error(
        "{command} of device {id} did not finish within {seconds} s: the driver hangs; see the kernel log"
    )]
    CommandTimeout {
        /// The driver's name for the command.
        command: &'static str,
        /// The device.
        id: i64,
        /// The time it was given.
        seconds: u64,
    },
    /// The device number is taken.
    #[error("device {0} exists already: leave --id out, or see `vexfs-ublk list`")]
    DeviceExists(u32),
    /// The driver lacks something that was asked for.
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
    /// The device was stopped, but its daemon does not end.
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
    #[error("{path}: {source}{}", advice(source))]
    Image {
        /// The image.
        path: PathBuf,
        /// What the system said.
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
    #[error(
        "{path}: not a VexFS image ({why}): format it with mkfs.vexfs, or serve it as it is with --raw"
    )]
    NotVexfs {
        /// The image.
        path: PathBuf,
        /// What was found instead.
        why: String,
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
        /// The length of the device that must be recovered.
        device: u64,
    },
    /// Something under the runtime directory failed.
    #[error("{path}: {source}")]
    Runtime {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// libublk failed where no errno is known.
    #[error("the ublk queue of device {id} could not be set up: {what}")]
    Queue {
        /// The device.
        id: u32,
        /// What libublk said.
        what: String,
    },
    /// The daemon ended before the device was there.
    #[error("the daemon ended before the device was ready: see {0}")]
    DaemonDied(PathBuf),
    /// The daemon's own message, passed on by its parent.
    #[error("{0}")]
    Daemon(String),
    /// No daemon answers on the control socket.
    #[error(
        "{path}: no daemon answers: {source}; if it was killed, `vexfs-ublk recover` brings it back"
    )]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The control socket is somebody else's.
    #[error("{0}: permission denied: only root and the image's owner may ask its daemon")]
    NotOwner(PathBuf),
    /// The other side of the control socket sent something else than the protocol.
    #[error("control socket: {0}")]
    Protocol(String),
    /// The query or the path of a search is not usable.
    #[error("{0}")]
    Search(String),
    /// Anything of the system that has no better place.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What can be done about a file that cannot be used.
fn advice(error: &io::Error) -> &'static str {
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
