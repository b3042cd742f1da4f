//! [`Record`]: the proof that a key was made, and what a look-up can find.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Key};

/// The format of the records that this program writes.
pub const RECORD_FORMAT: u32 = 1;

/// The success entry of a key. It exists only when its whole output does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_FORMAT`] when it was written.
    pub format: u32,
    /// What was asked.
    pub key: Key,
    /// The stage's kind.
    pub kind: String,
    /// The revision of the kind's meaning.
    pub revision: u32,
    /// The stage's name in the experiment that made it first. Not part of the key.
    pub stage: String,
    /// The canonical JSON text that the key was made from.
    pub recipe: String,
    /// What came out: the digest of a tree.
    pub output: Digest,
    /// Numbers worth showing.
    pub metrics: serde_json::Value,
    /// Where the result comes from: program, machine, teachers, terms, cost.
    pub provenance: serde_json::Value,
    /// When it was made: RFC 3339, UTC.
    pub created: String,
    /// How long the attempt that made it took.
    pub seconds: f64,
    /// The run that made it.
    pub run: String,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "taken apart at once, never kept in numbers")]
pub enum Lookup {
    /// It was made, and its output is there.
    Found(Record),
    /// It was never made.
    Missing,
    /// It was made, and something of it is gone: make it again.
    Broken {
        /// What is gone or damaged.
        reason: String,
    },
}

/// How publishing a record ended.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "taken apart at once, never kept in numbers")]
pub enum Published {
    /// This record is the key's record now.
    Won,
    /// The key had one already: use this one and drop the own result.
    Lost(Record),
}
