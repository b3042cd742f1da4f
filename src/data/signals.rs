//! Teacher signals: for each predicted position of a sequence what a teacher says, found **by content**, never by
//! position in a file.
//!
//! What is kept is chosen by a selection ([`most_likely`], [`top_p`], [`draw`], hidden states, or all), how it is kept by an
//! encoding ([`ENCODINGS`]), and what that costs is measured ([`Quality`]). The file is specified byte by byte in
//! `docs/signals.md`:
//!
//! ```text
//! "STHSIGN1" or "STHSIGN2"                                  8 bytes
//! header length u32, header: JSON of SignalHeader
//! entries, each by its layout (see `layout.rs`)
//! the model of the compact entries                          STHSIGN2
//! index, sorted by key: key 32 bytes, offset u64, length u64, positions u32, zero u32
//! footer: model offset u64, model length u64                STHSIGN2
//!         index offset u64, entries u64, "STHSIEND"         24 bytes
//! ```
//!
//! Log-probabilities are natural logs of the raw softmax (temperature 1). As f16 a log-probability `x` is off by at
//! most `|x| · 2⁻¹¹` (4.9e-4 relative), so the cross-entropy against a distribution read back moves by less than
//! 4.9e-4 of the teacher's entropy. Where that matters, [`Precision::F32`] is exact.

mod compact;
mod draw;
mod encoding;
mod head;
mod hidden;
mod layout;
mod plain;
mod quality;
mod reader;
mod select;
mod signal;
#[cfg(test)]
mod tests;
mod trial;
mod writer;

use serde::{Deserialize, Serialize};
use stillhouse_stage::spec::Config;

pub use compact::Compact;
pub use draw::draw;
pub use encoding::{ENCODINGS, Encoding, Form, Plain};
pub use head::{HEADS, Head, HeadReader, head_file};
pub use hidden::HiddenPrecision;
pub use quality::{Captured, Divergence, Exact, Quality};
pub use reader::SignalReader;
pub use select::{Selection, most_likely, top_p};
pub use signal::{Says, Signal};
pub use trial::{Against, Trial, Tried};
pub use writer::{SignalWriter, Size};

/// The file of an artifact's signals.
pub const SIGNALS_FILE: &str = "signals/signals.bin";

const HEAD: &[u8; 8] = b"STHSIGN1";
const HEAD_2: &[u8; 8] = b"STHSIGN2";
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

/// How plain log-probabilities are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Config)]
pub enum Precision {
    /// Two bytes each: off by at most 1/2048 of the value.
    #[default]
    F16,
    /// Four bytes each: exact.
    F32,
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
