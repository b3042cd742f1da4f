//! What the tests of the store share.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use stillhouse_store::{Key, RECORD_FORMAT, Record, Store};
use tempfile::TempDir;

/// A store in a folder of its own.
pub fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    (folder, store)
}

/// Writes files into `folder`: (path, content).
pub fn write_files(folder: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = folder.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }
}

pub fn key(name: &str) -> Key {
    Key::of("test", name.as_bytes())
}

/// A record of `stage` whose output is the given files, which are put into the store.
pub fn record_of(store: &Store, stage: &str, files: &[(&str, &str)]) -> Record {
    let attempt = tempfile::tempdir_in(store.root().parent().unwrap()).unwrap();
    write_files(attempt.path(), files);
    let (output, _) = store.put_tree(attempt.path()).unwrap();
    Record {
        format: RECORD_FORMAT,
        key: key(stage),
        kind: stage.split('.').next().unwrap().to_owned(),
        revision: 1,
        stage: stage.to_owned(),
        recipe: format!("{{\"stage\":\"{stage}\"}}"),
        output,
        metrics: serde_json::json!({ "loss": 0.25 }),
        provenance: serde_json::json!({}),
        created: "2026-11-22T15:23:30Z".to_owned(),
        seconds: 1.5,
        run: "261122-152330".to_owned(),
    }
}

/// The environment variable that tells a copy of the test program what to do.
const ROLE: &str = "STILLHOUSE_STORE_TEST_CHILD";

/// This test program again, to run the one test `name`, which asks for [`role`].
pub fn child(name: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// The same, started with its output thrown away.
pub fn spawn(name: &str, role: &str) -> Child {
    child(name, role).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// What this process is to do, when it is a child.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}
