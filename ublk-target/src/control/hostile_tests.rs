// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Clients that send nonsense, odd descriptors, or nothing at all: others are answered all the same, and no
//! descriptor is kept.

use super::tests::start;
use super::*;
use crate::control::client;
use crate::control::wire::{IndexRequest, LabRequest, Request};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{Mode, OFlags};
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream as Socket;
use vexfs_search::ask::{Query, Search};

/// More connections than are served at once.
const IDLE: usize = 1000;

fn search() -> Request {
    let query = Query::Vector(vec![1.0, 2.0]);
    Request::Search(Search::nearest(query, 1))
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until the service has closed what it was given; it is for the test's own time limit to end it.
fn wait_for(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_thousand_idle_clients_keep_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    // They are not cut off for their slowness before the test is over.
    let (service, _view) = start(&path, Duration::from_secs(3600));
    let idle: Vec<_> = (0..IDLE).filter_map(|_| Socket::connect(&path).ok()).collect();
    assert_eq!(idle.len(), IDLE);
    for _ in 0..10 {
        assert!(matches!(client::ask(&path, &Request::Stats).unwrap(), Reply::Stats(_)));
    }
    drop(idle);
    assert!(matches!(client::ask(&path, &Request::Stats).unwrap(), Reply::Stats(_)));
    service.finish();
}

/// A generator of bytes that needs no other crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.next() % most).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn no_bytes_are_read_as_more_than_they_are() {
    let mut random = Random(0x5eed);
    let requests = [
        search(),
        Request::Stats,
        Request::Lab(LabRequest::Mark("x".into())),
        Request::Index(IndexRequest::Recall { ino: 3, queries: 7, widths: true }),
    ];
    for round in 0..20_000 {
        let bytes = random.bytes(80);
        let _ = wire::body::<Request>(&bytes);
        let _ = wire::body::<Reply>(&bytes);
        let mut frame = wire::frame(&requests[round % requests.len()]).unwrap();
        let at = random.next() as usize % frame.len();
        frame[at] ^= 1 << (random.next() % 8);
        let (head, body) = frame.split_at(HEAD_BYTES);
        if let Ok(len) = wire::head(head.try_into().unwrap()) {
            assert!(len <= wire::MESSAGE_BYTES_MAX);
            let _ = wire::body::<Request>(&body[..len.min(body.len())]);
        }
    }
}

#[test]
fn nonsense_harms_only_the_connection_it_came_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let (service, _view) = start(&path, Duration::from_millis(300));
    let mut random = Random(7);
    let frame = wire::frame(&search()).unwrap();
    for round in 0..300 {
        let mut client = Socket::connect(&path).unwrap();
        let bytes = match round % 4 {
            0 => random.bytes(64),
            // Cut off.
            1 => frame[..random.next() as usize % frame.len()].to_vec(),
            // Longer than a request may be.
            2 => [&u32::MAX.to_le_bytes()[..], &[wire::VERSION]].concat(),
            _ => {
                let mut frame = frame.clone();
                let at = random.next() as usize % frame.len();
                frame[at] = random.next() as u8;
                frame
            }
        };
        let _ = client.write_all(&bytes);
        let _ = client.shutdown(Shutdown::Write);
        if round % 50 == 0 {
            let _ = client.read_to_end(&mut Vec::new());
            assert!(matches!(client::ask(&path, &Request::Stats).unwrap(), Reply::Stats(_)));
        }
    }
    assert!(matches!(client::ask(&path, &Request::Stats).unwrap(), Reply::Stats(_)));
    service.finish();
}

#[test]
fn descriptors_of_every_kind_are_refused_and_none_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let (service, _view) = start(&path, Duration::from_secs(3600));
    let (read, write) = rustix::pipe::pipe().unwrap();
    let (one, other) = Socket::pair().unwrap();
    let polled = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let counter = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let named = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let kinds: [BorrowedFd<'_>; 8] = [
        read.as_fd(),
        write.as_fd(),
        one.as_fd(),
        other.as_fd(),
        polled.as_fd(),
        counter.as_fd(),
        named.as_fd(),
        null.as_fd(),
    ];
    // One request before counting: the service's own descriptors are there then.
    client::ask(&path, &Request::Stats).unwrap();
    wait_for(|| open_descriptors() > 0);
    let before = open_descriptors();
    for fd in kinds {
        let why = client::ask_about(&path, &search(), &[fd]).unwrap_err().to_string();
        assert!(!why.contains('\n') && why.contains("filesystem"), "{why}");
    }
    // Of several, at most one is looked at, and with a request that needs none, none.
    for request in [search(), Request::Stats, Request::Index(IndexRequest::Verify)] {
        let mut client = Socket::connect(&path).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&kinds)));
        let frame = wire::frame(&request).unwrap();
        let flags = rustix::net::SendFlags::NOSIGNAL;
        let iov = [std::io::IoSlice::new(&frame)];
        rustix::net::sendmsg(&client, &iov, &mut control, flags).unwrap();
        let mut head = [0; HEAD_BYTES];
        client.read_exact(&mut head).unwrap();
        let mut body = vec![0; wire::head(head).unwrap()];
        client.read_exact(&mut body).unwrap();
        wire::body::<Reply>(&body).unwrap();
    }
    wait_for(|| open_descriptors() <= before);
    service.finish();
}
