// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CRC-32C (Castagnoli, RFC 3720 appendix B.4) for the kernel.
//!
//! It uses the processor's instruction where there is one (SSE 4.2), else tables. The instruction works
//! on general registers, so unlike the rest of SSE 4.2 it may be used in a kernel at any time. It is
//! written by hand because the compiler does not emit it for a target without vector registers.
//! Libraries that have it need a target with vector registers, and use those too.

#![no_std]
#![deny(missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

#[cfg(target_arch = "x86_64")]
mod instruction;
mod tables;

/// CRC-32C of `data`.
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(instruction) = instruction::Crc32::detect() {
        return instruction.crc32c(data);
    }
    tables::crc32c(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors_of_rfc_3720() {
        for crc in [crc32c, tables::crc32c] {
            assert_eq!(crc(b""), 0);
            assert_eq!(crc(b"123456789"), 0xE306_9283);
            assert_eq!(crc(&[0u8; 32]), 0x8A91_36AA);
            assert_eq!(crc(&[0xFFu8; 32]), 0x62A8_AB43);
        }
    }

    #[test]
    fn kernel_and_userspace_agree() {
        let data: [u8; 3000] = core::array::from_fn(|i| (i * i / 7) as u8);
        for from in 0..9 {
            for to in (from..data.len()).step_by(61) {
                let part = &data[from..to];
                let expected = ::crc32c::crc32c(part);
                assert_eq!(tables::crc32c(part), expected, "tables: {from}..{to}");
                assert_eq!(crc32c(part), expected, "{from}..{to}");
            }
        }
    }
}
