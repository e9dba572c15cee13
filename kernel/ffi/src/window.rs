// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The command window's messages for C: requests are written, and what the device answers is judged, here.
//!
//! Nothing of an answer is believed: a function checks every length before it uses it, and numbers reach C only in
//! structures of its own. The functions use no volume and need no lock. The messages are those of
//! `vexfs_format::window`.

use crate::abi::{Answer, FAULT, INVALID, Refusal, plain};
use crate::pointer::{Place, bytes, bytes_mut, input};
use vexfs_format::window::{self, Echo, Header, Note, RequestHead, Wrong};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Bytes of the command window: the last ones of the device.
pub const WINDOW_BYTES: u32 = 8_388_608;
/// Bytes of a page of the window.
pub const WINDOW_PAGE_BYTES: u32 = 4096;
/// Pages from 1 to the one before this are echoed.
pub const WINDOW_ECHO_END: u32 = 256;
/// First byte of the pages in the window; the slots lie before them.
pub const WINDOW_PAGES_AT: u32 = 7_340_032;
/// Slots.
pub const WINDOW_SLOTS: u32 = 14;
/// Bytes of a slot.
pub const WINDOW_SLOT_BYTES: u32 = 524_288;
/// Bytes of a request before its groups.
pub const WINDOW_REQUEST_BYTES: u32 = 128;
/// Most groups of a request.
pub const WINDOW_GROUPS_MAX: u32 = 32_768;

// For the C header they have to be literals.
const _: () = assert!(
    WINDOW_BYTES as u64 == window::BYTES
        && WINDOW_PAGE_BYTES as usize == window::PAGE_BYTES
        && WINDOW_ECHO_END == window::ECHO_END
        && WINDOW_PAGES_AT as u64 == window::PAGES_AT
        && WINDOW_SLOTS as usize == window::SLOTS
        && WINDOW_SLOT_BYTES as usize == window::SLOT_BYTES
        && WINDOW_REQUEST_BYTES as usize == size_of::<RequestHead>()
        && WINDOW_GROUPS_MAX == window::GROUPS_MAX
);

/// `EOPNOTSUPP`
const NO_WINDOW: Refusal = Refusal::Errno(95);
/// `ESTALE`
const STALE: Refusal = Refusal::Errno(116);
/// `EPROTO`
const BROKEN: Refusal = Refusal::Errno(71);
/// `EMSGSIZE`
const SHORT: Refusal = Refusal::Errno(90);
/// `ENOENT`
const NONE: Refusal = Refusal::Errno(2);

/// A search, for a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowSearch {
    /// Chosen at random.
    pub token: u64,
    /// Of the header.
    pub session: u64,
    /// The file or directory.
    pub ino: u64,
    /// The slot whose vector is the query, if the flags say so.
    pub like: u64,
    /// As in the caller's structure.
    pub flags: u32,
    /// Hits wanted.
    pub k: u32,
    /// Width of the search.
    pub ef: u32,
    /// How the query's numbers are written.
    pub element: u32,
    /// Numbers of the query.
    pub dim: u32,
    /// Bytes of the query; `vexfs_rust_window_plan` fills it in.
    pub query_bytes: u32,
    /// The caller's user.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// The caller's supplementary groups.
    pub groups: u32,
    /// 1: the caller may read everything.
    pub rights: u32,
}

/// What is known of the window so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowProof {
    /// Of the header.
    pub session: u64,
    /// The number of the last echo.
    pub count: u64,
    /// The page that it was read from.
    pub page: u32,
    /// How many echoes followed the first.
    pub rounds: u32,
}

/// The head of an answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowAnswer {
    /// The generation that was searched.
    pub generation: u64,
    /// Files that were searched.
    pub searched: u64,
    /// Files and directories that the caller may not read.
    pub denied: u64,
    /// 0: no request, 1: read again, 2: hits, 3: refused, 4: the request was not understood.
    pub status: u32,
    /// As in the caller's structure.
    pub flags: u32,
    /// Hits.
    pub hits: u32,
    /// Bytes of notes.
    pub note_bytes: u32,
    /// Bytes in all.
    pub total: u32,
    /// Zero.
    pub reserved: u32,
}

/// A hit of an answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowHit {
    /// Inode of the file.
    pub ino: u64,
    /// Ordinal of the vector.
    pub slot: u64,
    /// The distance's bits.
    pub distance: u32,
    /// Zero.
    pub reserved: u32,
}

/// A note of an answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowNote {
    /// Inode of the file; 0: none.
    pub ino: u64,
    /// Its kind.
    pub kind: u32,
    /// First byte of its text in the answer.
    pub text_at: u32,
    /// Bytes of its text.
    pub text_len: u32,
    /// Where the next note begins in the notes.
    pub next: u32,
}

fn head(search: &WindowSearch) -> Answer<RequestHead> {
    let query = window::query_bytes(search.flags, search.element, search.dim).ok_or(INVALID)?;
    let total = search
        .groups
        .checked_mul(4)
        .and_then(|bytes| bytes.checked_add(query))
        .and_then(|bytes| bytes.checked_add(WINDOW_REQUEST_BYTES))
        .ok_or(INVALID)?;
    let head = RequestHead {
        magic: window::REQUEST_MAGIC,
        crc: U32::ZERO,
        total: U32::new(total),
        token: U64::new(search.token),
        session: U64::new(search.session),
        ino: U64::new(search.ino),
        like: U64::new(search.like),
        flags: U32::new(search.flags),
        k: U32::new(search.k),
        ef: U32::new(search.ef),
        element: U32::new(search.element),
        dim: U32::new(search.dim),
        query_bytes: U32::new(query),
        uid: U32::new(search.uid),
        gid: U32::new(search.gid),
        groups: U32::new(search.groups),
        rights: U32::new(search.rights),
        reserved: [0; 40],
    };
    if head.is_possible() { Ok(head) } else { Err(INVALID) }
}

/// `window::query_bytes`: checks a search, fills in the bytes of its query, and writes those of the whole request to
/// `*total`. 0; `-EINVAL` for a search that is none; `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_window_plan(search: *mut WindowSearch, total: *mut u32) -> i32 {
    plain(|| {
        // SAFETY: rule 2 for `search` and `total`.
        let (search, total) = unsafe { (search.as_mut().ok_or(FAULT)?, Place::new(total)?) };
        let head = head(search)?;
        search.query_bytes = head.query_bytes.get();
        total.set(head.total.get());
        Ok(())
    })
}

/// Writes the head of a request before its groups and its query, which are in the buffer already, and seals it.
/// 0; `-EINVAL` for a search that is none or is longer than the buffer; `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_window_request(
    search: *const WindowSearch,
    buffer: *mut u8,
    len: usize,
) -> i32 {
    plain(|| {
        // SAFETY: rules 1 for `search`, 2 for `buffer`.
        let (search, buffer) = unsafe { (input(search)?, bytes_mut(buffer, len)?) };
        let head = head(search)?;
        let request = buffer.get_mut(..head.total.get() as usize).ok_or(INVALID)?;
        let place = request.get_mut(..WINDOW_REQUEST_BYTES as usize).ok_or(INVALID)?;
        place.copy_from_slice(head.as_bytes());
        window::seal(request);
        Ok(())
    })
}

/// `Header::parse`: begins a proof with page 0 of the window. 0; `-EOPNOTSUPP` for what is no header of this version;
/// `-ESTALE` for that of another filesystem, which it may be for a moment after `mkfs`; `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_window_header(
    page: *const u8,
    len: usize,
    uuid: *const u8,
    proof: *mut WindowProof,
) -> i32 {
    plain(|| {
        // SAFETY: rules 1 for `page` and `uuid`, which has 16 bytes, 2 for `proof`.
        let (page, uuid, proof) =
            unsafe { (bytes(page, len)?, bytes(uuid, 16)?, Place::new(proof)?) };
        let header = Header::parse(page).ok_or(NO_WINDOW)?;
        if header.uuid != *uuid {
            return Err(STALE);
        }
        proof.set(WindowProof { session: header.session.get(), ..WindowProof::default() });
        Ok(())
    })
}

/// `Echo::parse`: goes on with a proof by the page `number` that was read. What a medium holds cannot name the page
/// read before. 0; `-EOPNOTSUPP` if it is not what somebody who answers would say; `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_window_prove(
    proof: *mut WindowProof,
    number: u32,
    page: *const u8,
    len: usize,
) -> i32 {
    plain(|| {
        // SAFETY: rules 1 for `page`, 2 for `proof`.
        let (page, proof) = unsafe { (bytes(page, len)?, proof.as_mut().ok_or(FAULT)?) };
        let echo = Echo::parse(page).ok_or(NO_WINDOW)?;
        if echo.session.get() != proof.session || echo.page.get() != number {
            return Err(NO_WINDOW);
        }
        let first = proof.page == 0;
        let follows = echo.previous.get() == proof.page
            && Some(echo.count.get()) == proof.count.checked_add(1);
        if !first && !follows {
            return Err(NO_WINDOW);
        }
        proof.count = echo.count.get();
        proof.page = number;
        if !first {
            proof.rounds = proof.rounds.saturating_add(1);
        }
        Ok(())
    })
}

/// `window::Answer::parse`: judges what was read of a slot, and writes the head of the answer to `search` to `*out`.
///
/// 0; `-EMSGSIZE` if more has to be read: `out->total` bytes; `-ENOENT` if it is the answer to another request or of
/// another session; `-EPROTO` for anything else; `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_window_answer(
    answer: *const u8,
    len: usize,
    search: *const WindowSearch,
    out: *mut WindowAnswer,
) -> i32 {
    plain(|| {
        // SAFETY: rules 1 for `answer` and `search`, 2 for `out`.
        let (answer, search, out) =
            unsafe { (bytes(answer, len)?, input(search)?, Place::new(out)?) };
        let answer = match window::Answer::parse(answer) {
            Ok(answer) => answer,
            Err(Wrong::Short(total)) => {
                out.set(WindowAnswer { total: total as u32, ..WindowAnswer::default() });
                return Err(SHORT);
            }
            Err(Wrong::Broken) => return Err(BROKEN),
        };
        let head = answer.head;
        let status = head.status.get();
        if head.session.get() != search.session
            || (status != window::EMPTY && head.token.get() != search.token)
        {
            return Err(NONE);
        }
        if status > window::BAD || head.hits.get() > search.k {
            return Err(BROKEN);
        }
        out.set(WindowAnswer {
            generation: head.generation.get(),
            searched: head.searched.get(),
            denied: head.denied.get(),
            status,
            flags: head.flags.get() & (window::CAUGHT_UP | window::NOTES_CUT),
            hits: head.hits.get(),
            note_bytes: head.note_bytes.get(),
            total: head.total.get(),
            reserved: 0,
        });
        Ok(())
    })
}

/// Writes hit number `index` of an answer that was judged to `*out`. 0, `-ENOENT` if there are not so many, `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_window_hit(
    answer: *const u8,
    len: usize,
    index: u32,
    out: *mut WindowHit,
) -> i32 {
    plain(|| {
        // SAFETY: rules 1 for `answer`, 2 for `out`.
        let (answer, out) = unsafe { (bytes(answer, len)?, Place::new(out)?) };
        let (_, hits) = window::parts(answer).ok_or(NONE)?;
        let hit = hits.get(index as usize).ok_or(NONE)?;
        out.set(WindowHit {
            ino: hit.ino.get(),
            slot: hit.slot.get(),
            distance: hit.distance.get(),
            reserved: 0,
        });
        Ok(())
    })
}

/// Writes the note that begins `at` bytes into the notes of an answer that was judged to `*out`. 0, `-ENOENT` behind the
/// last one, `-EPROTO` if it goes on past the notes' end, `-EFAULT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_window_note(
    answer: *const u8,
    len: usize,
    at: u32,
    out: *mut WindowNote,
) -> i32 {
    plain(|| {
        // SAFETY: rules 1 for `answer`, 2 for `out`.
        let (answer, out) = unsafe { (bytes(answer, len)?, Place::new(out)?) };
        let (notes_at, _) = window::parts(answer).ok_or(NONE)?;
        let notes = answer.get(notes_at..).ok_or(NONE)?;
        let rest = notes.get(at as usize..).filter(|rest| !rest.is_empty()).ok_or(NONE)?;
        let note = Note::parse(rest).filter(|note| note.bytes <= rest.len()).ok_or(BROKEN)?;
        let text = notes_at as u64 + u64::from(at) + size_of::<window::NoteHead>() as u64;
        out.set(WindowNote {
            ino: note.ino,
            kind: note.kind,
            text_at: u32::try_from(text).map_err(|_| BROKEN)?,
            text_len: note.text.len() as u32,
            next: at.checked_add(note.bytes as u32).ok_or(BROKEN)?,
        });
        Ok(())
    })
}
