// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index's part of the crash lab: checkpoints under power cuts and flipped bits.
//!
//! The oracle: what is loaded is exactly what the index held when a checkpoint was begun, and at
//! least the newest one that was finished; after damage it may also be nothing. It knows no
//! filesystem; the daemon's tests hold index and filesystem against each other on one device.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;

use crate::store::forgetful::Forgetful;
use crate::{Element, FileId, Index, Metric, Options, Params, Slot, Space, TailStore};

const DIM: usize = 4;
const FILES: u64 = 3;
const SLOTS: u64 = 90;
/// Few, so that segments and graphs come into being.
const GRAPH_ROWS: usize = 32;
const OWNER: [u8; 16] = [9; 16];
const ROUNDS: u64 = 12;
const FLIPS: usize = 30;

/// What happened: by which part of the hunt, and what it was.
pub type Finding = (&'static str, String);

/// The rows of one generation, by file and slot.
type Rows = BTreeMap<(u64, u64), [f32; DIM]>;

/// What a cut may bring back.
#[derive(Default)]
struct History {
    /// Every checkpoint that was begun, by generation.
    begun: BTreeMap<u64, Rows>,
    /// The newest that was finished.
    finished: Option<u64>,
}

fn say(by: &'static str) -> impl Fn(&dyn Display) -> Finding {
    move |what| (by, what.to_string())
}

fn open(disk: &Forgetful) -> Result<(Index, crate::Recovered), String> {
    let store = TailStore::open(disk.clone(), 0, None).map_err(|e| e.to_string())?;
    let options = Options {
        owner: OWNER,
        graph_rows: GRAPH_ROWS,
        scan_factor: 2,
        nice: 0,
        ..Options::default()
    };
    Index::open(Some(Box::new(store)), options).map_err(|e| e.to_string())
}

/// Holds the index against the rows it should have.
fn compare(index: &Index, rows: &Rows, luck: &mut fastrand::Rng) -> Result<(), String> {
    let vectors = index.stats().vectors;
    if vectors != rows.len() as u64 {
        return Err(format!("{vectors} vectors, and there should be {}", rows.len()));
    }
    for ((file, slot), row) in rows {
        let found = index.get(FileId(*file), Slot(*slot)).map_err(|e| e.to_string())?;
        if found != row {
            return Err(format!("file {file} slot {slot}: another vector"));
        }
    }
    let query = vector(luck);
    let far = |row: &[f32; DIM]| row.iter().zip(&query).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    let mut true_distances: Vec<f32> = rows.values().map(far).collect();
    true_distances.sort_by(f32::total_cmp);
    let files: Vec<FileId> = (0..FILES).map(FileId).collect();
    let hits = index.search(&files, &query, 5, None, true).map_err(|e| e.to_string())?;
    let found: Vec<f32> =
        hits.iter().map(|hit| rows.get(&(hit.file.0, hit.slot.0)).map_or(f32::NAN, far)).collect();
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

/// Some changes of the index and of the rows it should have.
fn change(index: &Index, rows: &mut Rows, luck: &mut fastrand::Rng) -> Result<(), String> {
    let file = luck.u64(..FILES);
    let space = Space::new(Element::F32, Metric::L2, DIM as u32);
    index.declare(FileId(file), space, Params::default()).map_err(|e| e.to_string())?;
    match luck.u8(..10) {
        0 => {
            index.drop_file(FileId(file));
            rows.retain(|(at, _), _| *at != file);
        }
        1 => {
            let slots = luck.u64(..SLOTS);
            index.truncate(FileId(file), slots);
            rows.retain(|(at, slot), _| *at != file || *slot < slots);
        }
        2 => {
            let from = luck.u64(..SLOTS);
            index.remove(FileId(file), from..from + 9);
            rows.retain(|(at, slot), _| *at != file || !(from..from + 9).contains(slot));
        }
        _ => {
            let from = luck.u64(..SLOTS);
            for slot in from..from + luck.u64(1..40) {
                let row = vector(luck);
                let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                index.upsert(FileId(file), Slot(slot), &bytes).map_err(|e| e.to_string())?;
                rows.insert((file, slot), row);
            }
        }
    }
    Ok(())
}

/// Opens what the disk holds: which generation it is, and that it is that one exactly.
fn judge(
    disk: &Forgetful,
    history: &History,
    luck: &mut fastrand::Rng,
) -> Result<(Index, Option<u64>), String> {
    let (index, recovered) = open(disk)?;
    let Some(covered) = recovered.covered else {
        compare(&index, &Rows::new(), luck)?;
        return Ok((index, None));
    };
    let rows = history
        .begun
        .get(&covered.generation)
        .ok_or_else(|| format!("generation {} was never written", covered.generation))?;
    compare(&index, rows, luck)
        .map_err(|what| format!("generation {}: {what}", covered.generation))?;
    Ok((index, Some(covered.generation)))
}

/// One disk, several lives, a power cut after each.
fn cuts(luck: &mut fastrand::Rng) -> Result<(Forgetful, History), String> {
    let disk = Forgetful::default();
    let mut history = History::default();
    let mut generation = 0;
    for _ in 0..ROUNDS {
        let (index, found) = judge(&disk, &history, luck)?;
        if found < history.finished {
            let promised = history.finished.unwrap_or(0);
            return Err(format!("{found:?} came back, and generation {promised} was promised"));
        }
        let mut rows = found.and_then(|at| history.begun.get(&at).cloned()).unwrap_or_default();
        disk.disk().fuse = (luck.u8(..4) > 0).then(|| luck.u64(..20));
        for _ in 0..luck.u64(1..12) {
            if luck.u8(..3) > 0 {
                change(&index, &mut rows, luck)?;
                continue;
            }
            index.settle();
            generation += 1;
            history.begun.insert(generation, rows.clone());
            let states: Vec<(FileId, Vec<u8>)> =
                index.files().into_iter().map(|file| (file, Vec::new())).collect();
            if index.checkpoint(generation, &[], &states).is_err() {
                break;
            }
            history.finished = Some(generation);
        }
        drop(index);
        // Piece by piece, or write by write.
        let (whole, seed) = (luck.bool(), luck.u64(..));
        disk.disk().crash(|write| {
            let whole = whole.then(|| fastrand::Rng::with_seed(seed ^ write as u64).bool());
            whole.unwrap_or_else(|| luck.bool())
        });
    }
    Ok((disk, history))
}

/// Bits of a good checkpoint are flipped, one at a time.
fn flips(disk: &Forgetful, history: &History, luck: &mut fastrand::Rng) -> Result<(), String> {
    let good = disk.disk().seen.clone();
    if good.is_empty() {
        return Ok(());
    }
    for flip in 0..FLIPS {
        // A third each: the slots, which hold the most in the least space, what they name, anywhere.
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
        judge(disk, history, luck).map_err(|what| format!("byte {at} is {byte:#x}: {what}"))?;
        disk.disk().seen.clone_from(&good);
    }
    Ok(())
}

/// Where the manifest lies that the slot at this byte names.
fn named_by(bytes: &[u8], slot: usize) -> Option<Range<usize>> {
    let word = |at: usize| {
        let word = bytes.get(slot + at..)?.first_chunk::<8>()?;
        usize::try_from(u64::from_le_bytes(*word)).ok()
    };
    let (at, length) = (word(16)?, word(24)?);
    (length > 0).then_some(at..at.checked_add(length)?)
}

/// Lets `seeds` disks live; the first thing that is wrong ends it.
///
/// # Errors
/// What was wrong, and which part of the hunt saw it.
pub fn hunt(seeds: u64) -> Result<(), Finding> {
    for seed in 1..=seeds {
        let mut luck = fastrand::Rng::with_seed(seed);
        let (disk, history) = cuts(&mut luck)
            .map_err(|what| say("cutting checkpoints")(&format!("seed {seed}: {what}")))?;
        flips(&disk, &history, &mut luck)
            .map_err(|what| say("damaging checkpoints")(&format!("seed {seed}: {what}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn checkpoints_survive_cuts_and_flips() {
        assert_eq!(super::hunt(12), Ok(()));
    }
}
