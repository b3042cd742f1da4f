//! The "K" types: super-blocks of 256 numbers in groups of 16 or 32, whose own scales are quantised too.
//!
//! Bits of the numbers lie in planes: a byte of a plane holds bits of several numbers that stand 32 (or 64) apart.

use super::blocks::f16_at;

/// Numbers of a super-block.
const SUPER: usize = 256;

/// `s[16], q[64]: 2 bits, d, m`; group g of 16: x = d·(s_g & 15)·q − m·(s_g >> 4).
///
/// In each half of 128 numbers, number 32·p + l is bits 2p, 2p + 1 of byte l of that half's 32 bytes.
pub(super) fn q2_k(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(SUPER).zip(bytes.chunks_exact(84)) {
        let (scales, q) = (&block[..16], &block[16..80]);
        let (d, m) = (f16_at(block, 80), f16_at(block, 82));
        for (i, value) in values.iter_mut().enumerate() {
            let scale = scales[i / 16];
            let (step, least) = (d * f32::from(scale & 15), m * f32::from(scale >> 4));
            *value = step * f32::from(two_bits(q, i)) - least;
        }
    }
}

/// `h[32], q[64]: 2 bits, s[12], d`; group g of 16: x = d·(s_g − 32)·(q + 4·bit − 4), where the bit is number ⌊i/32⌋ of
/// byte i mod 32 of h.
///
/// The two bits lie as in [`q2_k`]. A scale has 6 bits: its low four are a half of byte g mod 8 (the high half from
/// group 8 on), its high two are bits 2⌊g/4⌋, 2⌊g/4⌋ + 1 of byte 8 + g mod 4.
pub(super) fn q3_k(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(SUPER).zip(bytes.chunks_exact(110)) {
        let (high, q, packed) = (&block[..32], &block[32..96], &block[96..108]);
        let d = f16_at(block, 108);
        for (i, value) in values.iter_mut().enumerate() {
            let group = i / 16;
            let low_scale = packed[group % 8] >> (4 * (group / 8)) & 15;
            let high_scale = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
            let step = d * (f32::from(low_scale | high_scale << 4) - 32.0);
            let bit = high[i % 32] >> (i / 32) & 1;
            *value = step * (f32::from(two_bits(q, i) | bit << 2) - 4.0);
        }
    }
}

/// `d, m, s[12], q[128]: 4 bits`; group g of 32: x = d·scale_g·q − m·least_g, see [`six_bit_pair`].
///
/// Groups 2p and 2p + 1 are the low and the high halves of bytes 32p … 32p + 31.
pub(super) fn q4_k(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(SUPER).zip(bytes.chunks_exact(144)) {
        let (d, m, packed, q) = (f16_at(block, 0), f16_at(block, 2), &block[4..16], &block[16..]);
        for (group, values) in values.chunks_exact_mut(32).enumerate() {
            let (scale, least) = six_bit_pair(packed, group);
            let (step, least) = (d * f32::from(scale), m * f32::from(least));
            for (l, value) in values.iter_mut().enumerate() {
                *value = step * f32::from(nibble(q, group, l)) - least;
            }
        }
    }
}

/// `d, m, s[12], h[32], q[128]: 4 bits`; as [`q4_k`] with bit g of byte l of h as the fifth bit of number l of group g.
pub(super) fn q5_k(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(SUPER).zip(bytes.chunks_exact(176)) {
        let (d, m, packed) = (f16_at(block, 0), f16_at(block, 2), &block[4..16]);
        let (high, q) = (&block[16..48], &block[48..]);
        for (group, values) in values.chunks_exact_mut(32).enumerate() {
            let (scale, least) = six_bit_pair(packed, group);
            let (step, least) = (d * f32::from(scale), m * f32::from(least));
            for (l, value) in values.iter_mut().enumerate() {
                let bit = high[l] >> group & 1;
                *value = step * f32::from(nibble(q, group, l) | bit << 4) - least;
            }
        }
    }
}

/// `l[128]: 4 bits, h[64]: 2 bits, s[16]: i8, d`; group g of 16: x = d·s_g·(l + 16·h − 32).
///
/// In each half of 128 numbers, number 32·p + l has its low bits in byte 32·(p mod 2) + l (the high half of it from
/// p = 2 on) of that half's 64 bytes, and its high bits as bits 2p, 2p + 1 of byte l of that half's 32.
pub(super) fn q6_k(bytes: &[u8], values: &mut [f32]) {
    for (values, block) in values.chunks_exact_mut(SUPER).zip(bytes.chunks_exact(210)) {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let d = f16_at(block, 208);
        for (i, value) in values.iter_mut().enumerate() {
            let (half, place) = (i / 128, i % 128);
            let low = low[64 * half + place % 64] >> (4 * (place / 64)) & 15;
            let q = low | two_bits(high, i) << 4;
            let step = d * f32::from(scales[i / 16].cast_signed());
            *value = step * (f32::from(q) - 32.0);
        }
    }
}

/// Number i of 256 numbers of two bits, see [`q2_k`].
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    let (half, place) = (i / 128, i % 128);
    bytes[32 * half + place % 32] >> (2 * (place / 32)) & 3
}

/// Number l of a group of 32 numbers of four bits, see [`q4_k`].
fn nibble(bytes: &[u8], group: usize, l: usize) -> u8 {
    bytes[32 * (group / 2) + l] >> (4 * (group % 2)) & 15
}

/// Scale and least value of group g of eight, six bits each, out of twelve bytes s.
///
/// For g < 4 they are the low six bits of s_g and s_{g+4}. From 4 on, their low four bits are the halves of s_{g+4} and
/// their high two are the high two of s_{g−4} and s_g.
fn six_bit_pair(s: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (s[g] & 63, s[g + 4] & 63)
    } else {
        (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4)
    }
}
