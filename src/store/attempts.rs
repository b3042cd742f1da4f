//! Attempts: scratch space for one try at a stage, and what stays of the failed ones.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::digest::Key;
use crate::error::StoreError;
use crate::index::list;
use crate::layout::check_name;
use crate::lease::LeaseOwner;
use crate::store::Store;

/// How many swept attempts keep their logs, and how many bytes of logs altogether.
const KEPT_ATTEMPTS: usize = 50;
const KEPT_BYTES: u64 = 20 * 1024 * 1024;

/// What sweeping left and took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// Attempts whose lease is held: untouched.
    pub running: u64,
    /// Attempts of which only the logs are left.
    pub kept: u64,
    /// Attempts that are gone altogether.
    pub removed: u64,
    /// Bytes freed.
    pub bytes: u64,
}

/// An attempt that nobody works on, after its scratch files are gone.
struct Swept {
    path: PathBuf,
    modified: SystemTime,
    log_bytes: u64,
}

impl Store {
    /// Creates `attempts/<key>/<id>/`. Hold the lease named by the key meanwhile, or the folder is
    /// swept. Large files belong into folders inside: of plain files the logs (`log`, `*.log`,
    /// `*.json`, `*.jsonl`, `*.txt`) outlive a failed attempt for a while.
    ///
    /// # Errors
    /// An attempt of that name exists already, or the folder cannot be made.
    pub fn attempt_dir(&self, key: &Key, id: &str) -> Result<PathBuf, StoreError> {
        check_name("attempt", id)?;
        let path = self.layout().area("attempts").join(key.to_string()).join(id);
        let parent = path.parent().unwrap_or(&path);
        fs_err::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        fs_err::create_dir(&path).map_err(StoreError::io("create", &path))?;
        Ok(path)
    }

    /// Removes an attempt with everything in it: for those that succeeded.
    pub fn remove_attempt(&self, key: &Key, id: &str) -> Result<(), StoreError> {
        check_name("attempt", id)?;
        let folder = self.layout().area("attempts").join(key.to_string());
        remove(&folder.join(id))?;
        let _ = fs_err::remove_dir(&folder); // Fails while other attempts are in it, rightly.
        Ok(())
    }

    /// Clears the scratch space of attempts that nobody works on: those of a key whose lease is free.
    /// The logs of the most recent ones stay (50 attempts, 20 MB).
    pub fn sweep_attempts(&self) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        let mut swept = Vec::new();
        let mut leases = Vec::new();
        for folder in list(&self.layout().area("attempts"))? {
            let Some(name) = folder.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            let attempts = list(&folder.path())?;
            let owner = LeaseOwner::this_process("sweep", "attempts");
            // Held until all is done, so that nobody starts an attempt in the middle.
            let Some(lease) = self.lease(&name, &owner)? else {
                report.running += attempts.len() as u64;
                continue;
            };
            leases.push((lease, folder.path()));
            for attempt in attempts {
                swept.push(clear_scratch(&attempt.path(), &mut report.bytes)?);
            }
        }
        swept.sort_by_key(|attempt| std::cmp::Reverse(attempt.modified));
        let mut bytes = 0;
        for (at, attempt) in swept.iter().enumerate() {
            bytes += attempt.log_bytes;
            // The most recent one stays whatever its size: it is the one that is asked for.
            let keep = at == 0 || (at < KEPT_ATTEMPTS && bytes <= KEPT_BYTES);
            if keep && attempt.log_bytes > 0 {
                report.kept += 1;
            } else {
                remove(&attempt.path)?;
                report.removed += 1;
                report.bytes += attempt.log_bytes;
            }
        }
        for (_, folder) in &leases {
            let _ = fs_err::remove_dir(folder); // Fails while logs are in it, rightly.
        }
        Ok(report)
    }
}

/// Removes everything but logs from an attempt.
fn clear_scratch(attempt: &Path, freed: &mut u64) -> Result<Swept, StoreError> {
    let modified = fs_err::metadata(attempt).and_then(|meta| meta.modified());
    let mut swept =
        Swept { path: attempt.to_owned(), modified: modified.unwrap_or(SystemTime::UNIX_EPOCH), log_bytes: 0 };
    for entry in list(attempt)? {
        let path = entry.path();
        let length = bytes_under(&path);
        if is_log(&path) {
            swept.log_bytes += length;
            // Its own time, since removing things changes that of the folder.
            if let Ok(time) = fs_err::metadata(&path).and_then(|meta| meta.modified()) {
                swept.modified = time;
            }
        } else {
            remove(&path)?;
            *freed += length;
        }
    }
    Ok(swept)
}

fn is_log(path: &Path) -> bool {
    let plain = fs_err::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let by_name = path.file_name().is_some_and(|name| name == "log");
    let by_extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| matches!(extension, "log" | "json" | "jsonl" | "txt"));
    plain && (by_name || by_extension)
}

/// Bytes of plain files at and under a path; links count nothing and are not followed.
pub(crate) fn bytes_under(path: &Path) -> u64 {
    match fs_err::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            list(path).unwrap_or_default().iter().map(|entry| bytes_under(&entry.path())).sum()
        }
        Ok(meta) if meta.is_file() => meta.len(),
        _ => 0,
    }
}

/// Removes a file, link or folder; it may be gone already.
fn remove(path: &Path) -> Result<(), StoreError> {
    let folder = fs_err::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let removed = if folder { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
