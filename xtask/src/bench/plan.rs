// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is measured, for how long and on how much data: what the host decides and the guest is told.
//!
//! The host passes a [`Plan`] to the guest as options of a command line; both ends are here.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

/// The parts of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Block devices
    Device,
    /// Filesystems, mount and mkfs
    Fs,
    /// What indexing vectors costs others; only when it is asked for, by the machine's clock
    Indexing,
}

impl Part {
    fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Fs => "fs",
            Self::Indexing => "indexing",
        }
    }
}

/// What the parts of the bench need to know.
#[derive(Debug, Args)]
pub struct Plan {
    /// How often each thing is measured
    #[arg(long)]
    pub rounds: u32,
    /// Milliseconds of each timed job
    #[arg(long)]
    pub millis: u64,
    /// Files of each loop over small files
    #[arg(long)]
    pub files: usize,
    /// Length of the image and of the file, in MiB
    #[arg(long)]
    pub mib: u64,
    /// The program to compare with
    #[arg(long)]
    pub rublk: PathBuf,
    /// Only this part
    #[arg(long)]
    pub only: Option<Part>,
}

impl Plan {
    /// The options that make the guest's program read this plan.
    pub fn options(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--rounds", self.rounds.to_string());
        option("--millis", self.millis.to_string());
        option("--files", self.files.to_string());
        option("--mib", self.mib.to_string());
        option("--rublk", self.rublk.display().to_string());
        if let Some(part) = self.only {
            option("--only", part.word().to_owned());
        }
        words
    }

    /// Whether a part is to be measured.
    pub fn wants(&self, part: Part) -> bool {
        self.only.map_or(part != Part::Indexing, |only| only == part)
    }

    /// In the guest, where the filesystem is mounted that holds the image of the block devices.
    pub fn image_dir() -> &'static Path {
        Path::new("/run/bench-images")
    }

    /// The image that all block devices serve.
    pub fn image() -> PathBuf {
        Self::image_dir().join("bench-image")
    }

    /// Its length.
    pub fn image_bytes(&self) -> u64 {
        self.mib << 20
    }

    /// Length of the file on each filesystem.
    pub fn file_bytes(&self) -> u64 {
        self.mib << 19
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Part, Plan};

    #[derive(Parser)]
    struct Guest {
        #[command(flatten)]
        plan: Plan,
    }

    #[test]
    fn the_guest_reads_what_the_host_wrote() {
        let plan = Plan {
            rounds: 3,
            millis: 600,
            files: 1000,
            mib: 128,
            rublk: "/a/b".into(),
            only: Some(Part::Fs),
        };
        let words = plan.options();
        let words = std::iter::once("guest").chain(words.iter().map(String::as_str));
        let read = Guest::parse_from(words).plan;
        assert_eq!(format!("{read:?}"), format!("{plan:?}"));
        assert!(read.wants(Part::Fs) && !read.wants(Part::Device));
        assert!(!Plan { only: None, ..plan }.wants(Part::Indexing));
        assert_eq!((read.image_bytes(), read.file_bytes()), (128 << 20, 64 << 20));
    }
}
