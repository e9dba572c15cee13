// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The manifest of a checkpoint: what it says, and how it is encoded. The only user of `bincode`.
//!
//! An encoded manifest is a magic number, the length and CRC32C of the body, and the body. Nothing
//! of the body is decoded before length and checksum agree, decoding may not ask for more memory
//! than the limit, and no byte may be left over. What the numbers mean is checked by the caller.

use bincode::{
    Decode, Encode,
    config::{Configuration, LittleEndian, Varint},
};

use crate::{
    error::{IndexError, Result},
    mutants::{self, Mutant},
    store::{Blob, MANIFEST_MAX},
    vector::{Params, Space},
};

const MAGIC: [u8; 8] = *b"VXINDEX2";
/// Bytes before the body: magic number, length, checksum.
const HEADER: usize = 8 + 8 + 4;
/// Bytes of the longest body.
const BODY_MAX: usize = MANIFEST_MAX - HEADER;

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
    /// Ranges of slots, the last one included.
    pub skipped: Vec<(u64, u64)>,
    /// The growing segment, if there is anything in it.
    pub growing: Option<VectorsBlob>,
    pub segments: Vec<SegmentRecord>,
}

/// A blob of slots and their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct VectorsBlob {
    pub count: u64,
    pub blob: Blob,
}

/// A sealed segment in a checkpoint.
#[derive(Debug, PartialEq, Encode, Decode)]
pub(crate) struct SegmentRecord {
    pub vectors: VectorsBlob,
    pub graph: Option<Blob>,
    /// One bit for each row; empty if there is none.
    pub tombstones: Vec<u64>,
}

impl Manifest {
    /// Every blob that the manifest names.
    pub(crate) fn blobs(&self) -> Vec<Blob> {
        let mut blobs = Vec::new();
        for vectors in self.files.iter().filter_map(|file| file.vectors.as_ref()) {
            blobs.extend(vectors.growing.as_ref().map(|growing| growing.blob));
            for segment in &vectors.segments {
                blobs.push(segment.vectors.blob);
                blobs.extend(segment.graph);
            }
        }
        blobs
    }
}

fn config() -> Configuration<LittleEndian, Varint, bincode::config::Limit<BODY_MAX>> {
    bincode::config::standard().with_limit::<BODY_MAX>()
}

/// `encode(manifest)` - a manifest as bytes.
pub(crate) fn encode(manifest: &Manifest) -> Result<Vec<u8>> {
    encode_within(manifest, BODY_MAX)
}

fn encode_within(manifest: &Manifest, limit: usize) -> Result<Vec<u8>> {
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

/// `decode(bytes)` - the manifest in these bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest> {
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
    use crate::types::{Element, Metric};
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
                    growing: Some(VectorsBlob { count: 2, blob: blob(1) }),
                    segments: vec![SegmentRecord {
                        vectors: VectorsBlob { count: 9, blob: blob(2) },
                        graph: Some(blob(3)),
                        tombstones: vec![5],
                    }],
                }),
            }],
        }
    }

    #[test]
    fn survives_the_round_trip_and_no_bit_flip_or_cut() {
        let bytes = encode(&sample()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), sample());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&flipped), Err(IndexError::Damaged(_))), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let length = encode(&sample()).unwrap().len() - HEADER;
        assert!(encode_within(&sample(), length).is_ok());
        let text = encode_within(&sample(), length - 1).unwrap_err().to_string();
        assert!(text.contains("too large"), "{text}");
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let mut bytes = encode(&sample()).unwrap();
        bytes.push(0);
        let (length, crc) = (bytes.len() - HEADER, crc32c::crc32c(&bytes[HEADER..]));
        bytes[8..16].copy_from_slice(&(length as u64).to_le_bytes());
        bytes[16..HEADER].copy_from_slice(&crc.to_le_bytes());
        let text = decode(&bytes).unwrap_err().to_string();
        assert!(text.contains("left over"), "{text}");
    }

    proptest! {
        // With a right checksum over wrong bytes it is for the decoder to refuse.
        #[test]
        fn garbage_with_a_valid_checksum_is_decoded_or_refused(
            body in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
            bytes.extend_from_slice(&body);
            if let Ok(manifest) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&manifest).unwrap()).unwrap(), manifest);
            }
        }
    }
}
