//! Writing files that are there whole or not at all, also after a power cut.
//!
//! The order is always: content into `tmp/` → fsync of the content → the name. What may be skipped is
//! the fsync of the folder that holds the name, and it is skipped for blobs: a blob whose name got
//! lost is *absent*, and an absent blob only makes its record read as "run the producer again". A
//! record is the last step and its folder is synced, so finished work stays finished. That makes
//! three content syncs (blob, tree, record) and one folder sync for a stage with one output file.

use std::fs::{File, Permissions};
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

/// A temporary file with `bytes` in it, synced.
pub(crate) fn temporary_with(
    folder: &Path,
    mode: u32,
    bytes: &[u8],
    target: &Path,
) -> Result<TempPath, StoreError> {
    let mut file = temporary(folder, mode)?;
    file.write_all(bytes)
        .map_err(StoreError::io("write", target))?;
    file.as_file()
        .sync_all()
        .map_err(StoreError::io("write", target))?;
    Ok(file.into_temp_path())
}

/// Gives `file` the name `target` unless that is taken; never replaces.
///
/// A rename that refuses to replace, or a hard link where the file system lacks it.
pub(crate) fn name_if_free(file: TempPath, target: &Path) -> Result<Naming, StoreError> {
    match try_name(file, target) {
        Ok(naming) => Ok(naming),
        Err((file, error)) if error.kind() == io::ErrorKind::NotFound => {
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
    file.persist(target)
        .map_err(|failed| StoreError::io("write", target)(failed.error))?;
    sync_parent(target)
}

/// Makes the names in the folder of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::io("sync", parent))
}

/// Creates the folder of `path` and makes its own name durable.
fn create_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    if parent.is_dir() {
        return Ok(());
    }
    fs_err::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
    sync_parent(parent)
}
