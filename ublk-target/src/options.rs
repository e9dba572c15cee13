// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How a device is served: one type from the command line over the state file to the queues.

use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which image is served, and how it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct ImageOptions {
    /// The image: a file or a block device
    #[arg(long = "image", value_name = "PATH")]
    #[serde(rename = "image")]
    pub path: PathBuf,
    /// Serve the whole image, whatever it holds
    #[arg(long)]
    pub raw: bool,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
    /// Use the page cache even where direct I/O is possible
    #[arg(long)]
    pub buffered: bool,
}

/// What happens to requests when the daemon dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// They fail and the device goes away.
    None,
    /// Those that the daemon had fail, new ones wait.
    Wait,
    /// All of them wait; those that the daemon had are done again.
    #[default]
    Reissue,
    /// They fail until the device is recovered (Linux 6.13).
    Fail,
}

impl Recovery {
    /// The name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Wait => "wait",
            Self::Reissue => "reissue",
            Self::Fail => "fail",
        }
    }
}

/// How a device is served.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct Options {
    /// The image.
    #[command(flatten)]
    #[serde(flatten)]
    pub image: ImageOptions,
    /// Hardware queues, one thread each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(64))]
    pub queues: u16,
    /// Requests a queue holds at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = count(4096))]
    pub depth: u16,
    /// What happens to requests when the daemon dies
    #[arg(long, value_enum, default_value_t = Recovery::Reissue, value_name = "HOW")]
    pub recovery: Recovery,
    /// Put the crash lab under the device: a volatile cache, `crash` and `fault`
    #[arg(long)]
    #[serde(default)]
    pub crash_model: bool,
    /// Record every write, flush and mark in this file (implies --crash-model)
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    pub record: Option<PathBuf>,
    /// Memory for the index, such as 256M; what is in its checkpoint needs none [default: a quarter of the machine's]
    #[arg(long, value_name = "BYTES", value_parser = vexfs_search::size::parse)]
    #[serde(default)]
    pub index_memory: Option<u64>,
    /// Whether the device has a command window past the filesystem. A recovery cannot change it.
    #[arg(skip)]
    #[serde(default)]
    pub window: bool,
}

fn count(max: u64) -> RangedU64ValueParser<u16> {
    RangedU64ValueParser::new().range(1..=max)
}
