// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A recording as a file. It is written as requests are carried out and can be read however it ends.
//!
//! Eight bytes of magic and version, the device's length as a 64-bit little-endian number, then
//! frames: length and CRC32C of the body as 32-bit little-endian numbers, and the body, a `bincode`
//! message. First the pages of the device's first contents that are not zero, then a mark that they are
//! complete, then events. A frame that is cut off or does not match its checksum ends the recording;
//! the frames before it count.

use super::{Event, Recording, Request};
use crate::image::Image;
use bincode::{Decode, Encode};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"VXREC\0\0\x01";
/// Longest body; the largest request is far shorter.
const BODY_BYTES_MAX: u32 = 64 << 20;
/// Bytes of one page of the first contents.
const PAGE: usize = 64 << 10;
const BUFFER: usize = 1 << 20;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system's error.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// It is something else than a recording.
    #[error("{0}: not a recording of vexfs-ublk, or one of another version")]
    Foreign(PathBuf),
    /// It ends before the device's first contents are complete.
    #[error(
        "{0}: the recording ends before the device's first contents are complete: no image can be rebuilt from it"
    )]
    NoBeginning(PathBuf),
}

#[derive(Encode, Decode)]
enum Frame {
    Page { at: u64, data: Vec<u8> },
    Begun,
    Write { id: u64, at: u64, data: Vec<u8>, fua: bool },
    Zeroes { id: u64, at: u64, len: u64, fua: bool },
    Flush { id: u64 },
    Complete { id: u64, ok: bool },
    Mark(String),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ BODY_BYTES_MAX as usize }>()
}

/// Writes a recording, event by event.
pub struct Writer {
    to: BufWriter<File>,
}

impl Writer {
    /// Begins a recording of a device of `bytes` bytes with the contents that `base` reads.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path, bytes: u64, base: &mut dyn Read) -> io::Result<Self> {
        let mut writer = Self { to: BufWriter::with_capacity(BUFFER, File::create(path)?) };
        writer.to.write_all(&MAGIC)?;
        writer.to.write_all(&bytes.to_le_bytes())?;
        let mut at = 0;
        let mut page = vec![0; PAGE];
        while at < bytes {
            let len = (bytes - at).min(PAGE as u64) as usize;
            let data = page.get_mut(..len).unwrap_or_default();
            base.read_exact(data)?;
            if data.iter().any(|byte| *byte != 0) {
                writer.frame(&Frame::Page { at, data: data.to_vec() })?;
            }
            at += len as u64;
        }
        writer.frame(&Frame::Begun)?;
        writer.to.flush()?;
        Ok(writer)
    }

    fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        let body = bincode::encode_to_vec(frame, config()).map_err(io::Error::other)?;
        self.to.write_all(&(body.len() as u32).to_le_bytes())?;
        self.to.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
        self.to.write_all(&body)
    }

    /// Adds an event. Flushes, marks and writes with FUA have reached the file when this returns.
    ///
    /// # Errors
    /// The system's.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let mut write_out = false;
        let frame = match event {
            Event::Submit { id, request } => match request {
                Request::Write { at, data, fua } => {
                    write_out = *fua;
                    Frame::Write { id: *id, at: *at, data: data.to_vec(), fua: *fua }
                }
                Request::Zeroes { at, len, fua } => {
                    Frame::Zeroes { id: *id, at: *at, len: *len, fua: *fua }
                }
                Request::Flush => {
                    write_out = true;
                    Frame::Flush { id: *id }
                }
            },
            Event::Complete { id, ok } => Frame::Complete { id: *id, ok: *ok },
            Event::Mark(text) => {
                write_out = true;
                Frame::Mark(text.clone())
            }
        };
        self.frame(&frame)?;
        if write_out { self.to.flush() } else { Ok(()) }
    }

    /// Ends the recording; everything has reached the file when this returns.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Recording {
    /// Reads a recording up to its end or the first frame that is damaged or cut off.
    ///
    /// # Errors
    /// If it is not a recording, cannot be read, or ends before the first contents are complete.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let failed = |e| FileError::Io(path.to_owned(), e);
        let mut from = BufReader::with_capacity(BUFFER, File::open(path).map_err(failed)?);
        let mut head = [0; 16];
        let got = fill(&mut from, &mut head).map_err(failed)?;
        let (magic, bytes) = head.split_at(8);
        if got < head.len() || magic != MAGIC {
            return Err(FileError::Foreign(path.to_owned()));
        }
        let bytes = bytes.try_into().map_or(0, u64::from_le_bytes);
        let mut recording = Self::new(Image::new(bytes));
        let mut begun = false;
        while let Some(frame) = next(&mut from).map_err(failed)? {
            let event = match frame {
                Frame::Page { at, data } => {
                    recording.base.put(at, &data);
                    continue;
                }
                Frame::Begun => {
                    begun = true;
                    continue;
                }
                Frame::Write { id, at, data, fua } => {
                    Event::Submit { id, request: Request::Write { at, data: data.into(), fua } }
                }
                Frame::Zeroes { id, at, len, fua } => {
                    Event::Submit { id, request: Request::Zeroes { at, len, fua } }
                }
                Frame::Flush { id } => Event::Submit { id, request: Request::Flush },
                Frame::Complete { id, ok } => Event::Complete { id, ok },
                Frame::Mark(text) => Event::Mark(text),
            };
            recording.events.push(event);
        }
        if begun { Ok(recording) } else { Err(FileError::NoBeginning(path.to_owned())) }
    }
}

/// Reads until the buffer is full or the file ends; returns the bytes read.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// The next frame; [`None`] at the end, or if the frame is damaged or cut off.
fn next(from: &mut dyn Read) -> io::Result<Option<Frame>> {
    let mut head = [0; 8];
    if fill(from, &mut head)? < head.len() {
        return Ok(None);
    }
    let (words, _) = head.as_chunks::<4>();
    let word = |index: usize| words.get(index).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let (len, crc) = (word(0), word(1));
    if len > BODY_BYTES_MAX {
        return Ok(None);
    }
    let mut body = vec![0; len as usize];
    if fill(from, &mut body)? < body.len() || crc32c::crc32c(&body) != crc {
        return Ok(None);
    }
    Ok(bincode::decode_from_slice(&body, config()).ok().map(|(frame, _)| frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Keep;

    fn events() -> Vec<Event> {
        let write = |id, at, byte, fua| Event::Submit {
            id,
            request: Request::Write { at, data: vec![byte; 1024].into(), fua },
        };
        vec![
            write(0, 4096, 1, false),
            Event::Complete { id: 0, ok: true },
            Event::Mark("before".into()),
            Event::Submit { id: 1, request: Request::Flush },
            Event::Complete { id: 1, ok: true },
            write(2, 4096, 2, true),
            Event::Complete { id: 2, ok: false },
            Event::Submit { id: 3, request: Request::Zeroes { at: 0, len: 512, fua: false } },
        ]
    }

    fn written(path: &Path) -> Vec<u8> {
        let mut base = vec![0; 200_704];
        base[100_000..100_100].fill(7);
        let mut writer = Writer::create(path, base.len() as u64, &mut base.as_slice()).unwrap();
        for event in events() {
            writer.event(&event).unwrap();
        }
        writer.finish().unwrap();
        base
    }

    #[test]
    fn a_recording_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r");
        let base = written(&path);
        let recording = Recording::read(&path).unwrap();
        assert_eq!(recording.events, events());
        assert_eq!(recording.base.bytes(0, base.len()), base);
        let at = recording.mark("before").unwrap();
        assert_eq!(at, 2);
        assert_eq!(recording.image_at(at, Keep::None).bytes(4096, 1), [0]);
        assert_eq!(recording.image_at(at, Keep::All).bytes(4096, 1), [1]);
        assert_eq!(recording.image_at(usize::MAX, Keep::None).bytes(4096, 1), [2]);
    }

    #[test]
    fn however_it_ends_what_came_before_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r");
        written(&path);
        let whole = std::fs::read(&path).unwrap();
        let all = events();
        let mut met = std::collections::BTreeSet::new();
        for len in (0..whole.len()).step_by(7) {
            std::fs::write(&path, &whole[..len]).unwrap();
            match Recording::read(&path) {
                Ok(part) => {
                    assert_eq!(part.events, all[..part.events.len()]);
                    met.insert(part.events.len());
                }
                Err(FileError::Foreign(_)) => assert!(len < 16),
                Err(FileError::NoBeginning(_)) => assert!(len >= 16),
                Err(other) => panic!("{other}"),
            }
        }
        assert!(met.len() > 3, "{met:?}");
        for at in (whole.len() - 900..whole.len()).step_by(11) {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, &damaged).unwrap();
            let part = Recording::read(&path).unwrap();
            assert!(part.events.len() < all.len());
            assert_eq!(part.events, all[..part.events.len()]);
        }
    }
}
