// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Measures block devices: the same jobs on each, and the same image file for all that serve one.
//!
//! The image is written in full beforehand, on ext4 on a disk of memory, so that neither a real
//! disk nor allocation is part of the figures. Every device exists only while it is measured.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::fio::{self, Job, Length};
use super::plan::Plan;
use super::sample::{self, DEVICE};
use crate::shell::Cmd;

/// The device of this project.
pub const OURS: &str = "vexfs-ublk";
/// What it is compared with.
pub const REFERENCE: &str = "rublk loop";
/// All devices, in the order of the tables.
pub const SUBJECTS: [&str; 5] = ["null_blk", "ublk null", "kernel loop", REFERENCE, OURS];

/// How a device opens its image: with `O_DIRECT`, or through the page cache.
pub const MODES: [&str; 2] = ["direct", "buffered"];

const JOBS: [Job; 6] = [
    Job {
        cell: "4 KiB random read QD1",
        options: "rw=randread bs=4k iodepth=1 ioengine=io_uring direct=1",
        bandwidth: false,
    },
    Job {
        cell: "4 KiB random write QD1",
        options: "rw=randwrite bs=4k iodepth=1 ioengine=io_uring direct=1",
        bandwidth: false,
    },
    Job {
        cell: "4 KiB random read QD32",
        options: "rw=randread bs=4k iodepth=32 ioengine=io_uring direct=1",
        bandwidth: false,
    },
    Job {
        cell: "4 KiB random write QD32",
        options: "rw=randwrite bs=4k iodepth=32 ioengine=io_uring direct=1",
        bandwidth: false,
    },
    Job {
        cell: "1 MiB sequential read",
        options: "rw=read bs=1m iodepth=4 ioengine=io_uring direct=1",
        bandwidth: true,
    },
    Job {
        cell: "1 MiB sequential write",
        options: "rw=write bs=1m iodepth=4 ioengine=io_uring direct=1",
        bandwidth: true,
    },
];

/// Queues, and requests per queue, of every ublk device: the same for all.
const QUEUES: &str = "1";
const DEPTH: &str = "64";
/// Device number for rublk, above those that vexfs-ublk chooses.
const RUBLK_ID: u32 = 40;

/// A device that exists; [`Device::remove`] ends it.
enum Device {
    Null(PathBuf),
    Loop(PathBuf),
    Rublk { path: PathBuf, child: Child },
    Vexfs { path: PathBuf },
}

/// One round: measures every subject once, in an order that rotates from round to round.
pub fn round(plan: &Plan, round: u32) -> Result<()> {
    let mut order: Vec<(&str, &str)> = vec![("null_blk", ""), ("ublk null", "")];
    for mode in MODES {
        for subject in ["kernel loop", REFERENCE, OURS] {
            order.push((subject, mode));
        }
    }
    let turn = round as usize % order.len();
    order.rotate_left(turn);
    for (subject, mode) in order {
        prepare_page_cache(mode)?;
        let device = Device::make(plan, subject, mode)
            .with_context(|| format!("cannot set up {subject} {mode}"))?;
        let measured = measure(plan, &device, subject, mode, round);
        let removed = device.remove(plan);
        measured.with_context(|| format!("{subject} {mode}"))?;
        removed.with_context(|| format!("cannot remove {subject} {mode}"))?;
    }
    Ok(())
}

/// The same page cache for every subject: without the image before direct I/O, which would have to
/// invalidate it, and with all of the image before buffered I/O.
fn prepare_page_cache(mode: &str) -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "1").context("cannot drop the page cache")?;
    if mode == "buffered" {
        let mut image = File::open(Plan::image()).context("cannot open the image")?;
        std::io::copy(&mut image, &mut std::io::sink()).context("cannot read the image")?;
    }
    Ok(())
}

fn measure(plan: &Plan, device: &Device, subject: &str, mode: &str, round: u32) -> Result<()> {
    let path = device.path();
    no_scheduler(path)?;
    let figures = fio::run(path, Some(plan.image_bytes()), Length::Millis(plan.millis), &JOBS)?;
    for (job, figure) in JOBS.iter().zip(figures) {
        // A device without an image has no mode: its figure is shown in the cells of both.
        for shown in MODES.iter().filter(|name| mode.is_empty() || **name == mode) {
            let cell = format!("{}, {shown} image", job.cell);
            sample::give(DEVICE, &cell, subject, round, figure.value, figure.unit);
        }
    }
    Ok(())
}

impl Device {
    fn make(plan: &Plan, subject: &str, mode: &str) -> Result<Self> {
        let image = Plan::image();
        match subject {
            "null_blk" => Ok(Self::Null(null_blk("benchnull", 4096, false)?)),
            "kernel loop" => {
                let direct = if mode == "direct" { "on" } else { "off" };
                let path = Cmd::new("losetup")
                    .args(["--find", "--show", &format!("--direct-io={direct}")])
                    .arg(&image)
                    .output()?;
                Ok(Self::Loop(PathBuf::from(path.trim())))
            }
            "ublk null" => Self::rublk(plan, &["null"]),
            OURS => {
                let mut add = Cmd::new("vexfs-ublk").args(["add", "--raw", "--image"]).arg(&image);
                add = add.args(["--queues", QUEUES, "--depth", DEPTH]);
                if mode == "buffered" {
                    add = add.arg("--buffered");
                }
                Ok(Self::Vexfs { path: PathBuf::from(add.output()?.trim()) })
            }
            _ => {
                let image = image.to_str().context("the image's path")?.to_owned();
                let mut words = vec!["loop", "--file", &image];
                if mode == "buffered" {
                    words.push("--buffered-io");
                }
                Self::rublk(plan, &words)
            }
        }
    }

    fn rublk(plan: &Plan, words: &[&str]) -> Result<Self> {
        // A session of its own, as every daemon has. The scheduler groups processes by session, so
        // a process that shared ours would be woken faster.
        let child = Command::new("setsid")
            .arg(&plan.rublk)
            .arg("add")
            .args(words)
            .args(["--foreground", "--quiet", "--queue", QUEUES, "--depth", DEPTH])
            .args(["--number", &RUBLK_ID.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", plan.rublk.display()))?;
        let path = PathBuf::from(format!("/dev/ublkb{RUBLK_ID}"));
        wait_for(&path)?;
        Ok(Self::Rublk { path, child })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Null(path)
            | Self::Loop(path)
            | Self::Rublk { path, .. }
            | Self::Vexfs { path } => path,
        }
    }

    fn remove(self, plan: &Plan) -> Result<()> {
        match self {
            Self::Null(_) => remove_null_blk("benchnull"),
            Self::Loop(path) => Cmd::new("losetup").arg("--detach").arg(path).output().map(drop),
            Self::Rublk { mut child, path } => {
                // rublk's removal sometimes fails in its control ring. The measurement is over by
                // then, so it is simply removed again.
                let remove = || {
                    let words = ["del", "--number", &RUBLK_ID.to_string()];
                    Cmd::new(&plan.rublk).args(words).output()
                };
                if remove().is_err() && path.exists() {
                    remove()?;
                }
                let status = child.wait().context("cannot wait for rublk")?;
                ensure!(!path.exists(), "rublk ({status}) left {}", path.display());
                Ok(())
            }
            Self::Vexfs { path } => remove_vexfs(&path),
        }
    }
}

/// Removes a device of `vexfs-ublk`.
pub fn remove_vexfs(path: &Path) -> Result<()> {
    let name = path.to_string_lossy();
    let id = name.strip_prefix("/dev/ublkb").context("vexfs-ublk printed no device")?;
    Cmd::new("vexfs-ublk").args(["del", "--id", id]).output().map(drop)
}

/// Turns off the I/O scheduler, which the kernel sets by default for devices with one hardware queue.
fn no_scheduler(device: &Path) -> Result<()> {
    let name = device.file_name().context("a device without a name")?;
    let file = Path::new("/sys/block").join(name).join("queue/scheduler");
    fs::write(&file, "none").with_context(|| format!("cannot write {}", file.display()))
}

/// Waits until a device can be opened.
fn wait_for(path: &Path) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    while File::open(path).is_err() {
        if Instant::now() > until {
            bail!("{} did not come up within 30 s", path.display());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Makes a disk with `null_blk`: one of memory, or one that stores nothing.
pub fn null_blk(name: &str, mib: u64, memory: bool) -> Result<PathBuf> {
    let dir = Path::new("/sys/kernel/config/nullb").join(name);
    fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let set = |key: &str, value: String| {
        fs::write(dir.join(key), &value).with_context(|| format!("null_blk refuses {key}={value}"))
    };
    set("size", mib.to_string())?;
    set("memory_backed", u8::from(memory).to_string())?;
    set("submit_queues", "1".into())?;
    set("hw_queue_depth", "128".into())?;
    set("power", "1".into())?;
    let path = Path::new("/dev").join(name);
    wait_for(&path)?;
    Ok(path)
}

fn remove_null_blk(name: &str) -> Result<()> {
    let dir = Path::new("/sys/kernel/config/nullb").join(name);
    fs::write(dir.join("power"), "0").context("null_blk does not power off")?;
    fs::remove_dir(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// Writes the image file.
pub fn make_image(path: &Path, bytes: u64) -> Result<()> {
    let mut file =
        File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let chunk = vec![0x5a_u8; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&chunk).with_context(|| format!("cannot fill {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("cannot sync {}", path.display()))
}
