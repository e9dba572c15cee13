// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CRC-32C by the `crc32` instruction of x86-64 (Intel SDM, volume 2A, CRC32).

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const ABSENT: u8 = 1;
const PRESENT: u8 = 2;

/// Whether this processor has the instruction; asked once, because a hypervisor may answer slowly.
static SUPPORT: AtomicU8 = AtomicU8::new(UNKNOWN);

/// CPUID leaf 1, ECX bit 20: SSE 4.2, of which the instruction is a part.
const SSE_4_2: u32 = 1 << 20;

/// Proof that the processor has the instruction.
#[derive(Clone, Copy)]
pub(crate) struct Crc32(());

#[allow(clippy::unused_self, reason = "it is the proof")]
impl Crc32 {
    pub(crate) fn detect() -> Option<Self> {
        let mut support = SUPPORT.load(Ordering::Relaxed);
        if support == UNKNOWN {
            support = if __cpuid(1).ecx & SSE_4_2 != 0 { PRESENT } else { ABSENT };
            SUPPORT.store(support, Ordering::Relaxed);
        }
        (support == PRESENT).then_some(Self(()))
    }

    pub(crate) fn crc32c(self, data: &[u8]) -> u32 {
        let (words, rest) = data.as_chunks::<8>();
        let mut crc = u64::from(!0u32);
        for word in words {
            crc = self.word(crc, u64::from_le_bytes(*word));
        }
        let mut crc = crc as u32;
        for byte in rest {
            crc = self.byte(crc, *byte);
        }
        !crc
    }

    #[inline]
    fn word(self, mut crc: u64, word: u64) -> u64 {
        // SAFETY: the instruction exists: `self` is only made where CPUID says so. It reads and
        // writes the two general registers it is given and nothing else.
        unsafe {
            asm!("crc32 {crc}, {word}", crc = inout(reg) crc, word = in(reg) word,
                 options(pure, nomem, nostack, preserves_flags));
        }
        crc
    }

    #[inline]
    fn byte(self, mut crc: u32, byte: u8) -> u32 {
        // SAFETY: as above.
        unsafe {
            asm!("crc32 {crc:e}, {byte}", crc = inout(reg) crc, byte = in(reg_byte) byte,
                 options(pure, nomem, nostack, preserves_flags));
        }
        crc
    }
}
