// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask`: everything a developer does with this repository, as commands.
//!
//! One file or folder per command. The exit status is 0, 1 for a failure, or 2 for wrong usage; that of
//! `vm` is its command's.

mod bench;
mod build;
mod coverage;
mod demo;
mod kernel;
mod lab;
mod setup;
mod shell;
mod soak;
mod sources;
mod tally;
mod test;
mod truth;
mod ui;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use bench::Other;
use kernel::Which;
use workspace::Workspace;

/// Developer commands of VexFS
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the packages and the guest kernel that all commands need
    Setup,
    #[command(about = "Build the tools and the kernel module into target/dist")]
    Build(build::BuildArgs),
    /// Show everything once in a guest: image, device, mount, files, vectors, search, power cut
    Demo,
    #[command(about = "Run every check, or one part of them")]
    Test(test::TestArgs),
    #[command(about = "Show that the tests take every branch that recovery depends on")]
    Coverage(coverage::CoverageArgs),
    #[command(about = "Run a shell or a command in a throw-away guest")]
    Vm(vm::args::VmArgs),
    #[command(about = "Measure VexFS beside its neighbours in one guest")]
    Bench(bench::BenchArgs),
    #[command(
        about = "Explore every state that a power cut can leave of small workloads (vexfs-lab ace)"
    )]
    Explore(lab::LabArgs),
    #[command(about = "Run random operations, commits, faults and power cuts for as long as asked")]
    Simulate(lab::LabArgs),
    #[command(
        about = "Build one mistake after another into the engine, and show that the lab sees each"
    )]
    Mutants(lab::LabArgs),
    #[command(about = "Cut the power under the mounted kernel module, hundreds of times")]
    Soak(soak::SoakArgs),
    /// The guest's side of bench
    #[command(hide = true)]
    BenchGuest(bench::plan::Plan),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<u8> {
    let workspace = Workspace::find()?;
    match cli.command {
        Command::Setup => {
            let kernel = setup::guests(&workspace, Which::Stock)?;
            println!("ready; the guest kernel is {}", kernel.release);
            Ok(0)
        }
        Command::Build(args) => {
            let kernel = setup::guests(&workspace, Which::Stock)?;
            build::run(&workspace, &kernel, &args)?;
            Ok(0)
        }
        Command::Demo => {
            let kernel = setup::guests(&workspace, Which::Stock)?;
            Ok(u8::from(!demo::run(&workspace, &kernel)?))
        }
        Command::Test(args) => Ok(u8::from(!test::run(&workspace, &args)?)),
        Command::Coverage(args) => Ok(u8::from(!coverage::run(&workspace, &args)?)),
        Command::Vm(args) => {
            let kernel = setup::guests(&workspace, args.kernel)?;
            vm::args::run(&workspace, &kernel, args)
        }
        Command::Bench(bench::BenchArgs { other: Some(Other::Vectors(args)), .. }) => {
            bench::vectors::run(&workspace, &args)?;
            Ok(0)
        }
        Command::Bench(args) => {
            let kernel = setup::guests(&workspace, Which::Stock)?;
            bench::run(&workspace, &kernel, &args)?;
            Ok(0)
        }
        Command::Explore(args) => lab::run(&workspace, "ace", &args),
        Command::Simulate(args) => lab::run(&workspace, "simulate", &args),
        Command::Mutants(args) => lab::run(&workspace, "mutants", &args),
        Command::Soak(args) => {
            let kernel = setup::guests(&workspace, args.kernel)?;
            Ok(u8::from(!soak::run(&workspace, &kernel, &args)?))
        }
        Command::BenchGuest(plan) => {
            bench::guest::run(&plan)?;
            Ok(0)
        }
    }
}
