//! Verifying: every stored reply is read again and compared with its checksums, and every index with the replies that it tells of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err::File;
use serde::Serialize;

use super::StoreError;
use super::entry::{BadBody, Head, Limit};
use super::index_file::{BadIndex, IndexFile};
use super::indexed::{self, index_path};
use super::segment::{self, FILE_HEAD_BYTES, Segment, Tail, file_name, numbers};

/// What verifying found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RepliesReport {
    /// Segments read.
    pub segments: u64,
    /// Replies that are whole.
    pub replies: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is not as it was written.
    pub damaged: Vec<Damage>,
    /// Index files read.
    pub indexes: u64,
    /// Those that do not tell what is in their segment. They are taken away: the next start makes them from the segment,
    /// and no reply is lost by that.
    pub wrong_indexes: Vec<WrongIndex>,
}

/// An index file that is damaged, or tells of other replies than its segment has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrongIndex {
    /// Its path.
    pub path: String,
    /// What is wrong.
    pub reason: String,
    /// Whether it could be taken away.
    pub removed: bool,
}

/// A place in a segment that cannot be read as it was written. The requests that were answered there are asked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The segment's path.
    pub path: String,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it covers.
    pub bytes: u64,
    /// What is wrong.
    pub reason: String,
}

impl RepliesReport {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.wrong_indexes.is_empty()
    }
}

/// Reads every reply of every teacher below a store's folder of replies, and changes nothing of them. What a killed writer left
/// unfinished at a segment's end was never acknowledged, so it is no damage; nor is a reply that is being written, nor an index
/// that is not there yet.
///
/// # Errors
/// [`StoreError`] if a folder or a segment cannot be read.
pub fn verify(replies: &Path) -> Result<RepliesReport, StoreError> {
    let mut report = RepliesReport::default();
    for teacher in folders(replies)? {
        for number in numbers(&teacher)? {
            segment(&teacher.join(file_name(number)), number, &mut report)?;
        }
    }
    Ok(report)
}

/// The folders of teachers below a store's folder of replies.
pub(super) fn folders(replies: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |error: std::io::Error| StoreError::io("read", replies, &error);
    let entries = match fs_err::read_dir(replies) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        folders.extend(path.is_dir().then_some(path));
    }
    folders.sort();
    Ok(folders)
}

fn segment(path: &Path, number: u32, report: &mut RepliesReport) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| StoreError::io("read", path, &error);
    let mut segment = Segment::open(path)?;
    let file = segment.file();
    let length = file.metadata().map_err(failed)?.len();
    let damage = |offset: u64, bytes: u64, reason: &str| Damage {
        path: path.display().to_string(),
        offset,
        bytes,
        reason: reason.to_owned(),
    };
    report.segments += 1;
    report.bytes += length;
    // Opened first: one that is written meanwhile could tell of more than is read below.
    let index = indexed::load(path, &segment, number);
    // The index is made by the same scan: what it finds is what a run finds.
    let mut entries: Vec<(Head, u64)> = Vec::new();
    match segment.scan(None, |head, offset| entries.push((head, offset))) {
        Ok(()) => {}
        Err(error @ (StoreError::NotASegment { .. } | StoreError::NewerFormat { .. })) => {
            let reason = error.to_string().replace(&path.display().to_string(), "it");
            report.damaged.push(damage(0, length, &reason));
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let found: BTreeMap<(u128, u64), Limit> =
        entries.iter().map(|(head, offset)| ((head.key.prefix(), *offset), head.limit)).collect();
    let damaged_before = report.damaged.len();
    let mut end = FILE_HEAD_BYTES;
    for (head, offset) in entries {
        if offset > end {
            report.damaged.push(damage(end, offset - end, "these bytes are no reply any more"));
        }
        end = offset + head.entry_bytes();
        match check(&file, &head, offset).map_err(failed)? {
            None => report.replies += 1,
            Some(reason) => {
                report.damaged.push(damage(
                    offset,
                    head.entry_bytes(),
                    &format!("the reply to request {} {reason}", head.key),
                ));
            }
        }
    }
    if unreadable(&file, end).map_err(failed)? {
        report.damaged.push(damage(end, length - end, "these bytes are no reply any more"));
    }
    let wrong = match index {
        Ok(None) => return Ok(()),
        Ok(Some(index)) => difference(&index, &found, &report.damaged[damaged_before..]).err(),
        Err(bad) => Some(bad),
    };
    report.indexes += 1;
    if let Some(bad) = wrong {
        let path = index_path(path);
        let removed = fs_err::remove_file(&path).is_ok();
        report.wrong_indexes.push(WrongIndex {
            path: path.display().to_string(),
            reason: bad.reason().to_owned(),
            removed,
        });
    }
    Ok(())
}

/// Whether an index tells of all replies in the part of the segment that it covers, and of no others. What it tells of a place that
/// was damaged after it was written is no fault of its own.
fn difference(index: &IndexFile, found: &BTreeMap<(u128, u64), Limit>, damaged: &[Damage]) -> Result<(), BadIndex> {
    let covered = index.covered().end;
    let mut told = 0;
    for entry in index.iter() {
        let entry = entry?;
        let offset = u64::from(entry.offset);
        match found.get(&(entry.prefix, offset)) {
            Some(limit) if *limit == entry.limit => told += 1,
            _ if damaged.iter().any(|place| (place.offset..place.offset + place.bytes).contains(&offset)) => {}
            _ => return Err(BadIndex::OTHER_REPLIES),
        }
    }
    let there = found.keys().filter(|(_, offset)| *offset < covered).count();
    if told == there { Ok(()) } else { Err(BadIndex::MISSING_REPLIES) }
}

/// Whether what lies behind the last whole entry was written once and is not readable any more.
pub(super) fn unreadable(file: &File, end: u64) -> std::io::Result<bool> {
    let length = file.metadata()?.len();
    Ok(length > end && segment::tail(file, end, length)? == Tail::Rotten)
}

/// What is wrong with an entry.
pub(super) fn check(file: &File, head: &Head, offset: u64) -> std::io::Result<Option<&'static str>> {
    let body = segment::body(file, head, offset)?;
    Ok(match head.reply(&body) {
        Ok(_) => None,
        Err(BadBody::Corrupt) => Some("does not match its checksum"),
        Err(BadBody::Unknown) => Some("is of a format that this version does not know"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use stillhouse_data::answer::Outcome;

    use super::*;
    use crate::replies::index_file::{self, Covered, IndexEntry};
    use crate::replies::{ReplyStore, RequestKey};
    use crate::reply::{Reply, Usage};

    /// A folder of replies with three of them by one teacher, and the places at which they begin and end.
    struct Filled {
        folder: tempfile::TempDir,
        segment: PathBuf,
        places: Vec<u64>,
    }

    impl Filled {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = ReplyStore::open(&folder.path().join("a-teacher")).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for number in 0..3 {
                let reply = Reply {
                    outcome: Outcome::Ok,
                    text: format!("reply {number}"),
                    finish: "stop".to_owned(),
                    model: "m".to_owned(),
                    usage: Usage::default(),
                    token_ids: None,
                    vector: None,
                    tokens: None,
                };
                runtime.block_on(store.put(RequestKey([number; 32]), 8, &reply)).unwrap();
            }
            let segment = folder.path().join("a-teacher/00000000.replies");
            let mut places = Vec::new();
            let mut opened = Segment::open(&segment).unwrap();
            opened.scan(None, |_, offset| places.push(offset)).unwrap();
            places.push(fs_err::metadata(&segment).unwrap().len());
            Self { folder, segment, places }
        }

        fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
            let mut bytes = fs_err::read(&self.segment).unwrap();
            change(&mut bytes);
            fs_err::write(&self.segment, bytes).unwrap();
        }

        fn damaged(&self) -> (u64, Vec<(u64, u64, String)>) {
            let report = verify(self.folder.path()).unwrap();
            assert!(report.damaged.iter().all(|damage| damage.path == self.segment.display().to_string()));
            let damaged = report.damaged.into_iter().map(|damage| (damage.offset, damage.bytes, damage.reason));
            (report.replies, damaged.collect())
        }
    }

    #[test]
    fn a_sound_store_is_counted() {
        let filled = Filled::new();
        let report = verify(filled.folder.path()).unwrap();
        assert_eq!((report.segments, report.replies, report.bytes), (1, 3, filled.places[3]));
        assert!(report.is_sound());
        assert_eq!(verify(&filled.folder.path().join("none")).unwrap(), RepliesReport::default());
    }

    #[test]
    fn any_flipped_bit_of_an_entry_is_found_and_placed() {
        let filled = Filled::new();
        for entry in 0..3 {
            let (start, end) = (filled.places[entry], filled.places[entry + 1]);
            for place in (start..end).step_by(7) {
                filled.change(|bytes| bytes[place as usize] ^= 4);
                let (sound, damaged) = filled.damaged();
                assert_eq!((sound, damaged.len()), (2, 1), "byte {place}");
                assert_eq!((damaged[0].0, damaged[0].1), (start, end - start), "byte {place}");
                filled.change(|bytes| bytes[place as usize] ^= 4);
            }
        }
        filled.change(|bytes| bytes[filled.places[2] as usize - 1] ^= 1);
        let key = RequestKey([1; 32]);
        assert_eq!(filled.damaged().1[0].2, format!("the reply to request {key} does not match its checksum"));
    }

    #[test]
    fn what_was_never_acknowledged_is_no_damage() {
        let filled = Filled::new();
        let whole = fs_err::read(&filled.segment).unwrap();
        for length in [filled.places[2] + 5, filled.places[2] + 72, filled.places[3] - 1] {
            fs_err::write(&filled.segment, &whole[..length as usize]).unwrap();
            assert_eq!(filled.damaged(), (2, Vec::new()), "cut at {length}");
        }
        fs_err::write(&filled.segment, &whole[..7]).unwrap();
        assert_eq!(filled.damaged(), (0, Vec::new()));
        fs_err::write(&filled.segment, &whole).unwrap();
        fs_err::OpenOptions::new().append(true).open(&filled.segment).unwrap().write_all(&[0; 4096]).unwrap();
        assert_eq!(filled.damaged(), (3, Vec::new()));
    }

    #[test]
    fn a_foreign_and_a_newer_file_are_named() {
        let filled = Filled::new();
        filled.change(|bytes| bytes[8] = 9);
        let newer = &filled.damaged().1[0];
        assert_eq!((newer.0, newer.2.as_str()), (0, "it has format 9, this program reads up to 1"));
        filled.change(|bytes| bytes[0] = 9);
        assert_eq!(filled.damaged().1[0].2, "it is not a segment of replies");
    }

    /// An index of the first entries of the segment, changed.
    fn index(filled: &Filled, change: impl FnOnce(&mut Vec<IndexEntry>)) -> PathBuf {
        let mut segment = Segment::open(&filled.segment).unwrap();
        let (mut entries, mut last) = (Vec::new(), 0);
        segment
            .scan(None, |head, offset| {
                last = offset;
                entries.push(IndexEntry { prefix: head.key.prefix(), offset: offset as u32, limit: head.limit });
            })
            .unwrap();
        change(&mut entries);
        let last_check = segment::head_check(&segment.file(), last).unwrap();
        let covered = Covered { segment: 0, end: segment.seen(), last, last_check };
        let mut bytes = std::io::Cursor::new(Vec::new());
        index_file::write(&mut bytes, &covered, entries.len(), entries.into_iter().map(Ok)).unwrap();
        let path = index_path(&filled.segment);
        fs_err::write(&path, bytes.into_inner()).unwrap();
        path
    }

    #[test]
    fn an_index_is_held_against_its_segment_and_taken_away_where_it_is_wrong() {
        let filled = Filled::new();
        let reasons = || {
            let report = verify(filled.folder.path()).unwrap();
            assert!(report.damaged.is_empty() && report.replies == 3);
            let wrong = report.wrong_indexes.into_iter().map(|wrong| (wrong.reason, wrong.removed));
            (report.indexes, wrong.collect::<Vec<_>>())
        };
        let path = index(&filled, |_| {});
        assert_eq!(reasons(), (1, vec![]));
        assert!(path.exists());
        let leaves_out = "it leaves out replies that the segment has";
        let others = "it tells of replies that the segment does not have";
        type Change = fn(&mut Vec<IndexEntry>);
        let cases: [(Change, &str); 4] = [
            (|entries| _ = entries.remove(1), leaves_out),
            (|entries| entries[1].prefix += 1, others),
            (|entries| entries[1].limit.max_tokens += 1, others),
            (|entries| entries[1].offset += 1, others),
        ];
        for (change, reason) in cases {
            let path = index(&filled, change);
            assert_eq!(reasons(), (1, vec![(reason.to_owned(), true)]));
            assert!(!path.exists());
            assert_eq!(reasons(), (0, vec![]), "one that is not there is no fault");
        }
        let path = index(&filled, |_| {});
        let mut bytes = fs_err::read(&path).unwrap();
        bytes[70] ^= 1;
        fs_err::write(&path, bytes).unwrap();
        assert_eq!(reasons(), (1, vec![("a block of it is damaged".to_owned(), true)]));
        // Every reply is found again without it.
        let store = ReplyStore::open(&filled.folder.path().join("a-teacher")).unwrap();
        assert!((0..3).all(|number| store.find(&RequestKey([number; 32]), 8).unwrap().is_some()));
    }

    #[test]
    fn an_index_is_not_blamed_for_a_reply_that_rotted_after_it_was_written() {
        let filled = Filled::new();
        let path = index(&filled, |_| {});
        for place in [filled.places[1] + 3, filled.places[2] - 1] {
            filled.change(|bytes| bytes[place as usize] ^= 1);
            let report = verify(filled.folder.path()).unwrap();
            assert_eq!((report.damaged.len(), report.indexes, report.wrong_indexes), (1, 1, vec![]), "byte {place}");
            assert!(path.exists());
            filled.change(|bytes| bytes[place as usize] ^= 1);
        }
    }
}
