// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The index under power cuts: filesystem and checkpoints on one device that loses what was not flushed.
//! After any cut, exactly the vectors of the recovered generation are found.

use super::tracker::Tracker;
use crate::dirty_log::DirtyLog;
use crate::testing::{NOW, floats, mkfs_options};
use std::io;
use std::sync::{Arc, Mutex};
use vexfs::{Device, DeviceError, Ino, NewInode, OpenOptions, VectorLayout, Volume, mkfs};
use vexfs_crash::{CacheDevice, Image, Keep, Rng};
use vexfs_index::{FileId, Index, Medium, Options, Slot, TailStore};

/// Bytes of the filesystem, and of the checkpoints behind it.
const BYTES: u64 = 4 << 20;
const TAIL: u64 = 4 << 20;
const SECTOR: u64 = 512;
const DIM: usize = 4;
const ROW: u64 = 16;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// One device, used by the filesystem and by the checkpoints.
#[derive(Clone)]
struct Disk {
    cache: Arc<Mutex<CacheDevice>>,
    dirty_log: Arc<DirtyLog>,
}

impl Disk {
    fn new(image: Image) -> Self {
        let dirty_log = Arc::new(DirtyLog::new(BYTES).unwrap());
        Self { cache: Arc::new(Mutex::new(CacheDevice::new(image))), dirty_log }
    }
}

impl Device for Disk {
    fn len_bytes(&self) -> u64 {
        BYTES
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        self.cache.lock().unwrap().read(at, buf)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.cache.lock().unwrap().write(at, data)?;
        self.dirty_log.mark(at, data.len() as u64, false);
        Ok(())
    }

    fn write_fua(&self, at: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.cache.lock().unwrap().write_fua(at, data)?;
        self.dirty_log.mark(at, data.len() as u64, true);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.cache.lock().unwrap().flush()?;
        self.dirty_log.flushed();
        Ok(())
    }
}

fn failed(error: DeviceError) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

impl Medium for Disk {
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let from = at / SECTOR * SECTOR;
        let to = (at + buffer.len() as u64).next_multiple_of(SECTOR);
        if to > BYTES + TAIL {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut sectors = vec![0; (to - from) as usize];
        self.cache.lock().unwrap().read(from, &mut sectors).map_err(failed)?;
        let within = (at - from) as usize;
        buffer.copy_from_slice(&sectors[within..within + buffer.len()]);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        let from = at / SECTOR * SECTOR;
        let to = (at + data.len() as u64).next_multiple_of(SECTOR);
        let mut sectors = vec![0; (to - from) as usize];
        let cache = self.cache.lock().unwrap();
        cache.read(from, &mut sectors).map_err(failed)?;
        let within = (at - from) as usize;
        sectors[within..within + data.len()].copy_from_slice(data);
        cache.write(from, &sectors).map_err(failed)
    }

    fn sync(&self) -> io::Result<()> {
        self.cache.lock().unwrap().flush().map_err(failed)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(BYTES + TAIL)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A mounted filesystem and the index of its vectors.
struct Machine {
    disk: Disk,
    volume: Volume<Disk>,
    tracker: Tracker<Disk>,
    index: Arc<Index>,
}

impl Machine {
    fn boot(image: Image) -> Self {
        let disk = Disk::new(image);
        let mut volume = Volume::open(disk.clone(), &OpenOptions::default()).unwrap();
        volume.evict_orphans(NOW).unwrap();
        let store = TailStore::open(disk.clone(), BYTES, Some(BYTES + TAIL)).unwrap();
        let options = Options { owner: [7; 16], ..Options::default() };
        let (index, _) = Index::open(Some(Box::new(store)), options).unwrap();
        let index = Arc::new(index);
        let tracker = Tracker::open(disk.clone(), index.clone(), disk.dirty_log.clone()).unwrap();
        Self { disk, volume, tracker, index }
    }

    fn catch_up(&mut self) {
        while self.tracker.cycle().unwrap() {}
    }

    fn corpus(&mut self) -> Ino {
        self.volume.resolve(|v| v.lookup(Ino::ROOT, b"corpus")).unwrap().0
    }

    /// Every committed vector, by file and slot. Nothing may be uncommitted.
    fn truth(&mut self) -> Vec<(u64, u64, Vec<f32>)> {
        let dir = self.corpus();
        let mut rows = Vec::new();
        for name in NAMES {
            let found = self.volume.resolve(|v| v.lookup(dir, name.as_bytes()));
            let Ok((ino, _)) = found else { continue };
            let size = self.volume.resolve(|v| v.inode(ino)).unwrap().size;
            let mut bytes = vec![0; (size / ROW * ROW) as usize];
            self.volume.read_at(ino, 0, &mut bytes).unwrap();
            for (slot, row) in bytes.chunks_exact(ROW as usize).enumerate() {
                let row = row.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                rows.push((ino.0, slot as u64, row));
            }
        }
        rows
    }

    fn change(&mut self, rng: &mut Rng) {
        let dir = self.corpus();
        let name = NAMES[rng.below(3) as usize];
        let found = self.volume.resolve(|v| v.lookup(dir, name.as_bytes()));
        let ino = match found {
            Ok((ino, _)) if rng.one_in(12) => {
                self.volume.run(NOW, |v| v.unlink(dir, name.as_bytes(), NOW)).unwrap();
                self.volume.steps(NOW, |v| v.evict(ino)).unwrap();
                return;
            }
            Ok((ino, _)) => ino,
            Err(_) => {
                let new =
                    NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, target: &[], now: NOW };
                self.volume.run(NOW, |v| v.create(dir, name.as_bytes(), &new)).unwrap().ino
            }
        };
        let size = self.volume.resolve(|v| v.inode(ino)).unwrap().size / ROW;
        let slot = if rng.one_in(2) { size } else { rng.below(size + 1) };
        let count = 1 + rng.below(400) as usize * DIM;
        let values = (0..count.next_multiple_of(DIM)).map(|_| 1.0 + rng.below(1 << 20) as f32);
        self.volume.write_at(ino, slot * ROW, &floats(values), NOW).unwrap();
    }

    /// Compares the index with the files: row by row, and by exact searches.
    fn compare(&mut self, rng: &mut Rng, at: &str) {
        let truth = self.truth();
        assert_eq!(self.index.stats().counts.vectors, truth.len() as u64, "{at}: vectors");
        for (file, slot, row) in &truth {
            let found = self.index.get(FileId(*file), Slot(*slot)).unwrap();
            assert_eq!(found, *row, "{at}: inode {file} slot {slot}");
        }
        let mut files: Vec<FileId> = truth.iter().map(|(file, ..)| FileId(*file)).collect();
        files.dedup();
        if files.is_empty() {
            return;
        }
        let query: Vec<f32> = (0..DIM).map(|_| rng.below(1 << 20) as f32).collect();
        let hits = self.index.search(&files, &query, 10, None, true).unwrap();
        let far = |row: &[f32]| -> f64 {
            row.iter().zip(&query).map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        let mut distances: Vec<f64> = truth.iter().map(|(.., row)| far(row)).collect();
        distances.sort_by(f64::total_cmp);
        let found: Vec<f64> = hits
            .iter()
            .map(|hit| {
                let same = |(file, slot, _): &&(u64, u64, Vec<f32>)| {
                    (*file, *slot) == (hit.file.0, hit.slot.0)
                };
                far(&truth.iter().find(same).unwrap().2)
            })
            .collect();
        assert_eq!(found.len(), truth.len().min(10), "{at}");
        for (rank, (found, best)) in found.iter().zip(&distances).enumerate() {
            assert!(found <= &(best * 1.0001 + 1.0), "{at}: rank {rank}: {found}, best {best}");
        }
    }
}

fn formatted() -> Image {
    let disk = Disk::new(Image::new(BYTES + TAIL));
    mkfs(&disk, &mkfs_options(BYTES)).unwrap();
    let mut volume = Volume::open(disk.clone(), &OpenOptions::default()).unwrap();
    let new = NewInode { mode: 0o040_755, uid: 0, gid: 0, rdev: 0, target: &[], now: NOW };
    let dir = volume.run(NOW, |v| v.create(Ino::ROOT, b"corpus", &new)).unwrap().ino;
    let layout = VectorLayout::parse("type=f32,dim=4,metric=l2,header=0").unwrap();
    volume.run(NOW, |v| v.set_vector(dir, Some(&layout), NOW)).unwrap();
    volume.commit(NOW).unwrap();
    disk.cache.lock().unwrap().cut(Keep::None)
}

#[test]
fn after_any_cut_the_index_is_that_of_the_recovered_generation() {
    let formatted = formatted();
    let (mut cuts, mut loaded) = (0, 0);
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let mut image = formatted.clone();
        for round in 0..6 {
            let at = format!("seed {seed} round {round}");
            let mut machine = Machine::boot(image);
            loaded += u64::from(machine.index.stats().generation.is_some());
            machine.catch_up();
            machine.compare(&mut rng, &at);
            for _ in 0..rng.below(12) {
                match rng.below(8) {
                    0..4 => machine.change(&mut rng),
                    4 => drop(machine.volume.commit(NOW).unwrap()),
                    5 => drop(machine.tracker.cycle().unwrap()),
                    6 => machine.catch_up(),
                    _ => machine.tracker.checkpoint().unwrap(),
                }
            }
            let keep = [Keep::None, Keep::All, Keep::Random(rng.next()), Keep::Random(rng.next())];
            let keep = keep[rng.below(4) as usize];
            image = machine.disk.cache.lock().unwrap().cut(keep);
            cuts += 1;
        }
    }
    assert!(cuts == 240 && loaded > 50, "{cuts} cuts, {loaded} checkpoints were loaded");
}
