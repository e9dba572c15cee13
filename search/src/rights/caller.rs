// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Who asks, and what they may do with an inode.
//!
//! Invariant: nothing is granted that the kernel would refuse on an ordinary mount. The rules are those of
//! POSIX.1e (draft 17, 23.1.5): the owner, then named users, then groups, then others. Of the capabilities
//! only root's are known here, and identity-mapped mounts are not: both only ever refuse more.

use rustix::net::sockopt::socket_peercred;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use vexfs::Inode;

/// Reading a file, or listing a directory.
pub const READ: u8 = 4;
/// Passing through a directory.
pub const SEARCH: u8 = 1;

/// The attribute that holds an inode's ACL.
pub const ACL: &[u8] = b"system.posix_acl_access";

/// An identity: that of a process when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Caller {
    /// The process at the other end of a Unix socket.
    ///
    /// # Errors
    /// The system's, for example if the socket is not connected.
    pub fn of_peer(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = socket_peercred(socket)?;
        Ok(Self {
            uid: credentials.uid.as_raw(),
            gid: credentials.gid.as_raw(),
            groups: peer_groups(socket)?,
        })
    }

    /// Root, who may read everything.
    #[must_use]
    pub const fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new() }
    }

    /// Whether it is root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether all of `want` is allowed on `inode`, whose ACL is `acl`, if it has one. An ACL that cannot be
    /// read grants nothing.
    #[must_use]
    pub fn may(&self, inode: &Inode, acl: Option<&[u8]>, want: u8) -> bool {
        if self.is_root() {
            return true;
        }
        let bits = |shift: u32| (inode.mode >> shift & 7) as u8;
        let grants = |bits: u8| bits & want == want;
        if self.uid == inode.uid {
            return grants(bits(6));
        }
        match acl {
            None if self.is_in(inode.gid) => grants(bits(3)),
            None => grants(bits(0)),
            Some(acl) => match entries(acl) {
                Some(entries) => self.may_by(&entries, inode, want),
                None => false,
            },
        }
    }

    /// As [`may`](Self::may) for who does not own the inode.
    fn may_by(&self, entries: &[Entry], inode: &Inode, want: u8) -> bool {
        let mask = entries.iter().find(|entry| entry.tag == MASK).map_or(7, |entry| entry.bits);
        let grants = |bits: u8| bits & want == want;
        let named = |entry: &&Entry| entry.tag == USER && entry.id == self.uid;
        if let Some(entry) = entries.iter().find(named) {
            return grants(entry.bits & mask);
        }
        let mut groups = entries
            .iter()
            .filter(|entry| match entry.tag {
                GROUP_OBJ => self.is_in(inode.gid),
                GROUP => self.is_in(entry.id),
                _ => false,
            })
            .peekable();
        if groups.peek().is_some() {
            // One group has to grant all that is wanted.
            return groups.any(|entry| grants(entry.bits & mask));
        }
        entries.iter().any(|entry| entry.tag == OTHER && grants(entry.bits))
    }
}

/// Supplementary groups of the process at the other end.
fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the descriptor is open as long as `socket` is borrowed; `groups` has room for `bytes`
        // bytes and any bytes are valid numbers; the kernel writes no more than `bytes` says.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            ) != 0
        };
        let count = bytes as usize / size_of::<u32>();
        if !failed {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel says how much room it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

const SO_PEERGROUPS: libc::c_int = 59;

/// An entry of an ACL.
#[derive(Debug)]
struct Entry {
    tag: u16,
    bits: u8,
    id: u32,
}

// Tags of entries (linux/posix_acl_xattr.h); the owner's own entry equals the mode.
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The entries of an ACL in the form of the kernel's attribute: a version, then tag, bits and id of each.
fn entries(acl: &[u8]) -> Option<Vec<Entry>> {
    let (&version, rest) = acl.split_first_chunk::<4>()?;
    let (entries, []) = rest.as_chunks::<8>() else { return None };
    (u32::from_le_bytes(version) == 2).then(|| {
        let entry = |&[t0, t1, p0, _, a, b, c, d]: &[u8; 8]| Entry {
            tag: u16::from_le_bytes([t0, t1]),
            bits: p0 & 7,
            id: u32::from_le_bytes([a, b, c, d]),
        };
        entries.iter().map(entry).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vexfs::Ino;

    fn inode(mode: u32) -> Inode {
        Inode {
            ino: Ino(9),
            mode: 0o100_000 | mode,
            nlink: 1,
            uid: 10,
            gid: 20,
            size: 0,
            blocks: 0,
            atime: vexfs::Time::default(),
            mtime: vexfs::Time::default(),
            ctime: vexfs::Time::default(),
            btime: vexfs::Time::default(),
            rdev: 0,
            parent: Ino(0),
            project: 0,
            version: 0,
            vector: true,
        }
    }

    fn caller(uid: u32, gid: u32, groups: &[u32]) -> Caller {
        Caller { uid, gid, groups: groups.to_vec() }
    }

    fn acl(entries: &[(u16, u8, u32)]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, bits, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(u16::from(*bits).to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn without_an_acl_the_first_class_that_applies_decides() {
        let (owner, group, other) =
            (caller(10, 1, &[]), caller(11, 1, &[3, 20]), caller(11, 1, &[]));
        for (mode, expected) in [
            (0o400, [true, false, false]),
            (0o040, [false, true, false]),
            // The owner and the group are not "others".
            (0o004, [false, false, true]),
            (0o444, [true, true, true]),
            (0o333, [false, false, false]),
        ] {
            let found = [&owner, &group, &other].map(|who| who.may(&inode(mode), None, READ));
            assert_eq!(found, expected, "{mode:o}");
        }
        assert!(caller(0, 0, &[]).may(&inode(0), None, READ | SEARCH));
        assert!(!owner.may(&inode(0o400), None, READ | SEARCH), "all of what is wanted");
    }

    #[test]
    fn an_acl_is_asked_in_the_order_of_posix() {
        let list = acl(&[
            (1, 7, 0),
            (USER, 4, 11),
            (GROUP_OBJ, 0, 0),
            (GROUP, 5, 30),
            (GROUP, 2, 31),
            (MASK, 4, 0),
            (OTHER, 4, 0),
        ]);
        let file = inode(0o640);
        let may = |who: &Caller, want| who.may(&file, Some(&list), want);
        assert!(may(&caller(11, 1, &[]), READ), "a named user");
        assert!(
            !may(&caller(11, 30, &[]), READ | SEARCH),
            "a named user has what the entry says, not the groups'"
        );
        assert!(
            !may(&caller(12, 20, &[]), READ),
            "the owning group has nothing, though others have"
        );
        assert!(may(&caller(12, 1, &[30]), READ), "a named group");
        assert!(!may(&caller(12, 1, &[30]), SEARCH), "the mask limits it");
        assert!(may(&caller(12, 1, &[20, 30]), READ), "one of several groups grants it");
        assert!(!may(&caller(12, 1, &[31]), READ));
        assert!(may(&caller(12, 1, &[]), READ), "others are not masked");
        assert!(may(&caller(10, 1, &[]), READ), "the owner goes by the mode");
    }

    #[test]
    fn an_acl_that_cannot_be_read_grants_nothing() {
        for bad in [&b""[..], b"\x01\0\0\0", b"\x02\0\0\0\x01"] {
            assert!(!caller(12, 1, &[]).may(&inode(0o777), Some(bad), READ), "{bad:?}");
        }
    }

    #[test]
    fn the_peer_of_a_socket_is_this_process() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let caller = Caller::of_peer(&one).unwrap();
        assert_eq!(caller.uid, rustix::process::geteuid().as_raw());
        assert_eq!(caller.gid, rustix::process::getegid().as_raw());
        let own: Vec<u32> =
            rustix::process::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        assert_eq!(caller.groups, own);
    }
}
