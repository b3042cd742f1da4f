//! Garbage collection, verification, attempts and runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

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
fn checkpoints_keep_their_blobs_until_removed() {
    let (_folder, store) = store();
    let weights = old_blob(&store, "weights");
    let file = CheckpointFile { digest: weights, length: 7 };
    let manifest = CheckpointManifest {
        step: 100,
        files: [("weights".to_owned(), file)].into(),
        meta: serde_json::json!({ "rng": [1, 2] }),
    };
    let trajectory = key("T100");
    assert!(!store.has_checkpoint(&trajectory).unwrap());
    store.put_checkpoint(&trajectory, &manifest).unwrap();
    store.gc(&GcOptions::default()).unwrap();
    assert_eq!(store.checkpoint(&trajectory).unwrap(), Some(manifest.clone()));
    assert_eq!(store.checkpoints().unwrap(), [trajectory]);

    fs_err::remove_file(store.blob_path(&weights)).unwrap();
    assert_eq!(store.checkpoint(&trajectory).unwrap(), None, "not whole, so not there");
    let error = store.put_checkpoint(&trajectory, &manifest).unwrap_err();
    assert!(matches!(error, StoreError::IncompleteOutput { .. }), "{error}");

    old_blob(&store, "weights");
    assert!(store.remove_checkpoint(&trajectory).unwrap());
    assert!(!store.remove_checkpoint(&trajectory).unwrap());
    assert_eq!(store.gc(&GcOptions::default()).unwrap().blobs, 1);
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
fn a_checkpoint_of_a_newer_program_stops_collection_and_is_not_taken_for_a_damaged_one() {
    let (_folder, store) = store();
    let (weights, trajectory) = (old_blob(&store, "weights"), key("T100"));
    let path = store.root().join("checkpoints").join(format!("{trajectory}.json"));
    fs_err::write(&path, format!(r#"{{"format":2,"shards":["{weights}"]}}"#)).unwrap();
    age(&path, 9 * DAY);
    for keep in [None, Some(7 * DAY)] {
        let error = store.gc(&GcOptions { keep, ..Default::default() }).unwrap_err();
        assert!(matches!(error, StoreError::NewerFormat { found: 2, supported: 1, .. }), "{error}");
        assert!(path.exists() && store.has(&weights));
    }
    assert!(matches!(store.checkpoint(&trajectory), Err(StoreError::NewerFormat { .. })));
    overwrite(&path, b"{");
    assert_eq!(store.checkpoint(&trajectory).unwrap(), None);
    assert_eq!(store.gc(&GcOptions::default()).unwrap().blobs, 1);
}

#[test]
fn a_checkpoint_that_was_read_lately_is_in_use() {
    let (_folder, store) = store();
    let file = CheckpointFile { digest: old_blob(&store, "weights"), length: 7 };
    let manifest =
        CheckpointManifest { step: 1, files: [("weights".to_owned(), file)].into(), meta: serde_json::Value::Null };
    let [read, found, unused] = ["read", "found", "unused"].map(|name| {
        let key = key(name);
        store.put_checkpoint(&key, &manifest).unwrap();
        age(&store.root().join("checkpoints").join(format!("{key}.json")), 9 * DAY);
        key
    });
    assert!(store.checkpoint(&read).unwrap().is_some() && store.has_checkpoint(&found).unwrap());
    let options = GcOptions { keep: Some(7 * DAY), ..Default::default() };
    assert_eq!(store.gc(&options).unwrap().checkpoints, [unused]);
    assert_eq!(store.gc(&options).unwrap().checkpoints, [], "collecting is no use, and took no other");
    let mut kept = [read, found];
    kept.sort();
    assert_eq!(store.checkpoints().unwrap(), kept);
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

mod sweeping_attempts {
    use super::*;

    #[test]
    fn clears_scratch_keeps_logs_and_spares_the_living() {
        let (_folder, store) = store();
        let files = [("log", "it failed"), ("events.jsonl", "{}"), ("scratch/big", "xxxx"), ("core", "y")];
        let (dead, living, silent) = (key("dead"), key("living"), key("silent"));
        let dirs = [&dead, &living].map(|key| store.attempt_dir(key, "1").unwrap());
        dirs.iter().for_each(|dir| write_files(dir, &files));
        store.attempt_dir(&silent, "1").unwrap();
        let lease = store.lease(&living.to_string(), &owner()).unwrap().unwrap();
        let report = store.sweep_attempts().unwrap();
        assert_eq!((report.running, report.kept, report.removed, report.bytes), (1, 1, 1, 5));
        assert!(dirs[0].join("log").exists() && dirs[0].join("events.jsonl").exists());
        assert!(!dirs[0].join("scratch").exists() && !dirs[0].join("core").exists());
        assert!(dirs[1].join("scratch/big").exists());
        drop(lease);
        store.remove_attempt(&living, "1").unwrap();
        assert!(!dirs[1].parent().unwrap().exists());
        assert!(store.attempt_dir(&dead, "1").unwrap_err().to_string().contains("exists"));
    }

    #[test]
    fn keeps_the_newest_fifty_logs() {
        let (_folder, store) = store();
        for number in 0..60_u32 {
            let dir = store.attempt_dir(&key("a"), &number.to_string()).unwrap();
            write_files(&dir, &[("log", "x")]);
            age(&dir.join("log"), Duration::from_secs(u64::from(number) * 60));
        }
        let report = store.sweep_attempts().unwrap();
        assert_eq!((report.kept, report.removed), (50, 10));
        let dir = store.root().join("attempts").join(key("a").to_string());
        assert!(dir.join("0").exists() && dir.join("49").exists() && !dir.join("50").exists());
    }
}

mod runs {
    use super::*;

    #[test]
    fn sort_by_time_and_are_found_by_a_part_of_their_name() {
        let (_folder, store) = store();
        assert!(store.find_run("last").unwrap_err().to_string().contains("no runs yet"));
        let runs: Vec<_> = (0..3).map(|_| store.create_run().unwrap()).collect();
        let ids: Vec<&str> = runs.iter().rev().map(|run| run.id()).collect();
        let listed = store.runs().unwrap();
        assert_eq!(listed.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ids);
        assert!(listed.iter().all(|run| run.live));
        assert_eq!(store.find_run("last").unwrap().id, ids[0]);
        assert_eq!(store.find_run(ids[1]).unwrap().id, ids[1]);
        assert!(store.find_run("2").unwrap_err().to_string().contains("several"));
        assert!(store.find_run("zzz").unwrap_err().to_string().contains("no run \"zzz\""));
        assert!(store.find_run("").is_err());
        let path = runs[0].entry().events_path();
        assert!(path.ends_with(format!("runs/{}/events.jsonl", runs[0].id())));
        drop(runs);
        assert!(store.runs().unwrap().iter().all(|run| !run.live));
    }
}

/// A checkpoint of files with the given contents, all of them in the store.
fn checkpoint_of(store: &Store, step: u64, contents: &[&str]) -> CheckpointManifest {
    let file = |content: &&str| {
        let digest = store.put_bytes(content.as_bytes()).unwrap();
        ((*content).to_owned(), CheckpointFile { digest, length: content.len() as u64 })
    };
    CheckpointManifest { step, files: contents.iter().map(file).collect(), meta: serde_json::json!({}) }
}

#[test]
fn a_discarded_checkpoint_takes_only_what_nothing_else_names_with_it() {
    let (_folder, store) = store();
    let manifest = checkpoint_of(&store, 1, &["weights", "moments", "best", "published", "pinned"]);
    store.put_checkpoint(&key("T1"), &manifest).unwrap();
    store.put_checkpoint(&key("T2"), &checkpoint_of(&store, 2, &["later", "best"])).unwrap();
    store.publish(record_of(&store, "student.a", &[("model", "published")])).unwrap();
    store.pin("mine", PinTarget::Output(manifest.files["pinned"].digest)).unwrap();

    assert_eq!(store.discard_checkpoints(&[key("T1")], |_| false).unwrap(), None);
    assert_eq!(store.checkpoint(&key("T1")).unwrap(), Some(manifest.clone()));
    assert_eq!(store.discard_checkpoints(&[key("T1")], |found| found.step == 1).unwrap(), Some(14));
    assert_eq!(store.discard_checkpoints(&[key("T1")], |_| true).unwrap(), None);
    let there = |content: &str| store.has(&manifest.files[content].digest);
    assert_eq!(["weights", "moments"].map(there), [false; 2]);
    assert_eq!(["best", "published", "pinned"].map(there), [true; 3]);
    assert!(store.has_checkpoint(&key("T2")).unwrap());
    assert!(store.verify().unwrap().is_sound());
}

#[test]
fn a_discarded_checkpoint_keeps_its_blobs_where_a_newer_program_may_need_them() {
    let (_folder, store) = store();
    let manifest = checkpoint_of(&store, 1, &["weights"]);
    store.put_checkpoint(&key("T1"), &manifest).unwrap();
    let record = old_record(&store, "command.a", DAY);
    overwrite(&record_file(&store, &record.key), br#"{"record":{"format":7,"result":"elsewhere"}}"#);
    assert_eq!(store.discard_checkpoints(&[key("T1")], |_| true).unwrap(), Some(0));
    assert!(!store.has_checkpoint(&key("T1")).unwrap() && store.has(&manifest.files["weights"].digest));
}

#[test]
fn whoever_writes_a_checkpoint_of_the_same_blobs_meanwhile_keeps_them() {
    let (_folder, store) = store();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let discarding = scope.spawn(|| {
            // Another handle: locks between processes, not within one.
            let store = Store::open(store.root()).unwrap();
            let mut freed = 0;
            for _ in 0..300 {
                let held = store.hold_blobs().unwrap();
                store.put_checkpoint(&key("passing"), &checkpoint_of(&store, 1, &["weights", "own"])).unwrap();
                drop(held);
                freed += store.discard_checkpoints(&[key("passing")], |_| true).unwrap().unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            freed
        });
        let mut rounds = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let held = store.hold_blobs().unwrap();
            // A blob that the other one removes between these two would make the second fail.
            let manifest = checkpoint_of(&store, 1, &["weights"]);
            std::thread::yield_now();
            store.put_checkpoint(&key("final"), &manifest).unwrap();
            drop(held);
            assert_eq!(store.checkpoint(&key("final")).unwrap(), Some(manifest));
            store.remove_checkpoint(&key("final")).unwrap();
            rounds += 1;
        }
        assert!(discarding.join().unwrap() >= 300 * 3, "its own blob went every time");
        rounds
    });
    assert!(rounds > 10, "{rounds}");
}

#[test]
fn checkpoints_discarded_together_free_what_only_they_name_and_a_changed_one_is_written() {
    let (_folder, store) = store();
    for (name, step, contents) in [("T1", 1, ["one", "both"]), ("T2", 2, ["two", "both"]), ("T3", 3, ["three", "two"])]
    {
        store.put_checkpoint(&key(name), &checkpoint_of(&store, step, &contents)).unwrap();
    }
    let freed = store.discard_checkpoints(&[key("T1"), key("T2"), key("T3"), key("T4")], |manifest| {
        manifest.meta["seen"] = serde_json::json!(true);
        manifest.step < 3
    });
    assert_eq!(freed.unwrap(), Some(3 + 4), "`two` is in the third as well");
    assert_eq!(store.checkpoints().unwrap(), [key("T3")]);
    assert_eq!(store.checkpoint(&key("T3")).unwrap().unwrap().meta["seen"], true);
}

#[test]
fn of_those_who_publish_one_checkpoint_at_once_each_sees_what_the_ones_before_left() {
    let (_folder, store) = store();
    let ones = checkpoint_of(&store, 1, &["weights"]);
    let count = |manifest: &CheckpointManifest| manifest.meta["count"].as_u64().unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Another handle: locks between processes, not within one.
                let store = Store::open(store.root()).unwrap();
                for _ in 0..25 {
                    let _held = store.hold_blobs().unwrap();
                    let added = |there: CheckpointManifest, new: CheckpointManifest| CheckpointManifest {
                        meta: serde_json::json!({ "count": count(&there) + 1 }),
                        ..new
                    };
                    store.put_checkpoint_with(&key("T1"), &ones, added).unwrap();
                }
            });
        }
    });
    assert_eq!(count(&store.checkpoint(&key("T1")).unwrap().unwrap()), 100);
    // What is not whole is not there.
    fs_err::remove_file(store.blob_path(&ones.files["weights"].digest)).unwrap();
    let other = checkpoint_of(&store, 1, &["other"]);
    store.put_checkpoint_with(&key("T1"), &other, |there, _| there).unwrap();
    assert_eq!(store.checkpoint(&key("T1")).unwrap(), Some(other));
}
