// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A cut while a filesystem is made over an old one: what opens afterwards is the new one, whole and
//! clean, or nothing does. The old one may still open only as long as nothing of the new is written.

use super::script::Fixture;
use crate::device::CacheDevice;
use crate::explore::{Explored, Judge, Limits, StateDevice, Verdict, explore};
use crate::model::BLOCK;
use crate::oracle::assert_clean;
use crate::recording::{Event, Recording, Request};
use crate::work::Stop;
use vexfs::{Geometry, MkfsOptions, OpenOptions, Time, Volume, mkfs, read_superblock};

const NEW: [u8; 16] = [0x4e; 16];

struct MkfsJudge {
    /// Events before the first write of the new filesystem: the old one has been wiped then.
    wiped: usize,
    /// Events after which `mkfs` had returned.
    done: usize,
}

impl Judge for MkfsJudge {
    fn judge(&self, event: usize, device: &StateDevice<'_>) -> Verdict {
        let options = OpenOptions { cache_bytes: 0, ..OpenOptions::default() };
        let opened = read_superblock(device)
            .map(|superblock| Geometry::of(&superblock).uuid)
            .and_then(|uuid| Volume::open(device, &options).map(|v| (uuid, v.generation().0)));
        match opened {
            Ok((NEW, generation)) => {
                // Until the last write one copy of the superblock stands for the others.
                match assert_clean(device).map_err(Stop::text) {
                    Err(what) if event >= self.done || !what.contains("superblock differs") => {
                        return Err(what);
                    }
                    _ => {}
                }
                if generation == 1 { Ok(1) } else { Err(format!("it opens at {generation}")) }
            }
            Ok(_) if event > self.wiped => Err("the old filesystem opens".into()),
            Err(error) if event >= self.done => Err(format!("it does not open: {error}")),
            Ok(_) | Err(_) => Ok(0),
        }
    }
}

pub(super) fn run(
    fixture: &Fixture,
    limits: &Limits,
    explored: &mut Explored,
) -> Result<(), String> {
    let device = CacheDevice::new(fixture.image.clone());
    device.record();
    let options = MkfsOptions {
        bytes: fixture.image.len_bytes(),
        block_bytes: BLOCK as u32,
        label: b"new",
        uuid: NEW,
        hash_key: [3; 16],
        now: Time { seconds: 1_700_000_000, nanos: 0 },
        root_uid: 0,
        root_gid: 0,
    };
    mkfs(&device, &options).map_err(|e| format!("mkfs: {e}"))?;
    let mut events = device.take_record();
    let anything = |event: &Event| {
        matches!(event, Event::Submit { request: Request::Write { data, .. }, .. }
            if data.iter().any(|byte| *byte != 0))
    };
    let wiped = events.iter().position(anything).ok_or("mkfs wrote nothing")?;
    let done = events.len();
    // One write more, to the last block but one, so that there is a point after the end.
    let at = fixture.image.len_bytes() - 2 * BLOCK as u64;
    let request = Request::Write { at, data: vec![1; BLOCK].into(), fua: false };
    events.push(Event::Submit { id: u64::MAX, request });
    let recording = Recording { base: fixture.image.clone(), events };
    explore(&recording, &MkfsJudge { wiped, done }, limits, explored, &mut |_| true);
    Ok(())
}
