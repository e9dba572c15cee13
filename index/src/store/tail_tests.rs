// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The tail store on a medium that loses what was not synced.

use super::super::volatile::VolatileMedium;
use super::*;
use proptest::prelude::*;

fn put<M: Medium>(store: &mut TailStore<M>, data: &[u8]) -> Result<Blob> {
    store.write_blob(data.len() as u64, &mut |out| {
        out.write_all(data).map_err(IndexError::storage("test"))
    })
}

fn get<M: Medium>(store: &mut TailStore<M>, blob: &Blob) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    crate::store::read_verified(store, blob, "a test blob", &mut |from| {
        from.read_to_end(&mut bytes).map(drop).map_err(IndexError::storage("test"))
    })?;
    Ok(bytes)
}

/// A manifest for tests: what round it is of, and its blobs.
fn manifest(round: u64, blobs: &[Blob]) -> Vec<u8> {
    let mut bytes = round.to_le_bytes().to_vec();
    for blob in blobs {
        bytes.extend_from_slice(&blob.at.to_le_bytes());
        bytes.extend_from_slice(&blob.bytes.to_le_bytes());
        bytes.extend_from_slice(&u64::from(blob.crc).to_le_bytes());
    }
    bytes
}

fn parse(bytes: &[u8]) -> (u64, Vec<Blob>) {
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let blobs =
        words[1..].chunks(3).map(|w| Blob { at: w[0], bytes: w[1], crc: w[2] as u32 }).collect();
    (words[0], blobs)
}

fn content(round: u64, i: u64) -> Vec<u8> {
    let length = (round * 977 + i * 3571) % 5000;
    (0..length).map(|x| (x * 31 + round * 7 + i) as u8).collect()
}

/// One checkpoint: keeps the even blobs of the last one, adds new ones.
fn checkpoint(
    store: &mut TailStore<VolatileMedium>,
    round: u64,
    live: &[Blob],
) -> Result<Vec<Blob>> {
    let mut blobs: Vec<Blob> = live.iter().copied().step_by(2).collect();
    for i in 0..=round % 4 {
        blobs.push(put(store, &content(round, i))?);
    }
    store.publish(&manifest(round, &blobs))?;
    store.retain(&blobs)?;
    Ok(blobs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_power_cut_leaves_the_old_or_the_new_checkpoint_whole(
        calls in 0u64..120, luck in any::<u64>(), start in 0u64..3,
    ) {
        let start = start * SLOT_BYTES;
        let disk = VolatileMedium::default();
        disk.disk().lowest = start;
        let mut store = TailStore::open(disk.clone(), start, None).unwrap();
        disk.disk().calls_left = Some(calls);
        let (mut live, mut round) = (Vec::new(), 0);
        let failed = loop {
            round += 1;
            match checkpoint(&mut store, round, &live) {
                Ok(blobs) => live = blobs,
                Err(error) => break error,
            }
        };
        prop_assert!(failed.to_string().contains("power is off"), "{}", failed);
        drop(store);
        let mut state = luck;
        disk.disk().crash(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            state >> 63 == 1
        });

        let mut store = TailStore::open(disk.clone(), start, None).unwrap();
        match store.manifest().unwrap() {
            // Before the first was published, or while it was.
            None => prop_assert!(round == 1, "round {} lost everything", round),
            Some(bytes) => {
                let (found, blobs) = parse(&bytes);
                prop_assert!(found == round || found + 1 == round, "{} after {}", found, round);
                for blob in &blobs {
                    get(&mut store, blob).unwrap();
                }
                store.retain(&blobs).unwrap();
                // And it goes on from there.
                let next = checkpoint(&mut store, round + 1, &blobs).unwrap();
                drop(store);
                let mut store = TailStore::open(disk, start, None).unwrap();
                let (found, again) = parse(&store.manifest().unwrap().unwrap());
                prop_assert_eq!((found, &again), (round + 1, &next));
            }
        }
    }
}

#[test]
fn space_is_reused_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, vec![0xab; 8192]).unwrap();
    let open = || {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        TailStore::open(file, 8192, None).unwrap()
    };
    let mut store = open();
    for round in 0..50u8 {
        let blob = put(&mut store, &vec![round; 100_000]).unwrap();
        store.publish(&manifest(u64::from(round), &[blob])).unwrap();
        store.retain(&[blob]).unwrap();
        assert_eq!(get(&mut store, &blob).unwrap(), vec![round; 100_000]);
    }
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length < 8192 + 8192 + 350_000, "{length} bytes");
    store.publish(b"empty").unwrap();
    store.retain(&[]).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < length);
    assert!(std::fs::read(&path).unwrap()[..8192].iter().all(|&byte| byte == 0xab));
    drop(store);
    assert_eq!(open().manifest().unwrap().unwrap(), b"empty");
}

#[test]
fn a_full_region_is_an_error_and_the_old_checkpoint_stays() {
    let disk = VolatileMedium::default();
    let mut store = TailStore::open(disk.clone(), 0, Some(DATA_AT + 4096 + 1536)).unwrap();
    let blob = put(&mut store, &[1; 2000]).unwrap();
    store.publish(&manifest(1, &[blob])).unwrap();
    store.retain(&[blob]).unwrap();
    let error = put(&mut store, &[2; 3000]).unwrap_err();
    assert!(matches!(error, IndexError::Full { needed: 3000, available: 1536 }), "{error}");
    assert_eq!(get(&mut store, &blob).unwrap(), [1; 2000]);
    assert!(TailStore::open(disk.clone(), 100, None).is_err());
    assert!(TailStore::open(disk, 4096, Some(8192)).is_err());
}

#[test]
fn a_flipped_bit_anywhere_is_never_taken_for_a_checkpoint() {
    let disk = VolatileMedium::default();
    let mut store = TailStore::open(disk.clone(), 0, None).unwrap();
    for round in 1..=2u64 {
        store.publish(&manifest(round, &[])).unwrap();
        store.retain(&[]).unwrap();
    }
    drop(store);
    let newest = disk.disk().seen.clone();
    for byte in (0..SlotRecord::BYTES).map(|i| SLOT_BYTES as usize + i) {
        for bit in 0..8 {
            disk.disk().seen.clone_from(&newest);
            disk.disk().seen[byte] ^= 1 << bit;
            let mut store = TailStore::open(disk.clone(), 0, None).unwrap();
            // Round 1's manifest was freed, yet nothing overwrote it here.
            if let Some(bytes) = store.manifest().unwrap() {
                assert_eq!(bytes, manifest(1, &[]), "byte {byte} bit {bit}");
            }
        }
    }
}

/// The table in FORMAT.md.
#[test]
fn a_slot_is_laid_out_as_the_format_says() {
    let manifest = Blob { at: 0x1122_3344_5566, bytes: 0x99, crc: 0xdead_beef };
    let mut expected = b"VXTAIL01".to_vec();
    for word in [7, manifest.at, manifest.bytes] {
        expected.extend_from_slice(&word.to_le_bytes());
    }
    expected.extend_from_slice(&manifest.crc.to_le_bytes());
    let crc = crc32c::crc32c(&expected);
    expected.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(SlotRecord { sequence: 7, manifest }.encode()[..], expected);
}

/// Two checkpoints, the second in slot 1, both still on the disk.
fn two() -> VolatileMedium {
    let disk = VolatileMedium::default();
    let mut store = TailStore::open(disk.clone(), 0, None).unwrap();
    for round in 1..=2u64 {
        store.publish(&manifest(round, &[])).unwrap();
    }
    disk
}

fn found<M: Medium>(medium: M, end: Option<u64>) -> Result<Option<Vec<u8>>> {
    TailStore::open(medium, 0, end)?.manifest()
}

#[test]
fn a_slot_that_names_what_cannot_be_gives_way_to_the_other() {
    let disk = two();
    assert_eq!(found(disk.clone(), None).unwrap(), Some(manifest(2, &[])));
    let good = disk.disk().seen.clone();
    let end = good.len() as u64;
    for (what, blob) in [
        ("in the slots", Blob { at: SLOT_BYTES, bytes: 8, crc: 0 }),
        ("too long", Blob { at: DATA_AT, bytes: MANIFEST_MAX as u64 + 1, crc: 0 }),
        ("past every number", Blob { at: u64::MAX - 3, bytes: 8, crc: 0 }),
        ("past the region", Blob { at: end - 4, bytes: 8, crc: 0 }),
        ("another checksum", Blob { at: DATA_AT, bytes: 8, crc: 1 }),
    ] {
        let record = SlotRecord { sequence: 3, manifest: blob }.encode();
        disk.disk().seen[SLOT_BYTES as usize..][..SlotRecord::BYTES].copy_from_slice(&record);
        for end in [None, Some(end)] {
            assert_eq!(found(disk.clone(), end).unwrap(), Some(manifest(1, &[])), "{what}");
        }
    }
    // The newest manifest itself is damaged.
    disk.disk().seen.clone_from(&good);
    disk.disk().seen[(DATA_AT + UNIT) as usize] ^= 1;
    assert_eq!(found(disk.clone(), None).unwrap(), Some(manifest(1, &[])));
    // The image was cut off: where it ends there is no manifest, and no slot.
    disk.disk().seen.truncate((DATA_AT + UNIT + 3) as usize);
    assert_eq!(found(disk.clone(), None).unwrap(), Some(manifest(1, &[])));
    disk.disk().seen.truncate(SLOT_BYTES as usize);
    assert_eq!(found(disk, None).unwrap(), None);
}

/// What cannot be read may be the newest checkpoint: the older one is not taken for it.
#[test]
fn a_read_error_is_an_error_and_no_older_checkpoint() {
    let disk = two();
    for (at, words) in [
        (0, "reading slot 0 at byte 0"),
        (SLOT_BYTES, "reading slot 1 at byte 4096"),
        (DATA_AT + UNIT, "reading the manifest at byte 8704"),
    ] {
        disk.disk().unreadable = at..at + 1;
        let error = found(disk.clone(), None).unwrap_err();
        assert!(matches!(error, IndexError::Storage { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    // A blob as well.
    disk.disk().unreadable = 0..0;
    let mut store = TailStore::open(disk.clone(), 0, None).unwrap();
    let blob = put(&mut store, &[5; 3000]).unwrap();
    disk.disk().unreadable = blob.at + 2000..blob.at + 2001;
    assert!(matches!(get(&mut store, &blob), Err(IndexError::Storage { .. })));
    disk.disk().unreadable = 0..0;
    assert_eq!(get(&mut store, &blob).unwrap(), [5; 3000]);
}

#[test]
fn a_blob_that_is_nowhere_is_refused_and_one_half_written_takes_no_room() {
    let disk = VolatileMedium::default();
    let mut store = TailStore::open(disk, 0, None).unwrap();
    let blob = put(&mut store, &[1; 600]).unwrap();
    for at in [0, DATA_AT - 1, u64::MAX - 5] {
        let error = get(&mut store, &Blob { at, ..blob }).unwrap_err();
        assert!(matches!(error, IndexError::Damaged(_)), "{error}");
        assert!(store.map_blob(&Blob { at, ..blob }).is_err());
    }
    for announced in [599, 601] {
        let half = store.write_blob(announced, &mut |out| {
            out.write_all(&[2; 600]).map_err(IndexError::storage("test"))
        });
        assert!(half.is_err());
    }
    let next = put(&mut store, &[3; 600]).unwrap();
    assert_eq!(next.at, blob.at + BLOB_ALIGN);
    // A gap that is too small is passed over, one that is large enough is used.
    store.retain(&[next]).unwrap();
    assert_eq!(put(&mut store, &[4; 5000]).unwrap().at, next.at + BLOB_ALIGN);
    assert_eq!(put(&mut store, &[5; 4096]).unwrap().at, blob.at);
    assert!(matches!(
        store.write_blob(u64::MAX, &mut |_| Ok(())),
        Err(IndexError::Full { needed: u64::MAX, .. })
    ));
}

/// What somebody reads through a mapping stays, although no manifest names it any more.
#[test]
fn what_is_mapped_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let options = || std::fs::OpenOptions::new().read(true).write(true).create(true).clone();
    let file = options().truncate(false).open(&path).unwrap();
    let mut store = TailStore::open(file, 0, None).unwrap();
    let blob = put(&mut store, &[1; 9000]).unwrap();
    assert!(blob.at.is_multiple_of(BLOB_ALIGN));
    store.publish(&manifest(1, &[blob])).unwrap();
    store.retain(&[blob]).unwrap();
    let mapping = store.map_blob(&blob).unwrap().unwrap();
    for round in 2..6u8 {
        let next = put(&mut store, &[round; 9000]).unwrap();
        store.publish(&manifest(u64::from(round), &[next])).unwrap();
        store.retain(&[next]).unwrap();
        assert!(mapping.bytes().iter().all(|&byte| byte == 1) && mapping.faults() == 0);
    }
    // Nor is the file cut off there.
    store.publish(b"empty").unwrap();
    store.retain(&[]).unwrap();
    assert!(mapping.bytes().iter().all(|&byte| byte == 1) && mapping.faults() == 0);
    drop(mapping);
    store.retain(&[]).unwrap();
    assert_eq!(put(&mut store, &[9; 9000]).unwrap().at, blob.at);
}
