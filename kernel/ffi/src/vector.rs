// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Exact search of one vector file by reading it whole: for hosts in userspace without an index.
//!
//! It keeps `k` hits and one chunk of the file in memory. The attribute itself is in [`crate::xattr`].

use crate::abi::{Answer, INVALID, Refusal, Report, VectorHit, VectorShape, answer};
use crate::device::KernelDevice;
use crate::handle::{VolumeHandle, exclusive};
use crate::pointer::{Place, bytes};
use alloc::vec::Vec;
use vexfs::{Element, Error, Ino, Metric, VectorLayout, Volume};

/// Most hits a search returns.
pub const HITS_MAX: u32 = 1024;
/// About how many bytes of a file are read at a time.
const CHUNK_BYTES: usize = 1 << 16;

/// Bytes before the first record: as the attribute says, or as the `.npy` header in the file does.
fn header_bytes(
    volume: &mut Volume<KernelDevice>,
    ino: Ino,
    layout: &VectorLayout,
) -> Result<u64, Error> {
    let mut head = [0u8; vexfs_npy::PREFIX_BYTES];
    if !layout.auto_header || volume.read_at(ino, 0, &mut head)? < head.len() {
        return Ok(layout.header);
    }
    Ok(vexfs_npy::data_start(&head).unwrap_or(layout.header))
}

fn storage(volume: &mut Volume<KernelDevice>, ino: Ino) -> Answer<(VectorLayout, VectorShape)> {
    let layout = volume.resolve(|volume| volume.vector(ino))?.ok_or(Error::NoAttr)?;
    let inode = volume.resolve(|volume| volume.inode(ino))?;
    if !inode.is_file() {
        return Err(INVALID);
    }
    let header = header_bytes(volume, ino, &layout)?;
    let vector_bytes = layout.element.vector_bytes(layout.dim);
    // The last record may end with its vector.
    let need = u64::from(layout.offset) + u64::from(vector_bytes);
    let body = inode.size.saturating_sub(header);
    let slots = match body.checked_sub(need) {
        Some(rest) => rest.checked_div(u64::from(layout.stride)).ok_or(INVALID)? + 1,
        None => 0,
    };
    let shape = VectorShape {
        slots,
        header,
        stride: layout.stride,
        offset: layout.offset,
        vector_bytes,
        dim: layout.dim,
    };
    Ok((layout, shape))
}

/// Writes the shape of vector file `ino` to `*out`: how many whole vectors it holds and where they are. Reads the device.
///
/// 0, `-ENODATA` without a vector attribute, `-EINVAL` for a directory, `-ENOENT`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_vector_storage(
    volume: *mut VolumeHandle,
    ino: u64,
    out: *mut VectorShape,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 2 for `out`.
        let (volume, out) = unsafe { (exclusive(volume)?, Place::new(out)?) };
        out.set(storage(volume, Ino(ino))?.1);
        Ok(())
    })
}

/// Finds the `k` (1 to 1024) vectors of file `ino` nearest to the query by comparing each. The query is one vector in the
/// file's own element type, `query_len` its bytes. `hits` has room for `k`; `*found` gets how many there are, nearest first.
/// Vectors that are not finite are passed over.
///
/// 0; `-EINVAL` for a query of the wrong length or with NaN in it, or an impossible `k`; `-ENODATA` without a vector
/// attribute; `-ENOENT`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_vector_search(
    volume: *mut VolumeHandle,
    ino: u64,
    query: *const u8,
    query_len: usize,
    k: u32,
    hits: *mut VectorHit,
    found: *mut u32,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `query`, 2 for `found`.
        let (volume, query, found) =
            unsafe { (exclusive(volume)?, bytes(query, query_len)?, Place::new(found)?) };
        if k == 0 || k > HITS_MAX {
            return Err(INVALID);
        }
        // SAFETY: rule 2 for `hits`; this only checks for null.
        unsafe { Place::new(hits)? };
        let best = search(volume, Ino(ino), query, k as usize)?;
        for (index, hit) in best.iter().enumerate() {
            // SAFETY: rule 2: `hits` has room for `k`, and there are at most `k`.
            unsafe { hits.add(index).write(*hit) };
        }
        found.set(best.len() as u32);
        Ok(())
    })
}

fn search(
    volume: &mut Volume<KernelDevice>,
    ino: Ino,
    query: &[u8],
    k: usize,
) -> Answer<Vec<VectorHit>> {
    let (layout, shape) = storage(volume, ino)?;
    if query.len() != shape.vector_bytes as usize {
        return Err(INVALID);
    }
    let unit = Scorer { element: layout.element, metric: layout.metric };
    if unit.distance(query, query).is_none() {
        return Err(INVALID);
    }
    let stride = shape.stride as usize;
    let records = (CHUNK_BYTES / stride.max(1)).max(1);
    let mut chunk = Vec::new();
    let mut best: Vec<VectorHit> = Vec::new();
    let no_memory = |_| Refusal::Engine(Error::NoMemory);
    chunk.try_reserve_exact(records.saturating_mul(stride)).map_err(no_memory)?;
    chunk.resize(records.saturating_mul(stride), 0);
    best.try_reserve_exact(k + 1).map_err(no_memory)?;
    let mut slot = 0;
    while slot < shape.slots {
        let at = shape.header.saturating_add(slot.saturating_mul(u64::from(shape.stride)));
        let got = volume.read_at(ino, at, &mut chunk)?;
        let chunk = chunk.get(..got).unwrap_or_default();
        let before = slot;
        for record in chunk.chunks(stride.max(1)) {
            let vector = record
                .get(shape.offset as usize..)
                .and_then(|rest| rest.get(..shape.vector_bytes as usize));
            let Some(vector) = vector else { break };
            if let Some(distance) = unit.distance(query, vector) {
                let place =
                    best.partition_point(|hit| f32::from_bits(hit.distance_bits) <= distance);
                if place < k {
                    best.truncate(k.saturating_sub(1).max(place));
                    best.insert(
                        place,
                        VectorHit { slot, distance_bits: distance.to_bits(), reserved: 0 },
                    );
                    best.truncate(k);
                }
            }
            slot += 1;
        }
        if slot == before {
            break;
        }
    }
    Ok(best)
}

struct Scorer {
    element: Element,
    metric: Metric,
}

impl Scorer {
    /// The metric's distance, or `None` where it is not a number.
    fn distance(&self, a: &[u8], b: &[u8]) -> Option<f32> {
        if self.element == Element::Bit || self.metric == Metric::Hamming {
            let differing: u32 = a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones()).sum();
            return Some(differing as f32);
        }
        let (mut dot, mut aa, mut bb, mut squares) = (0.0, 0.0, 0.0, 0.0);
        self.each(a, b, |x, y| {
            dot += x * y;
            aa += x * x;
            bb += y * y;
            squares += (x - y) * (x - y);
        });
        let distance = match self.metric {
            Metric::L2 => sqrt(squares),
            Metric::Dot | Metric::Hamming => -dot,
            // A vector without a direction is as far as one at a right angle.
            Metric::Cosine if aa * bb > 0.0 => (1.0 - dot / sqrt(aa * bb)).max(0.0),
            Metric::Cosine if (aa * bb).is_nan() => return None,
            Metric::Cosine => 1.0,
        };
        distance.is_finite().then_some(distance as f32)
    }

    fn each(&self, a: &[u8], b: &[u8], mut f: impl FnMut(f64, f64)) {
        match self.element {
            Element::F32 => {
                for (x, y) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0) {
                    f(f32::from_le_bytes(*x).into(), f32::from_le_bytes(*y).into());
                }
            }
            Element::F16 => {
                for (x, y) in a.as_chunks::<2>().0.iter().zip(b.as_chunks::<2>().0) {
                    f(half(u16::from_le_bytes(*x)).into(), half(u16::from_le_bytes(*y)).into());
                }
            }
            Element::Bf16 => {
                let wide = |bits: [u8; 2]| {
                    f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bits)) << 16))
                };
                for (x, y) in a.as_chunks::<2>().0.iter().zip(b.as_chunks::<2>().0) {
                    f(wide(*x), wide(*y));
                }
            }
            Element::U8 => {
                for (x, y) in a.iter().zip(b) {
                    f(f64::from(*x), f64::from(*y));
                }
            }
            Element::I8 | Element::Bit => {
                for (x, y) in a.iter().zip(b) {
                    f(f64::from(*x as i8), f64::from(*y as i8));
                }
            }
        }
    }
}

/// An IEEE half as a single.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    match exponent {
        // Subnormal: the fraction counts units of 2^-24.
        0 => {
            let value = fraction as f32 / 16_777_216.0;
            if sign == 0 { value } else { -value }
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

/// Square root by Newton's method; `core` has none.
fn sqrt(x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 || x.is_infinite() {
        return if x == 0.0 || x.is_infinite() { x } else { f64::NAN };
    }
    // Halving the exponent is within a few percent; each step doubles the correct digits.
    let mut root = f64::from_bits((x.to_bits() >> 1) + 0x1ff8_0000_0000_0000);
    for _ in 0..6 {
        root = 0.5 * (root + x / root);
    }
    root
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    #[test]
    fn halves_and_roots_are_exact() {
        assert_eq!(half(0x3c00), 1.0);
        assert_eq!(half(0xc000), -2.0);
        assert_eq!(half(0x0001), 2.0f32.powi(-24));
        assert_eq!(half(0x7bff), 65504.0);
        assert!(half(0x7e00).is_nan() && half(0x7c00).is_infinite());
        for x in [0.0, 1.0, 2.0, 1e-300, 3.7e200, 0.25, 1e-5] {
            assert!((sqrt(x) - x.sqrt()).abs() <= x.sqrt() * 1e-15, "{x}");
        }
        assert!(sqrt(-1.0).is_nan());
    }

    #[test]
    fn distances_of_every_metric() {
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let (a, b) = (bytes(&[3.0, 0.0]), bytes(&[0.0, 4.0]));
        let by = |metric| Scorer { element: Element::F32, metric }.distance(&a, &b);
        assert_eq!(by(Metric::L2), Some(5.0));
        assert_eq!(by(Metric::Cosine), Some(1.0));
        assert_eq!(by(Metric::Dot), Some(0.0));
        let nan = bytes(&[f32::NAN, 0.0]);
        assert_eq!(
            Scorer { element: Element::F32, metric: Metric::Cosine }.distance(&a, &nan),
            None
        );
        let bit = Scorer { element: Element::Bit, metric: Metric::Hamming };
        assert_eq!(bit.distance(&[0b1010], &[0b0110]), Some(2.0));
    }
}
