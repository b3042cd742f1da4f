//! Who asks a request, among the processes that share a store.
//!
//! A claim is a lock on one byte of the file `claims`, whose place is made from the request. The system gives it up when the
//! process ends, however it ends, so nothing is left behind by a kill; the file itself stays empty. Two requests that share
//! a place (one in 4 × 10¹⁸ pairs) wait for each other for nothing.
//!
//! Where a file system has no such locks, requests are claimed within a process only, as they always are besides (see
//! [`super::ReplyStore::claim`]).

use std::path::Path;
use std::sync::{Arc, OnceLock};

use fs_err::{File, OpenOptions};

use super::entry::RequestKey;

const FILE_NAME: &str = "claims";

/// The claims of one store, as all processes see them.
#[derive(Debug, Default)]
pub(super) struct SharedClaims {
    /// Opened when the first request is asked: a store that is only read makes no file. None where that fails.
    file: OnceLock<Option<Arc<File>>>,
}

impl SharedClaims {
    /// Takes a request, unless another process has it. Where there are no locks everybody has everything.
    pub fn take(&self, directory: &Path, key: &RequestKey, max_tokens: u32) -> Option<SharedClaim> {
        let Some(file) = self.file.get_or_init(|| open(directory)) else { return Some(SharedClaim(None)) };
        let place = place(key, max_tokens);
        match system::lock(file, place) {
            Ok(true) => Some(SharedClaim(Some((Arc::clone(file), place)))),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(directory = %directory.display(), %error, "requests are claimed within this process only");
                Some(SharedClaim(None))
            }
        }
    }
}

/// A request that is ours among processes until this is dropped.
#[derive(Debug)]
pub(super) struct SharedClaim(Option<(Arc<File>, i64)>);

impl Drop for SharedClaim {
    fn drop(&mut self) {
        if let Some((file, place)) = &self.0 {
            system::unlock(file, *place);
        }
    }
}

fn open(directory: &Path) -> Option<Arc<File>> {
    let path = directory.join(FILE_NAME);
    let opened = fs_err::create_dir_all(directory)
        .and_then(|()| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path));
    // A store that cannot be written says so when a reply is to be put into it.
    opened
        .inspect_err(|error| tracing::debug!(%error, "requests are claimed within this process only"))
        .ok()
        .map(Arc::new)
}

/// The byte that stands for a request: below 2⁶², since places are signed.
fn place(key: &RequestKey, max_tokens: u32) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.prefix().to_le_bytes());
    hasher.update(&max_tokens.to_le_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_le_bytes(bytes) & ((1 << 62) - 1)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::io;

    use fs_err::File;
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    /// Whether the byte at `place` is locked by us now; it is not where another open file holds it.
    pub fn lock(file: &File, place: i64) -> io::Result<bool> {
        match set(file, place, libc::F_WRLCK) {
            Ok(()) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub fn unlock(file: &File, place: i64) {
        if let Err(error) = set(file, place, libc::F_UNLCK) {
            tracing::warn!(%error, "a claimed request could not be given up");
        }
    }

    /// Locks belong to the open file, not to the process as POSIX's do, which would lose all of them when any file of that name is
    /// closed.
    fn set(file: &File, place: i64, kind: libc::c_int) -> Result<(), Errno> {
        let range = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: place,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(file.file(), FcntlArg::F_OFD_SETLK(&range)).map(drop)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use std::io;

    use fs_err::File;

    pub fn lock(_: &File, _: i64) -> io::Result<bool> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    pub fn unlock(_: &File, _: i64) {}
}
