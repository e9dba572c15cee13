// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Damage where the engine must see it: single bits of each kind of structure, and what has to come
//! of it. The simulator damages anything; here it is known what was hit.

use super::script::Fixture;
use crate::cache::Keep;
use crate::device::CacheDevice;
use crate::image::{Image, SECTOR};
use crate::model::BLOCK;
use crate::oracle::{assert_clean, compare};
use crate::recording::{Event, Request};
use crate::rng::Rng;
use crate::work::{Run, Stop, World, ensure, wrong};
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

/// A node's and a bitmap's first bytes tell them apart: a node has a magic number there.
const NODE_MAGIC_BYTES: usize = 4;
/// The primary superblock but for its magic number: without that it is somebody else's sector.
const SUPERBLOCK: std::ops::Range<u64> = 1024 + 8..1024 + 512;
/// The first backup superblock.
const BACKUP: std::ops::Range<u64> = 33 * BLOCK as u64..33 * BLOCK as u64 + 512;

/// Damages structures of the fixture's last commit `times` each.
pub(super) fn run(fixture: &Fixture, seed: u64, times: u64) -> Run<u64> {
    let mut world = World::recorded(fixture.image.clone(), fixture.model.clone())?;
    // One commit more, so that it is known what a commit wrote and what came before.
    let now = world.now();
    let new = NewInode { mode: 0o100_600, uid: 0, gid: 0, rdev: 0, target: b"", now };
    let made = world.run(|v| v.create(Ino::ROOT, b"last", &new))?;
    let ino = made.map_err(|e| Stop::error("create", &e))?.ino;
    if let Err(error) = world.model.create(ino, Ino::ROOT.0, b"last", &new) {
        return Err(Stop::error("the model's create", &error));
    }
    world.commit()?;
    let generation = world.volume.generation().0;
    let image = world.volume.device().cut(Keep::None);
    let model = world.model.clone();
    let Some((events, ..)) = world.into_history() else { return wrong("nothing was recorded") };
    let magic = node_magic(&image)?;
    let mut places = vec![(Kind::Superblock, SUPERBLOCK), (Kind::Backup, BACKUP)];
    for event in &events {
        let Event::Submit { request: Request::Write { at, data, fua }, .. } = event else {
            continue;
        };
        let whole = *at..*at + data.len() as u64;
        places.push(match (fua, data.get(..NODE_MAGIC_BYTES) == Some(&magic)) {
            (true, _) => (Kind::Root, *at..*at + SECTOR as u64),
            (false, true) => (Kind::Node, whole),
            (false, false) => (Kind::Bitmap, whole),
        });
    }
    for kind in [Kind::Root, Kind::Node, Kind::Bitmap] {
        ensure!(places.iter().any(|(k, _)| *k == kind), "the commit wrote no {kind:?}");
    }
    let mut rng = Rng::new(seed);
    let mut states = 0;
    for (kind, place) in places {
        for _ in 0..times {
            let mut damaged = image.clone();
            let bit = place.start * 8 + rng.below((place.end - place.start) * 8);
            damaged.flip(bit);
            states += 1;
            one(kind, damaged, &image, &model, generation).map_err(|stop| {
                Stop::Wrong(format!("bit {bit} of a {kind:?} flipped: {}", stop.text()))
            })?;
        }
    }
    Ok(states)
}

/// The magic number of nodes, from a node of the image: the root record says where one is.
fn node_magic(image: &Image) -> Run<[u8; NODE_MAGIC_BYTES]> {
    let superblock = read_superblock(image).map_err(|e| Stop::error("superblock", &e))?;
    let uuid = Geometry::of(&superblock).uuid;
    for block in 34..image.len_bytes() / BLOCK as u64 {
        let head = image.bytes(block * BLOCK as u64, 64);
        // A node carries the filesystem's identity near its start.
        if head.windows(16).any(|w| w == uuid)
            && let Some(magic) = head.first_chunk::<NODE_MAGIC_BYTES>()
        {
            return Ok(*magic);
        }
    }
    wrong("no node is found")
}

fn one(
    kind: Kind,
    damaged: Image,
    sound: &Image,
    model: &crate::Model,
    generation: u64,
) -> Run<()> {
    let before = read_superblock(sound).map_err(|e| Stop::error("superblock", &e))?;
    let device = CacheDevice::new(damaged);
    let said = assert_clean(&device);
    // A root record that is lost is no damage: the one before it serves.
    if kind != Kind::Root {
        match said {
            Err(Stop::Found(_)) => {}
            Err(other) => return Err(other),
            Ok(()) => return wrong("the check finds nothing"),
        }
    }
    match read_superblock(&device) {
        Ok(found) => {
            let same = Geometry::of(&found) == Geometry::of(&before);
            ensure!(same, "a damaged superblock is believed");
        }
        Err(error) => return wrong(format!("the other superblock does not serve: {error}")),
    }
    let options = OpenOptions { cache_bytes: 0, ..OpenOptions::default() };
    let mut volume = Volume::open(device, &options)
        .map_err(|e| Stop::Wrong(format!("the filesystem does not open: {e}")))?;
    let back = volume.generation().0;
    if kind == Kind::Root {
        ensure!(back + 1 == generation, "generation {back} came back after {generation} was hit");
        return Ok(());
    }
    ensure!(back == generation, "generation {back} came back instead of {generation}");
    match kind {
        Kind::Node => match compare(&mut volume, &mut model.clone(), &|_, _, _, _| false) {
            Err(Stop::Found(_)) => Ok(()),
            Err(other) => Err(other),
            Ok(()) => wrong("a damaged node of the newest commit is read and nobody notices"),
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
                other => wrong(format!("blocks are taken from a damaged bitmap: {other:?}")),
            }
        }
        _ => compare(&mut volume, &mut model.clone(), &|_, _, _, _| false),
    }
}
