// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `vexfs dump`: the superblock, the root ring and the tree, as they are on the medium.
//!
//! For those who work on the format. It shows the tree that the engine would mount, block by block as
//! it lies there; a block whose checksum is wrong is named and left out. Whether the structures agree
//! with each other is for `fsck.vexfs` to say.

mod item;

use crate::failure::{Failure, Result};
use crate::size;
use crate::tree::text;
use item::Item;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use uuid::Uuid;
use vexfs::{BlockNr, Device, Error, Geometry, Superblock, Time, newest_root, read_superblock};
use vexfs_format::node::{InnerEntry, LeafSlot, NODE_MAGIC, Pointer};
use vexfs_format::{Key, NodeHeader, ROOT_RING_START, ROOT_SLOTS, RootRecord, crc32c};
use zerocopy::{FromBytes, IntoBytes};

/// How to dump.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// With every node and item of the tree.
    pub tree: bool,
    /// As one JSON document; with `tree`, as one JSON object per line.
    pub json: bool,
}

/// The items of one kind, in numbers.
#[derive(Clone, Copy, Default)]
struct Kinds {
    items: u64,
    bytes: u64,
}

/// The tree in numbers.
#[derive(Default)]
struct Statistics {
    /// Nodes on each level, the leaves first.
    nodes: BTreeMap<u8, u64>,
    /// Bytes in nodes that hold headers, slots and payloads.
    used: u64,
    kinds: BTreeMap<&'static str, Kinds>,
    damaged: Vec<String>,
}

/// Writes what the image holds to `out`.
///
/// # Errors
/// If no copy of the superblock or no root is valid; the device's and standard output's.
pub fn dump<D: Device>(device: &D, image: &str, format: Format, out: &mut dyn Write) -> Result<()> {
    let failed = || Failure::engine(image);
    let superblock = read_superblock(device).map_err(failed())?;
    let geometry = Geometry::of(&superblock);
    let roots = ring(device, &geometry).map_err(failed())?;
    let newest = match newest_root(device, &geometry) {
        Err(Error::NoRoot) => None,
        other => Some(other.map_err(failed())?),
    };
    let superblock_json = superblock_values(&superblock);
    let ring_json: Vec<Value> =
        roots.iter().map(|(slot, record)| root_values(*slot, record)).collect();
    if !format.json {
        section(out, "superblock", &superblock_json)?;
        writeln!(out, "root ring: {} of {ROOT_SLOTS} slots hold a record", roots.len())
            .map_err(Failure::output)?;
        for root in &ring_json {
            writeln!(out, "  {}", fields(root)).map_err(Failure::output)?;
        }
    } else if format.tree {
        writeln!(out, "{}", json!({"superblock": superblock_json, "roots": ring_json}))
            .map_err(Failure::output)?;
    }
    let mut statistics = Statistics::default();
    if let Some(record) = &newest {
        if format.tree && !format.json {
            writeln!(out, "tree of generation {}", record.generation).map_err(Failure::output)?;
        }
        walk(device, &geometry, record, format, &mut statistics, image, out)?;
    }
    let tree_json = statistics.values(&geometry);
    match (format.json, format.tree) {
        (true, true) => writeln!(out, "{}", json!({"tree": tree_json})),
        (true, false) => writeln!(
            out,
            "{:#}",
            json!({"superblock": superblock_json, "roots": ring_json, "tree": tree_json})
        ),
        (false, _) => statistics.print(&geometry, out),
    }
    .map_err(Failure::output)?;
    if newest.is_none() {
        return Err(failed()(Error::NoRoot));
    }
    match statistics.damaged.len() {
        0 => Ok(()),
        n => Err(Failure::Other(format!(
            "{image}: {n} blocks of the tree cannot be read; fsck.vexfs shows more"
        ))),
    }
}

/// A flat object as `name value, name value`.
fn fields(values: &Value) -> String {
    let pairs = values.as_object().into_iter().flatten();
    pairs.map(|(name, value)| format!("{name} {}", plain(value))).collect::<Vec<_>>().join(", ")
}

/// A value as text; strings without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn section(out: &mut dyn Write, title: &str, values: &Value) -> Result<()> {
    writeln!(out, "{title}").map_err(Failure::output)?;
    for (name, value) in values.as_object().into_iter().flatten() {
        writeln!(out, "  {:<15} {}", format!("{name}:"), plain(value)).map_err(Failure::output)?;
    }
    Ok(())
}

fn nanos(ns: u64) -> String {
    let ns = ns as i64;
    let seconds = ns.div_euclid(1_000_000_000);
    size::time(Time { seconds, nanos: ns.rem_euclid(1_000_000_000) as u32 })
}

fn superblock_values(superblock: &Superblock) -> Value {
    let label = superblock.label.split(|byte| *byte == 0).next().unwrap_or_default();
    json!({
        "label": text(label),
        "uuid": Uuid::from_bytes(superblock.uuid).to_string(),
        "version": superblock.version.get(),
        "block_bytes": 1u64 << superblock.block_shift.get(),
        "blocks": superblock.blocks.get(),
        "compat": superblock.compat.get(),
        "ro_compat": superblock.ro_compat.get(),
        "incompat": superblock.incompat.get(),
        "ring_start": superblock.ring_start.get(),
        "ring_slots": superblock.ring_slots.get(),
        "backup_first": superblock.backup_first.get(),
        "backup_last": superblock.backup_last.get(),
        "created": nanos(superblock.created_ns.get()),
    })
}

fn root_values(slot: u64, record: &RootRecord) -> Value {
    json!({
        "slot": slot,
        "generation": record.generation.get(),
        "time": nanos(record.time_ns.get()),
        "tree_block": record.tree.block.get(),
        "level": record.level.get(),
        "free_blocks": record.free_blocks.get(),
        "inodes": record.inodes.get(),
        "orphans": record.orphans.get(),
        "next_ino": record.next_ino.get(),
    })
}

/// All valid records of the ring with their slots; which of them counts is the engine's to say.
fn ring<D: Device>(device: &D, geometry: &Geometry) -> Result<Vec<(u64, RootRecord)>, Error> {
    let mut block = vec![0; geometry.block_bytes()];
    let mut roots = Vec::new();
    for slot in 0..ROOT_SLOTS {
        device.read(geometry.byte_of(BlockNr(ROOT_RING_START + slot)), &mut block)?;
        roots.extend(RootRecord::parse(&block, &geometry.uuid).map(|record| (slot, record)));
    }
    Ok(roots)
}

fn walk<D: Device>(
    device: &D,
    geometry: &Geometry,
    record: &RootRecord,
    format: Format,
    statistics: &mut Statistics,
    image: &str,
    out: &mut dyn Write,
) -> Result<()> {
    let mut stack: Vec<Pointer> = vec![record.tree.into()];
    let mut seen = HashSet::new();
    let mut data = vec![0; geometry.block_bytes()];
    while let Some(pointer) = stack.pop() {
        let wrong = if pointer.block.0 >= geometry.blocks {
            Some("leads outside the filesystem")
        } else if !seen.insert(pointer.block.0) {
            Some("is reached twice")
        } else {
            device.read(geometry.byte_of(pointer.block), &mut data).map_err(|error| {
                Failure::Engine { subject: image.to_owned(), error: error.into() }
            })?;
            (crc32c(&data) != pointer.crc).then_some("has a wrong checksum")
        };
        let node = if wrong.is_none() { Node::parse(&data) } else { None };
        let Some(node) = node else {
            let what = wrong.unwrap_or("is not a node");
            let line = format!("block {}: {what}", pointer.block);
            if format.tree && !format.json {
                writeln!(out, "{line}").map_err(Failure::output)?;
            }
            statistics.damaged.push(line);
            continue;
        };
        let header = node.header;
        *statistics.nodes.entry(header.level).or_default() += 1;
        statistics.used += size_of::<NodeHeader>() as u64
            + node.slots.as_bytes().len() as u64
            + node.entries.as_bytes().len() as u64
            + u64::from(header.heap_live.get());
        if format.tree {
            let values = json!({
                "node": pointer.block.0,
                "level": header.level,
                "generation": header.generation.get(),
                "items": header.count.get(),
            });
            let line = if format.json { values.to_string() } else { fields(&values) };
            writeln!(out, "{line}").map_err(Failure::output)?;
        }
        stack.extend(node.entries.iter().rev().map(|entry| Pointer::from(entry.child)));
        for slot in node.slots {
            let (at, len) = (slot.offset.get() as usize, slot.len.get() as usize);
            let payload = data.get(at..at.saturating_add(len)).unwrap_or_default();
            let item = Item::decode(Key::from(slot.key), payload);
            let kind = statistics.kinds.entry(item.kind).or_default();
            kind.items += 1;
            kind.bytes += payload.len() as u64;
            if format.tree {
                item.print(format.json, out).map_err(Failure::output)?;
            }
        }
    }
    Ok(())
}

/// A node whose checksum is right; nothing else of it is known.
struct Node<'a> {
    header: &'a NodeHeader,
    slots: &'a [LeafSlot],
    entries: &'a [InnerEntry],
}

impl<'a> Node<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let (header, rest) = NodeHeader::ref_from_prefix(data).ok()?;
        if header.magic.get() != NODE_MAGIC {
            return None;
        }
        let count = usize::from(header.count.get());
        if header.level == 0 {
            let (slots, _) = <[LeafSlot]>::ref_from_prefix_with_elems(rest, count).ok()?;
            Some(Self { header, slots, entries: &[] })
        } else {
            let (entries, _) = <[InnerEntry]>::ref_from_prefix_with_elems(rest, count).ok()?;
            Some(Self { header, slots: &[], entries })
        }
    }
}

impl Statistics {
    fn total_nodes(&self) -> u64 {
        self.nodes.values().sum()
    }

    fn fill_percent(&self, geometry: &Geometry) -> u64 {
        let bytes = self.total_nodes() * geometry.block_bytes() as u64;
        (self.used * 100).checked_div(bytes).unwrap_or(0)
    }

    fn values(&self, geometry: &Geometry) -> Value {
        let kinds: serde_json::Map<String, Value> = self
            .kinds
            .iter()
            .map(|(name, kind)| {
                ((*name).to_owned(), json!({"items": kind.items, "bytes": kind.bytes}))
            })
            .collect();
        let levels: Vec<u64> = self.nodes.values().copied().collect();
        json!({
            "nodes": self.total_nodes(),
            "nodes_by_level": levels,
            "fill_percent": self.fill_percent(geometry),
            "items": kinds,
            "damaged": self.damaged,
        })
    }

    fn print(&self, geometry: &Geometry, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "tree: {} nodes, {}% full", self.total_nodes(), self.fill_percent(geometry))?;
        for (level, nodes) in &self.nodes {
            writeln!(out, "  level {level}: {nodes} nodes")?;
        }
        for (name, kind) in &self.kinds {
            writeln!(out, "  {name}: {} items, {} bytes", kind.items, kind.bytes)?;
        }
        for line in &self.damaged {
            writeln!(out, "  damaged: {line}")?;
        }
        Ok(())
    }
}
