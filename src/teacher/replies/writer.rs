//! The thread that appends: it takes all that has gathered, writes it at once, syncs once, then acknowledges.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::StoreError;
use super::entry::{HEAD_BYTES, Head};
use super::indexed::Moment;
use super::segment::{FULL_BYTES, OwnSegment, file_name};
use super::store::{Location, State};

/// One commit writes no more than this, so that a burst does not gather in memory twice.
const BATCH_BYTES: usize = 8 << 20;

type Acknowledge = oneshot::Sender<Result<Location, StoreError>>;

struct Append {
    bytes: Vec<u8>,
    done: Acknowledge,
}

/// The way to the writing thread. Dropping it waits until what was sent is durable, and indexed where that is worth it: else the end of
/// the program could be quicker.
#[derive(Debug)]
pub struct Writer {
    /// Always there until the end.
    queue: Option<Sender<Append>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

impl Writer {
    /// Starts the thread; the segment is claimed when the first entry comes.
    ///
    /// # Errors
    /// [`StoreError`] if the system gives no thread.
    pub fn start(directory: PathBuf, state: Arc<Mutex<State>>) -> Result<Self, StoreError> {
        let (queue, incoming) = channel();
        let path = directory.clone();
        let thread = std::thread::Builder::new()
            .name("replies".to_owned())
            .spawn(move || write_all(&path, &state, &incoming))
            .map_err(|error| StoreError::io("start the writer of", &directory, &error))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues an encoded entry; the answer comes once it is durable and in the index.
    pub fn append(&self, bytes: Vec<u8>) -> oneshot::Receiver<Result<Location, StoreError>> {
        let (done, answer) = oneshot::channel();
        // A thread that is gone drops `done`, which the receiver sees.
        _ = self.queue.as_ref().map(|queue| queue.send(Append { bytes, done }));
        answer
    }
}

fn write_all(directory: &std::path::Path, state: &Mutex<State>, incoming: &Receiver<Append>) {
    let mut own: Option<OwnSegment> = None;
    while let Ok(first) = incoming.recv() {
        let batch = gather(first, incoming);
        let written = commit(directory, state, &mut own, &batch);
        for (append, result) in batch.into_iter().zip(written) {
            // Whoever asked may have been cancelled meanwhile: the reply is kept all the same.
            _ = append.done.send(result);
        }
        index(state, own.as_ref(), Moment::Between);
    }
    index(state, own.as_ref(), Moment::End);
}

/// Writes the index of the own segment where it is due. Readers go on meanwhile.
fn index(state: &Mutex<State>, own: Option<&OwnSegment>, moment: Moment) {
    let Some(own) = own else { return };
    let due = super::store::lock(state).segment(own.number).and_then(|segment| segment.due(moment));
    if let Some(merge) = due {
        let written = merge.write();
        if let Some(segment) = super::store::lock(state).segment(own.number) {
            segment.written(written);
        }
    }
}

fn gather(first: Append, incoming: &Receiver<Append>) -> Vec<Append> {
    let mut bytes = first.bytes.len();
    let mut batch = vec![first];
    while bytes < BATCH_BYTES {
        match incoming.try_recv() {
            Ok(append) => {
                bytes += append.bytes.len();
                batch.push(append);
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    batch
}

fn commit(
    directory: &std::path::Path,
    state: &Mutex<State>,
    own: &mut Option<OwnSegment>,
    batch: &[Append],
) -> Vec<Result<Location, StoreError>> {
    let written = claim(directory, state, own).and_then(|segment| {
        let start = segment.end;
        let bytes: Vec<u8> = batch.iter().flat_map(|append| append.bytes.iter().copied()).collect();
        let path = directory.join(file_name(segment.number));
        segment.append(&bytes).map_err(|error| StoreError::io("store replies in", &path, &error))?;
        Ok((segment.number, start))
    });
    match written {
        Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        Ok((segment, mut offset)) => {
            let mut state = super::store::lock(state);
            let place = |append: &Append| {
                let location = Location { segment, offset: offset as u32 };
                offset += append.bytes.len() as u64;
                let head = append.bytes.first_chunk::<HEAD_BYTES>().and_then(Head::decode);
                if let (Some(head), Some(indexed)) = (head, state.segment(segment)) {
                    indexed.insert(&head.key, head.limit, location.offset, offset);
                }
                Ok(location)
            };
            batch.iter().map(place).collect()
        }
    }
}

/// The segment to append to, a fresh one where the last is full.
fn claim<'own>(
    directory: &std::path::Path,
    state: &Mutex<State>,
    own: &'own mut Option<OwnSegment>,
) -> Result<&'own mut OwnSegment, StoreError> {
    if own.as_ref().is_some_and(|segment| segment.end >= FULL_BYTES) {
        index(state, own.as_ref(), Moment::Full);
        *own = None;
    }
    match own {
        Some(segment) => Ok(segment),
        None => {
            let segment = OwnSegment::claim(directory)?;
            super::store::lock(state).adopt(directory, segment.number)?;
            Ok(own.insert(segment))
        }
    }
}
