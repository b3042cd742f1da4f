//! [`Store`]: the handle everything else hangs on.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::index::IndexCache;
use crate::layout::Layout;
use crate::stat_cache::StatCache;

/// One store on disk. Cheap to clone; clones share their caches. Every method may block on the disk.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) layout: Layout,
    index: Mutex<IndexCache>,
    stat_cache: Mutex<StatCache>,
}

impl Store {
    /// Opens the store at `root`, creating what is missing.
    ///
    /// # Errors
    /// A newer format, a folder that holds other things, or a place that cannot be written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Layout::create(root).map(Self::at)
    }

    /// Opens a store that is there already and writes nothing: for commands that only look. Works on
    /// a read-only file system.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`] when there is none, or a newer format.
    pub fn open_existing(root: &Path) -> Result<Self, StoreError> {
        Layout::find(root).map(Self::at)
    }

    /// The store's folder, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.layout.root
    }

    /// The folder of teacher replies. The store only counts what is in it.
    pub fn replies_dir(&self) -> PathBuf {
        self.layout().area("replies")
    }

    fn at(layout: Layout) -> Self {
        let stat_cache = Mutex::new(StatCache::new(layout.root.join("stat-cache"), layout.tmp()));
        let index = Mutex::new(IndexCache::default());
        Self { inner: Arc::new(Inner { layout, index, stat_cache }) }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The caches hold nothing that is not on the disk, so a panic under the lock leaves them sound.
    pub(crate) fn index_cache(&self) -> MutexGuard<'_, IndexCache> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stat_cache(&self) -> MutexGuard<'_, StatCache> {
        self.inner.stat_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while something that names blobs is published. Many may hold it at once; garbage
    /// collection waits for all of them and keeps new ones out, so between "the blobs are there" and
    /// "the record is there" nothing is swept.
    pub(crate) fn lock_for_publishing(&self) -> Result<File, StoreError> {
        self.lock(File::lock_shared)
    }

    /// Held while names are taken away or replaced.
    pub(crate) fn lock_for_removing(&self) -> Result<File, StoreError> {
        self.lock(File::lock)
    }

    /// Held by the one who publishes a checkpoint in view of what is there, beside the lock for publishing.
    pub(crate) fn lock_checkpoints(&self) -> Result<File, StoreError> {
        lock_file(&self.layout().area("checkpoints"), File::lock)
    }

    fn lock(&self, lock: impl Fn(&File) -> std::io::Result<()>) -> Result<File, StoreError> {
        lock_file(&self.layout().format_file(), lock)
    }
}

/// A lock on a file or folder, let go with what is returned.
fn lock_file(path: &Path, lock: impl Fn(&File) -> std::io::Result<()>) -> Result<File, StoreError> {
    let file = fs_err::File::open(path).map_err(StoreError::io("open", path))?.into_parts().0;
    lock(&file).map_err(StoreError::io("lock", path))?;
    Ok(file)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.root()).finish()
    }
}
