//! The stat cache: an unchanged input is never hashed twice.
//!
//! A file is taken to be unchanged while its path, size, inode, time of modification and time of
//! status change are. The last one is set by the kernel on every write and by no program, so a file
//! whose modification time was put back is still noticed.
//!
//! A time is worth only as much as its resolution: a write right after the hashing could leave the
//! same time behind (git calls such entries racy). Where the file system keeps fractions of a
//! millisecond, a file younger than [`FINE`] is left to age that long before it is hashed. Elsewhere a
//! file younger than [`COARSE`] is hashed and not remembered. The clocks of this machine and of a file
//! server must agree to within that.
//!
//! `stat-cache` is append-only JSON lines. It may be deleted at any time, and a line that cannot be
//! read is skipped, so processes may append at once.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::durable;
use crate::error::StoreError;
use crate::hash;
use crate::store::Store;

/// Longer than the kernel's clock tick, by which file times advance.
const FINE: Duration = Duration::from_millis(20);

/// The resolution of the coarsest file systems in use.
const COARSE: Duration = Duration::from_secs(2);

/// How often a file may change under our hands before that is an error.
const TRIES: u32 = 3;

/// What is compared to find a file unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    /// Nanoseconds since 1970.
    modified: i64,
    /// Nanoseconds since 1970.
    changed: i64,
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    stamp: Stamp,
    digest: Digest,
}

/// The cache in memory, loaded at first use.
#[derive(Debug)]
pub(crate) struct StatCache {
    file: PathBuf,
    tmp: PathBuf,
    known: Option<BTreeMap<String, (Stamp, Digest)>>,
}

impl Store {
    /// The digest and length of a file outside the store; hashed only if it changed since the last
    /// time. Symbolic links are followed.
    ///
    /// # Errors
    /// [`StoreError::ChangedWhileRead`] when something keeps writing to the file.
    pub fn digest_of(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let path = std::path::absolute(path).map_err(StoreError::io("find", path))?;
        let unfit = || StoreError::UnfitForTree { path: path.clone(), reason: "it is not a plain file" };
        // Before it is opened: merely opening a pipe would wait for whoever writes to it.
        if !fs_err::metadata(&path).map_err(StoreError::io("read", &path))?.is_file() {
            return Err(unfit());
        }
        for _ in 0..TRIES {
            let file = fs_err::File::open(&path).map_err(StoreError::io("read", &path))?;
            let stat = || file.metadata().map_err(StoreError::io("read", &path));
            let before = stat()?;
            if !before.is_file() {
                return Err(unfit());
            }
            let stamp = Stamp::of(&before);
            if let Some(digest) = self.stat_cache().get(&path, stamp) {
                return Ok((digest, stamp.size));
            }
            let trusted = stamp.let_it_age();
            let digest = match hash::of_open_file(file.file(), stamp.size) {
                Ok(digest) => digest,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(error) => return Err(StoreError::io("read", &path)(error)),
            };
            if Stamp::of(&stat()?) != stamp {
                continue;
            }
            if trusted {
                self.stat_cache().insert(&path, stamp, digest);
            }
            return Ok((digest, stamp.size));
        }
        Err(StoreError::ChangedWhileRead { path })
    }
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            size: meta.size(),
            inode: meta.ino(),
            modified: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Waits until a later write would leave another stamp, if that is soon. Otherwise `false`: the
    /// stamp is too young to be remembered.
    fn let_it_age(self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = u64::try_from(self.changed).unwrap_or(0);
        let Some(age) = now.checked_sub(Duration::from_nanos(changed)) else {
            return false; // From the future: no telling.
        };
        let fine_grained = self.changed % 1_000_000 != 0;
        if fine_grained {
            std::thread::sleep(FINE.saturating_sub(age));
            return true;
        }
        age > COARSE
    }
}

impl StatCache {
    pub(crate) fn new(file: PathBuf, tmp: PathBuf) -> Self {
        Self { file, tmp, known: None }
    }

    fn get(&mut self, path: &Path, stamp: Stamp) -> Option<Digest> {
        let (known, digest) = self.known().get(path.to_str()?)?;
        (*known == stamp).then_some(*digest)
    }

    /// Remembers a digest here and, where that is possible, on the disk. A failure only costs time:
    /// the file is hashed again next time.
    fn insert(&mut self, path: &Path, stamp: Stamp, digest: Digest) {
        let Some(path) = path.to_str() else { return };
        self.known().insert(path.to_owned(), (stamp, digest));
        let line = Line { path: path.to_owned(), stamp, digest };
        let append = || {
            let line = format!("\n{}\n", serde_json::to_string(&line)?);
            let mut file = fs_err::OpenOptions::new().append(true).create(true).open(&self.file)?;
            file.write_all(line.as_bytes())
        };
        if let Err(error) = append() {
            tracing::debug!(%error, "digest not remembered");
        }
    }

    fn known(&mut self) -> &mut BTreeMap<String, (Stamp, Digest)> {
        let Self { file, tmp, known } = self;
        known.get_or_insert_with(|| load(file, tmp))
    }
}

/// Reads the file; the last line of a path counts. Rewrites it when most of it is out of date.
fn load(file: &Path, tmp: &Path) -> BTreeMap<String, (Stamp, Digest)> {
    let bytes = fs_err::read(file).unwrap_or_default();
    let mut known = BTreeMap::new();
    let mut lines = 0;
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        lines += 1;
        if let Ok(Line { path, stamp, digest }) = serde_json::from_slice(line) {
            known.insert(path, (stamp, digest));
        }
    }
    if lines > 1000 && lines > 4 * known.len() {
        // Lines that others append meanwhile are lost: they hash once more.
        let text: String = known
            .iter()
            .filter_map(|(path, (stamp, digest))| {
                let line = Line { path: path.clone(), stamp: *stamp, digest: *digest };
                serde_json::to_string(&line).ok().map(|line| line + "\n")
            })
            .collect();
        let rewritten = durable::temporary_unsynced(tmp, 0o644, text.as_bytes(), file)
            .and_then(|temporary| durable::name_replacing(temporary, file));
        if let Err(error) = rewritten {
            tracing::debug!(%error, "stat cache not compacted");
        }
    }
    known
}
