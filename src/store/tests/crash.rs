//! Processes that die, and processes that race: the store stays true.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use common::{child, key, record_of, role, spawn, store};
use stillhouse_store::{CheckpointFile, CheckpointManifest, LeaseOwner, Lookup, Published, Store};

/// What a child does for ever: stages of random size, one after the other, and checkpoints.
fn work_until_killed(root: &str) {
    let store = Store::open(root.as_ref()).unwrap();
    for number in 0_u32.. {
        let stage = format!("command.{}-{number}", std::process::id());
        let long = "x".repeat(number as usize * 7919 % 300_000);
        let files = [("long", long.as_str()), ("stage", stage.as_str())];
        let record = record_of(&store, &stage, &files);
        let tree = store.tree(&record.output).unwrap().unwrap();
        let file = &tree.entries()[0];
        let files = [("weights".to_owned(), CheckpointFile { digest: file.digest, length: file.length })];
        let manifest = CheckpointManifest { step: 1, files: files.into(), meta: serde_json::Value::Null };
        store.put_checkpoint(&record.key, &manifest).unwrap();
        store.publish(record).unwrap();
    }
}

#[test]
fn killed_writers_leave_only_whole_records() {
    if let Some(root) = role() {
        return work_until_killed(&root);
    }
    let (folder, store) = store();
    let root = store.root().to_str().unwrap();
    for round in 0..12_u64 {
        let mut children: Vec<_> = (0..2).map(|_| spawn("killed_writers_leave_only_whole_records", root)).collect();
        std::thread::sleep(Duration::from_millis(60 + 23 * round));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    let fresh = Store::open(store.root()).unwrap();
    let records = fresh.records().unwrap();
    assert!(records.len() >= 10, "{} records: the children did no work", records.len());
    let mut found = 0;
    for entry in &records {
        match fresh.lookup(&entry.key).unwrap() {
            Lookup::Found(record) => {
                found += 1;
                let tree = fresh.tree(&record.output).unwrap().unwrap();
                for file in tree.entries() {
                    let bytes = fresh.checked_read(&file.digest).unwrap().unwrap();
                    assert_eq!(bytes.len() as u64, file.length);
                }
            }
            // Listed just before it was to be published.
            Lookup::Missing => {}
            Lookup::Broken { reason } => panic!("{}: {reason}", entry.stage),
        }
    }
    let report = fresh.verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.records, found, "every record is in the index");
    for key in fresh.checkpoints().unwrap() {
        assert!(fresh.has_checkpoint(&key).unwrap());
    }
    drop(folder);
}

#[test]
fn of_racing_processes_exactly_one_wins_each_key() {
    const KEYS: u32 = 40;
    if let Some(root) = role() {
        let store = Store::open(root.as_ref()).unwrap();
        let me = std::process::id().to_string();
        let wins = (0..KEYS).filter(|number| {
            let mut record = record_of(&store, "command.race", &[("out", &me)]);
            record.key = key(&number.to_string());
            store.publish(record).unwrap() == Published::Won
        });
        let wins = wins.count();
        fs_err::write(store.root().join(format!("replies/wins-{me}")), wins.to_string()).unwrap();
        return;
    }
    let (_folder, store) = store();
    let root = store.root().to_str().unwrap();
    let mut children: Vec<_> = (0..4).map(|_| spawn("of_racing_processes_exactly_one_wins_each_key", root)).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let wins: Vec<u32> = fs_err::read_dir(store.replies_dir())
        .unwrap()
        .map(|entry| fs_err::read_to_string(entry.unwrap().path()).unwrap().parse().unwrap())
        .collect();
    assert_eq!(wins.len(), 4);
    assert_eq!(wins.iter().sum::<u32>(), KEYS, "{wins:?}");
    for number in 0..KEYS {
        assert!(store.record(&key(&number.to_string())).unwrap().is_some());
    }
}

/// Racing stores of different outputs under a broken record: still exactly one wins.
#[test]
fn of_racing_threads_one_replaces_a_broken_record() {
    let (_folder, store) = store();
    for round in 0..20 {
        let stage = format!("command.{round}");
        let broken = record_of(&store, &stage, &[("out", "lost")]);
        store.publish(broken.clone()).unwrap();
        let tree = store.tree(&broken.output).unwrap().unwrap();
        fs_err::remove_file(store.blob_path(&tree.entries()[0].digest)).unwrap();
        let wins: usize = std::thread::scope(|scope| {
            let publish = |me: &'static str| {
                let record = record_of(&store, &stage, &[("out", me)]);
                usize::from(store.publish(record).unwrap() == Published::Won)
            };
            let threads = ["a", "b", "c"].map(|me| scope.spawn(move || publish(me)));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(wins, 1);
    }
}

#[test]
fn a_killed_holder_frees_its_lease_at_once() {
    let owner = |stage: &str| LeaseOwner::this_process("r", stage);
    if let Some(root) = role() {
        let store = Store::open(root.as_ref()).unwrap();
        let _lease = store.lease("stage", &owner("student.x")).unwrap().unwrap();
        fs_err::write(store.root().join("replies/ready"), "").unwrap();
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    let (_folder, store) = store();
    let mut holder = spawn("a_killed_holder_frees_its_lease_at_once", store.root().to_str().unwrap());
    while !store.root().join("replies/ready").exists() {
        assert_eq!(holder.try_wait().unwrap(), None, "the child ended early");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(store.lease("stage", &owner("x")).unwrap().is_none());
    let named = store.lease_holder("stage").unwrap().unwrap();
    assert_eq!((named.pid, named.stage.as_str()), (holder.id(), "student.x"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(store.lease_holder("stage").unwrap(), None);
    assert!(store.lease("stage", &owner("x")).unwrap().is_some());
}

/// Collection with no grace at all beside writers: a writer may be told that its output is gone, and
/// then does it again; a record that was published is never broken by it.
#[test]
fn collecting_beside_writers_breaks_no_record() {
    if let Some(root) = role() {
        let store = Store::open(root.as_ref()).unwrap();
        for number in 0..25 {
            let stage = format!("command.{}-{number}", std::process::id());
            // Some content is shared, so that blobs are reused while they are being collected.
            let shared = (number % 5).to_string();
            loop {
                let record = record_of(&store, &stage, &[("shared", &shared), ("own", &stage)]);
                match store.publish(record) {
                    Ok(_) => break,
                    Err(stillhouse_store::StoreError::IncompleteOutput { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        return;
    }
    let (_folder, store) = store();
    let root = store.root().to_str().unwrap();
    let mut children: Vec<_> = (0..2)
        .map(|_| {
            child("collecting_beside_writers_breaks_no_record", root)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let options = stillhouse_store::GcOptions { grace: Duration::ZERO, ..Default::default() };
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        store.gc(&options).unwrap();
        // Room for the writers, who would otherwise be collected again before they can record.
        std::thread::sleep(Duration::from_millis(40));
    }
    for child in &mut children {
        let mut words = String::new();
        child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        assert!(child.wait().unwrap().success(), "{words}");
    }
    let report = store.verify().unwrap();
    assert_eq!((report.records, report.is_sound()), (50, true), "{report:?}");
}
