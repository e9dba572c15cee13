// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The command line. Scripts rely on it: keep it stable.
//!
//! It defines the options and checks them; what a command does is in [`crate::commands`].

use crate::options::Options;
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::path::PathBuf;
use vexfs_search::client::{AskArgs, WHERE_HELP};

/// Serves an image as a block device and searches its vectors.
#[derive(Debug, Parser)]
#[command(
    name = "vexfs-ublk",
    version,
    propagate_version = true,
    after_help = "Examples:
  mkfs.vexfs vexfs.img 1G
  vexfs-ublk add --image vexfs.img          prints /dev/ublkb0
  mount -t vexfs /dev/ublkb0 /mnt
  vexfs-ublk search /mnt/corpus --query query.npy
  vexfs-ublk del --id 0"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Creates a block device from an image and serves it in the background
    Add(AddArgs),
    /// Stops and removes a device
    Del(DelArgs),
    /// Starts a new daemon for a device whose daemon died
    #[command(
        after_help = "Waiting requests are served; nothing has to be unmounted. For a device of the crash lab whose power
was cut, it turns the power on again.

Example:
  vexfs-ublk recover --id 0                 prints /dev/ublkb0"
    )]
    Recover(RecoverArgs),
    /// Shows the devices
    #[command(after_help = "Examples:
  vexfs-ublk list                           state, daemon, image and log of each
  vexfs-ublk list --json | jq -r '.[].log'")]
    List(JsonArgs),
    /// Shows a device's requests, latencies and index
    Stats(StatsArgs),
    /// Finds the nearest vectors in a vector file or a directory on a mount
    Search(SearchArgs),
    /// Shows, verifies, tunes or rebuilds the index, file by file
    Index(IndexArgs),
    /// Cuts the power of a device of the crash lab
    Crash(CrashArgs),
    /// Sets, shows or clears faults of a device of the crash lab
    Fault(FaultArgs),
    /// Puts a mark into a device's recording
    Mark(MarkArgs),
    /// Rebuilds an image from a recording
    Replay(ReplayArgs),
    /// Checks every state in which a power cut could leave a recorded VexFS
    Explore(ExploreArgs),
    /// Shows what this kernel's ublk driver can do
    #[command(after_help = "Examples:
  vexfs-ublk features
  vexfs-ublk features --json | jq .features.USER_RECOVERY")]
    Features(JsonArgs),
    /// Prints shell completions
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Writes manual pages into a directory
    #[command(hide = true)]
    Man {
        /// The directory.
        directory: PathBuf,
    },
}

/// `add`
#[derive(Debug, Args)]
#[command(after_help = "Prints only the device's path, once it can be opened.

Examples:
  vexfs-ublk add --image vexfs.img
  vexfs-ublk add --image disk.img --raw --id 7 --queues 2 --depth 128
  vexfs-ublk add --image vexfs.img --read-only --foreground")]
pub struct AddArgs {
    /// How the device is served.
    #[command(flatten)]
    pub options: Options,
    /// Number of the device [default: the first free one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..1 << 20))]
    pub id: Option<u32>,
    /// Stay in the foreground; Ctrl-C stops and removes the device
    #[arg(long)]
    pub foreground: bool,
}

/// What a power cut keeps of what was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Keep {
    /// Nothing
    None,
    /// The newest version of every sector
    All,
    /// A random version of each sector, of those since the last flush
    Random,
}

/// `crash`
#[derive(Debug, Args)]
#[command(
    after_help = "Requests fail until `vexfs-ublk recover` turns the power on again. Unmount before that, since a
machine that loses power loses its memory, too.

Examples:
  vexfs-ublk crash --id 0
  vexfs-ublk crash --id 0 --keep random --seed 7"
)]
pub struct CrashArgs {
    /// Number of the device
    #[arg(long, value_name = "N")]
    pub id: u32,
    /// What is kept of the data that was not flushed
    #[arg(long, value_enum, default_value_t = Keep::None)]
    pub keep: Keep,
    /// Seed of --keep random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FaultName {
    /// The request fails (--errno)
    Eio,
    /// A write is lost
    Lost,
    /// A write goes to another place (--to)
    Misdirect,
    /// A read returns the data before the newest write
    Stale,
    /// One bit is inverted
    Flip,
    /// A flush does nothing
    IgnoreFlush,
    /// The request takes longer (--ms)
    Latency,
    /// The device dies
    Die,
}

/// Which faults to clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every fault.
    All,
    /// The fault with this number.
    One(u32),
}

fn which(text: &str) -> Result<Which, String> {
    match text.parse() {
        Ok(number) => Ok(Which::One(number)),
        Err(_) if text == "all" => Ok(Which::All),
        Err(_) => Err("give a fault's number, or 'all'".into()),
    }
}

fn range(text: &str) -> Result<(u64, u64), String> {
    text.split_once('-')
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)))
        .filter(|(from, to): &(u64, u64)| from < to)
        .ok_or_else(|| "give bytes as FROM-TO, FROM below TO".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let wrong = || "give a fraction from 0 to 1".to_owned();
    text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate)).ok_or_else(wrong)
}

/// `fault`
#[derive(Debug, Args)]
#[command(after_help = "Without --set or --clear, the faults are shown.

Examples:
  vexfs-ublk fault --id 0 --set eio --on read --range 1048576-2097152
  vexfs-ublk fault --id 0 --set lost --nth 100
  vexfs-ublk fault --id 0 --set latency --ms 50 --rate 0.01 --seed 3
  vexfs-ublk fault --id 0 --clear all")]
pub struct FaultArgs {
    /// Number of the device
    #[arg(long, value_name = "N")]
    pub id: u32,
    /// Set a fault of this kind
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "clear")]
    pub set: Option<FaultName>,
    /// Clear this fault, or 'all'
    #[arg(long, value_name = "NUMBER", value_parser = which)]
    pub clear: Option<Which>,
    /// Which requests it affects [default: depends on the kind]
    #[arg(long, value_enum, requires = "set")]
    pub on: Option<crate::lab::On>,
    /// Only for requests that touch these bytes
    #[arg(long, value_name = "FROM-TO", requires = "set", value_parser = range)]
    pub range: Option<(u64, u64)>,
    /// Only the N-th such request from now on, counting from 1
    #[arg(long, value_name = "N", requires = "set", conflicts_with = "rate",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub nth: Option<u64>,
    /// Only this fraction of them, from 0 to 1
    #[arg(long, value_name = "P", requires = "set", value_parser = rate)]
    pub rate: Option<f64>,
    /// At most N of them [default: 1 with --nth, otherwise all]
    #[arg(long, value_name = "N", requires = "set")]
    pub times: Option<u64>,
    /// The error number of eio
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i32).range(1..=133))]
    pub errno: i32,
    /// The milliseconds of latency
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub ms: u64,
    /// The byte that a misdirected write goes to
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    pub to: u64,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `mark`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  vexfs-ublk mark --id 0 'database closed'
  vexfs-ublk replay run.rec --to 'mark:database closed' --image then.img")]
pub struct MarkArgs {
    /// Number of the device
    #[arg(long, value_name = "N")]
    pub id: u32,
    /// Text of the mark
    pub text: String,
}

/// `replay`
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true),
    after_help = "A point of the recording is a number of events, 'mark:TEXT' or 'end'.

Examples:
  vexfs-ublk replay run.rec --list
  vexfs-ublk replay run.rec --to mark:synced --image at-mark.img
  vexfs-ublk replay run.rec --to 1200 --keep random --seed 4 --image cut.img"
)]
pub struct ReplayArgs {
    /// The recording
    pub file: PathBuf,
    /// Show the events
    #[arg(long, group = "what")]
    pub list: bool,
    /// Rebuild the image as of this point
    #[arg(long, value_name = "POINT", group = "what", requires = "image")]
    pub to: Option<String>,
    /// The image to write
    #[arg(long, value_name = "OUT")]
    pub image: Option<PathBuf>,
    /// What is kept of the data that was not flushed at that point
    #[arg(long, value_enum, default_value_t = Keep::All)]
    pub keep: Keep,
    /// Seed of --keep random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `explore`
#[derive(Debug, Args)]
#[command(
    after_help = "A state keeps some of the writes that were not flushed: every subset of them (a sample, if there are
more than 12), torn writes included. Each state is opened, checked, and compared with what its
generation held when its root record was written. The exit code is 1 if a state is wrong.

Examples:
  vexfs-ublk explore run.rec
  vexfs-ublk explore run.rec --json --svg states.svg
  vexfs-ublk explore run.rec --event 341 --keep '170,172[0+1]'"
)]
pub struct ExploreArgs {
    /// The recording
    pub file: PathBuf,
    /// Check only one state: the number of events before the cut
    #[arg(long, requires = "keep")]
    pub event: Option<usize>,
    /// Check only one state: which writes are kept
    #[arg(long, requires = "event")]
    pub keep: Option<vexfs_crash::explore::Chosen>,
    /// Size of a sample
    #[arg(long, default_value_t = 256)]
    pub samples: u64,
    /// Seed of the samples
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Draw the states that were checked
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `del`
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("which").required(true),
    after_help = "A mounted device is refused, unless its daemon is dead; then waiting requests fail, and it can be
unmounted.

Examples:
  vexfs-ublk del --id 0
  vexfs-ublk del --all"
)]
pub struct DelArgs {
    /// Number of the device
    #[arg(long, value_name = "N", group = "which")]
    pub id: Option<u32>,
    /// Every device of vexfs-ublk
    #[arg(long, group = "which")]
    pub all: bool,
}

/// `recover`
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Number of the device
    #[arg(long, value_name = "N")]
    pub id: u32,
    /// Memory for the index from now on [default: as before]
    #[arg(long, value_name = "BYTES", value_parser = vexfs_search::size::parse)]
    pub index_memory: Option<u64>,
}

/// `stats`
#[derive(Debug, Args)]
#[command(
    after_help = "A latency is the time from a request's arrival in the daemon to its completion; one request in eight
is measured.

Examples:
  vexfs-ublk stats --id 0
  vexfs-ublk stats --id 0 --json | jq .index.lag"
)]
pub struct StatsArgs {
    /// Number of the device
    #[arg(long, value_name = "N")]
    pub id: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `search`
#[derive(Debug, Args)]
#[command(
    after_help = format!("Finds everything that was committed (sync, fsync) before the search, of what its user may read. The
lines of a .tsv file that has the name of the vector file and lies beside it are shown as the names of its rows.

Where the device's daemon is not known, because it runs outside this virtual machine or container, the filesystem
is asked instead, which asks the device; that knows no --where, --show, --recall, --within and --at-least.

With --at-least it waits up to half a minute for that generation.

{WHERE_HELP}

Examples:
  vexfs-ublk search /mnt/corpus --query query.npy
  vexfs-ublk search /mnt/corpus --query queries.npy --row 17 -k 5 --json
  vexfs-ublk search /mnt/corpus --query queries.npy --batch --recall .99 --json
  vexfs-ublk search /mnt/corpus --query query.npy --where 'row.year >= 2020 and path ~ \"en/*\"' --show year,title
  vexfs-ublk search /mnt/corpus/packages.npy --like 42 --within 0.3")
)]
pub struct SearchArgs {
    /// A vector file, or a directory whose vector files are searched together
    pub path: PathBuf,
    /// What is searched for, and how it is printed
    #[command(flatten)]
    pub ask: AskArgs,
}

/// What to do with an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IndexTask {
    /// A table of the files, with totals, and why files are left out
    Status,
    /// Read the rows again and build the graphs again; searches are answered meanwhile
    Rebuild,
    /// Compare all checksums, and measure the recall of each file
    Verify,
    /// Recall and time of each file at growing widths
    Tune,
}

/// `index`
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("where").required(true),
    after_help = "For root and the owner of the image. Recall is the part of the ten true nearest neighbours that a search
finds, measured on rows of the file itself; 'tune' names the smallest --ef of a search that reaches --recall.

Examples:
  vexfs-ublk index status --id 0
  vexfs-ublk index rebuild /mnt/corpus/packages.npy
  vexfs-ublk index verify --id 0 --queries 200 --json
  vexfs-ublk index tune /mnt/corpus --recall 0.99"
)]
pub struct IndexArgs {
    /// What to do
    #[arg(value_enum)]
    pub task: IndexTask,
    /// A vector file or a directory on a mount
    #[arg(group = "where")]
    pub path: Option<PathBuf>,
    /// Number of the device, for all of its files
    #[arg(long, value_name = "N", group = "where")]
    pub id: Option<u32>,
    /// How many rows of each file to search for
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub queries: u64,
    /// The recall that 'tune' is to reach, from 0 to 1
    #[arg(long, value_name = "P", default_value_t = 0.99, value_parser = rate)]
    pub recall: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How to print.
#[derive(Debug, Args)]
pub struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Recovery;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_refused() {
        for args in [
            "vexfs-ublk del",
            "vexfs-ublk del --id 1 --all",
            "vexfs-ublk add",
            "vexfs-ublk add --image x --queues 0",
            "vexfs-ublk add --image x --depth 5000",
            "vexfs-ublk add --image x --recovery maybe",
            "vexfs-ublk recover",
            "vexfs-ublk search /x",
            "vexfs-ublk index status",
            "vexfs-ublk index status /x --id 1",
            "vexfs-ublk index tune /x --recall 2",
            "vexfs-ublk add --image x --index-memory many",
            "vexfs-ublk search /x --query a.npy --like 1",
            "vexfs-ublk search /x --like 1 --row 2",
            "vexfs-ublk search /x --like 1 -k 0",
            "vexfs-ublk fault --id 0 --clear some",
            "vexfs-ublk fault --id 0 --set eio --range 9-3",
            "vexfs-ublk fault --id 0 --set eio --rate 1.5",
            "vexfs-ublk fault --id 0 --set eio --rate NaN",
            "vexfs-ublk replay x --to 3",
        ] {
            let parsed = Cli::try_parse_from(args.split(' '));
            assert_eq!(parsed.unwrap_err().exit_code(), 2, "{args}");
        }
        let add = Cli::try_parse_from(["vexfs-ublk", "add", "--image", "x"]).unwrap();
        assert!(matches!(add.command, Command::Add(a) if a.options.recovery == Recovery::Reissue));
    }
}
