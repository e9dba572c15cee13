// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Damage that the engine must detect: single bits of each kind of structure are flipped, and what must
//! come of each is known. The simulator damages anything, but does not know what it hit.

use super::fixture::Fixture;
use crate::cache::Keep;
use crate::device::CacheDevice;
use crate::halt::{Halt, ensure, mismatch};
use crate::image::{Image, SECTOR};
use crate::model::{BLOCK, Model};
use crate::oracle::{assert_clean, compare};
use crate::recording::{Event, Request};
use crate::rng::Rng;
use std::ops::Range;
use vexfs::{
    Error, FileBlock, Geometry, Ino, NewInode, OpenOptions, Time, Volume, read_superblock,
};

/// A structure whose bits are flipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Superblock,
    Backup,
    Root,
    Node,
    Bitmap,
}

/// Bytes of the magic number at the start of a node. A bitmap has none, which tells the two apart.
const NODE_MAGIC_BYTES: usize = 4;
/// The primary superblock without its magic number: without that it counts as another filesystem's.
const SUPERBLOCK: Range<u64> = 1024 + 8..1024 + 512;
/// The first backup superblock.
const BACKUP: Range<u64> = 33 * BLOCK as u64..33 * BLOCK as u64 + 512;

/// A commit of which everything is known.
struct Sound {
    image: Image,
    model: Model,
    generation: u64,
    geometry: Geometry,
    /// Where its structures lie, in bytes.
    structures: Vec<(Kind, Range<u64>)>,
}

impl Fixture {
    /// Flips `times` bits in each structure of a commit; returns the number of states judged.
    ///
    /// # Errors
    /// What the engine did not detect.
    pub fn damage(&self, seed: u64, times: u64) -> Result<u64, String> {
        damage(self, seed, times).map_err(Halt::text)
    }
}

fn damage(fixture: &Fixture, seed: u64, times: u64) -> Result<u64, Halt> {
    let sound = commit_once(fixture)?;
    let mut rng = Rng::new(seed);
    let mut states = 0;
    for (kind, bytes) in &sound.structures {
        for _ in 0..times {
            let mut damaged = sound.image.clone();
            let bit = bytes.start * 8 + rng.below((bytes.end - bytes.start) * 8);
            damaged.flip(bit);
            states += 1;
            judge(*kind, damaged, &sound).map_err(|halt| {
                Halt::Mismatch(format!("bit {bit} of a {kind:?} flipped: {}", halt.text()))
            })?;
        }
    }
    Ok(states)
}

/// Makes one more commit, so that it is known what a commit wrote and what came before it.
fn commit_once(fixture: &Fixture) -> Result<Sound, Halt> {
    let mut lockstep = fixture.begin()?;
    let now = lockstep.now();
    let new = NewInode { mode: 0o100_600, uid: 0, gid: 0, rdev: 0, target: b"", now };
    let made = lockstep.run(|v| v.create(Ino::ROOT, b"last", &new))?;
    let ino = made.map_err(|e| Halt::error("create", &e))?.ino;
    if let Err(error) = lockstep.model.create(ino, Ino::ROOT.0, b"last", &new) {
        return Err(Halt::error("the model's create", &error));
    }
    lockstep.commit()?;
    let generation = lockstep.volume.generation().0;
    let image = lockstep.volume.device().cut(Keep::None);
    let model = lockstep.model.clone();
    let Some((events, ..)) = lockstep.into_history() else { return mismatch("nothing recorded") };
    let superblock = read_superblock(&image).map_err(|e| Halt::error("superblock", &e))?;
    let geometry = Geometry::of(&superblock);
    let magic = node_magic(&image, &geometry)?;
    let mut structures = vec![(Kind::Superblock, SUPERBLOCK), (Kind::Backup, BACKUP)];
    for event in &events {
        let Event::Submit { request: Request::Write { at, data, fua }, .. } = event else {
            continue;
        };
        let whole = *at..*at + data.len() as u64;
        structures.push(match (fua, data.get(..NODE_MAGIC_BYTES) == Some(&magic)) {
            (true, _) => (Kind::Root, *at..*at + SECTOR as u64),
            (false, true) => (Kind::Node, whole),
            (false, false) => (Kind::Bitmap, whole),
        });
    }
    for kind in [Kind::Root, Kind::Node, Kind::Bitmap] {
        ensure!(structures.iter().any(|(k, _)| *k == kind), "the commit wrote no {kind:?}");
    }
    Ok(Sound { image, model, generation, geometry, structures })
}

/// The magic number of nodes, from the first node on the image.
fn node_magic(image: &Image, geometry: &Geometry) -> Result<[u8; NODE_MAGIC_BYTES], Halt> {
    for block in 34..image.len_bytes() / BLOCK as u64 {
        let head = image.bytes(block * BLOCK as u64, 64);
        // A node carries the filesystem's UUID near its start.
        if head.windows(16).any(|w| w == geometry.uuid)
            && let Some(magic) = head.first_chunk::<NODE_MAGIC_BYTES>()
        {
            return Ok(*magic);
        }
    }
    mismatch("the image holds no node")
}

/// Judges what the engine makes of a damaged image.
fn judge(kind: Kind, damaged: Image, sound: &Sound) -> Result<(), Halt> {
    let device = CacheDevice::new(damaged);
    let checked = assert_clean(&device);
    // A root record that is lost is not damage: the one before it serves.
    if kind != Kind::Root {
        match checked {
            Err(Halt::Detected(_)) => {}
            Err(other) => return Err(other),
            Ok(()) => return mismatch("the check finds nothing"),
        }
    }
    match read_superblock(&device) {
        Ok(found) => {
            let same = Geometry::of(&found) == sound.geometry;
            ensure!(same, "a damaged superblock is believed");
        }
        Err(error) => return mismatch(format!("the other superblock does not serve: {error}")),
    }
    let options = OpenOptions { cache_bytes: 0, ..OpenOptions::default() };
    let mut volume = Volume::open(device, &options)
        .map_err(|e| Halt::Mismatch(format!("the filesystem does not open: {e}")))?;
    let (back, generation) = (volume.generation().0, sound.generation);
    if kind == Kind::Root {
        ensure!(back + 1 == generation, "generation {back} came back after {generation} was hit");
        return Ok(());
    }
    ensure!(back == generation, "generation {back} came back instead of {generation}");
    match kind {
        Kind::Node => match compare(&mut volume, &mut sound.model.clone(), &|_| false) {
            Err(Halt::Detected(_)) => Ok(()),
            Err(other) => Err(other),
            Ok(()) => mismatch("a damaged node of the newest commit is read and not detected"),
        },
        Kind::Bitmap => {
            let now = Time { seconds: 1_900_000_000, nanos: 0 };
            let new = NewInode { mode: 0o100_600, uid: 0, gid: 0, rdev: 0, target: b"", now };
            let made = volume.run(now, |v| {
                let inode = v.create(Ino::ROOT, b"later", &new)?;
                v.allocate(inode.ino, FileBlock(0), 1)
            });
            match made {
                Err(Error::Corrupt(_)) => Ok(()),
                other => mismatch(format!("a damaged bitmap is used to allocate: {other:?}")),
            }
        }
        _ => compare(&mut volume, &mut sound.model.clone(), &|_| false),
    }
}
