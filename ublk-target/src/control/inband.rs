// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A search by `ioctl(VEXFS_IOC_SEARCH)`, for where no daemon can be asked: in a virtual machine or a container that
//! has the mounted filesystem but not the daemon's socket.
//!
//! The structures are those of `kernel/include/vexfs_ioctl.h`, which says what they mean. The kernel says who asks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use vexfs_format::window::{
    EXACT, LIKE, NOTE_FILE, NOTE_INDEX, NOTE_PATH, NOTE_REASON, QUERY_F32, QUERY_I8, QUERY_U8,
};
use vexfs_search::ask::{Answered, Found, Hit, Query, Search};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const VERSION: u32 = 1;
const SIZE_MAX: usize = 1 << 20;
/// Room for notes and paths, if the hits leave it.
const NOTES_ROOM: usize = 256 << 10;
const CAUGHT_UP: u32 = 1;
/// `VEXFS_IOC_SEARCH`: read and write, the size of [`Head`], type 0xf5, number 1.
const IOC_SEARCH: libc::c_ulong = (3 << 30) | ((size_of::<Head>() as libc::c_ulong) << 16) | 0xf501;

/// `struct vexfs_search` without its data.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Head {
    size: u32,
    version: u32,
    flags: u32,
    k: u32,
    ef: u32,
    element: u32,
    dim: u32,
    timeout_ms: u32,
    like: u64,
    reserved: [u64; 3],
    generation: u64,
    searched: u64,
    denied: u64,
    out_flags: u32,
    hits: u32,
    note_bytes: u32,
    reserved_out: u32,
}
const _: () = assert!(size_of::<Head>() == 104);

/// `struct vexfs_search_hit`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawHit {
    ino: u64,
    slot: u64,
    distance: u32,
    _reserved: u32,
}

/// `struct vexfs_search_note`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawNote {
    ino: u64,
    kind: u32,
    len: u32,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Refusal {
    /// Nobody answers searches in band there.
    Unsupported,
    /// The target refused it: the reason in one line.
    Refused(String),
    /// The kernel's error.
    Failed(io::Error),
}

/// Whether the structure has room for what a search says.
#[must_use]
pub fn is_plain(search: &Search) -> bool {
    let plain = Search {
        ef: search.ef,
        exact: search.exact,
        ..Search::nearest(search.query.clone(), search.k)
    };
    *search == plain
}

/// Searches at or under an open file or directory. What has [no room](is_plain) is not asked.
pub fn search(file: BorrowedFd<'_>, search: &Search) -> Result<Found, Refusal> {
    let (query, element, dim, like) = match &search.query {
        Query::Vector(numbers) => {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            (bytes, QUERY_F32, numbers.len(), None)
        }
        Query::Bytes { bytes, signed } => {
            (bytes.clone(), if *signed { QUERY_I8 } else { QUERY_U8 }, bytes.len(), None)
        }
        Query::Like(slot) => (Vec::new(), 0, 0, Some(*slot)),
    };
    let hits = search.k as usize * size_of::<RawHit>();
    let size = size_of::<Head>() + query.len().max(hits) + NOTES_ROOM;
    let size = size.min(SIZE_MAX);
    let mut head = Head::new_zeroed();
    head.size = size as u32;
    head.version = VERSION;
    head.flags = if search.exact { EXACT } else { 0 } | if like.is_some() { LIKE } else { 0 };
    head.k = search.k;
    head.ef = search.ef.unwrap_or(0);
    head.element = element;
    head.dim = u32::try_from(dim).unwrap_or(u32::MAX);
    head.like = like.unwrap_or(0);
    // Words, so that the structure is aligned.
    let mut words = vec![0u64; size.div_ceil(8)];
    let bytes = words.as_mut_bytes();
    let end = size_of::<Head>() + query.len();
    let Some((place, _)) = bytes.get_mut(..end).map(|b| b.split_at_mut(size_of::<Head>())) else {
        return Err(Refusal::Failed(io::Error::from_raw_os_error(libc::EINVAL)));
    };
    place.copy_from_slice(head.as_bytes());
    if let Some(place) = bytes.get_mut(size_of::<Head>()..end) {
        place.copy_from_slice(&query);
    }
    // SAFETY: the descriptor is open as long as it is borrowed; the kernel reads and writes `size` bytes at the
    // pointer, all of them in `words`, which nobody else uses meanwhile and of which any bytes are values.
    let failed = unsafe { libc::ioctl(file.as_raw_fd(), IOC_SEARCH, words.as_mut_ptr()) } != 0;
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EBADR) if failed => {}
        Some(libc::EOPNOTSUPP | libc::ENOTTY) if failed => return Err(Refusal::Unsupported),
        _ if failed => return Err(Refusal::Failed(error)),
        _ => {}
    }
    let garbled = || Refusal::Failed(io::Error::from(io::ErrorKind::InvalidData));
    let (found, reason) = found(words.as_bytes()).ok_or_else(garbled)?;
    match reason {
        Some(why) if failed => Err(Refusal::Refused(why)),
        _ if failed => Err(Refusal::Refused("the search was refused".to_owned())),
        _ => Ok(found),
    }
}

/// What the kernel has left in the structure; and why there is no answer, if it says so.
fn found(bytes: &[u8]) -> Option<(Found, Option<String>)> {
    let (head, data) = Head::ref_from_prefix(bytes).ok()?;
    let (hits, rest) = <[RawHit]>::ref_from_prefix_with_elems(data, head.hits as usize).ok()?;
    let mut notes = rest.get(..head.note_bytes as usize)?;
    let mut found = Found {
        generation: head.generation,
        searched: head.searched,
        denied: head.denied,
        caught_up: head.out_flags & CAUGHT_UP != 0,
        hits: hits
            .iter()
            .map(|hit| Hit {
                file: hit.ino,
                slot: hit.slot,
                distance: f32::from_bits(hit.distance),
                shown: Vec::new(),
            })
            .collect(),
        answers: vec![Answered { hits: head.hits, ef: None, cut: false }],
        notes: Vec::new(),
        paths: Vec::new(),
        problem: None,
    };
    let mut reason = None;
    while !notes.is_empty() {
        let (note, text) = RawNote::read_from_prefix(notes).ok()?;
        let len = note.len as usize;
        let said = text.get(..len)?;
        notes = text.get(len.next_multiple_of(8)..)?;
        let line = || String::from_utf8_lossy(said).into_owned();
        match note.kind {
            NOTE_PATH => found.paths.push((note.ino, said.to_vec())),
            NOTE_FILE => found.notes.push((note.ino, line())),
            NOTE_INDEX => found.problem = Some(line()),
            NOTE_REASON => reason = Some(line()),
            _ => {}
        }
    }
    Some((found, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_structures_are_those_of_the_header() {
        let header = include_str!("../../../kernel/include/vexfs_ioctl.h");
        let of = |name: &str| {
            let (_, rest) = header.split_once(&format!("\nstruct {name} {{")).unwrap();
            let body = rest.split_once("\n};").unwrap().0;
            let field = |line: &str| {
                let line = line.split("/*").next().unwrap().trim();
                let (kind, name) = line.strip_suffix(';')?.split_once(char::is_whitespace)?;
                Some((kind.to_owned(), name.to_owned()))
            };
            body.lines().filter_map(field).collect::<Vec<_>>()
        };
        let bytes = |fields: &[(String, String)]| {
            let size = |(kind, name): &(String, String)| {
                let one = match kind.as_str() {
                    "__u64" => 8,
                    "__u32" => 4,
                    _ => 0,
                };
                one * if name.contains("[3]") { 3 } else { 1 }
            };
            fields.iter().map(size).sum::<usize>()
        };
        assert_eq!(bytes(&of("vexfs_search_hit")), size_of::<RawHit>());
        assert_eq!(bytes(&of("vexfs_search_note")), size_of::<RawNote>());
        let fields = of("vexfs_search");
        assert_eq!(bytes(&fields), size_of::<Head>());
        let at = |name: &str| {
            let index = fields.iter().position(|(_, field)| field == name).unwrap();
            bytes(&fields[..index])
        };
        assert_eq!(at("like"), std::mem::offset_of!(Head, like));
        assert_eq!(at("generation"), std::mem::offset_of!(Head, generation));
        assert_eq!(at("note_bytes"), std::mem::offset_of!(Head, note_bytes));
        assert_eq!(at("data[]"), size_of::<Head>());
    }

    #[test]
    fn a_file_that_is_on_no_vexfs_cannot_be_searched_in_band() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let query = Query::Vector(vec![1.0]);
        let asked = search(file.as_fd(), &Search::nearest(query, 1));
        assert!(matches!(asked, Err(Refusal::Unsupported)), "{asked:?}");
    }

    #[test]
    fn what_the_kernel_left_is_read_within_its_bounds() {
        let mut head = Head::new_zeroed();
        (head.hits, head.note_bytes, head.out_flags, head.generation) = (1, 24, 1, 9);
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend(6u64.to_ne_bytes());
        bytes.extend(u64::from(0.5f32.to_bits()).to_ne_bytes());
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend(3u32.to_ne_bytes());
        bytes.extend(b"a/b\0\0\0\0\0");
        let words = |bytes: &[u8]| -> Vec<u64> {
            bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
        };
        let (left, reason) = found(words(&bytes).as_bytes()).unwrap();
        assert_eq!(left.hits, [Hit { file: 5, slot: 6, distance: 0.5, shown: vec![] }]);
        assert_eq!((left.paths, reason, left.caught_up), (vec![(5, b"a/b".into())], None, true));
        for cut in (0..bytes.len()).step_by(8) {
            assert!(found(words(&bytes[..cut]).as_bytes()).is_none(), "{cut}");
        }
    }
}
