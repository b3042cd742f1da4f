//! Reading signals.

use std::path::Path;

use super::{FOOTER, HEAD, INDEX_ENTRY, SequenceKey, Signal, SignalHeader, TAIL};
use crate::error::{DataError, DataResult};
use crate::mapped::{Cursor, Mapped};

/// Reads a file of signals. Cheap to open, shareable between threads.
pub struct SignalReader {
    data: Mapped,
    header: SignalHeader,
    index: u64,
    count: u64,
}

impl SignalReader {
    /// Opens a file.
    pub fn open(path: &Path) -> DataResult<Self> {
        let data = Mapped::open(path)?;
        let length = data.all().len() as u64;
        let cut_short = || DataError::corrupt(path, "the file of teacher signals is cut short or damaged");
        let mut start = Cursor::new(data.all());
        if start.take(8) != Some(HEAD) {
            return Err(DataError::corrupt(path, "not a file of teacher signals, or of another version"));
        }
        let json = start.u32().and_then(|length| start.take(length as usize)).ok_or_else(cut_short)?;
        let header = serde_json::from_slice(json).map_err(|_| cut_short())?;
        let mut footer = Cursor::new(data.part(length.saturating_sub(FOOTER), FOOTER)?);
        let (index, count) = footer.u64().zip(footer.u64()).ok_or_else(cut_short)?;
        let whole = count
            .checked_mul(INDEX_ENTRY)
            .and_then(|index_length| index.checked_add(index_length)?.checked_add(FOOTER));
        if footer.take(8) != Some(TAIL) || whole != Some(length) {
            return Err(cut_short());
        }
        Ok(Self { data, header, index, count })
    }

    /// What holds for all entries.
    pub fn header(&self) -> &SignalHeader {
        &self.header
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The signal of a sequence, if there is one.
    pub fn get(&self, key: &SequenceKey) -> DataResult<Option<Signal<'_>>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.data.part(self.index + middle * INDEX_ENTRY, INDEX_ENTRY)?;
            match entry[..32].cmp(&key.0) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.signal(&entry[32..]).map(Some),
            }
        }
        Ok(None)
    }

    /// The signal of any of the file's teachers for a sequence: the first in the header's order.
    pub fn find(&self, tokens: &[u32]) -> DataResult<Option<Signal<'_>>> {
        for teacher in &self.header.teachers {
            if let Some(signal) = self.get(&SequenceKey::of(teacher, tokens))? {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }

    fn signal(&self, entry: &[u8]) -> DataResult<Signal<'_>> {
        let damaged = || DataError::corrupt(self.data.path(), "an entry of the teacher signals is damaged");
        let mut entry = Cursor::new(entry);
        let (offset, length) = entry.u64().zip(entry.u64()).ok_or_else(damaged)?;
        let positions = entry.u32().ok_or_else(damaged)? as usize;
        Signal::parse(self.data.part(offset, length)?, positions, self.header.vocabulary).ok_or_else(damaged)
    }
}
