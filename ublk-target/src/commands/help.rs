// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Shell completions and manual pages, generated from the command line's definition.

use crate::cli::Cli;
use crate::error::{Error, Result};
use clap::CommandFactory;
use std::path::Path;

/// System administration.
const SECTION: &str = "8";

pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vexfs-ublk", &mut text);
    super::print(&String::from_utf8_lossy(&text))
}

/// Writes a page for the program and one for each of its commands.
pub fn man(directory: &Path) -> Result<()> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set());
    for command in commands.chain([&program]) {
        let page = clap_mangen::Man::new(command.clone()).section(SECTION);
        let path = directory.join(page.get_filename());
        let failed = |source| Error::Runtime { path: path.clone(), source };
        let mut text = Vec::new();
        page.render(&mut text).map_err(failed)?;
        // The text after the help is examples; the generator calls it "extra".
        let text = String::from_utf8_lossy(&text).replace(" EXTRA\n", " EXAMPLES\n");
        std::fs::write(&path, text).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The pages named section 1 and were installed in section 8.
    #[test]
    fn pages_are_of_the_section_that_they_are_installed_in() {
        let directory = tempfile::tempdir().unwrap();
        man(directory.path()).unwrap();
        for name in ["vexfs-ublk", "vexfs-ublk-add", "vexfs-ublk-search"] {
            let page = std::fs::read_to_string(directory.path().join(format!("{name}.8"))).unwrap();
            assert!(page.contains(&format!(".TH {name} 8 ")), "{page}");
            assert!(page.contains(".SH EXAMPLES"), "{page}");
        }
        let pages = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(
            pages,
            Cli::command().get_subcommands().filter(|c| !c.is_hide_set()).count() + 1
        );
    }
}
