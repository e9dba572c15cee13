// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A flat graph as bytes in a checkpoint, and back.
//!
//! All numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 8 | [`MAGIC`], which names the version |
//! | 4 | 0: codes of numbers, 1: bits, 2: numbers as they are |
//! | 4 | dimensions of a code; of bits, words of 64 |
//! | 4 | nodes |
//! | 4 | length of the longest row under dot, or 0 |
//! | 4 | what a step of a code stands for, or 0 |
//! | 36 | zero |
//! | 4 for each dimension | the mean; only for codes of numbers |
//! | 4 for each node | its row |
//! | 128 for each node | its links: nodes, then `0xffffffff` |
//! | width for each node | its code; the width is a multiple of 64 |
//!
//! Rows that are equal to a node's are found again when it is loaded.
//!
//! Invariant: what is loaded has links to nodes and rows that exist, whatever the bytes are.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use super::{
    DEGREE, FlatGraph, Links, NONE,
    codes::{Codec, Codes, Lift, Quantizer},
    kernel::CODE_ALIGN,
};
use crate::{
    error::{IndexError, Result},
    graph::{Dump, Graph, order::distinct},
    types::Metric,
    vector_array::VectorArray,
};

/// First bytes of a flat graph; the last one is the version.
pub(in crate::graph) const MAGIC: [u8; 8] = *b"VXFLAT\0\x01";
const HEADER: usize = 64;

/// A flat graph as bytes.
pub(in crate::graph) struct FlatDump(Vec<u8>);

impl FlatDump {
    pub(super) fn of(graph: &FlatGraph) -> Self {
        let nodes = graph.links.len();
        let mut bytes = Vec::with_capacity(HEADER + nodes * (4 + 128 + graph.codes.width()));
        bytes.extend_from_slice(&MAGIC);
        let (kind, size, longest, step, mean) = match &graph.codec {
            Codec::Numbers(q) => (0u32, q.mean.len(), q.longest(), q.step, q.mean.as_slice()),
            Codec::Bits { words } => (1, *words, 0.0, 0.0, &[][..]),
            Codec::Floats(lift) => (2, lift.dim, lift.longest, 0.0, &[][..]),
        };
        for word in [kind, size as u32, nodes as u32, longest.to_bits(), step.to_bits()] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize(HEADER, 0);
        bytes.extend(mean.iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend(graph.row_of.iter().flat_map(|row| row.to_le_bytes()));
        bytes.extend(graph.links.iter().flat_map(|links| links.0).flat_map(u32::to_le_bytes));
        bytes.extend_from_slice(graph.codes.bytes());
        Self(bytes)
    }

    /// Reads a blob of `bytes` bytes whose first ones, `magic`, were read.
    pub(in crate::graph) fn receive(bytes: u64, magic: &[u8], from: &mut dyn Read) -> Result<Self> {
        let failed = || IndexError::storage("reading a graph");
        let mut all = magic.to_vec();
        let left = bytes.saturating_sub(magic.len() as u64);
        from.take(left).read_to_end(&mut all).map_err(failed())?;
        if all.len() as u64 != bytes {
            return Err(failed()(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Self(all))
    }

    fn parse(&self, rows: &VectorArray) -> Option<FlatGraph> {
        let (header, mut rest) = self.0.split_at_checked(HEADER)?;
        let word = |index: usize| {
            let bytes = header.get(8 + index * 4..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let (kind, size, nodes) = (word(0)?, word(1)? as usize, word(2)? as usize);
        let (order, duplicates) = distinct(rows);
        let first = *order.first()? as usize;
        let (longest, step) = (f32::from_bits(word(3)?), f32::from_bits(word(4)?));
        let dim = rows.numbers(first).len() + usize::from(rows.metric == Metric::Dot);
        let fits = size == dim && !rows.is_bits() && longest >= 0.0;
        let codec = match kind {
            0 if fits && step > 0.0 => {
                let mean = words(&mut rest, size)?.map(f32::from_bits).collect();
                Codec::Numbers(Quantizer::new(longest, mean, step))
            }
            1 if rows.is_bits() && size == rows.bits(first).len() => Codec::Bits { words: size },
            2 if fits => Codec::Floats(Lift { dim, longest }),
            _ => return None,
        };
        if nodes != order.len() || codec.width() % CODE_ALIGN != 0 {
            return None;
        }
        let row_of: Vec<u32> = words(&mut rest, nodes)?.collect();
        let mut sorted = row_of.clone();
        sorted.sort_unstable();
        if sorted != order {
            return None;
        }
        let flat: Vec<u32> = words(&mut rest, nodes.checked_mul(DEGREE)?)?.collect();
        let links: Vec<Links> = flat.as_chunks().0.iter().map(|links| Links(*links)).collect();
        let leads_astray = |&link: &u32| link != NONE && link as usize >= nodes;
        if flat.iter().any(leads_astray) || rest.len() != nodes * codec.width() {
            return None;
        }
        let codes = Codes::from_bytes(codec.kind(), codec.width(), rest.to_vec());
        Some(FlatGraph::new(codec, codes, links, row_of, duplicates))
    }
}

/// The next `count` numbers.
fn words<'a>(rest: &mut &'a [u8], count: usize) -> Option<impl Iterator<Item = u32> + 'a> {
    let (front, back) = rest.split_at_checked(count.checked_mul(4)?)?;
    *rest = back;
    Some(front.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)))
}

impl Dump for FlatDump {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn write_to(&self, out: &mut dyn Write) -> Result<()> {
        out.write_all(&self.0).map_err(IndexError::storage("writing a graph"))
    }

    fn load(&self, rows: &Arc<VectorArray>) -> Result<Arc<dyn Graph>> {
        match self.parse(rows) {
            Some(graph) => Ok(Arc::new(graph)),
            None => Err(IndexError::Damaged("a graph that is not of its rows".into())),
        }
    }
}
