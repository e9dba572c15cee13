// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! One filesystem on the image: which vector files it holds, and which of their slots the index
//! has yet to read again.
//!
//! The order is what makes it right. A cycle first moves to the newest committed tree and learns
//! from it where files lie; then it takes the marks of what was written, which may come from
//! later commits; then it reads slots. Before a slot that was read is believed, the tree is looked
//! at once more: if a commit came meanwhile and moved the file, its blocks may be somebody else's
//! by now, and the slots are read again. So a slot of a file is never fed with another file's
//! bytes, and a slot written after it was read is marked and comes again.
//!
//! Rows in holes are not indexed. Everything is idempotent.

use super::header::{Layout, Trouble, layout};
use super::slots::{Extent, Ranges, Rows, Run, first_run, moved, written};
use crate::log_line;
use crate::observe::{DirtyLog, DirtyRange};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use vexfs::follow::{Change, Follower};
use vexfs::{Device, DeviceError, Error, Generation, Ino, Inode, VectorLayout};
use vexfs_index::{FileId, Index, Slot};

/// Bytes of tree nodes kept in memory.
const CACHE_BYTES: usize = 4 << 20;
/// Bytes of a file's start that are looked at for a header.
const HEADER_BYTES: u64 = 4096;
/// Bytes read at once.
const BATCH_BYTES: u64 = 1 << 20;
/// How often a walk is begun again because the tree moved on, before somebody else gets a turn.
const WALKS: usize = 64;
/// A file with more unreadable rows than this is not indexed at all.
const UNREADABLE_MAX: usize = 1024;

/// What is known of a vector file.
#[derive(Debug)]
struct VectorFile {
    attribute: VectorLayout,
    size: u64,
    extents: Vec<Extent>,
    slots: Result<Slots, Trouble>,
    /// Grows when the file's place or layout changes.
    epoch: u64,
}

/// The slots of a file that can be indexed.
#[derive(Debug)]
struct Slots {
    layout: Layout,
    /// Those whose vectors are there.
    present: Ranges,
    /// Those to be read again.
    todo: Ranges,
    /// Those that the medium did not give back when they were read.
    unreadable: BTreeSet<u64>,
}

/// Slots on their way into the index: all of them present, or none.
struct Batch {
    ino: u64,
    epoch: u64,
    rows: Rows,
    slots: Range<u64>,
    present: bool,
}

/// What became of slots that were to be read.
enum Fed {
    Whole,
    /// The file moved meanwhile: they have to be read again.
    Moved,
    Unreadable(DeviceError),
}

/// The vector files of one filesystem.
pub struct Tracker<D> {
    follower: Follower<D>,
    /// The same device, for file contents.
    device: D,
    index: Arc<Index>,
    observer: Arc<DirtyLog>,
    files: BTreeMap<u64, VectorFile>,
    /// First byte on the device of each extent of a vector file: its end, the file, the byte there.
    places: BTreeMap<u64, (u64, u64, u64)>,
    seen: Generation,
    /// Writes to the root ring when the tree was last looked at.
    roots: u64,
    /// Vector files whose first block was written.
    headers: BTreeSet<u64>,
    /// Whether overwrites are known from marks; not so for what happened before this daemon.
    marks_complete: bool,
    moved: bool,
    block_shift: u32,
}

impl<D: Device + Clone> Tracker<D> {
    /// Opens the filesystem on the device. `index` may hold files of an earlier run: they are
    /// verified against the image, row by row, and dropped if they are gone.
    pub fn open(device: D, index: Arc<Index>, observer: Arc<DirtyLog>) -> Result<Self, Error> {
        let mut follower = Follower::open(device.clone(), CACHE_BYTES)?;
        let block_shift = follower.volume().geometry().block_shift;
        observer.set_block_shift(block_shift);
        Ok(Self {
            follower,
            device,
            index,
            observer,
            files: BTreeMap::new(),
            places: BTreeMap::new(),
            seen: Generation(0),
            roots: u64::MAX,
            headers: BTreeSet::new(),
            marks_complete: false,
            moved: false,
            block_shift,
        })
    }

    /// The generation that the index follows.
    pub fn generation(&self) -> u64 {
        self.seen.0
    }

    /// Writes to the root ring that were looked at.
    pub fn roots(&self) -> u64 {
        self.roots
    }

    /// Slots to be read again.
    pub fn pending(&self) -> u64 {
        self.files.values().flat_map(|file| &file.slots).map(|slots| slots.todo.count()).sum()
    }

    /// Vector files, and what is to be said of them.
    pub fn files(&self) -> impl Iterator<Item = (u64, Option<Trouble>)> {
        self.files.iter().map(|(ino, file)| (*ino, file.trouble()))
    }

    /// Moves to the newest tree, takes the marks, and reads one batch of slots. True: there is more,
    /// or the tree moves on too fast and has to be looked at again.
    pub fn cycle(&mut self) -> Result<bool, Error> {
        match self.look().and_then(|()| self.step()) {
            Err(Error::Stale) => Ok(true),
            other => other,
        }
    }

    /// Learns what was committed and what was written.
    fn look(&mut self) -> Result<(), Error> {
        if self.observer.root_writes() != self.roots {
            self.sync()?;
        }
        if self.moved {
            let ends = self.places.iter();
            self.observer
                .watch(ends.map(|(start, (end, ..))| DirtyRange { start: *start, end: *end }));
            self.moved = false;
        }
        let dirty = self.observer.drain();
        self.overwritten(&dirty);
        while let Some(ino) = self.headers.first().copied() {
            self.refresh(Ino(ino))?;
            self.headers.remove(&ino);
        }
        Ok(())
    }

    /// Brings the files to the newest tree.
    fn sync(&mut self) -> Result<(), Error> {
        for _ in 0..WALKS {
            let roots = self.observer.root_writes();
            self.follower.poll()?;
            let generation = self.follower.generation();
            if generation == self.seen {
                self.roots = roots;
                return Ok(());
            }
            match self.walk() {
                Ok(()) => {
                    self.seen = generation;
                    self.roots = roots;
                    self.marks_complete = true;
                    return Ok(());
                }
                Err(Error::Stale) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Stale)
    }

    fn walk(&mut self) -> Result<(), Error> {
        let mut touched: BTreeSet<u64> = BTreeSet::new();
        let known: BTreeSet<u64> =
            self.files.keys().copied().chain(self.index.files().iter().map(|f| f.0)).collect();
        self.follower.changes(self.seen, &mut |change| {
            match change {
                Change::Range { first, last } => {
                    touched.extend(known.range(first.0..=last.0));
                }
                Change::Inode(inode) if inode.vector && inode.is_file() => {
                    touched.insert(inode.ino.0);
                }
                Change::Inode(_) => {}
            }
            Ok(())
        })?;
        for ino in touched {
            self.refresh(Ino(ino))?;
        }
        Ok(())
    }

    /// Looks at one file again.
    fn refresh(&mut self, ino: Ino) -> Result<(), Error> {
        let Some((inode, attribute)) = self.attributes(ino)? else {
            self.forget(ino.0);
            return Ok(());
        };
        let extents = Extent::all(&self.follower.written(ino)?);
        let head = 0..if attribute.auto_header { HEADER_BYTES.min(inode.size) } else { 0 };
        let found = match read_extents(&self.device, &extents, self.block_shift, &head) {
            Ok(first) => layout(&attribute, &first),
            Err(e @ Error::Device(_)) => {
                Err(Trouble::Unusable(format!("its first block cannot be read: {e}")))
            }
            Err(e) => return Err(e),
        };
        let old = self.files.remove(&ino.0);
        let found = found.inspect_err(|_| {
            // What the index had of it is of another layout.
            self.index.drop_file(FileId(ino.0));
        });
        let compared = found
            .and_then(|layout| self.compare(ino.0, old.as_ref(), layout, inode.size, &extents));
        let (slots, changed) = match compared {
            Ok((slots, changed)) => (Ok(slots), changed),
            Err(why) => (Err(why), true),
        };
        let epoch = old.as_ref().map_or(0, |old| old.epoch) + u64::from(changed);
        let file = VectorFile { attribute, size: inode.size, extents, slots, epoch };
        if old.as_ref().is_none_or(|old| old.extents != file.extents) {
            if let Some(old) = &old {
                self.unplace(ino.0, &old.extents);
            }
            self.place(ino.0, &file.extents);
        }
        self.files.insert(ino.0, file);
        Ok(())
    }

    /// A regular file with a name and a vector attribute, or nothing.
    fn attributes(&mut self, ino: Ino) -> Result<Option<(Inode, VectorLayout)>, Error> {
        let found = self.follower.volume().resolve(|volume| {
            let inode = volume.inode(ino)?;
            if !inode.vector || !inode.is_file() || inode.nlink == 0 {
                return Ok(None);
            }
            Ok(volume.vector(ino)?.map(|attribute| (inode, attribute)))
        });
        match found.map_err(|e| self.follower.judge(e)) {
            Err(Error::NotFound) => Ok(None),
            other => other,
        }
    }

    /// Finds out which slots of the file have to be read again, and whether its place or layout
    /// changed.
    fn compare(
        &self,
        ino: u64,
        old: Option<&VectorFile>,
        layout: Layout,
        size: u64,
        extents: &[Extent],
    ) -> Result<(Slots, bool), Trouble> {
        let rows = layout.rows;
        let (count, _) = rows.count(size);
        let mut slots = Slots {
            layout,
            present: Ranges::default(),
            todo: Ranges::default(),
            unreadable: BTreeSet::new(),
        };
        for range in written(extents, self.block_shift, size).iter() {
            let within = rows.within(&range);
            slots.present.insert(within.start..within.end.min(count));
        }
        let fresh = self
            .index
            .declare(FileId(ino), layout.space, layout.params)
            .map_err(|e| Trouble::Unusable(e.to_string()))?;
        self.index.truncate(FileId(ino), count);
        // The bytes of a file that was there before this daemon, or that changed while nobody
        // marked, cannot be known to be those that were indexed.
        let known = old
            .filter(|_| !fresh && self.marks_complete)
            .and_then(|old| Some((old, old.slots.as_ref().ok()?)))
            .filter(|(_, before)| before.layout == layout);
        let Some((old, before)) = known else {
            slots.todo.insert(0..count);
            return Ok((slots, true));
        };
        slots.todo = before.todo.clone();
        slots.todo.truncate(count);
        slots.unreadable = before.unreadable.range(..count).copied().collect();
        if old.size == size && old.extents == extents {
            return Ok((slots, false));
        }
        let (had, _) = rows.count(old.size);
        slots.todo.insert(had.min(count)..count);
        for range in moved(&old.extents, extents, self.block_shift).iter() {
            let touched = rows.touching(&range);
            slots.todo.insert(touched.start..touched.end.min(count));
        }
        // Rows that lost their blocks, and those that got them back.
        for (one, other) in [(&before.present, &slots.present), (&slots.present, &before.present)] {
            for mut range in one.iter() {
                while !range.is_empty() {
                    let (end, both) = other.run(&range);
                    if !both {
                        slots.todo.insert(range.start..end.min(count));
                    }
                    range.start = end;
                }
            }
        }
        Ok((slots, true))
    }

    fn forget(&mut self, ino: u64) {
        self.index.drop_file(FileId(ino));
        if let Some(file) = self.files.remove(&ino) {
            self.unplace(ino, &file.extents);
        }
    }

    fn spans(&self, extents: &[Extent]) -> Vec<(u64, u64, u64)> {
        let shift = self.block_shift;
        let span = |extent: &Extent| {
            let start = extent.block << shift;
            (start, start + (extent.count << shift), extent.start << shift)
        };
        extents.iter().map(span).collect()
    }

    fn place(&mut self, ino: u64, extents: &[Extent]) {
        for (start, end, at) in self.spans(extents) {
            self.places.insert(start, (end, ino, at));
        }
        self.moved = true;
    }

    fn unplace(&mut self, ino: u64, extents: &[Extent]) {
        for (start, ..) in self.spans(extents) {
            if self.places.get(&start).is_some_and(|(_, owner, _)| *owner == ino) {
                self.places.remove(&start);
            }
        }
        self.moved = true;
    }

    /// Turns written ranges of the device into slots.
    fn overwritten(&mut self, dirty: &[DirtyRange]) {
        for range in dirty {
            // The extent that begins before the range may reach into it.
            let before = self.places.range(..range.start).next_back();
            let hit: Vec<(u64, Range<u64>)> = before
                .into_iter()
                .chain(self.places.range(range.start..range.end))
                .filter(|(_, (end, ..))| *end > range.start)
                .map(|(start, (end, ino, at))| {
                    let low = range.start.max(*start) - start + at;
                    let high = range.end.min(*end) - start + at;
                    (*ino, low..high)
                })
                .collect();
            for (ino, bytes) in hit {
                let headers = &mut self.headers;
                self.files.entry(ino).and_modify(|file| {
                    if file.attribute.auto_header && bytes.start < HEADER_BYTES {
                        headers.insert(ino);
                    }
                    file.mark(&bytes);
                });
            }
        }
    }

    /// Reads one batch of slots into the index. True: there is more to read.
    fn step(&mut self) -> Result<bool, Error> {
        let next = self.files.iter_mut().find_map(|(ino, file)| file.next_batch(*ino));
        let Some(batch) = next else { return Ok(false) };
        if !batch.present {
            self.index.remove(FileId(batch.ino), batch.slots);
            return Ok(true);
        }
        // Halved where the medium does not give all of it back, down to the rows that it keeps.
        let mut parts = vec![batch.slots.clone()];
        while let Some(part) = parts.pop() {
            let fed = self.feed(&batch, &part);
            match fed {
                Ok(Fed::Whole) => {}
                Ok(Fed::Unreadable(error)) if part.end - part.start == 1 => {
                    self.leave_out(batch.ino, part.start, error);
                }
                Ok(Fed::Unreadable(_)) => {
                    let middle = part.start + (part.end - part.start) / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
                Ok(Fed::Moved) | Err(_) => {
                    // What was not fed comes again, if the file is still there.
                    parts.push(part);
                    self.files
                        .entry(batch.ino)
                        .and_modify(|file| parts.into_iter().for_each(|part| file.put_back(part)));
                    return fed.map(|_| true);
                }
            }
        }
        Ok(true)
    }

    /// Reads slots of a batch that are present and hands them to the index.
    fn feed(&mut self, batch: &Batch, slots: &Range<u64>) -> Result<Fed, Error> {
        let Batch { ino, epoch, rows, .. } = *batch;
        // Given up after too many unreadable rows.
        let Some(VectorFile { slots: Ok(_), extents, .. }) = self.files.get(&ino) else {
            return Ok(Fed::Moved);
        };
        let last = rows.start(slots.end.saturating_sub(1)) + rows.offset + rows.vector;
        let range = rows.start(slots.start)..last;
        let mut bytes = match read_extents(&self.device, extents, self.block_shift, &range) {
            Err(Error::Device(error)) => return Ok(Fed::Unreadable(error)),
            other => other?,
        };
        bytes.resize(((slots.end - slots.start) * rows.stride) as usize, 0);
        if self.observer.root_writes() != self.roots {
            self.look()?;
        }
        if self.files.get(&ino).is_none_or(|file| file.epoch != epoch) {
            return Ok(Fed::Moved);
        }
        let (stride, offset) = (rows.stride as usize, rows.offset as usize);
        let fed = self.index.upsert_rows(FileId(ino), Slot(slots.start), &bytes, stride, offset);
        if let Err(e) = fed {
            self.give_up(ino, e.to_string());
        }
        Ok(Fed::Whole)
    }

    /// A row that the medium does not give back is not searched until it is written again: the
    /// others are.
    fn leave_out(&mut self, ino: u64, slot: u64, error: DeviceError) {
        self.index.remove(FileId(ino), slot..slot + 1);
        let count = self.files.get_mut(&ino).map_or(0, |file| file.leave_out(slot));
        if count == 1 {
            log_line!("inode {ino}: row {slot} cannot be read: {}", Error::Device(error));
        }
        if count > UNREADABLE_MAX {
            self.give_up(ino, format!("its rows cannot be read: {}", Error::Device(error)));
        }
    }

    /// A file that cannot be indexed, for a reason that a look at the tree does not show.
    fn give_up(&mut self, ino: u64, why: String) {
        log_line!("inode {ino} is not indexed: {why}");
        self.index.drop_file(FileId(ino));
        self.files.entry(ino).and_modify(|file| file.slots = Err(Trouble::Unusable(why)));
    }

    /// Writes a checkpoint of everything that is indexed.
    pub fn checkpoint(&self) -> Result<(), vexfs_index::IndexError> {
        let files: Vec<_> = self
            .files
            .iter()
            .filter(|(_, file)| file.slots.is_ok())
            .map(|(ino, _)| (FileId(*ino), Vec::new()))
            .collect();
        self.index.checkpoint(self.seen.0, &[], &files).map(|_| ())
    }
}

/// Reads bytes of a file whose extents are known; holes are zeroes. The engine's devices take whole sectors.
fn read_extents<D: Device>(
    device: &D,
    extents: &[Extent],
    block_shift: u32,
    range: &Range<u64>,
) -> Result<Vec<u8>, Error> {
    const SECTOR: u64 = vexfs_format::SECTOR_BYTES as u64;
    let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
    let mut at = range.start;
    let mut sectors = Vec::new();
    while at < range.end {
        let Run { at: place, len } = first_run(extents, block_shift, &(at..range.end));
        if let Some(place) = place {
            let start = place - place % SECTOR;
            let end = (place + len).next_multiple_of(SECTOR);
            sectors.resize((end - start) as usize, 0);
            device.read(start, &mut sectors)?;
            let skip = (place - start) as usize;
            let to = (at - range.start) as usize;
            bytes[to..to + len as usize].copy_from_slice(&sectors[skip..skip + len as usize]);
        }
        at += len;
    }
    Ok(bytes)
}

impl VectorFile {
    /// Takes the next slots that have to be read again.
    fn next_batch(&mut self, ino: u64) -> Option<Batch> {
        let Slots { layout: Layout { rows, .. }, present, todo, unreadable } =
            self.slots.as_mut().ok()?;
        let first = todo.first()?;
        let (end, present) = present.run(&first);
        // A hole is forgotten at once, however long it is.
        let most = if present { (BATCH_BYTES / rows.stride).max(1) } else { u64::MAX };
        let slots = todo.take(most.min(end - first.start))?;
        unreadable.retain(|slot| !slots.contains(slot));
        Some(Batch { ino, epoch: self.epoch, rows: *rows, slots, present })
    }

    /// Notes a slot that cannot be read; how many of them there are.
    fn leave_out(&mut self, slot: u64) -> usize {
        self.slots.as_mut().map_or(0, |slots| {
            slots.unreadable.insert(slot);
            slots.unreadable.len()
        })
    }

    /// Has slots read again after all.
    fn put_back(&mut self, again: Range<u64>) {
        if let Ok(slots) = &mut self.slots {
            let (count, _) = slots.layout.rows.count(self.size);
            slots.todo.insert(again.start..again.end.min(count));
        }
    }

    /// Has the slots read again that have a vector in these bytes of the file.
    fn mark(&mut self, bytes: &Range<u64>) {
        if let Ok(slots) = &mut self.slots {
            let touched = slots.layout.rows.touching(bytes);
            self.put_back(touched);
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        match &self.slots {
            Err(why) => Some(why.clone()),
            Ok(Slots { layout, unreadable, .. }) => match layout.rows.count(self.size) {
                (_, 0) => unreadable.first().map(|first| {
                    let count = unreadable.len();
                    Trouble::Unreadable(format!(
                        "{count} of its rows cannot be read, the first is {first}: they are not searched; write them again"
                    ))
                }),
                (count, rest) => Some(Trouble::Partial(format!(
                    "its {} bytes are not a multiple of its stride: after a header of {} and {count} records of {} bytes, {rest} are left; complete or truncate it",
                    self.size, layout.rows.header, layout.rows.stride
                ))),
            },
        }
    }
}

#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;
