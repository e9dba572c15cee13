// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs-lab mutants`: the engine makes one mistake after another, and the lab has to catch each.
//!
//! Every mutant runs in a process of its own, so that a panic of the engine counts as caught and a hang
//! can be stopped, which counts as not caught. Another program may bring mutants of its own, as
//! `vexfs-index-lab` does: `PROGRAM list` lists them and `PROGRAM be NAME` hunts one of them.

use crate::report::{bar, threads};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use vexfs::mutants::{Mutant, choose};
use vexfs_crash::explore::{Explored, Limits};
use vexfs_crash::workload::{Fixture, Script, pairs, singles};
use vexfs_crash::{Options, simulate};

/// Which mutants to run.
#[derive(clap::Args)]
pub struct Args {
    /// Only those whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Seconds each may take
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Also the mutants of this program
    #[arg(long, value_name = "PROGRAM")]
    with: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Be this mutant, or 'none': look for anything wrong and print it
    #[arg(long, value_name = "NAME", hide = true)]
    be: Option<String>,
}

/// How many seeds the engine without a mistake has to pass.
const CONTROL_SEEDS: u64 = 12;
/// One pair of operations out of so many is explored.
const PAIRS_EVERY: usize = 37;

/// Looks for a mistake: the quick parts of the lab first, then the simulator with that many seeds. The
/// error is which part found it, and what.
fn hunt(seeds: u64) -> Result<(), (&'static str, String)> {
    let fixture = Fixture::new(4 << 20).map_err(|what| ("setting up", what))?;
    let limits = Limits::default();
    let mut explored = Explored::default();
    fixture.explore_mkfs(&limits, &mut explored).map_err(|what| ("exploring mkfs", what))?;
    if let Some(failure) = explored.failures.first() {
        return Err(("exploring mkfs", failure.what.clone()));
    }
    let explore = |script: Script| {
        let mut explored = Explored::default();
        let ran = fixture.explore(&script, &limits, &mut explored, &mut |p| p.failed == 0);
        ran.map_err(|what| ("running a workload", format!("{script}: {what}")))?;
        let failure = explored.failures.into_iter().next();
        failure.map_or(Ok(()), |failure| Err(("exploring", format!("{script}: {}", failure.what))))
    };
    singles().try_for_each(explore)?;
    fixture.cut_between_steps().map_err(|what| ("cutting steps", what))?;
    fixture.damage(1, 200).map_err(|what| ("damaging", what))?;
    fixture.follow(1, 200).map_err(|what| ("following", what))?;
    pairs().step_by(PAIRS_EVERY).try_for_each(explore)?;
    for seed in 1..=seeds {
        simulate(&Options::of_seed(seed, 1000)).map_err(|what| ("simulating", what))?;
    }
    Ok(())
}

/// The mutant of that name.
pub fn by_name(name: &str) -> Option<Mutant> {
    Mutant::ALL.iter().copied().find(|mutant| mutant.about().1 == name)
}

/// Hunts one mutant in this process; true if nothing was found.
fn be(name: &str) -> Result<bool, String> {
    let seeds = match by_name(name) {
        Some(mutant) => {
            choose(mutant);
            u64::MAX
        }
        None if name == "none" => CONTROL_SEEDS,
        None => return Err(format!("there is no mutant '{name}'")),
    };
    let Err((by, what)) = hunt(seeds) else { return Ok(true) };
    println!("{by}\t{}", what.lines().next().unwrap_or_default());
    Ok(false)
}

/// One mutant, and the program that can be it.
struct Subject {
    name: String,
    about: String,
    program: PathBuf,
    /// The words before the mutant's name.
    be: &'static [&'static str],
}

impl Subject {
    /// The same program without a mistake.
    fn control(&self) -> Self {
        let (name, about) = ("none".to_owned(), "no mistake at all".to_owned());
        Self { name, about, program: self.program.clone(), be: self.be }
    }
}

/// What became of one mutant.
struct Hunted {
    subject: Subject,
    /// By which part of the lab, and what it found.
    caught: Option<(String, String)>,
    took: Duration,
}

/// The engine's mutants.
fn engine_mutants() -> Result<Vec<Subject>, String> {
    let program = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
    let subject = |mutant: &Mutant| {
        let (about, name) = mutant.about();
        Subject {
            name: name.to_owned(),
            about: about.trim().to_owned(),
            program: program.clone(),
            be: &["mutants", "--be"],
        }
    };
    Ok(Mutant::ALL.iter().map(subject).collect())
}

/// The mutants of another program.
fn mutants_of(program: &Path) -> Result<Vec<Subject>, String> {
    let failed = |what: &dyn std::fmt::Display| format!("{} list: {what}", program.display());
    let output = Command::new(program).arg("list").output().map_err(|e| failed(&e))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    let list = String::from_utf8_lossy(&output.stdout);
    let subject = |line: &str| {
        let (name, about) = line.split_once('\t').ok_or_else(|| failed(&format!("'{line}'")))?;
        let (name, about) = (name.to_owned(), about.to_owned());
        Ok(Subject { name, about, program: program.to_owned(), be: &["be"] })
    };
    list.lines().map(subject).collect()
}

fn hunt_one(subject: Subject, limit: Duration) -> Result<Hunted, String> {
    let began = Instant::now();
    let mut child = Command::new(&subject.program)
        .args(subject.be)
        .arg(&subject.name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start {}: {e}", subject.program.display()))?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if began.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                // If this fails, the process has ended by itself.
                let _ = child.kill();
                break None;
            }
        }
    };
    let took = began.elapsed();
    let output = child.wait_with_output().map_err(|e| format!("cannot wait: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let caught = match status.map(|status| status.code()) {
        // A mutant that is not caught runs until its time is up, as one that hangs does.
        None | Some(Some(0)) => None,
        Some(Some(1)) => {
            let (by, what) = said.trim_end().split_once('\t').unwrap_or(("", said.trim_end()));
            Some((by.to_owned(), what.to_owned()))
        }
        Some(code) => Some(("a panic".to_owned(), format!("the process ended with {code:?}"))),
    };
    Ok(Hunted { subject, caught, took })
}

/// Hunts all of them; false if one was not caught.
pub fn run(args: &Args) -> Result<bool, String> {
    if let Some(name) = &args.be {
        return be(name);
    }
    let mut all = engine_mutants()?;
    let mut controls = vec![all.first().ok_or("there are no mutants")?.control()];
    for program in &args.with {
        let more = mutants_of(program)?;
        controls.extend(more.first().map(Subject::control));
        all.extend(more);
    }
    all.retain(|subject| args.only.as_ref().is_none_or(|only| subject.name.contains(only)));
    if all.is_empty() {
        let only = args.only.as_deref().unwrap_or_default();
        return Err(format!("--only {only}: no mutant has that in its name"));
    }
    for control in controls {
        check_control(control)?;
    }
    let lines = hunt_all(all, Duration::from_secs(args.seconds))?;
    let missed = lines.iter().filter(|line| line.caught.is_none()).count();
    if args.json {
        println!(
            "{}",
            json!({"mutants": lines.iter().map(to_json).collect::<Vec<_>>(), "missed": missed})
        );
    } else {
        print(&lines, missed);
    }
    Ok(missed == 0)
}

/// If the lab finds something without a mistake, finding the mutants proves nothing.
fn check_control(control: Subject) -> Result<(), String> {
    let control = hunt_one(control, Duration::from_secs(300))?;
    match &control.caught {
        None => Ok(()),
        Some((by, what)) => {
            let program = control.subject.program.display();
            Err(format!("{program} without a mistake fails: {by}: {what}"))
        }
    }
}

/// Hunts mutants on all processors; returns them in the same order.
fn hunt_all(mut all: Vec<Subject>, limit: Duration) -> Result<Vec<Hunted>, String> {
    let bar = bar(Some(all.len() as u64), "mutants");
    let order: Vec<String> = all.iter().map(|subject| subject.name.clone()).collect();
    all.reverse();
    let (left, lines) = (Mutex::new(all), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads(None) {
            scope.spawn(|| {
                while let Some(subject) = left.lock().ok().and_then(|mut left| left.pop()) {
                    let line = hunt_one(subject, limit);
                    if let Ok(mut lines) = lines.lock() {
                        lines.push(line);
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let lines = lines.into_inner().map_err(|_| "a thread died".to_owned())?;
    let mut lines = lines.into_iter().collect::<Result<Vec<_>, _>>()?;
    lines.sort_by_key(|line| order.iter().position(|name| *name == line.subject.name));
    Ok(lines)
}

fn to_json(line: &Hunted) -> serde_json::Value {
    let (by, what) = line.caught.clone().unwrap_or_default();
    json!({
        "mutant": line.subject.name, "mistake": line.subject.about,
        "caught": line.caught.is_some(), "by": by, "what": what,
        "seconds": line.took.as_secs_f64(),
    })
}

fn print(lines: &[Hunted], missed: usize) {
    let width = lines.iter().map(|line| line.subject.about.chars().count()).max().unwrap_or(0);
    println!("{:<16} {:<width$} {:>7}  caught by", "mutant", "the mistake", "seconds");
    for line in lines {
        let by = line.caught.as_ref().map_or("NOBODY", |(by, _)| by.as_str());
        let seconds = line.took.as_secs_f64();
        println!("{:<16} {:<width$} {seconds:>7.2}  {by}", line.subject.name, line.subject.about);
    }
    println!("{} of {} caught", lines.len() - missed, lines.len());
}
