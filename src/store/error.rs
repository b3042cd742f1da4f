//! What can go wrong with a store, whose fault it is, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Key};

/// A failed operation on a store. The message names the place; [`StoreError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no store where one was expected.
    #[error("there is no store at {}", path.display())]
    NotAStore {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A folder with other things in it was to become a store.
    #[error("{} is not a store and holds other things ({found})", path.display())]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// The first thing in it that no store has.
        found: String,
    },
    /// The store, or a file in it, was written by a newer program.
    #[error("{} has format {found}; this program knows formats up to {supported}", path.display())]
    NewerFormat {
        /// The store, or the file in it.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// No room for what had to be written.
    #[error("no space left to {doing} {}: {source}", path.display())]
    DiskFull {
        /// The verb of what was tried.
        doing: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The place may not be written.
    #[error("not allowed to {doing} {}: {source}", path.display())]
    ReadOnly {
        /// The verb of what was tried.
        doing: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The verb of what was tried.
        doing: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the store does not say what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A blob that was named is not there.
    #[error("blob {} is not in the store", digest.short())]
    MissingBlob {
        /// The blob.
        digest: Digest,
    },
    /// A record was to be published before its output was whole.
    #[error("the output of {key} cannot be recorded: {reason}")]
    IncompleteOutput {
        /// The key that was to be recorded.
        key: Key,
        /// What is missing.
        reason: String,
    },
    /// A file cannot be part of a tree.
    #[error("{} cannot be stored: {reason}", path.display())]
    UnfitForTree {
        /// The file, folder or link.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A file was changed while it was being read.
    #[error("{} changed while it was being read", path.display())]
    ChangedWhileRead {
        /// The file.
        path: PathBuf,
    },
    /// A name that cannot be a file name of the store.
    #[error("{name:?} cannot be the name of a {what}")]
    BadName {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name that stands for nothing, or for several things.
    #[error("{reason}")]
    NotFound {
        /// What was looked for and what was found.
        reason: String,
    },
    /// A value that cannot be written down.
    #[error("{what} cannot be stored: {reason}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

impl StoreError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotAStore { .. } => Some("run an experiment first, or name another store with --cache DIR"),
            Self::ForeignFolder { .. } => {
                Some("name an empty or new folder with --cache DIR: a store hides its content from git")
            }
            Self::NewerFormat { .. } => {
                Some("use the newer program that wrote it, or name another store with --cache DIR")
            }
            Self::DiskFull { .. } => Some(
                "free some space (`stillhouse cache gc` drops what nothing needs), then run again: \
                 what is finished is kept",
            ),
            Self::ReadOnly { .. } => {
                Some("make the folder writable for this user, or name another store with --cache DIR")
            }
            Self::Corrupt { path, .. } if path.ends_with("FORMAT") => None,
            Self::Corrupt { .. } => Some("`stillhouse cache verify` finds damaged files and sets them aside"),
            Self::MissingBlob { .. } | Self::IncompleteOutput { .. } => {
                Some("run again: the stage that makes it is executed once more")
            }
            Self::UnfitForTree { .. } => Some(
                "a stage's output may hold plain files and folders with UTF-8 names without control \
                 characters",
            ),
            Self::ChangedWhileRead { .. } => Some("wait until whatever writes the file has finished, then run again"),
            Self::BadName { .. } => {
                Some("use letters, digits, dots, dashes and underscores, and start with none of the dots")
            }
            Self::Io { .. } | Self::NotFound { .. } | Self::Invalid { .. } => None,
        }
    }

    /// Whether the reason is a full disk, an exhausted quota or a limit on file sizes.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// For `map_err`: classifies a failure of the file system while `doing` something to `path`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| {
            let source = without_path(error);
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Self::DiskFull { doing, path, source }
                }
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    Self::ReadOnly { doing, path, source }
                }
                _ => Self::Io { doing, path, source },
            }
        }
    }
}

/// The reason alone, without the path that a library has put before it, so that a message does not
/// name the same path twice. Reasons that std has no words for stay as they are.
fn without_path(error: io::Error) -> io::Error {
    use io::ErrorKind::{
        AlreadyExists, CrossesDevices, DirectoryNotEmpty, FileTooLarge, IsADirectory, NotADirectory, NotFound,
        PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, ResourceBusy, StaleNetworkFileHandle, StorageFull,
        TimedOut, TooManyLinks, UnexpectedEof,
    };
    match error.kind() {
        kind @ (AlreadyExists
        | CrossesDevices
        | DirectoryNotEmpty
        | FileTooLarge
        | IsADirectory
        | NotADirectory
        | NotFound
        | PermissionDenied
        | QuotaExceeded
        | ReadOnlyFilesystem
        | ResourceBusy
        | StaleNetworkFileHandle
        | StorageFull
        | TimedOut
        | TooManyLinks
        | UnexpectedEof) => kind.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures_by_a_real_one() {
        let path = Path::new("/dev/full");
        let error = fs_err::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(b"x"))
            .map_err(StoreError::io("write", path))
            .unwrap_err();
        assert!(error.is_disk_full(), "{error:?}");
        assert_eq!(error.to_string(), "no space left to write /dev/full: no storage space");
        assert!(error.hint().unwrap().contains("cache gc"));
    }

    #[test]
    fn a_message_names_the_path_once() {
        let path = Path::new("/definitely/not/there");
        let error = fs_err::read(path).map_err(StoreError::io("read", path)).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /definitely/not/there: entity not found");
    }
}
