//! Places that cannot be written, disks that are full, stores of another time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use common::{child, key, record_of, role, store, write_files};
use stillhouse_store::{LeaseOwner, Lookup, Store, StoreError};

#[test]
fn a_store_is_marked_as_a_cache_and_ignored_by_git() {
    let (_folder, store) = store();
    let read = |name| fs_err::read_to_string(store.root().join(name)).unwrap();
    assert_eq!((read(".gitignore").as_str(), read("FORMAT").as_str()), ("*\n", "1\n"));
    assert!(read("CACHEDIR.TAG").starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
    assert!(Store::open(store.root()).is_ok(), "opening again changes nothing");
}

#[test]
fn a_newer_format_is_refused_before_anything_is_touched() {
    let (folder, _) = store();
    let root = folder.path().join("new");
    write_files(&root, &[("FORMAT", "2\n"), ("surprise", "x")]);
    for error in [Store::open(&root).unwrap_err(), Store::open_existing(&root).unwrap_err()] {
        assert!(error.to_string().ends_with("has format 2; this program knows formats up to 1"));
        assert!(error.hint().unwrap().contains("newer program"));
    }
    assert_eq!(fs_err::read_dir(&root).unwrap().count(), 2);
    fs_err::write(root.join("FORMAT"), "new\n").unwrap();
    assert!(matches!(Store::open(&root).unwrap_err(), StoreError::Corrupt { .. }));
}

#[test]
fn a_folder_with_other_things_in_it_never_becomes_a_store() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), &[("thesis.tex", "years of work")]);
    let error = Store::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("holds other things (thesis.tex)"), "{error}");
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
    let half_made = folder.path().join("cache");
    write_files(&half_made, &[(".gitignore", "*\n")]);
    fs_err::create_dir(half_made.join("blobs")).unwrap();
    assert!(Store::open(&half_made).is_ok(), "what a crash left is completed");
}

#[test]
fn looking_needs_a_store_and_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    let error = Store::open_existing(&root).unwrap_err();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error}");
    assert!(!root.exists());
    fs_err::write(&root, "a file").unwrap();
    let error = Store::open(&root).unwrap_err();
    assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A copy of this program where any user can start it.
fn program_in(folder: &Path) -> std::path::PathBuf {
    let program = folder.join("program");
    fs_err::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs_err::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    program
}

fn make_read_only(path: &Path) {
    for entry in fs_err::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            make_read_only(&entry.path());
        }
    }
    fs_err::set_permissions(path, PermissionsExt::from_mode(0o555)).unwrap();
}

fn make_writable(path: &Path) {
    fs_err::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    for entry in fs_err::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            make_writable(&entry.path());
        }
    }
}

/// Modes do not bind the super-user, so the child gives that up.
#[test]
fn a_read_only_store_answers_and_refuses_to_change() {
    if let Some(root) = role() {
        let root = Path::new(&root);
        let store = Store::open_existing(root).unwrap();
        assert!(matches!(store.lookup(&key("command.a")).unwrap(), Lookup::Found(_)));
        assert_eq!(store.history("command", "command.a", 5).unwrap().len(), 1);
        assert!(store.verify().is_ok() && store.stats().is_ok() && store.runs().is_ok());
        assert!(store.digest_of(&root.join("FORMAT")).is_ok(), "works without remembering");
        assert_eq!(Store::open(root).unwrap().root(), root, "nothing to write, nothing to refuse");
        let owner = LeaseOwner::this_process("r", "s");
        let errors = [
            store.put_bytes(b"new").map(drop).unwrap_err(),
            store.lease("a", &owner).map(drop).unwrap_err(),
            store.create_run().map(drop).unwrap_err(),
            store.attempt_dir(&key("a"), "1").map(drop).unwrap_err(),
            Store::open(&root.join("inside")).map(drop).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
            assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
            assert!(error.hint().unwrap().contains("writable"));
        }
        return;
    }
    let (folder, store) = store();
    store.publish(record_of(&store, "command.a", &[("out", "x")])).unwrap();
    let program = program_in(folder.path());
    fs_err::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    make_read_only(store.root());
    let root = store.root().to_str().unwrap();
    let template = child("a_read_only_store_answers_and_refuses_to_change", root);
    let mut command = Command::new(program);
    command.args(template.get_args());
    command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if fs_err::metadata(store.root()).unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    make_writable(store.root());
    assert!(output.status.success(), "{}", words(&output));
}

/// What a child does on a disk with little room: everything fails cleanly, and what was there stays.
fn fill_the_disk(root: &str) {
    let store = Store::open(root.as_ref()).unwrap();
    let record = record_of(&store, "command.small", &[("out", "small")]);
    store.publish(record.clone()).unwrap();
    let big = vec![7; 3_000_000];
    let error = store.put_bytes(&big).unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    assert!(error.to_string().contains(root), "{error}");
    assert!(error.hint().unwrap().contains("cache gc"));
    assert!(!store.has(&stillhouse_store::Digest::of(&big)));
    assert_eq!(fs_err::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    assert_eq!(store.record(&record.key).unwrap(), Some(record));
    assert!(store.verify().unwrap().is_sound());
}

/// A limit on file sizes stands for the full disk wherever nothing can be mounted.
#[test]
fn a_file_that_cannot_grow_leaves_the_store_whole() {
    if let Some(root) = role() {
        return fill_the_disk(&root);
    }
    let (_folder, store) = store();
    let template = child("a_file_that_cannot_grow_leaves_the_store_whole", store.root().to_str().unwrap());
    // An ignored signal stays ignored across exec; the write then fails instead of the process.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""]);
    command.arg(template.get_program()).args(template.get_args());
    command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}

/// A real full disk: 2 MB of memory, mounted where only the child sees it. Where the machine forbids
/// that, the test above and the classification of `/dev/full` stand in for it, and this says so.
#[test]
fn a_full_disk_leaves_the_store_whole() {
    if let Some(root) = role() {
        return fill_the_disk(&root);
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs_err::create_dir(&disk).unwrap();
    let root = disk.join("cache");
    let template = child("a_full_disk_leaves_the_store_whole", root.to_str().unwrap());
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=2m tmpfs \"$0\" || exit 77; exec \"$@\"").arg(&disk);
    command.arg(template.get_program()).args(template.get_args());
    command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let probe = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).status();
    let output = command.output();
    match (probe, output) {
        (Ok(probe), Ok(output)) if probe.success() && output.status.code() != Some(77) => {
            assert!(output.status.success(), "{}", words(&output));
        }
        _ => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "a file system cannot be mounted here: see above");
        }
    }
}
