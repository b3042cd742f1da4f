//! Leases: one holder at a time, and none when the holder has died.
//!
//! A lease is an advisory lock of the operating system on `leases/<name>`, so it ends with the process
//! that holds it, however that ends. The file's content names the holder for people; it proves nothing.
//! The file is removed on release *while it is still locked*, and whoever gets a lock checks that the
//! name still means the file it locked: so nobody ever holds a lease on a file that others cannot see.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::layout::check_name;
use crate::store::Store;

/// How often a busy lease is tried before it counts as held: [`Store::lease_holder`] locks it for
/// microseconds to find out whether anybody holds it.
const TRIES: u32 = 4;

/// Who holds a lease: for people who wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseOwner {
    /// The run.
    pub run: String,
    /// The machine.
    pub host: String,
    /// The process on that machine.
    pub pid: u32,
    /// What it is doing.
    pub stage: String,
}

impl LeaseOwner {
    /// This process, on this machine.
    pub fn this_process(run: &str, stage: &str) -> Self {
        let host = ["/proc/sys/kernel/hostname", "/etc/hostname"]
            .into_iter()
            .find_map(|path| fs_err::read_to_string(path).ok())
            .or_else(|| std::env::var("HOSTNAME").ok());
        let host = host.as_deref().map(str::trim).filter(|host| !host.is_empty());
        Self {
            run: run.to_owned(),
            host: host.unwrap_or("unknown").to_owned(),
            pid: std::process::id(),
            stage: stage.to_owned(),
        }
    }
}

/// A held lease. Dropping it releases it.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: File,
}

impl Store {
    /// Takes the lease `name` if nobody holds it; `None` if somebody does.
    ///
    /// The lease of a stage is named by its key, `key.to_string()`: that is what garbage collection
    /// and the sweeping of attempts look for.
    pub fn lease(&self, name: &str, owner: &LeaseOwner) -> Result<Option<Lease>, StoreError> {
        let path = self.lease_path(name)?;
        for _ in 0..TRIES {
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(StoreError::io("lock", &path)(error));
                }
            }
            let mut lease = Lease { path: path.clone(), file };
            if !lease.still_held() {
                // The holder before removed the file between our open and our lock. What we locked
                // has no name: drop it without touching the name, which is somebody else's by now.
                continue;
            }
            lease.sign(owner).map_err(StoreError::io("write", &path))?;
            return Ok(Some(lease));
        }
        Ok(None)
    }

    /// Who holds the lease `name`, if anybody living does.
    pub fn lease_holder(&self, name: &str) -> Result<Option<LeaseOwner>, StoreError> {
        let path = self.lease_path(name)?;
        let mut file = match fs_err::File::open(&path) {
            Ok(file) => file.into_parts().0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(StoreError::io("read", &path))?;
        // Locked and not signed yet: held, by somebody who is about to say so.
        let unknown = || LeaseOwner { run: "unknown".into(), host: "unknown".into(), pid: 0, stage: "unknown".into() };
        Ok(Some(serde_json::from_str(&text).unwrap_or_else(|_| unknown())))
    }

    /// The names of all leases that somebody holds, sorted.
    pub fn held_leases(&self) -> Result<Vec<String>, StoreError> {
        let mut held = Vec::new();
        for entry in crate::index::list(&self.layout().area("leases"))? {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if check_name("lease", &name).is_ok() && self.lease_holder(&name)?.is_some() {
                held.push(name);
            }
        }
        Ok(held)
    }

    fn lease_path(&self, name: &str) -> Result<PathBuf, StoreError> {
        check_name("lease", name)?;
        Ok(self.layout().area("leases").join(name))
    }
}

impl Lease {
    /// Whether the lease's name still means our lock. `false` when somebody removed the file behind
    /// our back: the attempt must then be given up.
    pub fn still_held(&self) -> bool {
        match (self.file.metadata(), fs_err::metadata(&self.path)) {
            (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }

    fn sign(&mut self, owner: &LeaseOwner) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(serde_json::to_string(owner)?.as_bytes())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.still_held() {
            // A file that stays is no harm: without a lock it means nothing.
            let _ = fs_err::remove_file(&self.path);
        }
        // The lock goes with the file handle, after the name.
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    fs_err::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map(|file| file.into_parts().0)
        .map_err(StoreError::io("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(stage: &str) -> LeaseOwner {
        LeaseOwner { run: "r1".into(), host: "h".into(), pid: std::process::id(), stage: stage.into() }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    #[test]
    fn one_at_a_time_and_the_waiter_learns_who() {
        let (_folder, store) = store();
        let lease = store.lease("a", &owner("student.small")).unwrap().unwrap();
        assert!(store.lease("a", &owner("x")).unwrap().is_none());
        assert_eq!(store.lease_holder("a").unwrap().unwrap().stage, "student.small");
        assert_eq!(store.held_leases().unwrap(), ["a"]);
        drop(lease);
        assert_eq!(store.lease_holder("a").unwrap(), None);
        assert!(!store.root().join("leases/a").exists());
        assert!(store.lease("a", &owner("x")).unwrap().is_some());
    }

    #[test]
    fn a_lease_file_without_a_holder_is_free() {
        let (_folder, store) = store();
        fs_err::write(store.root().join("leases/a"), "{\"left\": \"behind\"}").unwrap();
        assert_eq!(store.lease_holder("a").unwrap(), None);
        assert!(store.lease("a", &owner("x")).unwrap().is_some());
    }

    #[test]
    fn a_lease_whose_file_was_removed_is_lost_and_spares_the_next_holder() {
        let (_folder, store) = store();
        let lost = store.lease("a", &owner("first")).unwrap().unwrap();
        fs_err::remove_file(store.root().join("leases/a")).unwrap();
        assert!(!lost.still_held());
        let second = store.lease("a", &owner("second")).unwrap().unwrap();
        drop(lost);
        assert!(second.still_held(), "the loser must not remove the winner's file");
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let (_folder, store) = store();
        for name in ["", "../x", "a/b", ".hidden", "a b"] {
            let error = store.lease(name, &owner("x")).unwrap_err();
            assert!(matches!(error, StoreError::BadName { .. }), "{error}");
        }
    }

    /// Eight threads pass one lease around as fast as they can; two holders at once would be seen.
    #[test]
    fn exclusion_survives_the_race_between_release_and_removal() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let (_folder, store) = store();
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 400 {
                        if let Some(lease) = store.lease("a", &owner("x")).unwrap() {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                            assert!(lease.still_held());
                            taken.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
    }
}
