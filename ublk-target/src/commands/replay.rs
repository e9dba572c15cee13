// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `replay`: shows the events of a recording, or rebuilds the image at one of its points.

use super::explore::read;
use crate::cli::{Keep, ReplayArgs};
use crate::error::{Error, Result};
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vexfs_crash::{Event, Image, Recording, Request};

/// Bytes that are compared and written at a time.
const CHUNK: u64 = 64 << 10;

pub fn run(args: &ReplayArgs) -> Result<()> {
    let recording = read(&args.file)?;
    let (Some(point), Some(out)) = (&args.to, &args.image) else {
        return list(&recording, args.json);
    };
    let all = recording.events.len();
    let events = events_before(&recording, point).ok_or_else(|| {
        Error::Refused(format!(
            "--to {point}: the recording has {all} events and no such point; see --list"
        ))
    })?;
    let keep = match args.keep {
        Keep::None => vexfs_crash::Keep::None,
        Keep::All => vexfs_crash::Keep::All,
        Keep::Random => vexfs_crash::Keep::Random(args.seed),
    };
    let image = recording.image_at(events, keep);
    write_image(&image, out)?;
    if args.json {
        super::print_json(&json!({ "events": events, "bytes": image.len_bytes() }))
    } else {
        super::print(&format!("{}: after {events} of {all} events\n", out.display()))
    }
}

/// The number of events before a point of the recording; `None` if it has no such point.
fn events_before(recording: &Recording, point: &str) -> Option<usize> {
    let all = recording.events.len();
    match (point, point.strip_prefix("mark:")) {
        ("end", _) => Some(all),
        (_, Some(text)) => recording.mark(text),
        (number, None) => number.parse().ok().filter(|events| *events <= all),
    }
}

/// Writes an image to a new file; what is zero stays a hole.
fn write_image(image: &Image, out: &Path) -> Result<()> {
    let failed = |source| Error::Image { path: out.to_owned(), source };
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
    Ok(())
}

fn list(recording: &Recording, as_json: bool) -> Result<()> {
    let events = recording.events.iter().enumerate();
    if as_json {
        let list: Vec<_> = events.map(|(number, event)| event_json(number, event)).collect();
        return super::print_json(&json!({ "bytes": recording.base.len_bytes(), "events": list }));
    }
    let lines: Vec<String> = events
        .map(|(number, event)| {
            let (kind, text) = describe(event);
            format!("{number:>8}  {kind:<7} {text}\n")
        })
        .collect();
    super::print(&lines.concat())
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
