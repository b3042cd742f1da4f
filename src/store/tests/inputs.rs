//! The stat cache: hashed once, noticed when changed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use common::{store, write_files};
use stillhouse_store::{Digest, Store, StoreError};

/// Changes the remembered digest on the disk: whoever answers with it has not read the file.
fn poison(store: &Store, from: &Digest) -> Digest {
    let (file, fake) = (store.root().join("stat-cache"), Digest::of(b"remembered"));
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, text.replace(&from.to_string(), &fake.to_string())).unwrap();
    fake
}

#[test]
fn an_unchanged_file_is_never_hashed_twice_not_even_by_the_next_process() {
    let (folder, store) = store();
    write_files(folder.path(), &[("in", "first")]);
    let path = folder.path().join("in");
    let coarse = fs_err::metadata(&path).unwrap().ctime_nsec() % 1_000_000 == 0;
    if coarse {
        std::thread::sleep(Duration::from_millis(2100));
    }
    let (digest, length) = store.digest_of(&path).unwrap();
    assert_eq!((digest, length), (Digest::of(b"first"), 5));
    let fake = poison(&store, &digest);
    assert_eq!(store.digest_of(&path).unwrap().0, digest, "remembered in memory");
    let next = Store::open(store.root()).unwrap();
    assert_eq!(next.digest_of(&path).unwrap().0, fake, "remembered on the disk");
    fs_err::remove_file(store.root().join("stat-cache")).unwrap();
    let third = Store::open(store.root()).unwrap();
    assert_eq!(third.digest_of(&path).unwrap().0, digest, "may be deleted at any time");
}

#[test]
fn every_change_is_noticed_even_of_equal_size_with_the_old_time_put_back() {
    let (folder, store) = store();
    let path = folder.path().join("in");
    for round in 0..50_u32 {
        let content = format!("{round:08}");
        let earlier = fs_err::metadata(&path).and_then(|meta| meta.modified());
        fs_err::write(&path, &content).unwrap();
        if let Ok(time) = earlier {
            fs_err::File::options().write(true).open(&path).unwrap().file().set_modified(time).unwrap();
        }
        assert_eq!(store.digest_of(&path).unwrap().0, Digest::of(content.as_bytes()), "{round}");
    }
}

#[test]
fn a_file_from_the_future_is_hashed_each_time_and_right() {
    let (folder, store) = store();
    let path = folder.path().join("in");
    write_files(folder.path(), &[("in", "x")]);
    let file = fs_err::File::options().write(true).open(&path).unwrap();
    file.file().set_modified(SystemTime::now() + Duration::from_secs(9999)).unwrap();
    assert_eq!(store.digest_of(&path).unwrap().0, Digest::of(b"x"));
}

#[test]
fn torn_and_foreign_lines_are_skipped() {
    let (folder, store) = store();
    write_files(folder.path(), &[("in", "x")]);
    fs_err::write(store.root().join("stat-cache"), b"\0\xff{\"path\":\"/to").unwrap();
    let path = folder.path().join("in");
    assert_eq!(store.digest_of(&path).unwrap().0, Digest::of(b"x"));
    let next = Store::open(store.root()).unwrap();
    assert_eq!(next.digest_of(&path).unwrap().0, Digest::of(b"x"));
}

#[test]
fn processes_that_append_at_once_leave_readable_lines() {
    let (folder, store) = store();
    let names: Vec<String> = (0..200).map(|n| format!("in/{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    write_files(folder.path(), &files);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Its own handle with its own memory, like another process.
                let other = Store::open(store.root()).unwrap();
                for name in &names {
                    other.digest_of(&folder.path().join(name)).unwrap();
                }
            });
        }
    });
    let text = fs_err::read_to_string(store.root().join("stat-cache")).unwrap();
    for line in text.lines().filter(|line| !line.is_empty()) {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    let fresh = Store::open(store.root()).unwrap();
    for name in &names {
        let digest = fresh.digest_of(&folder.path().join(name)).unwrap().0;
        assert_eq!(digest, Digest::of(name.as_bytes()));
    }
}

#[test]
fn what_is_no_file_is_named() {
    let (folder, store) = store();
    let missing = store.digest_of(&folder.path().join("no")).unwrap_err().to_string();
    assert!(missing.contains("no: entity not found"), "{missing}");
    let error = store.digest_of(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::UnfitForTree { .. }), "{error}");
}
