//! Teacher signals: for each predicted position of a sequence the log-probabilities a teacher gives, found **by
//! content**, never by position in a file.
//!
//! One file, all numbers little-endian, pages in as it is read:
//!
//! ```text
//! "STHSIGN1"                                                8 bytes
//! header length u32, header: JSON of SignalHeader
//! per entry (8-byte header, then by encoding):
//!     encoding u8, zero u8 × 3, first position u32
//!   top-k (0: f16, 1: f32):   ends u32 × positions          values before the end of position i, over all positions
//!                             ids u16 or u32 × values       u16 when the vocabulary is at most 65,536
//!                             log-probs f16 or f32 × values
//!   dense (2: f16, 3: f32):   log-probs f16 or f32 × positions × vocabulary, by token id
//! index, sorted by key: key 32 bytes, offset u64, length u64, positions u32, zero u32
//! footer: index offset u64, entries u64, "STHSIEND"         24 bytes
//! ```
//!
//! Log-probabilities are natural logs of the raw softmax (temperature 1). As f16 a log-probability `x` is off by at
//! most `|x| · 2⁻¹¹` (4.9e-4 relative), so the cross-entropy against a distribution read back moves by less than
//! 4.9e-4 of the teacher's entropy. Where that matters, [`Precision::F32`] is exact.

mod reader;
mod signal;
#[cfg(test)]
mod tests;
mod writer;

use serde::{Deserialize, Serialize};

pub use reader::SignalReader;
pub use signal::Signal;
pub use writer::SignalWriter;

/// The file of an artifact's signals.
pub const SIGNALS_FILE: &str = "signals/signals.bin";

const HEAD: &[u8; 8] = b"STHSIGN1";
const TAIL: &[u8; 8] = b"STHSIEND";
const FOOTER: u64 = 24;
const INDEX_ENTRY: u64 = 56;
const ENTRY_HEAD: usize = 8;

/// The name of a teacher's signal for a token sequence:
/// `blake3("stillhouse/signal/1\0" ‖ len(teacher) u64 ‖ teacher id ‖ token ids u32)`, numbers little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceKey([u8; 32]);

impl SequenceKey {
    /// The key of a teacher (its weights' digest, or what else identifies it) and a whole sequence.
    pub fn of(teacher: &str, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/signal/1\0");
        hasher.update(&(teacher.len() as u64).to_le_bytes());
        hasher.update(teacher.as_bytes());
        tokens.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
        Self(*hasher.finalize().as_bytes())
    }
}

/// What holds for all entries of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalHeader {
    /// The ids of the teachers whose signals are in it, as they go into [`SequenceKey::of`].
    pub teachers: Vec<String>,
    /// [`crate::tokenizer::Tokenizer::digest`] of the tokenizer the ids belong to.
    pub tokenizer: String,
    /// Width of the teachers' distributions.
    pub vocabulary: u32,
}

/// A teacher's distribution for one position, or its most likely part.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopK {
    /// Token ids, most likely first. Empty when `log_probs` is the whole vocabulary, by token id.
    pub ids: Vec<u32>,
    /// Natural-log probabilities, one per id (or per token of the vocabulary).
    pub log_probs: Vec<f32>,
}

/// How log-probabilities are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Two bytes each; see the module for the error.
    #[default]
    F16,
    /// Four bytes each, exact.
    F32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Encoding {
    dense: bool,
    precision: Precision,
}

impl Encoding {
    fn byte(self) -> u8 {
        u8::from(self.dense) * 2 + u8::from(self.precision == Precision::F32)
    }

    fn of(byte: u8) -> Option<Self> {
        let precision = if byte & 1 == 1 { Precision::F32 } else { Precision::F16 };
        (byte < 4).then_some(Self { dense: byte >= 2, precision })
    }
}

impl Precision {
    fn width(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

fn id_width(vocabulary: u32) -> usize {
    if vocabulary <= 1 << 16 { 2 } else { 4 }
}
