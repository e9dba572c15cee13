// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a search can say, and what it is answered. The daemon's clients send and receive these; they say
//! nothing of where the image is.

use bincode::{Decode, Encode};

/// Queries of one request, at most.
pub const QUERIES_MAX: usize = 1024;
/// Hits of one request, of all its queries, at most.
pub const HITS_MAX: usize = 1 << 18;
/// Columns that are shown, at most.
pub const SHOWN_MAX: usize = 64;
/// Bytes of a text that is shown; a longer one is cut.
pub const SHOWN_BYTES_MAX: usize = 1024;
/// Bytes of all that is shown for one request.
pub const ALL_SHOWN_BYTES_MAX: usize = 16 << 20;

/// A search.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Search {
    /// What to search for.
    pub query: Query,
    /// Further queries, which are answered after it, of the same rows.
    pub more: Vec<Query>,
    /// How many vectors to return for each query.
    pub k: u32,
    /// Width of the search; the index's default if `None`.
    pub ef: Option<u32>,
    /// Compare the query with every vector.
    pub exact: bool,
    /// Wait until the index has reached this generation.
    pub at_least: Option<u64>,
    /// The part of the true neighbours that is to be found; the width is then what was measured to find it.
    pub recall: Option<f64>,
    /// Only vectors of up to this distance, of which `k` is the most.
    pub within: Option<f32>,
    /// Only files and rows for which this [expression](crate::filter) holds.
    pub filter: Option<String>,
    /// Columns of the rows' metadata that are returned with the hits.
    pub show: Vec<String>,
    /// Only the file of this name, in the directory whose descriptor comes with the search.
    pub only: Option<Vec<u8>>,
}

impl Search {
    /// The `k` nearest of all rows.
    #[must_use]
    pub const fn nearest(query: Query, k: u32) -> Self {
        Self {
            query,
            more: Vec::new(),
            k,
            ef: None,
            exact: false,
            at_least: None,
            recall: None,
            within: None,
            filter: None,
            show: Vec::new(),
            only: None,
        }
    }
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
    /// The nearest vectors, the nearest first: those of one query after those of the other.
    pub hits: Vec<Hit>,
    /// How each query was answered.
    pub answers: Vec<Answered>,
    /// Files that were not searched as expected: inode and reason.
    pub notes: Vec<(u64, String)>,
    /// The files of hits and notes: inode, and path below the descriptor that came with the request.
    pub paths: Vec<(u64, Vec<u8>)>,
    /// Why the index is not kept up to date.
    pub problem: Option<String>,
}

impl Found {
    /// Each query's answer and its hits.
    pub fn each(&self) -> impl Iterator<Item = (&Answered, &[Hit])> {
        let mut rest = self.hits.as_slice();
        self.answers.iter().map(move |answer| {
            let (own, after) = rest.split_at(rest.len().min(answer.hits as usize));
            rest = after;
            (answer, own)
        })
    }
}

/// How one query was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Answered {
    /// How many hits are its own.
    pub hits: u32,
    /// The widest search of a graph; `None` if every row that passes was compared.
    pub ef: Option<u32>,
    /// There are more vectors within the radius than were asked for.
    pub cut: bool,
}

/// A vector that was found.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Hit {
    /// Inode of its file.
    pub file: u64,
    /// Its ordinal there.
    pub slot: u64,
    /// Its distance.
    pub distance: f32,
    /// The metadata of its row: as many as columns were asked for.
    pub shown: Vec<Option<Shown>>,
}

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Shown {
    /// An integer.
    Integer(i64),
    /// A number.
    Number(f64),
    /// Text; cut if it is long.
    Text(String),
    /// A truth value.
    Boolean(bool),
}
