//! Where each reply lies: an ordered map in memory, rebuilt from the segments.

use std::collections::BTreeMap;

use super::entry::{Head, Limit, RequestKey};

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// From request keys to entries. A key has several entries where it was asked with several limits.
#[derive(Debug, Default)]
pub struct Index {
    // 16 of a key's 32 bytes: enough for billions of replies, and the head that is read has them all.
    entries: BTreeMap<(u128, Location), Limit>,
}

impl Index {
    /// Adds an entry.
    pub fn insert(&mut self, head: &Head, location: Location) {
        self.entries.insert((head.key.prefix(), location), head.limit);
    }

    /// Forgets an entry that turned out to be unreadable.
    pub fn remove(&mut self, key: &RequestKey, location: Location) {
        self.entries.remove(&(key.prefix(), location));
    }

    /// An entry that answers a request with this limit; the one asked with that very limit is preferred, then the
    /// earliest, so that the same store gives the same answer.
    pub fn find(&self, key: &RequestKey, max_tokens: u32) -> Option<Location> {
        let first = Location { segment: 0, offset: 0 };
        let last = Location { segment: u32::MAX, offset: u32::MAX };
        let candidates = || self.entries.range((key.prefix(), first)..=(key.prefix(), last));
        candidates()
            .find(|(_, limit)| limit.max_tokens == max_tokens)
            .or_else(|| candidates().find(|(_, limit)| limit.answers(max_tokens)))
            .map(|((_, location), _)| *location)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
