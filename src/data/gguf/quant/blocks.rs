//! Plain numbers, and blocks of 32 that share one scale.

/// Numbers of a block.
const BLOCK: usize = 32;

/// Little-endian f32.
pub(super) fn f32(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}

/// Little-endian f16.
pub(super) fn f16(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = f16_at(bytes, 0);
    }
}

/// Little-endian bf16: the upper half of an f32.
pub(super) fn bf16(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(2)) {
        *value = half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    }
}

/// `d, q[32]: i8`; x = d·q.
pub(super) fn q8_0(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(34)) {
        let d = f16_at(block, 0);
        for (value, q) in values.iter_mut().zip(&block[2..]) {
            *value = d * f32::from(q.cast_signed());
        }
    }
}

/// `d, q[32]: 4 bits`; x = d·(q − 8). Byte i holds number i in its low and number i + 16 in its high half.
pub(super) fn q4_0(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(18)) {
        let d = f16_at(block, 0);
        for (i, q) in four_bits(&block[2..]) {
            values[i] = d * (f32::from(q) - 8.0);
        }
    }
}

/// `d, m, q[32]: 4 bits`; x = d·q + m. Numbers lie as in [`q4_0`].
pub(super) fn q4_1(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(20)) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (i, q) in four_bits(&block[4..]) {
            values[i] = d * f32::from(q) + m;
        }
    }
}

/// `d, h: u32, q[32]: 4 bits`; x = d·(q + 16·(bit i of h) − 16). Numbers lie as in [`q4_0`].
pub(super) fn q5_0(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(22)) {
        let (d, high) = (f16_at(block, 0), &block[2..6]);
        for (i, q) in four_bits(&block[6..]) {
            values[i] = d * (f32::from(q | fifth_bit(high, i)) - 16.0);
        }
    }
}

/// `d, m, h: u32, q[32]: 4 bits`; x = d·(q + 16·(bit i of h)) + m. Numbers lie as in [`q4_0`].
pub(super) fn q5_1(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(24)) {
        let (d, m, high) = (f16_at(block, 0), f16_at(block, 2), &block[4..8]);
        for (i, q) in four_bits(&block[8..]) {
            values[i] = d * f32::from(q | fifth_bit(high, i)) + m;
        }
    }
}

/// The f16 that begins at a byte.
pub(super) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The 32 numbers of 16 bytes, each with its place.
fn four_bits(bytes: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    bytes.iter().enumerate().flat_map(|(i, byte)| [(i, byte & 15), (i + BLOCK / 2, byte >> 4)])
}

/// Bit i of four bytes, as the fifth bit of a number.
fn fifth_bit(high: &[u8], i: usize) -> u8 {
    (high[i / 8] >> (i % 8) & 1) << 4
}
