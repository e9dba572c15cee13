// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The oracle: holds a volume against the model, inode by inode, block by block.
//!
//! It only reads. What may differ, data overwritten in place since the commit, its caller says.

use crate::image::SECTOR;
use crate::model::{BLOCK, Model, Node};
use crate::work::{Run, Stop, ensure, sector_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vexfs::{Device, Error, FileBlock, Ino, Inode, MappingKind, Report, Volume, check};

/// The full check finds nothing.
pub(crate) fn assert_clean<D: Device>(device: &D) -> Run<()> {
    let mut first = None;
    let summary = check(device, &mut |report| {
        if let Report::Finding(finding) = report {
            first.get_or_insert_with(|| finding.to_string());
        }
    });
    match (summary, first) {
        (Ok(summary), None) if summary.findings == 0 => Ok(()),
        (Ok(_), first) => Err(Stop::Found(format!("check: {}", first.unwrap_or_default()))),
        (Err(error), _) => Err(Stop::error("check", &error)),
    }
}

/// Says whether a sector (its number, the inode and file block it belongs to) may hold `data`.
pub(crate) type Allowed<'a> = dyn Fn(u64, u64, u64, &[u8]) -> bool + 'a;

fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().take(24).collect()
}

/// Compares whole trees. Data that differs where it may is taken over into the model.
pub(crate) fn compare<D: Device>(
    volume: &mut Volume<D>,
    model: &mut Model,
    allowed: &Allowed<'_>,
) -> Run<()> {
    let fail = |ino: u64| move |e: Error| Stop::error(&format!("inode {ino}"), &e);
    let inodes = model.nodes.len() as u64;
    let counted = volume.statfs().inodes;
    ensure!(inodes == counted, "the engine counts {counted} inodes, the model {inodes}");
    let numbers: Vec<u64> = model.nodes.keys().copied().collect();
    for ino in numbers {
        let Some(node) = model.nodes.get_mut(&ino) else { continue };
        let found = volume.resolve(|v| v.inode(Ino(ino))).map_err(fail(ino))?;
        let exact = !node.dying;
        let blocks = if exact { node.held.len() as u64 } else { found.blocks };
        let expected = Inode { blocks, version: found.version, ..node.attr };
        ensure!(found == expected, "inode {ino} is {found:?}, should be {expected:?}");
        if !exact {
            continue;
        }
        if node.attr.is_dir() {
            let entries = list(volume, ino).map_err(fail(ino))?;
            let names = || node.entries.keys().map(|n| shown(n)).collect::<Vec<_>>();
            ensure!(
                entries == node.entries,
                "directory {ino} has {:?}, should have {:?}",
                entries.keys().map(|n| shown(n)).collect::<Vec<_>>(),
                names()
            );
            for (name, child) in &node.entries {
                let met = volume.resolve(|v| v.lookup(Ino(ino), name)).map_err(fail(ino))?.0.0;
                ensure!(met == *child, "{} in {ino} names {met}, not {child}", shown(name));
            }
        }
        if !node.target.is_empty() {
            let target = volume.resolve(|v| v.readlink(Ino(ino))).map_err(fail(ino))?;
            ensure!(target == node.target, "symlink {ino} leads elsewhere");
        }
        let mut names = BTreeSet::new();
        volume
            .resolve(|v| {
                names.clear();
                v.xattr_list(Ino(ino), &mut |name| names.insert(name.to_vec()))
            })
            .map_err(fail(ino))?;
        ensure!(names.iter().eq(node.xattrs.keys()), "inode {ino} has other attributes");
        for (name, value) in &node.xattrs {
            let found = volume.resolve(|v| v.xattr_get(Ino(ino), name)).map_err(fail(ino))?;
            ensure!(found == *value, "inode {ino}: attribute {} differs", shown(name));
        }
        let layout = volume.resolve(|v| v.vector(Ino(ino))).map_err(fail(ino))?;
        ensure!(layout == node.layout, "inode {ino}: the vector attribute is {layout:?}");
        if node.attr.is_file() {
            compare_data(volume, node, allowed)?;
        }
    }
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
) -> Run<()> {
    let ino = node.attr.ino.0;
    let size = node.attr.size;
    let last = node.held.last().map_or(0, |b| b + 1);
    let end = size.div_ceil(BLOCK as u64).max(last) + 1;
    let mut at = 0;
    while at < end {
        let part = volume
            .resolve(|v| v.map(Ino(ino), FileBlock(at), end - at))
            .map_err(|e| Stop::error(&format!("inode {ino} block {at}"), &e))?;
        ensure!(part.count > 0 && part.start.0 == at, "inode {ino}: an impossible mapping");
        let until = at + part.count;
        if part.kind == MappingKind::Hole {
            let held = node.held.range(at..until).next();
            ensure!(held.is_none(), "inode {ino} lost block {held:?}");
            at = until;
            continue;
        }
        for block in at..until {
            let (MappingKind::Written(start) | MappingKind::Unwritten(start)) = part.kind else {
                continue;
            };
            let written = matches!(part.kind, MappingKind::Written(_));
            ensure!(node.held.contains(&block), "inode {ino} block {block} is there too many");
            let Some(wanted) = node.data.get(&block).cloned() else {
                ensure!(!written, "inode {ino} block {block} was never written");
                continue;
            };
            ensure!(written, "inode {ino} block {block} is no longer written");
            let mut found = [0; BLOCK];
            let device_block = start.0 + (block - at);
            volume
                .device()
                .read(device_block * BLOCK as u64, &mut found)
                .map_err(|_| Stop::Wrong(format!("inode {ino} block {block} cannot be read")))?;
            let inside = size.saturating_sub(block * BLOCK as u64).min(BLOCK as u64) as usize;
            if found[..inside] == wanted[..inside] {
                continue;
            }
            for index in 0..inside.div_ceil(SECTOR) {
                let (now, was) = (Model::sector(&found, index), Model::sector(&wanted, index));
                let len = (inside - index * SECTOR).min(SECTOR);
                ensure!(
                    now[..len] == was[..len]
                        || allowed(sector_of(device_block, index), ino, block, now),
                    "inode {ino} block {block} (device block {device_block}) sector {index} \
                     holds foreign or stale data {:02x?}, should be {:02x?}",
                    &now[..8],
                    &was[..8]
                );
            }
            found[inside..].fill(0);
            Arc::make_mut(node).data.insert(block, Arc::new(found));
        }
        at = until;
    }
    Ok(())
}
