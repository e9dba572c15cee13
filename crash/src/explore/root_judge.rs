// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Compares states with the recording that they come from, without a model: each generation must be
//! what it was when its root record was written.
//!
//! Metadata must be equal. File data may have been overwritten in place since, but a block must not
//! hold the data of another file.

use super::judge::{Judge, OPTIONS, Verdict, open};
use super::state_device::StateDevice;
use crate::halt::Halt;
use crate::image::{Image, SECTOR};
use crate::model::BLOCK;
use crate::oracle::assert_clean;
use crate::recording::{Event, Recording, Request};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use vexfs::{Device, Error, FileBlock, FileType, Ino, MappingKind, Volume};

/// A generation at the moment its root record was written.
struct Root {
    generation: u64,
    /// Events before its record was written.
    submitted: usize,
    /// Events after which it must come back, or a later one.
    promised: Option<usize>,
    tree: Result<Tree, String>,
}

/// A digest of a tree: a hash of all metadata, and for each written block its file, its place in the
/// file and a hash of each eighth of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tree {
    metadata: u64,
    blocks: BTreeMap<u64, (u64, u64, [u64; BLOCK / SECTOR])>,
}

/// Judges states of a recording.
pub struct RootJudge {
    roots: Vec<Root>,
}

/// A root record that is not durable yet.
struct Waiting {
    /// Number of the request that writes it.
    request: u64,
    /// Its place among the roots.
    place: usize,
    fua: bool,
}

/// Reads a recording and collects the generations that it commits.
struct Reader {
    /// The contents after all requests so far.
    image: Image,
    roots: Vec<Root>,
    /// When requests completed, by number.
    completed: HashMap<u64, usize>,
    waiting: Vec<Waiting>,
    /// Flushes under way, and when they were submitted.
    flushes: HashMap<u64, usize>,
}

impl Reader {
    fn new(base: &Image) -> Self {
        let mut roots = Vec::new();
        if let Ok(tree) = tree(base)
            && let Some(generation) = newest(base)
        {
            roots.push(Root { generation, submitted: 0, promised: Some(0), tree: Ok(tree) });
        }
        Self {
            image: base.clone(),
            roots,
            completed: HashMap::new(),
            waiting: Vec::new(),
            flushes: HashMap::new(),
        }
    }

    fn submit(&mut self, id: u64, request: &Request, event: usize) {
        match request {
            Request::Flush => {
                self.flushes.insert(id, event);
            }
            Request::Write { at, data, fua } => {
                let may_be_root = *at < RING_END;
                let before = may_be_root.then(|| newest(&self.image)).flatten();
                self.image.put(*at, data);
                let after = may_be_root.then(|| newest(&self.image)).flatten();
                if let Some(generation) = after.filter(|_| after != before) {
                    self.waiting.push(Waiting { request: id, place: self.roots.len(), fua: *fua });
                    let (promised, tree) = (None, tree(&self.image));
                    self.roots.push(Root { generation, submitted: event, promised, tree });
                }
            }
            Request::Zeroes { at, len, .. } => {
                let len = (*len).min(self.image.len_bytes().saturating_sub(*at));
                self.image.put(*at, &vec![0; len as usize]);
            }
        }
    }

    fn complete(&mut self, id: u64, event: usize) {
        self.completed.insert(id, event);
        let flushed = self.flushes.remove(&id);
        self.waiting.retain(|root| {
            let written_before = |flush: usize| {
                self.completed.get(&root.request).is_some_and(|completed| *completed < flush)
            };
            let durable = (root.request == id && root.fua) || flushed.is_some_and(written_before);
            if durable && let Some(root) = self.roots.get_mut(root.place) {
                root.promised = Some(event + 1);
            }
            !durable
        });
    }
}

impl RootJudge {
    /// A judge of the states of a recording.
    #[must_use]
    pub fn new(recording: &Recording) -> Self {
        let mut reader = Reader::new(&recording.base);
        for (event, happened) in recording.events.iter().enumerate() {
            match happened {
                Event::Submit { id, request } => reader.submit(*id, request, event),
                Event::Complete { id, ok: true } => reader.complete(*id, event),
                Event::Complete { .. } | Event::Mark(_) => {}
            }
        }
        Self { roots: reader.roots }
    }

    /// Generations that the recording commits.
    #[must_use]
    pub fn generations(&self) -> usize {
        self.roots.len()
    }
}

impl Judge for RootJudge {
    fn judge(&self, event: usize, device: &StateDevice<'_>) -> Verdict {
        let promised = self.roots.iter().rev().find(|r| r.promised.is_some_and(|at| at <= event));
        let Some(promised) = promised else {
            // Nothing was promised yet, so it need not open. It is tried because it must end.
            return Ok(open(device).map_or(0, |volume| volume.generation().0));
        };
        assert_clean(device).map_err(Halt::text)?;
        let volume = open(device)?;
        let generation = volume.generation().0;
        if generation < promised.generation {
            let promised = promised.generation;
            return Err(format!("generation {generation} came back, {promised} was promised"));
        }
        let began = |r: &Root| r.generation == generation && r.submitted < event.max(1);
        let Some(place) = self.roots.iter().rposition(began) else {
            return Err(format!("generation {generation} was never committed"));
        };
        drop(volume);
        let found = tree(device)?;
        let later = self.roots.get(place + 1).and_then(|root| root.tree.as_ref().ok());
        let expected = self.roots.get(place).map(|root| &root.tree);
        let Some(Ok(expected)) = expected else {
            return Err(format!("generation {generation} was already wrong when it was written"));
        };
        if found.metadata != expected.metadata {
            return Err(format!("the metadata are not those of generation {generation}"));
        }
        for (block, (ino, at, held)) in &found.blocks {
            let before = expected.blocks.get(block).map(|(_, _, held)| held);
            // If it was overwritten since, then by its own file, not by one that got the block too early.
            let owner = later.and_then(|tree| tree.blocks.get(block));
            if before != Some(held) && owner.is_some_and(|o| (o.0, o.1) != (*ino, *at)) {
                return Err(format!("inode {ino} block {at} holds another file's data"));
            }
        }
        Ok(generation)
    }
}

/// First byte behind the root ring, for the largest block size.
const RING_END: u64 = 64 << 16;

/// The newest generation on an image.
fn newest(image: &Image) -> Option<u64> {
    Volume::open(image, &OPTIONS).ok().map(|volume| volume.generation().0)
}

/// FNV-1a.
struct Hash(u64);

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn debug(&mut self, value: &impl std::fmt::Debug) {
        self.add(format!("{value:?}").as_bytes());
    }
}

/// The digest of the tree that a device opens with.
fn tree<D: Device>(device: &D) -> Result<Tree, String> {
    let mut volume = open(device)?;
    read_tree(&mut volume).map_err(|e| format!("the tree cannot be read: {e}"))
}

fn read_tree<D: Device>(volume: &mut Volume<D>) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    let mut hash = Hash(0xCBF2_9CE4_8422_2325);
    hash.debug(&volume.statfs());
    let mut todo = vec![Ino::ROOT];
    let mut met = BTreeSet::new();
    while let Some(ino) = todo.pop() {
        if !met.insert(ino.0) {
            continue;
        }
        let inode = volume.resolve(|v| v.inode(ino))?;
        hash.debug(&inode);
        hash.debug(&volume.resolve(|v| v.vector(ino))?);
        let mut names = Vec::new();
        volume.resolve(|v| {
            names.clear();
            v.xattr_list(ino, &mut |name| {
                names.push(name.to_vec());
                true
            })
        })?;
        for name in names {
            hash.add(&name);
            hash.add(&volume.resolve(|v| v.xattr_get(ino, &name))?);
        }
        if inode.is_dir() {
            let mut cookie = 0;
            loop {
                let mut more = false;
                volume.resolve(|v| {
                    v.readdir(ino, cookie, &mut |entry| {
                        cookie = entry.cookie;
                        more = true;
                        hash.add(entry.name);
                        hash.debug(&entry.ino);
                        todo.push(entry.ino);
                        true
                    })
                })?;
                if !more {
                    break;
                }
            }
        } else if inode.is_file() {
            extents(volume, ino, inode.size, &mut hash, &mut tree)?;
        } else if inode.file_type() == FileType::Symlink {
            hash.add(&volume.resolve(|v| v.readlink(ino))?);
        }
    }
    tree.metadata = hash.0;
    Ok(tree)
}

fn extents<D: Device>(
    volume: &mut Volume<D>,
    ino: Ino,
    size: u64,
    hash: &mut Hash,
    tree: &mut Tree,
) -> Result<(), Error> {
    let block_bytes = volume.statfs().block_bytes as usize;
    let mut at = 0;
    // A mapping of a hole that goes on past the end is the last one.
    loop {
        let part = volume.resolve(|v| v.map(ino, FileBlock(at), u64::MAX - at))?;
        hash.debug(&part);
        if let MappingKind::Written(start) = part.kind {
            for index in 0..part.count {
                let from = (start.0 + index) * block_bytes as u64;
                let mut held = [0; BLOCK / SECTOR];
                let mut data = vec![0; block_bytes];
                volume.device().read(from, &mut data)?;
                for (slot, sector) in data.chunks(block_bytes / held.len()).enumerate() {
                    let mut sum = Hash(0xCBF2_9CE4_8422_2325);
                    sum.add(sector);
                    if let Some(slot) = held.get_mut(slot) {
                        *slot = sum.0;
                    }
                }
                tree.blocks.insert(start.0 + index, (ino.0, at + index, held));
            }
        }
        let end = at.saturating_add(part.count.max(1));
        if part.kind == MappingKind::Hole && end.saturating_mul(block_bytes as u64) >= size {
            return Ok(());
        }
        at = end;
    }
}
