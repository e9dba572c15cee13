// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The commands' side of the control socket. It blocks, with a time limit.

use super::wire::{self, HEAD_BYTES, Reply, Request};
use crate::error::{Error, Result};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Time for a reply. A daemon answers a search within half of it.
const DEADLINE: Duration = Duration::from_secs(120);

/// Sends a request and returns the reply. A failure that the daemon reports is an error.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply> {
    ask_about(socket, request, &[])
}

/// As [`ask`], about an open file or directory.
pub fn ask_about(socket: &Path, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Reply> {
    let failed = |source| no_answer(socket, source);
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(failed)?;
    stream.set_write_timeout(Some(DEADLINE)).map_err(failed)?;
    send(&mut stream, &wire::frame(request)?, files).map_err(failed)?;
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).map_err(failed)?;
    let mut body = vec![0; wire::head(head)?];
    stream.read_exact(&mut body).map_err(failed)?;
    match wire::body(&body)? {
        Reply::Failed(why) => Err(Error::Refused(why)),
        reply => Ok(reply),
    }
}

/// Sends a frame, and descriptors with its first bytes.
pub(super) fn send(
    stream: &mut UnixStream,
    frame: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("more descriptors than a request may have"));
    }
    let sent = sendmsg(&*stream, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(frame.get(sent..).unwrap_or_default())
}

/// A reply of another kind than the request asks for.
pub fn unexpected() -> Error {
    Error::Protocol("the reply does not belong to the request".into())
}

fn no_answer(socket: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Error::NotOwner(socket.to_owned()),
        _ => Error::NoDaemon { path: socket.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Users without permission were told that the daemon is dead and should be recovered.
    #[test]
    fn another_users_socket_is_not_taken_for_a_dead_daemon() {
        let said =
            |errno| no_answer(Path::new("/run/s"), io::Error::from_raw_os_error(errno)).to_string();
        assert!(said(libc::EACCES).contains("owner") && !said(libc::EACCES).contains("recover"));
        assert!(said(libc::ECONNREFUSED).contains("recover"));
    }
}
