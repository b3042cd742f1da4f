//! The store as the rest of the crate uses it: find, put, claim.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::StoreError;
use super::claims::{SharedClaim, SharedClaims};
use super::entry::{self, RequestKey};
use super::indexed::{Every, IndexedSegment};
use super::segment::{self, numbers};
use super::writer::Writer;
use crate::reply::Reply;

/// How often a miss looks for what other processes have written meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// What readers and the writer share.
#[derive(Debug)]
pub(super) struct State {
    segments: BTreeMap<u32, IndexedSegment>,
    /// Entries that turned out to be unreadable.
    unreadable: BTreeSet<Location>,
    /// The segment that this process writes: the writer itself puts its entries into the index, once durable.
    own: Option<u32>,
    looked: Option<Instant>,
    /// When the folder was changed last, where that was long enough before it was listed that a further change shows.
    listed: Option<SystemTime>,
    every: Every,
}

impl State {
    fn new(every: Every) -> Self {
        Self { segments: BTreeMap::new(), unreadable: BTreeSet::new(), own: None, looked: None, listed: None, every }
    }

    /// Brings in what is new in all segments but the own one.
    /// `changed` is when the folder was, read before.
    fn refresh(&mut self, directory: &Path, changed: Option<SystemTime>) -> Result<(), StoreError> {
        for number in self.numbers(directory, changed)? {
            if self.own != Some(number) {
                self.scan(directory, number)?;
            }
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// The segments that are there. A folder that nobody changed is not listed again: this is asked before every request.
    fn numbers(&mut self, directory: &Path, changed: Option<SystemTime>) -> Result<Vec<u32>, StoreError> {
        /// Finer than the clock of any file system.
        const SETTLED: Duration = Duration::from_secs(2);
        if changed.is_some() && changed == self.listed {
            return Ok(self.segments.keys().copied().collect());
        }
        let settled = |at: &SystemTime| at.elapsed().is_ok_and(|since| since > SETTLED);
        self.listed = changed.filter(settled);
        numbers(directory)
    }

    fn scan(&mut self, directory: &Path, number: u32) -> Result<(), StoreError> {
        match self.segments.get_mut(&number) {
            Some(segment) => segment.scan(),
            None => {
                self.segments.insert(number, IndexedSegment::open(directory, number, self.every)?);
                Ok(())
            }
        }
    }

    /// Makes a segment the own one, after a last look at what others had put into it.
    pub(super) fn adopt(&mut self, directory: &Path, number: u32) -> Result<(), StoreError> {
        self.scan(directory, number)?;
        self.own = Some(number);
        Ok(())
    }

    /// A segment that was seen.
    pub(super) fn segment(&mut self, number: u32) -> Option<&mut IndexedSegment> {
        self.segments.get_mut(&number)
    }

    /// An entry that answers a request with this limit; the one asked with that very limit is preferred, then the
    /// earliest, so that the same store gives the same answer.
    fn find(&mut self, key: &RequestKey, max_tokens: u32) -> Result<Option<Found>, StoreError> {
        let mut other = None;
        for (&segment, indexed) in &mut self.segments {
            for entry in indexed.get(key.prefix())? {
                let location = Location { segment, offset: entry.offset };
                if !entry.limit.answers(max_tokens) || self.unreadable.contains(&location) {
                    continue;
                }
                let exactly = entry.limit.max_tokens == max_tokens;
                let found = Some(Found { location, exactly });
                if exactly {
                    return Ok(found);
                }
                other = other.or(found);
            }
        }
        Ok(other)
    }
}

/// An entry that answers a request.
#[derive(Clone, Copy, Debug)]
struct Found {
    location: Location,
    /// Whether it was asked with the very limit of the request.
    exactly: bool,
}

/// A poisoned lock is taken all the same: every change under it is a single insertion.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Claims = Mutex<BTreeMap<(RequestKey, u32), watch::Receiver<()>>>;

/// All replies of one teacher.
#[derive(Debug)]
pub struct ReplyStore {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
    writer: Mutex<Option<Writer>>,
    claims: Arc<Claims>,
    shared_claims: SharedClaims,
}

impl ReplyStore {
    /// Opens the store of one teacher and reads the heads of the entries that no index file covers. A folder that does not
    /// exist is an empty store; it is made when the first reply comes.
    ///
    /// # Errors
    /// [`StoreError`] if a segment cannot be read or is of a newer format.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_indexing(directory, Every::DEFAULT)
    }

    /// As [`ReplyStore::open`], with index files written more or less often.
    ///
    /// # Errors
    /// As [`ReplyStore::open`].
    pub fn open_indexing(directory: &Path, every: Every) -> Result<Self, StoreError> {
        let mut state = State::new(every);
        state.refresh(directory, changed(directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            state: Arc::new(Mutex::new(state)),
            writer: Mutex::new(None),
            claims: Arc::default(),
            shared_claims: SharedClaims::default(),
        })
    }

    /// The store of a folder, one for the whole process: stages that run at the same time share its index and its
    /// claims, so that neither asks what the other is asking.
    ///
    /// # Errors
    /// As [`ReplyStore::open`].
    pub fn shared(directory: &Path) -> Result<Arc<Self>, StoreError> {
        static STORES: Mutex<BTreeMap<PathBuf, Weak<ReplyStore>>> = Mutex::new(BTreeMap::new());
        let mut stores = lock(&STORES);
        if let Some(store) = stores.get(directory).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = Arc::new(Self::open(directory)?);
        stores.retain(|_, store| store.strong_count() > 0);
        stores.insert(directory.to_owned(), Arc::downgrade(&store));
        Ok(store)
    }

    /// Where a reply lies that answers the request, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] if another process's segments cannot be read.
    pub fn find(&self, key: &RequestKey, max_tokens: u32) -> Result<Option<Location>, StoreError> {
        let mut state = lock(&self.state);
        let mut found = state.find(key, max_tokens)?;
        if found.is_none() && state.looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN) {
            state.refresh(&self.directory, changed(&self.directory))?;
            found = state.find(key, max_tokens)?;
        }
        Ok(found.map(|found| found.location))
    }

    /// Brings in at once what other processes have written: [`ReplyStore::find`] looks now and then only.
    ///
    /// # Errors
    /// As [`ReplyStore::find`].
    pub fn look_again(&self) -> Result<(), StoreError> {
        // Asked before every request: the system's answer is waited for without the lock that all of them need.
        let changed = changed(&self.directory);
        lock(&self.state).refresh(&self.directory, changed)
    }

    /// The folder that it lies in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the reply lies that was asked with this very limit, if there is one.
    ///
    /// # Errors
    /// As [`ReplyStore::find`].
    pub fn find_exactly(&self, key: &RequestKey, max_tokens: u32) -> Result<Option<Location>, StoreError> {
        let found = lock(&self.state).find(key, max_tokens)?;
        Ok(found.filter(|found| found.exactly).map(|found| found.location))
    }

    /// The reply at a place that [`ReplyStore::find`] or [`ReplyStore::put`] gave. `None` if its bytes have rotted
    /// since: the entry is then forgotten, and the request is to be asked again.
    ///
    /// # Errors
    /// [`StoreError`] if the segment cannot be read.
    pub fn read(&self, key: &RequestKey, location: Location) -> Result<Option<Reply>, StoreError> {
        let file = lock(&self.state).segments.get(&location.segment).map(IndexedSegment::file);
        let Some(file) = file else { return Ok(None) };
        // Reading and decoding happen outside the lock: many tasks read at once.
        let reply = segment::read(&file, location.offset, key)?;
        if reply.is_none() {
            tracing::warn!(store = %self.directory.display(), %key, "a stored reply is damaged and is asked again");
            lock(&self.state).unreadable.insert(location);
        }
        Ok(reply)
    }

    /// Stores a reply. When this returns it is durable.
    ///
    /// # Errors
    /// [`StoreError`], such as a full disk or a read-only cache.
    pub async fn put(&self, key: RequestKey, max_tokens: u32, reply: &Reply) -> Result<Location, StoreError> {
        let failed = |error: std::io::Error| StoreError::io("store a reply in", &self.directory, &error);
        let bytes = entry::encode(key, reply, max_tokens).map_err(failed)?;
        let durable = {
            let mut writer = lock(&self.writer);
            let writer = match writer.as_ref() {
                Some(writer) => writer,
                None => writer.insert(Writer::start(self.directory.clone(), Arc::clone(&self.state))?),
            };
            writer.append(bytes)
        };
        durable.await.unwrap_or_else(|_| Err(failed(std::io::Error::other("the writing thread is gone"))))
    }

    /// Claims a request before it is asked, so that equal requests are asked once.
    #[must_use]
    pub fn claim(&self, key: RequestKey, max_tokens: u32) -> Claim {
        let mut claims = lock(&self.claims);
        if let Some(other) = claims.get(&(key, max_tokens)) {
            return Claim::Other(other.clone());
        }
        let (sender, receiver) = watch::channel(());
        claims.insert((key, max_tokens), receiver);
        Claim::Mine(Mine { request: (key, max_tokens), claims: Arc::clone(&self.claims), shared: None, _ended: sender })
    }

    /// Takes a request that is ours in this process among the other processes too. False where one of them is asking it:
    /// try again a little later. Once it is ours its reply may be there: [`ReplyStore::look_again`].
    #[must_use]
    pub fn share_claim(&self, mine: &mut Mine) -> bool {
        let (key, max_tokens) = mine.request;
        mine.shared = mine.shared.take().or_else(|| self.shared_claims.take(&self.directory, &key, max_tokens));
        mine.shared.is_some()
    }

    /// Number of stored replies, unreadable ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.state).segments.values().map(IndexedSegment::len).sum()
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// When something was last made or deleted in a folder.
fn changed(directory: &Path) -> Option<SystemTime> {
    fs_err::metadata(directory).and_then(|there| there.modified()).ok()
}

/// Who asks a request.
#[derive(Debug)]
pub enum Claim {
    /// We do; dropping it lets others go on.
    Mine(Mine),
    /// Somebody else is asking: wait, then look into the store again.
    Other(watch::Receiver<()>),
}

/// A held claim.
#[derive(Debug)]
pub struct Mine {
    request: (RequestKey, u32),
    claims: Arc<Claims>,
    /// Held among processes as well.
    shared: Option<SharedClaim>,
    _ended: watch::Sender<()>,
}

impl Drop for Mine {
    fn drop(&mut self) {
        lock(&self.claims).remove(&self.request);
    }
}
