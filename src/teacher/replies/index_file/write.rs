//! Writing an index.

use std::io::{self, Seek, SeekFrom, Write};

use super::super::entry::checksum;
use super::{BLOCK_BYTES, BLOCK_ENTRIES, BadIndex, Covered, FORMAT, HEADER_BYTES, IndexEntry, LINE_BYTES, MAGIC};

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
