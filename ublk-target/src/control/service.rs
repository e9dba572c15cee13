// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's side of the control socket: one thread with a `tokio-uring` runtime.
//!
//! Connections are accepted through tokio, because `tokio-uring`'s own listener does not work on newer
//! kernels, and served through the ring. Answers are computed on the runtime's blocking threads. The
//! socket belongs to the image's owner; only he and root can open it. No client can occupy one of the
//! connections, or much memory, for longer than it takes to send a request and receive its answer.

use super::answer::{Sources, answer};
use super::wire::{self, HEAD_BYTES, MESSAGE_BYTES_MAX, Reply};
use crate::error::{Error, Result};
use crate::log_line;
use rustix::fs::Mode;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::UnixStream;

/// Connections that are served at once; others wait.
const CONNECTIONS: usize = 64;
/// Time for a client to send a request, and to receive the answer.
const CLIENT_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of requests that are held at once; others wait.
const REQUEST_BYTES: usize = 2 * MESSAGE_BYTES_MAX;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Shared {
    sources: Sources,
    /// Bytes of requests that may still be received.
    room: Semaphore,
    /// [`CLIENT_DEADLINE`], or shorter in tests.
    deadline: Duration,
}

/// The running service.
pub struct ControlThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ControlThread {
    /// Binds the socket and starts to serve. The socket gets the owner of `image`.
    pub fn start(socket: &Path, image: &Path, sources: Sources) -> Result<Self> {
        Self::start_with_deadline(socket, image, sources, CLIENT_DEADLINE)
    }

    fn start_with_deadline(
        socket: &Path,
        image: &Path,
        sources: Sources,
        deadline: Duration,
    ) -> Result<Self> {
        let room = Semaphore::new(REQUEST_BYTES);
        let shared = Arc::new(Shared { sources, room, deadline });
        let failed = |source| Error::Runtime { path: socket.to_owned(), source };
        let listener = bind(socket, image).map_err(failed)?;
        let system = |what| move |source| Error::System { what, source };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("vexfs-control".into())
            .spawn(move || {
                // If the ring cannot be created, the device still works; only its daemon cannot be asked.
                let serve = || tokio_uring::start(serve(listener, shared, stopped));
                let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve));
                match served {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => log_line!("control: {e}"),
                    Err(_) => log_line!("control: the service failed: the daemon cannot be asked"),
                }
            })
            .map_err(system("thread"))?;
        Ok(Self { stop, thread })
    }

    /// Ends it. It does not wait for a search that is being answered.
    pub fn finish(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Binds a socket that at no moment anybody but the image's owner and root can open.
fn bind(socket: &Path, image: &Path) -> std::io::Result<UnixListener> {
    // A daemon that was killed left it: the image's lock guarantees that no other daemon runs.
    let _ = std::fs::remove_file(socket);
    let private = socket.with_extension("sock.new");
    let _ = std::fs::remove_file(&private);
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(&private);
    rustix::process::umask(before);
    let listener = bound?;
    let owner = std::fs::metadata(image)?;
    if owner.uid() != rustix::process::geteuid().as_raw() {
        std::os::unix::fs::chown(&private, Some(owner.uid()), Some(owner.gid()))?;
    }
    std::fs::rename(&private, socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    mut stop: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = &mut stop => return Ok(()),
        };
        let stream = match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
            Err(e) => {
                log_line!("control: accept: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let shared = shared.clone();
        tokio_uring::spawn(async move {
            let stream = UnixStream::from_std(stream);
            // A client that goes away or breaks the protocol harms only itself.
            let _ = serve_client(&stream, shared).await;
            drop(place);
        });
    }
}

/// Answers one client's requests until it closes the connection.
async fn serve_client(stream: &UnixStream, shared: Arc<Shared>) -> Result<()> {
    loop {
        let received = receive(stream, HEAD_BYTES);
        let Some(head) = with_deadline(stream, shared.deadline, received).await? else {
            return Ok(());
        };
        let head = head.try_into().map_err(|_| Error::Protocol("a short head".into()))?;
        let len = match wire::head(head) {
            Ok(len) => len,
            Err(e) => {
                let reply = wire::frame(&Reply::Failed(e.to_string()))?;
                return with_deadline(stream, shared.deadline, send(stream, reply)).await;
            }
        };
        let room = shared.room.acquire_many(len as u32).await;
        let _room = room.map_err(|e| Error::Protocol(e.to_string()))?;
        let received = receive(stream, len);
        let Some(bytes) = with_deadline(stream, shared.deadline, received).await? else {
            return Ok(());
        };
        let asked = shared.clone();
        let answered = tokio::task::spawn_blocking(move || {
            let reply = match wire::body(&bytes) {
                Ok(request) => answer(&request, &asked.sources),
                Err(e) => Reply::Failed(e.to_string()),
            };
            wire::frame(&reply)
        });
        let reply = answered.await.map_err(|e| Error::Protocol(e.to_string()))??;
        with_deadline(stream, shared.deadline, send(stream, reply)).await?;
    }
}

/// Waits for one transfer. If the client takes too long, the connection is shut down, which ends the
/// operation in the ring.
async fn with_deadline<T>(
    stream: &UnixStream,
    limit: Duration,
    part: impl Future<Output = T>,
) -> T {
    tokio::pin!(part);
    tokio::select! {
        done = &mut part => done,
        () = tokio::time::sleep(limit) => {
            let _ = stream.shutdown(Shutdown::Both);
            part.await
        }
    }
}

fn system(source: std::io::Error) -> Error {
    Error::System { what: "control socket", source }
}

/// Receives exactly `len` bytes; `None` if the client closed the connection. Memory is allocated as they
/// arrive, so that a length alone costs nothing.
async fn receive(stream: &UnixStream, len: usize) -> Result<Option<Vec<u8>>> {
    const STEP: usize = 64 << 10;
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let step = vec![0; STEP.min(len - bytes.len())];
        let (read, step) = stream.read(step).await;
        match read.map_err(system)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(step.get(..count).unwrap_or_default()),
        }
    }
    Ok(Some(bytes))
}

async fn send(stream: &UnixStream, reply: Vec<u8>) -> Result<()> {
    let (sent, _) = stream.write_all(reply.slice_full()).await;
    sent.map_err(system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client;
    use crate::control::wire::{Query, Request, Search};
    use crate::dirty_log::DirtyLog;
    use crate::indexer::view::View;
    use crate::request::Kind;
    use crate::stats::QueueStats;
    use std::io::Write;
    use std::time::Instant;

    fn start(socket: &Path, deadline: Duration) -> (ControlThread, Arc<View>) {
        let view = Arc::new(View::new().unwrap());
        let queue = Arc::new(QueueStats::default());
        queue.record(Kind::Write, 4096, false);
        queue.record_latency(Kind::Write, 1000);
        let sources = Sources {
            view: view.clone(),
            dirty_log: Arc::new(DirtyLog::new(1 << 30).unwrap()),
            queues: vec![queue],
            started: Instant::now(),
            lab: None,
        };
        let image = Path::new("/proc/self/exe");
        (ControlThread::start_with_deadline(socket, image, sources, deadline).unwrap(), view)
    }

    #[test]
    fn clients_are_answered_and_nonsense_is_not_fatal() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s.sock");
        let (service, view) = start(&socket, CLIENT_DEADLINE);
        let mode = std::fs::metadata(&socket).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        for _ in 0..3 {
            let Reply::Stats(stats) = client::ask(&socket, &Request::Stats).unwrap() else {
                panic!("not statistics")
            };
            let (_, write) = stats.kinds.iter().find(|(kind, _)| *kind == Kind::Write).unwrap();
            assert_eq!((write.requests, write.bytes, write.errors), (1, 4096, 0));
            let mut garbage = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            garbage.write_all(&[0xff; 100]).unwrap();
        }
        // A stopping indexer serves no ticket: the reply says why there are no hits.
        view.stop();
        let query = Query::Vector(vec![1.0]);
        let search = Search { files: vec![1], single: true, query, k: 1, ef: None, exact: false };
        let error = client::ask(&socket, &Request::Search(search)).unwrap_err().to_string();
        assert!(error.contains("no VexFS"), "{error}");
        service.finish();
        let error = client::ask(&socket, &Request::Stats).unwrap_err().to_string();
        assert!(error.contains("no daemon answers"), "{error}");
    }

    // 64 clients that sent only part of a request kept everybody else out for good; so would as many that
    // never read their answers.
    #[test]
    fn clients_that_stall_do_not_keep_others_out() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s.sock");
        let (service, _view) = start(&socket, Duration::from_millis(200));
        let huge = [&(MESSAGE_BYTES_MAX as u32).to_le_bytes()[..], &[wire::VERSION, 0]].concat();
        let ask = wire::frame(&Request::Stats).unwrap();
        let stalled: Vec<_> = (0..2 * CONNECTIONS)
            .map(|i| {
                let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
                client.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
                match i % 3 {
                    0 => client.write_all(&[1]).unwrap(),
                    1 => client.write_all(&huge).unwrap(),
                    // Until nothing more fits: the answers are not taken either.
                    _ => while client.write_all(&ask).is_ok() {},
                }
                client
            })
            .collect();
        assert!(matches!(client::ask(&socket, &Request::Stats).unwrap(), Reply::Stats(_)));
        drop(stalled);
        service.finish();
    }
}
