//! Checkpoints: what keeps them and their blobs, and what goes with them.

use super::*;

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
