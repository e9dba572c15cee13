// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The volatile cache over the image: every version that a sector had since the last flush.
//!
//! Memory is bounded: beyond [`CACHED_BYTES_MAX`] the cache writes itself to the image, as a device
//! may at any time. It then no longer knows what was there before, so a cut keeps it.

use super::Cut;
use crate::dirty_log::DirtyLog;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vexfs_crash::{Keep, Rng};

const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];

/// Bytes of versions that are kept.
const CACHED_BYTES_MAX: u64 = 1 << 30;
/// Zeroes beyond this many bytes go to the image at once.
const CACHED_ZEROES_MAX: u64 = 1 << 20;

/// The image. The follower reads it, not the cache: it is told of a write when the medium has it.
struct Medium {
    file: File,
    observer: Arc<DirtyLog>,
}

impl Medium {
    fn write(&self, data: &[u8], at: u64) -> io::Result<()> {
        let written = self.file.write_all_at(data, at);
        // One that failed may have changed a part.
        self.observer.mark(at, data.len() as u64, true);
        written
    }
}

pub(super) struct Cache {
    medium: Medium,
    bytes: u64,
    versions: BTreeMap<u64, Vec<Sector>>,
    held: u64,
}

impl Cache {
    pub(super) fn new(image: File, bytes: u64, observer: Arc<DirtyLog>) -> Self {
        let medium = Medium { file: image, observer };
        Self { medium, bytes, versions: BTreeMap::new(), held: 0 }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the newest versions, or with `stale` those before them.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8], stale: bool) -> io::Result<()> {
        self.medium.file.read_exact_at(buffer, at)?;
        let (first, count) = (at / SECTOR, buffer.len() as u64 / SECTOR);
        for (sector, versions) in self.versions.range(first..first + count) {
            let newest = versions.len().checked_sub(if stale { 2 } else { 1 });
            let Some(version) = newest.and_then(|i| versions.get(i)) else { continue };
            let from = ((sector - first) * SECTOR) as usize;
            if let Some(to) = buffer.get_mut(from..from + version.len()) {
                to.copy_from_slice(version);
            }
        }
        Ok(())
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8], fua: bool) -> io::Result<()> {
        let first = at / SECTOR;
        if fua {
            self.medium.write(data, at)?;
            self.forget(first, data.len() as u64 / SECTOR);
            return Ok(());
        }
        for (sector, version) in (first..).zip(data.as_chunks().0) {
            self.versions.entry(sector).or_default().push(*version);
            self.held += SECTOR;
        }
        if self.held > CACHED_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    pub(super) fn zero(&mut self, at: u64, len: u64, fua: bool) -> io::Result<()> {
        let part = vec![0; len.min(CACHED_ZEROES_MAX) as usize];
        let fua = fua || len > CACHED_ZEROES_MAX;
        let mut done = 0;
        while done < len {
            let left = (len - done).min(part.len() as u64) as usize;
            self.write(at + done, part.get(..left).unwrap_or_default(), fua)?;
            done += left as u64;
        }
        Ok(())
    }

    fn forget(&mut self, first: u64, count: u64) {
        let sectors: Vec<u64> =
            self.versions.range(first..first + count).map(|(sector, _)| *sector).collect();
        for sector in sectors {
            let gone = self.versions.remove(&sector).map_or(0, |versions| versions.len());
            self.held -= gone as u64 * SECTOR;
        }
    }

    /// Writes the newest of everything to the image.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let newest = self.versions.iter().filter_map(|(s, versions)| Some((*s, versions.last()?)));
        write_runs(&self.medium, newest)?;
        self.versions.clear();
        self.held = 0;
        Ok(())
    }

    /// Resolves the cache as a power cut does.
    pub(super) fn cut(&mut self, keep: Keep) -> io::Result<Cut> {
        let mut rng = Rng::new(if let Keep::Random(seed) = keep { seed } else { 0 });
        let mut chosen = Vec::new();
        for (sector, versions) in &self.versions {
            let version = match keep {
                Keep::None => 0,
                Keep::All => versions.len(),
                Keep::Random(_) => rng.below(versions.len() as u64 + 1) as usize,
            };
            if let Some(version) = version.checked_sub(1).and_then(|i| versions.get(i)) {
                chosen.push((*sector, version));
            }
        }
        let cut = Cut { unflushed: self.versions.len() as u64, kept: chosen.len() as u64 };
        write_runs(&self.medium, chosen.into_iter())?;
        self.versions.clear();
        self.held = 0;
        Ok(cut)
    }
}

/// Writes sectors, in order, neighbours together.
fn write_runs<'a>(
    medium: &Medium,
    sectors: impl Iterator<Item = (u64, &'a Sector)>,
) -> io::Result<()> {
    const RUN_MAX: usize = 1 << 20;
    let mut run: Vec<u8> = Vec::new();
    let mut start = 0;
    for (sector, data) in sectors {
        let next = start + run.len() as u64 / SECTOR;
        if !run.is_empty() && (sector != next || run.len() >= RUN_MAX) {
            medium.write(&run, start * SECTOR)?;
            run.clear();
        }
        if run.is_empty() {
            start = sector;
        }
        run.extend_from_slice(data);
    }
    medium.write(&run, start * SECTOR)
}
