//! Read-only memory maps, and little-endian numbers out of byte slices: the one place of this crate with `unsafe`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{DataError, DataResult};

/// A file's bytes, paged in as they are touched. Every read is bounds-checked, so a damaged file is an error.
pub struct Mapped {
    path: PathBuf,
    bytes: Option<memmap2::Mmap>,
}

impl Mapped {
    /// Maps a file; an empty file gives no bytes.
    pub fn open(path: &Path) -> DataResult<Self> {
        let file = fs_err::File::open(path).map_err(DataError::io(path))?;
        let length = file.metadata().map_err(DataError::io(path))?.len();
        let bytes = if length == 0 {
            None
        } else {
            #[expect(
                unsafe_code,
                reason = "mapping a file is unsafe because another process could change it meanwhile"
            )]
            // SAFETY: the map is only sound while nobody truncates or writes the file. Artifacts are never
            // written to after they are made: the store keeps blobs read-only and replaces none. A model file is an
            // input that nobody writes during a run; what is read from it is checked or copied, so that a change
            // makes wrong numbers, not wild reads.
            let map = unsafe { memmap2::Mmap::map(file.file()) };
            Some(map.map_err(DataError::io(path))?)
        };
        Ok(Self { path: path.to_path_buf(), bytes })
    }

    /// Maps a file that this project wrote, see [`DataError::own_io`].
    pub fn open_own(path: &Path) -> DataResult<Self> {
        Self::open(path).map_err(DataError::of_own_file)
    }

    /// Everything.
    pub fn all(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }

    /// A part; an error that says the file is damaged when it is out of bounds.
    pub fn part(&self, start: u64, length: u64) -> DataResult<&[u8]> {
        let range = || -> Option<Range<usize>> {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            Some(start..end)
        };
        range()
            .and_then(|range| self.all().get(range))
            .ok_or_else(|| DataError::corrupt(&self.path, "the file is cut short or damaged"))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Goes through a slice of little-endian numbers; `None` at its end.
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the front.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(head)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}
