// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The commands' side of the control socket: blocking, and bounded in time.

use super::wire::{self, HEAD_BYTES, Reply, Request};
use crate::error::{Error, Result};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Time for an answer. A daemon answers a search within half of it.
const DEADLINE: Duration = Duration::from_secs(120);

/// Asks the daemon; a failure that it reports is an error.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply> {
    let failed = |source| no_answer(socket, source);
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(failed)?;
    stream.set_write_timeout(Some(DEADLINE)).map_err(failed)?;
    stream.write_all(&wire::frame(request)?).map_err(failed)?;
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).map_err(failed)?;
    let mut body = vec![0; wire::head(head)?];
    stream.read_exact(&mut body).map_err(failed)?;
    match wire::body(&body)? {
        Reply::Failed(why) => Err(Error::Search(why)),
        reply => Ok(reply),
    }
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

    // Whoever may not ask was told that the daemon is dead and should be recovered.
    #[test]
    fn a_socket_that_is_somebody_elses_is_not_taken_for_a_dead_daemon() {
        let said =
            |errno| no_answer(Path::new("/run/s"), io::Error::from_raw_os_error(errno)).to_string();
        assert!(said(libc::EACCES).contains("owner") && !said(libc::EACCES).contains("recover"));
        assert!(said(libc::ECONNREFUSED).contains("recover"));
    }
}
