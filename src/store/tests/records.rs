//! Records: found only when whole, published once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{key, record_of, store, write_files};
use stillhouse_store::{Lookup, Published, Store, StoreError};

#[test]
fn a_published_record_is_found_by_another_process_view() {
    let (_folder, store) = store();
    let record = record_of(&store, "command.a", &[("out.txt", "hello"), ("deep/er.txt", "there")]);
    assert_eq!(store.lookup(&record.key).unwrap(), Lookup::Missing);
    assert_eq!(store.publish(record.clone()).unwrap(), Published::Won);
    let other = Store::open_existing(store.root()).unwrap();
    assert_eq!(other.record(&record.key).unwrap().unwrap(), record);
    let tree = other.tree(&record.output).unwrap().unwrap();
    assert_eq!(other.read(&tree.get("deep/er.txt").unwrap().digest).unwrap(), b"there");
}

#[test]
fn the_first_writer_wins_and_the_second_learns_what_won() {
    let (_folder, store) = store();
    let first = record_of(&store, "command.a", &[("out", "one")]);
    let second = record_of(&store, "command.a", &[("out", "two")]);
    assert_eq!(store.publish(first.clone()).unwrap(), Published::Won);
    assert_eq!(store.publish(second).unwrap(), Published::Lost(first));
}

mod a_record_is_broken_when {
    use super::*;

    fn reason(store: &Store, key: &stillhouse_store::Key) -> String {
        match store.lookup(key).unwrap() {
            Lookup::Broken { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Breaks it, looks at the reason, and makes it again.
    fn heals(files: &[(&str, &str)], damage: impl Fn(&Store, &stillhouse_store::Record), why: &str) {
        let (_folder, store) = store();
        let record = record_of(&store, "command.a", files);
        store.publish(record.clone()).unwrap();
        damage(&store, &record);
        let reason = reason(&store, &record.key);
        assert!(reason.contains(why), "{reason}");
        assert_eq!(store.record(&record.key).unwrap(), None);
        let mut other = files.to_vec();
        other.push(("zzz", "came out differently"));
        let again = record_of(&store, "command.a", &other);
        assert_ne!(again.output, record.output);
        // The same blobs may be there again by now, and then the first record stands.
        let stands = store.record(&record.key).unwrap();
        match store.publish(again.clone()).unwrap() {
            Published::Won => {
                assert_eq!(stands, None);
                assert_eq!(store.lookup(&record.key).unwrap(), Lookup::Found(again));
            }
            Published::Lost(winner) => {
                assert_eq!((stands, &winner), (Some(record.clone()), &record));
                assert_eq!(store.lookup(&record.key).unwrap(), Lookup::Found(record));
            }
        }
    }

    fn overwrite(path: &std::path::Path, content: &[u8]) {
        fs_err::remove_file(path).unwrap();
        fs_err::write(path, content).unwrap();
    }

    #[test]
    fn a_blob_is_gone() {
        let damage = |store: &Store, record: &stillhouse_store::Record| {
            let tree = store.tree(&record.output).unwrap().unwrap();
            fs_err::remove_file(store.blob_path(&tree.entries()[0].digest)).unwrap();
        };
        heals(&[("out", "x")], damage, "out (");
    }

    #[test]
    fn a_blob_is_short() {
        let damage = |store: &Store, record: &stillhouse_store::Record| {
            let tree = store.tree(&record.output).unwrap().unwrap();
            overwrite(&store.blob_path(&tree.entries()[0].digest), b"");
        };
        heals(&[("out", "x")], damage, "0 bytes instead of 1");
    }

    #[test]
    fn its_tree_is_gone_small_or_large() {
        let damage = |store: &Store, record: &stillhouse_store::Record| {
            fs_err::remove_file(store.blob_path(&record.output)).unwrap();
        };
        heals(&[("out", "x")], damage, "its tree");
        let names: Vec<String> = (0..100).map(|n| format!("file{n}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
        heals(&many, damage, "its tree");
    }

    #[test]
    fn its_file_is_not_json() {
        let damage = |store: &Store, record: &stillhouse_store::Record| {
            let hex = record.key.to_string();
            overwrite(&store.root().join("records").join(&hex[..2]).join(hex + ".json"), b"\0\0");
        };
        heals(&[("out", "x")], damage, "cannot be read");
    }
}

#[test]
fn a_broken_record_is_replaced_by_what_comes_out_now() {
    let (_folder, store) = store();
    let record = record_of(&store, "command.a", &[("out", "12:00")]);
    store.publish(record.clone()).unwrap();
    let tree = store.tree(&record.output).unwrap().unwrap();
    fs_err::remove_file(store.blob_path(&tree.entries()[0].digest)).unwrap();
    let again = record_of(&store, "command.a", &[("out", "12:01")]);
    assert_eq!(store.publish(again.clone()).unwrap(), Published::Won);
    assert_eq!(store.lookup(&record.key).unwrap(), Lookup::Found(again));
}

#[test]
fn a_record_of_a_newer_format_is_left_alone_with_a_clear_error() {
    let (_folder, store) = store();
    let record = record_of(&store, "command.a", &[("out", "x")]);
    let hex = record.key.to_string();
    let path = store.root().join("records").join(&hex[..2]).join(hex + ".json");
    write_files(store.root(), &[(path.to_str().unwrap(), r#"{"record":{"format":9,"new":[]}}"#)]);
    for error in [store.lookup(&record.key).unwrap_err(), store.publish(record).unwrap_err()] {
        assert!(matches!(error, StoreError::NewerFormat { found: 9, .. }), "{error}");
    }
}

#[test]
fn an_incomplete_output_cannot_be_recorded() {
    let (_folder, store) = store();
    let record = record_of(&store, "command.a", &[("out", "x")]);
    let tree = store.tree(&record.output).unwrap().unwrap();
    fs_err::remove_file(store.blob_path(&tree.entries()[0].digest)).unwrap();
    let error = store.publish(record.clone()).unwrap_err();
    assert!(matches!(error, StoreError::IncompleteOutput { .. }), "{error}");
    assert!(error.to_string().contains("out ("), "{error}");
    assert_eq!(store.lookup(&record.key).unwrap(), Lookup::Missing);
}

mod history {
    use super::*;

    fn publish(store: &Store, stage: &str, recipe: &str) -> stillhouse_store::Key {
        let mut record = record_of(store, stage, &[("out", recipe)]);
        record.key = key(recipe);
        let key = record.key;
        store.publish(record).unwrap();
        key
    }

    #[test]
    fn prefers_the_same_stage_then_the_newest_of_its_kind() {
        let (_folder, store) = store();
        let a1 = publish(&store, "command.a", "1");
        let a2 = publish(&store, "command.a", "2");
        let b = publish(&store, "command.b", "3");
        publish(&store, "student.a", "4");
        let keys = |limit| {
            let entries = store.history("command", "command.a", limit).unwrap();
            entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(9), [a2, a1, b]);
        assert_eq!(keys(1), [a2]);
        assert_eq!(store.records().unwrap().len(), 4);
    }

    #[test]
    fn survives_a_torn_line_and_a_lost_index() {
        let (_folder, store) = store();
        publish(&store, "command.a", "1");
        let index = store.root().join("records/index.jsonl");
        let torn = fs_err::read_to_string(&index).unwrap() + "{\"key\":\"ab";
        fs_err::write(&index, torn).unwrap();
        publish(&store, "command.a", "2");
        assert_eq!(store.records().unwrap().len(), 2, "the torn line spoils only itself");
        fs_err::remove_file(&index).unwrap();
        let other = Store::open_existing(store.root()).unwrap();
        assert_eq!(other.records().unwrap().len(), 2, "rebuilt from the records");
        assert!(index.exists());
    }
}
