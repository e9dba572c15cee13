// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The guest's kernel: an image, its modules and its headers, below the target directory.
//!
//! It is never installed on this machine. `stock.rs` unpacks Debian's, `debug.rs` builds another from source.

pub mod debug;
mod packages;
pub mod stock;

use std::path::PathBuf;

use clap::ValueEnum;

/// The series the module is built and tested on.
const SERIES: &str = "6.12";
/// Written last: a directory without it is thrown away.
const STAMP: &str = "complete";

/// Which kernel a guest runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Debian's, as it is
    #[default]
    Stock,
    /// Built from Debian's source with everything that finds mistakes, and some twenty times slower
    Debug,
}

impl Which {
    /// Limits of time are multiplied by this.
    pub fn time_factor(self) -> u32 {
        match self {
            Self::Stock => 1,
            Self::Debug => 10,
        }
    }

    /// The memory of a guest is multiplied by this.
    pub fn memory_factor(self) -> u32 {
        match self {
            Self::Stock => 1,
            Self::Debug => 2,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Debug => "debug",
        }
    }
}

/// One unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Which one it is.
    pub which: Which,
    /// What `uname -r` prints in the guest.
    pub release: String,
    /// `vmlinuz`.
    pub image: PathBuf,
    /// The directory that holds `<release>/kernel/...`, to be mounted on `/lib/modules`.
    pub modules: PathBuf,
    /// What `make -C` is given to build a module.
    pub headers: PathBuf,
}
