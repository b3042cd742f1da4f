//! The list of all records, for history: which recipe did this stage have before?
//!
//! `records/index.jsonl` gets one line per record, appended before the record is published. It is a
//! convenience and proves nothing: lines that cannot be read are skipped, a line's record may have
//! been collected, and the whole file is rebuilt from the records when it is gone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Key;
use crate::durable;
use crate::error::StoreError;
use crate::record::Record;
use crate::store::Store;

const FILE: &str = "index.jsonl";

/// One record, as far as finding it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The record's key.
    pub key: Key,
    /// The stage's name when it was made.
    pub stage: String,
    /// The stage's kind.
    pub kind: String,
    /// When it was made: RFC 3339, UTC.
    pub created: String,
}

impl IndexEntry {
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            key: record.key,
            stage: record.stage.clone(),
            kind: record.kind.clone(),
            created: record.created.clone(),
        }
    }
}

/// The index in memory.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Oldest first, each key once.
    entries: Vec<IndexEntry>,
    /// Kind → positions, ascending.
    by_kind: BTreeMap<String, Vec<usize>>,
    /// (kind, stage) → positions, ascending.
    by_stage: BTreeMap<(String, String), Vec<usize>>,
}

/// The index as it was when the file had this length.
#[derive(Debug, Default)]
pub(crate) struct IndexCache {
    loaded: Option<(u64, Arc<Index>)>,
}

impl Index {
    fn new(entries: impl IntoIterator<Item = IndexEntry>) -> Self {
        let mut latest: BTreeMap<Key, usize> = BTreeMap::new();
        let mut index = Self::default();
        let all: Vec<IndexEntry> = entries.into_iter().collect();
        for (at, entry) in all.iter().enumerate() {
            latest.insert(entry.key, at);
        }
        for (at, entry) in all.into_iter().enumerate() {
            if latest.get(&entry.key) != Some(&at) {
                continue;
            }
            let position = index.entries.len();
            index.by_kind.entry(entry.kind.clone()).or_default().push(position);
            let stage = (entry.kind.clone(), entry.stage.clone());
            index.by_stage.entry(stage).or_default().push(position);
            index.entries.push(entry);
        }
        index
    }

    pub(crate) fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The entries of a kind, newest first, with those of `stage` before all others.
    pub(crate) fn history<'a>(&'a self, kind: &str, stage: &'a str) -> impl Iterator<Item = &'a IndexEntry> {
        let newest_first =
            |positions: Option<&'a Vec<usize>>| positions.into_iter().flatten().rev().map(|&at| &self.entries[at]);
        let same = self.by_stage.get(&(kind.to_owned(), stage.to_owned()));
        let others = newest_first(self.by_kind.get(kind)).filter(move |entry| entry.stage != stage);
        newest_first(same).chain(others)
    }

    /// Adds one line. A line feed goes before it as well, so that a line torn by a crash spoils
    /// nothing but itself; one write in append mode keeps lines of several processes apart.
    pub(crate) fn append(records: &Path, entry: &IndexEntry) -> Result<(), StoreError> {
        let path = records.join(FILE);
        let line = format!("\n{}\n", json_line(entry)?);
        fs_err::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(StoreError::io("append to", &path))
    }

    fn parse(text: &[u8]) -> Self {
        let lines = text.split(|&byte| byte == b'\n');
        Self::new(lines.filter_map(|line| serde_json::from_slice(line).ok()))
    }
}

fn json_line(entry: &IndexEntry) -> Result<String, StoreError> {
    serde_json::to_string(entry).map_err(|error| StoreError::Invalid { what: "a record", reason: error.to_string() })
}

impl Store {
    /// The index, read again only when the file has changed.
    pub(crate) fn index(&self) -> Result<Arc<Index>, StoreError> {
        let path = self.layout().area("records").join(FILE);
        let mut cache = self.index_cache();
        let length = match fs_err::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(cache);
                return self.rebuild_index();
            }
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        if let Some((known, index)) = &cache.loaded
            && *known == length
        {
            return Ok(Arc::clone(index));
        }
        let text = fs_err::read(&path).map_err(StoreError::io("read", &path))?;
        let index = Arc::new(Index::parse(&text));
        cache.loaded = Some((text.len() as u64, Arc::clone(&index)));
        Ok(index)
    }

    /// Makes the index from the records themselves, in order of their creation, and writes it where
    /// that is allowed.
    pub(crate) fn rebuild_index(&self) -> Result<Arc<Index>, StoreError> {
        let mut entries = Vec::new();
        for key in self.recorded_keys()? {
            let path = self.layout().record(&key);
            let Ok(bytes) = fs_err::read(&path) else {
                continue;
            };
            if let Ok(stored) = serde_json::from_slice::<RecordHead>(&bytes) {
                entries.push(stored.record);
            }
        }
        entries.sort_by(|a: &IndexEntry, b| (&a.created, &a.key).cmp(&(&b.created, &b.key)));
        let mut text = String::new();
        for entry in &entries {
            text.push_str(&json_line(entry)?);
            text.push('\n');
        }
        let path = self.layout().area("records").join(FILE);
        let written = durable::temporary_unsynced(&self.layout().tmp(), 0o644, text.as_bytes(), &path)
            .and_then(|file| durable::name_replacing(file, &path));
        if let Err(error) = written {
            tracing::debug!(%error, "the index of records is kept in memory only");
        }
        let index = Arc::new(Index::new(entries));
        self.index_cache().loaded = Some((text.len() as u64, Arc::clone(&index)));
        Ok(index)
    }

    /// The keys of all record files, sorted, whatever state the records are in.
    pub(crate) fn recorded_keys(&self) -> Result<Vec<Key>, StoreError> {
        let mut keys = Vec::new();
        for folder in list(&self.layout().area("records"))? {
            if !folder.path().is_dir() {
                continue;
            }
            for entry in list(&folder.path())? {
                let name = entry.file_name();
                let key = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
                keys.extend(key.filter(|key| self.layout().record(key) == entry.path()));
            }
        }
        keys.sort();
        Ok(keys)
    }
}

/// A record's file, read only as far as the index needs.
#[derive(Deserialize)]
struct RecordHead {
    record: IndexEntry,
}

/// The entries of a folder, sorted by name; none where there is no folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<fs_err::DirEntry>, StoreError> {
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("read", folder)(error)),
    };
    let mut entries = entries.collect::<io::Result<Vec<_>>>().map_err(StoreError::io("read", folder))?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    Ok(entries)
}
