// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's side of the control socket: one thread with a `tokio-uring` runtime.
//!
//! Connections are accepted through tokio, because `tokio-uring`'s own listener does not work on newer
//! kernels, and served through the ring; the descriptor that comes with a search is received with the
//! first bytes of its frame, by `recvmsg`. Answers are computed on the runtime's blocking threads.
//!
//! Anybody may connect; what they may ask, [`answer`] decides by who they are. No client can occupy one of
//! the connections, or much memory, for longer than it takes to send a request and receive its answer, and
//! no user but root more than a part of them.

use super::answer::{Sources, answer};
use super::wire::{self, HEAD_BYTES, REQUEST_BYTES_MAX, Reply};
use crate::error::{Error, Result};
use rustix::fs::Mode;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::collections::{BTreeMap, HashMap};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::UnixStream;
use vexfs_search::log_line;
use vexfs_search::rights::caller::Caller;

/// Connections that are served at once. For another, one is closed on which nothing was asked yet; if there is
/// none, it waits.
const CONNECTIONS: usize = 128;
/// Connections that one user may have, unless it is root.
const CONNECTIONS_PER_USER: usize = 32;
/// Answers that are computed at once; others wait.
const ANSWERS: usize = 16;
/// Time for a client to send a request, and to receive the answer.
const CLIENT_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of requests that are held at once; others wait.
const REQUEST_BYTES: usize = 64 * REQUEST_BYTES_MAX;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Shared {
    sources: Sources,
    /// Bytes of requests that may still be received.
    room: Semaphore,
    /// Answers that may still be begun.
    answers: Semaphore,
    /// The users who are connected, with how many connections they have.
    connected: Mutex<HashMap<u32, usize>>,
    /// [`CLIENT_DEADLINE`], or shorter in tests.
    deadline: Duration,
    /// Connections on which no request has begun, the oldest first; one is closed when it is told to.
    idle: Mutex<BTreeMap<u64, Arc<Notify>>>,
    /// Of the next connection that becomes idle.
    next_idle: AtomicU64,
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection that has been idle for longest, if one is.
    fn close_idle(&self) {
        if let Some((_, oldest)) = self.idle().pop_first() {
            oldest.notify_one();
        }
    }
}

/// The running service.
pub struct ControlThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ControlThread {
    /// Binds the socket and starts to serve.
    pub fn start(socket: &Path, sources: Sources) -> Result<Self> {
        Self::start_with_deadline(socket, sources, CLIENT_DEADLINE)
    }

    fn start_with_deadline(socket: &Path, sources: Sources, deadline: Duration) -> Result<Self> {
        let shared = Arc::new(Shared {
            sources,
            room: Semaphore::new(REQUEST_BYTES),
            answers: Semaphore::new(ANSWERS),
            connected: Mutex::default(),
            deadline,
            idle: Mutex::default(),
            next_idle: AtomicU64::new(0),
        });
        let failed = |source| Error::Runtime { path: socket.to_owned(), source };
        let listener = bind(socket).map_err(failed)?;
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

/// Binds a socket that anybody can open.
fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    // A daemon that was killed left it: the image's lock guarantees that no other daemon runs.
    let _ = std::fs::remove_file(socket);
    let private = socket.with_extension("sock.new");
    let _ = std::fs::remove_file(&private);
    let listener = UnixListener::bind(&private)?;
    rustix::fs::chmod(&private, Mode::from_raw_mode(0o666))?;
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
            let accepted = listener.accept().await;
            // Whoever asks nothing makes room for who may.
            if places.available_permits() == 0 {
                shared.close_idle();
            }
            (places.clone().acquire_owned().await, accepted)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = &mut stop => return Ok(()),
        };
        let client = match accepted.and_then(|(stream, _)| Client::new(stream)) {
            Ok(client) => client,
            Err(e) => {
                log_line!("control: accept: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Who has too many is cut off.
        let Some(share) = Share::take(&shared, &client.caller) else { continue };
        let shared = shared.clone();
        tokio_uring::spawn(async move {
            // A client that goes away or breaks the protocol harms only itself.
            let _ = serve_client(&client, shared).await;
            drop((share, place));
        });
    }
}

/// One of a user's connections, until it is dropped.
struct Share {
    shared: Arc<Shared>,
    uid: u32,
}

impl Share {
    /// `None` if the user has too many.
    fn take(shared: &Arc<Shared>, caller: &Caller) -> Option<Self> {
        let mut connected = shared.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let count = connected.entry(caller.uid).or_default();
        if *count >= CONNECTIONS_PER_USER && !caller.is_root() {
            return None;
        }
        *count += 1;
        Some(Self { shared: shared.clone(), uid: caller.uid })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut connected = self.shared.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connected.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.uid);
            }
        }
    }
}

/// A connection.
struct Client {
    stream: UnixStream,
    /// The same socket, for `recvmsg`.
    socket: tokio::net::UnixStream,
    caller: Arc<Caller>,
}

impl Client {
    fn new(socket: tokio::net::UnixStream) -> std::io::Result<Self> {
        let caller = Arc::new(Caller::of_peer(&socket)?);
        let stream = std::os::unix::net::UnixStream::from(socket.as_fd().try_clone_to_owned()?);
        // The ring would return EAGAIN instead of waiting. tokio's side never blocks: see receive_head().
        stream.set_nonblocking(false)?;
        Ok(Self { stream: UnixStream::from_std(stream), socket, caller })
    }
}

/// Answers one client's requests until it closes the connection.
async fn serve_client(client: &Client, shared: Arc<Shared>) -> Result<()> {
    let stream = &client.stream;
    loop {
        let number = shared.next_idle.fetch_add(1, Relaxed);
        let close = Arc::new(Notify::new());
        shared.idle().insert(number, close.clone());
        let received = receive_head(&client.socket);
        let received = tokio::select! {
            received = with_deadline(stream, shared.deadline, received) => received,
            () = close.notified() => Ok(None),
        };
        shared.idle().remove(&number);
        let Some((head, file)) = received? else { return Ok(()) };
        let checked = wire::head(head).and_then(|len| match len {
            len if len <= REQUEST_BYTES_MAX => Ok(len),
            len => Err(Error::Protocol(format!("a request of {len} bytes is too long"))),
        });
        let len = match checked {
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
        let turn = shared.answers.acquire().await.map_err(|e| Error::Protocol(e.to_string()))?;
        let (asked, caller) = (shared.clone(), client.caller.clone());
        let answered = tokio::task::spawn_blocking(move || {
            let reply = match wire::body(&bytes) {
                Ok(request) => answer(&request, file, &caller, &asked.sources),
                Err(e) => Reply::Failed(e.to_string()),
            };
            wire::frame(&reply)
        });
        let reply = answered.await.map_err(|e| Error::Protocol(e.to_string()))??;
        drop(turn);
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

/// Receives a frame's head and the descriptor that came with it, if any; `None` if the client closed the
/// connection.
async fn receive_head(
    socket: &tokio::net::UnixStream,
) -> Result<Option<([u8; HEAD_BYTES], Option<OwnedFd>)>> {
    let mut head = [0; HEAD_BYTES];
    let mut file = None;
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        socket.readable().await.map_err(system)?;
        let received = socket.try_io(tokio::io::Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received =
                recvmsg(socket, &mut [IoSliceMut::new(rest)], &mut control, flags)?.bytes;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    file = descriptors.last().or(file.take());
                }
            }
            Ok(received)
        });
        match received {
            Ok(0) => return Ok(None),
            Ok(count) => filled += count,
            // Not ready after all.
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(system(e)),
        }
    }
    Ok(Some((head, file)))
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
#[path = "hostile_tests.rs"]
mod hostile_tests;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client;
    use crate::control::wire::Request;
    use crate::indexer::view::View;
    use crate::request::Kind;
    use crate::stats::QueueStats;
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;
    use std::time::Instant;
    use vexfs_search::ask::{Query, Search};
    use vexfs_search::dirty_log::DirtyLog;

    pub(super) fn start(socket: &Path, deadline: Duration) -> (ControlThread, Arc<View>) {
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
            owner: 0,
            device: Box::new(|| Some(std::fs::metadata("/proc/self").ok()?.dev())),
        };
        (ControlThread::start_with_deadline(socket, sources, deadline).unwrap(), view)
    }

    #[test]
    fn clients_are_answered_and_nonsense_is_not_fatal() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s.sock");
        let (service, view) = start(&socket, CLIENT_DEADLINE);
        let mode = std::fs::metadata(&socket).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o666);
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
        let search =
            Request::Search(Search { query, k: 1, ef: None, exact: false, at_least: None });
        let error = client::ask(&socket, &search).unwrap_err().to_string();
        assert!(error.contains("comes with an open file"), "{error}");
        for (path, words) in [("/proc/self", "no VexFS"), ("/dev", "not on a filesystem")] {
            let file = std::fs::File::open(path).unwrap();
            let asked = client::ask_about(&socket, &search, &[file.as_fd()]);
            let error = asked.unwrap_err().to_string();
            assert!(error.contains(words), "{path}: {error}");
        }
        service.finish();
        let error = client::ask(&socket, &Request::Stats).unwrap_err().to_string();
        assert!(error.contains("no daemon answers"), "{error}");
    }

    // The ring does not wait on a socket that is set not to block.
    #[test]
    fn a_request_may_come_in_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s.sock");
        let (service, _view) = start(&socket, CLIENT_DEADLINE);
        let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        let file = std::fs::File::open("/dev").unwrap();
        let query = Query::Vector(vec![1.0]);
        let search =
            Request::Search(Search { query, k: 1, ef: None, exact: false, at_least: None });
        let frame = wire::frame(&search).unwrap();
        let mut descriptors = vec![file.as_fd()];
        for byte in &frame {
            client::send(&mut client, &[*byte], &descriptors).unwrap();
            descriptors.clear();
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut head = [0; HEAD_BYTES];
        client.read_exact(&mut head).unwrap();
        let mut body = vec![0; wire::head(head).unwrap()];
        client.read_exact(&mut body).unwrap();
        let Reply::Failed(why) = wire::body(&body).unwrap() else { panic!("not a failure") };
        assert!(why.contains("not on a filesystem"), "{why}");
        service.finish();
    }

    // 64 clients that sent only part of a request kept everybody else out for good; so would as many that
    // never read their answers.
    #[test]
    fn clients_that_stall_do_not_keep_others_out() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s.sock");
        let (service, _view) = start(&socket, Duration::from_millis(200));
        let huge = [&(REQUEST_BYTES_MAX as u32).to_le_bytes()[..], &[wire::VERSION, 0]].concat();
        let ask = wire::frame(&Request::Stats).unwrap();
        let stalled: Vec<_> = (0..2 * CONNECTIONS)
            .map(|i| {
                let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
                client.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
                match i % 16 {
                    0..8 => client.write_all(&[1]).unwrap(),
                    8..15 => client.write_all(&huge).unwrap(),
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
