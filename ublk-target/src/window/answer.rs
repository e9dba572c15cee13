// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! From a request in the window to an answer.
//!
//! What a caller may read is decided as for the socket, by the identity that the kernel gave. A request comes from
//! whoever can write to the device, which is root or a kernel: it is checked for form, not for truth.

use crate::control::query;
use crate::image::Image;
use crate::indexer::view::View;
use vexfs_format::window::{
    AnswerHead, BAD, CAUGHT_UP, EXACT, FOUND, HITS_MAX, Hit, LIKE, NOTE_FILE, NOTE_INDEX,
    NOTE_PATH, NOTE_REASON, NOTES_CUT, Note, NoteHead, QUERY_F32, QUERY_I8, READS_ALL, REFUSED,
    Request, SLOT_BYTES, seal, status,
};
use vexfs_search::ask::{Found, Query, Search};
use vexfs_search::rights::caller::Caller;
use vexfs_search::rights::names::Top;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Longest text of a note.
const TEXT_MAX: usize = 8192;

/// A search that came through the window.
pub struct Ask {
    caller: Caller,
    top: Top,
    search: Search,
}

impl Ask {
    fn of(request: &Request<'_>) -> Result<Self, String> {
        let head = request.head;
        let (uid, all) = (head.uid.get(), head.rights.get() & READS_ALL != 0);
        // The user 0 is taken for one who may read everything.
        if uid == 0 && !all {
            return Err("root without CAP_DAC_READ_SEARCH cannot search in band".to_owned());
        }
        let caller = Caller {
            uid: if all { 0 } else { uid },
            gid: head.gid.get(),
            groups: request.groups.iter().map(|group| group.get()).collect(),
        };
        let query = if head.flags.get() & LIKE != 0 {
            Query::Like(head.like.get())
        } else if head.element.get() == QUERY_F32 {
            let (numbers, _) = request.query.as_chunks::<4>();
            Query::Vector(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
        } else {
            let signed = head.element.get() == QUERY_I8;
            Query::Bytes { bytes: request.query.to_vec(), signed }
        };
        let search = Search {
            ef: Some(head.ef.get()).filter(|ef| *ef > 0),
            exact: head.flags.get() & EXACT != 0,
            ..Search::nearest(query, head.k.get())
        };
        Ok(Self { caller, top: Top { ino: head.ino.get(), readable: true }, search })
    }

    /// Carries it out.
    pub fn search(&self, view: &View) -> Result<Found, String> {
        query::search(view, &self.caller, self.top, &self.search)
    }
}

/// The answer to a request that was found to be whole.
pub fn answer(
    request: &[u8],
    session: u64,
    search: impl FnOnce(&Ask) -> Result<Found, String>,
) -> Vec<u8> {
    let Some(request) = Request::parse(request) else {
        return status(BAD, 0, session).as_bytes().to_vec();
    };
    let token = request.head.token.get();
    match Ask::of(&request).and_then(|ask| search(&ask)) {
        Ok(found) => encode(&found, token, session),
        Err(why) => refused(&why, token, session),
    }
}

/// The answer to a request whose search failed.
pub fn failed(request: &[u8], session: u64) -> Vec<u8> {
    let token = Request::parse(request).map_or(0, |request| request.head.token.get());
    refused("the search failed, which the daemon's log says more about", token, session)
}

fn refused(why: &str, token: u64, session: u64) -> Vec<u8> {
    let mut notes = Notes::default();
    notes.add(0, NOTE_REASON, why.as_bytes(), SLOT_BYTES / 2);
    finish(status(REFUSED, token, session), &[], &notes)
}

fn encode(found: &Found, token: u64, session: u64) -> Vec<u8> {
    let hits: Vec<Hit> = found
        .hits
        .iter()
        .take(HITS_MAX as usize)
        .map(|hit| Hit {
            ino: U64::new(hit.file),
            slot: U64::new(hit.slot),
            distance: U32::new(hit.distance.to_bits()),
            reserved: U32::ZERO,
        })
        .collect();
    let room = SLOT_BYTES - size_of::<AnswerHead>() - size_of_val(hits.as_slice());
    let mut notes = Notes::default();
    if let Some(problem) = &found.problem {
        notes.add(0, NOTE_INDEX, problem.as_bytes(), room);
    }
    for (ino, path) in &found.paths {
        notes.add(*ino, NOTE_PATH, path, room);
    }
    for (ino, note) in &found.notes {
        notes.add(*ino, NOTE_FILE, note.as_bytes(), room);
    }
    let mut head = status(FOUND, token, session);
    head.generation = U64::new(found.generation);
    head.searched = U64::new(found.searched);
    head.denied = U64::new(found.denied);
    head.flags = U32::new(if found.caught_up { CAUGHT_UP } else { 0 });
    finish(head, &hits, &notes)
}

#[derive(Default)]
struct Notes {
    bytes: Vec<u8>,
    cut: bool,
}

impl Notes {
    fn add(&mut self, ino: u64, kind: u32, text: &[u8], room: usize) {
        let len = text.len().min(TEXT_MAX);
        if self.bytes.len() + Note::room(len) > room {
            self.cut = true;
            return;
        }
        self.cut |= len < text.len();
        let len32 = U32::new(len as u32);
        let head = NoteHead { ino: U64::new(ino), kind: U32::new(kind), len: len32 };
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(text.get(..len).unwrap_or_default());
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }
}

fn finish(mut head: AnswerHead, hits: &[Hit], notes: &Notes) -> Vec<u8> {
    let total = size_of::<AnswerHead>() + size_of_val(hits) + notes.bytes.len();
    head.total = U32::new(total as u32);
    head.hits = U32::new(hits.len() as u32);
    head.note_bytes = U32::new(notes.bytes.len() as u32);
    if notes.cut {
        head.flags = U32::new(head.flags.get() | NOTES_CUT);
    }
    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(hits.as_bytes());
    bytes.extend_from_slice(&notes.bytes);
    seal(&mut bytes);
    bytes
}

/// UUID of the filesystem on the image; zeroes if there is none.
pub fn uuid(image: &Image) -> [u8; 16] {
    let reader = image.reader().ok();
    let found = reader.and_then(|reader| vexfs::read_superblock(&reader).ok());
    found.map_or([0; 16], |superblock| superblock.uuid)
}
