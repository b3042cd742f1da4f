//! Taking damaged bytes out of the store of replies.
//!
//! A segment is never written anew in its place, since other processes read it. What is whole in a damaged one goes into a
//! new segment, and the damaged one is removed once that is durable. A kill in between leaves a reply in both, which is the
//! same reply.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use fs_err::File;
use serde::Serialize;

use super::StoreError;
use super::entry::Head;
use super::indexed::index_path;
use super::segment::{FILE_HEAD_BYTES, OwnSegment, Segment, file_name, is_at, numbers};
use super::verify::{check, folders, unreadable};

/// How much is gathered before it is written and synced.
const AT_ONCE: usize = 8 << 20;

/// What was taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mended {
    /// Segments in which something was damaged.
    pub segments: u64,
    /// Bytes that were no replies any more.
    pub bytes: u64,
    /// Whole replies that went into new segments.
    pub replies: u64,
    /// Damaged segments that another process writes to at the moment: they stay for the next time.
    pub held: u64,
}

/// Takes damaged replies out of every teacher's segments, or with `dry_run` only counts. Files that are no segments, or of a newer format, are
/// left alone.
///
/// # Errors
/// [`StoreError`] if a segment cannot be read or a new one not written.
pub fn mend(replies: &Path, dry_run: bool) -> Result<Mended, StoreError> {
    let mut mended = Mended::default();
    for teacher in folders(replies)? {
        for number in numbers(&teacher)? {
            segment(&teacher, number, dry_run, &mut mended)?;
        }
    }
    Ok(mended)
}

fn segment(directory: &Path, number: u32, dry_run: bool, mended: &mut Mended) -> Result<(), StoreError> {
    let path = directory.join(file_name(number));
    let Some(looked) = Looked::at(&path)? else { return Ok(()) };
    if looked.damaged == 0 {
        return Ok(());
    }
    if !looked.ours {
        mended.held += 1;
        return Ok(());
    }
    mended.segments += 1;
    mended.bytes += looked.damaged;
    mended.replies += looked.whole.len() as u64;
    if dry_run { Ok(()) } else { looked.take_out(directory, &path) }
}

/// What is in a segment.
struct Looked {
    file: Arc<File>,
    /// Whether nobody writes to it. Whoever does holds the lock of the file; ours is given back with `file`. It is taken before
    /// anything is read: replies that came between the look and the lock would be removed with the damage.
    ours: bool,
    /// The entries that are whole, by place and length.
    whole: Vec<(u64, u64)>,
    /// Bytes that are no entries any more.
    damaged: u64,
}

impl Looked {
    /// None where the file is no segment, or is gone since.
    fn at(path: &Path) -> Result<Option<Self>, StoreError> {
        let failed = |error: std::io::Error| StoreError::io("read", path, &error);
        let mut read = Segment::open(path)?;
        let file = read.file();
        let ours = file.file().try_lock().is_ok();
        if !is_at(&file, path).map_err(failed)? {
            return Ok(None);
        }
        let mut entries: Vec<(Head, u64)> = Vec::new();
        match read.scan(None, |head, offset| entries.push((head, offset))) {
            Ok(()) => {}
            Err(StoreError::NotASegment { .. } | StoreError::NewerFormat { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let (mut whole, mut damaged, mut end) = (Vec::new(), 0, FILE_HEAD_BYTES);
        for (head, offset) in entries {
            damaged += offset.saturating_sub(end);
            end = offset + head.entry_bytes();
            match check(&file, &head, offset).map_err(failed)? {
                None => whole.push((offset, head.entry_bytes())),
                Some(_) => damaged += head.entry_bytes(),
            }
        }
        if unreadable(&file, end).map_err(failed)? {
            damaged += file.metadata().map_err(failed)?.len() - end;
        }
        Ok(Some(Self { file, ours, whole, damaged }))
    }

    fn take_out(self, directory: &Path, path: &Path) -> Result<(), StoreError> {
        copy(&self.file, &self.whole, directory)?;
        _ = fs_err::remove_file(index_path(path));
        fs_err::remove_file(path).map_err(|error| StoreError::io("remove", path, &error))
    }
}

/// Entries, by place and length, into a segment that nobody has.
fn copy(from: &File, whole: &[(u64, u64)], directory: &Path) -> Result<(), StoreError> {
    if whole.is_empty() {
        return Ok(());
    }
    let mut to = OwnSegment::fresh(directory)?;
    let mut gathered = Vec::new();
    for (place, length) in whole {
        let start = gathered.len();
        gathered.resize(start + *length as usize, 0);
        from.file()
            .read_exact_at(&mut gathered[start..], *place)
            .map_err(|error| StoreError::io("read", from.path(), &error))?;
        if gathered.len() >= AT_ONCE {
            to.append(&gathered).map_err(|error| StoreError::io("write", directory, &error))?;
            gathered.clear();
        }
    }
    to.append(&gathered).map_err(|error| StoreError::io("write", directory, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replies::{ReplyStore, RequestKey, verify};
    use crate::reply::{Reply, Usage};

    fn reply(text: &str) -> Reply {
        Reply {
            outcome: stillhouse_data::answer::Outcome::Ok,
            text: text.to_owned(),
            finish: "stop".to_owned(),
            model: "m".to_owned(),
            usage: Usage::default(),
            token_ids: None,
            vector: None,
            tokens: None,
        }
    }

    #[test]
    fn what_is_damaged_goes_and_what_is_whole_stays() {
        let folder = tempfile::tempdir().unwrap();
        let teacher = folder.path().join("a-teacher");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let key = |number| RequestKey([number; 32]);
        {
            let store = ReplyStore::open(&teacher).unwrap();
            for number in 0..4 {
                runtime.block_on(store.put(key(number), 8, &reply(&format!("reply {number}")))).unwrap();
            }
            assert_eq!(mend(folder.path(), false).unwrap(), Mended::default());
        }
        let path = teacher.join(file_name(0));
        let mut bytes = fs_err::read(&path).unwrap();
        let (mut places, mut opened) = (Vec::new(), Segment::open(&path).unwrap());
        opened.scan(None, |_, offset| places.push(offset as usize)).unwrap();
        // One loses its head, another a byte of its text.
        bytes[places[1] + 3] ^= 1;
        bytes[places[3] - 1] ^= 1;
        fs_err::write(&path, &bytes).unwrap();
        let expected = Mended { segments: 1, bytes: (places[3] - places[1]) as u64, replies: 2, held: 0 };
        assert_eq!(mend(folder.path(), true).unwrap(), expected);
        assert_eq!(verify(folder.path()).unwrap().damaged.len(), 2, "a dry run changes nothing");

        let reader = ReplyStore::open(&teacher).unwrap();
        assert_eq!(mend(folder.path(), false).unwrap(), expected);
        let report = verify(folder.path()).unwrap();
        assert!(report.is_sound() && report.replies == 2, "{report:?}");
        assert!(!path.exists());
        // One who had opened the old segment goes on reading it.
        for store in [reader, ReplyStore::open(&teacher).unwrap()] {
            for number in [0, 3] {
                let found = store.find(&key(number), 8).unwrap().unwrap();
                assert_eq!(store.read(&key(number), found).unwrap().unwrap().text, format!("reply {number}"));
            }
        }
        assert_eq!(mend(folder.path(), false).unwrap(), Mended::default());
    }

    #[test]
    fn a_reply_that_comes_while_a_damaged_segment_is_looked_at_stays() {
        let folder = tempfile::tempdir().unwrap();
        let teacher = folder.path().join("a-teacher");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let put = |number| {
            let store = ReplyStore::open(&teacher).unwrap();
            runtime.block_on(store.put(RequestKey([number; 32]), 8, &reply(&format!("reply {number}")))).unwrap();
        };
        put(0);
        put(1);
        let path = teacher.join(file_name(0));
        let mut bytes = fs_err::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs_err::write(&path, bytes).unwrap();

        let looked = Looked::at(&path).unwrap().unwrap();
        assert!(looked.ours && looked.damaged > 0);
        put(2);
        looked.take_out(&teacher, &path).unwrap();
        let store = ReplyStore::open(&teacher).unwrap();
        let is_there = |number| store.find(&RequestKey([number; 32]), 8).unwrap().is_some();
        assert_eq!([0, 1, 2].map(is_there), [true, false, true]);
    }
}
