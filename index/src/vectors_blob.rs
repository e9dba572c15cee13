// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Slots and rows as a blob in a checkpoint, in the layout in which they are used.
//!
//! FORMAT.md has the layout. Rows are served from the blob's pages, each verified when it is first read;
//! the header and the slots are read, and verified, when the blob is opened.
//!
//! Invariant: what is opened has as many slots as rows, all of them inside the blob.

use std::{io::Write, sync::Arc};

use zerocopy::IntoBytes;

use crate::{
    error::{IndexError, Result},
    graph::GRAPH_ROWS_MAX,
    slots::Slots,
    store::{Blob, Store, pages, pages::Pages},
    vector::Space,
    vector_array::VectorArray,
};

/// First bytes of a blob of vectors; the last one is the version.
const MAGIC: [u8; 8] = *b"VXVECT\0\x02";
const HEADER: usize = 64;
/// What the parts of the blob are aligned to.
const ALIGN: usize = 64;
/// Every slot follows.
const LIST: u32 = 0;
/// The runs' first slots and rows follow.
const RUNS: u32 = 1;

/// Slots that are written.
#[derive(Clone, Copy)]
pub(crate) enum SlotsOf<'a> {
    /// Of a growing segment: in no order.
    Growing(&'a [u64]),
    /// Of a sealed segment.
    Sealed(&'a Slots),
}

impl SlotsOf<'_> {
    fn len(self) -> usize {
        match self {
            Self::Growing(slots) => slots.len(),
            Self::Sealed(slots) => slots.len(),
        }
    }

    /// How they are written, and how many entries.
    fn form(self) -> (u32, usize) {
        match self {
            Self::Sealed(Slots::Runs { runs, .. }) => (RUNS, runs.len()),
            Self::Sealed(Slots::List(slots)) => (LIST, slots.len()),
            Self::Growing(slots) => (LIST, slots.len()),
        }
    }

    fn write(self, out: &mut dyn Write) -> std::io::Result<()> {
        match self {
            Self::Sealed(Slots::Runs { runs, .. }) => {
                for chunk in runs.chunks(1 << 12) {
                    let words: Vec<u64> =
                        chunk.iter().flat_map(|&(slot, row)| [slot, u64::from(row)]).collect();
                    out.write_all(words.as_bytes())?;
                }
                Ok(())
            }
            Self::Sealed(Slots::List(slots)) => out.write_all(slots.as_bytes()),
            Self::Growing(slots) => out.write_all(slots.as_bytes()),
        }
    }
}

/// Where the parts of a blob are.
struct Layout {
    rows_at: usize,
    end: usize,
}

impl Layout {
    /// `None` if the blob would be too large for this machine.
    fn of(space: Space, rows: usize, form: u32, entries: usize) -> Option<Self> {
        let slots = entries.checked_mul(if form == RUNS { 16 } else { 8 })?;
        let rows_at = HEADER.checked_add(slots)?.checked_next_multiple_of(ALIGN)?;
        let body = usize::try_from(VectorArray::stored_bytes(space, rows as u64)?).ok()?;
        Some(Self { rows_at, end: rows_at.checked_add(body)? })
    }
}

/// Writes slots and their rows.
pub(crate) fn write(
    store: &mut dyn Store,
    space: Space,
    slots: SlotsOf<'_>,
    rows: &VectorArray,
) -> Result<Blob> {
    let (form, entries) = slots.form();
    let layout = Layout::of(space, slots.len(), form, entries)
        .ok_or(IndexError::Full { needed: u64::MAX, available: 0 })?;
    let slots_end = HEADER + entries * if form == RUNS { 16 } else { 8 };
    pages::write(store, layout.end as u64, &mut |out| {
        let mut header = [0u8; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&(slots.len() as u64).to_le_bytes());
        header[16..24].copy_from_slice(&(entries as u64).to_le_bytes());
        header[24..28].copy_from_slice(&form.to_le_bytes());
        let padding = vec![0; layout.rows_at - slots_end];
        out.write_all(&header)
            .and_then(|()| slots.write(out))
            .and_then(|()| out.write_all(&padding))
            .and_then(|()| rows.write(out))
            .map_err(IndexError::storage("writing vectors"))
    })
}

/// A blob that was opened: the slots as they are written, and the rows in its pages.
pub(crate) struct VectorsBlob {
    slots: Written,
    pub rows: VectorArray,
}

enum Written {
    List(Vec<u64>),
    Runs(Vec<(u64, u32)>),
}

impl VectorsBlob {
    /// Slots of a sealed segment, and its rows; `None` if the slots are out of order.
    pub(crate) fn sealed(self) -> Option<(Slots, VectorArray)> {
        let rows = self.rows.len();
        let slots = match self.slots {
            Written::List(slots) => Slots::new(slots)?,
            Written::Runs(runs) => Slots::from_runs(runs, rows)?,
        };
        Some((slots, self.rows))
    }

    /// Slots of a growing segment, and its rows in memory; `None` if they are runs, or the rows are damaged.
    pub(crate) fn growing(self, space: Space) -> Option<(Vec<u64>, VectorArray)> {
        let Written::List(slots) = self.slots else { return None };
        let mut rows = VectorArray::new(space);
        rows.reserve_exact(slots.len());
        for row in 0..slots.len() {
            rows.push_checked(&self.rows, row).ok()?;
        }
        Some((slots, rows))
    }
}

/// Opens a blob of `count` vectors.
pub(crate) fn open(
    store: &mut dyn Store,
    space: Space,
    count: u64,
    blob: &Blob,
    what: &str,
) -> Result<VectorsBlob> {
    // Checked before memory is taken for it.
    let least = VectorArray::stored_bytes(space, count).filter(|least| *least <= blob.bytes);
    if count > GRAPH_ROWS_MAX as u64 || least.is_none() {
        return Err(IndexError::Damaged(format!("{what} has a wrong length")));
    }
    parse(Arc::new(Pages::open(store, blob, what)?), space, count, what)
}

/// The rows of a blob that was written just now, mapped; `None` if they cannot be.
pub(crate) fn map_rows(
    store: &mut dyn Store,
    space: Space,
    count: u64,
    blob: &Blob,
) -> Option<VectorArray> {
    let what = "a blob of vectors";
    let pages = Pages::map(store, blob, what).ok()??;
    Some(parse(Arc::new(pages), space, count, what).ok()?.rows)
}

fn parse(pages: Arc<Pages>, space: Space, count: u64, what: &str) -> Result<VectorsBlob> {
    let wrong = |how: &str| IndexError::Damaged(format!("{what} {how}"));
    let epoch = pages.epoch();
    let part = |from: usize, to: usize| {
        let bytes = pages.contents().get(from..to).ok_or_else(|| wrong("has a wrong length"))?;
        if pages.check(from, to, epoch) { Ok(bytes) } else { Err(wrong("has a wrong checksum")) }
    };
    let header = part(0, HEADER)?;
    let word = |at: usize| {
        let bytes = header.get(at..at + 8).and_then(|bytes| bytes.first_chunk::<8>());
        u64::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    if header[..8] != MAGIC {
        return Err(wrong("is of another version"));
    }
    let (form, entries) = (word(24) as u32, usize::try_from(word(16)).unwrap_or(usize::MAX));
    let rows = count as usize;
    let layout =
        Layout::of(space, rows, form, entries).ok_or_else(|| wrong("has a wrong length"))?;
    let known = (form == LIST && entries == rows) || (form == RUNS && entries <= rows);
    if word(8) != count
        || !known
        || layout.end.next_multiple_of(pages::PAGE) != pages.contents().len()
    {
        return Err(wrong("has a wrong length"));
    }
    let words = |width: usize| {
        let bytes = part(HEADER, HEADER + entries * width)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)))
    };
    let slots = if form == LIST {
        Written::List(words(8)?.collect())
    } else {
        let flat: Vec<u64> = words(16)?.collect();
        let pairs = flat.as_chunks::<2>().0.iter();
        // A row that does not fit is one that no run can have.
        Written::Runs(
            pairs.map(|&[slot, row]| (slot, u32::try_from(row).unwrap_or(u32::MAX))).collect(),
        )
    };
    if pages.epoch() != epoch {
        return Err(wrong("cannot be read"));
    }
    Ok(VectorsBlob { slots, rows: VectorArray::stored(space, rows, pages, layout.rows_at) })
}
