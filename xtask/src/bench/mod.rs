// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `cargo xtask bench`: VexFS beside its neighbours, in one boot of a throw-away guest.
//!
//! Absolute figures of an emulated machine mean little. So everything is measured in rounds, side by
//! side, and what counts is the ratio within a round. The guest's side is this same
//! program; the results are a table, JSON and a picture in target/bench. A slow result is a
//! result: only a run that could not be measured fails.
//!
//! `cargo xtask bench vectors` needs no guest; it has its own page in `vectors`.

mod device;
mod facts;
mod files;
mod fio;
pub mod guest;
mod indexing;
mod meta;
pub mod plan;
mod report;
mod sample;
mod svg;
pub mod vectors;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use crate::build::{self, module};
use crate::kernel::Kernel;
use crate::shell::{Cmd, quote};
use crate::ui::{Step, Ui};
use crate::vm::accel::Accel;
use crate::vm::{End, Said, Vm};
use crate::workspace::Workspace;
use plan::{Part, Plan};
use report::Report;
use sample::Sample;

/// The program that the devices are compared with, and its version.
const RUBLK: (&str, &str) = ("rublk", "0.2.15");

/// What to measure and how long.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Something else than the filesystem
    #[command(subcommand)]
    pub other: Option<Other>,
    /// Two short rounds: for a quick look, not for results
    #[arg(long)]
    quick: bool,
    /// How often each thing is measured [default: 5, quick: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Measure only one part
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Measure what target/dist holds, without building it again
    #[arg(long)]
    no_build: bool,
    /// Under emulation, measure by the machine's clock; the default counts instructions
    #[arg(long)]
    real_clock: bool,
}

/// What else can be measured.
#[derive(Debug, Subcommand)]
pub enum Other {
    #[command(
        about = "Measure the vector index beside hnswlib, faiss, usearch and others; no guest"
    )]
    Vectors(vectors::VectorArgs),
}

/// Builds, boots, measures and writes the results.
pub fn run(workspace: &Workspace, kernel: &Kernel, args: &BenchArgs) -> Result<()> {
    let ui = Ui::new();
    if !args.no_build {
        build::tools(workspace, build::Profile::Release, ui)?;
        module::build(workspace, kernel, ui)?;
    }
    let (millis, files, mib) = if args.quick { (600, 1000, 128) } else { (1200, 3000, 256) };
    let rounds = args.rounds.unwrap_or(if args.quick { 2 } else { 5 });
    let plan = Plan { rounds, millis, files, mib, rublk: rublk(workspace, ui)?, only: args.only };
    // By its own clock an emulated guest measures how busy this machine is.
    let accel = match Accel::choose(workspace, kernel)? {
        Accel::Tcg if !args.real_clock && args.only != Some(Part::Indexing) => Accel::Counted,
        chosen => chosen,
    };
    let step = ui.step(&format!("{rounds} rounds in a guest on Linux {}", kernel.release));
    let samples = in_guest(workspace, kernel, accel, &plan, &step)?;
    step.done();

    let report = Report::new(&samples, setting(kernel, accel, rounds)?);
    let dir = workspace.target.join("bench");
    let name = if args.only == Some(Part::Indexing) { "indexing" } else { "bench" };
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let table = report.table();
    let json = serde_json::to_string_pretty(&report.json())? + "\n";
    for (end, content) in [("txt", &table), ("json", &json), ("svg", &svg::draw(&report))] {
        let path = dir.join(format!("{name}.{end}"));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{table}");
    match report.below() {
        0 => println!("nothing is below its target"),
        count => println!("{count} are below their target"),
    }
    println!("{}", dir.join(format!("{name}.{{txt,json,svg}}")).display());
    Ok(())
}

/// Runs the guest's side, which is this same program, and collects its figures.
fn in_guest(
    workspace: &Workspace,
    kernel: &Kernel,
    accel: Accel,
    plan: &Plan,
    step: &Step,
) -> Result<Vec<Sample>> {
    let own = std::env::current_exe().context("cannot find this program itself")?;
    let mut words = vec![own.display().to_string(), "bench-guest".to_owned()];
    words.extend(plan.options());
    let line = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
    let mut vm = Vm::new(workspace, kernel, "bench", line);
    vm.memory = 5120;
    vm.accel = Some(accel);
    vm.timeout = Some(Duration::from_secs(180 + u64::from(plan.rounds) * 600));

    let mut heard = Heard::default();
    let outcome = vm.run(workspace, &mut |said| {
        if let Said::Output(bytes) = said {
            heard.take(bytes, step);
        }
    })?;
    if let Some(error) = heard.wrong {
        return Err(error);
    }
    if let Some(trouble) = outcome.trouble() {
        let mut lines = heard.lines;
        if outcome.end != End::Status(0) {
            lines.extend(outcome.log_tail);
        }
        let tail = &lines[lines.len().saturating_sub(40)..];
        bail!("the bench failed: {trouble}\n{}", tail.join("\n"));
    }
    ensure!(!heard.samples.is_empty(), "the guest measured nothing");
    Ok(heard.samples)
}

/// What the guest has printed so far.
#[derive(Default)]
struct Heard {
    samples: Vec<Sample>,
    /// Lines that are not figures.
    lines: Vec<String>,
    /// A figure that cannot be read.
    wrong: Option<anyhow::Error>,
    /// The start of a line whose end has not come.
    pending: Vec<u8>,
}

impl Heard {
    fn take(&mut self, bytes: &[u8], step: &Step) {
        self.pending.extend_from_slice(bytes);
        while let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            match Sample::parse(&line) {
                Ok(Some(sample)) => {
                    step.message(&format!("{}, {}", sample.subject, sample.cell));
                    self.samples.push(sample);
                }
                Ok(None) => {
                    step.message(&line);
                    self.lines.push(line);
                }
                Err(error) => self.wrong = Some(error),
            }
        }
    }
}

/// Installs the program to compare with, once.
fn rublk(workspace: &Workspace, ui: Ui) -> Result<PathBuf> {
    let (name, version) = RUBLK;
    let root = workspace.target.join("tools");
    let program = root.join("bin").join(name);
    if program.is_file() && Cmd::new(&program).arg("--version").output()?.contains(version) {
        return Ok(program);
    }
    let step = ui.step(&format!("{name} {version}, to compare with"));
    Cmd::cargo()
        .args(["install", name, "--version", version, "--locked", "--no-default-features"])
        .arg("--root")
        .arg(&root)
        .env("CARGO_TARGET_DIR", workspace.target.join("tools/build"))
        .run(&step)
        .context("rublk could not be installed: it needs crates.io or its mirror, and libclang")?;
    step.done();
    Ok(program)
}

/// What a reader has to know about how the figures were measured.
fn setting(kernel: &Kernel, accel: Accel, rounds: u32) -> Result<Vec<(&'static str, String)>> {
    let cpus = std::thread::available_parallelism().context("cannot count the processors")?;
    let machine = match accel {
        Accel::Kvm => "hardware virtualisation (KVM)",
        Accel::Tcg => "emulation (TCG): only ratios count",
        Accel::Counted => "emulation whose clock counts instructions: only ratios count",
    };
    let commit = Cmd::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    Ok(vec![
        ("guest", format!("Linux {}, 2 processors, {machine}", kernel.release)),
        ("machine", format!("{cpus} processors")),
        ("rounds", format!("{rounds}, interleaved; median, and half the range in percent of it")),
        ("image", "a full file on ext4 on memory-backed null_blk; filesystems: such a disk".into()),
        (
            "beside",
            format!("{} {}; one queue of 64 requests for every ublk device", RUBLK.0, RUBLK.1),
        ),
        ("source", commit.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())),
    ])
}
