// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What vectors cost those who use the same device for something else.
//!
//! The same array is copied into a plain directory and into one whose files are vector files, and fio runs
//! on another file of the filesystem, once while the index of that array is built and once when nothing is.
//! Both halves of a ratio are of one round. Processors have to run side by side for that, so this part goes by the
//! machine's clock.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

use super::device::remove_vexfs;
use super::fio::{self, Job, Length};
use super::plan::Plan;
use super::sample::{self, INDEXING};
use crate::shell::Cmd;

/// Without anything to index, and with it.
pub const SUBJECTS: [&str; 2] = ["no vectors", "vectors"];
/// Begins the name of a cell about copying.
pub const COPY: &str = "copy ";
/// What a copy into a directory of vector files must reach of a plain one.
pub const COPY_WANTED: f64 = 0.5;
/// What the device must reach while vectors are indexed.
pub const DEVICE_WANTED: f64 = 0.9;

const ROWS: usize = 20_000;
const DIM: usize = 384;
const COPY_CELL: &str = "copy 20,000 x 384 and sync";
/// Longest wait for the index.
const PATIENCE: Duration = Duration::from_secs(1800);

const JOBS: [Job; 3] = [
    Job {
        cell: "4 KiB random write QD32, direct",
        options: "rw=randwrite bs=4k iodepth=32 ioengine=io_uring direct=1",
        bandwidth: false,
    },
    Job {
        cell: "4 KiB random read QD32, direct",
        options: "rw=randread bs=4k iodepth=32 ioengine=io_uring direct=1",
        bandwidth: false,
    },
    Job {
        cell: "1 MiB sequential write, direct",
        options: "rw=write bs=1m iodepth=4 ioengine=io_uring direct=1",
        bandwidth: true,
    },
];

/// All rounds, on a filesystem of their own.
pub fn rounds(plan: &Plan) -> Result<()> {
    let dir = PathBuf::from("/dev/shm/bench-indexing");
    fs::create_dir_all(&dir).context("cannot create a directory for the image")?;
    let (image, rows) = (dir.join("image"), dir.join("rows.npy"));
    write_rows(&rows).context("cannot write the rows")?;
    Cmd::new("mkfs.vexfs").arg(&image).arg("1G").output()?;
    let device = Cmd::new("vexfs-ublk").args(["add", "--image"]).arg(&image).output()?;
    let device = PathBuf::from(device.trim());
    let point = Path::new("/run/bench-indexing");
    fs::create_dir_all(point).context("cannot create the mount point")?;
    mount(&device, point, "vexfs", MountFlags::empty(), None).context("cannot mount")?;
    let corpus = point.join("corpus");
    for made in [&corpus, &point.join("plain")] {
        fs::create_dir(made).context("cannot create a directory")?;
    }
    let layout = format!("type=f32,dim={DIM},metric=cosine");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&corpus, "vexfs.vector", layout.as_bytes(), flags)
        .context("cannot mark the directory")?;
    for round in 0..plan.rounds {
        println!("round {}: indexing", round + 1);
        one_round(plan, round, &device, point, &rows)?;
    }
    unmount(point, UnmountFlags::empty()).context("cannot unmount")?;
    remove_vexfs(&device)
}

fn one_round(plan: &Plan, round: u32, device: &Path, point: &Path, rows: &Path) -> Result<()> {
    let give = |cell: &str, subject: &str, value: f64, unit: &str| {
        sample::give(INDEXING, cell, subject, round, value, unit);
    };
    let data = point.join("data");
    // Laid out first, so that neither run allocates.
    fio::run(&data, Some(plan.file_bytes()), Length::Whole, &[JOBS[2]])?;
    let bytes = rows.metadata().context("the rows are gone")?.len();
    for (directory, subject) in ["plain", "corpus"].into_iter().zip(SUBJECTS) {
        let to = point.join(directory).join("rows.npy");
        let began = Instant::now();
        fs::copy(rows, &to).context("cannot copy the rows")?;
        rustix::fs::syncfs(File::open(point)?)?;
        let rate = bytes as f64 / f64::from(1 << 20) / began.elapsed().as_secs_f64();
        give(COPY_CELL, subject, rate, "MiB/s");
    }
    let length = Length::Millis(plan.millis);
    let busy = fio::run(&data, Some(plan.file_bytes()), length, &JOBS)?;
    ensure!(is_indexing(device)?, "the index was built before fio was done: more rows are needed");
    settle(device)?;
    let idle = fio::run(&data, Some(plan.file_bytes()), length, &JOBS)?;
    for (job, (busy, idle)) in JOBS.iter().zip(busy.iter().zip(&idle)) {
        give(job.cell, SUBJECTS[0], idle.value, idle.unit);
        give(job.cell, SUBJECTS[1], busy.value, busy.unit);
    }
    for directory in ["plain", "corpus"] {
        fs::remove_file(point.join(directory).join("rows.npy")).context("cannot remove a copy")?;
    }
    rustix::fs::syncfs(File::open(point)?)?;
    settle(device)
}

/// Whether rows are read or graphs are built.
fn is_indexing(device: &Path) -> Result<bool> {
    let name = device.to_str().and_then(|name| name.strip_prefix("/dev/ublkb"));
    let id = name.context("a device without a number")?;
    let text = Cmd::new("vexfs-ublk").args(["stats", "--json", "--id", id]).output()?;
    let stats: Value = serde_json::from_str(&text).context("the statistics are no JSON")?;
    let number = |key: &str| {
        stats["index"][key].as_u64().with_context(|| format!("the statistics lack '{key}'"))
    };
    // Fewer rows than this stay without a graph.
    Ok(number("lag")? > 0 || number("unread")? > 0 || number("pending")? > 1024)
}

/// Waits until nothing is left to index.
fn settle(device: &Path) -> Result<()> {
    let began = Instant::now();
    while is_indexing(device)? {
        if began.elapsed() > PATIENCE {
            bail!("the index was not built within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Rows around 200 centres, as an array of `f32`.
fn write_rows(path: &Path) -> Result<()> {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS}, {DIM}), }}");
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - header.len() - 1));
    header.push('\n');
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut rng = fastrand::Rng::with_seed(1);
    // A sum of four is near enough to a normal distribution.
    let mut normal = move || (0..4).map(|_| rng.f32() - 0.5).sum::<f32>();
    let centres: Vec<f32> = (0..200 * DIM).map(|_| normal()).collect();
    for row in 0..ROWS {
        let centre = centres.chunks(DIM).nth(row * 7 % 200).context("no centre")?;
        for x in centre {
            file.write_all(&(x + 0.5 * normal()).to_le_bytes())?;
        }
    }
    file.flush().context("cannot write the last rows")
}
