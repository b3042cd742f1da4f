//! The reply store: every answer of a teacher is kept under the key of its request, durable before it counts.
//!
//! ```text
//! cache/replies/<teacher>/
//!   00000000.replies     segments: append-only, one writer each (held by a file lock), read by all
//!   00000000.index       where the replies of the segment lie; deleting it costs a scan
//!   00000001.replies
//!   claims               empty: locks on its bytes say who asks which request
//!   batches/             what was handed in and not fetched yet, see [`crate::batch::journal`]
//! ```
//!
//! `<teacher>` names what the teacher *is* (API family, model, revision), so renaming it in the file loses
//! nothing. A segment is a 16-byte header and then entries, each with its length and two checksums (see
//! [`entry`]). After a kill the last entry may be torn: it was never acknowledged, readers stop in front of it and the next
//! writer cuts it off.
//!
//! Where replies lie is told by an index file for most of a segment (bytes by bytes in `docs/replies.md`) and by a map in memory, about 70 bytes a
//! reply, for what came since it was written; only that part is scanned at the start. The file is written by the one who holds the
//! segment's lock: by its writer every 65,536 replies (less often where it is large), at the end and when the segment is full; by a
//! reader where nobody holds it and as much would have to be scanned. An index that is damaged, or of another segment than the
//! one beside it, is noticed, and made anew from the segment.
//!
//! The key leaves `max-tokens` out; an entry's head carries the limit it was asked with, so that a reply which
//! ended by itself also answers every request whose limit it would not have reached (see [`Limit`]).

mod claims;
pub mod entry;
pub mod exchange;
mod index_file;
#[cfg(test)]
mod index_tests;
mod indexed;
mod mend;
mod segment;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use entry::{Limit, RequestKey};
pub use indexed::Every;
pub use mend::{Mended, mend};
pub use store::{Claim, Location, Mine, ReplyStore};
pub use verify::{Damage, RepliesReport, WrongIndex, verify};

/// Why the store of replies could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {action} {path}: {reason}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// A segment was written by a version of the program that knows more than this one.
    #[error("{path} has format {found}, this program reads up to {known}")]
    NewerFormat {
        /// The segment.
        path: String,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// A file with a segment's name that is none.
    #[error("{path} is not a segment of replies")]
    NotASegment {
        /// The file.
        path: String,
    },
}

impl StoreError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "the cache must be writable and have room; replies stored before are kept",
            Self::NewerFormat { .. } => "update stillhouse, or use another cache with --cache",
            Self::NotASegment { .. } => "move it out of the cache",
        }
    }

    fn io(action: &'static str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Io { action, path: path.display().to_string(), reason: error.to_string() }
    }
}
