// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The window's contents against every order of writes, reads and time.

use super::*;
use std::collections::BTreeMap;
use vexfs_format::window::{
    ANSWER_MAGIC, Answer, BYTES, FOUND, LIKE, REQUEST_MAGIC, RequestHead, seal,
};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

const SESSION: u64 = 77;
const SLOT: u64 = 3 * SLOT_BYTES as u64;

fn request(token: u64, groups: u32) -> Vec<u8> {
    let mut head = RequestHead::read_from_bytes(&[0; 128]).unwrap();
    head.magic = REQUEST_MAGIC;
    head.total = U32::new(128 + groups * 4);
    (head.token, head.session) = (U64::new(token), U64::new(SESSION));
    (head.flags, head.k, head.groups) = (U32::new(LIKE), U32::new(1), U32::new(groups));
    let mut bytes = head.as_bytes().to_vec();
    bytes.resize(128 + groups as usize * 4, 9);
    seal(&mut bytes);
    bytes
}

fn slots() -> (Slots, Instant) {
    (Slots::new(SESSION, [1; 16]), Instant::now())
}

/// The status and the token that a slot shows.
fn shown(buffer: &[u8]) -> (u32, u64) {
    let head = Answer::parse(buffer).unwrap().head;
    assert_eq!(head.session.get(), SESSION);
    (head.status.get(), head.token.get())
}

#[test]
fn a_request_is_worked_on_once_and_its_answer_stays_until_the_next() {
    let (mut slots, now) = slots();
    let mut page = [0; PAGE_BYTES];
    assert_eq!(slots.read(SLOT, &mut page, now), Found::Filled);
    assert_eq!(shown(&page), (EMPTY, 0));
    assert!(slots.write(SLOT, &request(5, 0)));
    let Found::Pending(3, Some(job)) = slots.read(SLOT, &mut page, now) else { panic!("no job") };
    assert_eq!((job.slot, job.number, &job.request), (3, 1, &request(5, 0)));
    assert_eq!(slots.read(SLOT, &mut page, now), Found::Pending(3, None));
    slots.answer(3, &mut page);
    assert_eq!(shown(&page), (PENDING, 5));
    let said = status(FOUND, 5, SESSION).as_bytes().to_vec();
    assert!(!slots.put(3, 2, said.clone(), now), "another request's answer");
    assert!(slots.put(3, 1, said.clone(), now));
    assert!(!slots.put(3, 1, said, now), "twice");
    for _ in 0..2 {
        assert_eq!(slots.read(SLOT, &mut page, now), Found::Filled);
        assert_eq!(shown(&page), (FOUND, 5));
    }
    assert!(slots.write(SLOT, &request(6, 0)));
    let Found::Pending(_, Some(job)) = slots.read(SLOT, &mut page, now) else { panic!("no job") };
    assert!(job.number == 2 && slots.wanted(3, 2) && !slots.wanted(3, 1));
}

// The block layer cuts a write where it likes, and the pieces arrive in any order.
#[test]
fn the_pieces_of_a_request_behind_the_first_come_in_any_order() {
    let whole = request(5, 3000);
    let mut pieces: Vec<(usize, &[u8])> =
        whole.chunks(1024).enumerate().map(|(i, piece)| (i * 1024, piece)).skip(1).collect();
    for turn in 0..pieces.len() {
        pieces.rotate_left(turn);
        let (mut slots, now) = slots();
        // What was there before is not mixed in.
        assert!(slots.write(SLOT, &request(4, 3500)));
        assert!(slots.write(SLOT, &whole[..1024]));
        for (at, piece) in &pieces {
            assert!(slots.write(SLOT + *at as u64, piece));
        }
        let found = slots.read(SLOT, &mut [0; 512], now);
        assert!(matches!(&found, Found::Pending(3, Some(job)) if job.request == whole), "{turn}");
    }
}

#[test]
fn what_is_no_request_or_of_another_session_is_not_worked_on() {
    let (mut slots, now) = slots();
    let mut page = [0; PAGE_BYTES];
    let mut other = request(5, 0);
    other[24] ^= 1;
    seal(&mut other);
    let mut broken = request(5, 0);
    broken[100] ^= 1;
    for (bytes, expected) in [(broken, (BAD, 0)), (other, (EMPTY, 5))] {
        assert!(slots.write(SLOT, &bytes));
        assert_eq!(slots.read(SLOT, &mut page, now), Found::Filled);
        assert_eq!(shown(&page), expected);
    }
}

#[test]
fn a_slot_whose_caller_has_gone_is_emptied() {
    let (mut slots, now) = slots();
    let mut page = [0; PAGE_BYTES];
    assert!(slots.write(SLOT, &request(5, 0)));
    slots.read(SLOT, &mut page, now);
    slots.expire(now + LEASE / 2);
    assert!(slots.wanted(3, 1));
    slots.read(SLOT, &mut page, now + LEASE / 2);
    slots.expire(now + LEASE);
    assert!(slots.wanted(3, 1), "it asked again");
    slots.expire(now + LEASE * 3 / 2);
    assert!(!slots.wanted(3, 1));
    assert!(!slots.put(3, 1, vec![], now));
    assert_eq!(slots.read(SLOT, &mut page, now), Found::Filled);
    assert_eq!(shown(&page), (EMPTY, 0));
}

#[test]
fn an_echo_names_the_page_before_and_only_a_read_of_one_page_counts() {
    let (mut slots, now) = slots();
    let mut page = [0; PAGE_BYTES];
    let mut echo = |slots: &mut Slots, number: u64| {
        slots.read(PAGES_AT + number * PAGE_BYTES as u64, &mut page, now);
        let echo = Echo::parse(&page).unwrap();
        assert_eq!((u64::from(echo.page.get()), echo.session.get()), (number, SESSION));
        (echo.previous.get(), echo.count.get())
    };
    assert_eq!(echo(&mut slots, 9), (0, 0));
    assert_eq!(echo(&mut slots, 200), (9, 1));
    // A program that reads the whole device, a piece of a page at a time or many pages.
    slots.read(PAGES_AT + 4096, &mut [0; 512], now);
    slots.read(PAGES_AT + 4096, &mut [0; 3 * 4096], now);
    slots.read(PAGES_AT, &mut [0; 4096], now);
    slots.read(0, &mut [0; 4096], now);
    assert_eq!(echo(&mut slots, 9), (200, 2), "the same page says something else now");
}

#[test]
fn the_whole_window_can_be_read_at_once_without_asking_for_anything() {
    let (mut slots, now) = slots();
    assert!(slots.write(SLOT, &request(5, 0)));
    let mut all = vec![0xee; BYTES as usize];
    assert_eq!(slots.read(0, &mut all, now), Found::Filled);
    let pages = &all[PAGES_AT as usize..];
    assert_eq!(Header::parse(&pages[..4096]).unwrap().uuid, [1; 16]);
    assert_eq!(Echo::parse(&pages[255 * 4096..]).unwrap().page.get(), 255);
    let answers = all.windows(8).filter(|bytes| *bytes == ANSWER_MAGIC).count();
    assert_eq!(answers, SLOTS);
    assert!(!slots.wanted(3, 1));
}

// A filesystem that thinks the window is its own must not lose what it writes unnoticed.
#[test]
fn what_is_no_part_of_a_request_is_not_taken() {
    let (mut slots, _) = slots();
    let whole = request(5, 0);
    let junk = vec![0xee; 4096];
    for at in [0, 4096, SLOT, SLOT + 512, PAGES_AT, PAGES_AT + 4096, BYTES - 4096, BYTES, u64::MAX]
    {
        assert!(!slots.write(at, &junk), "{at}");
    }
    assert!(slots.write(SLOT, &whole) && slots.write(SLOT + 512, &junk));
    assert!(!slots.write(SLOT + SLOT_BYTES as u64 - 512, &junk), "over the slot's end");
    assert!(!slots.write(SLOT, &junk), "where a request is");
}

/// Random writes, reads, answers and time against a model: of each slot, the newest token that was written whole,
/// and whether it was answered.
#[test]
fn a_caller_gets_the_answer_to_its_own_request_or_none() {
    let mut rng = vexfs_crash::Rng::new(5);
    let (mut slots, mut now) = slots();
    let mut jobs: Vec<Job> = Vec::new();
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    let mut answered = 0;
    for token in 1..30_000 {
        let slot = rng.below(SLOTS as u64);
        let at = slot * SLOT_BYTES as u64;
        match rng.below(10) {
            0 => {
                assert!(slots.write(at, &request(token, 0)));
                newest.insert(slot, token);
            }
            1 => {
                let junk = vec![rng.below(256) as u8; 512 * (1 + rng.below(8) as usize)];
                let _ = slots.write(rng.below(BYTES / 512) * 512, &junk);
            }
            2..8 => {
                let mut page = [0; PAGE_BYTES];
                match slots.read(at, &mut page, now) {
                    Found::Pending(index, job) => {
                        assert_eq!(index as u64, slot);
                        jobs.extend(job);
                    }
                    Found::Filled => {
                        let (status, token) = shown(&page);
                        if status == FOUND {
                            assert_eq!(Some(&token), newest.get(&slot), "another's answer");
                            answered += 1;
                        }
                    }
                }
            }
            8 if !jobs.is_empty() => {
                let job = jobs.swap_remove(rng.below(jobs.len() as u64) as usize);
                let token = Request::parse(&job.request).unwrap().head.token.get();
                let said = status(FOUND, token, SESSION).as_bytes().to_vec();
                slots.put(job.slot, job.number, said, now);
            }
            _ => {
                now += Duration::from_millis(rng.below(90));
                slots.expire(now);
            }
        }
    }
    assert!(answered > 500, "{answered} answers were seen");
}
