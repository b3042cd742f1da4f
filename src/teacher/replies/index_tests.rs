//! A store with index files finds what a store finds that scans, whatever happened to the files.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fs_err::OpenOptions;
use proptest::prelude::*;
use stillhouse_data::answer::Outcome;

use super::*;
use crate::reply::{Reply, Usage};

const KEYS: u32 = 40;
const LIMITS: [u32; 3] = [4, 8, 16];

fn key(number: u32) -> RequestKey {
    RequestKey(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn reply(text: &str) -> Reply {
    Reply {
        outcome: if text.len().is_multiple_of(3) { Outcome::Cut } else { Outcome::Ok },
        text: text.to_owned(),
        finish: "stop".to_owned(),
        model: "m".to_owned(),
        usage: Usage { prompt: 1, completion: 3 + text.len() as u32 % 9 },
        token_ids: None,
        vector: None,
        tokens: None,
    }
}

fn open(directory: &Path) -> ReplyStore {
    ReplyStore::open_indexing(directory, Every::replies(8)).unwrap()
}

fn put(store: &ReplyStore, entries: impl IntoIterator<Item = (u32, u32, String)>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (number, max_tokens, text) in entries {
        runtime.block_on(store.put(key(number), max_tokens, &reply(&text))).unwrap();
    }
}

fn fill(directory: &Path, numbers: std::ops::Range<u32>) {
    put(&open(directory), numbers.map(|number| (number, 8, format!("reply {number}"))));
}

fn index(directory: &Path) -> PathBuf {
    directory.join("00000000.index")
}

fn segment(directory: &Path) -> PathBuf {
    directory.join("00000000.replies")
}

fn text(store: &ReplyStore, number: u32, max_tokens: u32) -> Option<String> {
    let location = store.find(&key(number), max_tokens).unwrap()?;
    store.read(&key(number), location).unwrap().map(|reply| reply.text)
}

/// What a store answers to every request.
fn answers(store: &ReplyStore) -> BTreeMap<(u32, u32), String> {
    let requests = (0..KEYS).flat_map(|number| LIMITS.map(|limit| (number, limit)));
    requests.filter_map(|(number, limit)| Some(((number, limit), text(store, number, limit)?))).collect()
}

/// The same files without any index.
fn by_scan(directory: &Path) -> BTreeMap<(u32, u32), String> {
    let bare = tempfile::tempdir().unwrap();
    for entry in fs_err::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "replies") {
            fs_err::copy(&path, bare.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    answers(&ReplyStore::open(bare.path()).unwrap())
}

fn covered(directory: &Path) -> usize {
    index_file::IndexFile::open(&index(directory)).ok().flatten().map_or(0, |index| index.len())
}

#[test]
fn an_index_is_written_while_replies_come_and_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put(&store, (0..7).map(|number| (number, 8, "few".to_owned())));
    assert_eq!(covered(folder.path()), 0);
    put(&store, (7..30).map(|number| (number, 8, "more".to_owned())));
    drop(store);
    assert_eq!(covered(folder.path()), 30);
    let names: Vec<_> = fs_err::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing unfinished is left: {names:?}");
    let store = open(folder.path());
    assert_eq!((store.len(), answers(&store)), (30, by_scan(folder.path())));
}

#[test]
fn only_what_the_index_does_not_cover_is_scanned() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..20);
    let old = fs_err::read(index(folder.path())).unwrap();
    fill(folder.path(), 20..40);
    fs_err::write(index(folder.path()), old).unwrap();
    // The heads that the index covers are made unreadable to a scan, all but the last of them.
    let mut bytes = fs_err::read(segment(folder.path())).unwrap();
    let store = open(folder.path());
    let last = store.find(&key(19), 8).unwrap().unwrap().offset as usize;
    let places: Vec<usize> = (0..19).map(|n| store.find(&key(n), 8).unwrap().unwrap().offset as usize).collect();
    assert_eq!(store.len(), 40);
    assert!(places.iter().all(|place| *place < last));
    drop(store);
    places.iter().for_each(|place| bytes[place + 1] ^= 1);
    fs_err::write(segment(folder.path()), bytes).unwrap();
    assert_eq!(open(folder.path()).len(), 40);
    fs_err::remove_file(index(folder.path())).unwrap();
    assert_eq!(open(folder.path()).len(), 21);
}

#[test]
fn a_damaged_index_is_noticed_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..40);
    let (expected, whole) = (by_scan(folder.path()), fs_err::read(index(folder.path())).unwrap());
    for place in (0..whole.len()).step_by(5) {
        let mut damaged = whole.clone();
        damaged[place] ^= 16;
        fs_err::write(index(folder.path()), &damaged).unwrap();
        let store = open(folder.path());
        assert_eq!(answers(&store), expected, "byte {place}");
        assert_eq!(store.len(), 40, "byte {place}");
        drop(store);
        assert_eq!(fs_err::read(index(folder.path())).unwrap(), whole, "byte {place}: made again, and the same");
    }
    for length in [0, 1, 63, 64, whole.len() / 2, whole.len() - 1] {
        fs_err::write(index(folder.path()), &whole[..length]).unwrap();
        assert_eq!(answers(&open(folder.path())), expected, "cut at {length}");
        assert_eq!(fs_err::read(index(folder.path())).unwrap(), whole, "cut at {length}");
    }
}

#[test]
fn the_index_of_another_segment_is_not_taken() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(one.path(), 0..20);
    fill(other.path(), 20..40);
    fs_err::copy(index(other.path()), index(one.path())).unwrap();
    assert_eq!(answers(&open(one.path())), by_scan(one.path()));
    // The right segment under another number.
    fs_err::copy(segment(one.path()), one.path().join("00000001.replies")).unwrap();
    fs_err::copy(index(one.path()), one.path().join("00000001.index")).unwrap();
    assert_eq!(open(one.path()).len(), 40);
    assert_eq!(fs_err::read(one.path().join("00000001.index")).unwrap()[12], 1, "made again under its own number");
}

#[test]
fn a_segment_that_was_cut_off_and_written_on_is_another() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..20);
    let old = fs_err::read(index(folder.path())).unwrap();
    let place = open(folder.path()).find(&key(10), 8).unwrap().unwrap().offset;
    let file = OpenOptions::new().write(true).open(segment(folder.path())).unwrap();
    file.set_len(u64::from(place) + 20).unwrap();
    assert_eq!(open(folder.path()).len(), 10, "a segment shorter than its index");
    put(&open(folder.path()), (20..40).map(|number| (number, 8, format!("reply  {number}"))));
    fs_err::write(index(folder.path()), old).unwrap();
    let store = open(folder.path());
    assert_eq!((store.len(), answers(&store)), (30, by_scan(folder.path())));
}

#[test]
fn a_torn_tail_behind_the_index_is_cut_off_by_the_next_writer() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..20);
    let length = |folder: &tempfile::TempDir| fs_err::metadata(segment(folder.path())).unwrap().len();
    let whole = length(&folder);
    let torn = fs_err::read(segment(folder.path())).unwrap()[16..16 + 90].to_vec();
    OpenOptions::new().append(true).open(segment(folder.path())).unwrap().write_all(&torn).unwrap();
    assert_eq!(open(folder.path()).len(), 20);
    fill(folder.path(), 30..31);
    assert_eq!(open(folder.path()).len(), 21);
    let single = tempfile::tempdir().unwrap();
    fill(single.path(), 30..31);
    assert_eq!(length(&folder), whole + length(&single) - 16);
}

#[test]
fn a_store_that_cannot_be_written_is_read_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..40);
    fs_err::remove_file(index(folder.path())).unwrap();
    // A folder in the place of the unfinished file: not even root writes there.
    fs_err::create_dir(folder.path().join("00000000.index-part")).unwrap();
    let store = open(folder.path());
    assert_eq!((store.len(), answers(&store)), (40, by_scan(folder.path())));
    put(&store, (0..30).map(|number| (number, 16, "longer".to_owned())));
    assert_eq!((store.len(), answers(&store)), (70, by_scan(folder.path())));
    drop(store);
    assert!(!index(folder.path()).exists());
    fs_err::remove_dir(folder.path().join("00000000.index-part")).unwrap();
    assert_eq!(open(folder.path()).len(), 70);
    assert_eq!(covered(folder.path()), 70);
}

#[test]
fn an_index_that_rots_under_a_running_store_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..40);
    let (writing, reading) = (open(folder.path()), open(folder.path()));
    put(&writing, [(1, 16, "new".to_owned())]);
    let file = OpenOptions::new().write(true).open(index(folder.path())).unwrap();
    file.set_len(100).unwrap();
    assert_eq!(answers(&reading).len(), answers(&writing).len());
    assert_eq!(answers(&writing), by_scan(folder.path()));
    put(&writing, (20..40).map(|number| (number, 4, "more".to_owned())));
    assert_eq!((writing.len(), answers(&writing)), (61, by_scan(folder.path())));
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<(u32, u32, u8)>),
    DeleteTheIndex,
    DamageTheIndex(f64),
    PutAnOldIndexBack,
    CutTheSegment(f64),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = prop::collection::vec((0..KEYS, prop::sample::select(LIMITS.to_vec()), 0..30u8), 1..30);
    let step = prop_oneof![
        4 => some.prop_map(Step::Put),
        1 => Just(Step::DeleteTheIndex),
        1 => (0.0..1.0f64).prop_map(Step::DamageTheIndex),
        1 => Just(Step::PutAnOldIndexBack),
        1 => (0.0..1.0f64).prop_map(Step::CutTheSegment),
        2 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_store_with_an_index_is_a_store_by_scan(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let mut old = None;
        let mut store = Some(open(folder.path()));
        for step in steps {
            if let Step::Put(entries) = step {
                let store = store.get_or_insert_with(|| open(folder.path()));
                put(store, entries.into_iter().map(|(number, limit, length)| (number, limit, "x".repeat(length.into()))));
                prop_assert_eq!(answers(store), by_scan(folder.path()));
                continue;
            }
            store = None;
            let (index, segment) = (index(folder.path()), segment(folder.path()));
            match step {
                Step::DeleteTheIndex => _ = fs_err::remove_file(&index),
                Step::PutAnOldIndexBack => match (&old, fs_err::read(&index)) {
                    (Some(old), _) => fs_err::write(&index, old).unwrap(),
                    (None, now) => old = now.ok(),
                },
                Step::DamageTheIndex(place) => if let Ok(mut bytes) = fs_err::read(&index) {
                    let place = (bytes.len() as f64 * place) as usize;
                    bytes[place] ^= 1;
                    fs_err::write(&index, bytes).unwrap();
                },
                Step::CutTheSegment(place) => if let Ok(file) = OpenOptions::new().write(true).open(&segment) {
                    let length = file.metadata().unwrap().len();
                    file.set_len((length as f64 * place) as u64).unwrap();
                },
                Step::Reopen | Step::Put(_) => {}
            }
            prop_assert_eq!(answers(&open(folder.path())), by_scan(folder.path()));
        }
    }
}
