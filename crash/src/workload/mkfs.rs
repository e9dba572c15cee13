// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A cut while a filesystem is made over an old one: what opens afterwards is the new one, whole and
//! clean, or nothing does. The old one may still open only until anything of the new one is written.

use super::fixture::Fixture;
use crate::device::CacheDevice;
use crate::explore::{Explored, Judge, Limits, StateDevice, Verdict, explore};
use crate::formatted::mkfs_options;
use crate::halt::Halt;
use crate::model::BLOCK;
use crate::oracle::assert_clean;
use crate::recording::{Event, Recording, Request};
use vexfs::{Geometry, MkfsOptions, OpenOptions, Time, Volume, mkfs, read_superblock};

/// The UUID of the new filesystem.
const NEW: [u8; 16] = [0x4e; 16];

struct MkfsJudge {
    /// Events before the first write of the new filesystem. The old one is wiped by then.
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
                // Until the last write some copies of the superblock are missing.
                match assert_clean(device).map_err(Halt::text) {
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

impl Fixture {
    /// Explores what a cut leaves while a new filesystem is made over this one.
    ///
    /// # Errors
    /// If `mkfs` fails without a cut. Wrong states are counted in `explored`.
    pub fn explore_mkfs(&self, limits: &Limits, explored: &mut Explored) -> Result<(), String> {
        let bytes = self.image.len_bytes();
        let device = CacheDevice::new(self.image.clone());
        device.record();
        let options = MkfsOptions {
            label: b"new",
            uuid: NEW,
            hash_key: [3; 16],
            now: Time { seconds: 1_700_000_000, nanos: 0 },
            ..mkfs_options(bytes)
        };
        mkfs(&device, &options).map_err(|e| format!("mkfs: {e}"))?;
        let mut events = device.take_record();
        let writes_anything = |event: &Event| {
            matches!(event, Event::Submit { request: Request::Write { data, .. }, .. }
                if data.iter().any(|byte| *byte != 0))
        };
        let wiped = events.iter().position(writes_anything).ok_or("mkfs wrote nothing")?;
        let done = events.len();
        // One more write, to the last block but one, so that there is a point after the end.
        let at = bytes - 2 * BLOCK as u64;
        let request = Request::Write { at, data: vec![1; BLOCK].into(), fua: false };
        events.push(Event::Submit { id: u64::MAX, request });
        let recording = Recording { base: self.image.clone(), events };
        explore(&recording, &MkfsJudge { wiped, done }, limits, explored, &mut |_| true);
        Ok(())
    }
}
