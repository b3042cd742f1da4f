//! A stage that names a tree of files is known by the names and contents of those that its globs choose, and of no others.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use stillhouse_engine::{plan, resolve};
use stillhouse_spec::{Config, Diagnostics, FileTree, Spec};
use stillhouse_stage::{Context, Failure, FileInput, Kind, Outcome, StageKind, kind};
use stillhouse_store::Store;

/// Reads source files.
#[derive(Clone, Debug, Config)]
struct ReadersConfig {
    /// Which.
    files: FileTree,
}

struct Readers;

impl Kind for Readers {
    kind!("readers", ReadersConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }
}

impl StageKind for Readers {
    fn revision(&self) -> u32 {
        1
    }

    fn run(&self, _context: &Context) -> Result<Outcome, Failure> {
        Ok(Outcome::default())
    }
}

static KINDS: &[&dyn Kind] = &[&Readers];

/// What the plan finds of the tree, or what is wrong with it.
fn found(folder: &Path, globs: &str) -> Result<FileInput, String> {
    let file = folder.join("experiment.toml");
    let text = format!("[experiment]\nname = \"trees\"\n[readers.a]\nfiles = {{ path = \"tree\", {globs} }}\n");
    fs_err::write(&file, text).unwrap();
    let mut report = Diagnostics::default();
    let spec = Spec::read(&file, &[], &mut report);
    let store = Store::open(&folder.join("cache")).unwrap();
    let experiment = resolve(&spec, KINDS, &mut report);
    let planned = experiment.and_then(|experiment| plan(&experiment, &store, &mut report).ok());
    match planned {
        Some(plan) if !report.has_errors() => Ok(plan.stages[0].files["files"].clone()),
        _ => Err(report.sorted().iter().map(|diagnostic| diagnostic.message.clone()).collect()),
    }
}

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join("tree").join(name);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, content).unwrap();
}

#[test]
fn only_what_is_chosen_counts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "src/b.rs", "b");
    write(folder, "a.rs", "a");
    write(folder, "target/c.rs", "c");
    write(folder, ".gitignore", "target\n");
    let first = found(folder, "include = [\"*.rs\"]").unwrap();
    assert_eq!(first.members.as_ref().unwrap().keys().collect::<Vec<_>>(), ["a.rs", "src/b.rs"]);
    // Files beside those that are chosen, and other globs that choose the same, change nothing.
    write(folder, "target/c.rs", "other");
    write(folder, "notes.txt", "new");
    assert_eq!(found(folder, "include = [\"**/*.rs\"], exclude = [\"tests/\"]").unwrap().digest, first.digest);
    write(folder, "src/b.rs", "changed");
    let second = found(folder, "include = [\"*.rs\"]").unwrap();
    assert_ne!(second.digest, first.digest);
    fs_err::rename(folder.join("tree/a.rs"), folder.join("tree/z.rs")).unwrap();
    assert_ne!(found(folder, "include = [\"*.rs\"]").unwrap().digest, second.digest);
}

#[test]
fn globs_that_are_wrong_are_told_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "a.rs", "a");
    assert!(found(folder, "include = [\"*.py\"]").unwrap_err().ends_with("tree has no file that matches *.py"));
    assert!(found(folder, "include = [\"[\"]").unwrap_err().starts_with("the glob "));
    assert_eq!(found(folder, "include = []").unwrap_err(), "`include` is empty: no file is chosen");
}
