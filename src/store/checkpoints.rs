//! Checkpoints: where a trajectory can be continued.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Key};
use crate::durable;
use crate::error::StoreError;
use crate::records::note_use;
use crate::store::Store;

/// The format of manifests that this program writes. The first had no field for it, and is written without one still.
const CHECKPOINT_FORMAT: u32 = 1;

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFile {
    /// The blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub length: u64,
}

/// What lies at `checkpoints/<key>.json`: the state of a training run after `step` steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    /// Training steps taken.
    pub step: u64,
    /// Role (weights, optimizer, …) → blob.
    pub files: BTreeMap<String, CheckpointFile>,
    /// Whatever else the trainer needs, small.
    pub meta: serde_json::Value,
}

/// See [`Store::hold_blobs`].
#[must_use = "blobs are held only as long as this is"]
#[derive(Debug)]
pub struct HeldBlobs(#[expect(dead_code, reason = "held for its lock alone")] File);

impl Store {
    /// Publishes a checkpoint whose files are in the store already. The same trajectory gives the
    /// same checkpoint, so an earlier manifest may be replaced.
    ///
    /// # Errors
    /// [`StoreError::IncompleteOutput`] when a file is not in the store.
    pub fn put_checkpoint(&self, key: &Key, manifest: &CheckpointManifest) -> Result<(), StoreError> {
        self.put_checkpoint_with(key, manifest, |_, new| new)
    }

    /// [`Store::put_checkpoint`] where several may publish under one key: `merge` gets what is there, if that is whole, and
    /// what is to be published, and says what will be there. Nobody else publishes or forgets a checkpoint between the look
    /// and the writing, in whatever process. May be called under [`Store::hold_blobs`].
    ///
    /// # Errors
    /// [`StoreError::IncompleteOutput`] when a file is not in the store; what is there is of a newer format.
    pub fn put_checkpoint_with(
        &self,
        key: &Key,
        manifest: &CheckpointManifest,
        merge: impl FnOnce(CheckpointManifest, CheckpointManifest) -> CheckpointManifest,
    ) -> Result<(), StoreError> {
        // Shared, so that it can be had while the writer holds the blobs; it keeps out whoever forgets checkpoints.
        let _shared = self.lock_for_publishing()?;
        let _only_publisher = self.lock_checkpoints()?;
        let there = self.checkpoint_manifest(key)?.filter(|there| self.missing_checkpoint_file(there).is_none());
        let manifest = match there {
            Some(there) => merge(there, manifest.clone()),
            None => manifest.clone(),
        };
        if let Some(reason) = self.missing_checkpoint_file(&manifest) {
            return Err(StoreError::IncompleteOutput { key: *key, reason });
        }
        self.write_checkpoint(key, &manifest)
    }

    fn write_checkpoint(&self, key: &Key, manifest: &CheckpointManifest) -> Result<(), StoreError> {
        let path = self.layout().checkpoint(key);
        let mut bytes = serde_json::to_vec(manifest)
            .map_err(|error| StoreError::Invalid { what: "a checkpoint", reason: error.to_string() })?;
        bytes.push(b'\n');
        let file = durable::temporary_with(&self.layout().tmp(), 0o444, &bytes, &path)?;
        durable::name_replacing(file, &path)
    }

    /// The checkpoint at `key`, if it and all its files are there. A damaged one counts as absent. To find it is to use it:
    /// garbage collection by age goes by that.
    ///
    /// # Errors
    /// A manifest of a newer format, or a failing disk.
    pub fn checkpoint(&self, key: &Key) -> Result<Option<CheckpointManifest>, StoreError> {
        let path = self.layout().checkpoint(key);
        let mut file = match fs_err::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        let Some(manifest) = parse(&bytes, &path)? else {
            return Ok(None);
        };
        if let Some(reason) = self.missing_checkpoint_file(&manifest) {
            tracing::warn!(checkpoint = %key.short(), reason, "checkpoint is not whole");
            return Ok(None);
        }
        note_use(file.file());
        Ok(Some(manifest))
    }

    /// Whether [`Store::checkpoint`] would find something: the question of a search for the longest
    /// prefix, which asks for many keys that do not exist. It counts as a use as well: what is there is not written anew.
    pub fn has_checkpoint(&self, key: &Key) -> Result<bool, StoreError> {
        Ok(self.checkpoint(key)?.is_some())
    }

    /// Keeps every blob where it is until the guard is dropped. Held by whoever stores a checkpoint from its first blob to
    /// its manifest, or reads one: [`Store::discard_checkpoints`] and garbage collection wait meanwhile.
    ///
    /// Never call either of the two under it: they would wait for ever.
    pub fn hold_blobs(&self) -> Result<HeldBlobs, StoreError> {
        self.lock_for_publishing().map(HeldBlobs)
    }

    /// Forgets those of the checkpoints of whose manifests `may_go` says so, and removes at once those of their blobs that no
    /// record, no other checkpoint and no pin names. A manifest that stays and that `may_go` changed is written as changed.
    /// Returns the bytes that were set free; none if nothing was forgotten.
    ///
    /// Unlike garbage collection this has no grace period, since the blobs of a checkpoint are named by checkpoints first:
    /// their writers hold them ([`Store::hold_blobs`]), so none is between its blobs and its manifest here. An output that
    /// shares blobs with a checkpoint is made by a training whose own last checkpoint names them until the record does. Should
    /// anybody else be about to name one of them, publishing finds it missing and says so; nothing incomplete is named.
    ///
    /// The whole store is read to know what is named elsewhere, once for all of `keys`, and nobody publishes meanwhile.
    ///
    /// # Errors
    /// A disk that fails. Where a record or checkpoint of a newer format hides what it needs, all blobs stay.
    pub fn discard_checkpoints(
        &self,
        keys: &[Key],
        mut may_go: impl FnMut(&mut CheckpointManifest) -> bool,
    ) -> Result<Option<u64>, StoreError> {
        let _alone = self.lock_for_removing()?;
        let (mut gone, mut blobs) = (BTreeSet::new(), BTreeMap::new());
        for key in keys {
            let Some(mut manifest) = self.checkpoint_manifest(key)? else { continue };
            let before = manifest.clone();
            if may_go(&mut manifest) {
                gone.insert(*key);
                blobs.extend(before.files.values().map(|file| (file.digest, file.length)));
            } else if manifest != before {
                self.write_checkpoint(key, &manifest)?;
            }
        }
        if gone.is_empty() {
            return Ok(None);
        }
        let unnamed = match self.unnamed(blobs.keys().copied().collect(), &gone) {
            Ok(unnamed) => unnamed,
            Err(error @ (StoreError::NewerFormat { .. } | StoreError::Corrupt { .. })) => {
                tracing::warn!(checkpoints = gone.len(), %error, "their blobs stay");
                Default::default()
            }
            Err(error) => return Err(error),
        };
        // The names first, then what they name: an end in the middle leaves only garbage.
        for key in &gone {
            self.remove_checkpoint(key)?;
        }
        let mut freed = 0;
        for digest in unnamed {
            let path = self.blob_path(&digest);
            match fs_err::remove_file(&path) {
                Ok(()) => freed += blobs[&digest],
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", &path)(error)),
            }
        }
        Ok(Some(freed))
    }

    /// Forgets a checkpoint; its blobs go with the next garbage collection. `false` if there was none.
    pub fn remove_checkpoint(&self, key: &Key) -> Result<bool, StoreError> {
        let path = self.layout().checkpoint(key);
        match fs_err::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", &path)(error)),
        }
    }

    /// The keys of all checkpoints, sorted.
    pub fn checkpoints(&self) -> Result<Vec<Key>, StoreError> {
        let files = crate::index::list(&self.layout().area("checkpoints"))?;
        let key = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
        Ok(files.into_iter().filter_map(|entry| key(entry.file_name())).collect())
    }

    /// The manifest as written, without a look at its files; this is no use of it. A damaged one counts as absent.
    ///
    /// # Errors
    /// A manifest of a newer format, or a failing disk.
    pub(crate) fn checkpoint_manifest(&self, key: &Key) -> Result<Option<CheckpointManifest>, StoreError> {
        let path = self.layout().checkpoint(key);
        match fs_err::read(&path) {
            Ok(bytes) => parse(&bytes, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    fn missing_checkpoint_file(&self, manifest: &CheckpointManifest) -> Option<String> {
        manifest.files.iter().find_map(|(role, file)| {
            let whole = self.blob_length(&file.digest) == Some(file.length);
            (!whole).then(|| format!("its {role} ({}) is missing", file.digest.short()))
        })
    }
}

/// Reads a manifest; nothing if it is damaged. A newer format is a real error, as it is with records: what such a checkpoint
/// needs is unknown here, and to take it for damaged would lose a newer program's work.
fn parse(bytes: &[u8], path: &Path) -> Result<Option<CheckpointManifest>, StoreError> {
    /// Only the part that every format has.
    #[derive(Deserialize)]
    struct AnyFormat {
        #[serde(default = "first")]
        format: u32,
    }
    fn first() -> u32 {
        CHECKPOINT_FORMAT
    }
    if let Ok(AnyFormat { format }) = serde_json::from_slice(bytes)
        && format > CHECKPOINT_FORMAT
    {
        return Err(StoreError::NewerFormat { path: path.to_owned(), found: format, supported: CHECKPOINT_FORMAT });
    }
    Ok(serde_json::from_slice(bytes)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "unreadable"))
        .ok())
}
