// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The ublk device: made, served, recovered and removed. libublk is used here and nowhere else.
//!
//! Queues run on threads of their own; each control command is bounded in time. The character
//! device is closed when [`Served`] is gone, which must happen before the device is deleted.

pub mod command;
pub mod params;
mod queue;

use crate::complaint::Complaints;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::lab::{Lab, LabLayer};
use crate::latency::QueueStats;
use crate::layer::{Layer, Plain};
use crate::log_line;
use crate::observe::DirtyLog;
use crate::request::Limits;
use command::{Control, Info, State, Wanted};
use libublk::UblkError;
use libublk::ctrl::UblkCtrl;
use libublk::io::UblkDev;
use params::Recovery;
use queue::QueueParts;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bits of the image a transfer is cut at.
const SECTOR_SHIFT: u8 = 9;
/// Time a queue gets to set itself up.
const QUEUE_DEADLINE: Duration = Duration::from_secs(30);

/// The block device's path.
#[must_use]
pub fn block_path(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{id}"))
}

/// The character device's path.
#[must_use]
pub fn char_path(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkc{id}"))
}

/// What a device is to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its number; the driver chooses if `None`.
    pub id: Option<u32>,
    /// Hardware queues.
    pub queues: u16,
    /// Requests per queue.
    pub depth: u16,
    /// What happens when the server dies.
    pub recovery: Recovery,
}

/// A device whose queues are being served.
pub struct Served {
    id: u32,
    control: Control,
    // Queue threads hold references; the last one to go closes the character device.
    _device: Arc<UblkDev>,
    queues: Vec<JoinHandle<()>>,
    stats: Vec<Arc<QueueStats>>,
}

/// Makes a new device, not yet started.
pub fn add(control: &mut Control, shape: &Shape) -> Result<Info> {
    let wanted = Wanted {
        queues: shape.queues,
        depth: shape.depth,
        buffer_bytes: params::buffer_bytes(shape.queues, shape.depth),
        flags: shape.recovery.flags(),
    };
    control.add(shape.id, &wanted)
}

/// What queues work with.
pub struct Host<'a> {
    /// The image.
    pub image: &'a Arc<Image>,
    /// Hears what is written.
    pub observer: &'a Arc<DirtyLog>,
    /// The crash lab, if it is to stand in between.
    pub lab: Option<&'a Arc<Lab>>,
}

/// Starts serving: a new device, or one whose server died; `begun`: in the midst of a recovery, while
/// its queues came up. `fetching` hears when queues come up, and when all of them are there.
pub fn start(
    mut control: Control,
    info: &Info,
    host: &Host<'_>,
    begun: bool,
    fetching: &mut dyn FnMut(bool) -> Result<()>,
    on_queue_end: impl Fn() + Send + Clone + 'static,
) -> Result<Served> {
    let id = info.id;
    let Host { image, observer, lab } = *host;
    let recovering = matches!(info.state, State::Quiesced | State::FailIo);
    if recovering {
        if !begun {
            control.start_recovery(id)?;
        }
    } else {
        control.set_params(id, &params::params(image, info.buffer_bytes))?;
    }
    let device = open_device(id, image.file())?;
    let mut served = Served { id, control, _device: device.clone(), queues: vec![], stats: vec![] };
    fetching(true)?;
    let (ready_tx, ready_rx) = mpsc::channel::<std::result::Result<(), String>>();
    for queue in 0..info.queues {
        let stats = Arc::new(QueueStats::default());
        served.stats.push(stats.clone());
        let cpus = served.control.queue_affinity(id, queue).unwrap_or_default();
        let parts = QueueParts {
            id: queue,
            image: image.clone(),
            layer: layer(info, image, lab),
            observer: observer.clone(),
            stats,
            limits: Limits {
                device_bytes: image.exposed_bytes(),
                buffer_bytes: info.buffer_bytes,
                read_only: image.read_only(),
            },
            complaints: lab.is_none().then(Complaints::default),
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
        served.queues.push(handle);
    }
    for _ in 0..info.queues {
        match ready_rx.recv_timeout(QUEUE_DEADLINE) {
            Ok(Ok(())) => {}
            Ok(Err(what)) => return Err(Error::Queue { id, what }),
            Err(e) => return Err(Error::Queue { id, what: e.to_string() }),
        }
    }
    fetching(begun)?;
    if recovering {
        served.control.end_recovery(id).map_err(|e| match e {
            Error::CommandTimeout { .. } if begun => Error::NotRecoverable {
                id,
                why: format!(
                    "an earlier recovery died while its queues came up, which this kernel cannot undo; remove it with `vexfs-ublk del --id {id}` and add it again"
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
fn layer(info: &Info, image: &Image, lab: Option<&Arc<Lab>>) -> Box<dyn Layer> {
    match lab {
        Some(lab) => Box::new(LabLayer(lab.clone())),
        None => Box::new(Plain::new(
            info.depth,
            1 << image.logical_shift().max(SECTOR_SHIFT),
            image.punch_hole(),
            image.durability().clone(),
        )),
    }
}

impl Served {
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

    /// Asks the driver to take the device down. What is dirty is written first.
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

/// Runs something that writes to standard error what is no error: libublk misses its own state
/// file there. Only for a process with one thread.
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

/// Keeps this thread on the processors its requests come from.
fn pin(cpus: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus.iter().copied().filter(|cpu| *cpu < rustix::thread::CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    if set.count() > 0 {
        // Serving from elsewhere is slower, not wrong.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}
