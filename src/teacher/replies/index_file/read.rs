//! Opening an index and finding replies in it.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use fs_err::File;

use super::super::entry::checksum;
use super::{
    BLOCK_BYTES, BLOCK_ENTRIES, BadIndex, Covered, ENTRY_BYTES, FORMAT, HEADER_BYTES, IndexEntry, LINE_BYTES, MAGIC,
};

/// A line of the table of blocks.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: u64,
    check: [u8; 8],
}

#[derive(Debug)]
enum Source {
    File(File),
    /// Where the cache cannot be written.
    Memory(Vec<u8>),
}

/// An opened index: a quarter of a byte in memory for each reply.
#[derive(Debug)]
pub struct IndexFile {
    source: Source,
    covered: Covered,
    entries: u64,
    blocks: Vec<Block>,
}

impl IndexFile {
    /// Opens an index file; `None` if there is none.
    ///
    /// # Errors
    /// [`BadIndex`] if its header or its table of blocks is not as it was written, or its length is another.
    pub fn open(path: &Path) -> Result<Option<Self>, BadIndex> {
        match File::open(path) {
            Ok(file) => Self::read(Source::File(file)).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// An index that lives in memory, as [`write`] made it.
    ///
    /// # Errors
    /// As [`IndexFile::open`].
    pub fn in_memory(bytes: Vec<u8>) -> Result<Self, BadIndex> {
        Self::read(Source::Memory(bytes))
    }

    fn read(source: Source) -> Result<Self, BadIndex> {
        let mut header = [0; HEADER_BYTES];
        source.read_at(&mut header, 0)?;
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            bytes
        };
        let number = |at: usize| u64::from_le_bytes(word(at));
        if word(0) != MAGIC || word(56) != checksum(&header[..56]) {
            return Err(BadIndex("its header is damaged"));
        }
        if header[8..12] != FORMAT.to_le_bytes() {
            return Err(BadIndex("its format is another"));
        }
        let (segment, entries) = ((number(8) >> 32) as u32, number(40));
        let lines = entries.div_ceil(BLOCK_ENTRIES as u64);
        let expected = entries
            .checked_mul(ENTRY_BYTES as u64)
            .and_then(|bytes| bytes.checked_add(HEADER_BYTES as u64 + lines * LINE_BYTES as u64));
        if entries == 0 || expected != Some(source.length()?) {
            return Err(BadIndex("its length is another"));
        }
        let mut table = vec![0; lines as usize * LINE_BYTES];
        source.read_at(&mut table, HEADER_BYTES as u64 + entries * ENTRY_BYTES as u64)?;
        if word(48) != checksum(&table) {
            return Err(BadIndex("its table of blocks is damaged"));
        }
        let covered = Covered { segment, end: number(16), last: number(24), last_check: word(32) };
        let (lines, _) = table.as_chunks::<LINE_BYTES>();
        let blocks = lines.iter().map(Block::decode).collect();
        Ok(Self { source, covered, entries, blocks })
    }

    /// The part of the segment that it covers.
    pub fn covered(&self) -> &Covered {
        &self.covered
    }

    /// Whether it is only there as long as this process is.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.source, Source::Memory(_))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// The entries of a key, ascending by offset.
    ///
    /// # Errors
    /// [`BadIndex`] if a block is not as it was written.
    pub fn get(&self, prefix: u128) -> Result<Vec<IndexEntry>, BadIndex> {
        let first = (prefix >> 64) as u64;
        // The key may begin in the block in front of the first one that begins with it.
        let start = self.blocks.partition_point(|block| block.first < first).saturating_sub(1);
        let mut found = Vec::new();
        let mut buffer = [0; BLOCK_BYTES];
        for number in start..self.blocks.len() {
            if self.blocks[number].first > first {
                break;
            }
            let entries = self.block(number, &mut buffer)?;
            let from = entries.partition_point(|bytes| bytes[..16] < prefix.to_be_bytes()[..]);
            let entries = entries[from..].iter().map(IndexEntry::decode);
            found.extend(entries.take_while(|entry| entry.prefix == prefix));
        }
        Ok(found)
    }

    /// All entries in their order.
    pub fn iter(&self) -> impl Iterator<Item = Result<IndexEntry, BadIndex>> {
        (0..self.blocks.len()).flat_map(|number| {
            let mut buffer = [0; BLOCK_BYTES];
            match self.block(number, &mut buffer) {
                Ok(entries) => entries.iter().map(|bytes| Ok(IndexEntry::decode(bytes))).collect::<Vec<_>>(),
                Err(bad) => vec![Err(bad)],
            }
        })
    }

    fn block<'b>(&self, number: usize, buffer: &'b mut [u8; BLOCK_BYTES]) -> Result<&'b [[u8; ENTRY_BYTES]], BadIndex> {
        let before = number * BLOCK_ENTRIES;
        let bytes = (self.len() - before).min(BLOCK_ENTRIES) * ENTRY_BYTES;
        let bytes = &mut buffer[..bytes];
        self.source.read_at(bytes, (HEADER_BYTES + before * ENTRY_BYTES) as u64)?;
        if checksum(bytes) != self.blocks[number].check {
            return Err(BadIndex("a block of it is damaged"));
        }
        Ok(bytes.as_chunks().0)
    }
}

impl Block {
    fn decode(line: &[u8; LINE_BYTES]) -> Self {
        let (mut first, mut check) = ([0; 8], [0; 8]);
        first.copy_from_slice(&line[..8]);
        check.copy_from_slice(&line[8..]);
        Self { first: u64::from_be_bytes(first), check }
    }
}

impl Source {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.file().read_exact_at(bytes, offset),
            Self::Memory(all) => {
                let part = usize::try_from(offset).ok().and_then(|start| all.get(start..)?.get(..bytes.len()));
                bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    fn length(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Memory(all) => Ok(all.len() as u64),
        }
    }
}
