//! Where things lie in a store, and how a store comes into being.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Key};
use crate::durable;
use crate::error::StoreError;

/// The format of stores that this program writes. Raised when an older program must not touch them.
pub const FORMAT: u32 = 1;

/// Marks a folder that backup programs may leave out; see <https://bford.info/cachedir/>.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a stillhouse store: it can be recomputed from the experiments.\n";

/// The folders of a store, in the order of the crate's picture.
pub(crate) const AREAS: [&str; 10] =
    ["blobs", "records", "replies", "checkpoints", "attempts", "leases", "pins", "runs", "quarantine", "tmp"];

/// What else may lie in a folder that becomes a store.
const FILES: [&str; 4] = ["FORMAT", "CACHEDIR.TAG", ".gitignore", "stat-cache"];

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    /// Completes the store at `root`, writing only what is not there yet. `FORMAT` comes last, so a
    /// store that has one is whole.
    pub(crate) fn create(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let layout = Self { root };
        if layout.format()?.is_some() {
            return Ok(layout);
        }
        layout.refuse_foreign_folder()?;
        for area in AREAS {
            let path = layout.root.join(area);
            fs_err::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        }
        // The 256 folders of records exist from the start: making one later costs a sync of its
        // parent, for nearly each of the first records. Those of blobs need none; see `durable`.
        let records = layout.root.join("records");
        for first in 0..=u8::MAX {
            let path = records.join(format!("{first:02x}"));
            fs_err::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        }
        durable::sync_folder(&records)?;
        for (name, content) in
            [(".gitignore", "*\n"), ("CACHEDIR.TAG", CACHEDIR_TAG), ("FORMAT", &format!("{FORMAT}\n"))]
        {
            let path = layout.root.join(name);
            if path.exists() {
                continue;
            }
            // Two processes may create one store at once; both write the same bytes, and a rename
            // shows them to a third at once or not at all.
            let write = || {
                let temporary = tempfile::NamedTempFile::new_in(layout.root.join("tmp"))?;
                fs_err::write(temporary.path(), content)?;
                let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                temporary.as_file().set_permissions(readable)?;
                if name == "FORMAT" {
                    // The others may come back empty from a power cut; this one would look damaged.
                    temporary.as_file().sync_all()?;
                }
                temporary.persist(&path).map_err(|error| error.error)?;
                Ok(())
            };
            write().map_err(StoreError::io("write", &path))?;
        }
        Ok(layout)
    }

    /// Finds the store at `root` without writing anything.
    pub(crate) fn find(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let layout = Self { root };
        match layout.format()? {
            Some(_) => Ok(layout),
            None => Err(StoreError::NotAStore { path: layout.root }),
        }
    }

    /// The format written in `FORMAT`, if there is one and this program can read it.
    fn format(&self) -> Result<Option<u32>, StoreError> {
        let path = self.format_file();
        let text = match fs_err::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        match text.trim().parse::<u32>() {
            Ok(found) if found <= FORMAT => Ok(Some(found)),
            Ok(found) => Err(StoreError::NewerFormat { path: self.root.clone(), found, supported: FORMAT }),
            Err(_) => {
                Err(StoreError::Corrupt { path, reason: "it should hold one number, the store's format; if this folder is a store, remove the file and it is written again".to_owned() })
            }
        }
    }

    /// A store ignores its whole content for git and sweeps what it does not know: a folder of the
    /// user's must never become one by a mistyped path.
    fn refuse_foreign_folder(&self) -> Result<(), StoreError> {
        let entries = match fs_err::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("read", &self.root)(error)),
        };
        for entry in entries {
            let name = entry.map_err(StoreError::io("read", &self.root))?.file_name();
            if !AREAS.iter().chain(&FILES).any(|known| OsStr::new(known) == name) {
                return Err(StoreError::ForeignFolder {
                    path: self.root.clone(),
                    found: name.to_string_lossy().into_owned(),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn format_file(&self) -> PathBuf {
        self.root.join("FORMAT")
    }

    pub(crate) fn area(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Files without a name yet. On the same file system as everything else, so naming is a rename.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        let (folder, rest) = hex.split_at(2);
        let mut path = self.root.join("blobs");
        path.push(folder);
        path.push(rest);
        path
    }

    pub(crate) fn record(&self, key: &Key) -> PathBuf {
        let hex = key.to_string();
        let mut path = self.root.join("records");
        path.push(&hex[..2]);
        path.push(format!("{hex}.json"));
        path
    }

    pub(crate) fn checkpoint(&self, key: &Key) -> PathBuf {
        self.root.join("checkpoints").join(format!("{key}.json"))
    }
}

/// Whether `name` may become one file name inside the store.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), StoreError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(StoreError::BadName { what, name: name.chars().take(200).collect() });
    }
    Ok(())
}
