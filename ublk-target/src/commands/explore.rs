// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `replay` and `explore`: what becomes of a recording, without any device.

use crate::cli::{ExploreArgs, Keep, ReplayArgs};
use crate::error::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use vexfs_crash::explore::{Explored, Limits, RootJudge, explore, picture, replay as judge_one};
use vexfs_crash::{Event, Recording, Request};

/// Bytes compared and written at a time.
const CHUNK: u64 = 64 << 10;

fn read(path: &Path) -> Result<Recording> {
    Recording::read(path).map_err(|e| Error::Search(e.to_string()))
}

fn describe(event: &Event) -> (&'static str, String) {
    match event {
        Event::Submit { id, request: Request::Write { at, data, fua } } => {
            let fua = if *fua { ", FUA" } else { "" };
            ("write", format!("#{id} {} bytes at {at}{fua}", data.len()))
        }
        Event::Submit { id, request: Request::Zeroes { at, len, fua } } => {
            let fua = if *fua { ", FUA" } else { "" };
            ("zeroes", format!("#{id} {len} bytes at {at}{fua}"))
        }
        Event::Submit { id, request: Request::Flush } => ("flush", format!("#{id}")),
        Event::Complete { id, ok } => {
            ("done", format!("#{id}{}", if *ok { "" } else { " failed" }))
        }
        Event::Mark(text) => ("mark", text.clone()),
    }
}

fn event_json(number: usize, event: &Event) -> serde_json::Value {
    match event {
        Event::Submit { id, request } => match request {
            Request::Write { at, data, fua } => json!({
                "event": number, "kind": "write", "id": id, "at": at, "bytes": data.len(), "fua": fua,
            }),
            Request::Zeroes { at, len, fua } => json!({
                "event": number, "kind": "zeroes", "id": id, "at": at, "bytes": len, "fua": fua,
            }),
            Request::Flush => json!({ "event": number, "kind": "flush", "id": id }),
        },
        Event::Complete { id, ok } => {
            json!({ "event": number, "kind": "done", "id": id, "ok": ok })
        }
        Event::Mark(text) => json!({ "event": number, "kind": "mark", "text": text }),
    }
}

pub fn replay(args: &ReplayArgs) -> Result<()> {
    let recording = read(&args.file)?;
    let (Some(point), Some(out)) = (&args.to, &args.image) else {
        if args.json {
            let events = recording.events.iter().enumerate();
            let list: Vec<_> = events.map(|(number, event)| event_json(number, event)).collect();
            return super::print_json(
                &json!({ "bytes": recording.base.len_bytes(), "events": list }),
            );
        }
        let lines: Vec<String> = recording
            .events
            .iter()
            .enumerate()
            .map(|(number, event)| {
                let (kind, text) = describe(event);
                format!("{number:>8}  {kind:<7} {text}\n")
            })
            .collect();
        return super::print(&lines.concat());
    };
    let all = recording.events.len();
    let events = match point.as_str() {
        "end" => Some(all),
        point => match point.strip_prefix("mark:") {
            Some(text) => recording.mark(text),
            None => point.parse().ok().filter(|events| *events <= all),
        },
    };
    let events = events.ok_or_else(|| {
        Error::Search(format!(
            "--to {point}: the recording has {all} events and no such point; see --list"
        ))
    })?;
    let keep = match args.keep {
        Keep::None => vexfs_crash::Keep::None,
        Keep::All => vexfs_crash::Keep::All,
        Keep::Random => vexfs_crash::Keep::Random(args.seed),
    };
    let image = recording.image_at(events, keep);
    let failed = |source| Error::Image { path: out.clone(), source };
    let file = File::create(out).map_err(failed)?;
    file.set_len(image.len_bytes()).map_err(failed)?;
    let mut at = 0;
    while at < image.len_bytes() {
        let len = CHUNK.min(image.len_bytes() - at);
        let data = image.bytes(at, len as usize);
        if data.iter().any(|byte| *byte != 0) {
            file.write_all_at(&data, at).map_err(failed)?;
        }
        at += len;
    }
    if args.json {
        super::print_json(&json!({ "events": events, "bytes": image.len_bytes() }))
    } else {
        super::print(&format!("{}: after {events} of {all} events\n", out.display()))
    }
}

pub fn run(args: &ExploreArgs) -> Result<()> {
    let recording = read(&args.file)?;
    let judge = RootJudge::new(&recording);
    if judge.generations() == 0 {
        return Err(Error::Search(format!(
            "{}: no VexFS was committed in it: there is nothing to hold states against",
            args.file.display()
        )));
    }
    if let (Some(event), Some(keep)) = (args.event, &args.keep) {
        return match judge_one(&recording, &judge, event, keep) {
            None => Err(Error::Search(format!("the recording has no point after {event} events"))),
            Some(Ok(generation)) => {
                super::print(&format!("right: generation {generation} comes back\n"))
            }
            Some(Err(what)) => Err(Error::Search(format!("WRONG: {what}"))),
        };
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
    if args.json {
        let failures: Vec<_> = explored
            .failures
            .iter()
            .map(|f| json!({ "event": f.event, "keep": f.chosen.to_string(), "what": f.what }))
            .collect();
        super::print_json(&json!({
            "events": recording.events.len(),
            "generations": judge.generations(),
            "points": explored.points,
            "states": explored.states,
            "distinct_states": explored.distinct.len(),
            "evaluations": explored.evaluations,
            "states_per_second_per_core": rate as u64,
            "wrong_states": explored.failed,
            "failures": failures,
        }))?;
    } else {
        let lines = [
            ("events", recording.events.len() as u64),
            ("generations", judge.generations() as u64),
            ("points of a cut", explored.points),
            ("states", explored.states),
            ("distinct states", explored.distinct.len() as u64),
            ("runs of the engine", explored.evaluations),
            ("states a second a core", rate as u64),
            ("wrong states", explored.failed),
        ];
        let text: Vec<_> = lines.iter().map(|(name, n)| format!("{name:<24}{n:>12}\n")).collect();
        super::print(&text.concat())?;
    }
    match explored.failures.first() {
        None => Ok(()),
        Some(first) => Err(Error::Search(format!(
            "{} states are wrong; the first: {}; again: vexfs-ublk explore {} --event {} --keep '{}'",
            explored.failed,
            first.what,
            args.file.display(),
            first.event,
            first.chosen
        ))),
    }
}
