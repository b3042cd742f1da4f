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

use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use fs_err::File;

use super::entry::{Limit, checksum};

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

/// Writes an index of `count` entries that come in their order. Nothing has to be synced: what a power cut leaves unfinished
/// is noticed by its checksums.
///
/// # Errors
/// If it cannot be written; if an entry could not be read, or `count` is not their number.
pub fn write<W: Write + Seek>(
    out: &mut W,
    covered: &Covered,
    count: usize,
    entries: impl Iterator<Item = Result<IndexEntry, BadIndex>>,
) -> io::Result<()> {
    let mut table = Vec::with_capacity(count.div_ceil(BLOCK_ENTRIES) * LINE_BYTES);
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut close = |block: &mut Vec<u8>, out: &mut W| {
        table.extend_from_slice(&block[..8]);
        table.extend_from_slice(&checksum(block));
        out.write_all(block)?;
        block.clear();
        io::Result::Ok(())
    };
    // The header comes last, so that what was begun and not completed is no index.
    out.write_all(&[0; HEADER_BYTES])?;
    let mut written = 0;
    for entry in entries {
        block.extend_from_slice(&entry.map_err(io::Error::other)?.encode());
        written += 1;
        if block.len() == BLOCK_BYTES {
            close(&mut block, out)?;
        }
    }
    if !block.is_empty() {
        close(&mut block, out)?;
    }
    if written != count {
        return Err(io::Error::other("the number of entries changed meanwhile"));
    }
    out.write_all(&table)?;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[12..16].copy_from_slice(&covered.segment.to_le_bytes());
    header[16..24].copy_from_slice(&covered.end.to_le_bytes());
    header[24..32].copy_from_slice(&covered.last.to_le_bytes());
    header[32..40].copy_from_slice(&covered.last_check);
    header[40..48].copy_from_slice(&(count as u64).to_le_bytes());
    header[48..56].copy_from_slice(&checksum(&table));
    let check = checksum(&header[..56]);
    header[56..].copy_from_slice(&check);
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&header)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const COVERED: Covered = Covered { segment: 3, end: 1 << 40, last: 77, last_check: *b"12345678" };

    /// Keys that share their first half with others, some of them several entries long.
    fn entries(count: u32) -> Vec<IndexEntry> {
        let limit = |n| Limit { max_tokens: n, tokens: n / 2, ended_by_itself: n % 3 == 0 };
        let entry = |n: u32| IndexEntry {
            prefix: (u128::from(n / 200) << 100) + u128::from(n / 7 * 10),
            offset: n,
            limit: limit(n),
        };
        (0..count).map(entry).collect()
    }

    fn bytes(entries: &[IndexEntry]) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        write(&mut out, &COVERED, entries.len(), entries.iter().copied().map(Ok)).unwrap();
        out.into_inner()
    }

    #[test]
    fn every_key_is_found_with_all_its_entries() {
        for count in [1, 63, 64, 65, 128, 5000] {
            let all = entries(count);
            let index = IndexFile::in_memory(bytes(&all)).unwrap();
            assert_eq!((index.len(), index.covered()), (all.len(), &COVERED));
            assert_eq!(index.iter().collect::<Result<Vec<_>, _>>().unwrap(), all);
            for entry in &all {
                let expected: Vec<_> = all.iter().filter(|other| other.prefix == entry.prefix).copied().collect();
                assert_eq!(index.get(entry.prefix).unwrap(), expected);
                assert_eq!(index.get(entry.prefix + 1).unwrap(), []);
            }
            assert_eq!(index.get(u128::MAX).unwrap(), []);
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_so_is_any_cut() {
        let all = entries(150);
        let whole = bytes(&all);
        let sound = |bytes: Vec<u8>| IndexFile::in_memory(bytes).is_ok_and(|index| index.iter().all(|one| one.is_ok()));
        assert!(sound(whole.clone()));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!sound(flipped), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(!sound(whole[..length].to_vec()), "cut at {length}");
        }
        assert!(!sound([whole, vec![0]].concat()));
    }

    #[test]
    fn the_bytes_are_pinned() {
        let one = IndexEntry {
            prefix: 0x0102,
            offset: 16,
            limit: Limit { max_tokens: 512, tokens: 7, ended_by_itself: true },
        };
        let bytes = bytes(&[one]);
        assert_eq!(bytes.len(), 64 + 32 + 16);
        assert_eq!(bytes[..12], *b"SHindex\0\x01\0\0\0");
        assert_eq!(bytes[12..16], [3, 0, 0, 0]);
        assert_eq!(bytes[64..96], *b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x10\0\0\0\0\x02\0\0\x07\0\0\0\x01\0\0\0");
    }
}
