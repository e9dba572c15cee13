// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `crash`, `fault` and `mark`: requests to the crash lab of a running device.

use crate::cli::{CrashArgs, FaultArgs, FaultName, Keep, MarkArgs, Which};
use crate::control::client;
use crate::control::wire::{KeepPolicy, LabReply, LabRequest, Reply, Request};
use crate::error::{Error, Result};
use crate::lab::{Fault, FaultKind, FaultState, On};
use crate::state::{DeviceState, RunDir};
use serde_json::json;
use std::fmt::Write;

fn ask(state: &DeviceState, request: LabRequest) -> Result<LabReply> {
    match client::ask(&state.socket, &Request::Lab(request))? {
        Reply::Lab(reply) => Ok(reply),
        _ => Err(client::unexpected()),
    }
}

fn ask_id(id: u32, request: LabRequest) -> Result<LabReply> {
    let Some(state) = RunDir::default_path().load(id)? else { return Err(Error::NoDevice(id)) };
    ask(&state, request)
}

/// Turns the power of a lab's device on; false if it was on.
pub fn power_on(state: &DeviceState) -> Result<bool> {
    Ok(ask(state, LabRequest::PowerOn)? == LabReply::Done(true))
}

pub fn crash(args: &CrashArgs) -> Result<()> {
    let keep = match args.keep {
        Keep::None => KeepPolicy::None,
        Keep::All => KeepPolicy::All,
        Keep::Random => KeepPolicy::Random(args.seed),
    };
    let LabReply::Cut(cut) = ask_id(args.id, LabRequest::Crash(keep))? else {
        return Err(client::unexpected());
    };
    if args.json {
        return super::print_json(&json!({ "unflushed": cut.unflushed, "kept": cut.kept }));
    }
    super::print(&format!(
        "power cut: {} sectors were not durable, {} of them changed the medium\n",
        cut.unflushed, cut.kept
    ))
}

pub fn mark(args: &MarkArgs) -> Result<()> {
    match ask_id(args.id, LabRequest::Mark(args.text.clone()))? {
        LabReply::Done(true) => Ok(()),
        _ => Err(Error::Refused(format!(
            "device {} records nothing: add it with --record FILE; a recording ends at a power cut",
            args.id
        ))),
    }
}

pub fn fault(args: &FaultArgs) -> Result<()> {
    if let Some(which) = args.clear {
        let number = if let Which::One(number) = which { Some(number) } else { None };
        return match (ask_id(args.id, LabRequest::Clear(number))?, number) {
            (LabReply::Number(0), Some(number)) => {
                Err(Error::Refused(format!("device {} has no fault {number}", args.id)))
            }
            _ => Ok(()),
        };
    }
    if let Some(name) = args.set {
        let LabReply::Number(number) = ask_id(args.id, LabRequest::Set(plan(name, args)))? else {
            return Err(client::unexpected());
        };
        return if args.json {
            super::print_json(&json!({ "fault": number }))
        } else {
            super::print(&format!("fault {number}\n"))
        };
    }
    let LabReply::Faults(faults) = ask_id(args.id, LabRequest::Faults)? else {
        return Err(client::unexpected());
    };
    if args.json {
        let list: Vec<_> = faults.iter().map(to_json).collect();
        super::print_json(&json!({ "faults": list }))
    } else {
        super::print(&to_text(&faults))
    }
}

/// The fault that the command line describes.
fn plan(name: FaultName, args: &FaultArgs) -> Fault {
    let (kind, on) = match name {
        FaultName::Eio => (FaultKind::Eio { errno: args.errno }, On::Any),
        FaultName::Lost => (FaultKind::Lost, On::Write),
        FaultName::Misdirect => (FaultKind::Misdirect { to: args.to }, On::Write),
        FaultName::Stale => (FaultKind::Stale, On::Read),
        FaultName::Flip => (FaultKind::Flip, On::Read),
        FaultName::IgnoreFlush => (FaultKind::IgnoreFlush, On::Flush),
        FaultName::Latency => (FaultKind::Latency { ms: args.ms }, On::Any),
        FaultName::Die => (FaultKind::Die, On::Any),
    };
    let (from, to) = args.range.unwrap_or((0, u64::MAX));
    Fault {
        kind,
        on: args.on.unwrap_or(on),
        from,
        to,
        skip: args.nth.map_or(0, |nth| nth - 1),
        times: args.times.or(args.nth.map(|_| 1)),
        rate: args.rate.unwrap_or(1.0),
        seed: args.seed,
    }
}

fn kind_name(kind: FaultKind) -> String {
    match kind {
        FaultKind::Eio { errno } => format!("eio {errno}"),
        FaultKind::Lost => "lost".into(),
        FaultKind::Misdirect { to } => format!("misdirect {to}"),
        FaultKind::Stale => "stale".into(),
        FaultKind::Flip => "flip".into(),
        FaultKind::IgnoreFlush => "ignore-flush".into(),
        FaultKind::Latency { ms } => format!("latency {ms}"),
        FaultKind::Die => "die".into(),
    }
}

fn on_name(on: On) -> &'static str {
    match on {
        On::Read => "read",
        On::Write => "write",
        On::Flush => "flush",
        On::Any => "any",
    }
}

fn to_json(state: &FaultState) -> serde_json::Value {
    let fault = &state.fault;
    json!({
        "fault": state.number,
        "kind": kind_name(fault.kind),
        "on": on_name(fault.on),
        "from": fault.from,
        "to": fault.to,
        "skip": fault.skip,
        "times": fault.times,
        "rate": fault.rate,
        "seed": fault.seed,
        "met": state.met,
        "hit": state.hit,
    })
}

fn to_text(faults: &[FaultState]) -> String {
    if faults.is_empty() {
        return "no faults\n".into();
    }
    let mut text = format!(
        "{:<6}{:<16}{:<7}{:>14}{:>22}{:>6}{:>7}{:>10}{:>10}\n",
        "fault", "kind", "on", "from", "to", "rate", "times", "met", "hit"
    );
    for state in faults {
        let fault = &state.fault;
        let to = if fault.to == u64::MAX { "end".into() } else { fault.to.to_string() };
        let times = fault.times.map_or_else(|| "all".into(), |times| times.to_string());
        let _ = writeln!(
            text,
            "{:<6}{:<16}{:<7}{:>14}{:>22}{:>6}{:>7}{:>10}{:>10}",
            state.number,
            kind_name(fault.kind),
            on_name(fault.on),
            fault.from,
            to,
            fault.rate,
            times,
            state.met,
            state.hit
        );
    }
    text
}
