// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CRC-32C (Castagnoli, RFC 3720 appendix B.4): of the crate `crc32c` with the feature `std`, else of
//! [`vexfs_crc`], which has a test that compares the two.

#[cfg(feature = "std")]
pub use ::crc32c::crc32c;
#[cfg(not(feature = "std"))]
pub use vexfs_crc::crc32c;
