//! Garbage collection, verification, attempts and runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod attempts_and_runs;
mod checkpoints;

use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{key, record_of, store, write_files};
use stillhouse_store::{
    CheckpointFile, CheckpointManifest, GcOptions, LeaseOwner, PinTarget, Record, Store, StoreError,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn age(path: &Path, by: Duration) {
    let file = fs_err::File::open(path).unwrap();
    file.file().set_modified(SystemTime::now() - by).unwrap();
}

fn old_blob(store: &Store, content: &str) -> stillhouse_store::Digest {
    let digest = store.put_bytes(content.as_bytes()).unwrap();
    age(&store.blob_path(&digest), DAY);
    digest
}

/// A published record whose files are all `by` old.
fn old_record(store: &Store, stage: &str, by: Duration) -> Record {
    let record = record_of(store, stage, &[("out", stage)]);
    store.publish(record.clone()).unwrap();
    let tree = store.tree(&record.output).unwrap().unwrap();
    let hex = record.key.to_string();
    let file = store.root().join("records").join(&hex[..2]).join(hex + ".json");
    for path in [file, store.blob_path(&record.output), store.blob_path(&tree.entries()[0].digest)] {
        age(&path, by);
    }
    record
}

fn owner() -> LeaseOwner {
    LeaseOwner::this_process("r", "student.small")
}

#[test]
fn what_nothing_names_goes_and_a_dry_run_only_says_so() {
    let (_folder, store) = store();
    let record = old_record(&store, "command.a", 9 * DAY);
    let (garbage, young) = (old_blob(&store, "garbage"), store.put_bytes(b"young").unwrap());
    let dry = store.gc(&GcOptions { dry_run: true, ..Default::default() }).unwrap();
    assert_eq!((dry.blobs, dry.blob_bytes, dry.kept_blobs), (1, 7, 3));
    assert_eq!((dry.grace_seconds, dry.young_blobs, dry.young_bytes), (3600, 1, 5));
    assert!(store.has(&garbage));
    let wet = store.gc(&GcOptions::default()).unwrap();
    assert_eq!((wet.blobs, wet.dry_run), (1, false));
    assert!(!store.has(&garbage) && store.has(&young));
    assert!(store.record(&record.key).unwrap().is_some());
}

#[test]
fn records_unused_for_long_go_unless_pinned() {
    let (_folder, store) = store();
    let [old, pinned, output, used, young] = ["old", "pinned", "output", "used", "young"]
        .map(|name| old_record(&store, &format!("command.{name}"), 9 * DAY));
    store.pin("best", PinTarget::Record(pinned.key)).unwrap();
    // Pinning looked the record up, which counts as use: make it old again.
    let pinned = old_record(&store, "command.pinned", 9 * DAY).key.min(pinned.key);
    store.pin("files", PinTarget::Output(output.output)).unwrap();
    store.record(&used.key).unwrap();
    let young_key = old_record(&store, "command.young", DAY).key;
    assert_eq!(young_key, young.key);

    let options = GcOptions { keep: Some(7 * DAY), ..Default::default() };
    let report = store.gc(&options).unwrap();
    let mut gone = vec![old.key, output.key];
    gone.sort();
    assert_eq!(report.records, gone);
    assert_eq!(store.record(&old.key).unwrap(), None);
    assert!(!store.has(&old.output));
    for kept in [pinned, used.key, young.key] {
        assert!(store.record(&kept).unwrap().is_some());
    }
    let tree = store.tree(&output.output).unwrap().unwrap();
    assert!(store.has(&tree.entries()[0].digest), "a pinned output keeps its files");
    assert_eq!(store.records().unwrap().len(), 3, "the index follows");
    assert!(store.unpin("files").unwrap() && !store.unpin("files").unwrap());
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn a_held_lease_keeps_every_record_and_checkpoint() {
    let (_folder, store) = store();
    let record = old_record(&store, "command.a", 9 * DAY);
    let options = GcOptions { keep: Some(7 * DAY), ..Default::default() };
    let run = store.create_run().unwrap();
    let report = store.gc(&options).unwrap();
    assert_eq!((report.records.len(), report.held.len()), (0, 1));
    drop(run);
    assert_eq!(store.gc(&options).unwrap().records, [record.key]);
}

#[test]
fn an_unreadable_pin_stops_collection() {
    let (_folder, store) = store();
    let garbage = old_blob(&store, "garbage");
    write_files(&store.root().join("pins"), &[("best", "{")]);
    let error = store.gc(&GcOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(store.has(&garbage));
    assert!(store.pin("x", PinTarget::Record(key("no"))).is_err());
}

/// Replaces a read-only file of the store.
fn overwrite(path: &Path, content: &[u8]) {
    fs_err::remove_file(path).unwrap();
    fs_err::write(path, content).unwrap();
}

fn record_file(store: &Store, key: &stillhouse_store::Key) -> std::path::PathBuf {
    let hex = key.to_string();
    store.root().join("records").join(&hex[..2]).join(hex + ".json")
}

#[test]
fn what_a_newer_program_recorded_stops_collection_and_stays_whole() {
    let (_folder, store) = store();
    let record = old_record(&store, "command.a", 9 * DAY);
    let blob = store.tree(&record.output).unwrap().unwrap().entries()[0].digest;
    let (path, garbage) = (record_file(&store, &record.key), old_blob(&store, "garbage"));
    // Not even the members that this program knows need to be there.
    overwrite(&path, br#"{"record":{"format":7,"result":"elsewhere"}}"#);
    age(&path, 9 * DAY);
    for keep in [None, Some(7 * DAY)] {
        let error = store.gc(&GcOptions { keep, ..Default::default() }).unwrap_err();
        assert!(matches!(error, StoreError::NewerFormat { found: 7, .. }), "{error}");
        assert!(error.to_string().contains(&format!("{} has format 7", path.display())), "{error}");
        assert!(error.hint().unwrap().contains("newer program"));
        assert!(path.exists() && store.has(&blob) && store.has(&record.output) && store.has(&garbage));
    }
    // A torn one is no secret of a newer program: it needs nothing.
    overwrite(&path, br#"{"record":{"for"#);
    assert_eq!(store.gc(&GcOptions::default()).unwrap().blobs, 3);
}

#[test]
fn an_unfinished_file_is_never_seen_and_is_collected_when_old() {
    let (_folder, store) = store();
    let tmp = store.root().join("tmp");
    write_files(&tmp, &[("half", "written"), ("now", "being written")]);
    age(&tmp.join("half"), DAY);
    let options = GcOptions { grace: Duration::ZERO, ..Default::default() };
    let report = store.gc(&options).unwrap();
    assert_eq!((report.temporary, report.young_temporary), (1, 1));
    assert!(!tmp.join("half").exists() && tmp.join("now").exists());
}

#[test]
fn verify_finds_damage_and_names_what_it_broke() {
    let (_folder, store) = store();
    let record = old_record(&store, "command.a", DAY);
    old_record(&store, "command.b", DAY);
    assert!(store.verify().unwrap().is_sound());
    let blob = store.tree(&record.output).unwrap().unwrap().entries()[0].digest;
    fs_err::remove_file(store.blob_path(&blob)).unwrap();
    fs_err::write(store.blob_path(&blob), "command.A").unwrap();
    assert!(store.record(&record.key).unwrap().is_some(), "a look-up does not read blobs");
    let report = store.verify().unwrap();
    assert_eq!((report.blobs, report.corrupt.as_slice()), (4, [blob].as_slice()));
    assert_eq!(report.broken.len(), 1);
    assert_eq!(report.broken[0].key, record.key);
    assert_eq!(store.record(&record.key).unwrap(), None);
}

#[test]
fn stats_count_what_was_put() {
    let (_folder, store) = store();
    store.put_bytes(b"12345").unwrap();
    let stats = store.stats().unwrap();
    let blobs = stats.areas.iter().find(|area| area.name == "blobs").unwrap();
    assert_eq!((blobs.files, blobs.bytes), (1, 5));
    assert_eq!((stats.files(), stats.bytes()), (1, 5));
}
