//! Looking records up, and publishing them: the last step of every stage.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Key};
use crate::durable::{self, Naming};
use crate::error::StoreError;
use crate::index::{Index, IndexEntry};
use crate::record::{Lookup, Published, RECORD_FORMAT, Record};
use crate::store::Store;
use crate::tree::Tree;

/// What lies in `records/ab/<key>.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredRecord {
    pub(crate) record: Record,
    /// The text of the output tree, for small ones. Its digest is checked like that of the blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tree: Option<String>,
}

/// Which records there were at one moment.
#[derive(Debug, Clone)]
pub struct History(Arc<Index>);

impl History {
    /// Like [`Store::history`], at that moment.
    #[must_use]
    pub fn of(&self, kind: &str, stage: &str, limit: usize) -> Vec<IndexEntry> {
        self.0.history(kind, stage).take(limit).cloned().collect()
    }
}

impl Store {
    /// The key's record if its whole output is there.
    ///
    /// # Errors
    /// A record of a newer format, or a failing disk. What is missing or damaged is no error: see
    /// [`Store::lookup`] for the reason.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        match self.lookup(key)? {
            Lookup::Found(record) => Ok(Some(record)),
            Lookup::Missing | Lookup::Broken { .. } => Ok(None),
        }
    }

    /// What is known of a key. Blobs are checked for presence and length only, so that this costs a
    /// few microseconds; [`Store::verify`] reads them.
    pub fn lookup(&self, key: &Key) -> Result<Lookup, StoreError> {
        let path = self.layout().record(key);
        let mut file = match fs_err::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Missing),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        let stored = match parse(&bytes, key, &path)? {
            Ok(stored) => stored,
            Err(reason) => return Ok(Lookup::Broken { reason }),
        };
        if let Some(reason) = self.output_problem(&stored.record.output, stored.tree.as_deref())? {
            return Ok(Lookup::Broken { reason });
        }
        note_use(file.file());
        Ok(Lookup::Found(stored.record))
    }

    /// Publishes a record: atomic and durable, first writer wins. A broken record does not count.
    ///
    /// # Errors
    /// [`StoreError::IncompleteOutput`] when the output tree or one of its blobs is not in the store.
    pub fn publish(&self, record: Record) -> Result<Published, StoreError> {
        if !record.seconds.is_finite() {
            let reason = format!("{} seconds", record.seconds);
            return Err(StoreError::Invalid { what: "a record", reason });
        }
        let shared = self.lock_for_publishing()?;
        let tree = self.whole_output(&record)?;
        match self.lookup(&record.key)? {
            Lookup::Found(earlier) => return Ok(Published::Lost(earlier)),
            Lookup::Broken { .. } => {
                drop(shared);
                return self.replace_broken(record);
            }
            Lookup::Missing => {}
        }
        let path = self.layout().record(&record.key);
        let file = self.write_record(&record, &tree, &path)?;
        // Before the record: an index line without a record is skipped, a record without a line
        // would be missing from every history.
        self.append_to_index(&record)?;
        if durable::name_if_free(file, &path)? == Naming::New {
            durable::sync_parent(&path)?;
            return Ok(Published::Won);
        }
        drop(shared);
        match self.lookup(&record.key)? {
            Lookup::Found(earlier) => Ok(Published::Lost(earlier)),
            Lookup::Missing | Lookup::Broken { .. } => self.replace_broken(record),
        }
    }

    /// All records ever published, oldest first, from the index. An entry whose record has been
    /// collected since is left to [`Store::lookup`].
    pub fn records(&self) -> Result<Vec<IndexEntry>, StoreError> {
        Ok(self.index()?.entries().to_vec())
    }

    /// What was recorded under a key, whether or not its output is still there: for explanations, not for reuse.
    ///
    /// # Errors
    /// A record of a newer format, or a failing disk.
    pub fn recorded(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let path = self.layout().record(key);
        match fs_err::read(&path) {
            Ok(bytes) => Ok(parse(&bytes, key, &path)?.ok().map(|stored| stored.record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// The history of the store as it is now; what is recorded later does not change it.
    pub fn histories(&self) -> Result<History, StoreError> {
        Ok(History(self.index()?))
    }

    /// Up to `limit` earlier records to compare a stage with, best first: the same kind and stage,
    /// newest first, then the same kind under other names, newest first.
    pub fn history(&self, kind: &str, stage: &str, limit: usize) -> Result<Vec<IndexEntry>, StoreError> {
        Ok(self.index()?.history(kind, stage).take(limit).cloned().collect())
    }

    /// Replaces a record that is no proof of anything. Under the removing lock, since a rename that
    /// replaces could otherwise take away a good record that somebody published meanwhile.
    fn replace_broken(&self, record: Record) -> Result<Published, StoreError> {
        let _alone = self.lock_for_removing()?;
        let tree = self.whole_output(&record)?;
        if let Lookup::Found(earlier) = self.lookup(&record.key)? {
            return Ok(Published::Lost(earlier));
        }
        let path = self.layout().record(&record.key);
        let file = self.write_record(&record, &tree, &path)?;
        self.append_to_index(&record)?;
        durable::name_replacing(file, &path)?;
        Ok(Published::Won)
    }

    /// The output's tree, if every blob of it is there.
    fn whole_output(&self, record: &Record) -> Result<Tree, StoreError> {
        let incomplete = |reason| StoreError::IncompleteOutput { key: record.key, reason };
        let Some(tree) = self.tree(&record.output)? else {
            return Err(incomplete(format!("its tree {} is missing", record.output.short())));
        };
        match self.missing_blob(&tree) {
            Some(reason) => Err(incomplete(reason)),
            None => Ok(tree),
        }
    }

    fn write_record(&self, record: &Record, tree: &Tree, path: &Path) -> Result<tempfile::TempPath, StoreError> {
        let inline = tree.fits_into_record().then(|| tree.to_text());
        let stored = StoredRecord { record: record.clone(), tree: inline };
        let mut bytes = serde_json::to_vec(&stored)
            .map_err(|error| StoreError::Invalid { what: "a record", reason: error.to_string() })?;
        bytes.push(b'\n');
        durable::temporary_with(&self.layout().tmp(), 0o444, &bytes, path)
    }

    fn append_to_index(&self, record: &Record) -> Result<(), StoreError> {
        Index::append(&self.layout().area("records"), &IndexEntry::of(record))
    }

    /// What is wrong with a recorded output, if anything is.
    fn output_problem(&self, output: &Digest, inline: Option<&str>) -> Result<Option<String>, StoreError> {
        let lost = || Some(format!("its tree {} is missing or damaged", output.short()));
        let tree = match inline {
            Some(text) => {
                if Digest::of(text.as_bytes()) != *output || self.blob_length(output) != Some(text.len() as u64) {
                    return Ok(lost());
                }
                Tree::parse(text).ok()
            }
            None => match self.tree(output) {
                Ok(tree) => tree,
                Err(StoreError::Corrupt { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        Ok(tree.map_or_else(lost, |tree| self.missing_blob(&tree)))
    }

    /// The first blob of a tree that is not there with its length, in words.
    pub(crate) fn missing_blob(&self, tree: &Tree) -> Option<String> {
        tree.entries().iter().find_map(|entry| match self.blob_length(&entry.digest) {
            Some(length) if length == entry.length => None,
            Some(length) => Some(format!(
                "{} ({}) has {length} bytes instead of {}",
                entry.path,
                entry.digest.short(),
                entry.length
            )),
            None => Some(format!("{} ({}) is missing", entry.path, entry.digest.short())),
        })
    }
}

/// Notes on the file of a record or checkpoint that it was of use: garbage collection by age goes by that. At most
/// once a day, so that planning does not write; a store that may not be written stays as it is.
pub(crate) fn note_use(named: &File) {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let age = named.metadata().and_then(|meta| meta.modified()).map(|time| time.elapsed());
    if matches!(age, Ok(Ok(age)) if age > DAY) {
        let _ = named.set_modified(SystemTime::now());
    }
}

/// Reads a record's file. The inner error says why it is no proof; a newer format is a real error,
/// because replacing what a newer program wrote would lose its work.
pub(crate) fn parse(bytes: &[u8], key: &Key, path: &Path) -> Result<Result<StoredRecord, String>, StoreError> {
    /// Only the part that every format has.
    #[derive(Deserialize)]
    struct AnyFormat {
        record: FormatOnly,
    }
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    match serde_json::from_slice::<StoredRecord>(bytes) {
        Ok(stored) if stored.record.format == RECORD_FORMAT => {
            if stored.record.key == *key {
                return Ok(Ok(stored));
            }
            Ok(Err(format!("its record is that of another key, {}", stored.record.key.short())))
        }
        other => match serde_json::from_slice::<AnyFormat>(bytes) {
            Ok(AnyFormat { record: FormatOnly { format } }) if format > RECORD_FORMAT => {
                Err(StoreError::NewerFormat { path: path.to_owned(), found: format, supported: RECORD_FORMAT })
            }
            _ => {
                let why = other.err().map_or_else(|| "an unknown format".into(), |e| e.to_string());
                Ok(Err(format!("its record cannot be read: {why}")))
            }
        },
    }
}
