use std::io::Write as _;
use std::path::Path;

use fs_err::OpenOptions;
use proptest::prelude::*;

use super::*;
use stillhouse_data::answer::Outcome;

use crate::reply::{Reply, Usage};

fn key(number: u32) -> RequestKey {
    RequestKey(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn reply(text: &str) -> Reply {
    Reply {
        outcome: Outcome::Ok,
        text: text.to_owned(),
        finish: "stop".to_owned(),
        model: "m".to_owned(),
        usage: Usage { prompt: 1, completion: 2 },
        token_ids: None,
        vector: None,
        tokens: None,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn fill(directory: &Path, numbers: std::ops::Range<u32>) {
    let store = ReplyStore::open(directory).unwrap();
    runtime().block_on(async {
        let puts = numbers.map(|number| {
            let store = &store;
            async move { store.put(key(number), 8, &reply(&format!("reply {number}"))).await.unwrap() }
        });
        futures_util::future::join_all(puts).await;
    });
}

fn text(store: &ReplyStore, number: u32) -> Option<String> {
    let location = store.find(&key(number), 8).unwrap()?;
    store.read(&key(number), location).unwrap().map(|reply| reply.text)
}

fn wait_until_free(segment: &Path) {
    // The writing thread lets go of its segment a moment after its store is dropped.
    let file = fs_err::File::open(segment).unwrap();
    file.file().lock().unwrap();
}

#[test]
fn replies_are_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..100);
    let store = ReplyStore::open(folder.path()).unwrap();
    assert_eq!(store.len(), 100);
    assert!((0..100).all(|number| text(&store, number) == Some(format!("reply {number}"))));
    assert_eq!(text(&store, 100), None);
}

#[test]
fn a_missing_folder_is_an_empty_store_and_is_not_made_by_reading() {
    let folder = tempfile::tempdir().unwrap();
    let store = ReplyStore::open(&folder.path().join("none")).unwrap();
    assert!(store.is_empty());
    assert!(!folder.path().join("none").exists());
}

#[test]
fn a_torn_tail_loses_only_itself_and_the_next_writer_cuts_it_off() {
    let whole = tempfile::tempdir().unwrap();
    fill(whole.path(), 0..3);
    let bytes = fs_err::read(whole.path().join("00000000.replies")).unwrap();
    let two = {
        let store = ReplyStore::open(whole.path()).unwrap();
        store.find(&key(2), 8).unwrap().unwrap().offset as usize
    };
    for length in [two + 1, two + 71, two + 72, bytes.len() - 1] {
        let torn = tempfile::tempdir().unwrap();
        let segment = torn.path().join("00000000.replies");
        fs_err::write(&segment, &bytes[..length]).unwrap();
        let store = ReplyStore::open(torn.path()).unwrap();
        assert_eq!((text(&store, 1).as_deref(), text(&store, 2)), (Some("reply 1"), None));
        fill(torn.path(), 7..8);
        assert_eq!(text(&ReplyStore::open(torn.path()).unwrap(), 7).as_deref(), Some("reply 7"));
        wait_until_free(&segment);
        assert_eq!(fs_err::metadata(&segment).unwrap().len() as usize, bytes.len(), "cut off, then appended");
    }
}

#[test]
fn rot_in_the_middle_loses_one_reply_and_it_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..3);
    let segment = folder.path().join("00000000.replies");
    let offset =
        |number| ReplyStore::open(folder.path()).unwrap().find(&key(number), 8).unwrap().unwrap().offset as usize;
    let (head, body) = (offset(0), offset(1) + 80);
    let mut bytes = fs_err::read(&segment).unwrap();
    bytes[head + 30] ^= 1;
    bytes[body] ^= 1;
    fs_err::write(&segment, &bytes).unwrap();
    let store = ReplyStore::open(folder.path()).unwrap();
    assert_eq!(text(&store, 0), None);
    assert_eq!(text(&store, 1), None);
    assert_eq!(store.find(&key(1), 8).unwrap(), None, "forgotten, so that it is asked again");
    assert_eq!(text(&store, 2).as_deref(), Some("reply 2"));
}

#[test]
fn zeros_behind_the_last_entry_are_no_entries() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 0..2);
    let segment = folder.path().join("00000000.replies");
    wait_until_free(&segment);
    OpenOptions::new().append(true).open(&segment).unwrap().write_all(&vec![0; 300_000]).unwrap();
    assert_eq!(ReplyStore::open(folder.path()).unwrap().len(), 2);
    fill(folder.path(), 2..3);
    assert_eq!(text(&ReplyStore::open(folder.path()).unwrap(), 2).as_deref(), Some("reply 2"));
}

#[test]
fn two_writers_use_two_segments_and_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (ReplyStore::open(folder.path()).unwrap(), ReplyStore::open(folder.path()).unwrap());
    runtime().block_on(async {
        a.put(key(1), 8, &reply("from a")).await.unwrap();
        b.put(key(2), 8, &reply("from b")).await.unwrap();
    });
    assert!(folder.path().join("00000001.replies").exists());
    std::thread::sleep(std::time::Duration::from_millis(510));
    assert_eq!(text(&a, 2).as_deref(), Some("from b"));
    assert_eq!(text(&b, 1).as_deref(), Some("from a"));
}

#[test]
fn a_newer_format_and_a_foreign_file_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let segment = folder.path().join("00000000.replies");
    fs_err::write(&segment, b"SHreply\0\x02\0\0\0\0\0\0\0").unwrap();
    let failure = |error: StoreError| stillhouse_stage::Failure::from(error);
    let error = failure(ReplyStore::open(folder.path()).unwrap_err());
    assert!(error.message.ends_with("00000000.replies has format 2, this program reads up to 1"), "{error}");
    assert_eq!(error.hint.unwrap(), "update stillhouse, or use another cache with --cache");
    fs_err::write(&segment, b"something else entirely").unwrap();
    let error = failure(ReplyStore::open(folder.path()).unwrap_err());
    assert!(error.message.ends_with("00000000.replies is not a segment of replies"), "{error}");
    assert_eq!(error.hint.unwrap(), "move it out of the cache");
}

#[test]
fn a_store_that_cannot_be_written_says_so_to_every_waiting_reply() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    fs_err::write(&blocked, "a file where the folder should be").unwrap();
    let store = ReplyStore::open(&folder.path().join("elsewhere")).unwrap();
    fs_err::write(folder.path().join("elsewhere"), "taken meanwhile").unwrap();
    let error = runtime().block_on(store.put(key(1), 8, &reply("lost"))).unwrap_err().to_string();
    assert!(error.contains("elsewhere"), "{error}");
}

#[test]
fn an_equal_request_waits_for_the_one_that_asks() {
    let folder = tempfile::tempdir().unwrap();
    let store = ReplyStore::open(folder.path()).unwrap();
    let Claim::Mine(mine) = store.claim(key(1), 8) else { panic!("the first claim is ours") };
    let Claim::Other(mut other) = store.claim(key(1), 8) else { panic!("the second is not") };
    assert!(matches!(store.claim(key(1), 9), Claim::Mine(_)), "another limit is another request");
    drop(mine);
    assert!(runtime().block_on(other.changed()).is_err(), "ended");
    assert!(matches!(store.claim(key(1), 8), Claim::Mine(_)));
}

#[test]
#[cfg(target_os = "linux")]
fn of_two_processes_one_asks_and_the_other_finds_its_reply() {
    let folder = tempfile::tempdir().unwrap();
    // Locks belong to open files: two stores of one folder are to each other what two processes are.
    let (ours, theirs) = (ReplyStore::open(folder.path()).unwrap(), ReplyStore::open(folder.path()).unwrap());
    let claim = |store: &ReplyStore, limit| match store.claim(key(1), limit) {
        Claim::Mine(mine) => mine,
        Claim::Other(_) => panic!("nobody in this process asks it"),
    };
    let mut mine = claim(&ours, 8);
    assert!(ours.share_claim(&mut mine) && ours.share_claim(&mut mine), "ours stays ours");
    let mut waiting = claim(&theirs, 8);
    assert!(!theirs.share_claim(&mut waiting));
    assert!(theirs.share_claim(&mut claim(&theirs, 9)), "another limit is another request");
    assert_eq!(theirs.find(&key(1), 8).unwrap(), None);
    runtime().block_on(ours.put(key(1), 8, &reply("once"))).unwrap();
    drop(mine);
    assert!(theirs.share_claim(&mut waiting), "given up with the claim");
    theirs.look_again().unwrap();
    let found = theirs.find(&key(1), 8).unwrap().unwrap();
    assert_eq!(theirs.read(&key(1), found).unwrap().unwrap().text, "once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn cutting_a_segment_anywhere_keeps_every_entry_before_the_cut(cut in 0.0..1.0f64) {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), 0..10);
        let segment = folder.path().join("00000000.replies");
        let store = ReplyStore::open(folder.path()).unwrap();
        let ends: Vec<u64> = (1..10).map(|n| u64::from(store.find(&key(n), 8).unwrap().unwrap().offset)).collect();
        let length = (fs_err::metadata(&segment).unwrap().len() as f64 * cut) as u64;
        wait_until_free(&segment);
        OpenOptions::new().write(true).open(&segment).unwrap().set_len(length).unwrap();
        let store = ReplyStore::open(folder.path()).unwrap();
        prop_assert_eq!(store.len(), ends.iter().filter(|end| **end <= length).count());
    }
}
