// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs`: looks into an unmounted image, and copies files out of it and into it.
//!
//! This is the command line; what a command does is in the library. Only `put` writes to the image.

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vexfs_image::Access;
use vexfs_search::client::{AskArgs, WHERE_HELP};
use vexfs_tools::dump::Format;
use vexfs_tools::failure::{Failure, Result};
use vexfs_tools::put::Copied;
use vexfs_tools::show::Listing;
use vexfs_tools::tree::Tree;
use vexfs_tools::{cli, dump, get, image, put, search, show, size, sys};

/// Looks into a VexFS image and copies files, without mounting it
///
/// The image is a file or a block device that is neither mounted nor served. Paths inside an image
/// start at its root, with or without a slash.
#[derive(Debug, Parser)]
#[command(
    name = "vexfs",
    version,
    after_help = "Examples:
  vexfs put vexfs.img /usr/share/doc /     copy a tree into the image
  vexfs ls -l vexfs.img /doc
  vexfs get vexfs.img /doc out             and out again
  vexfs cat vexfs.img /doc/README | less
  vexfs dump --json vexfs.img
  vexfs index vexfs.img && vexfs search vexfs.img /corpus --query query.npy

Exit code: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists directories
    #[command(after_help = "Examples:
  vexfs ls vexfs.img
  vexfs ls -lR vexfs.img /corpus")]
    Ls {
        /// With type and mode, links, owner, group, size and time of change (UTC)
        #[arg(short = 'l')]
        long: bool,
        /// With everything below
        #[arg(short = 'R')]
        recursive: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Shows what is known of a file: its attributes and the layout of its vectors
    #[command(after_help = "Example:
  vexfs stat vexfs.img /corpus/packages.npy")]
    Stat(Place),
    /// Prints the contents of files
    #[command(after_help = "Example:
  vexfs cat vexfs.img /etc/motd")]
    Cat {
        /// The image file or block device
        image: PathBuf,
        /// Files in the image
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<OsString>,
    },
    /// Copies files and trees out of the image
    #[command(
        after_help = "Like cp -a, it keeps modes, times, links, holes and attributes; run by root, owners too. A tree is
copied into an existing directory under its own name; written as '/' or 'DIR/.', only its contents are.
Damaged files are named and left out; everything else is copied.

Examples:
  vexfs get vexfs.img /corpus              into the current directory
  vexfs get vexfs.img / out                all of it, as out
  vexfs get vexfs.img /a /b/c.txt out      several, into the directory out"
    )]
    Get {
        /// The image file or block device
        image: PathBuf,
        /// Files and directories in the image; if there are several, the last one is the destination
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<OsString>,
    },
    /// Copies files and trees into the image
    #[command(
        after_help = "Like cp -a, it keeps modes, owners, times, links, holes and attributes. A file that exists is
replaced and keeps its vector layout. Of a tree written as 'DIR/.' only the contents are copied.

Examples:
  vexfs put vexfs.img packages.npy         into the root directory
  vexfs put vexfs.img /usr/share/doc/. /   the contents of a directory
  vexfs put vexfs.img a b.txt /corpus      several, into the directory /corpus"
    )]
    Put {
        /// The image file or block device
        image: PathBuf,
        /// Files and directories of this machine; if there are several, the last one is the destination in the image
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<OsString>,
    },
    /// Finds the nearest vectors in a vector file or a directory of the image
    #[command(
        after_help = format!("It needs no device, no mount and no root. The index behind the filesystem is used, and what was written
since is read beside it; without one, every row is compared (`vexfs index` builds one). Whoever can read
the image file can search everything in it. The lines of a .tsv file with the name of the vector file,
beside it, are shown as the names of its rows.

{WHERE_HELP}

Examples:
  vexfs search vexfs.img /corpus --query query.npy
  vexfs search vexfs.img /corpus/packages.npy --like 42 -k 5 --json
  vexfs search vexfs.img /corpus --query queries.npy --batch --where 'row.year >= 2020' --show year
  vexfs search vexfs.img / --query queries.npy --row 17 --exact")
    )]
    Search {
        /// The image file or block device
        image: PathBuf,
        /// A vector file, or a directory whose vector files are searched together
        path: OsString,
        #[command(flatten)]
        ask: Box<AskArgs>,
        #[command(flatten)]
        memory: Memory,
    },
    /// Builds the index of the image's vectors, behind the filesystem
    #[command(
        after_help = "Searches of the image use it, and so does vexfs-ublk when it serves the image. Run again, it reads what
changed. It needs no device and no root; nobody else may use the image meanwhile.

Examples:
  vexfs index vexfs.img
  vexfs index vexfs.img --index-memory 256M --json
  vexfs index vexfs.img --status
  vexfs index vexfs.img --verify"
    )]
    Index {
        /// The image file
        image: PathBuf,
        /// Only show what the index is like, file by file, and why files are left out
        #[arg(long, conflicts_with = "verify")]
        status: bool,
        /// Only compare all checksums of the index, and measure the recall of each file
        #[arg(long)]
        verify: bool,
        #[command(flatten)]
        memory: Memory,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows the superblock, the root ring and figures of the tree
    #[command(after_help = "Examples:
  vexfs dump vexfs.img
  vexfs dump --tree vexfs.img | grep dirent
  vexfs dump --json vexfs.img | jq .tree.fill_percent")]
    Dump {
        /// With every node and item; with --json, one object per line
        #[arg(long)]
        tree: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// The image file or block device
        image: PathBuf,
    },
}

/// How much memory vectors may take.
#[derive(Debug, Args)]
struct Memory {
    /// Memory for vectors, such as 256M [default: a quarter of the machine's]
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    index_memory: Option<u64>,
}

impl Memory {
    fn bytes(&self) -> u64 {
        self.index_memory.unwrap_or_else(|| vexfs_index::Options::default().memory)
    }
}

/// An image and paths in it.
#[derive(Debug, Args)]
struct Place {
    /// The image file or block device
    image: PathBuf,
    /// Files and directories in the image
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<OsString>,
}

fn main() -> ExitCode {
    sys::die_of_closed_pipes();
    let cli: Cli = match cli::parse("1", 2) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vexfs: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match command {
        Command::Ls { long, recursive, place: Place { image, paths } } => {
            show::ls(&mut open(&image)?, &bytes(paths), Listing { long, recursive }, &mut out)
        }
        Command::Stat(Place { image, paths }) => {
            show::stat(&mut open(&image)?, &bytes(paths), &mut out)
        }
        Command::Cat { image, paths } => show::cat(&mut open(&image)?, &bytes(paths), &mut out),
        Command::Get { image, mut paths } => {
            let to = if paths.len() > 1 { paths.pop() } else { None };
            let to = to.unwrap_or_else(|| ".".into());
            get::get(&mut open(&image)?, &bytes(paths), Path::new(&to)).map(report)
        }
        Command::Put { image, mut paths } => {
            let to = if paths.len() > 1 { paths.pop() } else { None };
            let to = to.unwrap_or_else(|| "/".into());
            let from: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
            let volume = image::volume(&image, Access::Write)?;
            let mut tree = Tree::new(volume, &image);
            put::put(&mut tree, &from, &to.into_vec()).map(report)
        }
        Command::Search { image, path, ask, memory } => {
            search::search(&image, &path.into_vec(), &ask, memory.bytes(), &mut out)
        }
        Command::Index { image, status: true, memory, json, .. } => {
            search::status(&image, memory.bytes(), json, &mut out)
        }
        Command::Index { image, verify: true, memory, json, .. } => {
            search::verify(&image, memory.bytes(), json, &mut out)
        }
        Command::Index { image, memory, json, .. } => {
            search::build(&image, memory.bytes(), json, &mut out)
        }
        Command::Dump { tree, json, image } => {
            let device = image::device(&image, Access::Read)?;
            dump::dump(&device, &image.display().to_string(), Format { tree, json }, &mut out)
        }
    };
    // Output that was produced before a failure is shown before its message.
    let flushed = out.flush().map_err(Failure::output);
    done.and(flushed)
}

fn open(image: &Path) -> Result<Tree> {
    let volume = image::volume(image, Access::Read)?;
    Ok(Tree::new(volume, image))
}

fn bytes(paths: Vec<OsString>) -> Vec<Vec<u8>> {
    paths.into_iter().map(OsStringExt::into_vec).collect()
}

fn report(copied: Copied) {
    eprintln!("{} inodes, {}", copied.inodes, size::human(copied.bytes));
}
