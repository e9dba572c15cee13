// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CRC-32C (Castagnoli, RFC 3720 appendix B.4): with the feature `std` a library's, without an operating
//! system what [`vexfs_crc`] does. A test there holds the two against each other.

#[cfg(feature = "std")]
pub use ::crc32c::crc32c;
#[cfg(not(feature = "std"))]
pub use vexfs_crc::crc32c;
