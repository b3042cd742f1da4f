//! A segment with its index: the file for the part that it covers, an ordered map in memory for what came since.

use std::collections::BTreeMap;
use std::io::{BufWriter, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err::File;

use super::StoreError;
use super::entry::{Limit, RequestKey};
use super::index_file::{self, BadIndex, Covered, IndexEntry, IndexFile};
use super::segment::{self, Segment, file_name};

/// When index files are written.
#[derive(Clone, Copy, Debug)]
pub struct Every {
    /// As soon as so many replies are not in one.
    replies: usize,
}

impl Every {
    /// As soon as so many replies are not in an index file: what a start after a kill has to scan.
    pub const DEFAULT: Self = Self::replies(65_536);

    /// Another number of replies.
    #[must_use]
    pub const fn replies(replies: usize) -> Self {
        Self { replies: if replies == 0 { 1 } else { replies } }
    }

    /// How many replies that are not in the index file make it worth writing it again. It is written as a whole, so a large
    /// one is written less often.
    fn due_at(self, moment: Moment, indexed: usize) -> usize {
        match moment {
            Moment::Between => (indexed / 4).clamp(self.replies, self.replies.saturating_mul(8)),
            Moment::End => (indexed / 32).max(self.replies / 16).max(1),
            Moment::Full => 1,
        }
    }
}

/// When the question comes up whether to write an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// More is coming.
    Between,
    /// Nothing more comes from this process: the next start may have less to scan.
    End,
    /// Nothing more comes at all.
    Full,
}

/// A segment and where its replies lie.
#[derive(Debug)]
pub struct IndexedSegment {
    number: u32,
    path: PathBuf,
    segment: Segment,
    /// Where the last entry that was seen begins.
    last: u64,
    index: Option<Arc<IndexFile>>,
    /// Entries behind the part that the index covers.
    fresh: BTreeMap<(u128, u32), Limit>,
    every: Every,
    /// After a failure to write the index: not before there are so many fresh entries.
    not_before: usize,
}

impl IndexedSegment {
    /// Opens a segment and its index, and scans what the index does not cover.
    ///
    /// # Errors
    /// [`StoreError`] if the segment cannot be read, is none, or is of a newer format.
    pub fn open(directory: &Path, number: u32, every: Every) -> Result<Self, StoreError> {
        let path = directory.join(file_name(number));
        let segment = Segment::open(&path)?;
        let (index, fresh) = (None, BTreeMap::new());
        let mut opened = Self { number, path, segment, last: 0, index, fresh, every, not_before: 0 };
        opened.load();
        opened.scan()?;
        Ok(opened)
    }

    /// Takes the index file, where there is one of this very segment that covers more than what is known.
    fn load(&mut self) {
        match load(&self.path, &self.segment, self.number) {
            Ok(Some(index)) => self.install(Arc::new(index)),
            Ok(None) => {}
            Err(bad) => tracing::warn!(segment = %self.path.display(), "{bad}; it is made again from its replies"),
        }
    }

    fn install(&mut self, index: Arc<IndexFile>) {
        let covered = *index.covered();
        if let Some(known) = &self.index {
            let end = known.covered().end;
            if end > covered.end || (end == covered.end && !known.is_in_memory()) {
                return;
            }
        }
        self.fresh.retain(|(_, offset), _| u64::from(*offset) >= covered.end);
        self.segment.skip_to(covered.end);
        self.last = self.last.max(covered.last);
        self.index = Some(index);
    }

    /// Brings in what has come since the last scan.
    ///
    /// # Errors
    /// As [`IndexedSegment::open`].
    pub fn scan(&mut self) -> Result<(), StoreError> {
        let came = self.entries_up_to(None)?;
        self.last = came.last().map_or(self.last, |entry| entry.offset.into());
        self.take(came);
        Ok(())
    }

    fn entries_up_to(&mut self, limit: Option<u64>) -> Result<Vec<IndexEntry>, StoreError> {
        let mut came = Vec::new();
        self.segment.scan(limit, |head, offset| {
            // A full segment is far shorter than 4 GiB.
            if let Ok(offset) = u32::try_from(offset) {
                came.push(IndexEntry { prefix: head.key.prefix(), offset, limit: head.limit });
            }
        })?;
        Ok(came)
    }

    /// Adds entries that were seen; many are put in order at once and written, which takes less room than a map of them.
    fn take(&mut self, came: Vec<IndexEntry>) {
        if came.len() + self.fresh.len() < self.due_at() {
            self.fresh.extend(came.iter().map(|entry| (entry.order(), entry.limit)));
            return;
        }
        // The one who writes this segment may have written its index meanwhile.
        self.load();
        let covered = self.index.as_ref().map_or(0, |index| index.covered().end);
        let rest = came.into_iter().filter(|entry| u64::from(entry.offset) >= covered);
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        let fresh = fresh.map(|((prefix, offset), limit)| IndexEntry { prefix, offset, limit });
        let mut entries: Vec<IndexEntry> = fresh.chain(rest).collect();
        if entries.len() >= self.due_at() {
            entries.sort_unstable_by_key(IndexEntry::order);
            let written = self.covered().and_then(|covered| {
                let merge = self.merge(covered, std::mem::take(&mut entries));
                let index = merge.write_unless_it_is_written_elsewhere(&self.segment);
                entries = merge.fresh;
                index
            });
            match written {
                Ok(index) => return self.install(Arc::new(index)),
                Err(error) => self.put_off(&error, entries.len()),
            }
        }
        self.fresh.extend(entries.iter().map(|entry| (entry.order(), entry.limit)));
    }

    fn due_at(&self) -> usize {
        self.every.due_at(Moment::Between, self.indexed()).max(self.not_before)
    }

    fn indexed(&self) -> usize {
        self.index.as_ref().map_or(0, |index| index.len())
    }

    fn put_off(&mut self, error: &std::io::Error, fresh: usize) {
        tracing::debug!(segment = %self.path.display(), %error, "its index is not written");
        self.not_before = fresh.saturating_mul(2).saturating_add(self.every.replies);
    }

    /// Notes an entry that this process has appended and that ends at `end`.
    pub fn insert(&mut self, key: &RequestKey, limit: Limit, offset: u32, end: u64) {
        self.fresh.insert((key.prefix(), offset), limit);
        self.last = u64::from(offset);
        self.segment.skip_to(end);
    }

    /// The index that is due to be written by this process, which holds the segment.
    pub fn due(&mut self, moment: Moment) -> Option<Merge> {
        let only_in_memory = self.index.as_ref().is_some_and(|index| index.is_in_memory());
        let due = if only_in_memory { 0 } else { self.every.due_at(moment, self.indexed()) };
        if self.fresh.len() < due.max(self.not_before) {
            return None;
        }
        let entry = |(&(prefix, offset), &limit): (&(u128, u32), &Limit)| IndexEntry { prefix, offset, limit };
        match self.covered() {
            Ok(covered) => Some(self.merge(covered, self.fresh.iter().map(entry).collect())),
            Err(error) => {
                self.put_off(&error, self.fresh.len());
                None
            }
        }
    }

    /// Takes what came of [`IndexedSegment::due`].
    pub fn written(&mut self, index: std::io::Result<IndexFile>) {
        match index {
            Ok(index) => self.install(Arc::new(index)),
            Err(error) => self.put_off(&error, self.fresh.len()),
        }
    }

    /// What an index of all that was seen covers.
    fn covered(&self) -> std::io::Result<Covered> {
        let last_check = segment::head_check(&self.segment.file(), self.last)?;
        Ok(Covered { segment: self.number, end: self.segment.seen(), last: self.last, last_check })
    }

    fn merge(&self, covered: Covered, fresh: Vec<IndexEntry>) -> Merge {
        Merge { path: index_path(&self.path), covered, old: self.index.clone(), fresh }
    }

    /// The entries of a key, ascending by offset.
    ///
    /// # Errors
    /// [`StoreError`] if the index is damaged and the segment cannot be read to make it anew.
    pub fn get(&mut self, prefix: u128) -> Result<Vec<IndexEntry>, StoreError> {
        let mut found = match self.index.as_ref().map(|index| index.get(prefix)) {
            None => Vec::new(),
            Some(Ok(found)) => found,
            Some(Err(bad)) => {
                self.rebuild(&bad)?;
                return Ok(self.entries(prefix));
            }
        };
        found.extend(self.fresh_entries(prefix));
        Ok(found)
    }

    /// The entries of a key from an index that was just made.
    fn entries(&self, prefix: u128) -> Vec<IndexEntry> {
        let mut found = self.index.as_ref().and_then(|index| index.get(prefix).ok()).unwrap_or_default();
        found.extend(self.fresh_entries(prefix));
        found
    }

    fn fresh_entries(&self, prefix: u128) -> impl Iterator<Item = IndexEntry> {
        let range = self.fresh.range((prefix, 0)..=(prefix, u32::MAX));
        range.map(|(&(prefix, offset), &limit)| IndexEntry { prefix, offset, limit })
    }

    /// Reads the segment again from its beginning up to where it was seen.
    fn rebuild(&mut self, bad: &BadIndex) -> Result<(), StoreError> {
        tracing::warn!(segment = %self.path.display(), "{bad}; it is made again from its replies");
        let end = self.segment.seen();
        // Else it would be taken again.
        _ = fs_err::remove_file(index_path(&self.path));
        self.index = None;
        self.fresh.clear();
        self.segment.start_over();
        let all = self.entries_up_to(Some(end))?;
        self.segment.skip_to(end);
        self.take(all);
        Ok(())
    }

    /// The file, to read entries from.
    pub fn file(&self) -> Arc<File> {
        self.segment.file()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.indexed() + self.fresh.len()
    }
}

/// An index that is to be written: an old one and what came since.
#[derive(Debug)]
pub struct Merge {
    path: PathBuf,
    covered: Covered,
    old: Option<Arc<IndexFile>>,
    fresh: Vec<IndexEntry>,
}

impl Merge {
    /// Writes the file, for the one who holds the segment's lock.
    ///
    /// # Errors
    /// The system's; if the old index is damaged.
    pub fn write(&self) -> std::io::Result<IndexFile> {
        let part = self.path.with_extension("index-part");
        let written = File::create(&part)
            .and_then(|file| {
                index_file::write(
                    &mut BufWriter::with_capacity(1 << 18, file),
                    &self.covered,
                    self.len(),
                    self.entries(),
                )
            })
            .and_then(|()| fs_err::rename(&part, &self.path))
            .and_then(|()| IndexFile::open(&self.path).map_err(std::io::Error::other));
        match written {
            Ok(Some(index)) => Ok(index),
            Ok(None) => Err(std::io::ErrorKind::NotFound.into()),
            Err(error) => {
                _ = fs_err::remove_file(&part);
                Err(error)
            }
        }
    }

    /// Writes the file where nobody else holds the segment, who will do it himself, and where the cache can be written; else the index
    /// stays in memory, where it takes less room than a map.
    fn write_unless_it_is_written_elsewhere(&self, segment: &Segment) -> std::io::Result<IndexFile> {
        let file = segment.file();
        if file.file().try_lock().is_ok() {
            let written = self.write();
            _ = file.file().unlock();
            if written.is_ok() {
                return written;
            }
        }
        let mut bytes = Cursor::new(Vec::new());
        index_file::write(&mut bytes, &self.covered, self.len(), self.entries())?;
        IndexFile::in_memory(bytes.into_inner()).map_err(std::io::Error::other)
    }

    fn len(&self) -> usize {
        self.old.as_ref().map_or(0, |old| old.len()) + self.fresh.len()
    }

    /// Old and new entries in one order.
    fn entries(&self) -> impl Iterator<Item = Result<IndexEntry, BadIndex>> {
        let mut old = self.old.iter().flat_map(|old| old.iter()).peekable();
        let mut fresh = self.fresh.iter().copied().peekable();
        std::iter::from_fn(move || match (old.peek(), fresh.peek()) {
            (Some(Ok(first)), Some(second)) if second.order() < first.order() => fresh.next().map(Ok),
            (Some(_), _) => old.next(),
            (None, _) => fresh.next().map(Ok),
        })
    }
}

/// The index of a segment as it lies beside it; `None` if there is none.
///
/// # Errors
/// [`BadIndex`] if it is damaged, or tells of another segment than the one that is there now.
pub fn load(path: &Path, segment: &Segment, number: u32) -> Result<Option<IndexFile>, BadIndex> {
    let Some(index) = IndexFile::open(&index_path(path))? else { return Ok(None) };
    let Covered { segment: of, end, last, last_check } = *index.covered();
    if of != number || !segment.has_entry(last, end, last_check)? {
        return Err(BadIndex::ANOTHER_SEGMENT);
    }
    Ok(Some(index))
}

/// Where the index of a segment lies.
pub fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("index")
}
