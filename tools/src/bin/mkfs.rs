// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `mkfs.vexfs`: makes a filesystem in a file or on a block device.
//!
//! Nothing is written before it is known that nobody uses the target and that it holds nothing that is
//! recognised, unless `--force` is given. If it fails, a file that it created is removed.

use clap::Parser;
use rustix::fs::FallocateFlags;
use rustix::rand::GetRandomFlags;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use uuid::Uuid;
use vexfs::{Device, Geometry, MkfsOptions, mkfs};
use vexfs_format::{BLOCK_BYTES_DEFAULT, BLOCKS_MAX, BLOCKS_MIN, window};
use vexfs_image::{Access, FileDevice};
use vexfs_tools::failure::{Failure, Result, host_errno};
use vexfs_tools::{cli, image, signature, size, sys};

/// Makes a VexFS filesystem in an image file or on a block device
///
/// A new file is created sparse, SIZE long. Of a file or device that exists, all or the first SIZE bytes
/// are formatted; a shorter file grows to SIZE. An image is refused if it is in use, or if it holds a
/// filesystem, a partition table or anything else that is recognised.
#[derive(Debug, Parser)]
#[command(
    name = "mkfs.vexfs",
    bin_name = "mkfs.vexfs",
    version,
    after_help = "Examples:
  mkfs.vexfs vexfs.img 1G                  a new, sparse image of 1 GiB
  mkfs.vexfs -L corpus /dev/ublkb0         a whole block device
  mkfs.vexfs --force vexfs.img             again: everything in it is lost
  mkfs.vexfs vexfs.img 1G && vexfs put vexfs.img /usr/share/doc / && fsck.vexfs vexfs.img

Then: vexfs-ublk add --image vexfs.img; mount -t vexfs /dev/ublkb0 /mnt

Exit code: 0 made, 1 failed, 2 wrong usage."
)]
struct Args {
    /// Name of the filesystem, up to 64 bytes
    #[arg(short = 'L', value_name = "LABEL", default_value = "", hide_default_value = true)]
    label: String,
    /// UUID of the filesystem [default: a random one]
    #[arg(short = 'U', value_name = "UUID")]
    uuid: Option<Uuid>,
    /// Bytes of a block: 4096, or a power of two up to 65536, which this kernel module does not mount
    #[arg(short = 'b', value_name = "BYTES", default_value_t = BLOCK_BYTES_DEFAULT, value_parser = block_bytes)]
    block_bytes: u32,
    /// Overwrite what the image holds and give its blocks back; an image in use is still refused
    #[arg(long)]
    force: bool,
    /// The image file or block device
    #[arg(value_name = "IMAGE|DEVICE")]
    image: PathBuf,
    /// Length: bytes, or a number with K, M, G or T (powers of 1024)
    #[arg(value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
}

fn block_bytes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bytes @ (4096 | 8192 | 16_384 | 32_768 | 65_536)) => Ok(bytes),
        _ => Err("a block has 4096, 8192, 16384, 32768 or 65536 bytes".to_owned()),
    }
}

fn main() -> ExitCode {
    let args: Args = match cli::parse("8", 2) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mkfs.vexfs: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let name = args.image.display();
    if args.label.len() > 64 || args.label.contains('\0') {
        return Err(Failure::Usage(format!(
            "-L '{}': a label has at most 64 bytes; choose a shorter one",
            args.label.escape_debug()
        )));
    }
    let created = match (std::fs::symlink_metadata(&args.image), args.size) {
        (Err(error), None) if error.kind() == ErrorKind::NotFound => {
            return Err(Failure::Usage(format!(
                "{name}: does not exist; to create it, give its size, as in: mkfs.vexfs {name} 1G"
            )));
        }
        (Err(error), Some(bytes)) if error.kind() == ErrorKind::NotFound => {
            check_length(args, bytes)?;
            create(&args.image)?;
            true
        }
        _ => false,
    };
    let made = format(args, created);
    if made.is_err() && created {
        let _ = std::fs::remove_file(&args.image);
    }
    report(args, &made?);
    Ok(())
}

/// Creates the file; fails if somebody else created it in the meantime.
fn create(path: &Path) -> Result<()> {
    File::create_new(path).map(drop).map_err(Failure::host(path, "cannot be created"))
}

/// Refuses a length that a filesystem cannot have.
fn check_length(args: &Args, bytes: u64) -> Result<()> {
    let blocks = bytes / u64::from(args.block_bytes);
    let limit = |limit: u64| size::human(limit.saturating_mul(u64::from(args.block_bytes)));
    let name = args.image.display();
    let human = size::human(bytes);
    if blocks < BLOCKS_MIN {
        let least = limit(BLOCKS_MIN);
        return Err(Failure::Other(format!(
            "{name}: {human} is too small; a filesystem takes at least {least}"
        )));
    }
    if blocks > BLOCKS_MAX || bytes > i64::MAX as u64 {
        return Err(Failure::Other(format!(
            "{name}: {human} is too large; a filesystem takes at most {}",
            limit(BLOCKS_MAX)
        )));
    }
    Ok(())
}

/// The length of the filesystem on an image of `image_bytes`.
fn choose_length(args: &Args, image_bytes: u64, block_device: bool) -> Result<u64> {
    let name = args.image.display();
    let bytes = match args.size {
        Some(bytes) if bytes > image_bytes && block_device => {
            return Err(Failure::Other(format!(
                "{name}: is {} long, {} were asked for; choose a smaller size, or none for all of it",
                size::human(image_bytes),
                size::human(bytes)
            )));
        }
        Some(bytes) => bytes,
        None if image_bytes == 0 => {
            return Err(Failure::Usage(format!(
                "{name}: is empty; give a size, as in: mkfs.vexfs {name} 1G"
            )));
        }
        None => image_bytes,
    };
    check_length(args, bytes)?;
    Ok(bytes)
}

/// Length of the command window at the end of a device that `vexfs-ublk` serves, which is no part of the medium; 0 if
/// there is none.
fn window_bytes(device: &FileDevice) -> u64 {
    let mut page = vec![0; window::PAGE_BYTES];
    let start = device.len_bytes().checked_sub(window::BYTES).filter(|_| device.is_block_device());
    let read = start.map(|start| device.read(start + window::PAGES_AT, &mut page));
    match read {
        Some(Ok(())) if window::Header::parse(&page).is_some() => window::BYTES,
        _ => 0,
    }
}

fn format(args: &Args, created: bool) -> Result<Geometry> {
    let path = args.image.as_path();
    let name = path.display();
    let mut device = image::device(path, Access::Write)?;
    let old_bytes = device.len_bytes();
    let room = old_bytes - window_bytes(&device);
    let bytes = choose_length(args, room, device.is_block_device())?;
    let found = signature::find(&device)
        .map_err(|error| Failure::Engine { subject: name.to_string(), error: error.into() })?;
    if !found.is_empty() && !args.force {
        return Err(Failure::Other(format!(
            "{name}: holds {}; --force overwrites it, and everything in it is lost",
            found.join(" and ")
        )));
    }
    let options = MkfsOptions {
        bytes,
        block_bytes: args.block_bytes,
        label: args.label.as_bytes(),
        uuid: *args.uuid.unwrap_or_else(Uuid::new_v4).as_bytes(),
        hash_key: hash_key(path)?,
        now: image::now(),
        root_uid: 0,
        root_gid: 0,
    };
    let grow = bytes > old_bytes;
    if grow {
        device.set_len(bytes).map_err(Failure::host(path, "cannot be made that long"))?;
    }
    let made = if args.force && !created { blank(&device, path, bytes) } else { Ok(()) }
        .and_then(|()| mkfs(&device, &options).map_err(Failure::engine(name.to_string())))
        .and_then(|superblock| {
            let synced = device.file().sync_all();
            synced.map_err(Failure::host(path, "cannot be synced"))?;
            Ok(Geometry::of(&superblock))
        });
    if made.is_err() && grow {
        let _ = device.set_len(old_bytes);
    }
    made
}

fn hash_key(path: &Path) -> Result<[u8; 16]> {
    let mut key = [0; 16];
    let filled = rustix::rand::getrandom(&mut key, GetRandomFlags::empty())
        .map_err(host_errno(path, "the kernel gave no random numbers for its hash key"))?;
    if filled == key.len() {
        Ok(key)
    } else {
        Err(Failure::Other(format!("{}: the kernel gave too few random numbers", path.display())))
    }
}

/// Gives the blocks of the old contents back, and leaves none of their signatures at either end.
fn blank(device: &FileDevice, path: &Path, bytes: u64) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if device.is_block_device() {
        // Discarding only saves the device work, so one that cannot is fine.
        let _ = sys::discard(device.file(), 0, bytes & !4095);
    } else if rustix::fs::fallocate(device.file(), flags, 0, bytes).is_ok() {
        return Ok(());
    }
    let end = signature::END_BYTES.min(bytes);
    let zeroes = vec![0; end as usize];
    [0, bytes - end].into_iter().try_for_each(|at| {
        device.write(at, &zeroes).map_err(|error| Failure::Engine {
            subject: path.display().to_string(),
            error: error.into(),
        })
    })
}

fn report(args: &Args, geometry: &Geometry) {
    let bytes = geometry.len_bytes();
    let label = if args.label.is_empty() { "(none)" } else { &args.label };
    println!("label:       {label}");
    println!("UUID:        {}", Uuid::from_bytes(geometry.uuid));
    println!("size:        {} ({bytes} bytes)", size::human(bytes));
    println!("block size:  {}", geometry.block_bytes());
    println!("blocks:      {}", geometry.blocks);
    if args.block_bytes != BLOCK_BYTES_DEFAULT {
        eprintln!(
            "mkfs.vexfs: {}: note: the kernel module mounts only blocks of {BLOCK_BYTES_DEFAULT} bytes",
            args.image.display()
        );
    }
}
