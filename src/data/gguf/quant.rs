//! Types of tensors: blocks of bytes that stand for numbers.
//!
//! A tensor is a sequence of blocks along its rows. In the formulas `d` and `m` are f16, `q` whole numbers, and all
//! arithmetic is f32 in the written order, as in ggml's reference (`ggml-quants.c`), so that the values are equal to
//! the bit.

mod blocks;
mod super_blocks;

use rayon::prelude::*;

/// A type of tensors.
pub(super) struct Quant {
    /// Its number in files.
    number: u32,
    /// What ggml calls it.
    pub(super) name: &'static str,
    /// Numbers in a block.
    pub(super) block: usize,
    /// Bytes of a block.
    pub(super) bytes: usize,
    /// Whole blocks → their numbers.
    dequantise: fn(&[u8], &mut [f32]),
}

/// The types that can be read. A new one is a function and a line here.
pub(super) static QUANTS: &[Quant] = &[
    Quant { number: 0, name: "F32", block: 1, bytes: 4, dequantise: blocks::f32 },
    Quant { number: 1, name: "F16", block: 1, bytes: 2, dequantise: blocks::f16 },
    Quant { number: 30, name: "BF16", block: 1, bytes: 2, dequantise: blocks::bf16 },
    Quant { number: 8, name: "Q8_0", block: 32, bytes: 34, dequantise: blocks::q8_0 },
    Quant { number: 2, name: "Q4_0", block: 32, bytes: 18, dequantise: blocks::q4_0 },
    Quant { number: 3, name: "Q4_1", block: 32, bytes: 20, dequantise: blocks::q4_1 },
    Quant { number: 6, name: "Q5_0", block: 32, bytes: 22, dequantise: blocks::q5_0 },
    Quant { number: 7, name: "Q5_1", block: 32, bytes: 24, dequantise: blocks::q5_1 },
    Quant { number: 10, name: "Q2_K", block: 256, bytes: 84, dequantise: super_blocks::q2_k },
    Quant { number: 11, name: "Q3_K", block: 256, bytes: 110, dequantise: super_blocks::q3_k },
    Quant { number: 12, name: "Q4_K", block: 256, bytes: 144, dequantise: super_blocks::q4_k },
    Quant { number: 13, name: "Q5_K", block: 256, bytes: 176, dequantise: super_blocks::q5_k },
    Quant { number: 14, name: "Q6_K", block: 256, bytes: 210, dequantise: super_blocks::q6_k },
];

/// Names of types that exist but are not read here, for messages.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// Blocks that one thread does at a time.
const BATCH: usize = 4096;

impl Quant {
    /// The numbers of whole blocks.
    pub(super) fn dequantise(&self, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / self.bytes * self.block];
        values
            .par_chunks_mut(BATCH * self.block)
            .zip(bytes.par_chunks(BATCH * self.bytes))
            .for_each(|(values, bytes)| (self.dequantise)(bytes, values));
        values
    }
}

/// The type with this number, if it can be read.
pub(super) fn numbered(number: u32) -> Option<&'static Quant> {
    QUANTS.iter().find(|quant| quant.number == number)
}

/// What a type is called, whether it can be read or not.
pub(super) fn name_of(number: u32) -> String {
    let known = QUANTS.iter().map(|quant| (quant.number, quant.name)).chain(OTHERS.iter().copied());
    let name = known.into_iter().find(|(other, _)| *other == number);
    name.map_or_else(|| format!("type {number}"), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests;
