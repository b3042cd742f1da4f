//! What was handed in and not fetched yet, on disk beside the replies, so that whoever runs next goes on with it.
//!
//! ```text
//! cache/replies/<teacher>/batches/
//!   lock                  held for the moment in which batches are begun or taken over
//!   <id>.requests.jsonl   the file that goes up
//!   <id>.json             where the batch stands: no such file, no batch
//!   <id>.lock             held by the process that looks after the batch, as long as it lives
//! ```
//!
//! `<id>.json` is replaced as a whole, and durable, before the next step is taken: the file's id at the server before a batch is
//! made of it, the batch's id before it is waited for. It goes when every reply is in the store. The batch carries `<id>` with it,
//! so that one whose id did not reach the disk is found again in the server's list.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::{File, OpenOptions};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stillhouse_stage::{Cancel, Failure};

use super::line::{self, Wanted};
use crate::replies::{ReplyStore, RequestKey};
use crate::request::Request;
use crate::transport::budget::Reservation;

const LOCK_AGAIN: Duration = Duration::from_millis(50);

/// Where a batch stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stand {
    /// The server that it is for: its base URL.
    pub place: String,
    /// When it was begun, in seconds since 1970.
    pub began: i64,
    /// How many requests it has.
    pub requests: u64,
    /// The id of its file at the server, once that is there.
    pub file: Option<String>,
    /// Its id at the server, once it was made.
    pub batch: Option<String>,
}

/// A batch that this process looks after.
#[derive(Debug)]
pub struct Entry {
    /// Its name here, which it carries with it.
    pub id: String,
    /// Where it stands.
    pub stand: Stand,
    folder: PathBuf,
    _lock: File,
}

/// The batches of one teacher at one server.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    place: String,
}

/// Nobody else begins a batch or takes one over while it is held.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

/// What there is beside one's own.
#[derive(Debug, Default)]
pub struct Found {
    /// Batches that nobody looked after, now looked after here.
    pub adopted: Vec<Entry>,
    /// The requests of batches that other processes look after.
    pub elsewhere: BTreeSet<RequestKey>,
}

impl Journal {
    /// The journal beside a teacher's replies. `place` is the server's base URL: another server knows nothing of a batch.
    #[must_use]
    pub fn of(replies: &Path, place: &str) -> Self {
        Self { folder: replies.join("batches"), place: place.trim_end_matches('/').to_owned() }
    }

    /// Waits until nobody else begins batches.
    ///
    /// # Errors
    /// If the folder cannot be written; [`Failure::interrupted`].
    pub async fn lock(&self, cancel: &Cancel) -> Result<Held, Failure> {
        fs_err::create_dir_all(&self.folder)?;
        let path = self.folder.join("lock");
        loop {
            if let Some(lock) = lock(&path)? {
                return Ok(Held { _lock: lock });
            }
            if cancel.is_cancelled() {
                return Err(Failure::interrupted());
            }
            tokio::time::sleep(LOCK_AGAIN).await;
        }
    }

    /// Looks for batches of before and of others, and takes those over that nobody looks after.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn look(&self, _held: &Held, own: &BTreeSet<String>) -> Result<Found, Failure> {
        let mut found = Found::default();
        for id in self.ids()? {
            if own.contains(&id) {
                continue;
            }
            // Whoever had it may have finished it since it was listed, so it counts only if it is still there once locked.
            let taken = lock(&self.folder.join(format!("{id}.lock")))?;
            let Some(stand) = read(&self.folder.join(format!("{id}.json")))? else {
                if taken.is_some() {
                    remove(&self.folder, &id)?;
                }
                continue;
            };
            if stand.place != self.place {
                continue;
            }
            match taken {
                Some(lock) => {
                    found.adopted.push(Entry { id, stand, folder: self.folder.clone(), _lock: lock });
                }
                None => found.elsewhere.extend(keys(&requests_path(&self.folder, &id))?),
            }
        }
        Ok(found)
    }

    /// The requests of every batch for this server that is not fetched yet.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn under_way(&self) -> Result<BTreeSet<RequestKey>, Failure> {
        let mut under_way = BTreeSet::new();
        for id in self.ids()? {
            if read(&self.folder.join(format!("{id}.json")))?.is_some_and(|stand| stand.place == self.place) {
                under_way.extend(keys(&requests_path(&self.folder, &id))?);
            }
        }
        Ok(under_way)
    }

    /// Begins a batch: its requests are on disk, and nothing was sent.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(&self, _held: &Held, lines: &[Vec<u8>]) -> Result<Entry, Failure> {
        let now = Timestamp::now();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&now.as_nanosecond().to_le_bytes()).update(&std::process::id().to_le_bytes());
        lines.iter().filter_map(|line| line::key_of(line)).for_each(|key| {
            hasher.update(&key.0);
        });
        let id = hasher.finalize().to_hex()[..24].to_owned();
        let lock = lock(&self.folder.join(format!("{id}.lock")))?
            .ok_or_else(|| Failure::internal("a batch that was just named is locked"))?;
        let mut file = File::create(requests_path(&self.folder, &id))?;
        lines.iter().try_for_each(|line| file.write_all(line))?;
        file.sync_all()?;
        let (place, requests) = (self.place.clone(), lines.len() as u64);
        let stand = Stand { place, began: now.as_second(), requests, file: None, batch: None };
        let entry = Entry { id, stand, folder: self.folder.clone(), _lock: lock };
        entry.keep()?;
        Ok(entry)
    }

    fn ids(&self) -> Result<BTreeSet<String>, Failure> {
        let entries = match fs_err::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error.into()),
        };
        let mut ids = BTreeSet::new();
        for entry in entries {
            let name = entry?.file_name();
            // Also what was begun and has no stand: it is taken away.
            let id = name.to_str().and_then(|name| name.split_once('.')).map(|(id, _)| id.to_owned());
            ids.extend(id);
        }
        Ok(ids)
    }
}

impl Entry {
    /// The file that goes up.
    #[must_use]
    pub fn requests_path(&self) -> PathBuf {
        requests_path(&self.folder, &self.id)
    }

    /// Its requests, from the file; `reserve` sets aside what one can take.
    ///
    /// # Errors
    /// If that cannot be read, or is not as it was written.
    pub fn wanted(
        &self,
        store: &ReplyStore,
        reserve: impl Fn(&Request) -> Reservation,
    ) -> Result<BTreeMap<RequestKey, Wanted>, Failure> {
        let mut wanted = BTreeMap::new();
        let path = self.requests_path();
        let mut file = BufReader::with_capacity(1 << 16, File::open(&path)?);
        let mut text = Vec::new();
        while file.read_until(b'\n', &mut text)? > 0 {
            let (key, request) = line::wanted(&text, store, &reserve).ok_or_else(|| {
                Failure::environment(format!("{} is not as it was written", path.display())).hint(
                    "its replies are at the server; to give them up and ask again, remove the files of that name beside it",
                )
            })?;
            wanted.insert(key, request);
            text.clear();
        }
        Ok(wanted)
    }

    /// Its file is at the server, under this id.
    ///
    /// # Errors
    /// If that cannot be kept.
    pub fn uploaded(&mut self, file: String) -> Result<(), Failure> {
        self.stand.file = Some(file);
        self.keep()
    }

    /// It was made at the server, under this id.
    ///
    /// # Errors
    /// If that cannot be kept.
    pub fn made(&mut self, batch: String) -> Result<(), Failure> {
        self.stand.batch = Some(batch);
        self.keep()
    }

    /// All of its replies are in the store, or it came to nothing.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn finish(&self) -> Result<(), Failure> {
        remove(&self.folder, &self.id)
    }

    /// Writes down where it stands: as a whole, and durable when this returns.
    fn keep(&self) -> Result<(), Failure> {
        let text = serde_json::to_vec(&self.stand)
            .map_err(|error| Failure::internal(format!("a batch cannot be written down: {error}")))?;
        let path = self.folder.join(format!("{}.json", self.id));
        let new = self.folder.join(format!("{}.json.new", self.id));
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs_err::rename(&new, &path)?;
        Ok(File::open(&self.folder)?.sync_all()?)
    }
}

fn requests_path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.requests.jsonl"))
}

/// Takes a lock; nothing if somebody has it.
fn lock(path: &Path) -> Result<Option<File>, Failure> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match file.file().try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(Failure::environment(format!("cannot lock {}: {error}", path.display())))
        }
    }
}

/// Where a batch stands; nothing if there is none.
fn read(path: &Path) -> Result<Option<Stand>, Failure> {
    let text = match fs_err::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Failure::environment(format!("{} is not as it was written: {error}", path.display()))
            .hint("it says which batch waits to be fetched; remove it to give that up")
    })
}

/// The keys of a file of requests; none if it is gone.
fn keys(path: &Path) -> Result<BTreeSet<RequestKey>, Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error.into()),
    };
    let mut keys = BTreeSet::new();
    for line in BufReader::with_capacity(1 << 16, file).split(b'\n') {
        keys.extend(line::key_of(&line?));
    }
    Ok(keys)
}

/// The stand goes first: what is left without one is no batch.
fn remove(folder: &Path, id: &str) -> Result<(), Failure> {
    for ending in ["json", "json.new", "requests.jsonl", "lock"] {
        match fs_err::remove_file(folder.join(format!("{id}.{ending}"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
