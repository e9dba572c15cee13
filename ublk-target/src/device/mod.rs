// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The ublk device: created, served, recovered and removed. Only this module uses libublk.
//!
//! Each queue has a thread; each control command has a deadline. The character device is closed when
//! [`Served`] is gone, which must happen before the device is deleted.

pub mod command;
pub mod params;
mod queue;

use crate::backend::{Backend, Passthrough};
use crate::error::{Error, Result};
use crate::failure_log::FailureLog;
use crate::image::Image;
use crate::lab::{Lab, LabLayer};
use crate::options::Options;
use crate::request::Limits;
use crate::stats::QueueStats;
use crate::window::{Window, WindowLayer};
use command::{Control, DeviceInfo, State};
use libublk::UblkError;
use libublk::ctrl::UblkCtrl;
use libublk::io::UblkDev;
use queue::QueueParts;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use vexfs_search::dirty_log::DirtyLog;
use vexfs_search::log_line;

/// `log2` of the smallest unit at whose multiples a transfer may be continued.
const SECTOR_SHIFT: u8 = 9;
/// Time for a queue to set itself up.
const QUEUE_DEADLINE: Duration = Duration::from_secs(30);

/// The block device's path.
#[must_use]
pub fn block_path(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{id}"))
}

/// The block device's number (`st_rdev`); `None` before it is started.
#[must_use]
pub fn block_number(id: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/block/ublkb{id}/dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// A device whose queues are being served.
pub struct Served {
    id: u32,
    control: Control,
    // The queues' threads have references, too; the last one that is dropped closes the character device.
    _device: Arc<UblkDev>,
    queues: Vec<JoinHandle<()>>,
    stats: Vec<Arc<QueueStats>>,
}

/// Creates a device, not yet started.
pub fn add(control: &mut Control, id: Option<u32>, options: &Options) -> Result<DeviceInfo> {
    control.add(params::device_info(id, options))
}

/// What the queues of a device share.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// The image.
    pub image: &'a Arc<Image>,
    /// Where they mark what they write.
    pub dirty_log: &'a Arc<DirtyLog>,
    /// The crash lab, if the device has it.
    pub lab: Option<&'a Arc<Lab>>,
    /// The command window, if the device has it.
    pub window: Option<&'a Arc<Window>>,
}

/// Starts to serve a new device, or one whose daemon died; `begun`: it died in a recovery, while its
/// queues were starting. `fetching` is told when queues start, and when all of them have started.
pub fn start(
    mut control: Control,
    info: &DeviceInfo,
    host: Host<'_>,
    begun: bool,
    fetching: &mut dyn FnMut(bool) -> Result<()>,
    on_queue_end: impl Fn() + Send + Clone + 'static,
) -> Result<Served> {
    let id = info.id;
    let recovering = matches!(info.state, State::Quiesced | State::FailIo);
    if !recovering {
        control.set_params(
            id,
            &params::params(host.image, host.window.is_some(), info.buffer_bytes),
        )?;
    } else if !begun {
        control.start_recovery(id)?;
    }
    let device = open_device(id, host.image.file())?;
    let mut served = Served { id, control, _device: device.clone(), queues: vec![], stats: vec![] };
    fetching(true)?;
    served.start_queues(&device, info, host, on_queue_end)?;
    fetching(begun)?;
    if recovering {
        served.control.end_recovery(id).map_err(|e| match e {
            Error::CommandTimeout { .. } if begun => Error::NotRecoverable {
                id,
                why: format!(
                    "an earlier recovery died while its queues were starting, which this kernel cannot undo; remove it with `vexfs-ublk del --id {id}` and add it again"
                ),
            },
            other => other,
        })?;
        fetching(false)?;
    } else {
        served.control.start(id)?;
    }
    Ok(served)
}

/// What turns a queue's requests into operations on the image.
fn backend(depth: u16, host: Host<'_>) -> Box<dyn Backend> {
    let below: Box<dyn Backend> = match host.lab {
        Some(lab) => Box::new(LabLayer(lab.clone())),
        None => Box::new(Passthrough::new(
            depth,
            1 << host.image.logical_shift().max(SECTOR_SHIFT),
            host.image.punch_hole(),
            host.image.durability().clone(),
        )),
    };
    let Some(window) = host.window else { return below };
    let end = host.image.exposed_bytes();
    Box::new(WindowLayer::new(below, window.clone(), end, depth, host.lab.cloned()))
}

impl Served {
    /// Starts a thread for each queue, and waits until all of them fetch requests.
    fn start_queues(
        &mut self,
        device: &Arc<UblkDev>,
        info: &DeviceInfo,
        host: Host<'_>,
        on_queue_end: impl Fn() + Send + Clone + 'static,
    ) -> Result<()> {
        let id = info.id;
        let (ready_tx, ready_rx) = mpsc::channel::<std::result::Result<(), String>>();
        for queue in 0..info.queues {
            let stats = Arc::new(QueueStats::default());
            self.stats.push(stats.clone());
            let cpus = self.control.queue_affinity(id, queue).unwrap_or_default();
            let parts = QueueParts {
                id: queue,
                image: host.image.clone(),
                backend: backend(info.depth, host),
                dirty_log: host.dirty_log.clone(),
                stats,
                limits: Limits {
                    device_bytes: params::device_bytes(host.image, host.window.is_some()),
                    buffer_bytes: info.buffer_bytes,
                    read_only: host.image.read_only(),
                },
                failures: host.lab.is_none().then(FailureLog::default),
            };
            let (device, ready, end) = (device.clone(), ready_tx.clone(), on_queue_end.clone());
            let spawned =
                std::thread::Builder::new().name(format!("ublk{id}q{queue}")).spawn(move || {
                    pin(&cpus);
                    let report = ready.clone();
                    let ended = queue::serve(&device, parts, move || drop(report.send(Ok(()))));
                    if let Err(e) = ended {
                        let _ = ready.send(Err(e.to_string()));
                        log_line!("device {id}: queue {queue} failed: {e}");
                    }
                    drop(device);
                    end();
                });
            let handle = spawned.map_err(|source| Error::System { what: "thread", source })?;
            self.queues.push(handle);
        }
        for _ in 0..info.queues {
            match ready_rx.recv_timeout(QUEUE_DEADLINE) {
                Ok(Ok(())) => {}
                Ok(Err(what)) => return Err(Error::Queue { id, what }),
                Err(e) => return Err(Error::Queue { id, what: e.to_string() }),
            }
        }
        Ok(())
    }

    /// Number of the device.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Statistics, one per queue.
    #[must_use]
    pub fn stats(&self) -> &[Arc<QueueStats>] {
        &self.stats
    }

    /// Asks the driver to stop the device. Dirty data is written first.
    pub fn stop(&mut self) -> Result<()> {
        self.control.stop(self.id)
    }

    /// Whether every queue has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.queues.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the queues and closes the character device.
    pub fn close(self) -> Control {
        for queue in self.queues {
            let _ = queue.join();
        }
        self.control
    }
}

/// Opens the character device through libublk, with the image as the ring's second file.
fn open_device(id: u32, image: &File) -> Result<Arc<UblkDev>> {
    let failed = |e: &UblkError| Error::Queue { id, what: e.to_string() };
    let image = image.as_raw_fd();
    let control = quietly(|| UblkCtrl::new_simple(id as i32)).map_err(|e| failed(&e))?;
    let setup = |device: &mut UblkDev| {
        device.tgt.fds[1] = image;
        device.tgt.nr_fds = 2;
        Ok(())
    };
    UblkDev::new("vexfs".to_owned(), setup, &control).map(Arc::new).map_err(|e| failed(&e))
}

/// Runs `what` without standard error, where libublk complains that its own state file is missing, which
/// is no error here. Only for a process with one thread.
fn quietly<T>(what: impl FnOnce() -> T) -> T {
    let silence = File::options().write(true).open("/dev/null");
    let saved = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3);
    if let (Ok(silence), Ok(_)) = (&silence, &saved) {
        let _ = rustix::stdio::dup2_stderr(silence);
    }
    let result = what();
    if let Ok(saved) = saved {
        let _ = rustix::stdio::dup2_stderr(saved);
    }
    result
}

/// Pins this thread to the processors that its requests come from.
fn pin(cpus: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus.iter().copied().filter(|cpu| *cpu < rustix::thread::CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    if set.count() > 0 {
        // On another processor it is slower, not wrong.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}
