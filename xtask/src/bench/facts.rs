// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Single figures with a limit: how long a mount and a mkfs take, how large the daemon gets.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use super::device::remove_vexfs;
use super::meta::Files;
use super::plan::Plan;
use super::sample::{self, FACTS};
use crate::shell::Cmd;

/// Their names and the limits they have to stay below.
pub const LIMITS: [(&str, f64, &str); 6] = [
    ("mount, 64 MiB", 50.0, "ms"),
    ("mount, 1 GiB", 50.0, "ms"),
    ("mount, 100 GiB sparse", 50.0, "ms"),
    ("mount, 1 GiB, full of files", 50.0, "ms"),
    ("mkfs, 1 TiB sparse", 1000.0, "ms"),
    ("daemon, resident after the load", 64.0, "MiB"),
];
const SIZES: [&str; 3] = ["64M", "1G", "100G"];

/// Measures the times once.
pub fn round(plan: &Plan, round: u32) -> Result<()> {
    let dir = PathBuf::from("/dev/shm/bench-facts");
    fs::create_dir_all(&dir).context("cannot create a directory for images")?;
    let give = |index: usize, value: f64| {
        let (name, _, unit) = LIMITS[index];
        sample::give(FACTS, name, "vexfs", round, value, unit);
    };
    for (index, size) in SIZES.into_iter().enumerate() {
        let image = dir.join(format!("{size}.img"));
        Cmd::new("mkfs.vexfs").arg(&image).arg(size).output()?;
        give(index, mount_time(&image, None)?);
        if size == "1G" {
            let files = plan.files;
            mount_time(&image, Some(files))?;
            give(3, mount_time(&image, None)?);
        }
        fs::remove_file(&image).context("cannot remove an image")?;
    }
    let image = dir.join("1T.img");
    let began = Instant::now();
    Cmd::new("mkfs.vexfs").arg(&image).arg("1T").output()?;
    give(4, began.elapsed().as_secs_f64() * 1e3);
    fs::remove_file(&image).context("cannot remove an image")
}

/// Milliseconds that mount(2) takes. With `files`, that many files are made before unmounting.
fn mount_time(image: &Path, files: Option<usize>) -> Result<f64> {
    let device = Cmd::new("vexfs-ublk").args(["add", "--image"]).arg(image).output()?;
    let device = PathBuf::from(device.trim());
    let point = Path::new("/run/bench-facts");
    fs::create_dir_all(point).context("cannot create the mount point")?;
    let began = Instant::now();
    mount(&device, point, "vexfs", MountFlags::empty(), None)
        .with_context(|| format!("cannot mount {}", image.display()))?;
    let millis = began.elapsed().as_secs_f64() * 1e3;
    if let Some(count) = files {
        Files::new(&point.join("files"), count)?.create_written()?;
        rustix::fs::syncfs(File::open(point)?)?;
    }
    unmount(point, UnmountFlags::empty()).context("cannot unmount")?;
    remove_vexfs(&device)?;
    Ok(millis)
}

/// Peak resident memory of the daemon; there must be exactly one device.
pub fn daemon_memory(round: u32) -> Result<()> {
    let text = Cmd::new("vexfs-ublk").args(["list", "--json"]).output()?;
    let list: Value = serde_json::from_str(&text).context("the list of devices is no JSON")?;
    let first = list.get("devices").unwrap_or(&list).get(0).context("no device is listed")?;
    let pid = first["pid"].as_u64().context("a device without a daemon")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("no daemon")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    let (name, _, unit) = LIMITS[5];
    let mib = kib.context("no size in the daemon's status")? / 1024.0;
    sample::give(FACTS, name, "vexfs", round, mib, unit);
    Ok(())
}
