// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Everything that can go wrong in the index, one variant per cause.
//!
//! A message says what happened, to what, and what the user can do. Callers map errors to an
//! errno or an exit code; the index never does.

use crate::types::{Element, FileId, Metric, Slot};

/// The crate's result.
pub type Result<T, E = IndexError> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A space, parameters or a region that cannot be used.
    #[error("vector specification refused: {0}")]
    BadSpec(String),
    /// The metric does not fit the element type.
    #[error(
        "metric {metric} cannot be used with {element} elements: hamming needs bit, the others need numbers"
    )]
    MetricMismatch {
        /// The element type.
        element: Element,
        /// The metric asked for.
        metric: Metric,
    },
    /// A stored vector has the wrong number of bytes.
    #[error("vector of {given} bytes where {expected} were expected ({element} x {dim})")]
    VectorLength {
        /// Bytes of a vector of that space.
        expected: usize,
        /// Bytes that were given.
        given: usize,
        /// The element type.
        element: Element,
        /// Dimensions.
        dim: u32,
    },
    /// NaN or an infinity in a vector or a query.
    #[error("element {position} is {value}: only finite numbers can be compared")]
    NotFinite {
        /// Index of the element.
        position: usize,
        /// `NaN`, `inf` or `-inf`.
        value: f32,
    },
    /// An element too large to be squared and summed in an `f32`.
    #[error(
        "element {position} is {value}: magnitudes above 1e16 overflow this metric, scale the vectors down"
    )]
    TooLarge {
        /// Index of the element.
        position: usize,
        /// The element.
        value: f32,
    },
    /// The query has the wrong number of dimensions.
    #[error("query has {given} dimensions, the vectors of file {} have {expected}", file.0)]
    QueryDimension {
        /// Dimensions of the file's vectors.
        expected: u32,
        /// Dimensions of the query.
        given: usize,
        /// The file.
        file: FileId,
    },
    /// A zero query has no direction.
    #[error("the query is all zeroes: it has no direction to compare under cosine")]
    ZeroQuery,
    /// A query for bit vectors holds something that is not a bit.
    #[error("query element {position} is {value}: a query for bit vectors holds 0 or 1 per bit")]
    NotABit {
        /// Index of the element.
        position: usize,
        /// The element.
        value: f32,
    },
    /// Files whose distances cannot be compared with each other.
    #[error("files {} ({first_metric}) and {} ({second_metric}) use different metrics: search them separately", first.0, second.0)]
    MixedMetrics {
        /// The first file.
        first: FileId,
        /// Its metric.
        first_metric: Metric,
        /// A file that differs.
        second: FileId,
        /// Its metric.
        second_metric: Metric,
    },
    /// `k`, `ef` or an option is out of range.
    #[error("{what} is {given}, it must be between 1 and {limit}")]
    SearchLimit {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        given: usize,
        /// The largest value.
        limit: usize,
    },
    /// No such file in the index.
    #[error("file {} is not in the index: it is not a vector file, or not indexed yet", .0.0)]
    UnknownFile(FileId),
    /// No searchable vector in that slot.
    #[error("slot {} of file {} holds no searchable vector", slot.0, file.0)]
    UnknownSlot {
        /// The file.
        file: FileId,
        /// The slot.
        slot: Slot,
    },
    /// A segment's graph could not be built.
    #[error("the graph over {rows} vectors was not built: {why}")]
    Build {
        /// Vectors in the segment.
        rows: usize,
        /// The reason.
        why: String,
    },
    /// A `.npy` file that cannot be used.
    #[error("not a usable .npy file: {0}")]
    Npy(String),
    /// A checkpoint whose contents are not what was written.
    #[error("checkpoint damaged: {0}; the index is rebuilt from the vectors")]
    Damaged(String),
    /// A vector of a checkpoint that is in use is not what was written. Nothing is found in the file until
    /// its vectors are supplied again.
    #[error("vectors of file {} in the checkpoint are damaged; they are read again from the file", .0.0)]
    Lost(FileId),
    /// A checkpoint of another filesystem.
    #[error("checkpoint not used: {0}; the index is rebuilt from the vectors")]
    Foreign(String),
    /// Reading or writing a checkpoint, or a graph's temporary files, failed.
    #[error("checkpoint storage: {what}: {source}")]
    Storage {
        /// What was being done, to what.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A checkpoint was asked of an index that was opened without a store.
    #[error("no checkpoint written: the index was opened without a place to store one")]
    NoStore,
    /// The region for checkpoints is full.
    #[error(
        "checkpoint storage: {needed} bytes do not fit the {available} bytes left; the previous checkpoint stays"
    )]
    Full {
        /// Bytes asked for.
        needed: u64,
        /// The largest free space in one piece.
        available: u64,
    },
    /// The build thread could not be started.
    #[error("index build thread: {0}")]
    Thread(std::io::Error),
    /// A build was abandoned because the index is being closed. Nothing is lost.
    #[error("the index is being closed")]
    Stopped,
}

impl IndexError {
    pub(crate) fn storage(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Storage { what, source }
    }
}
