//! Verifying: every stored reply is read again and compared with its checksums.

use std::path::{Path, PathBuf};

use fs_err::File;
use serde::Serialize;

use super::StoreError;
use super::entry::{BadBody, Head};
use super::segment::{self, FILE_HEAD_BYTES, Segment, Tail, file_name, numbers};

/// What verifying found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepliesReport {
    /// Segments read.
    pub segments: u64,
    /// Replies that are whole.
    pub replies: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is not as it was written.
    pub damaged: Vec<Damage>,
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
        self.damaged.is_empty()
    }
}

/// Reads every reply of every teacher below a store's folder of replies, and changes nothing. What a killed writer left
/// unfinished at a segment's end was never acknowledged, so it is no damage; nor is a reply that is being written.
///
/// # Errors
/// [`StoreError`] if a folder or a segment cannot be read.
pub fn verify(replies: &Path) -> Result<RepliesReport, StoreError> {
    let mut report = RepliesReport::default();
    for teacher in folders(replies)? {
        for number in numbers(&teacher)? {
            segment(&teacher.join(file_name(number)), &mut report)?;
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

fn segment(path: &Path, report: &mut RepliesReport) -> Result<(), StoreError> {
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
    Ok(())
}

/// Whether what lies behind the last whole entry was written once and is not readable any more.
pub(super) fn unreadable(file: &File, end: u64) -> std::io::Result<bool> {
    let length = file.metadata()?.len();
    Ok(length > end && segment::tail(file, end, length)? == Tail::Rotten)
}

/// What is wrong with an entry.
fn check(file: &File, head: &Head, offset: u64) -> std::io::Result<Option<&'static str>> {
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
}
