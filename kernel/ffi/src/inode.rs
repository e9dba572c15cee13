// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Inodes by number: read, change attributes, make one without a name, destroy.

use crate::abi::{
    ATTR_ATIME, ATTR_GID, ATTR_MODE, ATTR_MTIME, ATTR_UID, Answer, Attr, INVALID, NewAttrs, Report,
    SetAttrs, answer,
};
use crate::handle::{VolumeHandle, exclusive, shared, step};
use crate::pointer::{Place, bytes, input};
use vexfs::{Ino, NewInode, SetAttr};

/// `Volume::inode`: reads inode `ino` into `*out`. 0, `-ENOENT`, `-EAGAIN` (see the report), `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_init_inode(
    volume: *const VolumeHandle,
    ino: u64,
    out: *mut Attr,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (shared) for `volume`, 2 for `out`.
        let (volume, out) = unsafe { (shared(volume)?, Place::new(out)?) };
        out.set(Attr::from(&volume.inode(Ino(ino))?));
        Ok(())
    })
}

/// `Volume::set_attr`: changes attributes of inode `ino`; `*out`, if not null, gets the inode as it is then.
///
/// 0; `-EINVAL` for an unknown bit in `valid`; `-ENOENT`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_write_inode(
    volume: *mut VolumeHandle,
    ino: u64,
    attrs: *const SetAttrs,
    out: *mut Attr,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `attrs`, 2 for `out`.
        let (volume, attrs, out) =
            unsafe { (exclusive(volume)?, input(attrs)?, Place::optional(out)) };
        let inode = volume.set_attr(Ino(ino), &changed(attrs)?)?;
        if let Some(out) = out {
            out.set(Attr::from(&inode));
        }
        Ok(())
    })
}

/// `Volume::create_unnamed`: makes a regular file without a name (`O_TMPFILE`): an orphan until it is linked.
///
/// 0; `-EINVAL` for another type; `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_new_inode(
    volume: *mut VolumeHandle,
    attrs: *const NewAttrs,
    out: *mut Attr,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `attrs` and its target, 2 for `out`.
        let (volume, new, out) =
            unsafe { (exclusive(volume)?, new_inode(attrs)?, Place::new(out)?) };
        out.set(Attr::from(&volume.create_unnamed(&new)?));
        Ok(())
    })
}

/// What is to be changed; refuses unknown bits.
pub(crate) fn changed(attrs: &SetAttrs) -> Answer<SetAttr> {
    let known = ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_ATIME | ATTR_MTIME;
    if attrs.valid & !known != 0 {
        return Err(INVALID);
    }
    let has = |bit| attrs.valid & bit != 0;
    Ok(SetAttr {
        mode: has(ATTR_MODE).then_some(attrs.mode),
        uid: has(ATTR_UID).then_some(attrs.uid),
        gid: has(ATTR_GID).then_some(attrs.gid),
        atime: has(ATTR_ATIME).then(|| attrs.atime.into()),
        mtime: has(ATTR_MTIME).then(|| attrs.mtime.into()),
        ctime: attrs.ctime.into(),
    })
}

/// What C says a new inode is to be.
///
/// # Safety
/// Rule 1 of the crate's contract, for `attrs` and for the target in it.
pub(crate) unsafe fn new_inode<'a>(attrs: *const NewAttrs) -> Answer<NewInode<'a>> {
    // SAFETY: rule 1 for `attrs`.
    let attrs = unsafe { input(attrs)? };
    // SAFETY: rule 1 for the target.
    let target = unsafe { bytes(attrs.target, attrs.target_len as usize)? };
    Ok(NewInode {
        mode: attrs.mode,
        uid: attrs.uid,
        gid: attrs.gid,
        rdev: attrs.rdev,
        target,
        now: attrs.now.into(),
    })
}

/// `Volume::evict`: destroys inode `ino`, which has no name left and no user, in steps: while `*more` is 1, call it
/// again. One that has names is left alone, but for what a truncation that was cut short has to free yet.
///
/// 0 (also if there is no such inode any more), `-EROFS`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_destroy_inode(
    volume: *mut VolumeHandle,
    ino: u64,
    more_out: *mut u32,
    report: *mut Report,
) -> i32 {
    // SAFETY: `step` has the same contract.
    unsafe { step(volume, more_out, report, |volume| Ok(volume.evict(Ino(ino))?)) }
}

/// `Volume::next_orphan`: finds the first orphan numbered `from` or higher, to be handed to
/// `vexfs_rust_destroy_inode` unless somebody uses it: an inode without a name, or one whose truncation was cut
/// short. `*ino` gets it, or 0 if there is none.
///
/// 0, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_next_orphan(
    volume: *const VolumeHandle,
    from: u64,
    ino: *mut u64,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (shared) for `volume`, 2 for `ino`.
        let (volume, out) = unsafe { (shared(volume)?, Place::new(ino)?) };
        out.set(volume.next_orphan(Ino(from))?.map_or(0, |ino| ino.0));
        Ok(())
    })
}
