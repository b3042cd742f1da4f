//! The entries of a file by their first byte: one file a layout, one line in [`LAYOUTS`]. Also where entries go.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err::File;

use super::compact::FileModel;
use super::signal::Body;
use super::{FOOTER, HEAD, HEAD_2, INDEX_ENTRY, SequenceKey, SignalHeader, TAIL, hidden, plain};
use crate::error::{DataError, DataResult};

/// Byte of compact entries.
pub(super) const COMPACT: u8 = 4;
/// First byte of entries with hidden states.
pub(super) const HIDDEN: u8 = 5;

/// A payload's body; none where it is damaged.
type Read = for<'a> fn(&Encoded<'a>) -> Option<Body<'a>>;

/// How entries of some first bytes are read.
pub(super) struct Layout {
    pub(super) codes: std::ops::Range<u8>,
    pub(super) read: Read,
}

/// Every layout.
pub(super) static LAYOUTS: &[Layout] = &[
    Layout { codes: 0..4, read: |entry| plain::Entry::parse(entry).map(Body::Plain) },
    Layout {
        codes: COMPACT..HIDDEN,
        read: |entry| Some(Body::Decoded(entry.model?.decode(entry.payload, entry.positions)?)),
    },
    Layout { codes: HIDDEN..HIDDEN + 3, read: |entry| hidden::Entry::parse(entry).map(Body::Hidden) },
];

/// An entry as it lies in a file.
pub(super) struct Encoded<'a> {
    pub(super) code: u8,
    pub(super) positions: usize,
    pub(super) vocabulary: u32,
    pub(super) model: Option<&'a FileModel>,
    pub(super) payload: &'a [u8],
}

/// An entry's first 8 bytes.
pub(super) fn entry_head(code: u8, first_position: u32) -> Vec<u8> {
    let mut head = vec![code, 0, 0, 0];
    head.extend_from_slice(&first_position.to_le_bytes());
    head
}

/// Where entries go.
pub(super) trait Append {
    /// Takes the next entry.
    fn append(&mut self, key: SequenceKey, positions: u32, record: &[u8]) -> DataResult<()>;
}

/// Counts the bytes of entries, and of what the index has for each.
pub(super) struct SizeOnly<'a>(pub(super) &'a mut usize);

impl Append for SizeOnly<'_> {
    fn append(&mut self, _: SequenceKey, _: u32, record: &[u8]) -> DataResult<()> {
        *self.0 += record.len() + INDEX_ENTRY as usize;
        Ok(())
    }
}

/// A file that entries are appended to.
pub(super) struct Sink {
    path: PathBuf,
    output: BufWriter<File>,
    offset: u64,
    index: Vec<IndexEntry>,
    /// Whether there is an entry that the first version of the format does not know.
    second: bool,
}

#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    key: SequenceKey,
    offset: u64,
    length: u64,
    positions: u32,
}

impl Sink {
    pub(super) fn create(path: &Path, header: &SignalHeader) -> DataResult<Self> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(DataError::own_io(folder))?;
        }
        let mut output = BufWriter::with_capacity(1 << 18, File::create(path).map_err(DataError::own_io(path))?);
        let json = serde_json::to_vec(header).map_err(|e| DataError::own_io(path)(e.into()))?;
        output
            .write_all(HEAD)
            .and_then(|()| output.write_all(&(json.len() as u32).to_le_bytes()))
            .and_then(|()| output.write_all(&json))
            .map_err(DataError::own_io(path))?;
        let offset = (HEAD.len() + 4 + json.len()) as u64;
        Ok(Self { path: path.to_path_buf(), output, offset, index: Vec::new(), second: false })
    }

    /// Writes model, index and footer; gives the number of entries and that of all bytes.
    pub(super) fn finish(mut self, model: &[u8]) -> DataResult<(u64, u64)> {
        let Self { path, output, offset, index, second } = &mut self;
        // A stable sort, so of equal keys the first one added comes first and is the one that is kept.
        index.sort_by_key(|entry| entry.key);
        index.dedup_by_key(|entry| entry.key);
        let mut tail = Vec::with_capacity(model.len() + index.len() * INDEX_ENTRY as usize + FOOTER as usize + 16);
        tail.extend_from_slice(model);
        for IndexEntry { key, offset, length, positions } in &*index {
            tail.extend_from_slice(&key.0);
            tail.extend_from_slice(&offset.to_le_bytes());
            tail.extend_from_slice(&length.to_le_bytes());
            tail.extend_from_slice(&positions.to_le_bytes());
            tail.extend_from_slice(&[0; 4]);
        }
        if *second {
            tail.extend_from_slice(&offset.to_le_bytes());
            tail.extend_from_slice(&(model.len() as u64).to_le_bytes());
        }
        tail.extend_from_slice(&(*offset + model.len() as u64).to_le_bytes());
        tail.extend_from_slice(&(index.len() as u64).to_le_bytes());
        tail.extend_from_slice(TAIL);
        let bytes = *offset + tail.len() as u64;
        let mut write = || {
            output.write_all(&tail)?;
            if *second {
                output.seek(SeekFrom::Start(0))?;
                output.write_all(HEAD_2)?;
            }
            output.flush()
        };
        write().map_err(DataError::own_io(&*path))?;
        Ok((index.len() as u64, bytes))
    }
}

impl Append for Sink {
    fn append(&mut self, key: SequenceKey, positions: u32, record: &[u8]) -> DataResult<()> {
        self.output.write_all(record).map_err(DataError::own_io(&self.path))?;
        self.second |= record.first().is_some_and(|code| *code >= COMPACT);
        let length = record.len() as u64;
        self.index.push(IndexEntry { key, offset: self.offset, length, positions });
        self.offset += length;
        Ok(())
    }
}
