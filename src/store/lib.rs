//! The content-addressed store: what stages made, and the proof that they made it.
//!
//! This crate knows no experiment file and no stage. It moves bytes, trees, records and claims, and
//! promises three things:
//!
//! 1. **A record is the only truth that something is done.** Blobs are durable before the record that
//!    names them exists, and a record whose blobs are gone reads as "run the producer again".
//! 2. **Nothing half-written is ever believed.** Every file gets its name only when its content is on
//!    the disk, whatever kills the process or the machine.
//! 3. **Many processes may share one store.** First writer wins; a claim dies with its holder.
//!
//! # On disk
//!
//! ```text
//! cache/
//!   blobs/ab/cdef…            immutable, read-only, named by the digest of the content
//!   records/ab/<key>.json     the success entry of a key; written last
//!   records/index.jsonl       append-only list of the records, for history; rebuildable
//!   replies/                  teacher replies; the teacher crate owns what is inside
//!   checkpoints/<key>.json    trajectory key → the blobs of a checkpoint
//!   attempts/<key>/<id>/      scratch space and logs of one try
//!   leases/<name>             claims: locked by the living holder, its name inside
//!   pins/<name>               roots that garbage collection keeps
//!   runs/<id>/                events.jsonl and log of one invocation
//!   quarantine/               content that no longer matched its name
//!   tmp/                      files that have no name yet
//!   stat-cache                (path, size, times, inode) → digest; rebuildable
//!   FORMAT  CACHEDIR.TAG  .gitignore
//! ```
//!
//! Nothing here needs a daemon, and every method may block on the disk. Unix only, for now: positioned
//! reads, inodes and modes are used as they are.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod attempts;
mod blobs;
mod checkpoints;
mod digest;
mod durable;
mod error;
mod gc;
mod hash;
mod index;
mod layout;
mod lease;
mod pins;
mod record;
mod records;
mod runs;
mod stat_cache;
mod stats;
mod store;
mod tree;
mod tree_io;
mod verify;

pub use attempts::SweepReport;
pub use checkpoints::{CheckpointFile, CheckpointManifest, HeldBlobs};
pub use digest::{Digest, Key, ParseDigestError};
pub use error::StoreError;
pub use gc::{GcOptions, GcReport};
pub use index::IndexEntry;
pub use layout::FORMAT;
pub use lease::{Lease, LeaseOwner};
pub use pins::PinTarget;
pub use record::{Lookup, Published, RECORD_FORMAT, Record};
pub use records::History;
pub use runs::{Run, RunEntry};
pub use stats::{AreaStats, Stats};
pub use store::Store;
pub use tree::{Tree, TreeEntry};
pub use verify::{BrokenRecord, VerifyReport};
