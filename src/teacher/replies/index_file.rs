//! The index file beside a segment, byte by byte: where the replies of the segment's first part lie, found without
//! reading the segment.
//!
//! `00000000.index` belongs to `00000000.replies`. It says nothing that the segment does not say: deleting it costs a
//! scan of the segment's heads. All numbers are little-endian, keys are as they are in the segment.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `SHindex\0` |
//! | 8 | 4 | format, 1 |
//! | 12 | 4 | number of the segment |
//! | 16 | 8 | where the covered part of the segment ends: behind a whole entry |
//! | 24 | 8 | offset of the last covered entry in the segment |
//! | 32 | 8 | bytes 64 to 72 of that entry, its head's checksum: they tell whether it is still the same segment |
//! | 40 | 8 | number of entries, n |
//! | 48 | 8 | first 8 bytes of the blake3 of the table of blocks |
//! | 56 | 8 | first 8 bytes of the blake3 of bytes 0 to 56 |
//! | 64 | 32 n | the entries, ascending by key, then by offset |
//! | 64 + 32 n | 16 ⌈n / 64⌉ | the table of blocks |
//!
//! An entry:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 16 | first half of the request key |
//! | 16 | 4 | offset of the reply's entry in the segment |
//! | 20 | 4 | `max-tokens` of the request |
//! | 24 | 4 | tokens of the reply |
//! | 28 | 4 | flags: bit 0 = the reply ended by itself |
//!
//! A block is 64 entries, the last one may have fewer. Its line in the table:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | first 8 bytes of its first entry's key |
//! | 8 | 8 | first 8 bytes of the blake3 of its entries |
//!
//! Only the header and the table are read and checked when a store is opened; each block is checked whenever it is read.
//! Reading instead of mapping: a file that is cut short meanwhile is an error and no crash.

mod read;
mod write;

use std::io;

use super::entry::Limit;

pub use read::IndexFile;
pub use write::write;

const MAGIC: [u8; 8] = *b"SHindex\0";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const BLOCK_ENTRIES: usize = 64;
const BLOCK_BYTES: usize = BLOCK_ENTRIES * ENTRY_BYTES;
const LINE_BYTES: usize = 16;
const ENDED_BY_ITSELF: u32 = 1;

/// One reply: whose it is, where it lies in its segment, what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The first half of the request's key.
    pub prefix: u128,
    /// Where the entry begins in the segment.
    pub offset: u32,
    /// The limit it was asked with.
    pub limit: Limit,
}

impl IndexEntry {
    /// What entries are sorted by.
    #[must_use]
    pub fn order(&self) -> (u128, u32) {
        (self.prefix, self.offset)
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..16].copy_from_slice(&self.prefix.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.limit.max_tokens.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.limit.tokens.to_le_bytes());
        let flags = if self.limit.ended_by_itself { ENDED_BY_ITSELF } else { 0 };
        bytes[28..].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut prefix = [0; 16];
        prefix.copy_from_slice(&bytes[..16]);
        let ended_by_itself = number(28) & ENDED_BY_ITSELF != 0;
        Self {
            prefix: u128::from_be_bytes(prefix),
            offset: number(16),
            limit: Limit { max_tokens: number(20), tokens: number(24), ended_by_itself },
        }
    }
}

/// The part of a segment that an index file covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The segment's number.
    pub segment: u32,
    /// Where the part ends.
    pub end: u64,
    /// Where its last entry begins.
    pub last: u64,
    /// The checksum of that entry's head.
    pub last_check: [u8; 8],
}

/// The file is none, is cut short, or has rotted: it is left aside and made anew.
#[derive(Debug, thiserror::Error)]
#[error("the index of a segment cannot be used: {0}")]
pub struct BadIndex(&'static str);

impl BadIndex {
    /// What is wrong, of the file.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.0
    }

    /// The segment was replaced, or cut off and written on.
    pub(super) const ANOTHER_SEGMENT: Self = Self("it tells of another segment than the one beside it");
    /// An entry of it is not what lies in the segment at its place.
    pub(super) const OTHER_REPLIES: Self = Self("it tells of replies that the segment does not have");
    /// A reply in the part that it covers is not in it: it would be asked again.
    pub(super) const MISSING_REPLIES: Self = Self("it leaves out replies that the segment has");
}

impl From<io::Error> for BadIndex {
    fn from(_: io::Error) -> Self {
        Self("it cannot be read")
    }
}

#[cfg(test)]
mod tests;
