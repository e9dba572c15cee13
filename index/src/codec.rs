// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The manifest of a checkpoint as bytes, and back; the only user of `bincode`.
//!
//! A manifest is magic, length, CRC32C, then the encoded structure. Nothing is decoded before
//! length and checksum agree, nothing may ask for more memory than the limit, and no byte may
//! be left over. What the decoded numbers mean is checked by whoever uses them.

use bincode::{
    Decode, Encode,
    config::{Configuration, LittleEndian, Varint},
};

use crate::{
    error::{IndexError, Result},
    mutants::{self, Mutant},
    store::Blob,
    vector::{Params, Space},
};

const MAGIC: [u8; 8] = *b"VXINDEX1";
const HEADER: usize = 8 + 8 + 4;
/// A million files with their state fit; a wild length does not.
const LIMIT: usize = 1 << 29;

/// Bytes of the longest manifest.
pub(crate) const SEALED_MAX: usize = HEADER + LIMIT;

/// What a checkpoint consists of.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) struct Manifest {
    pub owner: [u8; 16],
    pub generation: u64,
    pub note: Vec<u8>,
    pub files: Vec<FileRecord>,
}

/// A file in a checkpoint.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) struct FileRecord {
    pub file: u64,
    pub state: Vec<u8>,
    /// Absent if the file was never declared to the index.
    pub vectors: Option<VectorsRecord>,
}

/// A file's vectors in a checkpoint.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) struct VectorsRecord {
    pub space: Space,
    pub params: Params,
    pub skipped: Vec<(u64, u64)>,
    pub tail: Option<RunRecord>,
    pub parts: Vec<PartRecord>,
}

/// Slots and rows in a blob.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) struct RunRecord {
    pub rows: u64,
    pub blob: Blob,
}

/// A segment in a checkpoint.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) struct PartRecord {
    pub run: RunRecord,
    pub graph: Option<Blob>,
    /// One bit per row; empty if none is dead.
    pub dead: Vec<u64>,
}

impl Manifest {
    /// Every blob that the manifest names.
    pub(crate) fn blobs(&self) -> Vec<Blob> {
        let mut blobs = Vec::new();
        for vectors in self.files.iter().filter_map(|file| file.vectors.as_ref()) {
            blobs.extend(vectors.tail.as_ref().map(|tail| tail.blob));
            for part in &vectors.parts {
                blobs.push(part.run.blob);
                blobs.extend(part.graph);
            }
        }
        blobs
    }
}

fn config() -> Configuration<LittleEndian, Varint, bincode::config::Limit<LIMIT>> {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// A manifest as bytes.
pub(crate) fn seal(manifest: &Manifest) -> Result<Vec<u8>> {
    seal_within(manifest, LIMIT)
}

fn seal_within(manifest: &Manifest, limit: usize) -> Result<Vec<u8>> {
    let body = bincode::encode_to_vec(manifest, config())
        .map_err(|error| IndexError::BadSpec(format!("manifest not encoded: {error}")))?;
    if body.len() > limit {
        return Err(IndexError::BadSpec(format!("manifest of {} bytes is too large", body.len())));
    }
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The manifest in these bytes.
pub(crate) fn unseal(bytes: &[u8]) -> Result<Manifest> {
    let damaged = |why: &str| IndexError::Damaged(format!("manifest {why}"));
    let Some((&magic, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(damaged("is truncated"));
    };
    if magic != MAGIC {
        return Err(damaged("has a wrong magic number, or another version wrote it"));
    }
    let Some((&length, rest)) = rest.split_first_chunk::<8>() else {
        return Err(damaged("is truncated"));
    };
    let Some((&crc, body)) = rest.split_first_chunk::<4>() else {
        return Err(damaged("is truncated"));
    };
    if u64::from_le_bytes(length) != body.len() as u64 {
        return Err(damaged("has a wrong length"));
    }
    let right = u32::from_le_bytes(crc) == crc32c::crc32c(body);
    if !right && !mutants::is(Mutant::ManifestChecksum) {
        return Err(damaged("has a wrong checksum"));
    }
    let (manifest, used) = bincode::decode_from_slice(body, config())
        .map_err(|error| damaged(&format!("is not decodable: {error}")))?;
    if used != body.len() {
        return Err(damaged("has bytes left over"));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::{Element, Metric};
    use proptest::prelude::*;

    fn sample() -> Manifest {
        let blob = |at| Blob { at, bytes: at * 7, crc: 0xdead_beef };
        Manifest {
            owner: [7; 16],
            generation: 12,
            note: b"note".to_vec(),
            files: vec![FileRecord {
                file: 3,
                state: vec![1, 2, 3],
                vectors: Some(VectorsRecord {
                    space: Space::new(Element::F16, Metric::Cosine, 5),
                    params: Params::default(),
                    skipped: vec![(4, 9)],
                    tail: Some(RunRecord { rows: 2, blob: blob(1) }),
                    parts: vec![PartRecord {
                        run: RunRecord { rows: 9, blob: blob(2) },
                        graph: Some(blob(3)),
                        dead: vec![5],
                    }],
                }),
            }],
        }
    }

    #[test]
    fn survives_the_round_trip_and_no_bit_flip_or_cut() {
        let bytes = seal(&sample()).unwrap();
        assert_eq!(unseal(&bytes).unwrap(), sample());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(unseal(&flipped), Err(IndexError::Damaged(_))), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(unseal(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let length = seal(&sample()).unwrap().len() - HEADER;
        assert!(seal_within(&sample(), length).is_ok());
        let text = seal_within(&sample(), length - 1).unwrap_err().to_string();
        assert!(text.contains("too large"), "{text}");
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let mut bytes = seal(&sample()).unwrap();
        bytes.push(0);
        let (length, crc) = (bytes.len() - HEADER, crc32c::crc32c(&bytes[HEADER..]));
        bytes[8..16].copy_from_slice(&(length as u64).to_le_bytes());
        bytes[16..HEADER].copy_from_slice(&crc.to_le_bytes());
        let text = unseal(&bytes).unwrap_err().to_string();
        assert!(text.contains("left over"), "{text}");
    }

    proptest! {
        // With a right checksum over wrong bytes the decoder itself is what refuses.
        #[test]
        fn garbage_with_a_valid_checksum_is_decoded_or_refused(
            body in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
            bytes.extend_from_slice(&body);
            if let Ok(manifest) = unseal(&bytes) {
                prop_assert_eq!(unseal(&seal(&manifest).unwrap()).unwrap(), manifest);
            }
        }
    }
}
