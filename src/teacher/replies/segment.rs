//! One segment file: opening, locking, scanning its heads, reading one entry.

use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use fs_err::{File, OpenOptions};

use super::StoreError;
use super::entry::{HEAD_BYTES, Head, MAGIC, RequestKey};
use crate::reply::Reply;

const FILE_MAGIC: [u8; 8] = *b"SHreply\0";
const FORMAT: u32 = 1;
/// Bytes in front of the first entry: magic (8), format (4), zero (4).
pub const FILE_HEAD_BYTES: u64 = 16;
/// A segment that is this long gets no more entries: offsets are 32 bits wide.
pub const FULL_BYTES: u64 = 1 << 30;
const WINDOW_BYTES: usize = 256 << 10;

/// The file name of a segment.
pub fn file_name(number: u32) -> String {
    format!("{number:08}.replies")
}

/// The number in a segment's file name.
pub fn number_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_suffix(".replies")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// A segment that is read.
#[derive(Debug)]
pub struct Segment {
    file: Arc<File>,
    /// Where the next scan goes on: behind the last whole entry seen.
    seen: u64,
}

impl Segment {
    /// Opens a segment for reading.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read, is none, or is of a newer format.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|error| StoreError::io("open", path, &error))?;
        Ok(Self { file: Arc::new(file), seen: 0 })
    }

    /// Passes the head of every whole entry that came since the last scan, where it ends before `limit`. A torn entry at the
    /// end, or one that is being written just now, is left for the next scan; rotten bytes in the middle are skipped.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read, is no segment, or is of a newer format.
    pub fn scan(&mut self, limit: Option<u64>, mut each: impl FnMut(Head, u64)) -> Result<(), StoreError> {
        let there = self.file.metadata().map_err(|error| StoreError::io("read", self.file.path(), &error))?.len();
        let length = limit.map_or(there, |limit| limit.min(there));
        if self.seen == 0 {
            if length < FILE_HEAD_BYTES {
                return Ok(());
            }
            self.check_file_head()?;
            self.seen = FILE_HEAD_BYTES;
        }
        if length <= self.seen {
            return Ok(());
        }
        let end = scan(self.file.file(), self.seen, length, &mut each)
            .map_err(|error| StoreError::io("read", self.file.path(), &error))?;
        self.seen = end;
        Ok(())
    }

    fn check_file_head(&self) -> Result<(), StoreError> {
        let mut head = [0; FILE_HEAD_BYTES as usize];
        self.file
            .file()
            .read_exact_at(&mut head, 0)
            .map_err(|error| StoreError::io("read", self.file.path(), &error))?;
        let path = || self.file.path().display().to_string();
        if head[..8] != FILE_MAGIC {
            return Err(StoreError::NotASegment { path: path() });
        }
        let found = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if found > FORMAT {
            return Err(StoreError::NewerFormat { path: path(), found, known: FORMAT });
        }
        Ok(())
    }

    /// How far it was seen: the end of a whole entry.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The next scan goes on behind what is known by other means.
    pub fn skip_to(&mut self, end: u64) {
        self.seen = self.seen.max(end);
    }

    /// The next scan begins at the beginning.
    pub fn start_over(&mut self) {
        self.seen = 0;
    }

    /// Whether the segment is one and reaches to `end`, where an entry ends that begins at `offset` with a head of this checksum.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn has_entry(&self, offset: u64, end: u64, check: [u8; 8]) -> io::Result<bool> {
        if self.file.metadata()?.len() < end || self.check_file_head().is_err() {
            return Ok(false);
        }
        let mut head = [0; HEAD_BYTES];
        self.file.file().read_exact_at(&mut head, offset)?;
        let ends_there = Head::decode(&head).is_some_and(|head| offset + head.entry_bytes() == end);
        Ok(ends_there && head[HEAD_BYTES - check.len()..] == check)
    }

    /// The file, to read entries from without holding the segment.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

/// The reply of the entry at `offset`; `None` if it is not there, rotten, or another request's.
///
/// # Errors
/// [`StoreError`] if the file cannot be read.
pub fn read(file: &File, offset: u32, key: &RequestKey) -> Result<Option<Reply>, StoreError> {
    match read_entry(file.file(), u64::from(offset)) {
        Ok(Some((head, body))) if head.key == *key => Ok(head.reply(&body).ok()),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(StoreError::io("read", file.path(), &error)),
    }
}

/// The body of an entry whose head was seen at `offset`.
///
/// # Errors
/// If the file cannot be read, or ends before the body does.
pub fn body(file: &File, head: &Head, offset: u64) -> io::Result<Vec<u8>> {
    let mut body = vec![0; head.body_bytes as usize];
    file.file().read_exact_at(&mut body, offset + HEAD_BYTES as u64)?;
    Ok(body)
}

/// The checksum of the head at `offset`.
///
/// # Errors
/// If the file cannot be read.
pub fn head_check(file: &File, offset: u64) -> io::Result<[u8; 8]> {
    let mut check = [0; 8];
    let place = offset + (HEAD_BYTES - check.len()) as u64;
    file.file().read_exact_at(&mut check, place)?;
    Ok(check)
}

/// What the bytes behind the last whole entry are.
///
/// # Errors
/// If the file cannot be read.
pub fn tail(file: &File, offset: u64, length: u64) -> io::Result<Tail> {
    let mut beginning = vec![0; HEAD_BYTES.min((length - offset) as usize)];
    file.file().read_exact_at(&mut beginning, offset)?;
    let torn = match beginning.first_chunk::<HEAD_BYTES>() {
        None => true,
        // A whole head with a part of its body; or room that the file system gave before the bytes came.
        Some(head) => Head::decode(head).is_some() || head.iter().all(|byte| *byte == 0),
    };
    Ok(if torn { Tail::Torn } else { Tail::Rotten })
}

/// The bytes behind the last whole entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// An entry that was being written when its writer was killed: it was never acknowledged.
    Torn,
    /// Something that was written and is not readable any more.
    Rotten,
}

/// A segment that this process appends to, held by the file's lock until it is dropped.
#[derive(Debug)]
pub struct OwnSegment {
    /// Its number.
    pub number: u32,
    /// Its file.
    pub file: File,
    /// Where the next entry goes.
    pub end: u64,
}

impl OwnSegment {
    /// Claims a segment: the first that nobody holds and that has room, else a new one. So the segments of writers that
    /// are gone, killed ones too, are written on.
    ///
    /// # Errors
    /// [`StoreError`] if the folder cannot be written.
    pub fn claim(directory: &Path) -> Result<Self, StoreError> {
        fs_err::create_dir_all(directory).map_err(|error| StoreError::io("create", directory, &error))?;
        let there = numbers(directory)?;
        let next = there.last().map_or(0, |last| last + 1);
        for number in there.into_iter().chain(next..) {
            if let Some(own) = Self::try_claim(&directory.join(file_name(number)), number)? {
                return Ok(own);
            }
        }
        let full = io::Error::other("there is no number left for a further segment");
        Err(StoreError::io("write", directory, &full))
    }

    /// Claims a segment that was not there before.
    ///
    /// # Errors
    /// As [`OwnSegment::claim`].
    pub fn fresh(directory: &Path) -> Result<Self, StoreError> {
        let next = numbers(directory)?.last().map_or(0, |last| last + 1);
        for number in next.. {
            // One that appeared meanwhile has entries of its own, and is written on by whoever made it.
            if let Some(own) = Self::try_claim(&directory.join(file_name(number)), number)?
                && own.end == FILE_HEAD_BYTES
            {
                return Ok(own);
            }
        }
        let full = io::Error::other("there is no number left for a further segment");
        Err(StoreError::io("write", directory, &full))
    }

    fn try_claim(path: &Path, number: u32) -> Result<Option<Self>, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| StoreError::io("write", path, &error))?;
        Self::lock(file, path, number)
    }

    fn lock(file: File, path: &Path, number: u32) -> Result<Option<Self>, StoreError> {
        let failed = |action| move |error: io::Error| StoreError::io(action, path, &error);
        match file.file().try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        // Whoever mended it had the lock until now, and what is appended to a removed file is lost.
        if !is_at(&file, path).map_err(failed("read"))? {
            return Ok(None);
        }
        let length = file.metadata().map_err(failed("read"))?.len();
        if length >= FULL_BYTES {
            return Ok(None);
        }
        let end = if length < FILE_HEAD_BYTES {
            let mut head = [0; FILE_HEAD_BYTES as usize];
            head[..8].copy_from_slice(&FILE_MAGIC);
            head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
            file.file().write_all_at(&head, 0).map_err(failed("write"))?;
            // The name of the file has to survive a power cut as well as what will be in it.
            sync_directory(path).map_err(failed("write"))?;
            FILE_HEAD_BYTES
        } else {
            let mut segment = Segment::open(path)?;
            // What the index covers need not be read to find the end.
            if let Ok(Some(index)) = super::indexed::load(path, &segment, number) {
                segment.skip_to(index.covered().end);
            }
            segment.scan(None, |_, _| ())?;
            segment.seen
        };
        // What lies behind the last whole entry is what a killed writer never acknowledged.
        file.set_len(end).map_err(failed("write"))?;
        Ok(Some(Self { number, file, end }))
    }

    /// Appends whole entries and makes them durable. On failure nothing of them stays.
    ///
    /// # Errors
    /// The system's, such as a full disk.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.file().write_all_at(bytes, self.end).and_then(|()| self.file.file().sync_data());
        match written {
            Ok(()) => {
                self.end += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                _ = self.file.set_len(self.end);
                Err(error)
            }
        }
    }
}

/// Whether an open file is still the one at its path: another process may have removed it since.
///
/// # Errors
/// If that cannot be told.
pub fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs_err::metadata(path) {
        Ok(there) => Ok((opened.dev(), opened.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The numbers of the segments in a folder, ascending; none if there is no folder.
///
/// # Errors
/// [`StoreError`] if the folder cannot be read.
pub fn numbers(directory: &Path) -> Result<Vec<u32>, StoreError> {
    let failed = |error: io::Error| StoreError::io("read", directory, &error);
    let entries = match fs_err::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        numbers.extend(number_of(&entry.map_err(failed)?.path()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn read_entry(file: &std::fs::File, offset: u64) -> io::Result<Option<(Head, Vec<u8>)>> {
    // Most entries are short: one read brings head and body.
    let mut buffer = vec![0; 2048];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    buffer.truncate(filled);
    let Some(head) = buffer.first_chunk::<HEAD_BYTES>().and_then(Head::decode) else { return Ok(None) };
    buffer.drain(..HEAD_BYTES);
    let have = buffer.len().min(head.body_bytes as usize);
    buffer.resize(head.body_bytes as usize, 0);
    file.read_exact_at(&mut buffer[have..], offset + HEAD_BYTES as u64 + have as u64)?;
    Ok(Some((head, buffer)))
}

/// Walks the entries from `from` on and returns the end of the last whole one.
fn scan(file: &std::fs::File, from: u64, length: u64, each: &mut impl FnMut(Head, u64)) -> io::Result<u64> {
    let mut window = Window { file, length, start: from, bytes: Vec::new() };
    let (mut at, mut end) = (from, from);
    while let Some(bytes) = window.get(at)? {
        match Head::decode(bytes) {
            Some(head) if at + head.entry_bytes() <= length => {
                each(head, at);
                at += head.entry_bytes();
                end = at;
            }
            Some(_) => break,
            // Rotten bytes, or the zeros of a file that grew before a power cut: look for the next head.
            None => at = window.find_magic(at + 1)?,
        }
    }
    Ok(end)
}

/// Reads a file forwards in large pieces.
struct Window<'f> {
    file: &'f std::fs::File,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes of a head at `at`; `None` at the end of the file.
    fn get(&mut self, at: u64) -> io::Result<Option<&[u8; HEAD_BYTES]>> {
        if at + HEAD_BYTES as u64 > self.length {
            return Ok(None);
        }
        if at < self.start || at + HEAD_BYTES as u64 > self.start + self.bytes.len() as u64 {
            self.fill(at)?;
        }
        let within = (at - self.start) as usize;
        Ok(self.bytes.get(within..).and_then(<[u8]>::first_chunk))
    }

    fn fill(&mut self, at: u64) -> io::Result<()> {
        let wanted = (self.length - at).min(WINDOW_BYTES as u64) as usize;
        self.bytes.resize(wanted, 0);
        self.start = at;
        self.file.read_exact_at(&mut self.bytes, at)
    }

    /// The place of the next magic at or behind `at`, or the end of the file.
    fn find_magic(&mut self, mut at: u64) -> io::Result<u64> {
        while at + HEAD_BYTES as u64 <= self.length {
            self.fill(at)?;
            if let Some(found) = self.bytes.windows(MAGIC.len()).position(|four| four == MAGIC) {
                return Ok(at + found as u64);
            }
            at += (self.bytes.len() - (MAGIC.len() - 1)) as u64;
        }
        Ok(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_was_removed_before_it_was_locked_is_not_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file_name(0));
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let removed = open();
        fs_err::remove_file(&path).unwrap();
        assert!(OwnSegment::lock(removed, &path, 0).unwrap().is_none());
        let replaced = open();
        fs_err::remove_file(&path).unwrap();
        let there = open();
        assert!(OwnSegment::lock(replaced, &path, 0).unwrap().is_none());
        assert!(OwnSegment::lock(there, &path, 0).unwrap().is_some());
    }
}
