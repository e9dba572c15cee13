// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A flat graph as the contents of a blob, in the layout in which it is walked.
//!
//! FORMAT.md has the layout. Nothing is copied out of the pages but the mean.
//!
//! Invariant: what is opened has only pages whose checksums matched, links to nodes that exist, and every
//! row exactly once, as a node or as a duplicate of one: a walk checks nothing, whatever the bytes are.

use std::{io::Write, sync::Arc};

use zerocopy::IntoBytes;

use super::{
    FlatGraph, Links, NONE,
    codes::{Codec, Codes, Kind, Lift, Quantizer},
    column::Column,
    nibbles,
};
use crate::{
    error::{IndexError, Result},
    graph::{Dump, Identity},
    store::pages::{PAGE, Pages},
    types::Metric,
};

/// First bytes of a flat graph; the last one is the version.
pub(in crate::graph) const MAGIC: [u8; 8] = *b"VXFLAT\0\x03";
const HEADER: usize = 128;
/// In the place of a kind: numbers in codes of half a byte.
const NIBBLES: u32 = 3;
/// What the parts of the blob are aligned to.
const ALIGN: usize = 128;

/// Where the parts are, in this order.
#[derive(Clone, Copy)]
struct Layout {
    row_of: usize,
    duplicates: usize,
    links: usize,
    norms: usize,
    codes: usize,
    end: usize,
}

impl Layout {
    fn of(
        mean: usize,
        nodes: usize,
        duplicates: usize,
        (norms, width): (usize, usize),
    ) -> Option<Self> {
        let after = |at: usize, count: usize, bytes: usize| {
            at.checked_add(count.checked_mul(bytes)?)?.checked_next_multiple_of(ALIGN)
        };
        let row_of = after(HEADER, mean, 4)?;
        let duplicates_at = after(row_of, nodes, 4)?;
        let links = after(duplicates_at, duplicates, 8)?;
        let norms_at = after(links, nodes, size_of::<Links>())?;
        let codes = after(norms_at, norms, 4)?;
        let end = codes.checked_add(nodes.checked_mul(width)?)?;
        Some(Self { row_of, duplicates: duplicates_at, links, norms: norms_at, codes, end })
    }
}

/// A flat graph as bytes.
pub(super) struct FlatDump<'a> {
    graph: &'a FlatGraph,
    /// The checksum of the vectors that it is over.
    vectors: u32,
}

impl<'a> FlatDump<'a> {
    pub(super) fn of(graph: &'a FlatGraph, vectors: u32) -> Self {
        Self { graph, vectors }
    }

    fn mean(&self) -> &[f32] {
        match &self.graph.codec {
            Codec::Numbers(quantizer) => &quantizer.mean,
            Codec::Bits { .. } | Codec::Floats(_) => &[],
        }
    }

    fn layout(&self) -> Layout {
        let graph = self.graph;
        let (nodes, duplicates) = (graph.links.len(), graph.duplicates.len());
        // It fits: all of it is in memory.
        let codes = (graph.codes.norms().len(), graph.codes.width());
        Layout::of(self.mean().len(), nodes, duplicates, codes).unwrap_or(Layout {
            row_of: 0,
            duplicates: 0,
            links: 0,
            norms: 0,
            codes: 0,
            end: 0,
        })
    }

    fn header(&self) -> [u8; HEADER] {
        let graph = self.graph;
        let (kind, size, longest, step) = match &graph.codec {
            Codec::Numbers(q) => {
                let kind = if graph.codes.kind() == Kind::Nibbles { NIBBLES } else { 0 };
                (kind, q.mean.len(), q.longest(), q.step)
            }
            Codec::Bits { words } => (1, *words, 0.0, 0.0),
            Codec::Floats(lift) => (2, lift.dim, lift.longest, 0.0),
        };
        let (nodes, duplicates) = (graph.links.len() as u32, graph.duplicates.len() as u32);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        let (longest, step, ratio) = (longest.to_bits(), step.to_bits(), graph.codes.ratio());
        let words = [kind, size as u32, nodes, duplicates, longest, step, self.vectors, ratio];
        for (to, word) in header[8..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        header
    }
}

impl Dump for FlatDump<'_> {
    fn bytes(&self) -> u64 {
        self.layout().end as u64
    }

    fn write_to(&self, out: &mut dyn Write) -> Result<()> {
        let (graph, layout) = (self.graph, self.layout());
        let parts = [
            (self.mean().as_bytes(), layout.row_of),
            (graph.row_of.as_bytes(), layout.duplicates),
            (graph.duplicates.as_bytes(), layout.links),
            (graph.links.as_bytes(), layout.norms),
            (graph.codes.norms().as_bytes(), layout.codes),
            (graph.codes.bytes(), layout.end),
        ];
        let mut at = HEADER;
        let mut write = || -> std::io::Result<()> {
            out.write_all(&self.header())?;
            for (bytes, end) in parts {
                out.write_all(bytes)?;
                at += bytes.len();
                out.write_all(&[0; ALIGN][..end - at])?;
                at = end;
            }
            Ok(())
        };
        write().map_err(IndexError::storage("writing a graph"))
    }
}

/// Opens the graph over some vectors, after it has verified all of it.
pub(in crate::graph) fn open(pages: &Arc<Pages>, vectors: &Identity) -> Result<FlatGraph> {
    let epoch = pages.verify("a graph")?;
    let graph = parse(pages, vectors, epoch);
    // Zeroes could have come in between.
    let graph = graph.filter(|_| pages.epoch() == epoch);
    graph.ok_or_else(|| IndexError::Damaged("a graph that is not of its rows".into()))
}

fn parse(pages: &Arc<Pages>, vectors: &Identity, epoch: u32) -> Option<FlatGraph> {
    let header = pages.contents().get(..HEADER)?;
    let word = |index: usize| {
        let bytes = header.get(8 + index * 4..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let (kind, size, nodes) = (word(0)?, word(1)? as usize, word(2)? as usize);
    let (duplicates, of) = (word(3)? as usize, word(6)?);
    let (longest, step) = (f32::from_bits(word(4)?), f32::from_bits(word(5)?));
    if header[..8] != MAGIC || of != vectors.crc || nodes == 0 {
        return None;
    }
    let (space, dim) = (vectors.space, vectors.space.dim as usize);
    let is_bits = space.metric == Metric::Hamming;
    let lifted = dim + usize::from(space.metric == Metric::Dot);
    let is_size = |x: f32| x.is_finite() && x >= 0.0;
    let fits = size == lifted && !is_bits && is_size(longest);
    let ratio = word(7)?;
    let mean_len = if kind == 0 || kind == NIBBLES { size } else { 0 };
    let codec = match kind {
        0 | NIBBLES if fits && is_size(step) && step > 0.0 => {
            let mean = Column::<f32>::in_pages(pages, HEADER, mean_len)?;
            if !mean.iter().all(|x| x.is_finite()) {
                return None;
            }
            Codec::Numbers(Quantizer::new(longest, mean.to_vec(), step))
        }
        1 if is_bits && size == dim.div_ceil(64) => Codec::Bits { words: size },
        2 if fits => Codec::Floats(Lift { dim: lifted, longest }),
        _ => return None,
    };
    let (kind, width, norms) = match kind {
        NIBBLES if size >= nibbles::DIM_MIN && (1..=nibbles::RATIO_MAX).contains(&ratio) => {
            (Kind::Nibbles, nibbles::width(size), nodes)
        }
        NIBBLES => return None,
        _ => (codec.kind(), codec.width(), 0),
    };
    let layout = Layout::of(mean_len, nodes, duplicates, (norms, width))?;
    if layout.end.next_multiple_of(PAGE) != pages.contents().len() {
        return None;
    }
    let row_of = Column::<u32>::in_pages(pages, layout.row_of, nodes)?;
    let duplicates = Column::<[u32; 2]>::in_pages(pages, layout.duplicates, duplicates)?;
    let links = Column::<Links>::in_pages(pages, layout.links, nodes)?;
    let norms = Column::<u32>::in_pages(pages, layout.norms, norms)?;
    let codes = Column::<u8>::in_pages(pages, layout.codes, nodes * width)?;
    let leads_astray = |&link: &u32| link != NONE && link as usize >= nodes;
    if !are_all_rows(&row_of, &duplicates, vectors.rows)
        || links.iter().any(|links| links.0.iter().any(leads_astray))
    {
        return None;
    }
    let codes = Codes::new(kind, width, codes).with_norms(ratio, norms);
    let pages = Some((Arc::clone(pages), epoch));
    Some(FlatGraph::new(codec, codes, links, row_of, duplicates, pages))
}

/// Whether nodes and duplicates are the rows, each exactly once, and the duplicates are in their order and
/// of rows that are nodes.
fn are_all_rows(row_of: &[u32], duplicates: &[[u32; 2]], rows: usize) -> bool {
    if row_of.len() + duplicates.len() != rows || !duplicates.is_sorted_by(|a, b| a < b) {
        return false;
    }
    let mut seen = vec![false; rows];
    let fresh = |seen: &mut Vec<bool>, row: u32| {
        seen.get_mut(row as usize).is_some_and(|seen| !std::mem::replace(seen, true))
    };
    row_of.iter().all(|&row| fresh(&mut seen, row))
        && duplicates.iter().all(|&[first, _]| seen.get(first as usize) == Some(&true))
        && duplicates.iter().all(|&[_, later]| fresh(&mut seen, later))
}
