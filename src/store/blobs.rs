//! Blobs: immutable bytes, named by their digest.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempPath;

use crate::digest::Digest;
use crate::durable::{self, Naming};
use crate::error::StoreError;
use crate::hash;
use crate::store::Store;

/// Blobs can't be written through a hard link by accident.
const BLOB_MODE: u32 = 0o444;

/// A blob that is put again looks new to garbage collection once it is older than this.
const FRESH: Duration = Duration::from_secs(600);

impl Store {
    /// Stores bytes. An existing blob is not rewritten.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        self.put_new_bytes(bytes, durable::temporary_with)
    }

    /// Like [`Store::put_bytes`] for what is kept elsewhere as well and checked whenever it is read:
    /// after a power cut it may be damaged.
    pub(crate) fn put_bytes_unsynced(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        self.put_new_bytes(bytes, durable::temporary_unsynced)
    }

    fn put_new_bytes(
        &self,
        bytes: &[u8],
        write: impl Fn(&Path, u32, &[u8], &Path) -> Result<TempPath, StoreError>,
    ) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let target = self.blob_path(&digest);
        if !self.reuse_blob(&digest, bytes.len() as u64)? {
            let file = write(&self.layout().tmp(), BLOB_MODE, bytes, &target)?;
            durable::name_if_free(file, &target)?;
        }
        Ok(digest)
    }

    /// Stores a copy of a file. Returns its digest and length.
    pub fn put_file(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let file = durable::temporary(&self.layout().tmp(), BLOB_MODE)?;
        let mut source = fs_err::File::open(path).map_err(StoreError::io("read", path))?;
        // Copied first and hashed afterwards: what gets the name is what was hashed, whatever
        // happens to the source meanwhile.
        let length = io::copy(&mut source, &mut file.as_file()).map_err(StoreError::io("copy into the store", path))?;
        let digest = hash::of_open_file(file.as_file(), length).map_err(StoreError::io("read", file.path()))?;
        if !self.reuse_blob(&digest, length)? {
            file.as_file().sync_all().map_err(StoreError::io("copy into the store", path))?;
            durable::name_if_free(file.into_temp_path(), &self.blob_path(&digest))?;
        }
        Ok((digest, length))
    }

    /// Moves a finished file into the store: `path` is gone afterwards. Nobody may write to the file
    /// any more. Falls back to a copy on another file system and for files with several names, whose
    /// other names could still be written through.
    pub fn adopt_file(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let file = fs_err::File::open(path).map_err(StoreError::io("read", path))?;
        let meta = file.metadata().map_err(StoreError::io("read", path))?;
        if !meta.is_file() {
            return Err(StoreError::UnfitForTree { path: path.into(), reason: "it is not a plain file" });
        }
        let tmp = self.layout().tmp();
        let store_device = fs_err::metadata(&tmp).map_err(StoreError::io("read", &tmp))?.dev();
        if meta.nlink() > 1 || meta.dev() != store_device {
            let stored = self.put_file(path)?;
            fs_err::remove_file(path).map_err(StoreError::io("remove", path))?;
            return Ok(stored);
        }
        let length = meta.len();
        let digest = hash::of_open_file(file.file(), length).map_err(StoreError::io("read", path))?;
        if self.reuse_blob(&digest, length)? {
            fs_err::remove_file(path).map_err(StoreError::io("remove", path))?;
            return Ok((digest, length));
        }
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(BLOB_MODE);
        let settle = || {
            file.set_permissions(read_only)?;
            // The producer may have preserved an old time; to garbage collection the blob is new.
            file.file().set_modified(SystemTime::now())?;
            file.sync_all()
        };
        settle().map_err(StoreError::io("move into the store", path))?;
        let mut source = TempPath::try_from_path(path).map_err(StoreError::io("move into the store", path))?;
        // Should the move fail, the producer's file stays where it is.
        source.disable_cleanup(true);
        if durable::name_if_free(source, &self.blob_path(&digest))? == Naming::Taken {
            fs_err::remove_file(path).map_err(StoreError::io("remove", path))?;
        }
        Ok((digest, length))
    }

    /// Whether the blob is there. Its content is not looked at.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_length(digest).is_some()
    }

    /// Where the blob is, or would be. The file is read-only and shared: never write to it.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.layout().blob(digest)
    }

    /// The blob's bytes as they are on the disk.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`] when it is not there.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        fs_err::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::MissingBlob { digest: *digest },
            _ => StoreError::io("read", &path)(error),
        })
    }

    /// The blob's bytes if they still have this digest. A damaged blob is moved to `quarantine/` and
    /// reported as missing.
    pub fn checked_read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        match self.read(digest) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => self.quarantine_blob(digest).map(|()| None),
            Err(StoreError::MissingBlob { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Re-hashes the blob where it lies. A damaged one is moved to `quarantine/`; `false` for that
    /// and for a missing one.
    pub fn check_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        if !self.has(digest) {
            return Ok(false);
        }
        if Digest::of_file(&self.blob_path(digest))? == *digest {
            return Ok(true);
        }
        self.quarantine_blob(digest).map(|()| false)
    }

    /// The length of a blob that is there.
    pub(crate) fn blob_length(&self, digest: &Digest) -> Option<u64> {
        let meta = fs_err::metadata(self.blob_path(digest)).ok()?;
        meta.is_file().then_some(meta.len())
    }

    pub(crate) fn quarantine_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.quarantine(&self.blob_path(digest), &digest.to_string())
    }

    /// Sets a damaged file aside under `name`, so that it can be looked at and is never used.
    pub(crate) fn quarantine(&self, path: &Path, name: &str) -> Result<(), StoreError> {
        let target = self.layout().area("quarantine").join(name);
        match fs_err::rename(path, &target) {
            Ok(()) => {
                tracing::warn!(file = %path.display(), "damaged; moved to quarantine");
                Ok(())
            }
            // Another process has set it aside at the same time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io("set aside", path)(error)),
        }
    }

    /// Whether a whole blob is there already; it then counts as new. A blob of a wrong length is set
    /// aside, so that a good one can take its place.
    fn reuse_blob(&self, digest: &Digest, length: u64) -> Result<bool, StoreError> {
        let path = self.blob_path(digest);
        let Ok(meta) = fs_err::metadata(&path) else {
            return Ok(false);
        };
        if meta.len() != length {
            self.quarantine_blob(digest)?;
            return Ok(false);
        }
        let old = meta.modified().ok().and_then(|time| time.elapsed().ok());
        if old.is_none_or(|age| age > FRESH)
            && let Ok(file) = fs_err::File::open(&path)
        {
            // Fails for a blob of another user, who then keeps the store for all of them.
            let _ = file.file().set_modified(SystemTime::now());
        }
        Ok(true)
    }
}
