// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A device in memory with a volatile cache, which can lose power, fail and misbehave on command, and
//! records what it is asked to do.
//!
//! What a cut leaves is decided by [`VolatileCache`] alone; here are the faults that hit a request
//! before it gets there. The device is used by one thread and knows no time.

use crate::cache::{Keep, VolatileCache};
use crate::image::{Image, flip_bit};
use crate::recording::{Event, Request};
use crate::rng::Rng;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use vexfs::{Device, DeviceError};

const EIO: DeviceError = DeviceError::Io(5);

/// Which kind of request a fault is for.
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
    /// It reports success and does nothing (a lost write, an ignored flush).
    Ignore,
    /// A write goes to this byte instead.
    Misdirect(u64),
    /// A read returns, or a write stores, this bit (counted from the request's start) inverted.
    Flip(u64),
    /// The power goes while it is under way: a write may have happened, nothing later does.
    PowerOff,
}

/// A fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The kind of request it is for.
    pub on: On,
    /// First byte of the range it is for.
    pub from: u64,
    /// The byte after the range.
    pub to: u64,
    /// How many such requests pass unharmed first.
    pub skip: u64,
    /// How many it hits then.
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
    cache: RefCell<VolatileCache<Image>>,
    faults: RefCell<Vec<Fault>>,
    off: Cell<bool>,
    failed: Cell<bool>,
    ignores_flushes: Cell<bool>,
    requests: Cell<u64>,
    /// The events since [`CacheDevice::record`].
    events: RefCell<Option<Vec<Event>>>,
}

impl CacheDevice {
    /// A device that holds `image`, with an empty cache.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            cache: RefCell::new(VolatileCache::new(image, u64::MAX)),
            faults: RefCell::default(),
            off: Cell::new(false),
            failed: Cell::new(false),
            ignores_flushes: Cell::new(false),
            requests: Cell::new(0),
            events: RefCell::default(),
        }
    }

    /// Starts a recording: every request that changes something, as it is carried out.
    pub fn record(&self) {
        self.events.borrow_mut().get_or_insert_default();
    }

    /// How many events were recorded so far.
    pub fn recorded(&self) -> usize {
        self.events.borrow().as_ref().map_or(0, Vec::len)
    }

    /// The events recorded so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.borrow().clone().unwrap_or_default()
    }

    /// Ends the recording and returns it.
    pub fn take_record(&self) -> Vec<Event> {
        self.events.borrow_mut().take().unwrap_or_default()
    }

    /// Records a request, if there is a recording.
    fn add_event(&self, request: impl FnOnce() -> Request, completes: bool) {
        if let Some(events) = self.events.borrow_mut().as_mut() {
            let id = self.requests.get();
            events.push(Event::Submit { id, request: request() });
            if completes {
                events.push(Event::Complete { id, ok: true });
            }
        }
    }

    /// The contents of the medium if the power went at this moment. The device goes on as it is.
    #[must_use]
    pub fn cut(&self, keep: Keep) -> Image {
        let Ok(image) = self.cache.borrow().after_cut(keep);
        image
    }

    /// A hash of what such a cut takes from the cache and of the number of requests so far: it
    /// tells the states of one run apart.
    #[must_use]
    pub fn hash_of_cut(&self, keep: Keep) -> u64 {
        let mut hash = Rng::new(self.requests.get()).next();
        for (sector, version) in self.cache.borrow().kept(keep) {
            let (words, _) = version.as_chunks::<8>();
            for word in std::iter::once(&sector.to_le_bytes()).chain(words) {
                hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
                hash ^= hash >> 32;
            }
        }
        hash
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

    /// Whether every flush reports success and does nothing; [`mend`](Self::mend) does not change it.
    pub fn ignore_flushes(&self, ignore: bool) {
        self.ignores_flushes.set(ignore);
    }

    /// True after a [`Effect::PowerOff`].
    pub fn is_off(&self) -> bool {
        self.off.get()
    }

    /// True after an [`Effect::Fail`].
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// How many requests there were, reads included.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Sectors in the cache.
    pub fn unflushed(&self) -> usize {
        self.cache.borrow().unflushed()
    }

    /// Counts a request and returns what a fault does to it. The first fault that is for it counts.
    fn inject(&self, on: On, at: u64, len: u64) -> Result<Option<Effect>, DeviceError> {
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

    fn submit_write(&self, at: u64, data: &[u8], fua: bool) -> Result<(), DeviceError> {
        let mut at = at;
        let mut data = Cow::Borrowed(data);
        let effect = self.inject(On::Write, at, data.len() as u64)?;
        match effect {
            Some(Effect::Ignore) => return Ok(()),
            Some(Effect::Misdirect(to)) => at = to,
            Some(Effect::Flip(bit)) => flip_bit(data.to_mut(), bit),
            _ => {}
        }
        let mut cache = self.cache.borrow_mut();
        if !cache.accepts(at, data.len()) {
            return Err(EIO);
        }
        let completes = effect != Some(Effect::PowerOff);
        self.add_event(|| Request::Write { at, data: (&*data).into(), fua }, completes);
        // A write that was cut off is like a plain one, with FUA or without.
        let Ok(()) =
            if fua && completes { cache.write_fua(at, &data) } else { cache.write(at, &data) };
        if completes { Ok(()) } else { Err(EIO) }
    }
}

impl Device for CacheDevice {
    fn len_bytes(&self) -> u64 {
        self.cache.borrow().medium().len_bytes()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        let effect = self.inject(On::Read, at, buf.len() as u64)?;
        let cache = self.cache.borrow();
        if effect == Some(Effect::PowerOff) || !cache.accepts(at, buf.len()) {
            return Err(EIO);
        }
        let Ok(()) = cache.read(at, buf);
        if let Some(Effect::Flip(bit)) = effect {
            flip_bit(buf, bit);
        }
        Ok(())
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.submit_write(at, data, false)
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.submit_write(at, data, true)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        match self.inject(On::Flush, 0, 0)? {
            Some(Effect::Ignore) => return Ok(()),
            Some(Effect::PowerOff) => {
                self.add_event(|| Request::Flush, false);
                return Err(EIO);
            }
            _ => {}
        }
        if self.ignores_flushes.get() {
            return Ok(());
        }
        self.add_event(|| Request::Flush, true);
        let Ok(()) = self.cache.borrow_mut().flush();
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
    fn every_request_reaches_the_cache_and_the_recording() {
        let d = CacheDevice::new(Image::new(1 << 16));
        d.record();
        d.write(0, &[1; 1024]).unwrap();
        assert_eq!((byte(&d.cut(Keep::None), 0), d.unflushed()), (0, 2));
        d.write_fua(512, &[2; 512]).unwrap();
        assert_eq!((byte(&d.cut(Keep::None), 0), byte(&d.cut(Keep::None), 512)), (0, 2));
        d.flush().unwrap();
        assert_eq!((byte(&d.cut(Keep::None), 0), d.unflushed(), d.requests()), (1, 0, 3));
        let events = d.take_record();
        assert_eq!((events.len(), d.recorded()), (6, 0));
        let recording = crate::Recording { base: Image::new(1 << 16), events };
        for (at, left) in [(0, (0, 0)), (2, (0, 0)), (4, (0, 2)), (6, (1, 2))] {
            let image = recording.image_at(at, Keep::None);
            assert_eq!((byte(&image, 0), byte(&image, 512)), left);
        }
    }

    #[test]
    fn a_request_for_no_range_of_the_device_fails() {
        let d = CacheDevice::new(Image::new(1 << 16));
        let mut buf = [0; 512];
        for (at, len) in [(1, 512), (1 << 16, 512), (0, 100), (u64::MAX - 511, 512)] {
            assert_eq!(d.write(at, &buf[..len]), Err(EIO));
            assert_eq!(d.write_fua(at, &buf[..len]), Err(EIO));
            assert_eq!(d.read(at, &mut buf[..len]), Err(EIO));
        }
        assert_eq!(d.unflushed(), 0);
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
