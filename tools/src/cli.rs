// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the three command lines share: parsing, exit codes, manual pages, completions and progress.
//!
//! `PROGRAM --generate man|bash|zsh|fish` writes the manual page or the completions that a package
//! installs. It is for the build, takes nothing else beside it, and is in no help text.

use clap::{Command, Parser};
use clap_complete::Shell;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// Parses the command line. Help, the version and wrong usage are printed here.
///
/// # Errors
/// The exit code to end with: `usage` after wrong usage, success after `--help` and the like.
pub fn parse<T: Parser>(section: &str, usage: u8) -> Result<T, ExitCode> {
    let args: Vec<_> = std::env::args_os().collect();
    if let [_, flag, what] = args.as_slice()
        && flag == OsStr::new("--generate")
        && let Some(what) = what.to_str()
    {
        return Err(match generate(T::command(), section, what) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => {
                eprintln!("{}: --generate makes man, bash, zsh or fish", T::command().get_name());
                ExitCode::from(usage)
            }
            Err(_) => ExitCode::FAILURE,
        });
    }
    T::try_parse_from(args).map_err(|error| {
        let wrong = error.use_stderr();
        if error.print().is_err() || wrong {
            ExitCode::from(if wrong { usage } else { 1 })
        } else {
            ExitCode::SUCCESS
        }
    })
}

fn generate(mut command: Command, section: &str, what: &str) -> io::Result<bool> {
    let mut out: Vec<u8> = Vec::new();
    let name = command.get_name().to_owned();
    match what {
        "man" => {
            manual(command, section, &mut out)?;
            // The text after the help is examples; the generator calls it "extra".
            out = String::from_utf8_lossy(&out).replace(" EXTRA\n", " EXAMPLES\n").into_bytes();
        }
        "bash" => clap_complete::generate(Shell::Bash, &mut command, name, &mut out),
        "zsh" => clap_complete::generate(Shell::Zsh, &mut command, name, &mut out),
        "fish" => clap_complete::generate(Shell::Fish, &mut command, name, &mut out),
        _ => return Ok(false),
    }
    io::stdout().write_all(&out)?;
    Ok(true)
}

/// Writes one page for the program and all its commands.
fn manual(mut command: Command, section: &str, out: &mut Vec<u8>) -> io::Result<()> {
    command.build();
    let commands: Vec<Command> = command
        .get_subcommands()
        .filter(|command| command.get_name() != "help" && !command.is_hide_set())
        .cloned()
        .collect();
    let page = clap_mangen::Man::new(command).section(section);
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    for command in commands {
        writeln!(out, ".SH \"COMMAND {}\"", command.get_name().to_uppercase())?;
        let mut part: Vec<u8> = Vec::new();
        let page = clap_mangen::Man::new(command);
        page.render_synopsis_section(&mut part)?;
        page.render_description_section(&mut part)?;
        page.render_options_section(&mut part)?;
        page.render_extra_section(&mut part)?;
        out.extend(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").into_bytes());
    }
    page.render_extra_section(out)?;
    page.render_version_section(out)
}

/// The bytes of a name or target as they are printed. A terminal would obey control characters in
/// them, so there they become `?`; a file or pipe gets the bytes themselves.
pub fn shown(bytes: &[u8]) -> Vec<u8> {
    if !io::stdout().is_terminal() {
        return bytes.to_vec();
    }
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>().into_bytes()
}

/// A progress bar on a terminal, nothing elsewhere. `total` is in the unit that `template` shows.
pub fn progress(total: u64, template: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(total);
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
