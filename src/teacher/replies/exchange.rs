//! Replies as lines of JSON: taken out of one store, put into another, where they give the same answers.
//!
//! ```json
//! {"teacher":"openai-chat-fake-1-2277e55eac4d","key":"e7fe…","max-tokens":256,"reply":{"outcome":"ok",…},"check":"0a1b…"}
//! ```
//!
//! `teacher` is the name of the teacher's folder, `key` the request's key, `max-tokens` the limit it was asked with, `reply` the
//! whole reply. `check` is the first 8 bytes of the blake3 of teacher, key, limit and reply, each as JSON and followed by a zero byte. Lines
//! stand in the order in which the store looks for answers.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::entry::{Head, RequestKey, checksum};
use super::segment::{self, FILE_HEAD_BYTES, Segment, file_name, numbers};
use super::verify::{folders, unreadable};
use super::{ReplyStore, StoreError};
use crate::reply::Reply;

/// Replies under way to the disk at a time.
const BATCH: usize = 1024;
/// Faults of lines that are told; the others are counted.
const TOLD: usize = 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    teacher: String,
    key: String,
    max_tokens: u32,
    reply: Reply,
    check: String,
}

impl Line {
    fn new(teacher: &str, key: &RequestKey, max_tokens: u32, reply: Reply) -> Self {
        let mut line =
            Self { teacher: teacher.to_owned(), key: key.to_string(), max_tokens, reply, check: String::new() };
        line.check = line.sum();
        line
    }

    fn sum(&self) -> String {
        let parts =
            [serde_json::to_vec(&self.teacher), serde_json::to_vec(&self.key), serde_json::to_vec(&self.max_tokens)];
        let mut bytes = Vec::new();
        for part in parts.into_iter().chain([serde_json::to_vec(&self.reply)]) {
            // What was read from JSON can be written as JSON.
            bytes.extend(part.unwrap_or_default());
            bytes.push(0);
        }
        checksum(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads a line that is exactly as it was written.
    fn read(text: &[u8]) -> Result<(Self, RequestKey), String> {
        let line: Self =
            serde_json::from_slice(text.trim_ascii()).map_err(|error| format!("it is no exported reply: {error}"))?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if line.teacher.is_empty() || !line.teacher.bytes().all(plain) {
            return Err(format!("`{}` is no teacher's folder", line.teacher));
        }
        let Some(key) = RequestKey::parse(&line.key) else {
            return Err(format!("`{}` is no request's key", line.key));
        };
        if line.sum() != line.check {
            return Err(
                "the reply does not match its checksum: it was changed, or comes from a newer version".to_owned()
            );
        }
        Ok((line, key))
    }
}

/// What [`export`] wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Teachers with replies.
    pub teachers: u64,
    /// Lines written.
    pub replies: u64,
    /// Replies that could not be read any more and were left out.
    pub damaged: u64,
}

/// Writes every reply of every teacher below a store's folder of replies, or of the one teacher's folder that is named.
///
/// # Errors
/// [`ExchangeError`] if the replies cannot be read or the lines not be written, or nobody has this name.
pub fn export(
    replies: &Path,
    teacher: Option<&str>,
    out: &mut (impl Write + ?Sized),
) -> Result<Exported, ExchangeError> {
    let mut exported = Exported::default();
    let all = folders(replies)?;
    let name = |folder: &Path| folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(wanted) = teacher
        && !all.iter().any(|folder| name(folder) == wanted)
    {
        let known = all.iter().map(|folder| name(folder)).collect();
        return Err(ExchangeError::UnknownTeacher { name: wanted.to_owned(), known });
    }
    for folder in all {
        let name = name(&folder);
        if teacher.is_some_and(|wanted| wanted != name) {
            continue;
        }
        exported.teachers += 1;
        for number in numbers(&folder)? {
            export_segment(&folder.join(file_name(number)), &name, out, &mut exported)?;
        }
    }
    out.flush().map_err(ExchangeError::Write)?;
    Ok(exported)
}

fn export_segment(
    path: &Path,
    teacher: &str,
    out: &mut (impl Write + ?Sized),
    exported: &mut Exported,
) -> Result<(), ExchangeError> {
    let mut segment = Segment::open(path)?;
    let mut heads: Vec<(Head, u64)> = Vec::new();
    segment.scan(None, |head, offset| heads.push((head, offset)))?;
    let file = segment.file();
    let failed = |error: std::io::Error| StoreError::io("read", path, &error);
    let mut end = FILE_HEAD_BYTES;
    for (head, offset) in heads {
        // Where bytes were skipped there was at least one reply.
        exported.damaged += u64::from(offset > end);
        end = offset + head.entry_bytes();
        let body = segment::body(&file, &head, offset).map_err(failed)?;
        let Ok(reply) = head.reply(&body) else {
            exported.damaged += 1;
            continue;
        };
        let line = Line::new(teacher, &head.key, head.limit.max_tokens, reply);
        serde_json::to_writer(&mut *out, &line).map_err(|error| ExchangeError::Write(error.into()))?;
        out.write_all(b"\n").map_err(ExchangeError::Write)?;
        exported.replies += 1;
    }
    exported.damaged += u64::from(unreadable(&file, end).map_err(failed)?);
    Ok(())
}

/// What [`import`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Imported {
    /// Replies that are new.
    pub added: u64,
    /// Replies that were there already.
    pub known: u64,
    /// Other replies to requests that have one: what is there stays what it is.
    pub others: u64,
    /// Lines that are no replies.
    pub bad_lines: u64,
    /// The first of them.
    pub faults: Vec<Fault>,
}

/// A line that is no reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Puts exported replies into a store's folder of replies. Importing twice is importing once. A line that is not as it was
/// written is left out and named; the others are imported.
///
/// # Errors
/// [`ExchangeError`] if the lines cannot be read or the store cannot be written; what was imported before stays.
pub fn import(replies: &Path, lines: &mut impl BufRead) -> Result<Imported, ExchangeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(ExchangeError::Read)?;
    let mut imported = Imported::default();
    let mut stores: BTreeMap<String, Importing> = BTreeMap::new();
    let mut buffer = Vec::new();
    for number in 1.. {
        buffer.clear();
        if lines.read_until(b'\n', &mut buffer).map_err(ExchangeError::Read)? == 0 {
            break;
        }
        if buffer.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let (line, key) = match Line::read(&buffer) {
            Ok(read) => read,
            Err(reason) => {
                imported.bad_lines += 1;
                if imported.faults.len() < TOLD {
                    imported.faults.push(Fault { line: number, reason });
                }
                continue;
            }
        };
        let into = match stores.entry(line.teacher) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let store = ReplyStore::open(&replies.join(entry.key()))?;
                entry.insert(Importing { store, waiting: BTreeMap::new(), order: Vec::new() })
            }
        };
        into.take(key, line.max_tokens, line.reply, &mut imported)?;
        if into.order.len() >= BATCH {
            runtime.block_on(into.put(&mut imported))?;
        }
    }
    for into in stores.values_mut() {
        runtime.block_on(into.put(&mut imported))?;
    }
    Ok(imported)
}

/// A teacher's store with what is about to be put into it.
struct Importing {
    store: ReplyStore,
    waiting: BTreeMap<(RequestKey, u32), Reply>,
    /// The order of the lines, which decides among replies with several limits.
    order: Vec<(RequestKey, u32)>,
}

impl Importing {
    fn take(
        &mut self,
        key: RequestKey,
        max_tokens: u32,
        reply: Reply,
        imported: &mut Imported,
    ) -> Result<(), StoreError> {
        let there = match self.waiting.get(&(key, max_tokens)) {
            Some(waiting) => Some(waiting.clone()),
            None => match self.store.find_exactly(&key, max_tokens)? {
                Some(location) => self.store.read(&key, location)?,
                None => None,
            },
        };
        match there {
            Some(there) if there == reply => imported.known += 1,
            Some(_) => imported.others += 1,
            None => {
                self.waiting.insert((key, max_tokens), reply);
                self.order.push((key, max_tokens));
            }
        }
        Ok(())
    }

    async fn put(&mut self, imported: &mut Imported) -> Result<(), StoreError> {
        // Each is queued when it is first polled, so they reach the disk in this order.
        let puts = self.order.iter().map(|(key, max_tokens)| {
            let reply = &self.waiting[&(*key, *max_tokens)];
            self.store.put(*key, *max_tokens, reply)
        });
        for put in futures_util::future::join_all(puts).await {
            put?;
            imported.added += 1;
        }
        self.waiting.clear();
        self.order.clear();
        Ok(())
    }
}

/// Why replies could not be taken out or put in.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lines cannot be read.
    #[error("the exported replies cannot be read: {0}")]
    Read(std::io::Error),
    /// The lines cannot be written.
    #[error("the replies cannot be written: {0}")]
    Write(std::io::Error),
    /// Nobody has this name.
    #[error("there is no teacher `{name}` among the stored replies")]
    UnknownTeacher {
        /// What was asked for.
        name: String,
        /// Who is there.
        known: Vec<String>,
    },
}

impl ExchangeError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Store(error) => error.hint().to_owned(),
            Self::Read(_) => "give a file that `cache replies export` wrote; what was imported before stays".to_owned(),
            Self::Write(_) => "give a file in a folder that is writable and has room".to_owned(),
            Self::UnknownTeacher { known, .. } if known.is_empty() => "there are no replies yet".to_owned(),
            Self::UnknownTeacher { known, .. } => format!("there is {}", known.join(", ")),
        }
    }
}

impl From<ExchangeError> for stillhouse_stage::Failure {
    fn from(error: ExchangeError) -> Self {
        let (message, hint) = (error.to_string(), error.hint());
        match error {
            ExchangeError::Store(error) => error.into(),
            ExchangeError::UnknownTeacher { .. } => Self::input(message).hint(hint),
            // A path that names nothing is a slip of the user's.
            ExchangeError::Read(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::input(message).hint(hint)
            }
            ExchangeError::Read(_) | ExchangeError::Write(_) => Self::environment(message).hint(hint),
        }
    }
}

#[cfg(test)]
mod tests;
