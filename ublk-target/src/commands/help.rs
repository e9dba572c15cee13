// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Shell completions and manual pages, generated from the command line's definition.

use crate::cli::Cli;
use crate::error::{Error, Result};
use clap::CommandFactory;
use std::path::Path;

pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vexfs-ublk", &mut text);
    super::print(&String::from_utf8_lossy(&text))
}

pub fn man(directory: &Path) -> Result<()> {
    let failed = |source| Error::Runtime { path: directory.to_owned(), source };
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)
}
