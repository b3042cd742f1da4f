//! Writing signals.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use half::f16;

use super::{Encoding, FOOTER, HEAD, INDEX_ENTRY, Precision, SequenceKey, Signal, SignalHeader, TAIL, TopK, id_width};
use crate::error::{DataError, DataResult};

/// Writes a file of signals. Memory stays flat but for the index.
pub struct SignalWriter {
    path: PathBuf,
    output: BufWriter<File>,
    header: SignalHeader,
    precision: Precision,
    offset: u64,
    index: Vec<IndexEntry>,
}

#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    key: SequenceKey,
    offset: u64,
    length: u64,
    positions: u32,
}

impl SignalWriter {
    /// Creates the file, and its folder.
    pub fn create(path: &Path, header: SignalHeader, precision: Precision) -> DataResult<Self> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(DataError::io(folder))?;
        }
        let mut output = BufWriter::with_capacity(1 << 18, File::create(path).map_err(DataError::io(path))?);
        let json = serde_json::to_vec(&header).map_err(|e| DataError::io(path)(e.into()))?;
        output
            .write_all(HEAD)
            .and_then(|()| output.write_all(&(json.len() as u32).to_le_bytes()))
            .and_then(|()| output.write_all(&json))
            .map_err(DataError::io(path))?;
        let offset = (HEAD.len() + 4 + json.len()) as u64;
        Ok(Self { path: path.to_path_buf(), output, header, precision, offset, index: Vec::new() })
    }

    /// Adds a sequence's signal: `positions[i]` predicts the token at `first_position + i`, so the first possible
    /// `first_position` is 1. A key added before is left as it is.
    pub fn add(&mut self, key: SequenceKey, first_position: u32, positions: &[TopK]) -> DataResult<()> {
        self.encode(key, first_position, positions, self.precision)
    }

    fn encode(
        &mut self,
        key: SequenceKey,
        first_position: u32,
        positions: &[TopK],
        precision: Precision,
    ) -> DataResult<()> {
        let dense = positions.iter().all(|position| position.ids.is_empty());
        let encoding = Encoding { dense, precision };
        let mut record = Vec::new();
        record.extend_from_slice(&[encoding.byte(), 0, 0, 0]);
        record.extend_from_slice(&first_position.to_le_bytes());
        if !dense {
            self.encode_ids(positions, &mut record)?;
        }
        for position in positions {
            let width = if dense { self.header.vocabulary as usize } else { position.ids.len() };
            if position.log_probs.len() != width {
                return Err(DataError::invalid(
                    format!("a signal has {} log-probabilities where {width} belong", position.log_probs.len()),
                    "this is a fault of the teacher that made it",
                ));
            }
            encode_log_probs(precision, &position.log_probs, &mut record);
        }
        self.append(key, positions.len() as u32, &record)
    }

    /// Copies a signal from another file of the same vocabulary, in its own precision, under a key of its own: a signal also holds
    /// for every sequence that only begins with the one it was made for. At most `positions` positions are kept.
    pub fn copy(&mut self, key: SequenceKey, signal: &Signal<'_>, positions: usize) -> DataResult<()> {
        let kept: Vec<TopK> = (0..signal.len().min(positions)).map(|place| signal.position(place)).collect();
        self.encode(key, signal.first_position(), &kept, signal.precision())
    }

    fn encode_ids(&self, positions: &[TopK], record: &mut Vec<u8>) -> DataResult<()> {
        let mut end = 0u32;
        for position in positions {
            end += position.ids.len() as u32;
            record.extend_from_slice(&end.to_le_bytes());
        }
        for id in positions.iter().flat_map(|position| &position.ids) {
            if *id >= self.header.vocabulary {
                return Err(DataError::invalid(
                    format!("a signal names token {id}, but the vocabulary has {} tokens", self.header.vocabulary),
                    "is this the tokenizer of that teacher?",
                ));
            }
            match id_width(self.header.vocabulary) {
                2 => record.extend_from_slice(&(*id as u16).to_le_bytes()),
                _ => record.extend_from_slice(&id.to_le_bytes()),
            }
        }
        Ok(())
    }

    fn append(&mut self, key: SequenceKey, positions: u32, record: &[u8]) -> DataResult<()> {
        self.output.write_all(record).map_err(DataError::io(&self.path))?;
        let length = record.len() as u64;
        self.index.push(IndexEntry { key, offset: self.offset, length, positions });
        self.offset += length;
        Ok(())
    }

    /// Writes the index; gives the number of entries.
    pub fn finish(mut self) -> DataResult<u64> {
        // A stable sort, so of equal keys the first one added comes first and is the one that is kept.
        self.index.sort_by_key(|entry| entry.key);
        self.index.dedup_by_key(|entry| entry.key);
        let mut tail = Vec::with_capacity(self.index.len() * INDEX_ENTRY as usize + FOOTER as usize);
        for IndexEntry { key, offset, length, positions } in &self.index {
            tail.extend_from_slice(&key.0);
            tail.extend_from_slice(&offset.to_le_bytes());
            tail.extend_from_slice(&length.to_le_bytes());
            tail.extend_from_slice(&positions.to_le_bytes());
            tail.extend_from_slice(&[0; 4]);
        }
        tail.extend_from_slice(&self.offset.to_le_bytes());
        tail.extend_from_slice(&(self.index.len() as u64).to_le_bytes());
        tail.extend_from_slice(TAIL);
        self.output.write_all(&tail).and_then(|()| self.output.flush()).map_err(DataError::io(&self.path))?;
        Ok(self.index.len() as u64)
    }
}

fn encode_log_probs(precision: Precision, log_probs: &[f32], record: &mut Vec<u8>) {
    for log_prob in log_probs {
        match precision {
            Precision::F16 => record.extend_from_slice(&f16::from_f32(*log_prob).to_le_bytes()),
            Precision::F32 => record.extend_from_slice(&log_prob.to_le_bytes()),
        }
    }
}
