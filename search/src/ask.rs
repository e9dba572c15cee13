// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a search can say, and what it is answered. The daemon's clients send and receive these; they say
//! nothing of where the image is.

use bincode::{Decode, Encode};

/// A search.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Search {
    /// What to search for.
    pub query: Query,
    /// How many vectors to return.
    pub k: u32,
    /// Width of the search; the index's default if `None`.
    pub ef: Option<u32>,
    /// Compare the query with every vector.
    pub exact: bool,
    /// Wait until the index has reached this generation.
    pub at_least: Option<u64>,
}

/// What to search for.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Query {
    /// A vector.
    Vector(Vec<f32>),
    /// The vector in that slot of the single file.
    Like(u64),
    /// Bytes that are numbers, or packed bits where the files hold bits; `signed` ones are then 128 less
    /// than `numpy.packbits` gives.
    Bytes {
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether they are signed.
        signed: bool,
    },
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Found {
    /// The generation that was searched.
    pub generation: u64,
    /// How many files were searched; the others are in the notes.
    pub searched: u64,
    /// Files and directories that the caller may not read.
    pub denied: u64,
    /// Whether everything that was committed before the request was searched.
    pub caught_up: bool,
    /// The nearest vectors, the nearest first.
    pub hits: Vec<Hit>,
    /// Files that were not searched as expected: inode and reason.
    pub notes: Vec<(u64, String)>,
    /// The files of hits and notes: inode, and path below the descriptor that came with the request.
    pub paths: Vec<(u64, Vec<u8>)>,
    /// Why the index is not kept up to date.
    pub problem: Option<String>,
}

/// A vector that was found.
#[derive(Debug, Clone, Copy, PartialEq, Encode, Decode)]
pub struct Hit {
    /// Inode of its file.
    pub file: u64,
    /// Its ordinal there.
    pub slot: u64,
    /// Its distance.
    pub distance: f32,
}
