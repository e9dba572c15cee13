// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Parts of files mapped into memory, for reading, so that a medium's error kills nobody.
//!
//! Reading a page of a mapping whose file was cut off, or whose medium fails, raises SIGBUS, which ends a
//! process. The daemon serves a block device and must not end. So every mapping is registered, and a
//! signal handler counts the fault and puts a page of zeroes where the page should be. The reader then goes on
//! with zeroes, and has to compare [`Mapping::faults`] from before and after what it did before it
//! believes any of it.
//!
//! Invariant: a fault is counted before zeroes can be read. A signal for an address that is in no mapping
//! goes where it would have gone without this module. What the bytes should be is not known here.

use std::{
    io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::sync::lock;

/// Mappings that one piece of the register has room for.
const PIECE: usize = 64;

/// A mapping as the signal handler knows it.
struct Slot {
    /// Odd while the range is changed.
    sequence: AtomicUsize,
    start: AtomicUsize,
    /// 0 if the slot is free.
    end: AtomicUsize,
    faults: AtomicU64,
}

/// A piece of the register. Pieces are never freed, so that the handler can read them at any time.
struct Piece {
    slots: [Slot; PIECE],
    next: AtomicPtr<Piece>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            sequence: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            faults: AtomicU64::new(0),
        }
    }

    /// Called with the lock of [`FREE`], so that no two threads do it.
    fn set(&self, start: usize, end: usize) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
        self.start.store(start, Ordering::SeqCst);
        self.end.store(end, Ordering::SeqCst);
        self.sequence.fetch_add(1, Ordering::SeqCst);
    }

    /// The range, if it contains this address. A slot that is being changed cannot be the one of a mapping
    /// that is read.
    fn range_of(&self, address: usize) -> Option<(usize, usize)> {
        let before = self.sequence.load(Ordering::SeqCst);
        let range = (self.start.load(Ordering::SeqCst), self.end.load(Ordering::SeqCst));
        let stable = before.is_multiple_of(2) && self.sequence.load(Ordering::SeqCst) == before;
        (stable && range.0 <= address && address < range.1).then_some(range)
    }
}

impl Piece {
    const fn new() -> Self {
        Self { slots: [const { Slot::new() }; PIECE], next: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Self> {
        // SAFETY: the pointer is null, or of a piece that was leaked before it was published.
        unsafe { self.next.load(Ordering::SeqCst).as_ref() }
    }
}

static FIRST: Piece = Piece::new();
/// The slots that no mapping has; `None` until the first one is asked for.
static FREE: Mutex<Option<Vec<&'static Slot>>> = Mutex::new(None);
static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// What was done about the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn register(start: usize, end: usize) -> &'static Slot {
    let mut free = lock(&FREE);
    let free = free.get_or_insert_with(|| FIRST.slots.iter().collect());
    if free.is_empty() {
        let piece: &'static Piece = Box::leak(Box::new(Piece::new()));
        let mut last = &FIRST;
        while let Some(next) = last.next() {
            last = next;
        }
        last.next.store(std::ptr::from_ref(piece).cast_mut(), Ordering::SeqCst);
        free.extend(&piece.slots);
    }
    // There is one: a piece has more than none.
    let slot = free.pop().unwrap_or(&FIRST.slots[0]);
    slot.set(start, end);
    slot
}

fn deregister(slot: &'static Slot) {
    let mut free = lock(&FREE);
    slot.set(0, 0);
    if let Some(free) = free.as_mut() {
        free.push(slot);
    }
}

/// Installs the handler, once for the process.
fn install() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = lock(&INSTALLED);
    if *installed {
        return Ok(());
    }
    // SAFETY: both structures are plain numbers, valid when zero, and the handler below does only what a
    // signal handler may: it reads atomics and makes system calls that touch no lock and no errno.
    unsafe {
        let page = libc::sysconf(libc::_SC_PAGESIZE);
        PAGE.store(usize::try_from(page).unwrap_or(4096), Ordering::SeqCst);
        let mut before: libc::sigaction = std::mem::zeroed();
        let mut handler: libc::sigaction = std::mem::zeroed();
        let function: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        handler.sa_sigaction = function as libc::sighandler_t;
        // The alternative stack is for a stack overflow, of which the runtime's handler tells.
        handler.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGBUS, &raw const handler, &raw mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        let _ = BEFORE.set(before);
    }
    *installed = true;
    Ok(())
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel hands over a valid structure, of a fault with an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut piece = Some(&FIRST);
    while let Some(this) = piece {
        for slot in &this.slots {
            if let Some((start, end)) = slot.range_of(address)
                && replace(slot, address, start, end)
            {
                return;
            }
        }
        piece = this.next();
    }
    pass_on(signal, info, context);
}

/// Counts the fault, then puts zeroes in the page's place; if there is no room for one more part of a
/// mapping, in the whole mapping's.
fn replace(slot: &Slot, address: usize, start: usize, end: usize) -> bool {
    slot.faults.fetch_add(1, Ordering::SeqCst);
    let page = PAGE.load(Ordering::SeqCst);
    let zeroes = |at: usize, length: usize| {
        let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(at);
        // SAFETY: the range is inside a mapping that the reader holds (it has just read from it), and
        // nobody writes to mappings; whoever reads finds zeroes instead of an error.
        unsafe {
            mmap_anonymous(at, length, ProtFlags::READ, MapFlags::PRIVATE | MapFlags::FIXED).is_ok()
        }
    };
    zeroes(address & !(page - 1), page) || zeroes(start, (end - start).next_multiple_of(page))
}

/// Does what would have been done without this handler.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.get();
    match before {
        Some(before)
            if before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != libc::SIG_IGN =>
        {
            // SAFETY: whoever installed the action gave a function of the kind that its flags say.
            unsafe {
                if before.sa_flags & libc::SA_SIGINFO != 0 {
                    let function: extern "C" fn(
                        libc::c_int,
                        *mut libc::siginfo_t,
                        *mut libc::c_void,
                    ) = std::mem::transmute(before.sa_sigaction);
                    function(signal, info, context);
                } else {
                    let function: extern "C" fn(libc::c_int) =
                        std::mem::transmute(before.sa_sigaction);
                    function(signal);
                }
            }
        }
        // SAFETY: resets the signal; what raised it is tried again and ends the process.
        _ => unsafe {
            libc::signal(signal, libc::SIG_DFL);
        },
    }
}

/// A part of a file, mapped for reading. Whoever makes it sees to it that the file's bytes there are not
/// written to while it lives.
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
    slot: &'static Slot,
    /// The slot's count when the mapping was made.
    base: u64,
}

// SAFETY: the memory is only read, by any thread, and belongs to this value alone.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes of a file, from byte `at`, a multiple of the page size.
    pub fn of(file: impl AsFd, at: u64, length: usize) -> io::Result<Self> {
        install()?;
        // SAFETY: the kernel chooses the place, so nothing that exists is touched.
        let start = unsafe {
            mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, at)?
        };
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let first = start.as_ptr().expose_provenance();
        let slot = register(first, first + length);
        Ok(Self { start, length, slot, base: slot.faults.load(Ordering::SeqCst) })
    }

    /// The bytes; zeroes where they cannot be read.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped until this value is dropped. Its pages are those of the file, which
        // nobody writes to, or zeroes; that the latter can come in the middle of a read is what
        // `faults` is for: numbers are copied out of here and never followed unchecked.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// How many pages could not be read so far.
    #[inline]
    pub fn faults(&self) -> u64 {
        self.slot.faults.load(Ordering::SeqCst).wrapping_sub(self.base)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        deregister(self.slot);
        // SAFETY: the mapping was made by `of` with this length, and nobody can read it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_off_under_a_mapping_reads_as_zeroes_and_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 5 * 4096]).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mapping = Mapping::of(&file, 4096, 4 * 4096).unwrap();
        assert!(mapping.bytes().iter().all(|&byte| byte == 7));
        assert_eq!(mapping.faults(), 0);
        file.set_len(3 * 4096).unwrap();
        assert!(mapping.bytes()[..2 * 4096].iter().all(|&byte| byte == 7));
        assert_eq!(mapping.faults(), 0);
        assert!(mapping.bytes()[2 * 4096..].iter().all(|&byte| byte == 0));
        assert!((1..=2).contains(&mapping.faults()), "{}", mapping.faults());
        // A new mapping in the same slot of the register begins at 0.
        drop(mapping);
        let mapping = Mapping::of(&file, 0, 4096).unwrap();
        assert!(mapping.faults() == 0 && mapping.bytes()[0] == 7);
    }

    #[test]
    fn faults_of_many_mappings_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: usize| {
            let path = dir.path().join(name.to_string());
            std::fs::write(&path, [1; 4096]).unwrap();
            std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
        };
        let files: Vec<_> = (0..3 * PIECE).map(open).collect();
        let mappings: Vec<_> =
            files.iter().map(|file| Mapping::of(file, 0, 4096).unwrap()).collect();
        for file in files.iter().step_by(5) {
            file.set_len(0).unwrap();
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (i, mapping) in mappings.iter().enumerate() {
                        let seen = mapping.bytes()[9];
                        let cut = i % 5 == 0;
                        assert_eq!((seen == 0, mapping.faults() > 0), (cut, cut), "{i}");
                    }
                });
            }
        });
    }
}
