// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Operations on the bytes of one node: find, insert, remove, split, merge, verify.
//!
//! A node that was read is verified once as a whole, in [`verify`]. All other functions may rely on its
//! offsets, but access the bytes only with bounds checks.
//!
//! Nothing here allocates memory, which might fail halfway through a change: functions that move items
//! are given a `scratch` buffer as long as a node.

use crate::error::{Error, Result};
use crate::mutants::{self, Mutant};
use core::cmp::Ordering;
use vexfs_format::crc32c;
use vexfs_format::node::{InnerEntry, LeafSlot, NODE_MAGIC, NodeHeader, Pointer, RawPointer};
use vexfs_format::{Generation, ITEM_BYTES_MAX, Key, LEVELS_MAX};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const HEADER: usize = size_of::<NodeHeader>();
const SLOT: usize = size_of::<LeafSlot>();
const ENTRY: usize = size_of::<InnerEntry>();
const SHORT: Error = Error::Bug("a node is shorter than its header says");

pub(crate) fn header(data: &[u8]) -> Result<&NodeHeader> {
    NodeHeader::ref_from_prefix(data).map(|(h, _)| h).map_err(|_| SHORT)
}

fn header_mut(data: &mut [u8]) -> Result<&mut NodeHeader> {
    NodeHeader::mut_from_prefix(data).map(|(h, _)| h).map_err(|_| SHORT)
}

pub(crate) fn count(data: &[u8]) -> Result<usize> {
    Ok(usize::from(header(data)?.count.get()))
}

/// Makes `data` an empty node.
pub(crate) fn format(data: &mut [u8], uuid: [u8; 16], level: u8, pointer: &Pointer) -> Result<()> {
    let heap_start = if level == 0 { data.len() as u32 } else { 0 };
    *header_mut(data)? = NodeHeader {
        magic: U32::new(NODE_MAGIC),
        level,
        reserved0: 0,
        count: U16::ZERO,
        uuid,
        address: U64::new(pointer.block.0),
        generation: U64::new(pointer.generation.0),
        heap_start: U32::new(heap_start),
        heap_live: U32::ZERO,
        reserved1: [0; 16],
    };
    Ok(())
}

/// Writes a node's block and generation into its header.
pub(crate) fn readdress(data: &mut [u8], pointer: &Pointer) -> Result<()> {
    let header = header_mut(data)?;
    header.address = U64::new(pointer.block.0);
    header.generation = U64::new(pointer.generation.0);
    Ok(())
}

// --- leaves ---

pub(crate) fn slots(data: &[u8]) -> Result<&[LeafSlot]> {
    let n = count(data)?;
    let body = data.get(HEADER..).ok_or(SHORT)?;
    <[LeafSlot]>::ref_from_prefix_with_elems(body, n).map(|(s, _)| s).map_err(|_| SHORT)
}

fn slots_mut(data: &mut [u8], n: usize) -> Result<&mut [LeafSlot]> {
    let body = data.get_mut(HEADER..).ok_or(SHORT)?;
    <[LeafSlot]>::mut_from_prefix_with_elems(body, n).map(|(s, _)| s).map_err(|_| SHORT)
}

/// Position of `key` in a leaf, or where it would be inserted.
pub(crate) fn leaf_find(data: &[u8], key: Key) -> Result<Result<usize, usize>> {
    Ok(slots(data)?.binary_search_by(|slot| Key::from(slot.key).cmp(&key)))
}

/// Key and payload of the item at `index`.
pub(crate) fn leaf_item(data: &[u8], index: usize) -> Result<Option<(Key, &[u8])>> {
    let Some(slot) = slots(data)?.get(index) else { return Ok(None) };
    let start = slot.offset.get() as usize;
    let payload = data.get(start..start.saturating_add(slot.len.get() as usize)).ok_or(SHORT)?;
    Ok(Some((slot.key.into(), payload)))
}

/// The payload of the item at `index`, for a change in place.
pub(crate) fn leaf_payload_mut(data: &mut [u8], index: usize) -> Result<&mut [u8]> {
    let slot = slots(data)?.get(index).ok_or(SHORT)?;
    let (start, len) = (slot.offset.get() as usize, slot.len.get() as usize);
    data.get_mut(start..start.saturating_add(len)).ok_or(SHORT)
}

/// Bytes that slots and payloads take.
pub(crate) fn leaf_used(data: &[u8]) -> Result<usize> {
    let header = header(data)?;
    Ok(usize::from(header.count.get()) * SLOT + header.heap_live.get() as usize)
}

/// Bytes a leaf has for slots and payloads, or an inner node for entries.
pub(crate) const fn capacity(block_bytes: usize) -> usize {
    block_bytes.saturating_sub(HEADER)
}

/// Puts an item at `index`; false, and nothing changed, if it does not fit.
pub(crate) fn leaf_insert(
    data: &mut [u8],
    index: usize,
    key: Key,
    payload: &[u8],
    scratch: &mut [u8],
) -> Result<bool> {
    let need = SLOT + payload.len();
    if leaf_used(data)? + need > capacity(data.len()) {
        return Ok(false);
    }
    let n = count(data)?;
    let gap = (header(data)?.heap_start.get() as usize).saturating_sub(HEADER + n * SLOT);
    if gap < need {
        compact(data, scratch)?;
    }
    let start = (header(data)?.heap_start.get() as usize).saturating_sub(payload.len());
    data.get_mut(start..start + payload.len()).ok_or(SHORT)?.copy_from_slice(payload);
    let slot = LeafSlot {
        key: key.into(),
        offset: U32::new(start as u32),
        len: U32::new(payload.len() as u32),
    };
    let slots = slots_mut(data, n + 1)?;
    slots.get_mut(index..).ok_or(SHORT)?.rotate_right(1);
    *slots.get_mut(index).ok_or(SHORT)? = slot;
    let header = header_mut(data)?;
    header.count = U16::new((n + 1) as u16);
    header.heap_start = U32::new(start as u32);
    header.heap_live = U32::new(header.heap_live.get() + payload.len() as u32);
    Ok(true)
}

/// Removes the item at `index`.
pub(crate) fn leaf_remove(data: &mut [u8], index: usize) -> Result<()> {
    let n = count(data)?;
    let slots = slots_mut(data, n)?;
    let len = slots.get(index).ok_or(SHORT)?.len.get();
    slots.get_mut(index..).ok_or(SHORT)?.rotate_left(1);
    if let Some(last) = slots.last_mut() {
        last.zero();
    }
    let block_bytes = data.len() as u32;
    let header = header_mut(data)?;
    header.count = U16::new((n - 1) as u16);
    header.heap_live = U32::new(header.heap_live.get().saturating_sub(len));
    if n == 1 {
        header.heap_start = U32::new(block_bytes);
    }
    Ok(())
}

/// Moves the payloads to the end of the leaf without holes, and zeroes the free bytes.
fn compact(data: &mut [u8], scratch: &mut [u8]) -> Result<()> {
    let packed = scratch.get_mut(..data.len()).ok_or(SHORT)?;
    packed.fill(0);
    let n = count(data)?;
    let mut end = data.len();
    for index in 0..n {
        let Some((_, payload)) = leaf_item(data, index)? else { break };
        let start = end.checked_sub(payload.len()).ok_or(SHORT)?;
        packed.get_mut(start..end).ok_or(SHORT)?.copy_from_slice(payload);
        slots_mut(data, n)?.get_mut(index).ok_or(SHORT)?.offset = U32::new(start as u32);
        end = start;
    }
    let (from, to) = (HEADER + n * SLOT, data.len());
    let tail = packed.get(from..to).ok_or(SHORT)?;
    data.get_mut(from..to).ok_or(SHORT)?.copy_from_slice(tail);
    header_mut(data)?.heap_start = U32::new(end as u32);
    Ok(())
}

/// Moves the items from `from` on into `right`, an empty leaf.
pub(crate) fn leaf_split(
    left: &mut [u8],
    right: &mut [u8],
    from: usize,
    scratch: &mut [u8],
) -> Result<()> {
    let n = count(left)?;
    for (position, index) in (from..n).enumerate() {
        let Some((key, payload)) = leaf_item(left, index)? else { break };
        if !leaf_insert(right, position, key, payload, scratch)? {
            return Err(Error::Bug("half a leaf does not fit into an empty one"));
        }
    }
    for index in (from..n).rev() {
        leaf_remove(left, index)?;
    }
    compact(left, scratch)
}

/// Where to split a leaf so that both halves hold about as many bytes; an insert at the very end
/// splits there, so that ascending inserts leave full leaves behind.
pub(crate) fn leaf_split_point(data: &[u8], insert_at: usize) -> Result<usize> {
    let slots = slots(data)?;
    if insert_at == slots.len() && slots.len() > 1 {
        return Ok(slots.len() - 1);
    }
    let half = leaf_used(data)? / 2;
    let mut sum = 0;
    for (index, slot) in slots.iter().enumerate() {
        sum += SLOT + slot.len.get() as usize;
        if sum >= half {
            return Ok((index + 1).min(slots.len().saturating_sub(1)).max(1));
        }
    }
    Ok(slots.len() / 2)
}

// --- inner nodes ---

pub(crate) fn entries(data: &[u8]) -> Result<&[InnerEntry]> {
    let n = count(data)?;
    let body = data.get(HEADER..).ok_or(SHORT)?;
    <[InnerEntry]>::ref_from_prefix_with_elems(body, n).map(|(s, _)| s).map_err(|_| SHORT)
}

fn entries_mut(data: &mut [u8], n: usize) -> Result<&mut [InnerEntry]> {
    let body = data.get_mut(HEADER..).ok_or(SHORT)?;
    <[InnerEntry]>::mut_from_prefix_with_elems(body, n).map(|(s, _)| s).map_err(|_| SHORT)
}

/// Index of the child that may hold `key`: the last entry whose key is not above it, or the first.
pub(crate) fn child_index(data: &[u8], key: Key) -> Result<usize> {
    let after = entries(data)?.partition_point(|e| Key::from(e.key).cmp(&key) != Ordering::Greater);
    Ok(after.saturating_sub(1))
}

pub(crate) fn child(data: &[u8], index: usize) -> Result<Pointer> {
    entries(data)?.get(index).map(|e| e.child.into()).ok_or(SHORT)
}

pub(crate) fn set_child(data: &mut [u8], index: usize, pointer: Pointer) -> Result<()> {
    let n = count(data)?;
    entries_mut(data, n)?.get_mut(index).ok_or(SHORT)?.child = RawPointer::from(pointer);
    Ok(())
}

pub(crate) fn set_entry_key(data: &mut [u8], index: usize, key: Key) -> Result<()> {
    let n = count(data)?;
    entries_mut(data, n)?.get_mut(index).ok_or(SHORT)?.key = key.into();
    Ok(())
}

/// Puts an entry at `index`; false, and nothing changed, if it does not fit.
pub(crate) fn inner_insert(
    data: &mut [u8],
    index: usize,
    key: Key,
    pointer: Pointer,
) -> Result<bool> {
    let n = count(data)?;
    if (n + 1) * ENTRY > capacity(data.len()) {
        return Ok(false);
    }
    let entries = entries_mut(data, n + 1)?;
    entries.get_mut(index..).ok_or(SHORT)?.rotate_right(1);
    *entries.get_mut(index).ok_or(SHORT)? = InnerEntry { key: key.into(), child: pointer.into() };
    header_mut(data)?.count = U16::new((n + 1) as u16);
    Ok(true)
}

pub(crate) fn inner_remove(data: &mut [u8], index: usize) -> Result<()> {
    let n = count(data)?;
    let entries = entries_mut(data, n)?;
    entries.get_mut(index..).ok_or(SHORT)?.rotate_left(1);
    if let Some(last) = entries.last_mut() {
        last.zero();
    }
    header_mut(data)?.count = U16::new(n.saturating_sub(1) as u16);
    Ok(())
}

/// Moves the entries from `from` on into `right`, an empty inner node.
pub(crate) fn inner_split(left: &mut [u8], right: &mut [u8], from: usize) -> Result<()> {
    let n = count(left)?;
    let moved = n.saturating_sub(from);
    let source = entries_mut(left, n)?.get_mut(from..).ok_or(SHORT)?;
    entries_mut(right, moved)?.as_mut_bytes().copy_from_slice(source.as_bytes());
    source.zero();
    header_mut(right)?.count = U16::new(moved as u16);
    header_mut(left)?.count = U16::new(from as u16);
    Ok(())
}

/// Bytes that the contents of a node of any level take.
pub(crate) fn used(data: &[u8]) -> Result<usize> {
    if header(data)?.level == 0 { leaf_used(data) } else { Ok(count(data)? * ENTRY) }
}

/// Adds the contents of `from` before (`front`) or behind those of `into`, a node of the same level.
/// The caller made sure that they fit.
pub(crate) fn absorb(into: &mut [u8], from: &[u8], front: bool, scratch: &mut [u8]) -> Result<()> {
    let start = if front { 0 } else { count(into)? };
    let leaf = header(into)?.level == 0;
    for offset in 0..count(from)? {
        let fits = if leaf {
            let Some((key, payload)) = leaf_item(from, offset)? else { break };
            leaf_insert(into, start + offset, key, payload, scratch)?
        } else {
            let Some(entry) = entries(from)?.get(offset) else { break };
            inner_insert(into, start + offset, entry.key.into(), entry.child.into())?
        };
        if !fits {
            return Err(Error::Bug("two nodes that should fit into one do not"));
        }
    }
    Ok(())
}

/// Smallest key of a node.
pub(crate) fn first_key(data: &[u8]) -> Result<Option<Key>> {
    if header(data)?.level == 0 {
        Ok(slots(data)?.first().map(|s| s.key.into()))
    } else {
        Ok(entries(data)?.first().map(|e| e.key.into()))
    }
}

/// Largest key of a node.
pub(crate) fn last_key(data: &[u8]) -> Result<Option<Key>> {
    if header(data)?.level == 0 {
        Ok(slots(data)?.last().map(|s| s.key.into()))
    } else {
        Ok(entries(data)?.last().map(|e| e.key.into()))
    }
}

/// Verifies a node that was read through `pointer`: checksum, identity, and every offset in it.
pub(crate) fn verify(data: &[u8], pointer: &Pointer, uuid: &[u8; 16], blocks: u64) -> Result<()> {
    let wrong = |what| Err(Error::block(pointer.block, what));
    if crc32c(data) != pointer.crc
        && !mutants::is(Mutant::NodeIdentity)
        && !mutants::is(Mutant::NodeChecksum)
    {
        return wrong("the node's checksum is not the one its pointer carries");
    }
    let header = header(data)?;
    if header.magic.get() != NODE_MAGIC && !mutants::is(Mutant::NodeIdentity) {
        return wrong("not a tree node (wrong magic)");
    }
    if header.uuid != *uuid && !mutants::is(Mutant::NodeIdentity) {
        return wrong("the node belongs to another filesystem");
    }
    if header.address.get() != pointer.block.0 && !mutants::is(Mutant::NodeIdentity) {
        return wrong("the node was written for another block");
    }
    if Generation(header.generation.get()) != pointer.generation
        && !mutants::is(Mutant::NodeIdentity)
    {
        return wrong("the node is of another generation");
    }
    if usize::from(header.level) >= LEVELS_MAX {
        return wrong("the node's level is impossible");
    }
    let n = usize::from(header.count.get());
    if header.level > 0 {
        if n == 0 || n * ENTRY > capacity(data.len()) {
            return wrong("an inner node's count is impossible");
        }
        let entries = entries(data)?;
        if !entries.is_sorted_by(|a, b| Key::from(a.key) < Key::from(b.key)) {
            return wrong("an inner node's keys are out of order");
        }
        let astray = |e: &InnerEntry| {
            let child = Pointer::from(e.child);
            child.block.0 >= blocks || child.generation > pointer.generation
        };
        if entries.iter().any(astray) {
            return wrong("an inner node points outside the filesystem or into the future");
        }
        return Ok(());
    }
    if HEADER + n * SLOT > data.len() {
        return wrong("a leaf's count is impossible");
    }
    let slots = slots(data)?;
    if !slots.is_sorted_by(|a, b| Key::from(a.key) < Key::from(b.key)) {
        return wrong("a leaf's keys are out of order");
    }
    let heap_start = header.heap_start.get() as usize;
    let mut live = 0usize;
    for slot in slots {
        let (offset, len) = (slot.offset.get() as usize, slot.len.get() as usize);
        if len > ITEM_BYTES_MAX || offset < heap_start || offset.saturating_add(len) > data.len() {
            return wrong("a leaf's item lies outside it");
        }
        live += len;
    }
    if heap_start < HEADER + n * SLOT
        || heap_start > data.len()
        || live != header.heap_live.get() as usize
        || live > data.len() - heap_start
    {
        return wrong("a leaf's heap bounds are impossible");
    }
    Ok(())
}
