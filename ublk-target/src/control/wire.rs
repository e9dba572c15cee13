// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The control protocol: a client sends a request and gets a reply, as often as it likes.
//!
//! A frame is a 32-bit little-endian length, a version byte and a `bincode` message of that length. Both
//! sides check a length before they allocate memory for it.

use crate::error::{Error, Result};
use crate::lab::{Cut, Fault, FaultState};
use crate::request::Kind;
use crate::stats::KindStats;
use bincode::{Decode, Encode};
use serde::Serialize;
use vexfs_search::ask::{Found, Search};
use vexfs_search::upkeep::{FileStatus, Recall};

/// Version of the protocol. Both sides are the same program, so the versions must be equal.
pub const VERSION: u8 = 6;
/// Bytes before a message: its length, and the version.
pub const HEAD_BYTES: usize = 5;
/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Longest request: the longest vector and then some.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Request {
    /// Statistics of the device and of the index.
    Stats,
    /// The nearest vectors in a file, or in the files of a directory. Its descriptor comes with the frame
    /// (`SCM_RIGHTS`).
    Search(Search),
    /// A request to the crash lab.
    Lab(LabRequest),
    /// A request about the index. With a descriptor it is about the files there, otherwise about all.
    Index(IndexRequest),
}

/// What a client asks of the index.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum IndexRequest {
    /// The files, one by one.
    Status,
    /// Read the rows again, and build the graphs again.
    Rebuild,
    /// Compare the checksums of everything that is in the checkpoint.
    Verify,
    /// Measure the recall of one file.
    Recall {
        /// Its inode.
        ino: u64,
        /// How many of its rows to search for.
        queries: u64,
        /// At growing widths; otherwise at the default one.
        widths: bool,
    },
}

/// What is answered about the index.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum IndexReply {
    /// The files, and how many rows still have to be read.
    Status(Vec<FileStatus>, u64),
    /// How many files are built again.
    Rebuilding(u64),
    /// What is damaged; it is read or built again.
    Damage(Vec<String>),
    /// What was measured, or why nothing was.
    Recall(std::result::Result<Vec<Recall>, String>),
}

/// What a client asks of the crash lab.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum LabRequest {
    /// Cut the power, and keep this of the cache.
    Crash(KeepPolicy),
    /// Turn the power on again.
    PowerOn,
    /// Put a mark into the recording.
    Mark(String),
    /// Set a fault.
    Set(Fault),
    /// Clear a fault, or all.
    Clear(Option<u32>),
    /// List all faults.
    Faults,
}

/// What a power cut keeps of what is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum KeepPolicy {
    /// Nothing.
    None,
    /// The newest version of every sector.
    All,
    /// A random version of each sector; with this seed.
    Random(u64),
}

/// What the crash lab answers.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum LabReply {
    /// The power is off.
    Cut(Cut),
    /// Whether the request changed anything.
    Done(bool),
    /// The number of the fault that was set, or how many faults were cleared.
    Number(u32),
    /// All faults.
    Faults(Vec<FaultState>),
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Reply {
    /// The reply to [`Request::Stats`].
    Stats(Box<Stats>),
    /// The reply to [`Request::Search`].
    Found(Found),
    /// The reply to [`Request::Lab`].
    Lab(LabReply),
    /// The request failed; the reason in one line.
    Failed(String),
    /// The reply to [`Request::Index`].
    Index(IndexReply),
}

/// Statistics.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Stats {
    /// Seconds since this daemon started to serve.
    pub uptime_seconds: u64,
    /// The requests of each kind.
    pub kinds: Vec<(Kind, KindStats)>,
    /// The index, if there is a filesystem.
    pub index: Option<IndexStats>,
    /// Why the index is not kept up to date.
    pub problem: Option<String>,
}

/// The index in numbers. `stats --json` prints the fields under these names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct IndexStats {
    /// Vector files.
    pub files: u64,
    /// Vectors that can be found.
    pub vectors: u64,
    /// Immutable segments.
    pub segments: u64,
    /// Segments with a graph.
    pub graphs: u64,
    /// Removed or overwritten vectors that no merge has dropped yet.
    pub tombstones: u64,
    /// Vectors that are not in a graph yet.
    pub pending: u64,
    /// Rows that cannot be compared.
    pub skipped: u64,
    /// Resident bytes, estimated.
    pub bytes: u64,
    /// The generation that is searched.
    pub generation: u64,
    /// Writes to the root ring that the index does not take into account yet.
    pub lag: u64,
    /// Rows that still have to be read.
    pub unread: u64,
    /// Milliseconds since the newest commit, if not all of it can be found yet; else 0.
    pub lag_ms: u64,
    /// Commits that the index does not take into account yet.
    pub lag_generations: u64,
    /// The generation of the newest checkpoint.
    pub checkpoint: Option<u64>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>()
}

/// The frame of a message.
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

/// Length of the message that follows this head.
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

/// The message in the body of a frame.
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
    use vexfs_search::ask::Query;

    fn search() -> Request {
        Request::Search(Search {
            query: Query::Vector(vec![0.5, -1.0]),
            k: 10,
            ef: Some(64),
            exact: true,
            at_least: Some(7),
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
        // Memory for an impossible length must not be allocated.
        let mut huge = vec![1, 253];
        huge.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(body::<Request>(&huge).is_err());
    }
}
