// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `explore`: checks every state in which a power cut could leave a recorded VexFS, without any device.

use crate::cli::ExploreArgs;
use crate::error::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use vexfs_crash::Recording;
use vexfs_crash::explore::{Chosen, Explored, Limits, RootJudge, explore, picture, replay};

/// Reads a recording.
pub fn read(path: &Path) -> Result<Recording> {
    Recording::read(path).map_err(|e| Error::Refused(e.to_string()))
}

pub fn run(args: &ExploreArgs) -> Result<()> {
    let recording = read(&args.file)?;
    let judge = RootJudge::new(&recording);
    if judge.generations() == 0 {
        return Err(Error::Refused(format!(
            "{}: no VexFS was committed in it: there is nothing to compare states with",
            args.file.display()
        )));
    }
    if let (Some(event), Some(keep)) = (args.event, &args.keep) {
        return check_one(&recording, &judge, event, keep);
    }
    let limits = Limits { samples: args.samples, seed: args.seed, ..Limits::default() };
    let bar = ProgressBar::new(recording.events.len() as u64);
    if let Ok(style) = ProgressStyle::with_template(
        "{elapsed} {wide_bar} {human_pos} of {human_len} events  {msg}",
    ) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let began = Instant::now();
    let mut explored = Explored::default();
    let (mut points, mut states) = (Vec::new(), 0u64);
    explore(&recording, &judge, &limits, &mut explored, &mut |point| {
        states += point.states;
        bar.set_position(point.event as u64);
        let rate = states as f64 / began.elapsed().as_secs_f64().max(1e-9);
        bar.set_message(format!("{states} states, {rate:.0} a second"));
        points.push(point.clone());
        true
    });
    bar.finish_and_clear();
    if let Some(path) = &args.svg {
        let failed = |source| Error::Image { path: path.clone(), source };
        std::fs::write(path, picture::draw(&points)).map_err(failed)?;
    }
    let rate = explored.states as f64 / began.elapsed().as_secs_f64().max(1e-9);
    report(args.json, recording.events.len(), judge.generations(), &explored, rate as u64)?;
    match explored.failures.first() {
        None => Ok(()),
        Some(first) => Err(Error::Refused(format!(
            "{} states are wrong; the first: {}; again: vexfs-ublk explore {} --event {} --keep '{}'",
            explored.failed,
            first.what,
            args.file.display(),
            first.event,
            first.chosen
        ))),
    }
}

fn check_one(recording: &Recording, judge: &RootJudge, event: usize, keep: &Chosen) -> Result<()> {
    match replay(recording, judge, event, keep) {
        None => Err(Error::Refused(format!("the recording has no point after {event} events"))),
        Some(Ok(generation)) => {
            super::print(&format!("right: generation {generation} comes back\n"))
        }
        Some(Err(what)) => Err(Error::Refused(format!("WRONG: {what}"))),
    }
}

fn report(
    as_json: bool,
    events: usize,
    generations: usize,
    explored: &Explored,
    states_per_second: u64,
) -> Result<()> {
    if as_json {
        let failures: Vec<_> = explored
            .failures
            .iter()
            .map(|f| json!({ "event": f.event, "keep": f.chosen.to_string(), "what": f.what }))
            .collect();
        return super::print_json(&json!({
            "events": events,
            "generations": generations,
            "points": explored.points,
            "states": explored.states,
            "distinct_states": explored.distinct.len(),
            "evaluations": explored.evaluations,
            "states_per_second_per_core": states_per_second,
            "wrong_states": explored.failed,
            "failures": failures,
        }));
    }
    let lines = [
        ("events", events as u64),
        ("generations", generations as u64),
        ("points of a cut", explored.points),
        ("states", explored.states),
        ("distinct states", explored.distinct.len() as u64),
        ("runs of the engine", explored.evaluations),
        ("states a second a core", states_per_second),
        ("wrong states", explored.failed),
    ];
    let text: Vec<_> = lines.iter().map(|(name, n)| format!("{name:<24}{n:>12}\n")).collect();
    super::print(&text.concat())
}
