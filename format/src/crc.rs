// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CRC-32C (Castagnoli, RFC 3720 appendix B.4): by tables where there is nothing but `core`, with the
//! feature `std` by the processor's own instructions.

#[cfg(any(test, not(feature = "std")))]
mod tables;

#[cfg(feature = "std")]
pub use ::crc32c::crc32c;
#[cfg(not(feature = "std"))]
pub use tables::crc32c;

#[cfg(test)]
mod tests {
    use super::tables;

    #[test]
    fn known_vectors_of_rfc_3720() {
        assert_eq!(tables::crc32c(b""), 0);
        assert_eq!(tables::crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(tables::crc32c(&[0u8; 32]), 0x8A91_36AA);
        assert_eq!(tables::crc32c(&[0xFFu8; 32]), 0x62A8_AB43);
    }

    #[test]
    fn kernel_and_userspace_agree() {
        let data: [u8; 3000] = core::array::from_fn(|i| (i * i / 7) as u8);
        for from in 0..9 {
            for to in (from..data.len()).step_by(61) {
                let part = &data[from..to];
                assert_eq!(tables::crc32c(part), ::crc32c::crc32c(part), "{from}..{to}");
            }
        }
    }
}
