//! Blobs and trees: what goes in comes out, and what is unfit is refused by name.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use common::{store, write_files};
use proptest::prelude::*;
use stillhouse_store::{Digest, StoreError, Tree, TreeEntry};

fn mode(path: &std::path::Path) -> u32 {
    fs_err::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_blob_is_read_only_and_written_once() {
    let (_folder, store) = store();
    let digest = store.put_bytes(b"content").unwrap();
    let path = store.blob_path(&digest);
    let inode = fs_err::metadata(&path).unwrap().ino();
    assert_eq!(mode(&path), 0o444);
    store.put_bytes(b"content").unwrap();
    assert_eq!(fs_err::metadata(&path).unwrap().ino(), inode);
    assert_eq!(store.read(&digest).unwrap(), b"content");
    assert_eq!(fs_err::read_dir(store.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn adopting_moves_a_file_and_copies_one_with_several_names() {
    let (folder, store) = store();
    write_files(folder.path(), &[("a", "alone"), ("b", "linked")]);
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let inode = fs_err::metadata(&a).unwrap().ino();
    let (digest, length) = store.adopt_file(&a).unwrap();
    assert_eq!((digest, length), (Digest::of(b"alone"), 5));
    assert!(!a.exists());
    assert_eq!(fs_err::metadata(store.blob_path(&digest)).unwrap().ino(), inode, "no copy");

    let other = folder.path().join("other");
    fs_err::hard_link(&b, &other).unwrap();
    let (digest, _) = store.adopt_file(&b).unwrap();
    fs_err::write(&other, "changed later").unwrap();
    assert_eq!(store.checked_read(&digest).unwrap().unwrap(), b"linked");
}

#[test]
fn adopting_from_another_file_system_copies() {
    let (_folder, store) = store();
    let elsewhere = ["/dev/shm", "/tmp", "/var/tmp"].into_iter().find_map(|path| {
        let device = |path: &std::path::Path| fs_err::metadata(path).map(|meta| meta.dev()).ok();
        let path = std::path::Path::new(path);
        (device(path)? != device(store.root())?).then(|| tempfile::tempdir_in(path).ok())?
    });
    // Every machine with a memory file system has a second one; the copy itself is tested by
    // `put_file` in any case.
    let Some(elsewhere) = elsewhere else { return };
    write_files(elsewhere.path(), &[("a", "far")]);
    let (digest, _) = store.adopt_file(&elsewhere.path().join("a")).unwrap();
    assert!(!elsewhere.path().join("a").exists());
    assert_eq!(store.checked_read(&digest).unwrap().unwrap(), b"far");
}

#[test]
fn a_damaged_blob_is_set_aside_and_can_be_put_again() {
    let (_folder, store) = store();
    let digest = store.put_bytes(b"content").unwrap();
    let path = store.blob_path(&digest);
    fs_err::remove_file(&path).unwrap();
    fs_err::write(&path, b"c0ntent").unwrap();
    assert_eq!(store.checked_read(&digest).unwrap(), None);
    assert!(!store.has(&digest));
    assert!(store.root().join("quarantine").join(digest.to_string()).exists());
    store.put_bytes(b"content").unwrap();
    assert!(store.check_blob(&digest).unwrap());
    assert!(matches!(store.read(&Digest::of(b"no")).unwrap_err(), StoreError::MissingBlob { .. }));
}

#[test]
fn a_folder_goes_in_and_comes_out_again() {
    let (folder, store) = store();
    let source = folder.path().join("out");
    write_files(&source, &[("a.txt", "a"), ("bin/run", "#!/bin/sh"), ("bin/data", "d")]);
    fs_err::create_dir(source.join("empty")).unwrap();
    fs_err::set_permissions(source.join("bin/run"), PermissionsExt::from_mode(0o755)).unwrap();
    let listed = store.tree_of_folder(&source).unwrap();
    let (digest, tree) = store.put_tree(&source).unwrap();
    assert_eq!(listed, tree, "listing and storing agree");
    assert_eq!(store.tree(&digest).unwrap().unwrap(), tree);

    let linked = folder.path().join("linked");
    store.materialise(&tree, &linked).unwrap();
    assert_eq!(fs_err::read(linked.join("bin/data")).unwrap(), b"d");
    assert_eq!((mode(&linked.join("bin/run")), mode(&linked.join("a.txt"))), (0o555, 0o444));
    let blob = store.blob_path(&tree.get("a.txt").unwrap().digest);
    let inode = |path: &std::path::Path| fs_err::metadata(path).unwrap().ino();
    assert_eq!(inode(&linked.join("a.txt")), inode(&blob));
    assert!(!linked.join("empty").exists());

    let kept = folder.path().join("kept");
    store.export(&tree, &kept).unwrap();
    fs_err::write(kept.join("a.txt"), "mine now").unwrap();
    assert_eq!(store.verify().unwrap().corrupt, [], "an export shares nothing");
    let error = store.export(&tree, &kept).unwrap_err().to_string();
    assert!(error.contains("a.txt") && error.contains("exists"), "{error}");
}

#[test]
fn laying_out_a_tree_with_a_missing_blob_names_it() {
    let (folder, store) = store();
    write_files(&folder.path().join("out"), &[("a", "a")]);
    let (_, tree) = store.put_tree(&folder.path().join("out")).unwrap();
    fs_err::remove_file(store.blob_path(&tree.entries()[0].digest)).unwrap();
    let error = store.materialise(&tree, &folder.path().join("in")).unwrap_err();
    assert!(matches!(error, StoreError::MissingBlob { .. }), "{error}");
}

#[test]
fn unfit_files_are_refused_before_anything_is_moved() {
    use std::os::unix::ffi::OsStrExt;
    type Spoil<'a> = &'a dyn Fn(&std::path::Path);
    let unfit: [(&str, Spoil); 4] = [
        ("symbolic link", &|out| symlink("/etc/passwd", out.join("z")).unwrap()),
        ("not UTF-8", &|out| {
            fs_err::write(out.join(std::ffi::OsStr::from_bytes(b"z\xff")), "").unwrap();
        }),
        ("control character", &|out| fs_err::write(out.join("z\n1"), "").unwrap()),
        ("neither a file nor a folder", &|out| {
            drop(std::os::unix::net::UnixListener::bind(out.join("z")).unwrap());
        }),
    ];
    for (reason, spoil) in unfit {
        let (folder, store) = store();
        let out = folder.path().join("out");
        write_files(&out, &[("a", "a")]);
        spoil(&out);
        let error = store.put_tree(&out).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.hint().is_some());
        assert!(out.join("a").exists(), "nothing moved");
    }
}

#[test]
fn a_model_folder_made_of_links_is_listed_by_content() {
    let (folder, store) = store();
    write_files(folder.path(), &[("blobs/x", "weights"), ("plain/model", "weights")]);
    fs_err::create_dir(folder.path().join("snapshot")).unwrap();
    symlink("../blobs/x", folder.path().join("snapshot/model")).unwrap();
    let listed = store.tree_of_folder(&folder.path().join("snapshot")).unwrap();
    assert_eq!(listed, store.tree_of_folder(&folder.path().join("plain")).unwrap());
    symlink(".", folder.path().join("snapshot/loop")).unwrap();
    let error = store.tree_of_folder(&folder.path().join("snapshot")).unwrap_err();
    assert!(error.hint().is_some() || error.to_string().contains("loop"), "{error}");
}

/// Paths of a few short parts, so that they often share folders.
fn paths() -> impl Strategy<Value = Vec<(String, u64, bool)>> {
    let path = proptest::collection::vec("[a-c.é ]{1,2}", 1..4).prop_map(|parts| parts.join("/"));
    proptest::collection::vec((path, any::<u64>(), any::<bool>()), 0..12)
}

fn entries(files: &[(String, u64, bool)]) -> Vec<TreeEntry> {
    let entry = |(path, length, executable): &(String, u64, bool)| TreeEntry {
        path: path.clone(),
        digest: Digest::of(path.as_bytes()),
        length: *length,
        executable: *executable,
    };
    files.iter().map(entry).collect()
}

proptest! {
    #[test]
    fn the_text_form_is_canonical_and_returns(files in paths(), seed in any::<u64>()) {
        let listed = entries(&files);
        let mut shuffled = listed.clone();
        if !shuffled.is_empty() {
            let by = (seed as usize) % shuffled.len();
            shuffled.rotate_left(by);
        }
        match (Tree::new(listed), Tree::new(shuffled)) {
            (Ok(tree), Ok(same)) => {
                prop_assert_eq!(tree.digest(), same.digest());
                prop_assert_eq!(&Tree::parse(&tree.to_text()).unwrap(), &tree);
                for entry in tree.entries() {
                    prop_assert_eq!(tree.get(&entry.path), Some(entry));
                }
            }
            (Err(_), Err(_)) => {}
            other => prop_assert!(false, "the order decided: {:?}", other),
        }
    }

    #[test]
    fn equal_digest_means_equal_tree(a in paths(), b in paths()) {
        if let (Ok(a), Ok(b)) = (Tree::new(entries(&a)), Tree::new(entries(&b))) {
            prop_assert_eq!(a == b, a.digest() == b.digest());
        }
    }

    #[test]
    fn a_part_depends_on_what_lies_under_it_alone(files in paths(), top in "[a-c]{1,2}") {
        let Ok(tree) = Tree::new(entries(&files)) else { return Ok(()) };
        let part = tree.part(&[&top]);
        for entry in tree.entries() {
            let first = entry.path.split('/').next().unwrap();
            prop_assert_eq!(part.get(&entry.path).is_some(), first == top);
        }
        prop_assert_eq!(part.part(&[&top]), part.clone());
        let inside = tree.entries().iter().filter(|e| part.get(&e.path).is_some()).cloned();
        prop_assert_eq!(Tree::new(inside.collect()).unwrap().digest(), part.digest());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*", line in "[0-9a-f]{64} [0-9]{1,20} [-x] \\PC*") {
        let _ = Tree::parse(&text);
        let _ = Tree::parse(&format!("stillhouse/tree/1\n{line}\n"));
    }
}
