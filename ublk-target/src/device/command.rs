// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Control commands to the ublk driver, each bounded in time.
//!
//! Only the ioctl-encoded opcodes are used. Some kernels hang in a control command, so each one has a
//! deadline. If a command misses it, the error names it, and its buffer is leaked, because the kernel
//! may still write to it.

use super::params::NO_DEVICE;
use crate::error::{Error, Result};
use io_uring::{IoUring, opcode, squeue, types};
use libublk::sys;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Time for one command.
pub const DEADLINE: Duration = Duration::from_secs(30);

const CONTROL_PATH: &str = "/dev/ublk-control";
const NO_QUEUE: u16 = u16::MAX;

/// Opens the driver's control device.
pub fn open_control() -> Result<File> {
    match File::options().read(true).write(true).open(CONTROL_PATH) {
        Ok(file) => Ok(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NoDriver),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Err(Error::NoDriver),
        Err(e) => Err(Error::Control(e)),
    }
}

/// States of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Added but not started, or stopped.
    Dead,
    /// Served.
    Live,
    /// Its daemon died; requests wait for a recovery.
    Quiesced,
    /// Its daemon died; requests fail until a recovery.
    FailIo,
    /// A state this program does not know.
    Unknown(u16),
}

impl State {
    /// The name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Live => "live",
            Self::Quiesced => "quiesced",
            Self::FailIo => "fail_io",
            Self::Unknown(_) => "unknown",
        }
    }

    fn from_raw(raw: u16) -> Self {
        match u32::from(raw) {
            sys::UBLK_S_DEV_DEAD => Self::Dead,
            sys::UBLK_S_DEV_LIVE => Self::Live,
            sys::UBLK_S_DEV_QUIESCED => Self::Quiesced,
            sys::UBLK_S_DEV_FAIL_IO => Self::FailIo,
            _ => Self::Unknown(raw),
        }
    }
}

/// A device as the driver has it.
#[derive(Clone, Copy, Debug)]
pub struct DeviceInfo {
    /// Its number.
    pub id: u32,
    /// Its state.
    pub state: State,
    /// Hardware queues.
    pub queues: u16,
    /// Requests per queue.
    pub depth: u16,
    /// Bytes of the largest request.
    pub buffer_bytes: u32,
}

impl DeviceInfo {
    fn from_raw(raw: &sys::ublksrv_ctrl_dev_info) -> Self {
        Self {
            id: raw.dev_id,
            state: State::from_raw(raw.state),
            queues: raw.nr_hw_queues,
            depth: raw.queue_depth,
            buffer_bytes: raw.max_io_buf_bytes,
        }
    }
}

/// A connection to the driver.
pub struct Control {
    file: File,
    ring: Ring,
}

/// The ring for commands. A command that missed its deadline may complete at any time. Commands are
/// numbered, so that its completion is not taken for that of a later one.
struct Ring {
    ring: IoUring<squeue::Entry128>,
    newest: u64,
}

struct Command {
    name: &'static str,
    opcode: u32,
    id: u32,
    data: u64,
}

impl Control {
    /// Connects to the driver.
    pub fn open() -> Result<Self> {
        let file = open_control()?;
        Ok(Self { file, ring: Ring::new()? })
    }

    /// Feature bits the driver knows.
    pub fn features(&mut self) -> Result<u64> {
        let command = Command {
            name: "GET_FEATURES",
            opcode: sys::UBLK_U_CMD_GET_FEATURES,
            id: NO_DEVICE,
            data: 0,
        };
        self.run_with(&command, Box::new(0u64))
    }

    /// Creates a device. Fails if the driver lacks a feature that the request asks for.
    pub fn add(&mut self, request: sys::ublksrv_ctrl_dev_info) -> Result<DeviceInfo> {
        let (id, flags) = (request.dev_id, request.flags);
        let command = Command { name: "ADD_DEV", opcode: sys::UBLK_U_CMD_ADD_DEV, id, data: 0 };
        let raw = match self.run_with(&command, Box::new(request)) {
            Err(Error::Command { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
                return Err(Error::DeviceExists(id));
            }
            other => other?,
        };
        let dropped = flags & !raw.flags;
        if dropped != 0 {
            self.delete(raw.dev_id)?;
            return Err(Error::Unsupported(feature_names(dropped).join(", ")));
        }
        Ok(DeviceInfo::from_raw(&raw))
    }

    /// The processors that a queue's requests come from, lowest first.
    pub fn queue_affinity(&mut self, id: u32, queue: u16) -> Result<Vec<usize>> {
        const BYTES: usize = 128;
        let command = Command {
            name: "GET_QUEUE_AFFINITY",
            opcode: sys::UBLK_U_CMD_GET_QUEUE_AFFINITY,
            id,
            data: u64::from(queue),
        };
        let mask = self.run_with(&command, Box::new([0u8; BYTES]))?;
        let bit = |cpu: &usize| mask[cpu / 8] >> (cpu % 8) & 1 == 1;
        Ok((0..BYTES * 8).filter(bit).collect())
    }

    /// State and geometry of a device.
    pub fn info(&mut self, id: u32) -> Result<DeviceInfo> {
        let command =
            Command { name: "GET_DEV_INFO", opcode: sys::UBLK_U_CMD_GET_DEV_INFO, id, data: 0 };
        let raw = match self.run_with(&command, Box::new(sys::ublksrv_ctrl_dev_info::default())) {
            Err(Error::Command { source, .. }) if gone(&source) => {
                return Err(Error::NoDevice(id));
            }
            other => other?,
        };
        Ok(DeviceInfo::from_raw(&raw))
    }

    /// Sets the parameters of a device.
    pub fn set_params(&mut self, id: u32, params: &sys::ublk_params) -> Result<()> {
        let command =
            Command { name: "SET_PARAMS", opcode: sys::UBLK_U_CMD_SET_PARAMS, id, data: 0 };
        let mut copy = Box::new(*params);
        copy.len = size_of::<sys::ublk_params>() as u32;
        self.run_with(&command, copy).map(|_| ())
    }

    /// Starts a device whose queues are fetching; returns when it can be opened.
    pub fn start(&mut self, id: u32) -> Result<()> {
        let data = u64::from(std::process::id());
        self.run(&Command { name: "START_DEV", opcode: sys::UBLK_U_CMD_START_DEV, id, data })
    }

    /// Stops a device. Its queues must be served, because dirty data is written first.
    pub fn stop(&mut self, id: u32) -> Result<()> {
        self.run(&Command { name: "STOP_DEV", opcode: sys::UBLK_U_CMD_STOP_DEV, id, data: 0 })
    }

    /// Removes a stopped device. Waits until every descriptor of its character device is closed.
    pub fn delete(&mut self, id: u32) -> Result<()> {
        self.run(&Command { name: "DEL_DEV", opcode: sys::UBLK_U_CMD_DEL_DEV, id, data: 0 })
    }

    /// Removes a stopped device without waiting: it is gone when the last of its users has closed it.
    pub fn delete_later(&mut self, id: u32) -> Result<()> {
        let opcode = sys::UBLK_U_CMD_DEL_DEV_ASYNC;
        match self.run(&Command { name: "DEL_DEV_ASYNC", opcode, id, data: 0 }) {
            // Before Linux 6.9.
            Err(Error::Command { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY)) =>
            {
                self.delete(id)
            }
            other => other,
        }
    }

    /// Begins a recovery. Waits while the dead daemon's descriptors are still being closed.
    ///
    /// If a daemon died in a recovery before any of its queues was there, the driver refuses to begin
    /// another: that recovery is continued.
    pub fn start_recovery(&mut self, id: u32) -> Result<()> {
        let opcode = sys::UBLK_U_CMD_START_USER_RECOVERY;
        let command = Command { name: "START_USER_RECOVERY", opcode, id, data: 0 };
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.run(&command) {
                Err(Error::Command { source, .. })
                    if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(Error::Command { source, .. })
                    if source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    return Ok(());
                }
                other => return other,
            }
        }
    }

    /// Ends a recovery: requests that waited reach the queues.
    pub fn end_recovery(&mut self, id: u32) -> Result<()> {
        let data = u64::from(std::process::id());
        let opcode = sys::UBLK_U_CMD_END_USER_RECOVERY;
        self.run(&Command { name: "END_USER_RECOVERY", opcode, id, data })
    }

    fn run(&mut self, command: &Command) -> Result<()> {
        self.run_with(command, Box::new(()))
    }

    fn run_with<T>(&mut self, command: &Command, mut buffer: Box<T>) -> Result<T> {
        let body = sys::ublksrv_ctrl_cmd {
            dev_id: command.id,
            queue_id: NO_QUEUE,
            len: size_of::<T>() as u16,
            addr: if size_of::<T>() == 0 { 0 } else { (&raw mut *buffer) as u64 },
            data: [command.data],
            ..Default::default()
        };
        let mut bytes = [0u8; 80];
        // SAFETY: `ublksrv_ctrl_cmd` is a C struct of integers without padding, so every byte
        // of it is initialised, and it is shorter than the 80 bytes it is copied to.
        unsafe {
            std::ptr::copy_nonoverlapping(
                (&raw const body).cast::<u8>(),
                bytes.as_mut_ptr(),
                size_of::<sys::ublksrv_ctrl_cmd>(),
            );
        }
        let fd = types::Fd(self.file.as_raw_fd());
        let entry = opcode::UringCmd80::new(fd, command.opcode).cmd(bytes).build();
        // SAFETY: the entry points only to the command's buffer, which is kept until the completion
        // arrives, or else leaked.
        match unsafe { self.ring.run(entry, DEADLINE) } {
            Ok(result) if result >= 0 => Ok(*buffer),
            Ok(errno) => Err(Error::Command {
                command: command.name,
                id: command_device(command.id),
                source: io::Error::from_raw_os_error(-errno),
            }),
            Err(e) if e.raw_os_error() == Some(libc::ETIME) => {
                // The kernel may still write to it.
                let _ = Box::leak(buffer);
                Err(Error::CommandTimeout {
                    command: command.name,
                    id: command_device(command.id),
                    seconds: DEADLINE.as_secs(),
                })
            }
            Err(source) => {
                let _ = Box::leak(buffer);
                Err(Error::Command {
                    command: command.name,
                    id: command_device(command.id),
                    source,
                })
            }
        }
    }
}

impl Ring {
    fn new() -> Result<Self> {
        let ring = IoUring::<squeue::Entry128>::builder()
            .build(4)
            .map_err(|source| Error::System { what: "io_uring", source })?;
        Ok(Self { ring, newest: 0 })
    }

    /// Submits one entry and returns its result; `ETIME` if it does not complete in time.
    ///
    /// # Safety
    /// What the entry points to must live until its completion arrives, if it ever does.
    unsafe fn run(&mut self, entry: squeue::Entry128, limit: Duration) -> io::Result<i32> {
        let deadline = Instant::now() + limit;
        self.newest += 1;
        let entry = entry.user_data(self.newest);
        // SAFETY: what the entry points to lives long enough, as this function requires.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            let newest = self.newest;
            if let Some(done) = self.ring.completion().find(|done| done.user_data() == newest) {
                return Ok(done.result());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let time = types::Timespec::from(left);
            let args = types::SubmitArgs::new().timespec(&time);
            match self.ring.submitter().submit_with_args(1, &args) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Whether this error of the driver means that there is no such device.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT))
}

fn command_device(id: u32) -> i64 {
    if id == NO_DEVICE { -1 } else { i64::from(id) }
}

/// Names of the features in a flag word.
fn feature_names(flags: u64) -> Vec<&'static str> {
    FEATURES.iter().filter(|(bit, ..)| flags & bit != 0).map(|(_, name, _)| *name).collect()
}

/// The driver's feature bits, lowest first, with their names and the first kernel that has them.
pub const FEATURES: [(u64, &str, &str); 20] = [
    (1 << 0, "SUPPORT_ZERO_COPY", "6.15"),
    (1 << 1, "URING_CMD_COMP_IN_TASK", "6.0"),
    (1 << 2, "NEED_GET_DATA", "6.0"),
    (1 << 3, "USER_RECOVERY", "6.1"),
    (1 << 4, "USER_RECOVERY_REISSUE", "6.1"),
    (1 << 5, "UNPRIVILEGED_DEV", "6.3"),
    (1 << 6, "CMD_IOCTL_ENCODE", "6.4"),
    (1 << 7, "USER_COPY", "6.5"),
    (1 << 8, "ZONED", "6.6"),
    (1 << 9, "USER_RECOVERY_FAIL_IO", "6.13"),
    (1 << 10, "UPDATE_SIZE", "6.16"),
    (1 << 11, "AUTO_BUF_REG", "6.16"),
    (1 << 12, "QUIESCE", "6.16"),
    (1 << 13, "PER_IO_DAEMON", "6.16"),
    (1 << 14, "BUF_REG_OFF_DAEMON", "6.17"),
    (1 << 15, "BATCH_IO", "7.0"),
    (1 << 16, "INTEGRITY", "7.0"),
    (1 << 17, "SAFE_STOP_DEV", "7.0"),
    (1 << 18, "NO_AUTO_PART_SCAN", "7.0"),
    (1 << 19, "SHMEM_ZC", "7.1"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    // The completion of a command whose time was up was taken for that of the next one, whose
    // buffer the kernel had not filled yet.
    #[test]
    fn a_late_completion_is_not_taken_for_that_of_the_next_command() {
        let late = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut ring = Ring::new().unwrap();
        let wait = opcode::PollAdd::new(types::Fd(late.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: neither entry points to memory.
        let timed_out = unsafe { ring.run(wait.into(), Duration::from_millis(1)) };
        assert_eq!(timed_out.unwrap_err().raw_os_error(), Some(libc::ETIME));
        rustix::io::write(&late, &1u64.to_ne_bytes()).unwrap();
        // SAFETY: as above.
        let next = unsafe { ring.run(opcode::Nop::new().build().into(), DEADLINE) };
        assert_eq!(next.unwrap(), 0, "POLLIN is 1");
    }
}
