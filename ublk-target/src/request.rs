// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The driver's requests, decoded from I/O descriptors.
//!
//! Every request that [`decode`] returns lies inside the device, and its length is possible for its
//! operation; nobody checks that again. Flags are bits of `op_flags` itself, not of the part above the
//! operation.

/// Bytes of a sector, the driver's unit.
pub const SECTOR_BYTES: u64 = 512;

const OP_READ: u32 = 0;
const OP_WRITE: u32 = 1;
const OP_FLUSH: u32 = 2;
const OP_DISCARD: u32 = 3;
const OP_WRITE_ZEROES: u32 = 5;
const OP_MASK: u32 = 0xff;
/// The write must be durable when it completes.
pub const FLAG_FUA: u32 = 1 << 13;
/// The zeroed range must stay allocated.
pub const FLAG_NOUNMAP: u32 = 1 << 15;

/// The operations of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Image to memory.
    Read,
    /// Memory to image.
    Write {
        /// Durable when it completes.
        fua: bool,
    },
    /// Every completed write becomes durable.
    Flush,
    /// A hint that the range is unused.
    Discard,
    /// The range reads as zeroes.
    WriteZeroes {
        /// The range stays allocated.
        keep_allocated: bool,
        /// Durable when it completes.
        fua: bool,
    },
}

impl Op {
    /// Whether the operation changes what the image holds.
    #[must_use]
    pub fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }

    /// The kind as which statistics count it.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Read => Kind::Read,
            Self::Write { .. } => Kind::Write,
            Self::Flush => Kind::Flush,
            Self::Discard => Kind::Discard,
            Self::WriteZeroes { .. } => Kind::Zeroes,
        }
    }
}

/// Kinds of requests in statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
#[repr(usize)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes, with or without FUA.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Discard,
    /// Write zeroes.
    Zeroes,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Flush, Self::Discard, Self::Zeroes];

    /// The kind of an I/O descriptor, even if it cannot be decoded.
    #[must_use]
    pub fn of(op_flags: u32) -> Option<Self> {
        Some(match op_flags & OP_MASK {
            OP_READ => Self::Read,
            OP_WRITE => Self::Write,
            OP_FLUSH => Self::Flush,
            OP_DISCARD => Self::Discard,
            OP_WRITE_ZEROES => Self::Zeroes,
            _ => return None,
        })
    }

    /// The name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::Zeroes => "write_zeroes",
        }
    }
}

/// One request, in bytes of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// First byte.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub len: u64,
}

/// What a device accepts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Length of the device in bytes.
    pub device_bytes: u64,
    /// Bytes of one request's buffer.
    pub buffer_bytes: u32,
    /// Refuse everything that changes the image.
    pub read_only: bool,
}

/// Decodes an I/O descriptor.
///
/// # Errors
/// The (positive) errno with which to refuse it.
pub fn decode(
    op_flags: u32,
    sectors: u32,
    start_sector: u64,
    limits: &Limits,
) -> Result<Request, i32> {
    let op = match op_flags & OP_MASK {
        OP_READ => Op::Read,
        OP_WRITE => Op::Write { fua: op_flags & FLAG_FUA != 0 },
        OP_FLUSH => return Ok(Request { op: Op::Flush, offset: 0, len: 0 }),
        OP_DISCARD => Op::Discard,
        OP_WRITE_ZEROES => Op::WriteZeroes {
            keep_allocated: op_flags & FLAG_NOUNMAP != 0,
            fua: op_flags & FLAG_FUA != 0,
        },
        _ => return Err(libc::EOPNOTSUPP),
    };
    if limits.read_only && op.changes() {
        return Err(libc::EROFS);
    }
    let offset = start_sector.checked_mul(SECTOR_BYTES).ok_or(libc::EIO)?;
    let len = u64::from(sectors) * SECTOR_BYTES;
    let end = offset.checked_add(len).ok_or(libc::EIO)?;
    if len == 0 || end > limits.device_bytes {
        return Err(libc::EIO);
    }
    if matches!(op, Op::Read | Op::Write { .. }) && len > u64::from(limits.buffer_bytes) {
        return Err(libc::EINVAL);
    }
    Ok(Request { op, offset, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { device_bytes: 1 << 20, buffer_bytes: 65536, read_only: false };

    #[test]
    fn flag_bits_are_compared_unshifted() {
        let fua = decode(OP_WRITE | FLAG_FUA, 8, 8, &LIMITS).unwrap();
        assert_eq!(fua, Request { op: Op::Write { fua: true }, offset: 4096, len: 4096 });
        // Bit 5 and bit 7 are what a server sees that shifts the flags first.
        let shifted = decode(OP_WRITE_ZEROES | (FLAG_NOUNMAP << 8), 8, 0, &LIMITS).unwrap();
        assert_eq!(shifted.op, Op::WriteZeroes { keep_allocated: false, fua: false });
        let kept = decode(OP_WRITE_ZEROES | FLAG_NOUNMAP, 8, 0, &LIMITS).unwrap();
        assert_eq!(kept.op, Op::WriteZeroes { keep_allocated: true, fua: false });
    }

    #[test]
    fn a_flush_has_no_range() {
        let flush = decode(OP_FLUSH, 77, u64::MAX, &LIMITS).unwrap();
        assert_eq!(flush, Request { op: Op::Flush, offset: 0, len: 0 });
    }

    #[test]
    fn ranges_outside_the_device_are_refused() {
        assert_eq!(decode(OP_READ, 8, 2048 - 8, &LIMITS).map(|r| r.len), Ok(4096));
        assert_eq!(decode(OP_READ, 8, 2048 - 7, &LIMITS), Err(libc::EIO));
        assert_eq!(decode(OP_READ, 8, u64::MAX, &LIMITS), Err(libc::EIO));
        assert_eq!(decode(OP_READ, 0, 0, &LIMITS), Err(libc::EIO));
        assert_eq!(decode(OP_DISCARD, u32::MAX, 0, &LIMITS), Err(libc::EIO));
    }

    #[test]
    fn a_transfer_must_fit_its_buffer_a_range_operation_need_not() {
        assert_eq!(decode(OP_WRITE, 129, 0, &LIMITS), Err(libc::EINVAL));
        assert_eq!(decode(OP_DISCARD, 129, 0, &LIMITS).map(|r| r.len), Ok(129 * 512));
    }

    #[test]
    fn a_read_only_device_refuses_changes_and_unknown_operations_are_named() {
        let limits = Limits { read_only: true, ..LIMITS };
        assert!(decode(OP_READ, 8, 0, &limits).is_ok());
        assert!(decode(OP_FLUSH, 0, 0, &limits).is_ok());
        for op in [OP_WRITE, OP_DISCARD, OP_WRITE_ZEROES] {
            assert_eq!(decode(op, 8, 0, &limits), Err(libc::EROFS));
        }
        assert_eq!(decode(4, 8, 0, &LIMITS), Err(libc::EOPNOTSUPP));
        assert_eq!(Kind::of(4), None);
        for kind in Kind::ALL {
            let op = [OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_WRITE_ZEROES][kind as usize];
            assert_eq!(Kind::of(op | FLAG_FUA), Some(kind));
            assert_eq!(decode(op, 8, 0, &LIMITS).map(|r| r.op.kind()), Ok(kind));
        }
    }
}
