// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's side of the control socket: one thread with a `tokio-uring` runtime.
//!
//! Connections are accepted through tokio, for `tokio-uring`'s own listener does not work on new
//! kernels, and served through the ring. What computes runs on the runtime's blocking threads.
//! The socket belongs to the image's owner and nobody else may open it. No client may hold a place,
//! or much memory, for longer than it takes to send a request and receive its answer.

use super::query;
use super::wire::{
    self, HEAD_BYTES, IndexStats, KeepPolicy, KindStats, LabReply, LabRequest, MESSAGE_BYTES_MAX,
    Reply, Request, Stats,
};
use crate::error::{Error, Result};
use crate::follow::view::View;
use crate::lab::Lab;
use crate::latency::{QueueStats, summarise};
use crate::log_line;
use crate::observe::DirtyLog;
use crate::request::Kind;
use rustix::fs::Mode;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::UnixStream;
use vexfs_crash::Keep;

/// Connections served at once; more wait.
const CONNECTIONS: usize = 64;
/// Time in which a client sends a request, and in which it receives the answer.
const CLIENT_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of requests held at once; more wait.
const REQUEST_BYTES: usize = 2 * MESSAGE_BYTES_MAX;
/// Time before another connection is accepted after that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the service speaks of.
pub struct Subject {
    /// The follower's view.
    pub view: Arc<View>,
    /// What the queues report.
    pub observer: Arc<DirtyLog>,
    /// One for each queue.
    pub queues: Vec<Arc<QueueStats>>,
    /// When serving began.
    pub started: Instant,
    /// The crash lab, if the device was added with it.
    pub lab: Option<Arc<Lab>>,
}

/// What all conversations share.
struct Shared {
    subject: Subject,
    /// Bytes of requests that may still be taken in.
    room: Semaphore,
    /// [`CLIENT_DEADLINE`], but for tests.
    patience: Duration,
}

/// The running service.
pub struct ControlThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ControlThread {
    /// Binds the socket and starts to serve. The socket's permissions are those of `image`.
    pub fn start(socket: &Path, image: &Path, subject: Subject) -> Result<Self> {
        Self::start_with(socket, image, subject, CLIENT_DEADLINE)
    }

    fn start_with(
        socket: &Path,
        image: &Path,
        subject: Subject,
        patience: Duration,
    ) -> Result<Self> {
        let room = Semaphore::new(REQUEST_BYTES);
        let shared = Arc::new(Shared { subject, room, patience });
        let failed = |source| Error::Runtime { path: socket.to_owned(), source };
        let listener = bind(socket, image).map_err(failed)?;
        let system = |what| move |source| Error::System { what, source };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("vexfs-control".into())
            .spawn(move || {
                // Where a ring is forbidden the device still works; it only cannot be asked.
                let serve = || tokio_uring::start(serve(listener, shared, stopped));
                let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve));
                match served {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => log_line!("control: {e}"),
                    Err(_) => log_line!("control: the service failed: the device cannot be asked"),
                }
            })
            .map_err(system("thread"))?;
        Ok(Self { stop, thread })
    }

    /// Ends it. A search that is being answered is left alone.
    pub fn finish(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Binds a socket that only the image's owner and root can open, from its first moment on.
fn bind(socket: &Path, image: &Path) -> std::io::Result<UnixListener> {
    // Left by a daemon that was killed; the image's lock tells that there is no other.
    let _ = std::fs::remove_file(socket);
    let fresh = socket.with_extension("sock.new");
    let _ = std::fs::remove_file(&fresh);
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(&fresh);
    rustix::process::umask(before);
    let listener = bound?;
    let owner = std::fs::metadata(image)?;
    if owner.uid() != rustix::process::geteuid().as_raw() {
        std::os::unix::fs::chown(&fresh, Some(owner.uid()), Some(owner.gid()))?;
    }
    std::fs::rename(&fresh, socket)?;
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
            // A client that goes away or talks nonsense is its own problem.
            let _ = converse(&stream, shared).await;
            drop(place);
        });
    }
}

/// Answers one client's requests until it leaves.
async fn converse(stream: &UnixStream, shared: Arc<Shared>) -> Result<()> {
    loop {
        let received = receive(stream, HEAD_BYTES);
        let Some(head) = in_time(stream, shared.patience, received).await? else { return Ok(()) };
        let head = head.try_into().map_err(|_| Error::Protocol("a short head".into()))?;
        let len = match wire::head(head) {
            Ok(len) => len,
            Err(e) => {
                let reply = wire::frame(&Reply::Failed(e.to_string()))?;
                return in_time(stream, shared.patience, send(stream, reply)).await;
            }
        };
        let room = shared.room.acquire_many(len as u32).await;
        let _room = room.map_err(|e| Error::Protocol(e.to_string()))?;
        let received = receive(stream, len);
        let Some(bytes) = in_time(stream, shared.patience, received).await? else { return Ok(()) };
        let asked = shared.clone();
        let answered = tokio::task::spawn_blocking(move || {
            let reply = match wire::body(&bytes) {
                Ok(request) => answer(&request, &asked.subject),
                Err(e) => Reply::Failed(e.to_string()),
            };
            wire::frame(&reply)
        });
        let reply = answered.await.map_err(|e| Error::Protocol(e.to_string()))??;
        in_time(stream, shared.patience, send(stream, reply)).await?;
    }
}

/// Waits for a part of a conversation. A client that takes too long is cut off, which ends what the
/// ring still does for it.
async fn in_time<T>(stream: &UnixStream, limit: Duration, part: impl Future<Output = T>) -> T {
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

/// Exactly so many bytes; `None` if the client left. They are taken in as they come, so a length
/// alone makes nobody allocate much.
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

fn answer(request: &Request, subject: &Subject) -> Reply {
    match request {
        Request::Stats => Reply::Stats(Box::new(stats(subject))),
        Request::Search(search) => match query::search(&subject.view, search) {
            Ok(found) => Reply::Found(found),
            Err(why) => Reply::Failed(why),
        },
        Request::Lab(request) => match &subject.lab {
            Some(lab) => lab_answer(lab, request).map_or_else(Reply::Failed, Reply::Lab),
            None => Reply::Failed(
                "the device was added without the crash lab: add it with --crash-model".into(),
            ),
        },
    }
}

fn lab_answer(lab: &Lab, request: &LabRequest) -> std::result::Result<LabReply, String> {
    Ok(match request {
        LabRequest::Crash(keep) => LabReply::Cut(lab.crash(match keep {
            KeepPolicy::None => Keep::None,
            KeepPolicy::All => Keep::All,
            KeepPolicy::Random(seed) => Keep::Random(*seed),
        })?),
        LabRequest::PowerOn => LabReply::Done(lab.power_on()),
        LabRequest::Mark(text) => LabReply::Done(lab.mark(text)),
        LabRequest::Set(fault) => LabReply::Number(lab.set(*fault)),
        LabRequest::Clear(number) => LabReply::Number(lab.clear(*number) as u32),
        LabRequest::Faults => LabReply::Faults(lab.faults()),
    })
}

fn stats(subject: &Subject) -> Stats {
    let snapshot = subject.view.now();
    let kind = |kind: &Kind| {
        let summary = summarise(subject.queues.iter().map(|queue| &**queue), *kind);
        KindStats {
            kind: kind.name().to_owned(),
            requests: summary.requests,
            bytes: summary.bytes,
            errors: summary.errors,
            latency_ns: summary.latency_ns,
        }
    };
    let index = snapshot.index.as_ref().map(|index| {
        let of = index.stats();
        IndexStats {
            files: of.files,
            vectors: of.counts.vectors,
            segments: of.counts.segments,
            graphs: of.counts.graphs,
            tombstones: of.counts.tombstones,
            pending: of.counts.pending,
            skipped: of.counts.skipped,
            bytes: of.counts.bytes,
            generation: snapshot.generation,
            lag: subject.observer.root_writes().saturating_sub(snapshot.roots),
            unread: snapshot.pending,
            checkpoint: of.generation,
        }
    });
    let problem =
        snapshot.problem.or_else(|| snapshot.index.as_ref().and_then(|i| i.stats().problem));
    Stats {
        uptime_seconds: subject.started.elapsed().as_secs(),
        kinds: Kind::ALL.iter().map(kind).collect(),
        index,
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client;
    use crate::control::wire::{Query, Search};
    use std::io::Write;

    fn start(socket: &Path, patience: Duration) -> (ControlThread, Arc<View>) {
        let view = Arc::new(View::new().unwrap());
        let queue = Arc::new(QueueStats::default());
        queue.record(Kind::Write, 4096, false);
        queue.record_latency(Kind::Write, 1000);
        let subject = Subject {
            view: view.clone(),
            observer: Arc::new(DirtyLog::new(1 << 30).unwrap()),
            queues: vec![queue],
            started: Instant::now(),
            lab: None,
        };
        let image = Path::new("/proc/self/exe");
        (ControlThread::start_with(socket, image, subject, patience).unwrap(), view)
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
            let write = stats.kinds.iter().find(|k| k.kind == "write").unwrap();
            assert_eq!((write.requests, write.bytes, write.errors), (1, 4096, 0));
            let mut garbage = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            garbage.write_all(&[0xff; 100]).unwrap();
        }
        // A stopping follower serves no ticket: the answer says why there is none.
        view.stop();
        let query = Query::Vector(vec![1.0]);
        let search = Search { files: vec![1], single: true, query, k: 1, ef: None, exact: false };
        let error = client::ask(&socket, &Request::Search(search)).unwrap_err().to_string();
        assert!(error.contains("no VexFS"), "{error}");
        service.finish();
        let error = client::ask(&socket, &Request::Stats).unwrap_err().to_string();
        assert!(error.contains("no daemon answers"), "{error}");
    }

    // 64 clients that began to say something and never ended it shut everybody else out for good;
    // so would as many that never read their answers.
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
