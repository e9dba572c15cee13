// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! CRC-32C by tables, eight bytes a step.

const POLYNOMIAL: u32 = 0x82F6_3B78;

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler: it would not compile")]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut step = 1;
        while step < 8 {
            let prior = tables[step - 1][byte];
            tables[step][byte] = (prior >> 8) ^ tables[0][(prior & 0xFF) as usize];
            step += 1;
        }
        byte += 1;
    }
    tables
}

static TABLES: [[u32; 256]; 8] = tables();

/// The CRC of one byte; a byte is always within the table.
#[inline]
fn byte_crc(byte: u8) -> u32 {
    TABLES.first().and_then(|t| t.get(usize::from(byte))).copied().unwrap_or(0)
}

/// CRC-32C of `data`.
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let mixed = (u64::from_le_bytes(*word) ^ u64::from(crc)).to_le_bytes();
        crc = mixed.iter().zip(TABLES.iter().rev()).fold(0, |sum, (byte, table)| {
            sum ^ table.get(usize::from(*byte)).copied().unwrap_or(0)
        });
    }
    for byte in rest {
        crc = (crc >> 8) ^ byte_crc((crc as u8) ^ byte);
    }
    !crc
}
