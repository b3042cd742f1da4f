//! Writing files that are there whole or not at all, also after a power cut.
//!
//! The order is always: content into `tmp/` → sync of the content → the name. A stage with one output
//! file then costs three waits for the disk: the blob's content, the record's content, the record's
//! folder. Two more are left out, because what a power cut can do without them is harmless:
//!
//! - **The folder of a blob.** A blob whose name got lost is *absent*, and an absent blob only makes
//!   its record read as "run the producer again". The record's folder is synced, so that finished work
//!   stays finished.
//! - **The content of a small tree.** The record carries the same text, and a tree's blob is compared
//!   with its digest whenever it is read, so a damaged one is set aside and counts as absent.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tempfile::{Builder, NamedTempFile, TempPath};

use crate::error::StoreError;

/// Whether a name was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// It was; the file has it now.
    New,
    /// Somebody else has it; the file is gone.
    Taken,
}

/// An open file in `folder` that disappears unless it is named. `mode` is what it will have then.
pub(crate) fn temporary(folder: &Path, mode: u32) -> Result<NamedTempFile, StoreError> {
    Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(StoreError::io("write into", folder))
}

/// A temporary file with `bytes` in it, synced; it is about to become `target`.
pub(crate) fn temporary_with(folder: &Path, mode: u32, bytes: &[u8], target: &Path) -> Result<TempPath, StoreError> {
    let file = temporary(folder, mode)?;
    fill(&file, bytes, true).map_err(StoreError::io("write", target))?;
    Ok(file.into_temp_path())
}

/// Like [`temporary_with`] for content that is worth nothing or is checked whenever it is read.
pub(crate) fn temporary_unsynced(
    folder: &Path,
    mode: u32,
    bytes: &[u8],
    target: &Path,
) -> Result<TempPath, StoreError> {
    let file = temporary(folder, mode)?;
    fill(&file, bytes, false).map_err(StoreError::io("write", target))?;
    Ok(file.into_temp_path())
}

fn fill(file: &NamedTempFile, bytes: &[u8], sync: bool) -> io::Result<()> {
    file.as_file().write_all(bytes)?;
    if sync { file.as_file().sync_all() } else { Ok(()) }
}

/// Gives `file` the name `target` unless that is taken; never replaces.
///
/// A rename that refuses to replace, or a hard link where the file system lacks it.
pub(crate) fn name_if_free(file: TempPath, target: &Path) -> Result<Naming, StoreError> {
    match try_name(file, target) {
        Ok(naming) => Ok(naming),
        Err((file, error)) if error.kind() == io::ErrorKind::NotFound => {
            // Not synced: only blobs come here, unless somebody removed a folder of the store.
            create_parent(target)?;
            try_name(file, target).map_err(|(_, error)| StoreError::io("write", target)(error))
        }
        Err((_, error)) => Err(StoreError::io("write", target)(error)),
    }
}

fn try_name(file: TempPath, target: &Path) -> Result<Naming, (TempPath, io::Error)> {
    match file.persist_noclobber(target) {
        Ok(()) => Ok(Naming::New),
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => {
            // Over NFS a link can succeed while its answer is lost and the retry says "exists".
            let ours = same_file(&failed.path, target);
            Ok(if ours { Naming::New } else { Naming::Taken })
        }
        Err(failed) => Err((failed.path, failed.error)),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (fs_err::metadata(a), fs_err::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Gives `file` the name `target`, replacing what has it, and syncs the folder.
pub(crate) fn name_replacing(file: TempPath, target: &Path) -> Result<(), StoreError> {
    create_parent(target)?;
    file.persist(target).map_err(|failed| StoreError::io("write", target)(failed.error))?;
    sync_parent(target)
}

/// Makes the name of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    sync_folder(path.parent().unwrap_or(path))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    fs_err::File::open(folder).and_then(|open| open.sync_all()).map_err(StoreError::io("sync", folder))
}

fn create_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    fs_err::create_dir_all(parent).map_err(StoreError::io("create", parent))
}
