//! Runs: a folder each, named so that names sort by time and can be typed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::StoreError;
use crate::index::list;
use crate::layout::check_name;
use crate::lease::{Lease, LeaseOwner};
use crate::store::Store;

/// A run in progress. While it lives, garbage collection spares every record and checkpoint.
#[derive(Debug)]
pub struct Run {
    entry: RunEntry,
    _lease: Lease,
}

/// A run of the past, or of another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEntry {
    /// The run's name: the time it started in UTC, such as `261122-152330`.
    pub id: String,
    /// `runs/<id>/`.
    pub path: PathBuf,
    /// Whether its process is alive.
    pub live: bool,
}

impl Run {
    /// The run's name, and where its files are.
    pub fn entry(&self) -> &RunEntry {
        &self.entry
    }

    /// The run's name.
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// `runs/<id>/`.
    pub fn path(&self) -> &Path {
        &self.entry.path
    }
}

impl RunEntry {
    /// The run's line of events.
    pub fn events_path(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// The run's log for people who look for a fault.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }
}

impl Store {
    /// Starts a run: a folder of its own under a new name.
    pub fn create_run(&self) -> Result<Run, StoreError> {
        loop {
            let second = Timestamp::now().strftime("%y%m%d-%H%M%S").to_string();
            // Runs of one second are told apart by a letter, which keeps the order of names.
            for suffix in std::iter::once(String::new()).chain(('b'..='z').map(String::from)) {
                let id = format!("{second}{suffix}");
                let path = self.layout().area("runs").join(&id);
                match fs_err::create_dir(&path) {
                    Ok(()) => {
                        let owner = LeaseOwner::this_process(&id, "run");
                        let Some(lease) = self.lease(&lease_name(&id), &owner)? else {
                            continue;
                        };
                        return Ok(Run { entry: RunEntry { id, path, live: true }, _lease: lease });
                    }
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(StoreError::io("create", &path)(error)),
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// All runs, newest first.
    pub fn runs(&self) -> Result<Vec<RunEntry>, StoreError> {
        let mut runs = Vec::new();
        for entry in list(&self.layout().area("runs"))?.into_iter().rev() {
            let Some(id) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if check_name("run", &id).is_err() || !entry.path().is_dir() {
                continue;
            }
            let live = self.lease_holder(&lease_name(&id))?.is_some();
            runs.push(RunEntry { path: entry.path(), id, live });
        }
        Ok(runs)
    }

    /// The run that `text` means: `last`, a whole name, or the beginning or end of exactly one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it means none or several.
    pub fn find_run(&self, text: &str) -> Result<RunEntry, StoreError> {
        let runs = self.runs()?;
        let not_found = |reason| Err(StoreError::NotFound { reason });
        let whole = |run: &&RunEntry| run.id == text;
        if let Some(run) = runs.iter().find(whole).or(runs.first().filter(|_| text == "last")) {
            return Ok(run.clone());
        }
        let fits = |run: &&RunEntry| run.id.starts_with(text) || run.id.ends_with(text);
        let mut fitting = runs.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            _ if runs.is_empty() => not_found("there are no runs yet".to_owned()),
            (Some(run), None) if !text.is_empty() => Ok(run.clone()),
            (Some(a), Some(b)) => not_found(format!("{text:?} means several runs: {}, {} …", a.id, b.id)),
            _ => not_found(format!("there is no run {text:?}; the last one is {}", runs[0].id)),
        }
    }
}

fn lease_name(id: &str) -> String {
    format!("run-{id}")
}
