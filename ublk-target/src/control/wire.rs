// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The control protocol: one request, one reply, as often as the client likes.
//!
//! A frame is a 32-bit little-endian length, a version byte and a `bincode` message of that
//! length. Both sides bound what they accept before they allocate it.

use crate::error::{Error, Result};
use crate::lab::{Cut, Fault, FaultState};
use bincode::{Decode, Encode};

/// Version of the protocol; the two sides are one program, so it must match.
pub const VERSION: u8 = 3;
/// Bytes before a message: its length and the version.
pub const HEAD_BYTES: usize = 5;
/// Longest message. A search of a directory names all its files.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Request {
    /// Statistics of the device and of the index.
    Stats,
    /// The nearest vectors.
    Search(Search),
    /// Something of the crash lab.
    Lab(LabRequest),
}

/// What a client asks of the crash lab.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum LabRequest {
    /// Cut the power; what is kept of the cache.
    Crash(KeepPolicy),
    /// Turn the power on again.
    PowerOn,
    /// Put a remark into the recording.
    Mark(String),
    /// Set a fault.
    Set(Fault),
    /// Clear a fault, or all.
    Clear(Option<u32>),
    /// All faults.
    Faults,
}

/// What a cut keeps of what is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum KeepPolicy {
    /// Nothing.
    None,
    /// The newest of everything.
    All,
    /// Of each sector any version, by this seed.
    Random(u64),
}

/// What the crash lab answers.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum LabReply {
    /// The power is off.
    Cut(Cut),
    /// Whether something changed.
    Done(bool),
    /// Number of the fault that was set, or of faults that were cleared.
    Number(u32),
    /// All faults.
    Faults(Vec<FaultState>),
}

/// A search.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Search {
    /// Inodes of the files to look in.
    pub files: Vec<u64>,
    /// Whether a single file was named, so that it must be searchable.
    pub single: bool,
    /// What to look for.
    pub query: Query,
    /// How many.
    pub k: u32,
    /// Width of the search; the index's default if `None`.
    pub ef: Option<u32>,
    /// Compare with every vector.
    pub exact: bool,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Query {
    /// A vector.
    Vector(Vec<f32>),
    /// The vector in that slot of the single file.
    Like(u64),
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Reply {
    /// To [`Request::Stats`].
    Stats(Box<Stats>),
    /// To [`Request::Search`].
    Found(Found),
    /// To [`Request::Lab`].
    Lab(LabReply),
    /// It could not be done; one line.
    Failed(String),
}

/// The nearest vectors.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Found {
    /// The generation that was searched.
    pub generation: u64,
    /// Whether that is all that was committed before the request.
    pub caught_up: bool,
    /// Nearest first.
    pub hits: Vec<Hit>,
    /// What is to be said of some of the files: inode, text.
    pub notes: Vec<(u64, String)>,
    /// Why the index does not follow the image any more.
    pub problem: Option<String>,
}

/// One vector.
#[derive(Debug, Clone, Copy, PartialEq, Encode, Decode)]
pub struct Hit {
    /// Inode of its file.
    pub file: u64,
    /// Its ordinal there.
    pub slot: u64,
    /// Its distance.
    pub distance: f32,
}

/// Statistics.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Stats {
    /// Seconds since this daemon began to serve.
    pub uptime_seconds: u64,
    /// One for each kind of request, in the order of [`crate::request::Kind::ALL`].
    pub kinds: Vec<KindStats>,
    /// The index, if there is a filesystem.
    pub index: Option<IndexStats>,
    /// Why the index does not follow the image.
    pub problem: Option<String>,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct KindStats {
    /// Its name.
    pub kind: String,
    /// Finished requests.
    pub requests: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Latency in nanoseconds: 50%, 90%, 99%, 99.9%, largest.
    pub latency_ns: [u64; 5],
}

/// The index in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct IndexStats {
    /// Vector files.
    pub files: u64,
    /// Vectors that can be found.
    pub vectors: u64,
    /// Immutable segments.
    pub segments: u64,
    /// Segments with a graph.
    pub graphs: u64,
    /// Removed or overwritten vectors that no merge has dropped.
    pub tombstones: u64,
    /// Vectors that are not in a graph yet.
    pub pending: u64,
    /// Rows that cannot be compared.
    pub skipped: u64,
    /// Resident bytes, estimated.
    pub bytes: u64,
    /// The generation that is searched.
    pub generation: u64,
    /// Commits that the index has not looked at.
    pub lag: u64,
    /// Rows that have to be read.
    pub unread: u64,
    /// The generation of the newest checkpoint.
    pub checkpoint: Option<u64>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>()
}

/// A whole frame.
pub fn frame<T: Encode>(message: &T) -> Result<Vec<u8>> {
    let body = bincode::encode_to_vec(message, config())
        .map_err(|e| Error::Protocol(format!("the message cannot be sent: {e}")))?;
    if body.len() > MESSAGE_BYTES_MAX {
        return Err(Error::Protocol(format!("a message of {} bytes is too long", body.len())));
    }
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.push(VERSION);
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Length of the message after that head.
pub fn head(bytes: [u8; HEAD_BYTES]) -> Result<usize> {
    let [a, b, c, d, version] = bytes;
    if version != VERSION {
        return Err(Error::Protocol(format!(
            "the other side speaks version {version}, this one {VERSION}: recover the device with one program"
        )));
    }
    match u32::from_le_bytes([a, b, c, d]) as usize {
        len if len <= MESSAGE_BYTES_MAX => Ok(len),
        len => Err(Error::Protocol(format!("a message of {len} bytes is too long"))),
    }
}

/// The message in a frame's body.
pub fn body<T: Decode<()>>(bytes: &[u8]) -> Result<T> {
    match bincode::decode_from_slice(bytes, config()) {
        Ok((message, used)) if used == bytes.len() => Ok(message),
        Ok(_) => Err(Error::Protocol("bytes follow the message".into())),
        Err(e) => Err(Error::Protocol(format!("the message cannot be read: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search() -> Request {
        Request::Search(Search {
            files: vec![2, 1 << 50],
            single: false,
            query: Query::Vector(vec![0.5, -1.0]),
            k: 10,
            ef: Some(64),
            exact: true,
        })
    }

    #[test]
    fn messages_survive_the_wire() {
        let bytes = frame(&search()).unwrap();
        let (first, rest) = bytes.split_at(HEAD_BYTES);
        assert_eq!(head(first.try_into().unwrap()).unwrap(), rest.len());
        assert_eq!(body::<Request>(rest).unwrap(), search());
    }

    #[test]
    fn damage_is_refused_before_it_is_believed() {
        let bytes = frame(&search()).unwrap();
        let rest = &bytes[HEAD_BYTES..];
        for cut in 0..rest.len() {
            assert!(body::<Request>(&rest[..cut]).is_err(), "{cut}");
        }
        let longer = [rest, &[0]].concat();
        assert!(body::<Request>(&longer).is_err());
        assert!(head([0xff, 0xff, 0xff, 0xff, VERSION]).unwrap_err().to_string().contains("long"));
        assert!(head([0, 0, 0, 0, 9]).unwrap_err().to_string().contains("version 9"));
        // A length that promises more than there can be must not be allocated.
        let mut huge = vec![1, 253];
        huge.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(body::<Request>(&huge).is_err());
    }
}
