// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who says whether a state is right.
//!
//! [`ModelJudge`] knows everything, for it saw the workload's model at every commit. [`RootJudge`]
//! has only a recording, from any host: what each generation must be it learns from the moment its
//! root record was written. Both only read, but for what a mount does afterwards.

use super::memo::Verdict;
use super::state::StateDevice;
use crate::image::{Image, SECTOR};
use crate::model::BLOCK;
use crate::oracle::{assert_clean, compare};
use crate::recording::{Event, Recording, Request};
use crate::work::{History, Past, Stop, Versions};
use std::collections::{BTreeMap, HashMap};
use vexfs::{Device, Error, FileBlock, FileType, Ino, MappingKind, OpenOptions, Time, Volume};

/// Gives verdicts.
pub trait Judge: Sync {
    /// The generation that comes back from a cut after `event` events that left this state, or what
    /// is wrong with it. A function of what it reads of the device, and of nothing else.
    fn judge(&self, event: usize, device: &StateDevice<'_>) -> Verdict;
}

const OPTIONS: OpenOptions = OpenOptions { read_only: false, cache_bytes: 0 };

fn open<D: Device>(device: &D) -> Result<Volume<&D>, String> {
    Volume::open(device, &OPTIONS).map_err(|e| format!("the filesystem does not open: {e}"))
}

/// Holds states against the model of the workload.
pub(crate) struct ModelJudge<'a> {
    history: &'a History,
    versions: &'a Versions,
    now: Time,
}

impl<'a> ModelJudge<'a> {
    pub(crate) const fn new(history: &'a History, versions: &'a Versions, now: Time) -> Self {
        Self { history, versions, now }
    }

    fn recovered(&self, event: usize, device: &StateDevice<'_>) -> Result<u64, Stop> {
        assert_clean(device)?;
        let mut volume = open(device).map_err(Stop::Wrong)?;
        let generation = volume.generation().0;
        let promised = self.history.promises.iter().rev().find(|(from, _)| *from <= event);
        let promised = promised.map_or(0, |(_, generation)| *generation);
        if generation < promised {
            let what = format!("generation {generation} came back, {promised} was promised");
            return Err(Stop::Wrong(what));
        }
        let past = |past: &&Past| past.generation == generation && past.event <= event;
        let Some(past) = self.history.commits.iter().rev().find(past) else {
            return Err(Stop::Wrong(format!("generation {generation} was never committed")));
        };
        let mut model = past.model.clone();
        let allowed = |sector: u64, ino: u64, block: u64, data: &[u8]| {
            self.versions.get(&sector).is_some_and(|versions| {
                versions.iter().any(|v| {
                    v.at >= past.writes
                        && v.event < event
                        && (v.ino, v.block) == (ino, block)
                        && v.data == *data
                })
            })
        };
        compare(&mut volume, &mut model, &allowed)?;
        // What the mount does next must work, too, and change nothing that is seen.
        volume.evict_orphans(self.now).map_err(|e| Stop::error("evicting orphans", &e))?;
        model.settle();
        compare(&mut volume, &mut model, &|_, _, _, _| false)?;
        volume.commit(self.now).map_err(|e| Stop::error("the first commit", &e))?;
        assert_clean(device)?;
        Ok(generation)
    }
}

impl Judge for ModelJudge<'_> {
    fn judge(&self, event: usize, device: &StateDevice<'_>) -> Verdict {
        self.recovered(event, device).map_err(Stop::text)
    }
}

/// What a generation was when its root record was written.
struct Root {
    generation: u64,
    /// Events before its record was written.
    submitted: usize,
    /// Events after which it must not be lost any more.
    promised: Option<usize>,
    tree: Result<Tree, String>,
}

/// A tree, short: a hash of all metadata, and whose every written block is and what it held.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tree {
    metadata: u64,
    blocks: BTreeMap<u64, (u64, u64, [u64; BLOCK / SECTOR])>,
}

/// Holds states against the recording they come from.
pub struct RootJudge {
    roots: Vec<Root>,
}

impl RootJudge {
    /// Learns what every generation of a recording is.
    #[must_use]
    pub fn new(recording: &Recording) -> Self {
        let mut image = recording.base.clone();
        let mut roots = Vec::new();
        if let Ok(tree) = tree(&image)
            && let Ok(volume) = Volume::open(&image, &OPTIONS)
        {
            let generation = volume.generation().0;
            roots.push(Root { generation, submitted: 0, promised: Some(0), tree: Ok(tree) });
        }
        let mut completed: HashMap<u64, usize> = HashMap::new();
        // Roots whose writing is under way or not yet durable: (request, place).
        let mut waiting: Vec<(u64, usize, bool)> = Vec::new();
        let mut flushes: HashMap<u64, usize> = HashMap::new();
        for (event, happened) in recording.events.iter().enumerate() {
            match happened {
                Event::Submit { id, request: Request::Flush } => {
                    flushes.insert(*id, event);
                }
                Event::Submit { id, request: Request::Write { at, data, fua } } => {
                    let may_be_root = *at < RING_END;
                    let before = may_be_root.then(|| newest(&image)).flatten();
                    image.put(*at, data);
                    let after = may_be_root.then(|| newest(&image)).flatten();
                    if after.is_some() && after != before {
                        waiting.push((*id, roots.len(), *fua));
                        roots.push(Root {
                            generation: after.unwrap_or(0),
                            submitted: event,
                            promised: None,
                            tree: tree(&image),
                        });
                    }
                }
                Event::Submit { request: Request::Zeroes { at, len, .. }, .. } => {
                    let len = (*len).min(image.len_bytes().saturating_sub(*at));
                    image.put(*at, &vec![0; len as usize]);
                }
                Event::Complete { id, ok: true } => {
                    completed.insert(*id, event);
                    let flushed = flushes.remove(id);
                    waiting.retain(|(root, place, fua)| {
                        let durable = (root == id && *fua)
                            || flushed.is_some_and(|since| {
                                completed.get(root).is_some_and(|at| *at < since)
                            });
                        if durable && let Some(root) = roots.get_mut(*place) {
                            root.promised = Some(event + 1);
                        }
                        !durable
                    });
                }
                Event::Complete { .. } | Event::Mark(_) => {}
            }
        }
        Self { roots }
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
            // Nothing was promised yet: whether anything opens is all the same, if it ends.
            return Ok(open(device).map_or(0, |volume| volume.generation().0));
        };
        assert_clean(device).map_err(Stop::text)?;
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
            // Overwritten since: by its own file, or by whom the block was given to too early?
            let owner = later.and_then(|tree| tree.blocks.get(block));
            if before != Some(held) && owner.is_some_and(|o| (o.0, o.1) != (*ino, *at)) {
                return Err(format!("inode {ino} block {at} holds another file's data"));
            }
        }
        Ok(generation)
    }
}

/// No write from here on changes a root record, whatever the block size.
const RING_END: u64 = 64 << 16;

/// The newest generation on an image.
fn newest(image: &Image) -> Option<u64> {
    Volume::open(image, &OPTIONS).ok().map(|volume| volume.generation().0)
}

/// FNV-1a: stable, and metadata are few.
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

/// Reads the whole tree that a device opens with.
fn tree<D: Device>(device: &D) -> Result<Tree, String> {
    let mut volume = open(device)?;
    read_tree(&mut volume).map_err(|e| format!("the tree cannot be read: {e}"))
}

fn read_tree<D: Device>(volume: &mut Volume<D>) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    let mut hash = Hash(0xCBF2_9CE4_8422_2325);
    hash.debug(&volume.statfs());
    let mut todo = vec![Ino::ROOT];
    let mut met = std::collections::BTreeSet::new();
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
