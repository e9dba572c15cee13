// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The vector files of one filesystem, and which of their slots the index still has to read.
//!
//! Invariant: a slot is never indexed with the bytes of another file, and a slot that is written after
//! it was read is read again. The order of the steps in a cycle keeps it. First it moves to the newest
//! committed tree, which says where files lie. Then it drains the marks of what was written, which may
//! belong to later commits. Then it reads slots. Before it uses what it read, it checks for a newer
//! tree: if a commit moved the file meanwhile, its old blocks may belong to another file, and the slots
//! are read again.
//!
//! Rows in holes are not indexed. Every step can be repeated without harm.

use super::content::Bytes;
use super::header::{Layout, Stop, Trouble, layout};
use super::intervals::IntervalSet;
use super::slots::{DataExtent, Span, first_span, moved, written};
use super::vector_file::{Batch, Slots, VectorFile};
use crate::dirty_log::{DirtyLog, DirtyRange};
use crate::log_line;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use vexfs::follow::{Change, Follower};
use vexfs::{BlockNr, Device, DeviceError, Error, Generation, Ino, Inode, VectorLayout};
use vexfs_format::{ROOT_RING_START, ROOT_SLOTS};
use vexfs_index::{Covered, FileId, Index, Slot};

/// Bytes of tree nodes that are kept in memory.
const CACHE_BYTES: usize = 4 << 20;
/// How often a walk is repeated because the tree moved on, until the caller gets its turn.
const WALKS: usize = 64;
/// The note of a checkpoint after which nobody wrote to the image through this tracker's device.
const CLOSED: &[u8] = b"closed";
/// The state in a checkpoint of a file all of whose rows are in it, as of the checkpoint's generation.
const WHOLE: &[u8] = b"whole";
/// A file with more unreadable rows than this is not indexed at all.
const UNREADABLE_MAX: usize = 1024;

/// What became of slots that were read.
enum Fed {
    /// They are indexed, or their file is given up.
    Done,
    /// The file moved meanwhile: they have to be read again.
    Moved,
    /// The medium returned this error.
    Unreadable(DeviceError),
}

/// The vector files of one filesystem.
pub struct Tracker<D> {
    follower: Follower<D>,
    /// The same device, to read file contents.
    device: D,
    index: Arc<Index>,
    dirty_log: Arc<DirtyLog>,
    files: BTreeMap<u64, VectorFile>,
    /// The extents of all vector files by their first byte on the device: the end on the device, the file,
    /// the first byte in the file.
    places: BTreeMap<u64, (u64, u64, u64)>,
    /// The generation of the tree that `files` is of.
    seen: Generation,
    /// How many writes to the root ring the newest tree takes into account.
    roots: u64,
    /// Vector files whose header may have been overwritten.
    headers: BTreeSet<u64>,
    /// Whether all overwrites since the index was fed are marked; those before this daemon are not.
    marks_complete: bool,
    /// `places` changed since the dirty log was told.
    moved: bool,
    block_shift: u32,
    /// The files of the checkpoint that need not be compared with the image, in the first walk.
    trusted: BTreeSet<u64>,
}

impl<D: Device + Clone> Tracker<D> {
    /// Opens the filesystem on the device. `index` may hold files from a checkpoint: every row of them is
    /// compared with the image, and files that are gone are dropped.
    pub fn open(device: D, index: Arc<Index>, dirty_log: Arc<DirtyLog>) -> Result<Self, Error> {
        let mut follower = Follower::open(device.clone(), CACHE_BYTES)?;
        let geometry = follower.volume().geometry();
        dirty_log.set_root_ring_end(geometry.byte_of(BlockNr(ROOT_RING_START + ROOT_SLOTS)));
        let block_shift = geometry.block_shift;
        Ok(Self {
            follower,
            device,
            index,
            dirty_log,
            files: BTreeMap::new(),
            places: BTreeMap::new(),
            seen: Generation(0),
            roots: u64::MAX,
            headers: BTreeSet::new(),
            marks_complete: false,
            moved: false,
            block_shift,
            trusted: BTreeSet::new(),
        })
    }

    /// Opens the filesystem with an index of which `covered` says what the checkpoint holds. If that was
    /// [closed](Self::close), nothing is read of files that no commit has touched since.
    ///
    /// A row that was overwritten in place since, by a write that no commit followed, as when the power went, is
    /// found as it was before. Who cannot accept that uses [`open`](Self::open).
    pub fn trusting(
        device: D,
        index: Arc<Index>,
        dirty_log: Arc<DirtyLog>,
        covered: &Covered,
    ) -> Result<Self, Error> {
        let mut this = Self::open(device, index, dirty_log)?;
        let generation = Generation(covered.generation);
        // A checkpoint in the midst of things may be of rows that are written back, in place, after their
        // commit. And an image that is older than its index was copied back, or lost what was not durable.
        if covered.note != CLOSED || generation > this.follower.generation() {
            return Ok(this);
        }
        let whole = covered.files.iter().filter(|(_, state)| state == WHOLE);
        this.trusted = whole.map(|(file, _)| file.0).collect();
        let mut changed = BTreeSet::new();
        this.follower.changes(generation, &mut |change| {
            if let Change::Inode(inode) = change {
                changed.insert(inode.ino.0);
            }
            Ok(())
        })?;
        this.trusted.retain(|ino| !changed.contains(ino));
        Ok(this)
    }

    /// The generation that is indexed.
    pub fn generation(&self) -> u64 {
        self.seen.0
    }

    /// How many writes to the root ring are taken into account.
    pub fn roots(&self) -> u64 {
        self.roots
    }

    /// How many slots have to be read.
    pub fn pending(&self) -> u64 {
        self.files.values().flat_map(|file| &file.slots).map(|slots| slots.todo.count()).sum()
    }

    /// The vector files, each with why it is not searched as expected.
    pub fn files(&self) -> impl Iterator<Item = (u64, Option<Trouble>)> {
        self.files.iter().map(|(ino, file)| (*ino, file.trouble()))
    }

    /// Moves to the newest tree, drains the marks, and reads one batch of slots. True if it has to be called
    /// again: there is more to read, or the tree moves on too fast.
    pub fn cycle(&mut self) -> Result<bool, Error> {
        match self.catch_up().and_then(|()| self.step()) {
            Err(Error::Stale) => Ok(true),
            other => other,
        }
    }

    /// Moves to the newest tree, without reading any slot. The files are known then.
    pub fn follow(&mut self) -> Result<(), Error> {
        loop {
            match self.catch_up() {
                Err(Error::Stale) => {}
                other => return other,
            }
        }
    }

    /// Has nothing read of the files that are not wanted, until they change.
    pub fn leave(&mut self, wanted: impl Fn(u64) -> bool) {
        for (_, file) in self.files.iter_mut().filter(|(ino, _)| !wanted(**ino)) {
            if let Ok(slots) = &mut file.slots {
                slots.todo = IntervalSet::default();
            }
        }
    }

    /// Has slots of a file read again.
    pub fn ask(&mut self, ino: u64, slots: Range<u64>) {
        self.files.entry(ino).and_modify(|file| file.put_back(slots));
    }

    /// Bytes of the rows that have to be read.
    pub fn pending_bytes(&self) -> u64 {
        let files = self.files.values().filter_map(|file| file.slots.as_ref().ok());
        files.map(|slots| slots.todo.count().saturating_mul(slots.layout.rows.vector)).sum()
    }

    /// Takes in what was committed and what was written.
    fn catch_up(&mut self) -> Result<(), Error> {
        if self.dirty_log.root_writes() != self.roots {
            self.follow_commits()?;
        }
        if self.moved {
            let ends = self.places.iter();
            self.dirty_log
                .watch(ends.map(|(start, (end, ..))| DirtyRange { start: *start, end: *end }));
            self.moved = false;
        }
        let dirty = self.dirty_log.drain();
        self.overwritten(&dirty);
        while let Some(ino) = self.headers.first().copied() {
            self.refresh(Ino(ino))?;
            self.headers.remove(&ino);
        }
        self.supply_lost();
        Ok(())
    }

    /// Marks the files to be read again whose vectors the index cannot read from its checkpoint any more.
    fn supply_lost(&mut self) {
        for FileId(ino) in self.index.lost() {
            let file = self.files.get_mut(&ino);
            // One that is being read is on its way to be whole again.
            if let Some(file) = file.filter(|file| !file.is_read()) {
                log_line!(
                    "inode {ino}: vectors in the index's checkpoint are damaged: they are read again"
                );
                file.put_back(0..u64::MAX);
            }
        }
    }

    /// Brings `files` to the newest tree.
    fn follow_commits(&mut self) -> Result<(), Error> {
        for _ in 0..WALKS {
            let roots = self.dirty_log.root_writes();
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

    /// Refreshes every file that a commit since `seen` may have changed.
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
        self.trusted.clear();
        Ok(())
    }

    /// Brings one file to the newest tree.
    fn refresh(&mut self, ino: Ino) -> Result<(), Error> {
        let Some((inode, attribute)) = self.attributes(ino)? else {
            self.forget(ino.0);
            return Ok(());
        };
        let extents = DataExtent::all(&self.follower.written(ino)?);
        let mut bytes = FileBytes {
            device: &self.device,
            extents: &extents,
            block_shift: self.block_shift,
            size: inode.size,
            looked: Vec::new(),
        };
        let found = match layout(&attribute, &mut bytes) {
            Ok(layout) => Ok(layout),
            Err(Stop::Left(why)) => Err(why),
            Err(Stop::Read(e @ Error::Device(_))) => {
                Err(Trouble::Unusable(format!("its first block cannot be read: {e}")))
            }
            Err(Stop::Read(e)) => return Err(e),
        };
        let looked = bytes.looked;
        let old = self.files.remove(&ino.0);
        let found = found.inspect_err(|_| {
            // The index has rows of its earlier layout.
            self.index.drop_file(FileId(ino.0));
        });
        let compared = found
            .and_then(|layout| self.compare(ino.0, old.as_ref(), layout, inode.size, &extents));
        let (slots, changed) = match compared {
            Ok((slots, changed)) => (Ok(slots), changed),
            Err(why) => (Err(why), true),
        };
        let epoch = old.as_ref().map_or(0, |old| old.epoch) + u64::from(changed);
        let file = VectorFile { size: inode.size, extents, looked, slots, epoch };
        if old.as_ref().is_none_or(|old| old.extents != file.extents) {
            if let Some(old) = &old {
                self.unplace(ino.0, &old.extents);
            }
            self.place(ino.0, &file.extents);
        }
        self.files.insert(ino.0, file);
        Ok(())
    }

    /// The inode and attribute of a vector file; `None` if it is none, or has no name any more.
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

    /// Finds out which slots of the file have to be read, and whether its place or layout changed.
    fn compare(
        &self,
        ino: u64,
        old: Option<&VectorFile>,
        layout: Layout,
        size: u64,
        extents: &[DataExtent],
    ) -> Result<(Slots, bool), Trouble> {
        let rows = layout.rows;
        let (count, _) = rows.count(size);
        let mut slots = Slots {
            layout,
            present: IntervalSet::default(),
            todo: IntervalSet::default(),
            unreadable: BTreeSet::new(),
        };
        for range in written(extents, self.block_shift, size).iter() {
            let within = rows.within(&range);
            slots.present.insert(within.start..within.end.min(count));
        }
        let declared = self
            .index
            .declare(FileId(ino), layout.space, layout.params)
            .map_err(|e| Trouble::Unusable(e.to_string()))?;
        self.index.truncate(FileId(ino), count);
        // If overwrites may be unmarked, nothing says that the indexed rows are those in the file.
        let known = old
            .filter(|_| !declared && self.marks_complete)
            .and_then(|old| Some((old, old.slots.as_ref().ok()?)))
            .filter(|(_, before)| before.layout.reads_as(&layout));
        let Some((old, before)) = known else {
            if declared || !self.trusted.contains(&ino) {
                slots.todo.insert(0..count);
            }
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
        // Rows whose blocks became a hole, and rows in a former hole.
        for (one, other) in [(&before.present, &slots.present), (&slots.present, &before.present)] {
            for mut range in one.iter() {
                while !range.is_empty() {
                    let (end, both) = other.prefix(&range);
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

    fn spans(&self, extents: &[DataExtent]) -> Vec<(u64, u64, u64)> {
        let shift = self.block_shift;
        let span = |extent: &DataExtent| {
            let start = extent.block << shift;
            (start, start + (extent.count << shift), extent.start << shift)
        };
        extents.iter().map(span).collect()
    }

    fn place(&mut self, ino: u64, extents: &[DataExtent]) {
        for (start, end, at) in self.spans(extents) {
            self.places.insert(start, (end, ino, at));
        }
        self.moved = true;
    }

    fn unplace(&mut self, ino: u64, extents: &[DataExtent]) {
        for (start, ..) in self.spans(extents) {
            if self.places.get(&start).is_some_and(|(_, owner, _)| *owner == ino) {
                self.places.remove(&start);
            }
        }
        self.moved = true;
    }

    /// Marks the slots to be read that lie in written ranges of the device.
    fn overwritten(&mut self, dirty: &[DirtyRange]) {
        for range in dirty {
            // The extent that starts before the range may reach into it.
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
                    let hit = |r: &Range<u64>| r.start < bytes.end && bytes.start < r.end;
                    if file.looked.iter().any(hit) {
                        headers.insert(ino);
                    }
                    file.mark(&bytes);
                });
            }
        }
    }

    /// Reads one batch of slots into the index. True if there may be more.
    fn step(&mut self) -> Result<bool, Error> {
        let next = self.files.iter_mut().find_map(|(ino, file)| file.next_batch(*ino));
        let Some(batch) = next else { return Ok(false) };
        if !batch.present {
            self.index.remove(FileId(batch.ino), batch.slots);
            return Ok(true);
        }
        // What cannot be read is halved, down to single rows.
        let mut parts = vec![batch.slots.clone()];
        while let Some(part) = parts.pop() {
            let fed = self.feed(&batch, &part);
            match fed {
                Ok(Fed::Done) => {}
                Ok(Fed::Unreadable(error)) if part.end - part.start == 1 => {
                    self.leave_out(batch.ino, part.start, error);
                }
                Ok(Fed::Unreadable(_)) => {
                    let middle = part.start + (part.end - part.start) / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
                Ok(Fed::Moved) | Err(_) => {
                    // The rest is read again, if the file still exists.
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

    /// Reads slots of a batch and hands them to the index.
    fn feed(&mut self, batch: &Batch, slots: &Range<u64>) -> Result<Fed, Error> {
        let Batch { ino, epoch, rows, signed_bits, .. } = *batch;
        // The file may have been given up after too many unreadable rows.
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
        if self.dirty_log.root_writes() != self.roots {
            self.catch_up()?;
        }
        if self.files.get(&ino).is_none_or(|file| file.epoch != epoch) {
            return Ok(Fed::Moved);
        }
        if let Some(row) = rows.wrong_word(slots.start, &bytes) {
            self.give_up(ino, format!(
                "its rows begin with their length, as in .fvecs, but row {row} does not: it is cut, or no such file"
            ));
            return Ok(Fed::Done);
        }
        if signed_bits {
            for byte in &mut bytes {
                *byte ^= 0x80;
            }
        }
        let (stride, offset) = (rows.stride as usize, rows.offset as usize);
        let fed = self.index.upsert_rows(FileId(ino), Slot(slots.start), &bytes, stride, offset);
        if let Err(e) = fed {
            self.give_up(ino, e.to_string());
        }
        Ok(Fed::Done)
    }

    /// Leaves out a row that cannot be read, until it is written again. The other rows are searched.
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

    /// Stops indexing a file, for a reason that the tree does not show.
    fn give_up(&mut self, ino: u64, why: String) {
        log_line!("inode {ino} is not indexed: {why}");
        self.index.drop_file(FileId(ino));
        self.files.entry(ino).and_modify(|file| file.slots = Err(Trouble::Unusable(why)));
    }

    /// Writes a checkpoint of the index.
    pub fn checkpoint(&self) -> Result<(), vexfs_index::IndexError> {
        self.save(&[])
    }

    /// Writes the last checkpoint: nobody writes to the device any more, and everything is read.
    pub fn close(&self) -> Result<(), vexfs_index::IndexError> {
        self.save(CLOSED)
    }

    fn save(&self, note: &[u8]) -> Result<(), vexfs_index::IndexError> {
        let files: Vec<_> = self
            .files
            .iter()
            .filter(|(_, file)| file.slots.is_ok())
            .map(|(ino, file)| (FileId(*ino), file.is_whole().then(|| WHOLE.to_vec())))
            .map(|(file, state)| (file, state.unwrap_or_default()))
            .collect();
        self.index.checkpoint(self.seen.0, note, &files).map(|_| ())
    }
}

/// The content of a file, and which of it was looked at.
struct FileBytes<'a, D> {
    device: &'a D,
    extents: &'a [DataExtent],
    block_shift: u32,
    size: u64,
    looked: Vec<Range<u64>>,
}

impl<D: Device> Bytes for FileBytes<'_, D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let end = range.end.min(self.size).max(range.start);
        self.looked.push(range.clone());
        read_extents(self.device, self.extents, self.block_shift, &(range.start..end))
    }

    fn written(&self, range: Range<u64>) -> bool {
        let (end, is) = written(self.extents, self.block_shift, self.size).prefix(&range);
        is && end >= range.end
    }
}

/// Reads bytes of a file; holes read as zeroes. The engine's devices read only whole sectors.
fn read_extents<D: Device>(
    device: &D,
    extents: &[DataExtent],
    block_shift: u32,
    range: &Range<u64>,
) -> Result<Vec<u8>, Error> {
    const SECTOR: u64 = vexfs_format::SECTOR_BYTES as u64;
    let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
    let mut at = range.start;
    let mut sectors = Vec::new();
    while at < range.end {
        let Span { at: place, len } = first_span(extents, block_shift, &(at..range.end));
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

#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;
