// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The items of the tree as `vexfs dump --tree` shows them.

use super::fields;
use crate::cli::shown;
use crate::size;
use crate::tree::text;
use serde_json::{Value, json};
use std::io::{self, Write};
use vexfs::Time;
use vexfs_format::item::{EXTENT_UNWRITTEN, EXTENT_VECTOR, XattrHead};
use vexfs_format::{DirentHead, ExtentItem, GroupItem, InodeItem, Key, Kind, VectorItem};
use zerocopy::FromBytes;

/// An item, decoded.
pub struct Item {
    ino: u64,
    /// Its kind.
    pub kind: &'static str,
    offset: u64,
    values: Value,
}

impl Item {
    /// Decodes an item; a payload that its kind cannot have is shown by its length only.
    pub fn decode(key: Key, payload: &[u8]) -> Self {
        let (kind, values) = match key.kind() {
            Some(Kind::Inode) => ("inode", InodeItem::ref_from_bytes(payload).ok().map(inode)),
            Some(Kind::Vector) => ("vector", VectorItem::ref_from_bytes(payload).ok().map(vector)),
            Some(Kind::Xattr) => ("xattr", Some(xattr(key, payload))),
            Some(Kind::Inline) => ("inline", Some(json!({"text": text(payload)}))),
            Some(Kind::Dirent) => ("dirent", dirent(payload)),
            Some(Kind::Extent) => ("extent", ExtentItem::ref_from_bytes(payload).ok().map(extent)),
            Some(Kind::Orphan) => ("orphan", Some(json!({}))),
            Some(Kind::Group) => ("group", GroupItem::ref_from_bytes(payload).ok().map(group)),
            None => ("unknown", None),
        };
        let values = values.unwrap_or_else(|| json!({"malformed_bytes": payload.len()}));
        Self { ino: key.ino().0, kind, offset: key.offset(), values }
    }

    /// Prints it on one line.
    pub fn print(&self, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
        let Self { ino, kind, offset, values } = self;
        if as_json {
            return writeln!(
                out,
                "{}",
                json!({"ino": ino, "kind": kind, "offset": offset, "item": values})
            );
        }
        let line = format!("  {ino} {kind} {offset:#x}: {}\n", fields(values));
        out.write_all(&shown(line.trim_end().as_bytes()))?;
        out.write_all(b"\n")
    }
}

fn inode(item: &InodeItem) -> Value {
    json!({
        "mode": format!("{:06o}", item.mode.get()),
        "nlink": item.nlink.get(),
        "uid": item.uid.get(),
        "gid": item.gid.get(),
        "size": item.size.get(),
        "blocks": item.blocks.get(),
        "mtime": size::time(Time::from(item.mtime)),
        "flags": item.flags.get(),
        "rdev": item.rdev.get(),
        "parent": item.parent.get(),
        "version": item.version.get(),
    })
}

fn vector(item: &VectorItem) -> Value {
    json!({
        "element": item.element,
        "metric": item.metric,
        "flags": item.flags.get(),
        "dim": item.dim.get(),
        "header": item.header.get(),
        "stride": item.stride.get(),
        "offset": item.offset.get(),
        "m": item.m.get(),
        "ef_construction": item.ef_construction.get(),
    })
}

/// The head of an attribute, or a later chunk of its value.
fn xattr(key: Key, payload: &[u8]) -> Value {
    if key.offset() as u8 == 0
        && let Ok((head, rest)) = XattrHead::ref_from_prefix(payload)
        && let Some(name) = rest.get(..usize::from(head.name_len))
    {
        return json!({
            "name": text(name),
            "bytes": head.value_len.get(),
            "chunks": head.chunks.get(),
        });
    }
    json!({"chunk_bytes": payload.len()})
}

fn dirent(payload: &[u8]) -> Option<Value> {
    let (head, name) = DirentHead::ref_from_prefix(payload).ok()?;
    Some(json!({"name": text(name), "ino": head.ino.get(), "type": head.file_type}))
}

fn extent(item: &ExtentItem) -> Value {
    json!({
        "block": item.block.get(),
        "len": item.len.get(),
        "unwritten": item.flags.get() & EXTENT_UNWRITTEN != 0,
        "vector": item.flags.get() & EXTENT_VECTOR != 0,
    })
}

fn group(item: &GroupItem) -> Value {
    json!({"bitmap": item.bitmap.block.get(), "free": item.free.get()})
}
