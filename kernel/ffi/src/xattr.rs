// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Extended attributes, by their full names ("user.x"). And the vector attribute (`vexfs.vector`), which the engine keeps
//! apart from them, as a structure.

use crate::abi::{
    Answer, INVALID, RANGE, Report, SetAttrs, Timestamp, XATTR_CREATE, XATTR_REPLACE, answer,
};
use crate::device::KernelDevice;
use crate::handle::{VolumeHandle, exclusive, fill};
use crate::inode::changed;
use crate::pointer::{bytes, input};
use core::fmt::{self, Write as _};
use vexfs::{Error, Ino, VectorLayout, Volume, XattrMode};

/// The name of an attribute, of a length that one may have.
///
/// # Safety
/// Rule 1 of the crate's contract for `name`.
unsafe fn attribute<'a>(name: *const u8, len: u32) -> Answer<&'a [u8]> {
    match len {
        0 => Err(INVALID),
        // SAFETY: rule 1 for `name`.
        1..=255 => unsafe { bytes(name, len as usize) },
        _ => Err(RANGE),
    }
}

/// `Volume::xattr_get`: reads an attribute's value into the `len` bytes at `buf`; `*used` gets its length. With `len`
/// 0 only the length is told.
///
/// 0, `-ENODATA`, `-ERANGE` if it does not fit, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_xattr_get(
    volume: *const VolumeHandle,
    ino: u64,
    name: *const u8,
    name_len: u32,
    buf: *mut u8,
    len: usize,
    used: *mut usize,
    report: *mut Report,
) -> i32 {
    // SAFETY: `fill` has the same contract; rule 1 for `name`.
    unsafe {
        fill(volume, (buf, len), used, report, |volume, buf| {
            let value = volume.xattr_get(Ino(ino), attribute(name, name_len)?)?;
            if len != 0 {
                buf.get_mut(..value.len()).ok_or(RANGE)?.copy_from_slice(&value);
            }
            Ok(value.len())
        })
    }
}

/// `Volume::xattr_list`: lists attribute names, each with a zero behind it, in the `len` bytes at `buf`; `*used` gets
/// the bytes they take. With `len` 0 only that is told.
///
/// 0, `-ERANGE` if they do not fit, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_xattr_list(
    volume: *const VolumeHandle,
    ino: u64,
    buf: *mut u8,
    len: usize,
    used: *mut usize,
    report: *mut Report,
) -> i32 {
    let list = |volume: &Volume<KernelDevice>, buf: &mut [u8]| {
        let mut filled = 0;
        let mut fits = true;
        volume.xattr_list(Ino(ino), &mut |name| {
            let need = name.len() + 1;
            if len != 0 {
                match buf.get_mut(filled..filled + need).and_then(<[u8]>::split_last_mut) {
                    Some((zero, text)) => {
                        text.copy_from_slice(name);
                        *zero = 0;
                    }
                    None => fits = false,
                }
            }
            filled += need;
            fits
        })?;
        if fits { Ok(filled) } else { Err(RANGE) }
    };
    // SAFETY: `fill` has the same contract.
    unsafe { fill(volume, (buf, len), used, report, list) }
}

/// `Volume::xattr_set`: sets an attribute. `flags`: 0, `VEXFS_XATTR_CREATE` or `VEXFS_XATTR_REPLACE`.
///
/// 0, `-EEXIST`, `-ENODATA`, `-E2BIG`, `-ERANGE`, `-EINVAL`, `-ENOENT`, `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-ENOMEM`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_xattr_set(
    volume: *mut VolumeHandle,
    ino: u64,
    name: *const u8,
    name_len: u32,
    value: *const u8,
    len: usize,
    flags: u32,
    now: Timestamp,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `name` and `value`.
        let (volume, name, value) =
            unsafe { (exclusive(volume)?, attribute(name, name_len)?, bytes(value, len)?) };
        let mode = match flags {
            0 => XattrMode::Set,
            XATTR_CREATE => XattrMode::Create,
            XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(INVALID),
        };
        volume.xattr_set(Ino(ino), name, value, mode, now.into())?;
        Ok(())
    })
}

/// `Volume::xattr_remove`: removes an attribute. 0, `-ENODATA`, and as `vexfs_rust_xattr_set`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_xattr_remove(
    volume: *mut VolumeHandle,
    ino: u64,
    name: *const u8,
    name_len: u32,
    now: Timestamp,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `name`.
        let (volume, name) = unsafe { (exclusive(volume)?, attribute(name, name_len)?) };
        volume.xattr_remove(Ino(ino), name, now.into())?;
        Ok(())
    })
}

/// `Volume::acl_set`: sets an attribute, or removes it if `value` is null, and changes attributes of the inode in the
/// same change: an ACL and its mode. One that is to be removed need not be there.
///
/// 0, `-EINVAL` for an unknown bit in `valid`, and as `vexfs_rust_xattr_set`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_set_acl(
    volume: *mut VolumeHandle,
    ino: u64,
    name: *const u8,
    name_len: u32,
    value: *const u8,
    len: usize,
    attrs: *const SetAttrs,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `name` and `attrs`.
        let (volume, name, attrs) =
            unsafe { (exclusive(volume)?, attribute(name, name_len)?, input(attrs)?) };
        let value = match (value.is_null(), len) {
            (true, 0) => None,
            // SAFETY: rule 1 for `value`.
            _ => Some(unsafe { bytes(value, len)? }),
        };
        volume.acl_set(Ino(ino), name, value, &changed(attrs)?)?;
        Ok(())
    })
}

/// `Volume::set_vector`: sets the vector attribute of `ino` from its text, or takes it away if `len` is 0.
///
/// 0; `-EINVAL` with a message if the text is wrong or the file lies in too many pieces; `-ENOENT`,
/// `-EROFS`, `-EAGAIN`, `-ENOSPC`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_set_vector(
    volume: *mut VolumeHandle,
    ino: u64,
    text: *const u8,
    len: usize,
    now: Timestamp,
    report: *mut Report,
) -> i32 {
    answer(report, || {
        // SAFETY: rules 3 and 4 (exclusive) for `volume`, 1 for `text`.
        let (volume, text) = unsafe { (exclusive(volume)?, bytes(text, len)?) };
        let layout = if len == 0 {
            None
        } else {
            let text = core::str::from_utf8(text).map_err(|_| INVALID)?;
            Some(VectorLayout::parse(text)?)
        };
        volume.set_vector(Ino(ino), layout.as_ref(), now.into())?;
        Ok(())
    })
}

struct Text<'a> {
    target: &'a mut [u8],
    len: usize,
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(place) = self.target.get_mut(self.len..self.len + text.len()) {
            place.copy_from_slice(text.as_bytes());
        }
        self.len += text.len();
        Ok(())
    }
}

/// `Volume::vector`: writes the text of the vector attribute of `ino` (no zero behind it) to the `len` bytes at
/// `buf`; `*used` gets its length. With `len` 0 only the length is told.
///
/// 0, `-ENODATA` without one, `-ERANGE` if it does not fit, `-ENOENT`, `-EAGAIN`, `-EUCLEAN`, `-EIO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vexfs_rust_get_vector(
    volume: *const VolumeHandle,
    ino: u64,
    buf: *mut u8,
    len: usize,
    used: *mut usize,
    report: *mut Report,
) -> i32 {
    let print = |volume: &Volume<KernelDevice>, target: &mut [u8]| {
        let layout = volume.vector(Ino(ino))?.ok_or(Error::NoAttr)?;
        let mut text = Text { target, len: 0 };
        // Cannot fail: it counts what does not fit.
        let _ = write!(text, "{layout}");
        if len != 0 && text.len > len { Err(RANGE) } else { Ok(text.len) }
    };
    // SAFETY: `fill` has the same contract.
    unsafe { fill(volume, (buf, len), used, report, print) }
}
