// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The messages of the command window: what the kernel module and the program that serves a device say to each
//! other in the last [`BYTES`] bytes of the device, which are past the filesystem and stored nowhere.
//!
//! First come the slots. A request is written to a slot, its first page before the rest; reads of the slot give the
//! answer. Then come pages, the first of which is the [`Header`]. A read of one of the others is answered with an
//! [`Echo`], which names the page that was read before it: whoever reads pages in an order of their own learns whether
//! somebody answers or a medium just holds bytes.
//!
//! Every other write fails, so that a foreign filesystem over the whole device loses nothing unnoticed.
//!
//! Every structure begins with a magic and a CRC-32C of all that follows it. Nothing here is on a medium, so the
//! version may change with both sides; it is in the header alone.

use crate::crc::crc32c;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the window: the last bytes of the device.
pub const BYTES: u64 = 8 << 20;
/// Version of everything in this module.
pub const VERSION: u32 = 1;
/// Bytes of a page: the unit of the header and of echoes.
pub const PAGE_BYTES: usize = 4096;
/// Pages that are answered with an echo: from page 1 to the one before this.
pub const ECHO_END: u32 = 256;
/// Where the pages begin; the slots lie before them.
pub const PAGES_AT: u64 = 7 << 20;
/// Slots.
pub const SLOTS: usize = 14;
/// Bytes of a slot: the longest request, and the longest answer.
pub const SLOT_BYTES: usize = 512 << 10;
/// Most hits of a search.
pub const HITS_MAX: u32 = 16_384;
/// Most numbers of a query.
pub const DIM_MAX: u32 = 65_536;
/// Most supplementary groups of a caller.
pub const GROUPS_MAX: u32 = 32_768;

const _: () = assert!(SLOTS * SLOT_BYTES == PAGES_AT as usize);
const _: () = assert!(PAGES_AT as usize + ECHO_END as usize * PAGE_BYTES == BYTES as usize);
const _: () = assert!(
    size_of::<RequestHead>() + 4 * (GROUPS_MAX as usize) + 4 * (DIM_MAX as usize) <= SLOT_BYTES
);
const _: () =
    assert!(size_of::<AnswerHead>() + size_of::<Hit>() * (HITS_MAX as usize) <= SLOT_BYTES);

/// First bytes of the header.
pub const HEADER_MAGIC: [u8; 8] = *b"VexFSwin";
/// First bytes of an echo.
pub const ECHO_MAGIC: [u8; 8] = *b"VexFSech";
/// First bytes of a request.
pub const REQUEST_MAGIC: [u8; 8] = *b"VexFSask";
/// First bytes of an answer.
pub const ANSWER_MAGIC: [u8; 8] = *b"VexFSans";

/// Compare with every vector.
pub const EXACT: u32 = 1;
/// The query is the vector in a slot of the file; no bytes follow.
pub const LIKE: u32 = 2;
/// Every flag of a request.
pub const FLAGS_KNOWN: u32 = EXACT | LIKE;

/// The query is `dim` 32-bit floating point numbers.
pub const QUERY_F32: u32 = 1;
/// The query is `dim` unsigned bytes.
pub const QUERY_U8: u32 = 2;
/// The query is `dim` signed bytes.
pub const QUERY_I8: u32 = 3;

/// The caller may read and pass everything (`CAP_DAC_READ_SEARCH`, `CAP_DAC_OVERRIDE`).
pub const READS_ALL: u32 = 1;

/// The slot holds no request.
pub const EMPTY: u32 = 0;
/// The answer is not there yet: read again.
pub const PENDING: u32 = 1;
/// The answer has hits.
pub const FOUND: u32 = 2;
/// The search was refused; the reason is a note.
pub const REFUSED: u32 = 3;
/// The request does not follow the rules of this module.
pub const BAD: u32 = 4;

/// Everything that was committed before the request was searched.
pub const CAUGHT_UP: u32 = 1;
/// There was no room for all notes.
pub const NOTES_CUT: u32 = 2;

/// A note that is the path of a file with hits.
pub const NOTE_PATH: u32 = 1;
/// A note that says why a file was not searched as expected.
pub const NOTE_FILE: u32 = 2;
/// A note that says why there is no answer.
pub const NOTE_REASON: u32 = 3;
/// A note that says why the index is not kept up to date.
pub const NOTE_INDEX: u32 = 4;

/// Page 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`HEADER_MAGIC`].
    pub magic: [u8; 8],
    /// CRC-32C of the bytes that follow.
    pub crc: U32,
    /// [`VERSION`].
    pub version: U32,
    /// [`BYTES`].
    pub bytes: U64,
    /// [`SLOTS`].
    pub slots: U32,
    /// [`SLOT_BYTES`].
    pub slot_bytes: U32,
    /// UUID of the filesystem; zeroes if there is none.
    pub uuid: [u8; 16],
    /// Chosen at random by every program that serves the device.
    pub session: U64,
    /// Zero.
    pub reserved: [u8; 8],
}
const _: () = assert!(size_of::<Header>() == 64);

/// What a page between the header and the slots holds.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Echo {
    /// [`ECHO_MAGIC`].
    pub magic: [u8; 8],
    /// CRC-32C of the bytes that follow.
    pub crc: U32,
    /// The page that is read.
    pub page: U32,
    /// The page of the read before; 0 at first.
    pub previous: U32,
    /// Zero.
    pub reserved: U32,
    /// How many pages were read before.
    pub count: U64,
    /// As in the header.
    pub session: U64,
}
const _: () = assert!(size_of::<Echo>() == 40);

/// A request; the groups and then the query follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RequestHead {
    /// [`REQUEST_MAGIC`].
    pub magic: [u8; 8],
    /// CRC-32C of the bytes that follow, `total` in all.
    pub crc: U32,
    /// Bytes of the request with groups and query.
    pub total: U32,
    /// Chosen at random by the caller; the answer has it.
    pub token: U64,
    /// As in the header.
    pub session: U64,
    /// The file or directory, which was opened for reading.
    pub ino: U64,
    /// With [`LIKE`]: the slot of the vector.
    pub like: U64,
    /// [`EXACT`], [`LIKE`].
    pub flags: U32,
    /// How many hits, at most [`HITS_MAX`].
    pub k: U32,
    /// Width of the search; 0: the index's default.
    pub ef: U32,
    /// [`QUERY_F32`], [`QUERY_U8`] or [`QUERY_I8`]; 0 with [`LIKE`].
    pub element: U32,
    /// Numbers of the query; 0 with [`LIKE`].
    pub dim: U32,
    /// Bytes of the query.
    pub query_bytes: U32,
    /// The caller's user.
    pub uid: U32,
    /// The caller's group.
    pub gid: U32,
    /// How many supplementary groups follow.
    pub groups: U32,
    /// [`READS_ALL`].
    pub rights: U32,
    /// Zero.
    pub reserved: [u8; 40],
}
const _: () = assert!(size_of::<RequestHead>() == 128);

/// An answer; the hits and then the notes follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AnswerHead {
    /// [`ANSWER_MAGIC`].
    pub magic: [u8; 8],
    /// CRC-32C of the bytes that follow, `total` in all.
    pub crc: U32,
    /// Bytes of the answer with hits and notes.
    pub total: U32,
    /// The request's.
    pub token: U64,
    /// As in the header.
    pub session: U64,
    /// The generation that was searched.
    pub generation: U64,
    /// Files that were searched.
    pub searched: U64,
    /// Files and directories that the caller may not read.
    pub denied: U64,
    /// [`EMPTY`], [`PENDING`], [`FOUND`], [`REFUSED`], [`BAD`].
    pub status: U32,
    /// [`CAUGHT_UP`], [`NOTES_CUT`].
    pub flags: U32,
    /// Hits.
    pub hits: U32,
    /// Bytes of notes.
    pub note_bytes: U32,
    /// Zero.
    pub reserved: [u8; 56],
}
const _: () = assert!(size_of::<AnswerHead>() == 128);

/// A hit.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Hit {
    /// Inode of the file.
    pub ino: U64,
    /// Ordinal of the vector in the file.
    pub slot: U64,
    /// The bits of the distance, a 32-bit floating point number.
    pub distance: U32,
    /// Zero.
    pub reserved: U32,
}
const _: () = assert!(size_of::<Hit>() == 24);

/// A note; its bytes follow, and zeroes up to a multiple of 8.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NoteHead {
    /// Inode of the file; 0 if it is about none.
    pub ino: U64,
    /// One of the `NOTE_*`.
    pub kind: U32,
    /// Bytes.
    pub len: U32,
}
const _: () = assert!(size_of::<NoteHead>() == 16);

/// Bytes of magic and checksum.
const SEAL_BYTES: usize = 12;

/// Fills in the checksum of a structure with all that follows it.
pub fn seal(bytes: &mut [u8]) {
    if let Some((head, rest)) = bytes.split_at_mut_checked(SEAL_BYTES) {
        let crc = crc32c(rest).to_le_bytes();
        if let Some(place) = head.last_chunk_mut::<4>() {
            *place = crc;
        }
    }
}

/// Whether the bytes begin with that magic and carry their checksum.
fn sealed(bytes: &[u8], magic: [u8; 8]) -> bool {
    let Some((head, rest)) = bytes.split_at_checked(SEAL_BYTES) else { return false };
    head.starts_with(&magic) && head.ends_with(&crc32c(rest).to_le_bytes())
}

fn zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl Header {
    /// The header of a window.
    #[must_use]
    pub fn new(uuid: [u8; 16], session: u64) -> Self {
        let mut header = Self {
            magic: HEADER_MAGIC,
            crc: U32::ZERO,
            version: U32::new(VERSION),
            bytes: U64::new(BYTES),
            slots: U32::new(SLOTS as u32),
            slot_bytes: U32::new(SLOT_BYTES as u32),
            uuid,
            session: U64::new(session),
            reserved: [0; 8],
        };
        seal(header.as_mut_bytes());
        header
    }

    /// The header at the start of a page, if it is one of this version.
    #[must_use]
    pub fn parse(page: &[u8]) -> Option<Self> {
        let (header, rest) = Self::read_from_prefix(page).ok()?;
        let known = header.version.get() == VERSION
            && header.bytes.get() == BYTES
            && header.slots.get() as usize == SLOTS
            && header.slot_bytes.get() as usize == SLOT_BYTES;
        let whole = sealed(header.as_bytes(), HEADER_MAGIC) && zero(&header.reserved) && zero(rest);
        (known && whole).then_some(header)
    }
}

impl Echo {
    /// The echo of a read.
    #[must_use]
    pub fn new(page: u32, previous: u32, count: u64, session: u64) -> Self {
        let mut echo = Self {
            magic: ECHO_MAGIC,
            crc: U32::ZERO,
            page: U32::new(page),
            previous: U32::new(previous),
            reserved: U32::ZERO,
            count: U64::new(count),
            session: U64::new(session),
        };
        seal(echo.as_mut_bytes());
        echo
    }

    /// The echo at the start of a page.
    #[must_use]
    pub fn parse(page: &[u8]) -> Option<Self> {
        let (echo, _) = Self::read_from_prefix(page).ok()?;
        sealed(echo.as_bytes(), ECHO_MAGIC).then_some(echo)
    }
}

/// A request that follows the rules.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its head.
    pub head: RequestHead,
    /// The caller's supplementary groups.
    pub groups: &'a [U32],
    /// The query's bytes.
    pub query: &'a [u8],
}

/// Bytes of a query of `dim` numbers, if it can be one.
#[must_use]
pub fn query_bytes(flags: u32, element: u32, dim: u32) -> Option<u32> {
    match (flags & LIKE != 0, element) {
        (true, 0) if dim == 0 => Some(0),
        (false, QUERY_F32) if (1..=DIM_MAX).contains(&dim) => dim.checked_mul(4),
        (false, QUERY_U8 | QUERY_I8) if (1..=DIM_MAX).contains(&dim) => Some(dim),
        _ => None,
    }
}

impl RequestHead {
    /// Whether everything but the checksum follows the rules.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let query = query_bytes(self.flags.get(), self.element.get(), self.dim.get());
        let groups = self.groups.get();
        let total = groups
            .checked_mul(4)
            .and_then(|bytes| bytes.checked_add(self.query_bytes.get()))
            .and_then(|bytes| bytes.checked_add(size_of::<Self>() as u32));
        self.magic == REQUEST_MAGIC
            && self.flags.get() & !FLAGS_KNOWN == 0
            && (1..=HITS_MAX).contains(&self.k.get())
            && self.ef.get() <= HITS_MAX
            && (self.flags.get() & LIKE != 0 || self.like.get() == 0)
            && query == Some(self.query_bytes.get())
            && groups <= GROUPS_MAX
            && self.rights.get() & !READS_ALL == 0
            && total == Some(self.total.get())
            && zero(&self.reserved)
    }
}

impl<'a> Request<'a> {
    /// The request at the start of these bytes.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, _) = RequestHead::read_from_prefix(bytes).ok()?;
        if !head.is_possible() {
            return None;
        }
        let bytes = bytes.get(..head.total.get() as usize)?;
        if !sealed(bytes, REQUEST_MAGIC) {
            return None;
        }
        let rest = bytes.get(size_of::<RequestHead>()..)?;
        let (groups, query) =
            <[U32]>::ref_from_prefix_with_elems(rest, head.groups.get() as usize).ok()?;
        Some(Self { head, groups, query })
    }
}

/// What a slot says that has no answer: [`EMPTY`], [`PENDING`] or [`BAD`].
#[must_use]
pub fn status(status: u32, token: u64, session: u64) -> AnswerHead {
    let mut head = AnswerHead {
        magic: ANSWER_MAGIC,
        crc: U32::ZERO,
        total: U32::new(size_of::<AnswerHead>() as u32),
        token: U64::new(token),
        session: U64::new(session),
        generation: U64::ZERO,
        searched: U64::ZERO,
        denied: U64::ZERO,
        status: U32::new(status),
        flags: U32::ZERO,
        hits: U32::ZERO,
        note_bytes: U32::ZERO,
        reserved: [0; 56],
    };
    seal(head.as_mut_bytes());
    head
}

/// A note of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// Inode of the file; 0 if it is about none.
    pub ino: u64,
    /// One of the `NOTE_*`.
    pub kind: u32,
    /// The note.
    pub text: &'a [u8],
    /// Bytes of all this, with its head and the zeroes at its end.
    pub bytes: usize,
}

impl<'a> Note<'a> {
    /// Bytes that a note with so much text takes.
    #[must_use]
    pub const fn room(len: usize) -> usize {
        size_of::<NoteHead>() + len.next_multiple_of(8)
    }

    /// The note at the start of these bytes.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = NoteHead::read_from_prefix(bytes).ok()?;
        let len = head.len.get() as usize;
        let text = rest.get(..len)?;
        let bytes = len.checked_next_multiple_of(8)?.checked_add(size_of::<NoteHead>())?;
        Some(Self { ino: head.ino.get(), kind: head.kind.get(), text, bytes })
    }
}

/// An answer that follows the rules.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its head.
    pub head: AnswerHead,
    /// Its hits.
    pub hits: &'a [Hit],
    /// The bytes of its notes.
    pub notes: &'a [u8],
}

/// Why an answer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// More bytes are needed: so many in all.
    Short(usize),
    /// It breaks a rule.
    Broken,
}

impl<'a> Answer<'a> {
    /// The answer at the start of these bytes, which are whole pages of a slot.
    ///
    /// # Errors
    /// [`Wrong::Short`] if it goes on behind these bytes, otherwise [`Wrong::Broken`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Wrong> {
        let (head, _) = AnswerHead::read_from_prefix(bytes).map_err(|_| Wrong::Broken)?;
        let total = head.total.get() as usize;
        if head.magic != ANSWER_MAGIC || !(size_of::<AnswerHead>()..=SLOT_BYTES).contains(&total) {
            return Err(Wrong::Broken);
        }
        let Some(bytes) = bytes.get(..total) else { return Err(Wrong::Short(total)) };
        if !sealed(bytes, ANSWER_MAGIC) || !zero(&head.reserved) || head.hits.get() > HITS_MAX {
            return Err(Wrong::Broken);
        }
        let rest = bytes.get(size_of::<AnswerHead>()..).ok_or(Wrong::Broken)?;
        let (hits, notes) = <[Hit]>::ref_from_prefix_with_elems(rest, head.hits.get() as usize)
            .map_err(|_| Wrong::Broken)?;
        if notes.len() != head.note_bytes.get() as usize {
            return Err(Wrong::Broken);
        }
        Ok(Self { head, hits, notes })
    }
}

/// Where the notes of an answer begin, and its hits. Nothing but the lengths is checked: for an answer that was parsed
/// before.
#[must_use]
pub fn parts(answer: &[u8]) -> Option<(usize, &[Hit])> {
    let (head, rest) = AnswerHead::ref_from_prefix(answer).ok()?;
    let (hits, _) = <[Hit]>::ref_from_prefix_with_elems(rest, head.hits.get() as usize).ok()?;
    Some((size_of::<AnswerHead>() + size_of_val(hits), hits))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn request(groups: &[u32], query: &[u8]) -> Vec<u8> {
        let head = RequestHead {
            magic: REQUEST_MAGIC,
            crc: U32::ZERO,
            total: U32::new((128 + 4 * groups.len() + query.len()) as u32),
            token: U64::new(7),
            session: U64::new(8),
            ino: U64::new(9),
            like: U64::ZERO,
            flags: U32::new(EXACT),
            k: U32::new(3),
            ef: U32::ZERO,
            element: U32::new(QUERY_U8),
            dim: U32::new(query.len() as u32),
            query_bytes: U32::new(query.len() as u32),
            uid: U32::new(1),
            gid: U32::new(2),
            groups: U32::new(groups.len() as u32),
            rights: U32::ZERO,
            reserved: [0; 40],
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend(groups.iter().flat_map(|group| group.to_le_bytes()));
        bytes.extend(query);
        seal(&mut bytes);
        bytes
    }

    #[test]
    fn a_request_is_read_back_and_any_flipped_bit_is_seen() {
        let mut bytes = request(&[5, 6], &[1, 2, 3]);
        let parsed = Request::parse(&bytes).unwrap();
        assert_eq!((parsed.query, parsed.head.ino.get()), (&[1, 2, 3][..], 9));
        assert_eq!(parsed.groups.iter().map(|group| group.get()).collect::<Vec<_>>(), [5, 6]);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Request::parse(&bytes).is_none(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..bytes.len() {
            assert!(Request::parse(&bytes[..cut]).is_none());
        }
    }

    #[test]
    fn a_request_beyond_a_limit_is_refused_though_its_checksum_is_right() {
        type Change = fn(&mut RequestHead);
        let changes: [Change; 13] = [
            |h| h.k = U32::ZERO,
            |h| h.k = U32::new(HITS_MAX + 1),
            |h| h.ef = U32::new(HITS_MAX + 1),
            |h| h.flags = U32::new(4),
            |h| h.flags = U32::new(LIKE),
            |h| h.like = U64::new(1),
            |h| h.element = U32::new(4),
            |h| h.dim = U32::ZERO,
            |h| h.dim = U32::new(u32::MAX),
            |h| h.query_bytes = U32::new(u32::MAX),
            |h| h.groups = U32::new(u32::MAX),
            |h| h.rights = U32::new(2),
            |h| h.reserved[39] = 1,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut bytes = request(&[5], &[1, 2, 3]);
            let (head, _) = RequestHead::mut_from_prefix(&mut bytes).unwrap();
            change(head);
            seal(&mut bytes);
            assert!(Request::parse(&bytes).is_none(), "{number}");
        }
    }

    #[test]
    fn a_header_is_one_of_this_version() {
        let mut page = std::vec![0; PAGE_BYTES];
        page[..64].copy_from_slice(Header::new([3; 16], 4).as_bytes());
        assert_eq!(Header::parse(&page).unwrap().uuid, [3; 16]);
        for (at, with) in [(0, 0), (12, 2), (16, 1), (24, 15), (28, 1), (40, 1), (4095, 1)] {
            let mut other = page.clone();
            other[at] = with;
            if at < 64 && at > 0 {
                seal(&mut other[..64]);
            }
            let same_version = at == 40;
            assert_eq!(Header::parse(&other).is_some(), same_version, "{at}");
        }
    }

    #[test]
    fn an_answer_is_bounded_before_it_is_believed() {
        let mut head = status(FOUND, 1, 2);
        head.hits = U32::new(1);
        head.note_bytes = U32::new(24);
        let total = 128 + 24 + 24;
        head.total = U32::new(total);
        let mut bytes = head.as_bytes().to_vec();
        let hit = Hit { ino: 5.into(), slot: 6.into(), distance: 7.into(), reserved: U32::ZERO };
        bytes.extend(hit.as_bytes());
        let note = NoteHead { ino: 5.into(), kind: NOTE_PATH.into(), len: 3.into() };
        bytes.extend(note.as_bytes());
        bytes.extend(b"abc\0\0\0\0\0");
        seal(&mut bytes);
        let mut longer = bytes.clone();
        longer.extend([1; 9]);
        let answer = Answer::parse(&longer).unwrap();
        assert_eq!(answer.hits, [hit]);
        let note = Note::parse(answer.notes).unwrap();
        assert_eq!((note.text, note.bytes, note.ino), (&b"abc"[..], 24, 5));
        assert_eq!(Answer::parse(&bytes[..130]).unwrap_err(), Wrong::Short(total as usize));
        for (hits, note_bytes) in [(2, 24), (1, 16), (1, 32), (u32::MAX, 24), (HITS_MAX + 1, 24)] {
            let mut other = bytes.clone();
            let (head, _) = AnswerHead::mut_from_prefix(&mut other).unwrap();
            (head.hits, head.note_bytes) = (hits.into(), note_bytes.into());
            seal(&mut other);
            assert_eq!(Answer::parse(&other).unwrap_err(), Wrong::Broken, "{hits} {note_bytes}");
        }
        for len in [0, 8, u32::MAX] {
            let head = NoteHead { ino: 0.into(), kind: 1.into(), len: len.into() };
            let parsed = Note::parse(head.as_bytes());
            assert_eq!(parsed.is_some(), len == 0, "{len}");
        }
    }
}
