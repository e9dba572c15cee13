// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Deliberate mistakes in the checkpoints, one at a time, for the simulator to find.
//!
//! Nothing that is shipped has the feature `mutants`. Without it `is` is the constant `false`, and
//! the compiler removes every mistake.

/// A promise of the checkpoints that can be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// The slot is written before what it names is durable.
    BlobSync,
    /// A published slot is not made durable.
    SlotSync,
    /// The current slot is overwritten.
    SlotCurrent,
    /// The older of two valid slots is believed.
    SlotOlder,
    /// A manifest's checksums are not compared.
    ManifestChecksum,
    /// The checksums of a blob's pages are not compared.
    BlobChecksum,
    /// A page is believed before it was verified.
    PageEarly,
    /// What is mapped is freed, and written to.
    MappedFreed,
    /// Blobs of the durable checkpoint are freed before the next one is published.
    FreedEarly,
    /// A changed growing segment is taken for the one that is stored.
    StaleRows,
}

/// All of them: the mutant, its name, and what it does.
#[cfg(feature = "mutants")]
pub const ALL: &[(Mutant, &str, &str)] = &[
    (
        Mutant::BlobSync,
        "IndexBlobSync",
        "index: no sync between blobs and the slot that names them",
    ),
    (Mutant::SlotSync, "IndexSlotSync", "index: no sync after the slot"),
    (Mutant::SlotCurrent, "IndexSlotCurrent", "index: the current slot is overwritten"),
    (Mutant::SlotOlder, "IndexSlotOlder", "index: the older of two valid slots is believed"),
    (
        Mutant::ManifestChecksum,
        "IndexManifestCrc",
        "index: a manifest's checksums are not compared",
    ),
    (
        Mutant::BlobChecksum,
        "IndexBlobCrc",
        "index: the checksums of a blob's pages are not compared",
    ),
    (Mutant::PageEarly, "IndexPageEarly", "index: a page is believed before it was verified"),
    (Mutant::MappedFreed, "IndexMappedFreed", "index: what is mapped is freed, and written to"),
    (
        Mutant::FreedEarly,
        "IndexFreedEarly",
        "index: blobs are freed before the next manifest is durable",
    ),
    (
        Mutant::StaleRows,
        "IndexStaleRows",
        "index: changed rows are taken for those that are stored",
    ),
];

#[cfg(feature = "mutants")]
static CHOSEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(u32::MAX);

/// `choose(mutant)` - makes every index of the process break this promise.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Mutant) {
    CHOSEN.store(mutant as u32, std::sync::atomic::Ordering::Relaxed);
}

/// Whether this promise is to be broken.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) == mutant as u32
}

/// Whether this promise is to be broken: never.
#[cfg(not(feature = "mutants"))]
#[inline]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}
