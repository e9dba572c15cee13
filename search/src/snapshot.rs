// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is known of a filesystem's vectors at one moment: an answer is given for one of these.

use crate::corpus::header::Trouble;
use crate::rights::names::Names;
use std::collections::BTreeMap;
use std::sync::Arc;
use vexfs_index::Index;

/// A state of the index and of the files it is of.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The index of the filesystem on the image, if there is one.
    pub index: Option<Arc<Index>>,
    /// The names and permissions of that filesystem.
    pub names: Option<Arc<Names>>,
    /// The generation that is indexed.
    pub generation: u64,
    /// Writes to the root ring that it has taken into account.
    pub roots: u64,
    /// Slots that it still has to read.
    pub pending: u64,
    /// The vector files, each with why it is not searched as expected.
    pub files: Arc<BTreeMap<u64, Option<Trouble>>>,
    /// Why the index is not kept up to date.
    pub problem: Option<String>,
    /// Why its newest checkpoint was not written.
    pub unwritten: Option<String>,
}
