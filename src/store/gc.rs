//! Garbage collection: mark what records, checkpoints and pins need, sweep the rest.
//!
//! Safe beside running processes. Publishing a record or checkpoint holds a shared lock from "all blobs
//! are there" to "the name is there", and collecting holds it alone; so a record is either marked, or
//! its publisher finds a blob missing and the stage runs again. Blobs younger than the grace period
//! are kept, since a running attempt may be about to record them. And while any lease is held, no
//! record and no checkpoint goes: a run may have planned with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::attempts::SweepReport;
use crate::digest::{Digest, Key};
use crate::error::StoreError;
use crate::index::list;
use crate::pins::PinTarget;
use crate::records::{self, StoredRecord};
use crate::store::Store;
use crate::tree::Tree;

/// Temporary files younger than this may be about to be named, whatever the options say: to take one
/// away would fail its writer.
const TEMPORARY_GRACE: Duration = Duration::from_secs(3600);

/// What to collect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcOptions {
    /// Only say what would go.
    pub dry_run: bool,
    /// Records and checkpoints that were neither made nor used for this long go too; `None` keeps
    /// them all and collects only what nothing names.
    pub keep: Option<Duration>,
    /// Blobs younger than this stay, whoever they belong to.
    pub grace: Duration,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { dry_run: false, keep: None, grace: Duration::from_secs(3600) }
    }
}

/// What was collected, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was really removed.
    pub dry_run: bool,
    /// Records removed.
    pub records: Vec<Key>,
    /// Checkpoints removed.
    pub checkpoints: Vec<Key>,
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Blobs left.
    pub kept_blobs: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Of those left, blobs that nothing names but that are younger than the grace period.
    pub young_blobs: u64,
    /// Their bytes.
    pub young_bytes: u64,
    /// The grace period in seconds.
    pub grace_seconds: u64,
    /// Unfinished files removed.
    pub temporary: u64,
    /// Unfinished files left, for their youth.
    pub young_temporary: u64,
    /// Attempts swept; all zero in a dry run.
    pub attempts: SweepReport,
    /// The leases that were held. If there are any, no record and no checkpoint was removed.
    pub held: Vec<String>,
}

impl Store {
    /// Collects garbage. See the options for what that is.
    ///
    /// # Errors
    /// A disk that fails, a pin that cannot be read, or a record or checkpoint of a newer format: what
    /// it needs is unknown then, so no record, checkpoint or blob is removed. A damaged record or
    /// checkpoint is no error and needs nothing, since it will be made again.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let grace_seconds = options.grace.as_secs();
        let mut report = GcReport { dry_run: options.dry_run, grace_seconds, ..GcReport::default() };
        if !options.dry_run {
            report.attempts = self.sweep_attempts()?;
        }
        let _lock = if options.dry_run { self.lock_for_publishing() } else { self.lock_for_removing() }?;
        report.held = self.held_leases()?;
        let keep = options.keep.filter(|_| report.held.is_empty());

        let mut marked = BTreeSet::new();
        let mut doomed = Vec::new();
        let pins = self.pins()?;
        self.mark_pins(pins.values(), &mut marked)?;
        for key in self.recorded_keys()? {
            let path = self.layout().record(&key);
            // Read even if it is to go: by age alone, what a newer program made does not.
            let stored = stored_record(&key, &path)?;
            let pinned = pins.values().any(|pin| *pin == PinTarget::Record(key));
            if !pinned && is_older(&path, keep) {
                report.records.push(key);
                doomed.push(path);
            } else if let Some(stored) = stored {
                self.mark_record(&stored, &mut marked)?;
            }
        }
        for key in self.checkpoints()? {
            let path = self.layout().checkpoint(&key);
            let manifest = self.checkpoint_manifest(&key)?;
            if is_older(&path, keep) {
                report.checkpoints.push(key);
                doomed.push(path);
            } else if let Some(manifest) = manifest {
                marked.extend(manifest.files.values().map(|file| file.digest));
            }
        }
        doomed.extend(self.doomed_blobs(&marked, options.grace, &mut report)?);
        let (temporary, young) = self.temporary_files(options.grace.max(TEMPORARY_GRACE))?;
        (report.temporary, report.young_temporary) = (temporary.len() as u64, young.len() as u64);
        doomed.extend(temporary);

        if !options.dry_run {
            // Names first, then what they name: an end in the middle leaves only more garbage.
            for path in doomed {
                match fs_err::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(StoreError::io("remove", &path)(error));
                    }
                    _ => {}
                }
            }
            if !report.records.is_empty() {
                self.rebuild_index()?;
            }
        }
        Ok(report)
    }

    /// Those of `blobs` that no record, no pin and no checkpoint but those in `except` names. Whoever asks holds the store alone.
    ///
    /// # Errors
    /// As [`Store::gc`]: where somebody's needs are unknown.
    pub(crate) fn unnamed(
        &self,
        blobs: BTreeSet<Digest>,
        except: &BTreeSet<Key>,
    ) -> Result<BTreeSet<Digest>, StoreError> {
        let mut marked = BTreeSet::new();
        self.mark_pins(self.pins()?.values(), &mut marked)?;
        for key in self.checkpoints()?.iter().filter(|key| !except.contains(key)) {
            let manifest = self.checkpoint_manifest(key)?;
            marked.extend(manifest.iter().flat_map(|manifest| manifest.files.values()).map(|file| file.digest));
        }
        for key in self.recorded_keys()? {
            if let Some(stored) = stored_record(&key, &self.layout().record(&key))? {
                self.mark_record(&stored, &mut marked)?;
            }
        }
        Ok(blobs.difference(&marked).copied().collect())
    }

    fn mark_pins<'a>(
        &self,
        pins: impl Iterator<Item = &'a PinTarget>,
        marked: &mut BTreeSet<Digest>,
    ) -> Result<(), StoreError> {
        for pin in pins {
            // Pinned records are marked with the other records.
            if let PinTarget::Output(digest) = pin {
                self.mark_output(digest, marked)?;
            }
        }
        Ok(())
    }

    /// Marks what a record needs.
    fn mark_record(&self, stored: &StoredRecord, marked: &mut BTreeSet<Digest>) -> Result<(), StoreError> {
        marked.insert(stored.record.output);
        match stored.tree.as_deref().and_then(|text| Tree::parse(text).ok()) {
            Some(tree) => {
                marked.extend(tree.entries().iter().map(|entry| entry.digest));
                Ok(())
            }
            None => self.mark_output(&stored.record.output, marked),
        }
    }

    /// Marks a blob, and the files of it if it is a tree.
    fn mark_output(&self, digest: &Digest, marked: &mut BTreeSet<Digest>) -> Result<(), StoreError> {
        marked.insert(*digest);
        let bytes = match self.read(digest) {
            Ok(bytes) => bytes,
            Err(StoreError::MissingBlob { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let tree = String::from_utf8(bytes).ok().and_then(|text| Tree::parse(&text).ok());
        if let Some(tree) = tree {
            marked.extend(tree.entries().iter().map(|entry| entry.digest));
        }
        Ok(())
    }

    fn doomed_blobs(
        &self,
        marked: &BTreeSet<Digest>,
        grace: Duration,
        report: &mut GcReport,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let mut doomed = Vec::new();
        for digest in self.stored_digests()? {
            let Some(length) = self.blob_length(&digest) else {
                continue;
            };
            let path = self.blob_path(&digest);
            let named = marked.contains(&digest);
            if !named && is_older(&path, Some(grace)) {
                report.blobs += 1;
                report.blob_bytes += length;
                doomed.push(path);
                continue;
            }
            report.kept_blobs += 1;
            report.kept_bytes += length;
            if !named {
                report.young_blobs += 1;
                report.young_bytes += length;
            }
        }
        Ok(doomed)
    }

    /// Unfinished files that are older, and those that are not.
    fn temporary_files(&self, grace: Duration) -> Result<(Vec<PathBuf>, Vec<PathBuf>), StoreError> {
        let files = list(&self.layout().tmp())?.into_iter().map(|entry| entry.path());
        Ok(files.partition(|path| is_older(path, Some(grace))))
    }
}

/// The record in a file; nothing if it is damaged.
fn stored_record(key: &Key, path: &Path) -> Result<Option<StoredRecord>, StoreError> {
    let bytes = fs_err::read(path).map_err(StoreError::io("read", path))?;
    Ok(records::parse(&bytes, key, path)?.inspect_err(|reason| tracing::warn!(key = %key.short(), reason)).ok())
}

/// Whether a file is older than `limit`; never without a limit, and never if its age is unknown.
fn is_older(path: &Path, limit: Option<Duration>) -> bool {
    let Some(limit) = limit else { return false };
    let modified = fs_err::metadata(path).and_then(|meta| meta.modified());
    let age = modified.map(|time| SystemTime::now().duration_since(time));
    matches!(age, Ok(Ok(age)) if age > limit)
}
