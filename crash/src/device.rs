// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A device with a volatile cache that can lose power, lie and fail.
//!
//! Invariant: `medium` is what survives the worst cut; `cache` holds, for each sector written since
//! the last flush, every version of it in order. A cut chooses one version for each sector alone.

use crate::image::{Image, SECTOR, Sector};
use crate::recording::{Event, Request};
use crate::rng::Rng;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use vexfs::{Device, DeviceError};

const EIO: DeviceError = DeviceError::Io(5);

/// What a cut keeps of the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Nothing.
    None,
    /// The newest version of every sector.
    All,
    /// For each sector any version it had, chosen by this seed.
    Random(u64),
}

/// Which requests a fault is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// Reads.
    Read,
    /// Writes, with FUA or without.
    Write,
    /// Flushes.
    Flush,
    /// Everything.
    Any,
}

/// What a fault does to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It fails with this error number and does nothing.
    Fail(i32),
    /// It claims to have been done (a write lost, a flush ignored).
    Ignore,
    /// A write goes to this byte instead.
    Misdirect(u64),
    /// A read returns, or a write stores, this bit (counted from the request's start) inverted.
    Flip(u64),
    /// Power goes while it is under way: a write may have happened, nothing later does.
    PowerOff,
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// For which requests.
    pub on: On,
    /// First byte of the range it is for.
    pub from: u64,
    /// The byte after it.
    pub to: u64,
    /// Requests that still pass.
    pub skip: u64,
    /// Requests it hits then.
    pub times: u64,
    /// What happens to them.
    pub effect: Effect,
}

impl Fault {
    /// A fault that hits the `nth` request of a kind, counted from 0, wherever it goes, once.
    #[must_use]
    pub const fn nth(on: On, nth: u64, effect: Effect) -> Self {
        Self { on, from: 0, to: u64::MAX, skip: nth, times: 1, effect }
    }
}

/// The device.
#[derive(Debug)]
pub struct CacheDevice {
    medium: RefCell<Image>,
    cache: RefCell<BTreeMap<u64, Vec<Sector>>>,
    faults: RefCell<Vec<Fault>>,
    off: Cell<bool>,
    failed: Cell<bool>,
    lies: Cell<bool>,
    requests: Cell<u64>,
    /// What happened since [`CacheDevice::record`].
    record: RefCell<Option<Vec<Event>>>,
}

impl CacheDevice {
    /// A device that holds `image`, its cache empty.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            medium: RefCell::new(image),
            cache: RefCell::default(),
            faults: RefCell::default(),
            off: Cell::new(false),
            failed: Cell::new(false),
            lies: Cell::new(false),
            requests: Cell::new(0),
            record: RefCell::default(),
        }
    }

    /// Keeps, from now on, every request that changes something, as it was carried out.
    pub fn record(&self) {
        self.record.borrow_mut().get_or_insert_default();
    }

    /// Events recorded so far.
    pub fn recorded(&self) -> usize {
        self.record.borrow().as_ref().map_or(0, Vec::len)
    }

    /// What was recorded so far.
    pub fn events(&self) -> Vec<Event> {
        self.record.borrow().clone().unwrap_or_default()
    }

    /// Ends the recording and returns it.
    pub fn take_record(&self) -> Vec<Event> {
        self.record.borrow_mut().take().unwrap_or_default()
    }

    fn note(&self, request: impl FnOnce() -> Request, completes: bool) {
        if let Some(events) = self.record.borrow_mut().as_mut() {
            let id = self.requests.get();
            events.push(Event::Submit { id, request: request() });
            if completes {
                events.push(Event::Complete { id, ok: true });
            }
        }
    }

    /// What the medium holds if power goes now.
    #[must_use]
    pub fn cut(&self, keep: Keep) -> Image {
        let mut image = self.medium.borrow().clone();
        self.chosen(keep, &mut |sector, version| {
            image.put(sector * SECTOR as u64, version);
        });
        image
    }

    /// A hash that differs where two cuts leave something else, here or after other requests.
    #[must_use]
    pub fn hash_of_cut(&self, keep: Keep) -> u64 {
        let mut hash = Rng::new(self.requests.get()).next();
        self.chosen(keep, &mut |sector, version| {
            let (words, _) = version.as_chunks::<8>();
            for word in std::iter::once(&sector.to_le_bytes()).chain(words) {
                hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
                hash ^= hash >> 32;
            }
        });
        hash
    }

    /// The versions of the cache that a cut keeps.
    fn chosen(&self, keep: Keep, each: &mut dyn FnMut(u64, &Sector)) {
        let mut rng = Rng::new(if let Keep::Random(seed) = keep { seed } else { 0 });
        for (sector, versions) in self.cache.borrow().iter() {
            let chosen = match keep {
                Keep::None => 0,
                Keep::All => versions.len(),
                Keep::Random(_) => rng.below(versions.len() as u64 + 1) as usize,
            };
            if let Some(version) = chosen.checked_sub(1).and_then(|i| versions.get(i)) {
                each(*sector, version);
            }
        }
    }

    /// Sets a fault.
    pub fn fault(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    /// Clears all faults and turns the power on; the cache stays as it is.
    pub fn mend(&self) {
        self.faults.borrow_mut().clear();
        self.off.set(false);
        self.failed.set(false);
    }

    /// Makes every flush a lie, or none; [`mend`](Self::mend) does not change it.
    pub fn ignore_flushes(&self, lies: bool) {
        self.lies.set(lies);
    }

    /// True after a [`Effect::PowerOff`].
    pub fn is_off(&self) -> bool {
        self.off.get()
    }

    /// True after an [`Effect::Fail`].
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Sectors in the cache.
    pub fn unflushed(&self) -> usize {
        self.cache.borrow().len()
    }

    /// The fault that hits this request.
    fn meet(&self, on: On, at: u64, len: u64) -> Result<Option<Effect>, DeviceError> {
        self.requests.set(self.requests.get() + 1);
        if self.off.get() {
            return Err(EIO);
        }
        for fault in self.faults.borrow_mut().iter_mut() {
            let ranged = on == On::Flush || (at < fault.to && at.saturating_add(len) > fault.from);
            if (fault.on != on && fault.on != On::Any) || !ranged || fault.times == 0 {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.times -= 1;
            match fault.effect {
                Effect::Fail(errno) => {
                    self.failed.set(true);
                    return Err(DeviceError::Io(errno));
                }
                Effect::PowerOff => self.off.set(true),
                _ => {}
            }
            return Ok(Some(fault.effect));
        }
        Ok(None)
    }

    fn put(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        let inside = at.checked_add(data.len() as u64).is_some_and(|end| end <= self.len_bytes());
        if !inside || !at.is_multiple_of(SECTOR as u64) {
            return Err(EIO);
        }
        let mut cache = self.cache.borrow_mut();
        let (sectors, rest) = data.as_chunks::<SECTOR>();
        if !rest.is_empty() {
            return Err(EIO);
        }
        for (index, sector) in sectors.iter().enumerate() {
            cache.entry(at / SECTOR as u64 + index as u64).or_default().push(*sector);
        }
        Ok(())
    }

    /// Makes a written range durable.
    fn settle(&self, at: u64, data: &[u8]) {
        let mut cache = self.cache.borrow_mut();
        for index in 0..(data.len() / SECTOR) as u64 {
            cache.remove(&(at / SECTOR as u64 + index));
        }
        self.medium.borrow_mut().put(at, data);
    }

    fn write_any(&self, at: u64, data: &[u8], fua: bool) -> Result<(), DeviceError> {
        let mut at = at;
        let mut data = std::borrow::Cow::Borrowed(data);
        let request = |at, data: &[u8]| Request::Write { at, data: data.into(), fua };
        match self.meet(On::Write, at, data.len() as u64)? {
            Some(Effect::Ignore) => return Ok(()),
            Some(Effect::PowerOff) => {
                self.put(at, &data)?;
                self.note(|| request(at, &data), false);
                return Err(EIO);
            }
            Some(Effect::Misdirect(to)) => at = to,
            Some(Effect::Flip(bit)) => {
                if let Some(byte) = data.to_mut().get_mut((bit / 8) as usize) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            _ => {}
        }
        self.put(at, &data)?;
        self.note(|| request(at, &data), true);
        if fua {
            self.settle(at, &data);
        }
        Ok(())
    }
}

impl Device for CacheDevice {
    fn len_bytes(&self) -> u64 {
        self.medium.borrow().len_bytes()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        let effect = self.meet(On::Read, at, buf.len() as u64)?;
        if effect == Some(Effect::PowerOff) || !self.medium.borrow().get(at, buf) {
            return Err(EIO);
        }
        let cache = self.cache.borrow();
        let (first, sectors) = (at / SECTOR as u64, (buf.len() / SECTOR) as u64);
        for (sector, versions) in cache.range(first..first + sectors) {
            let from = (sector - first) as usize * SECTOR;
            if let (Some(to), Some(newest)) = (buf.get_mut(from..from + SECTOR), versions.last()) {
                to.copy_from_slice(newest);
            }
        }
        if let Some(Effect::Flip(bit)) = effect
            && let Some(byte) = buf.get_mut((bit / 8) as usize)
        {
            *byte ^= 1 << (bit % 8);
        }
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write_any(at, data, false)
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write_any(at, data, true)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        match self.meet(On::Flush, 0, 0)? {
            Some(Effect::Ignore) => return Ok(()),
            Some(Effect::PowerOff) => {
                self.note(|| Request::Flush, false);
                return Err(EIO);
            }
            _ => {}
        }
        if self.lies.get() {
            return Ok(());
        }
        self.note(|| Request::Flush, true);
        let mut medium = self.medium.borrow_mut();
        for (sector, versions) in std::mem::take(&mut *self.cache.borrow_mut()) {
            if let Some(newest) = versions.last() {
                medium.put(sector * SECTOR as u64, newest);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(image: &Image, at: u64) -> u8 {
        image.bytes(at, 1)[0]
    }

    #[test]
    fn a_cut_keeps_what_was_flushed_and_any_version_since() {
        let d = CacheDevice::new(Image::new(1 << 16));
        d.write(0, &[1; 1024]).unwrap();
        d.flush().unwrap();
        d.write(0, &[2; 1024]).unwrap();
        d.write(0, &[3; 512]).unwrap();
        d.write_fua(2048, &[9; 512]).unwrap();
        assert_eq!(byte(&d.cut(Keep::None), 0), 1);
        assert_eq!(byte(&d.cut(Keep::All), 0), 3);
        assert_eq!(byte(&d.cut(Keep::All), 512), 2);
        let mut met = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let image = d.cut(Keep::Random(seed));
            assert_eq!(byte(&image, 2048), 9);
            met.insert((byte(&image, 0), byte(&image, 512)));
        }
        assert_eq!(met.len(), 6, "sectors are torn apart, and every version may stay");
    }

    #[test]
    fn fua_forgets_what_was_there_before() {
        let d = CacheDevice::new(Image::new(1 << 16));
        d.write(0, &[1; 512]).unwrap();
        d.write_fua(0, &[2; 512]).unwrap();
        d.write(0, &[3; 512]).unwrap();
        for seed in 0..50 {
            assert_ne!(byte(&d.cut(Keep::Random(seed)), 0), 1);
        }
    }

    #[test]
    fn faults_hit_what_they_are_for() {
        let d = CacheDevice::new(Image::new(1 << 16));
        d.fault(Fault::nth(On::Write, 1, Effect::Fail(28)));
        d.fault(Fault { from: 4096, to: 8192, ..Fault::nth(On::Read, 0, Effect::Fail(5)) });
        d.write(0, &[1; 512]).unwrap();
        assert_eq!(d.write(0, &[2; 512]), Err(DeviceError::Io(28)));
        d.write(0, &[3; 512]).unwrap();
        let mut buf = [0; 512];
        d.read(0, &mut buf).unwrap();
        assert_eq!(d.read(7680, &mut buf), Err(DeviceError::Io(5)));
        d.read(7680, &mut buf).unwrap();
        d.fault(Fault::nth(On::Flush, 0, Effect::Ignore));
        d.flush().unwrap();
        assert_eq!(byte(&d.cut(Keep::None), 0), 0);
        d.flush().unwrap();
        assert_eq!(byte(&d.cut(Keep::None), 0), 3);
        d.fault(Fault::nth(On::Write, 0, Effect::Misdirect(4096)));
        d.write(512, &[7; 512]).unwrap();
        assert_eq!((byte(&d.cut(Keep::All), 512), byte(&d.cut(Keep::All), 4096)), (0, 7));
        d.fault(Fault::nth(On::Any, 1, Effect::PowerOff));
        d.flush().unwrap();
        assert!(d.write(0, &[8; 512]).is_err() && d.flush().is_err() && d.is_off());
        assert_eq!((byte(&d.cut(Keep::None), 0), byte(&d.cut(Keep::All), 0)), (3, 8));
    }
}
