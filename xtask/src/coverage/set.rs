// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What has to be covered, why, and by which tests.
//!
//! The set is all code that decides what is believed after a power cut: in the filesystem (which
//! superblock, which root, which node, which removals are finished) and in the vector index (which
//! checkpoint, which of its blobs, which rows are read again). Code that writes is left to the crash lab.

/// A file, or functions of one.
#[derive(Debug)]
pub struct Covered {
    /// Its path in the repository.
    pub file: &'static str,
    /// Only these functions and what is inside them, or all if empty. Tests do not count.
    pub functions: &'static [&'static str],
    /// What it decides.
    pub why: &'static str,
}

impl Covered {
    /// The file, with the functions if only some are covered.
    pub fn label(&self) -> String {
        if self.functions.is_empty() {
            return self.file.to_owned();
        }
        format!("{} ({})", self.file, self.functions.join(", "))
    }
}

const fn whole(file: &'static str, why: &'static str) -> Covered {
    Covered { file, functions: &[], why }
}

/// Everything that has to be covered.
pub const SET: &[Covered] = &[
    whole("format/src/root.rs", "whether a sector is a root record"),
    whole("src/superblock.rs", "which superblock and which root a mount believes"),
    whole("src/volume/mod.rs", "opening, and how blocks get into memory"),
    Covered {
        file: "src/tree/node.rs",
        functions: &["verify"],
        why: "whether a block is the node",
    },
    whole("src/fs/inode.rs", "inodes and the list of orphans"),
    Covered {
        file: "src/fs/contents.rs",
        functions: &["evict_orphans", "steps"],
        why: "finishing what was removed before a cut",
    },
    Covered { file: "src/fs/truncate.rs", functions: &["evict"], why: "one step of that" },
    whole("src/follow.rs", "reading a tree that somebody else replaces"),
    whole("index/src/manifest.rs", "whether bytes are a manifest"),
    whole("index/src/checkpoint.rs", "writing and loading a checkpoint"),
    whole("index/src/store/mod.rs", "whether a blob is what the manifest says"),
    whole("index/src/store/tail.rs", "which slot and which manifest an image's tail holds"),
    whole("index/src/store/dir.rs", "the same in a directory"),
    Covered {
        file: "index/src/index.rs",
        functions: &["open"],
        why: "an index from a checkpoint, or without one",
    },
    whole("ublk-target/src/indexer/mod.rs", "which filesystem is indexed, and until when"),
    whole("search/src/corpus/tracker.rs", "which rows are read again"),
    whole("search/src/corpus/vector_file.rs", "the same of one file"),
    whole("search/src/corpus/slots.rs", "bytes, extents and slots"),
    whole("search/src/corpus/intervals.rs", "sets of them"),
];

/// One test program, and which of its tests.
#[derive(Debug)]
pub struct Run {
    /// The package.
    pub package: &'static str,
    /// An integration test of it; `None` for the tests in its library.
    pub test: Option<&'static str>,
    /// Only tests whose name contains this.
    pub filter: &'static str,
}

/// The tests that are run.
pub const RUNS: &[Run] = &[
    Run { package: "vexfs", test: Some("recovery"), filter: "" },
    Run { package: "vexfs", test: Some("corruption"), filter: "" },
    Run { package: "vexfs", test: Some("smoke"), filter: "" },
    Run { package: "vexfs-index", test: None, filter: "" },
    Run { package: "vexfs-index", test: Some("checkpoint"), filter: "" },
    Run { package: "vexfs-search", test: None, filter: "corpus::" },
    Run { package: "vexfs-search", test: None, filter: "unmounted::" },
    Run { package: "vexfs-ublk", test: None, filter: "indexer::" },
];

/// Packages that are instrumented: those of [`SET`], and the one in which the engine is compiled for
/// the devices of its tests.
pub const PACKAGES: &[&str] =
    &["vexfs-format", "vexfs", "vexfs-crash", "vexfs-index", "vexfs-search", "vexfs-ublk"];
