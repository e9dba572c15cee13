// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The simulator of checkpoints: random changes, power cuts and flipped bits, against a model.
//!
//! What must hold: the index that is loaded holds exactly the vectors it held when one of its
//! checkpoints was begun, and that checkpoint is at least as new as the newest that was finished.
//! After a bit was flipped the index may also be empty, or say that vectors are lost, but never answer
//! wrongly. The medium is simulated, and in the end a file, which is mapped. A seed decides everything but the build
//! thread's timing, so a failure is found again by its seed.
//!
//! The simulator knows no filesystem: tests of the daemon compare an index with a filesystem on
//! one device.

use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    Element, FileId, Index, IndexError, Medium, Metric, Options, Params, Slot, Space, TailStore,
    store::volatile::VolatileMedium,
};

const DIM: usize = 4;
const FILES: u64 = 3;
const SLOTS: u64 = 90;
/// Few, so that segments are sealed and get graphs.
const GRAPH_ROWS: usize = 32;
const OWNER: [u8; 16] = [9; 16];
const ROUNDS: u64 = 12;
const FLIPS: usize = 30;
/// Seeds for which a file is used too: it takes longer.
const MAPPED_EVERY: u64 = 8;

/// A failure: which part of the simulation found it, and what is wrong.
pub type Finding = (&'static str, String);

/// The model of the index: its vectors by file and slot.
type Vectors = BTreeMap<(u64, u64), [f32; DIM]>;

/// The checkpoints that an index may come back as.
#[derive(Default)]
struct History {
    /// Every checkpoint that was begun: its vectors, by generation.
    begun: BTreeMap<u64, Vectors>,
    /// The generation of the newest that was finished.
    finished: Option<u64>,
}

fn open(medium: impl Medium + 'static) -> Result<(Index, crate::Recovered), String> {
    let store = TailStore::open(medium, 0, None).map_err(|e| e.to_string())?;
    let options = Options {
        owner: OWNER,
        graph_rows: GRAPH_ROWS,
        scan_factor: 2,
        nice: 0,
        ..Options::default()
    };
    Index::open(Some(Box::new(store)), options).map_err(|e| e.to_string())
}

/// Compares the index with the model.
fn compare(index: &Index, model: &Vectors, luck: &mut fastrand::Rng) -> Result<(), String> {
    compare_with(index, model, luck, false)
}

/// The same; with `losses`, the index may say of vectors that they are lost.
fn compare_with(
    index: &Index,
    model: &Vectors,
    luck: &mut fastrand::Rng,
    losses: bool,
) -> Result<(), String> {
    let vectors = index.stats().counts.vectors;
    if vectors != model.len() as u64 {
        return Err(format!("{vectors} vectors, and there should be {}", model.len()));
    }
    for ((file, slot), row) in model {
        match index.get(FileId(*file), Slot(*slot)) {
            Ok(found) if found == row => {}
            Ok(_) => return Err(format!("file {file} slot {slot}: another vector")),
            Err(IndexError::Lost(_)) if losses => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let query = vector(luck);
    let far = |row: &[f32; DIM]| row.iter().zip(&query).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    let mut true_distances: Vec<f32> = model.values().map(far).collect();
    true_distances.sort_by(f32::total_cmp);
    let files: Vec<FileId> = (0..FILES).map(FileId).collect();
    let hits = match index.search(&files, &query, 5, None, true) {
        Err(IndexError::Lost(_)) if losses => return Ok(()),
        other => other.map_err(|e| e.to_string())?,
    };
    let found: Vec<f32> =
        hits.iter().map(|hit| model.get(&(hit.file.0, hit.slot.0)).map_or(f32::NAN, far)).collect();
    if found != true_distances[..found.len().min(true_distances.len())]
        || found.len() != true_distances.len().min(5)
    {
        return Err("an exact search finds other neighbours".into());
    }
    Ok(())
}

fn vector(luck: &mut fastrand::Rng) -> [f32; DIM] {
    // Whole numbers: every sum is exact.
    std::array::from_fn(|_| luck.i16(-500..500).into())
}

/// Changes the index and the model in the same way.
fn change(index: &Index, model: &mut Vectors, luck: &mut fastrand::Rng) -> Result<(), String> {
    let file = luck.u64(..FILES);
    let space = Space::new(Element::F32, Metric::L2, DIM as u32);
    index.declare(FileId(file), space, Params::default()).map_err(|e| e.to_string())?;
    match luck.u8(..10) {
        0 => {
            index.drop_file(FileId(file));
            model.retain(|(at, _), _| *at != file);
        }
        1 => {
            let slots = luck.u64(..SLOTS);
            index.truncate(FileId(file), slots);
            model.retain(|(at, slot), _| *at != file || *slot < slots);
        }
        2 => {
            let from = luck.u64(..SLOTS);
            index.remove(FileId(file), from..from + 9);
            model.retain(|(at, slot), _| *at != file || !(from..from + 9).contains(slot));
        }
        _ => {
            let from = luck.u64(..SLOTS);
            for slot in from..from + luck.u64(1..40) {
                let row = vector(luck);
                let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                index.upsert(FileId(file), Slot(slot), &bytes).map_err(|e| e.to_string())?;
                model.insert((file, slot), row);
            }
        }
    }
    Ok(())
}

/// Opens the index on a disk, compares it with the checkpoint it was loaded from, and returns that
/// checkpoint's generation.
fn recover(
    disk: &VolatileMedium,
    history: &History,
    luck: &mut fastrand::Rng,
) -> Result<(Index, Option<u64>), String> {
    let (index, recovered) = open(disk.clone())?;
    let Some(covered) = recovered.covered else {
        compare(&index, &Vectors::new(), luck)?;
        return Ok((index, None));
    };
    let model = history
        .begun
        .get(&covered.generation)
        .ok_or_else(|| format!("generation {} was never written", covered.generation))?;
    compare(&index, model, luck)
        .map_err(|what| format!("generation {}: {what}", covered.generation))?;
    Ok((index, Some(covered.generation)))
}

/// Opens, changes and checkpoints an index on one disk, and cuts the power, several times.
fn cuts(luck: &mut fastrand::Rng) -> Result<(VolatileMedium, History), String> {
    let disk = VolatileMedium::default();
    let mut history = History::default();
    let mut generation = 0;
    for _ in 0..ROUNDS {
        let (index, found) = recover(&disk, &history, luck)?;
        if found < history.finished {
            let promised = history.finished.unwrap_or(0);
            return Err(format!("{found:?} came back, and generation {promised} was promised"));
        }
        let mut model = found.and_then(|at| history.begun.get(&at).cloned()).unwrap_or_default();
        disk.disk().calls_left = (luck.u8(..4) > 0).then(|| luck.u64(..20));
        for _ in 0..luck.u64(1..12) {
            if luck.u8(..3) > 0 {
                change(&index, &mut model, luck)?;
                continue;
            }
            index.settle();
            generation += 1;
            history.begun.insert(generation, model.clone());
            let states: Vec<(FileId, Vec<u8>)> =
                index.files().into_iter().map(|file| (file, Vec::new())).collect();
            if index.checkpoint(generation, &[], &states).is_err() {
                break;
            }
            history.finished = Some(generation);
        }
        drop(index);
        // Either whole writes are lost, or pieces of writes.
        let (whole, seed) = (luck.bool(), luck.u64(..));
        disk.disk().crash(|write| {
            let whole = whole.then(|| fastrand::Rng::with_seed(seed ^ write as u64).bool());
            whole.unwrap_or_else(|| luck.bool())
        });
    }
    Ok((disk, history))
}

/// Flips single bits of a good disk, and opens the index after each.
fn flips(disk: &VolatileMedium, history: &History, luck: &mut fastrand::Rng) -> Result<(), String> {
    let good = disk.disk().seen.clone();
    if good.is_empty() {
        return Ok(());
    }
    for flip in 0..FLIPS {
        // A third each: in a slot, in the manifest it names, anywhere.
        let slot = 4096 * luck.usize(..2);
        let at = match flip % 3 {
            0 => slot + luck.usize(..48),
            1 => named_by(&good, slot).map_or(slot, |manifest| luck.usize(manifest)),
            _ => luck.usize(..good.len()),
        };
        let Some(byte) = disk.disk().seen.get_mut(at).map(|byte| {
            *byte ^= 1 << luck.u8(..8);
            *byte
        }) else {
            continue;
        };
        recover(disk, history, luck).map_err(|what| format!("byte {at} is {byte:#x}: {what}"))?;
        disk.disk().seen.clone_from(&good);
    }
    Ok(())
}

/// Where the manifest is that the slot at this byte names.
fn named_by(bytes: &[u8], slot: usize) -> Option<Range<usize>> {
    let word = |at: usize| {
        let word = bytes.get(slot + at..)?.first_chunk::<8>()?;
        usize::try_from(u64::from_le_bytes(*word)).ok()
    };
    let (at, length) = (word(16)?, word(24)?);
    (length > 0).then_some(at..at.checked_add(length)?)
}

/// A file that goes when it is not used any more.
struct TemporaryFile(std::path::PathBuf);

impl TemporaryFile {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "vexfs-index-simulator-{}.{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self(std::env::temp_dir().join(name))
    }

    fn open(path: &Path) -> Result<(Index, crate::Recovered), String> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        open(file.map_err(|e| e.to_string())?)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Adds so many rows to a file, in its first slots.
fn fill(index: &Index, model: &mut Vectors, file: u64, rows: u64, luck: &mut fastrand::Rng) {
    let space = Space::new(Element::F32, Metric::L2, DIM as u32);
    let _ = index.declare(FileId(file), space, Params::default());
    for slot in 0..rows {
        let row = vector(luck);
        let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        if index.upsert(FileId(file), Slot(slot), &bytes).is_ok() {
            model.insert((file, slot), row);
        }
    }
}

/// Checkpoints in a file, which is mapped: one file's blobs are in no later checkpoint and read still; then
/// single bits are flipped.
fn mapped(luck: &mut fastrand::Rng) -> Result<(), String> {
    const ROWS: u64 = 1200;
    let file = TemporaryFile::new();
    let (index, _) = TemporaryFile::open(&file.0)?;
    let mut model = Vectors::new();
    fill(&index, &mut model, 0, ROWS, luck);
    let checkpoint = |index: &Index, generation: u64, files: &[u64]| {
        index.settle();
        let states: Vec<(FileId, Vec<u8>)> =
            files.iter().map(|file| (FileId(*file), Vec::new())).collect();
        index.checkpoint(generation, &[], &states).map_err(|e| e.to_string())
    };
    checkpoint(&index, 1, &[0])?;
    compare(&index, &model, luck)?;
    for generation in 2..5 {
        fill(&index, &mut model, 1, ROWS, luck);
        checkpoint(&index, generation, &[1])?;
        compare(&index, &model, luck).map_err(|what| format!("of what is mapped: {what}"))?;
    }
    checkpoint(&index, 5, &[0, 1])?;
    drop(index);
    let good = std::fs::read(&file.0).map_err(|e| e.to_string())?;
    for _ in 0..FLIPS {
        let (at, bit) = (luck.usize(..good.len()), luck.u8(..8));
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        std::fs::write(&file.0, bad).map_err(|e| e.to_string())?;
        let (index, recovered) = TemporaryFile::open(&file.0)?;
        let expected = match recovered.covered.map(|covered| covered.generation) {
            None => Vectors::new(),
            Some(5) => model.clone(),
            // The older slot: its blobs may have been overwritten.
            Some(_) => continue,
        };
        compare_with(&index, &expected, luck, true)
            .map_err(|what| format!("bit {bit} of byte {at}: {what}"))?;
    }
    Ok(())
}

/// `simulate(seeds)` - simulates a disk for each seed from 1 on, until something is wrong.
///
/// # Errors
/// What is wrong, and with which seed.
pub fn simulate(seeds: u64) -> Result<(), Finding> {
    for seed in 1..=seeds {
        let mut luck = fastrand::Rng::with_seed(seed);
        let failed = |by| move |what: String| (by, format!("seed {seed}: {what}"));
        let (disk, history) = cuts(&mut luck).map_err(failed("cutting checkpoints"))?;
        flips(&disk, &history, &mut luck).map_err(failed("damaging checkpoints"))?;
        if seed % MAPPED_EVERY == 1 {
            mapped(&mut luck).map_err(failed("damaging mapped checkpoints"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn checkpoints_survive_cuts_and_flips() {
        assert_eq!(super::simulate(12), Ok(()));
    }
}
