// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A volatile write cache in front of a medium, and what a power cut leaves of it.
//!
//! Invariant: the medium holds what survives the worst cut. The cache holds every version that each
//! sector had since the last flush, oldest first. A cut leaves each sector, independently of all
//! others, with one of these versions or with what the medium holds. The rules: `FAULTS.md`.
//!
//! It makes no faults and no recording. The devices that are built on it do:
//! [`CacheDevice`](crate::CacheDevice) in memory, and the crash lab of `vexfs-ublk` on a file.

use crate::image::{Image, SECTOR, Sector};
use crate::rng::Rng;
use bincode::{Decode, Encode};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Most bytes that are written to the medium at once.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// What a cut keeps of the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Nothing.
    None,
    /// The newest version of every sector.
    All,
    /// For each sector one of its versions or what the medium holds, chosen by this seed.
    Random(u64),
}

/// What a cut left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Cut {
    /// Sectors that were not durable.
    pub unflushed: u64,
    /// How many of them kept a version from the cache.
    pub kept: u64,
}

/// The medium behind a cache. Ranges are whole sectors within it: see [`VolatileCache::accepts`].
pub trait Backing {
    /// The error of a read or write.
    type Error;

    /// Its length.
    fn len_bytes(&self) -> u64;

    /// Reads from byte `at` on.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes at byte `at`; durable when it returns.
    fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Self::Error>;
}

impl Backing for Image {
    type Error = Infallible;

    fn len_bytes(&self) -> u64 {
        Self::len_bytes(self)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Infallible> {
        let inside = self.get(at, buf);
        debug_assert!(inside, "a read past the end of the image");
        Ok(())
    }

    fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Infallible> {
        let inside = self.put(at, data);
        debug_assert!(inside, "a write past the end of the image");
        Ok(())
    }
}

/// The cache and its medium.
#[derive(Debug)]
pub struct VolatileCache<M> {
    medium: M,
    /// By sector number; no list is empty.
    versions: BTreeMap<u64, Vec<Sector>>,
    /// Bytes of all versions.
    cached_bytes: u64,
    cached_bytes_max: u64,
}

impl<M: Backing> VolatileCache<M> {
    /// An empty cache in front of `medium`. When its versions take more than `cached_bytes_max`
    /// bytes it flushes itself, as a device may at any time.
    pub const fn new(medium: M, cached_bytes_max: u64) -> Self {
        Self { medium, versions: BTreeMap::new(), cached_bytes: 0, cached_bytes_max }
    }

    /// What survives a cut that keeps nothing.
    pub const fn medium(&self) -> &M {
        &self.medium
    }

    /// Sectors that are not durable.
    pub fn unflushed(&self) -> usize {
        self.versions.len()
    }

    /// Whether a range is made of whole sectors and lies within the medium. Every other method
    /// relies on it: the host refuses requests for other ranges.
    pub fn accepts(&self, at: u64, len: usize) -> bool {
        at.is_multiple_of(SECTOR as u64)
            && len.is_multiple_of(SECTOR)
            && at.checked_add(len as u64).is_some_and(|end| end <= self.medium.len_bytes())
    }

    /// Reads the newest version of each sector.
    ///
    /// # Errors
    /// The medium's.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), M::Error> {
        self.read_version(at, buf, 1)
    }

    /// Reads as [`read`](Self::read) does, but of each sector that is not durable the version before
    /// the newest.
    ///
    /// # Errors
    /// The medium's.
    pub fn read_stale(&self, at: u64, buf: &mut [u8]) -> Result<(), M::Error> {
        self.read_version(at, buf, 2)
    }

    /// Reads of each sector the version at place `from_end`: 1 is the newest, 2 the one before it.
    fn read_version(&self, at: u64, buf: &mut [u8], from_end: usize) -> Result<(), M::Error> {
        self.medium.read(at, buf)?;
        let (first, sectors) = (at / SECTOR as u64, (buf.len() / SECTOR) as u64);
        for (sector, versions) in self.versions.range(first..first + sectors) {
            let place = versions.len().checked_sub(from_end);
            let Some(version) = place.and_then(|place| versions.get(place)) else { continue };
            let within = (sector - first) as usize * SECTOR;
            if let Some(to) = buf.get_mut(within..within + SECTOR) {
                to.copy_from_slice(version);
            }
        }
        Ok(())
    }

    /// Writes to the cache.
    ///
    /// # Errors
    /// The medium's, if the cache is over its bound and cannot be flushed.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<(), M::Error> {
        let first = at / SECTOR as u64;
        for (sector, version) in (first..).zip(data.as_chunks().0) {
            self.versions.entry(sector).or_default().push(*version);
            self.cached_bytes += SECTOR as u64;
        }
        if self.cached_bytes > self.cached_bytes_max { self.flush() } else { Ok(()) }
    }

    /// Writes to the medium. What the cache held of these sectors is gone: no cut brings it back.
    ///
    /// # Errors
    /// The medium's; the cache is as before then.
    pub fn write_fua(&mut self, at: u64, data: &[u8]) -> Result<(), M::Error> {
        self.medium.write(at, data)?;
        let first = at / SECTOR as u64;
        for sector in first..first + (data.len() / SECTOR) as u64 {
            let gone = self.versions.remove(&sector).map_or(0, |versions| versions.len());
            self.cached_bytes -= (gone * SECTOR) as u64;
        }
        Ok(())
    }

    /// Writes the newest version of every sector to the medium and empties the cache.
    ///
    /// # Errors
    /// The medium's; the cache is as before then, and a part may be on the medium.
    pub fn flush(&mut self) -> Result<(), M::Error> {
        self.cut(Keep::All).map(drop)
    }

    /// Resolves the cache as a power cut does: what it keeps is on the medium, the rest is lost.
    ///
    /// # Errors
    /// The medium's; the cache is as before then, and a part may be on the medium.
    pub fn cut(&mut self, keep: Keep) -> Result<Cut, M::Error> {
        let kept = write_sectors(&mut self.medium, kept(&self.versions, keep))?;
        let unflushed = self.versions.len() as u64;
        self.versions.clear();
        self.cached_bytes = 0;
        Ok(Cut { unflushed, kept })
    }

    /// The medium as such a cut would leave it. The cache stays as it is.
    ///
    /// # Errors
    /// The medium's.
    pub fn after_cut(&self, keep: Keep) -> Result<M, M::Error>
    where
        M: Clone,
    {
        let mut medium = self.medium.clone();
        write_sectors(&mut medium, kept(&self.versions, keep))?;
        Ok(medium)
    }

    /// The sectors that such a cut takes from the cache: number and contents, in order.
    pub fn kept(&self, keep: Keep) -> impl Iterator<Item = (u64, &Sector)> {
        kept(&self.versions, keep)
    }
}

/// Chooses a version for each sector; those that stay as they are on the medium are left out.
fn kept(versions: &BTreeMap<u64, Vec<Sector>>, keep: Keep) -> impl Iterator<Item = (u64, &Sector)> {
    let mut rng = Rng::new(if let Keep::Random(seed) = keep { seed } else { 0 });
    versions.iter().filter_map(move |(sector, versions)| {
        // 0 is what the medium holds.
        let chosen = match keep {
            Keep::None => 0,
            Keep::All => versions.len(),
            Keep::Random(_) => rng.below(versions.len() as u64 + 1) as usize,
        };
        Some((*sector, versions.get(chosen.checked_sub(1)?)?))
    })
}

/// Writes sectors in ascending order, neighbours together; returns how many there were.
fn write_sectors<'a, M: Backing>(
    medium: &mut M,
    sectors: impl Iterator<Item = (u64, &'a Sector)>,
) -> Result<u64, M::Error> {
    let mut neighbours: Vec<u8> = Vec::new();
    let (mut first, mut count) = (0, 0);
    for (sector, data) in sectors {
        let next = first + (neighbours.len() / SECTOR) as u64;
        if sector != next || neighbours.len() >= WRITE_BYTES_MAX {
            if !neighbours.is_empty() {
                medium.write(first * SECTOR as u64, &neighbours)?;
                neighbours.clear();
            }
            first = sector;
        }
        neighbours.extend_from_slice(data);
        count += 1;
    }
    if !neighbours.is_empty() {
        medium.write(first * SECTOR as u64, &neighbours)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const BYTES: u64 = 1 << 16;

    fn cache() -> VolatileCache<Image> {
        VolatileCache::new(Image::new(BYTES), u64::MAX)
    }

    /// Writes that many sectors of one byte.
    fn write(cache: &mut VolatileCache<Image>, sector: u64, sectors: usize, byte: u8) {
        let Ok(()) = cache.write(sector * SECTOR as u64, &vec![byte; sectors * SECTOR]);
    }

    fn write_fua(cache: &mut VolatileCache<Image>, sector: u64, byte: u8) {
        let Ok(()) = cache.write_fua(sector * SECTOR as u64, &[byte; SECTOR]);
    }

    fn read(cache: &VolatileCache<Image>, sector: u64) -> u8 {
        let mut buf = [0; SECTOR];
        let Ok(()) = cache.read(sector * SECTOR as u64, &mut buf);
        buf[0]
    }

    fn read_stale(cache: &VolatileCache<Image>, sector: u64) -> u8 {
        let mut buf = [0; SECTOR];
        let Ok(()) = cache.read_stale(sector * SECTOR as u64, &mut buf);
        buf[0]
    }

    fn sector_of(image: &Image, sector: u64) -> u8 {
        image.bytes(sector * SECTOR as u64, 1)[0]
    }

    fn after_cut(cache: &VolatileCache<Image>, keep: Keep, sector: u64) -> u8 {
        let Ok(image) = cache.after_cut(keep);
        sector_of(&image, sector)
    }

    #[test]
    fn a_write_is_read_back_and_not_durable() {
        let mut cache = cache();
        write(&mut cache, 1, 2, 7);
        assert_eq!([0, 1, 2, 3].map(|sector| read(&cache, sector)), [0, 7, 7, 0]);
        assert_eq!([1, 2].map(|sector| sector_of(cache.medium(), sector)), [0, 0]);
        assert_eq!(cache.unflushed(), 2);
    }

    #[test]
    fn a_stale_read_returns_the_version_before_the_newest() {
        let mut cache = cache();
        write(&mut cache, 0, 1, 1);
        assert_eq!(read_stale(&cache, 0), 0, "the medium's");
        write(&mut cache, 0, 1, 2);
        write(&mut cache, 0, 1, 3);
        assert_eq!((read_stale(&cache, 0), read(&cache, 0)), (2, 3));
        let Ok(()) = cache.flush();
        assert_eq!(read_stale(&cache, 0), 3, "what is durable is never stale");
    }

    #[test]
    fn a_flush_makes_the_newest_version_of_everything_durable() {
        let mut cache = cache();
        write(&mut cache, 0, 3, 1);
        write(&mut cache, 1, 1, 2);
        write(&mut cache, 9, 1, 3);
        let Ok(()) = cache.flush();
        let held = [0, 1, 2, 3, 9].map(|sector| sector_of(cache.medium(), sector));
        assert_eq!((held, cache.unflushed()), ([1, 2, 1, 0, 3], 0));
    }

    #[test]
    fn fua_makes_one_write_durable_and_forgets_what_it_overwrote() {
        let mut cache = cache();
        write(&mut cache, 0, 2, 1);
        write_fua(&mut cache, 0, 2);
        assert_eq!([0, 1].map(|sector| sector_of(cache.medium(), sector)), [2, 0]);
        write(&mut cache, 0, 1, 3);
        let met: BTreeSet<u8> =
            (0..50).map(|seed| after_cut(&cache, Keep::Random(seed), 0)).collect();
        assert_eq!(met, BTreeSet::from([2, 3]));
    }

    #[test]
    fn a_cut_keeps_any_version_of_each_sector_alone() {
        let mut cache = cache();
        write(&mut cache, 0, 2, 1);
        let Ok(()) = cache.flush();
        write(&mut cache, 0, 2, 2);
        write(&mut cache, 0, 1, 3);
        assert_eq!([0, 1].map(|sector| after_cut(&cache, Keep::None, sector)), [1, 1]);
        assert_eq!([0, 1].map(|sector| after_cut(&cache, Keep::All, sector)), [3, 2]);
        let met: BTreeSet<_> = (0..200)
            .map(|seed| [0, 1].map(|sector| after_cut(&cache, Keep::Random(seed), sector)))
            .collect();
        assert_eq!(met.len(), 6, "sectors are torn apart, and every version may stay");
    }

    #[test]
    fn a_cut_empties_the_cache_and_counts_what_it_kept() {
        for (keep, kept, left) in [(Keep::None, 0, 1), (Keep::All, 2, 3)] {
            let mut cache = cache();
            write_fua(&mut cache, 0, 1);
            write(&mut cache, 0, 2, 2);
            write(&mut cache, 0, 1, 3);
            assert_eq!(cache.kept(keep).count(), kept);
            let cut = Cut { unflushed: 2, kept: kept as u64 };
            assert_eq!(cache.cut(keep), Ok(cut));
            assert_eq!((sector_of(cache.medium(), 0), cache.unflushed()), (left, 0));
        }
    }

    #[test]
    fn above_its_bound_the_cache_flushes_itself() {
        let mut cache = VolatileCache::new(Image::new(BYTES), 3 * SECTOR as u64);
        write(&mut cache, 0, 1, 1);
        write_fua(&mut cache, 0, 2);
        write(&mut cache, 0, 3, 3);
        assert_eq!((sector_of(cache.medium(), 0), cache.unflushed()), (2, 3), "just full");
        write(&mut cache, 0, 1, 4);
        assert_eq!((sector_of(cache.medium(), 0), cache.unflushed()), (4, 0));
    }

    #[test]
    fn only_whole_sectors_within_the_medium_are_accepted() {
        let cache = cache();
        let sound = [(0, 512), (0, BYTES as usize), (BYTES - 512, 512), (512, 0)];
        let unsound =
            [(1, 512), (0, 100), (BYTES, 512), (BYTES - 512, 1024), (u64::MAX - 511, 512)];
        assert!(sound.iter().all(|(at, len)| cache.accepts(*at, *len)));
        assert!(unsound.iter().all(|(at, len)| !cache.accepts(*at, *len)));
    }

    /// A medium that fails, or takes half of a write and then fails.
    struct Failing(Image, bool);

    impl Backing for Failing {
        type Error = ();

        fn len_bytes(&self) -> u64 {
            self.0.len_bytes()
        }

        fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), ()> {
            if self.1 || !self.0.get(at, buf) { Err(()) } else { Ok(()) }
        }

        fn write(&mut self, at: u64, data: &[u8]) -> Result<(), ()> {
            let len = if self.1 { data.len() / 2 } else { data.len() };
            self.0.put(at, &data[..len]);
            if self.1 { Err(()) } else { Ok(()) }
        }
    }

    #[test]
    fn a_medium_that_fails_loses_nothing_of_the_cache() {
        let mut cache = VolatileCache::new(Failing(Image::new(BYTES), true), u64::MAX);
        assert_eq!(cache.write(0, &[1; 1024]), Ok(()));
        assert_eq!((cache.flush(), cache.cut(Keep::All), cache.unflushed()), (Err(()), Err(()), 2));
        assert_eq!((cache.write_fua(0, &[2; 1024]), cache.unflushed()), (Err(()), 2));
        assert_eq!(cache.read(0, &mut [0; 512]), Err(()));
        cache.medium.1 = false;
        let mut buf = [0; 1024];
        assert_eq!((cache.read(0, &mut buf), buf), (Ok(()), [1; 1024]));
        assert_eq!((cache.flush(), cache.unflushed()), (Ok(()), 0));
    }

    /// Random requests beside the rules in their plainest form: a durable version for each sector
    /// and a list of those since.
    #[test]
    fn any_run_of_requests_keeps_the_rules() {
        const SECTORS: u64 = 12;
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut cache = cache();
            let mut plain = vec![vec![0]; SECTORS as usize];
            for byte in 1..=200 {
                let first = rng.below(SECTORS);
                let sectors = 1 + rng.below(SECTORS - first);
                let range = first as usize..(first + sectors) as usize;
                match rng.below(8) {
                    0 => {
                        let Ok(()) = cache.flush();
                        for held in &mut plain {
                            held.drain(..held.len() - 1);
                        }
                    }
                    1 => {
                        write_fua(&mut cache, first, byte);
                        plain[first as usize] = vec![byte];
                    }
                    _ => {
                        write(&mut cache, first, sectors as usize, byte);
                        for held in &mut plain[range] {
                            held.push(byte);
                        }
                    }
                }
                let (Ok(all), Ok(some)) =
                    (cache.after_cut(Keep::All), cache.after_cut(Keep::Random(rng.next())));
                for (sector, held) in (0..).zip(&plain) {
                    let newest = held[held.len() - 1];
                    let before = held[held.len().saturating_sub(2)];
                    assert_eq!(
                        (read(&cache, sector), read_stale(&cache, sector)),
                        (newest, before)
                    );
                    assert_eq!(sector_of(cache.medium(), sector), held[0]);
                    assert_eq!(sector_of(&all, sector), newest);
                    assert!(held.contains(&sector_of(&some, sector)));
                }
            }
        }
    }
}
