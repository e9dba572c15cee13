// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The oracle: compares a volume with the model, inode by inode, block by block.
//!
//! It only reads. Data that was overwritten in place since a commit may differ from the model: the
//! caller says which contents are allowed.

use crate::halt::{Halt, ensure};
use crate::image::SECTOR;
use crate::model::{BLOCK, Block, Model, Node, sector_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vexfs::{Device, Error, FileBlock, Ino, Inode, MappingKind, Report, Volume, check};

/// Runs the full check; an error if it finds anything.
pub(crate) fn assert_clean<D: Device>(device: &D) -> Result<(), Halt> {
    let mut first = None;
    let summary = check(device, &mut |report| {
        if let Report::Finding(finding) = report {
            first.get_or_insert_with(|| finding.to_string());
        }
    });
    match (summary, first) {
        (Ok(summary), None) if summary.findings == 0 => Ok(()),
        (Ok(_), first) => Err(Halt::Detected(format!("check: {}", first.unwrap_or_default()))),
        (Err(error), _) => Err(Halt::error("check", &error)),
    }
}

/// A sector of file data that differs from the model.
pub(crate) struct FoundSector<'a> {
    /// Its number on the device.
    pub(crate) sector: u64,
    /// The file that it belongs to.
    pub(crate) ino: u64,
    /// The block of that file.
    pub(crate) block: u64,
    /// What it holds.
    pub(crate) data: &'a [u8],
}

/// Whether a sector may hold what was found.
pub(crate) type Allowed<'a> = dyn Fn(&FoundSector<'_>) -> bool + 'a;

/// The beginning of a name, for a message.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().take(24).collect()
}

/// Compares whole trees. Data that differs and is allowed is taken over into the model.
pub(crate) fn compare<D: Device>(
    volume: &mut Volume<D>,
    model: &mut Model,
    allowed: &Allowed<'_>,
) -> Result<(), Halt> {
    let inodes = model.nodes.len() as u64;
    let counted = volume.statfs().inodes;
    ensure!(inodes == counted, "the engine counts {counted} inodes, the model {inodes}");
    let numbers: Vec<u64> = model.nodes.keys().copied().collect();
    for ino in numbers {
        let Some(node) = model.nodes.get_mut(&ino) else { continue };
        let found = volume.resolve(|v| v.inode(Ino(ino))).map_err(at_inode(ino))?;
        // What an inode still holds whose removal or truncation has begun is not known.
        let exact = !node.dying;
        let blocks = if exact { node.held.len() as u64 } else { found.blocks };
        let expected = Inode { blocks, version: found.version, ..node.attr };
        ensure!(found == expected, "inode {ino} is {found:?}, should be {expected:?}");
        if !exact {
            continue;
        }
        if node.attr.is_dir() {
            compare_entries(volume, ino, node)?;
        }
        if !node.target.is_empty() {
            let target = volume.resolve(|v| v.readlink(Ino(ino))).map_err(at_inode(ino))?;
            ensure!(target == node.target, "symlink {ino} has another target");
        }
        compare_attributes(volume, ino, node)?;
        if node.attr.is_file() {
            compare_data(volume, node, allowed)?;
        }
    }
    Ok(())
}

/// An error of the engine at an inode.
fn at_inode(ino: u64) -> impl Fn(Error) -> Halt {
    move |error| Halt::error(&format!("inode {ino}"), &error)
}

fn compare_entries<D: Device>(volume: &mut Volume<D>, ino: u64, node: &Node) -> Result<(), Halt> {
    let entries = list(volume, ino).map_err(at_inode(ino))?;
    ensure!(
        entries == node.entries,
        "directory {ino} has {:?}, should have {:?}",
        entries.keys().map(|n| shown(n)).collect::<Vec<_>>(),
        node.entries.keys().map(|n| shown(n)).collect::<Vec<_>>()
    );
    for (name, child) in &node.entries {
        let met = volume.resolve(|v| v.lookup(Ino(ino), name)).map_err(at_inode(ino))?.0.0;
        ensure!(met == *child, "{} in {ino} names {met}, not {child}", shown(name));
    }
    Ok(())
}

fn compare_attributes<D: Device>(
    volume: &mut Volume<D>,
    ino: u64,
    node: &Node,
) -> Result<(), Halt> {
    let mut names = BTreeSet::new();
    volume
        .resolve(|v| {
            names.clear();
            v.xattr_list(Ino(ino), &mut |name| names.insert(name.to_vec()))
        })
        .map_err(at_inode(ino))?;
    ensure!(names.iter().eq(node.xattrs.keys()), "inode {ino} has other attributes");
    for (name, value) in &node.xattrs {
        let found = volume.resolve(|v| v.xattr_get(Ino(ino), name)).map_err(at_inode(ino))?;
        ensure!(found == *value, "inode {ino}: attribute {} differs", shown(name));
    }
    let layout = volume.resolve(|v| v.vector(Ino(ino))).map_err(at_inode(ino))?;
    ensure!(layout == node.layout, "inode {ino}: the vector attribute is {layout:?}");
    Ok(())
}

fn list<D: Device>(volume: &mut Volume<D>, ino: u64) -> Result<BTreeMap<Vec<u8>, u64>, Error> {
    let mut entries = BTreeMap::new();
    let mut cookie = 0;
    loop {
        let before = entries.len();
        volume.resolve(|v| {
            v.readdir(Ino(ino), cookie, &mut |entry| {
                cookie = entry.cookie;
                entries.insert(entry.name.to_vec(), entry.ino.0);
                true
            })
        })?;
        if entries.len() == before {
            return Ok(entries);
        }
    }
}

fn compare_data<D: Device>(
    volume: &mut Volume<D>,
    node: &mut Arc<Node>,
    allowed: &Allowed<'_>,
) -> Result<(), Halt> {
    let ino = node.attr.ino.0;
    let size = node.attr.size;
    let last = node.held.last().map_or(0, |b| b + 1);
    let end = size.div_ceil(BLOCK as u64).max(last) + 1;
    let mut at = 0;
    while at < end {
        let part = volume
            .resolve(|v| v.map(Ino(ino), FileBlock(at), end - at))
            .map_err(|e| Halt::error(&format!("inode {ino} block {at}"), &e))?;
        ensure!(part.count > 0 && part.start.0 == at, "inode {ino}: an impossible mapping");
        let until = at + part.count;
        if part.kind == MappingKind::Hole {
            let held = node.held.range(at..until).next();
            ensure!(held.is_none(), "inode {ino} lost block {held:?}");
            at = until;
            continue;
        }
        for block in at..until {
            let (start, written) = match part.kind {
                MappingKind::Written(start) => (start.0, true),
                MappingKind::Unwritten(start) => (start.0, false),
                MappingKind::Hole => continue,
            };
            ensure!(node.held.contains(&block), "inode {ino} has block {block}, should not");
            let Some(wanted) = node.data.get(&block).cloned() else {
                ensure!(!written, "inode {ino} block {block} was never written");
                continue;
            };
            ensure!(written, "inode {ino} block {block} is no longer written");
            let place = Place { ino, block, device_block: start + (block - at) };
            let inside = size.saturating_sub(block * BLOCK as u64).min(BLOCK as u64) as usize;
            if let Some(found) = compare_block(volume.device(), place, inside, &wanted, allowed)? {
                Arc::make_mut(node).data.insert(block, Arc::new(found));
            }
        }
        at = until;
    }
    Ok(())
}

/// A block of a file, and where it is on the device.
#[derive(Clone, Copy)]
struct Place {
    ino: u64,
    block: u64,
    device_block: u64,
}

/// Compares the first `inside` bytes of a block, those before the file's end. Returns the contents if
/// they differ and are allowed.
fn compare_block<D: Device>(
    device: &D,
    place: Place,
    inside: usize,
    wanted: &Block,
    allowed: &Allowed<'_>,
) -> Result<Option<Block>, Halt> {
    let Place { ino, block, device_block } = place;
    let mut found = [0; BLOCK];
    device
        .read(device_block * BLOCK as u64, &mut found)
        .map_err(|_| Halt::Mismatch(format!("inode {ino} block {block} cannot be read")))?;
    if found[..inside] == wanted[..inside] {
        return Ok(None);
    }
    for index in 0..inside.div_ceil(SECTOR) {
        let (data, expected) = (Model::sector(&found, index), Model::sector(wanted, index));
        let len = (inside - index * SECTOR).min(SECTOR);
        let sector = sector_of(device_block, index);
        ensure!(
            data[..len] == expected[..len] || allowed(&FoundSector { sector, ino, block, data }),
            "inode {ino} block {block} (device block {device_block}) sector {index} \
             holds foreign or stale data {:02x?}, should be {:02x?}",
            &data[..8],
            &expected[..8]
        );
    }
    found[inside..].fill(0);
    Ok(Some(found))
}
