// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The command window's messages as C uses them, against what no target would say: nothing of an answer is believed
//! that its bytes do not hold, and a medium does not pass for somebody who answers.

use vexfs_ffi::window::{
    WindowAnswer, WindowHit, WindowNote, WindowProof, WindowSearch, vexfs_rust_window_answer,
    vexfs_rust_window_header, vexfs_rust_window_hit, vexfs_rust_window_note,
    vexfs_rust_window_plan, vexfs_rust_window_prove, vexfs_rust_window_request,
};
use vexfs_format::window::{
    self, AnswerHead, BAD, EMPTY, Echo, FOUND, Header, Hit, NOTE_PATH, NoteHead, PAGE_BYTES,
    Request, seal, status,
};
use zerocopy::{FromBytes, IntoBytes};

const SESSION: u64 = 0x5e55;
const TOKEN: u64 = 0x70c3;

fn search() -> WindowSearch {
    WindowSearch {
        token: TOKEN,
        session: SESSION,
        ino: 9,
        k: 4,
        element: 1,
        dim: 2,
        groups: 1,
        uid: 1000,
        ..WindowSearch::default()
    }
}

fn judge(bytes: &[u8]) -> Result<WindowAnswer, i32> {
    let mut out = WindowAnswer::default();
    // SAFETY: the pointers are those of values that live until the call has returned.
    let code =
        unsafe { vexfs_rust_window_answer(bytes.as_ptr(), bytes.len(), &search(), &raw mut out) };
    if code == 0 { Ok(out) } else { Err(code) }
}

/// Inode, kind and text.
type Said = (u64, u32, Vec<u8>);

/// Every hit and note of an answer that was judged.
fn walk(bytes: &[u8], answer: &WindowAnswer) -> (Vec<WindowHit>, Vec<Said>) {
    let bytes = &bytes[..answer.total as usize];
    let (mut hits, mut notes, mut next) = (Vec::new(), Vec::new(), 0);
    for index in 0..=answer.hits {
        let mut hit = WindowHit::default();
        // SAFETY: as above.
        match unsafe { vexfs_rust_window_hit(bytes.as_ptr(), bytes.len(), index, &raw mut hit) } {
            0 => hits.push(hit),
            code => assert_eq!((code, index), (-2, answer.hits)),
        }
    }
    while next < answer.note_bytes {
        let mut note = WindowNote::default();
        // SAFETY: as above.
        let code =
            unsafe { vexfs_rust_window_note(bytes.as_ptr(), bytes.len(), next, &raw mut note) };
        if code != 0 {
            assert_eq!(code, -71, "the notes are broken");
            break;
        }
        assert!(note.next > next, "a walk ends");
        let text = &bytes[note.text_at as usize..][..note.text_len as usize];
        notes.push((note.ino, note.kind, text.to_vec()));
        next = note.next;
    }
    (hits, notes)
}

fn valid() -> Vec<u8> {
    let mut head = status(FOUND, TOKEN, SESSION);
    (head.hits, head.note_bytes) = (2.into(), 56.into());
    head.total = (128 + 48 + 56).into();
    let mut bytes = head.as_bytes().to_vec();
    for slot in 0..2 {
        let hit = Hit { ino: 9.into(), slot: slot.into(), distance: 7.into(), reserved: 0.into() };
        bytes.extend(hit.as_bytes());
    }
    for text in [&b"a/b.npy"[..], b"0123456789"] {
        let head =
            NoteHead { ino: 9.into(), kind: NOTE_PATH.into(), len: (text.len() as u32).into() };
        bytes.extend(head.as_bytes());
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    seal(&mut bytes);
    bytes.resize(PAGE_BYTES, 0xee);
    bytes
}

#[test]
fn an_answer_is_read_back() {
    let bytes = valid();
    let answer = judge(&bytes).unwrap();
    let (hits, notes) = walk(&bytes, &answer);
    assert_eq!(hits.iter().map(|hit| (hit.ino, hit.slot)).collect::<Vec<_>>(), [(9, 0), (9, 1)]);
    assert_eq!(notes[0], (9, NOTE_PATH, b"a/b.npy".to_vec()));
    assert_eq!(notes[1].2, b"0123456789");
}

#[test]
fn an_answer_to_something_else_is_not_taken() {
    for (said, expected) in [
        (status(FOUND, TOKEN + 1, SESSION), Err(-2)),
        (status(FOUND, TOKEN, SESSION + 1), Err(-2)),
        (status(EMPTY, 0, SESSION + 1), Err(-2)),
        (status(EMPTY, 0, SESSION), Ok(EMPTY)),
        (status(BAD, TOKEN, SESSION), Ok(BAD)),
        (status(BAD + 1, TOKEN, SESSION), Err(-71)),
    ] {
        assert_eq!(judge(said.as_bytes()).map(|answer| answer.status), expected);
    }
    // More hits than were asked for would not fit into the caller's structure.
    let mut head = status(FOUND, TOKEN, SESSION);
    (head.hits, head.total) = (5.into(), (128 + 5 * 24).into());
    let mut bytes = head.as_bytes().to_vec();
    bytes.resize(128 + 5 * 24, 0);
    seal(&mut bytes);
    assert_eq!(judge(&bytes).unwrap_err(), -71);
    // One that goes on behind the first page says how long it is.
    (head.hits, head.total) = (4.into(), 70_000.into());
    assert_eq!(judge(head.as_bytes()).unwrap_err(), -90);
    head.total = u32::MAX.into();
    assert_eq!(judge(head.as_bytes()).unwrap_err(), -71);
}

/// Random damage, with the checksum made right again in most cases: as from a target that lies.
#[test]
fn random_answers_are_bounded() {
    let mut state = 88_172_645_463_325_252u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..200_000 {
        let mut bytes = valid();
        for _ in 0..=random(3) {
            let at = random(240) as usize;
            let odd = [0, 1, 7, 8, 24, 0x7f, 0x80, 0xff, random(256) as u8];
            bytes[at] = odd[random(9) as usize];
        }
        if random(8) > 0 {
            let (head, _) = AnswerHead::read_from_prefix(&bytes).unwrap();
            let total = (head.total.get() as usize).clamp(12, bytes.len());
            seal(&mut bytes[..total]);
        }
        match judge(&bytes) {
            Ok(answer) => {
                assert!(answer.hits <= 4 && answer.total as usize <= bytes.len());
                walk(&bytes, &answer);
                taken += 1;
            }
            Err(code) => {
                assert!([-2, -71, -90].contains(&code), "{code}");
                refused += 1;
            }
        }
    }
    assert!(taken > 1000 && refused > 1000, "{taken} {refused}");
}

#[test]
fn a_request_is_what_the_target_reads() {
    let mut search = search();
    let mut total = 0;
    // SAFETY: as above.
    assert_eq!(unsafe { vexfs_rust_window_plan(&raw mut search, &raw mut total) }, 0);
    assert_eq!((search.query_bytes, total), (8, 140));
    let mut bytes = vec![3; total as usize];
    // SAFETY: as above.
    let code =
        unsafe { vexfs_rust_window_request(&raw const search, bytes.as_mut_ptr(), bytes.len()) };
    assert_eq!(code, 0);
    let request = Request::parse(&bytes).unwrap();
    assert_eq!((request.query, request.groups[0].get()), (&[3; 8][..], 0x0303_0303));
    // SAFETY: as above.
    let code = unsafe {
        vexfs_rust_window_request(&raw const search, bytes.as_mut_ptr(), bytes.len() - 1)
    };
    assert_eq!(code, -22, "no room");
    let changes: [fn(&mut WindowSearch); 7] = [
        |s| s.k = 0,
        |s| s.dim = u32::MAX,
        |s| s.flags = 4,
        |s| s.groups = u32::MAX,
        |s| s.groups = window::GROUPS_MAX + 1,
        |s| s.element = 0,
        |s| s.like = 1,
    ];
    for change in changes {
        let mut other = self::search();
        change(&mut other);
        // SAFETY: as above.
        assert_eq!(unsafe { vexfs_rust_window_plan(&raw mut other, &raw mut total) }, -22);
    }
}

/// Reads the pages of a device that says what `says` returns; true if it passes for one that answers.
fn proves(order: &[u32], mut says: impl FnMut(u32) -> Echo) -> bool {
    let mut proof = WindowProof { session: SESSION, ..WindowProof::default() };
    order.iter().all(|number| {
        let mut page = vec![0; PAGE_BYTES];
        page[..40].copy_from_slice(says(*number).as_bytes());
        // SAFETY: as above.
        unsafe { vexfs_rust_window_prove(&raw mut proof, *number, page.as_ptr(), page.len()) == 0 }
    })
}

#[test]
fn only_who_answers_can_name_the_page_before() {
    let order = [7, 200, 31, 200, 7];
    let mut last = (0, 50);
    let mut live = |page| {
        let echo = Echo::new(page, last.0, last.1, SESSION);
        last = (page, last.1 + 1);
        echo
    };
    assert!(proves(&order, &mut live));
    // A medium that was written in just this order, so that all but the last page is right: a copy, or a cache.
    let mut kept = std::collections::BTreeMap::new();
    assert!(!proves(&order, |page| *kept.entry(page).or_insert_with(|| live(page))));
    // Somebody else reads between.
    let mut reads = 0;
    assert!(!proves(&order, |page| {
        reads += 1;
        if reads == 3 {
            live(99);
        }
        live(page)
    }));
    assert!(!proves(&order, |page| Echo::new(page, 0, 1, SESSION + 1)));
    assert!(!proves(&order, |page| Echo::new(page + 1, 0, 1, SESSION)));
}

#[test]
fn a_header_is_that_of_this_filesystem() {
    let mut page = vec![0; PAGE_BYTES];
    page[..64].copy_from_slice(Header::new([5; 16], SESSION).as_bytes());
    let begin = |page: &[u8], uuid: [u8; 16]| {
        let mut proof = WindowProof::default();
        // SAFETY: as above.
        let code = unsafe {
            vexfs_rust_window_header(page.as_ptr(), page.len(), uuid.as_ptr(), &raw mut proof)
        };
        (code, proof.session)
    };
    assert_eq!(begin(&page, [5; 16]), (0, SESSION));
    assert_eq!(begin(&page, [6; 16]), (-116, 0));
    page[33] ^= 1;
    assert_eq!(begin(&page, [5; 16]), (-95, 0));
    assert_eq!(begin(&[], [5; 16]), (-95, 0));
}
