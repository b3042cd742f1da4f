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

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::File;
use half::f16;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, DataResult};
use crate::mapped::{Cursor, Mapped};

/// The file of an artifact's signals, in its part `signals/`.
pub const SIGNALS_FILE: &str = "signals.bin";

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
    /// Creates the file.
    pub fn create(path: &Path, header: SignalHeader, precision: Precision) -> DataResult<Self> {
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
        let dense = positions.iter().all(|position| position.ids.is_empty());
        let encoding = Encoding { dense, precision: self.precision };
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
            encode_log_probs(self.precision, &position.log_probs, &mut record);
        }
        self.append(key, positions.len() as u32, &record)
    }

    /// Copies a signal from another file of the same vocabulary as it is, under a key of its own: a signal also holds
    /// for every sequence that only begins with the one it was made for. At most `positions` positions are kept.
    pub fn copy(&mut self, key: SequenceKey, signal: &Signal<'_>, positions: usize) -> DataResult<()> {
        let kept: Vec<TopK> = (0..signal.len().min(positions)).map(|place| signal.position(place)).collect();
        self.add(key, signal.first_position(), &kept)
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
        self.output
            .write_all(&tail)
            .and_then(|()| self.output.flush())
            .map_err(DataError::io(&self.path))?;
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

fn id_width(vocabulary: u32) -> usize {
    if vocabulary <= 1 << 16 { 2 } else { 4 }
}

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

/// One sequence's signal, decoded position by position.
#[derive(Debug, Clone, Copy)]
pub struct Signal<'a> {
    first_position: u32,
    precision: Precision,
    vocabulary: u32,
    positions: usize,
    /// Ends (u32) and ids; `None` when dense.
    sparse: Option<(&'a [u8], &'a [u8])>,
    log_probs: &'a [u8],
}

impl<'a> Signal<'a> {
    /// Checks every length once, so that reading a position cannot fail.
    fn parse(record: &'a [u8], positions: usize, vocabulary: u32) -> Option<Self> {
        let mut cursor = Cursor::new(record);
        let encoding = Encoding::of(cursor.take(4)?[0])?;
        let first_position = cursor.u32()?;
        let (sparse, values) = if encoding.dense {
            (None, positions.checked_mul(vocabulary as usize)?)
        } else {
            let ends = cursor.take(positions.checked_mul(4)?)?;
            let mut last = 0;
            for end in ends.chunks_exact(4).map(read_u32) {
                if end < last {
                    return None;
                }
                last = end;
            }
            let ids = cursor.take(last as usize * id_width(vocabulary))?;
            (Some((ends, ids)), last as usize)
        };
        let log_probs = cursor.take(values.checked_mul(encoding.precision.width())?)?;
        let whole = ENTRY_HEAD + sparse.map_or(0, |(ends, ids)| ends.len() + ids.len()) + log_probs.len();
        (whole == record.len()).then_some(Self {
            first_position,
            precision: encoding.precision,
            vocabulary,
            positions,
            sparse,
            log_probs,
        })
    }

    /// Index in the sequence of the token that the first position predicts.
    pub fn first_position(&self) -> u32 {
        self.first_position
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// Whether every position holds the whole vocabulary.
    pub fn is_dense(&self) -> bool {
        self.sparse.is_none()
    }

    /// The distribution for the token at `first_position + place`.
    ///
    /// # Panics
    /// When `place` is not below [`Signal::len`].
    pub fn position(&self, place: usize) -> TopK {
        let mut out = TopK::default();
        self.read(place, &mut out);
        out
    }

    /// As [`Signal::position`], into buffers that are used again.
    ///
    /// # Panics
    /// When `place` is not below [`Signal::len`].
    pub fn read(&self, place: usize, out: &mut TopK) {
        assert!(place < self.positions, "position {place} of a signal with {}", self.positions);
        out.ids.clear();
        out.log_probs.clear();
        let values = match self.sparse {
            None => place * self.vocabulary as usize..(place + 1) * self.vocabulary as usize,
            Some((ends, ids)) => {
                let end = |place: usize| read_u32(&ends[place * 4..place * 4 + 4]) as usize;
                let values = if place == 0 { 0 } else { end(place - 1) }..end(place);
                let width = id_width(self.vocabulary);
                let bytes = &ids[values.start * width..values.end * width];
                match width {
                    2 => out.ids.extend(bytes.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]])))),
                    _ => out.ids.extend(bytes.chunks_exact(4).map(read_u32)),
                }
                values
            }
        };
        let width = self.precision.width();
        let bytes = &self.log_probs[values.start * width..values.end * width];
        match self.precision {
            Precision::F16 => out
                .log_probs
                .extend(bytes.chunks_exact(2).map(|x| f16::from_le_bytes([x[0], x[1]]).to_f32())),
            Precision::F32 => out.log_probs.extend(bytes.chunks_exact(4).map(|x| f32::from_bits(read_u32(x)))),
        }
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
