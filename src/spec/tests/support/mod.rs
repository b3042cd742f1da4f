//! Files in a folder of their own, read as experiments.

use std::path::{Path, PathBuf};

use stillhouse_spec::{Diagnostic, Diagnostics, Node, SetArgument, Spec};

/// A folder that is gone after the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.write(name, text.as_bytes());
        }
        folder
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str, set: &[&str]) -> (Spec, Diagnostics) {
        read(&self.path(name), set)
    }
}

pub fn read(path: &Path, set: &[&str]) -> (Spec, Diagnostics) {
    let mut report = Diagnostics::default();
    let set: Vec<_> = set.iter().map(|argument| SetArgument((*argument).to_owned())).collect();
    let spec = Spec::read(path, &set, &mut report);
    (spec, report)
}

/// One file, read.
pub fn read_text(text: &str, set: &[&str]) -> (Spec, Diagnostics) {
    Folder::with(&[("experiment.toml", text)]).read("experiment.toml", set)
}

/// The value at a dotted path, as JSON.
pub fn json(tree: &Node, path: &str) -> serde_json::Value {
    let path: Vec<_> = path.split('.').map(str::to_owned).collect();
    tree.at_path(&path).map_or(serde_json::Value::Null, Node::to_json)
}

/// `line:column message` of each, in the order of the text.
pub fn places(report: &Diagnostics) -> Vec<String> {
    let place = |diagnostic: &&Diagnostic| match diagnostic.at.and_then(|at| report.sources.line_column(at)) {
        Some((line, column)) => format!("{line}:{column} {}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    report.sorted().iter().map(place).collect()
}

/// All that a message may show: words, hints and the texts that snippets are cut from.
pub fn everything_shown(report: &Diagnostics) -> String {
    let mut shown = String::new();
    for diagnostic in report.sorted() {
        shown += &format!("{} {:?}\n", diagnostic.message, diagnostic.hint);
        for at in diagnostic.at.iter().chain(diagnostic.related.iter().map(|(at, _)| at)) {
            shown += report.sources.get(*at).map_or("", |source| &source.text);
        }
    }
    shown
}
