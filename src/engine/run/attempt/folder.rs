//! The folder that an attempt works in.

use std::path::PathBuf;

use stillhouse_stage::Failure;
use stillhouse_store::{Key, Store};

use crate::logs;

/// The folder of an attempt; removed at the end, after its log has been put by.
pub(super) struct Attempt<'a> {
    store: &'a Store,
    key: Key,
    id: String,
    pub(super) folder: PathBuf,
}

impl<'a> Attempt<'a> {
    pub(super) fn create(store: &'a Store, key: Key) -> Result<Self, Failure> {
        let id = format!("{}-{}", jiff::Timestamp::now().as_millisecond(), std::process::id());
        let folder = store.attempt_dir(&key, &id)?;
        Ok(Self { store, key, id, folder })
    }

    /// Adds the log to the run's, where it outlives the attempt.
    pub(super) fn keep_log(&self, run: &str, stage: &str) {
        let log = self.folder.join("log");
        if fs_err::metadata(&log).map_or(0, |meta| meta.len()) == 0 {
            return;
        }
        let kept = logs::path(&self.store.root().join("runs").join(run), stage);
        if let Err(error) = logs::append_file(&kept, &log) {
            tracing::warn!(stage, %error, "the stage's log could not be kept");
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.store.remove_attempt(&self.key, &self.id) {
            tracing::warn!(%error, "an attempt's folder could not be removed");
        }
    }
}
