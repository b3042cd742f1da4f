//! Reading signals.

use std::path::Path;

use super::compact::FileModel;
use super::layout::{Encoded, LAYOUTS};
use super::{ENTRY_HEAD, FOOTER, HEAD, HEAD_2, INDEX_ENTRY, SequenceKey, Signal, SignalHeader, TAIL};
use crate::error::{DataError, DataResult};
use crate::mapped::{Cursor, Mapped};

/// Reads a file of signals. Cheap to open, shareable between threads.
pub struct SignalReader {
    data: Mapped,
    header: SignalHeader,
    index: u64,
    count: u64,
    /// What compact entries are read with; none in the first version of the format.
    model: Option<FileModel>,
}

impl SignalReader {
    /// Opens a file.
    pub fn open(path: &Path) -> DataResult<Self> {
        let data = Mapped::open_own(path)?;
        let length = data.all().len() as u64;
        let cut_short = || DataError::corrupt(path, "the file of teacher signals is cut short or damaged");
        let mut start = Cursor::new(data.all());
        let second = match start.take(8) {
            Some(head) if head == HEAD => false,
            Some(head) if head == HEAD_2 => true,
            Some(head) if head.starts_with(&HEAD[..7]) => {
                return Err(DataError::corrupt(
                    path,
                    format!(
                        "the file of teacher signals is of format {}, this version reads formats 1 and 2",
                        char::from(head[7]).escape_default()
                    ),
                ));
            }
            _ => return Err(DataError::corrupt(path, "not a file of teacher signals")),
        };
        let json = start.u32().and_then(|length| start.take(length as usize)).ok_or_else(cut_short)?;
        let header: SignalHeader = serde_json::from_slice(json).map_err(|_| cut_short())?;
        let footer_length = if second { FOOTER + 16 } else { FOOTER };
        let mut footer =
            Cursor::new(data.part(length.checked_sub(footer_length).ok_or_else(cut_short)?, footer_length)?);
        let model = if second { footer.u64().zip(footer.u64()) } else { None };
        let (index, count) = footer.u64().zip(footer.u64()).ok_or_else(cut_short)?;
        let whole = count
            .checked_mul(INDEX_ENTRY)
            .and_then(|index_length| index.checked_add(index_length)?.checked_add(footer_length));
        if footer.take(8) != Some(TAIL) || whole != Some(length) || second != model.is_some() {
            return Err(cut_short());
        }
        let model = match model {
            Some((offset, length)) => Some(FileModel::read(header.vocabulary, data.part(offset, length)?)),
            None => None,
        };
        Ok(Self { data, header, index, count, model })
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
        self.entry(key)?.map(|entry| self.signal(entry)).transpose()
    }

    /// The signal of any of the file's teachers for a sequence: the first in the header's order.
    pub fn find(&self, tokens: &[u32]) -> DataResult<Option<Signal<'_>>> {
        Ok(self.find_with_teacher(tokens)?.map(|(_, signal)| signal))
    }

    /// As [`SignalReader::find`], with the teacher whose signal it is.
    pub fn find_with_teacher(&self, tokens: &[u32]) -> DataResult<Option<(&str, Signal<'_>)>> {
        for teacher in &self.header.teachers {
            if let Some(signal) = self.get(&SequenceKey::of(teacher, tokens))? {
                return Ok(Some((teacher, signal)));
            }
        }
        Ok(None)
    }

    /// An entry of the index but for its key.
    fn entry(&self, key: &SequenceKey) -> DataResult<Option<&[u8]>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.data.part(self.index + middle * INDEX_ENTRY, INDEX_ENTRY)?;
            match entry[..32].cmp(&key.0) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(&entry[32..])),
            }
        }
        Ok(None)
    }

    fn signal(&self, entry: &[u8]) -> DataResult<Signal<'_>> {
        let damaged = || DataError::corrupt(self.data.path(), "an entry of the teacher signals is damaged");
        let mut entry = Cursor::new(entry);
        let (offset, length) = entry.u64().zip(entry.u64()).ok_or_else(damaged)?;
        let positions = entry.u32().ok_or_else(damaged)? as usize;
        let record = self.data.part(offset, length)?;
        let (head, payload) = record.split_at_checked(ENTRY_HEAD).ok_or_else(damaged)?;
        let code = head[0];
        let Some(layout) = LAYOUTS.iter().find(|layout| layout.codes.contains(&code)) else {
            return Err(DataError::corrupt(
                self.data.path(),
                format!("an entry of the teacher signals has layout {code}, which this version doesn't know"),
            ));
        };
        let first_position = Cursor::new(&head[4..]).u32().ok_or_else(damaged)?;
        let (vocabulary, model) = (self.header.vocabulary, self.model.as_ref());
        let body = (layout.read)(&Encoded { code, positions, vocabulary, model, payload }).ok_or_else(damaged)?;
        Ok(Signal { first_position, positions, body })
    }
}
