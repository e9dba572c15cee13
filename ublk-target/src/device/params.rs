// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What is asked of the driver for a device, in its terms.
//!
//! Every limit here is one that the driver or the block layer enforces.

use crate::image::Image;
use crate::options::{Options, Recovery};
use crate::request::SECTOR_BYTES;
use libublk::sys;
use vexfs_format::window::BYTES;

impl Recovery {
    /// The driver's feature flags.
    #[must_use]
    pub fn flags(self) -> u64 {
        let base = u64::from(sys::UBLK_F_CMD_IOCTL_ENCODE);
        let recovery = u64::from(sys::UBLK_F_USER_RECOVERY);
        match self {
            Self::None => base,
            Self::Wait => base | recovery,
            Self::Reissue => base | recovery | u64::from(sys::UBLK_F_USER_RECOVERY_REISSUE),
            Self::Fail => base | recovery | u64::from(sys::UBLK_F_USER_RECOVERY_FAIL_IO),
        }
    }
}

/// Memory for the buffers of all requests together.
const BUFFERS_BYTES_MAX: u32 = 32 << 20;
const BUFFER_BYTES_MAX: u32 = 512 << 10;
const BUFFER_BYTES_MIN: u32 = 16 << 10;

/// Bytes of one request's buffer: as many as memory allows, because large requests are cheaper.
#[must_use]
fn buffer_bytes(queues: u16, depth: u16) -> u32 {
    let share = BUFFERS_BYTES_MAX / (u32::from(queues.max(1)) * u32::from(depth.max(1)));
    let power = if share == 0 { 0 } else { 1 << share.ilog2() };
    power.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX)
}

const PAGE_SHIFT: u8 = 12;
/// As the number of a device: whichever the driver chooses.
pub const NO_DEVICE: u32 = u32::MAX;
/// The block layer counts a bio's bytes in 32 bits.
const RANGE_SECTORS_MAX: u32 = u32::MAX >> 9;

/// The `ADD_DEV` request for a new device; the driver chooses its number if `id` is `None`.
#[must_use]
pub fn device_info(id: Option<u32>, options: &Options) -> sys::ublksrv_ctrl_dev_info {
    sys::ublksrv_ctrl_dev_info {
        nr_hw_queues: options.queues,
        queue_depth: options.depth,
        max_io_buf_bytes: buffer_bytes(options.queues, options.depth),
        dev_id: id.unwrap_or(NO_DEVICE),
        ublksrv_pid: std::process::id() as i32,
        flags: options.recovery.flags(),
        ..Default::default()
    }
}

/// Length of a device made of that image; with `window`, the command window follows it.
#[must_use]
pub fn device_bytes(image: &Image, window: bool) -> u64 {
    image.exposed_bytes() + if window { BYTES } else { 0 }
}

/// The driver's parameters for a device made of that image.
#[must_use]
pub fn params(image: &Image, window: bool, buffer_bytes: u32) -> sys::ublk_params {
    let mut attrs = sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA;
    if image.read_only() {
        attrs |= sys::UBLK_ATTR_READ_ONLY;
    }
    let mut params = sys::ublk_params {
        len: size_of::<sys::ublk_params>() as u32,
        types: sys::UBLK_PARAM_TYPE_BASIC,
        ..Default::default()
    };
    params.basic = sys::ublk_param_basic {
        attrs,
        logical_bs_shift: image.logical_shift(),
        physical_bs_shift: PAGE_SHIFT,
        io_opt_shift: PAGE_SHIFT,
        io_min_shift: PAGE_SHIFT,
        max_sectors: buffer_bytes >> SECTOR_BYTES.ilog2(),
        dev_sectors: device_bytes(image, window) / SECTOR_BYTES,
        ..Default::default()
    };
    if !image.read_only() {
        params.types |= sys::UBLK_PARAM_TYPE_DISCARD;
        params.discard = sys::ublk_param_discard {
            discard_granularity: 1 << PAGE_SHIFT,
            max_discard_sectors: if image.punch_hole() { RANGE_SECTORS_MAX } else { 0 },
            max_write_zeroes_sectors: RANGE_SECTORS_MAX,
            max_discard_segments: 1,
            ..Default::default()
        };
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ImageOptions;

    #[test]
    fn buffers_stay_within_their_memory_and_hold_at_least_a_few_pages() {
        assert_eq!(buffer_bytes(1, 64), 512 << 10);
        assert_eq!(buffer_bytes(2, 64), 256 << 10);
        assert_eq!(buffer_bytes(1, 1), 512 << 10);
        assert_eq!(buffer_bytes(3, 100), 64 << 10);
        assert_eq!(buffer_bytes(4096, 4096), BUFFER_BYTES_MIN);
        for (queues, depth) in [(1, 64), (2, 128), (4, 256), (8, 17)] {
            let bytes = buffer_bytes(queues, depth);
            assert!(bytes.is_power_of_two());
            assert!(bytes * u32::from(queues) * u32::from(depth) <= BUFFERS_BYTES_MAX);
        }
    }

    #[test]
    fn the_device_has_the_images_size_and_a_cache_that_can_be_flushed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let path = file.path().to_owned();
        let options = ImageOptions { path, raw: true, read_only: false, buffered: true };
        let image = Image::open(&options).unwrap();
        let params = params(&image, false, 512 << 10);
        assert_eq!(params.basic.dev_sectors, 2048);
        let windowed = super::params(&image, true, 512 << 10);
        assert_eq!(windowed.basic.dev_sectors, 2048 + (8 << 20) / 512);
        assert_eq!(params.basic.logical_bs_shift, 9);
        assert_eq!(params.basic.max_sectors, 1024);
        assert_eq!(params.basic.attrs, sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA);
        assert_eq!(params.discard.max_discard_segments, 1);
        drop(image);
        let image = Image::open(&ImageOptions { read_only: true, ..options }).unwrap();
        let read_only = super::params(&image, false, 512 << 10);
        assert_eq!(read_only.basic.attrs & sys::UBLK_ATTR_READ_ONLY, sys::UBLK_ATTR_READ_ONLY);
        assert_eq!(read_only.types, sys::UBLK_PARAM_TYPE_BASIC);
    }
}
