//! Trees and folders: taking a folder in, and laying a tree out again.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::store::Store;
use crate::tree::{self, Tree, TreeEntry};

/// A file that was found in a folder.
struct Found {
    /// Where it is.
    at: PathBuf,
    /// Relative to the folder, with `/`.
    path: String,
    executable: bool,
}

/// What to do about symbolic links.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// They are errors: in an output they point to what the store does not hold.
    Refuse,
    /// They stand for what they point to: model folders are often made of them.
    Follow,
}

impl Store {
    /// Moves all files of a folder into the store and stores the tree of them. The folder is left
    /// with empty folders only; those are not part of a tree.
    ///
    /// # Errors
    /// Symbolic links, devices and names that are not UTF-8 are refused before anything is moved.
    pub fn put_tree(&self, folder: &Path) -> Result<(Digest, Tree), StoreError> {
        let files = walk(folder, Links::Refuse)?;
        // In parallel, because each file waits for the disk to confirm it.
        let entries = entries_of(files, |at| self.adopt_file(at))?;
        let tree = Tree::new(entries)?;
        let digest = self.put_tree_text(&tree)?;
        Ok((digest, tree))
    }

    /// Stores the list only; the blobs it names are stored apart.
    fn put_tree_text(&self, tree: &Tree) -> Result<Digest, StoreError> {
        let text = tree.to_text();
        if tree.fits_into_record() {
            return self.put_bytes_unsynced(text.as_bytes());
        }
        self.put_bytes(text.as_bytes())
    }

    /// The tree of a folder outside the store, through the stat cache; nothing is stored. Symbolic
    /// links stand for what they point to.
    pub fn tree_of_folder(&self, folder: &Path) -> Result<Tree, StoreError> {
        let files = walk(folder, Links::Follow)?;
        Tree::new(entries_of(files, |at| self.digest_of(at))?)
    }

    /// The tree with this digest, or `None` when it is not there or was damaged.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the digest names a blob that is no tree.
    pub fn tree(&self, digest: &Digest) -> Result<Option<Tree>, StoreError> {
        let Some(bytes) = self.checked_read(digest)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).unwrap_or_default();
        let tree = Tree::parse(&text).map_err(|error| StoreError::Corrupt {
            path: self.blob_path(digest),
            reason: format!("it should be a tree: {error}"),
        })?;
        Ok(Some(tree))
    }

    /// Lays the tree out under `into` for reading: hard links to the blobs where possible, else
    /// copies. All files are read-only; executables are copies, since a link shares the blob's mode.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`], or a file that is there already.
    pub fn materialise(&self, tree: &Tree, into: &Path) -> Result<(), StoreError> {
        self.lay_out(tree, into, |entry, blob, target| {
            if !entry.executable && fs_err::hard_link(blob, target).is_ok() {
                return Ok(());
            }
            copy(blob, target, if entry.executable { 0o555 } else { 0o444 })
        })
    }

    /// Lays the tree out under `into` for keeps: writable copies that share nothing with the store.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`], or a file that is there already.
    pub fn export(&self, tree: &Tree, into: &Path) -> Result<(), StoreError> {
        self.lay_out(tree, into, |entry, blob, target| copy(blob, target, if entry.executable { 0o755 } else { 0o644 }))
    }

    fn lay_out(
        &self,
        tree: &Tree,
        into: &Path,
        place: impl Fn(&TreeEntry, &Path, &Path) -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        fs_err::create_dir_all(into).map_err(StoreError::io("create", into))?;
        let mut last_folder = into.to_owned();
        for entry in tree.entries() {
            let target = into.join(&entry.path);
            if let Some(folder) = target.parent()
                && folder != last_folder
            {
                fs_err::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
                last_folder = folder.to_owned();
            }
            if target.symlink_metadata().is_ok() {
                let exists = std::io::ErrorKind::AlreadyExists.into();
                return Err(StoreError::io("write", &target)(exists));
            }
            let blob = self.blob_path(&entry.digest);
            match place(entry, &blob, &target) {
                Ok(()) => {}
                Err(_) if !self.has(&entry.digest) => {
                    return Err(StoreError::MissingBlob { digest: entry.digest });
                }
                Err(error) => return Err(StoreError::io("write", &target)(error)),
            }
        }
        Ok(())
    }
}

fn copy(blob: &Path, target: &Path, mode: u32) -> std::io::Result<()> {
    fs_err::copy(blob, target)?;
    fs_err::set_permissions(target, PermissionsExt::from_mode(mode))
}

fn entries_of(
    files: Vec<Found>,
    digest: impl Fn(&Path) -> Result<(Digest, u64), StoreError> + Sync,
) -> Result<Vec<TreeEntry>, StoreError> {
    let entry = |Found { at, path, executable }: Found| {
        let (digest, length) = digest(&at)?;
        Ok(TreeEntry { path, digest, length, executable })
    };
    files.into_par_iter().map(entry).collect()
}

/// All files under a folder, or why one of them is unfit.
fn walk(folder: &Path, links: Links) -> Result<Vec<Found>, StoreError> {
    let mut files = Vec::new();
    walk_into(folder, "", links, 0, &mut files)?;
    Ok(files)
}

fn walk_into(
    folder: &Path,
    prefix: &str,
    links: Links,
    depth: usize,
    files: &mut Vec<Found>,
) -> Result<(), StoreError> {
    /// Deeper than any real output; a loop of links ends here.
    const DEEPEST: usize = 64;
    let refuse = |path: &Path, reason| Err(StoreError::UnfitForTree { path: path.into(), reason });
    if depth > DEEPEST {
        return refuse(folder, "it is nested too deeply");
    }
    for entry in fs_err::read_dir(folder).map_err(StoreError::io("read", folder))? {
        let entry = entry.map_err(StoreError::io("read", folder))?;
        let at = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return refuse(&at, "its name is not UTF-8");
        };
        if tree::unfit(&name).is_some() {
            return refuse(&at, "its name contains a control character");
        }
        let mut meta = fs_err::symlink_metadata(&at).map_err(StoreError::io("read", &at))?;
        if meta.is_symlink() {
            match links {
                Links::Refuse => return refuse(&at, "it is a symbolic link"),
                Links::Follow => {
                    meta = fs_err::metadata(&at).map_err(StoreError::io("follow", &at))?;
                }
            }
        }
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if meta.is_dir() {
            walk_into(&at, &path, links, depth + 1, files)?;
        } else if meta.is_file() {
            let executable = meta.permissions().mode() & 0o100 != 0;
            files.push(Found { at, path, executable });
        } else {
            return refuse(&at, "it is neither a file nor a folder");
        }
    }
    Ok(())
}
