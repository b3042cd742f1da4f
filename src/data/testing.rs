//! Runs a stage kind of this crate in tests as the engine would: files hashed, inputs in a store.

pub(crate) mod tokenizers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use stillhouse_stage::spec::{Described, Diagnostics, Node, Select};
use stillhouse_stage::store::{Key, Store};
use stillhouse_stage::{
    Artifact, Cancel, Context, Definition, EventSink, Failure, FileInput, Input, Kind, Outcome, StageEvent, WorkOrder,
};

use crate::model_folder::matches;

/// A store, a place for files, and what the kinds said.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    inputs: BTreeMap<String, Input>,
    definitions: BTreeMap<String, Definition>,
    pub(crate) said: Arc<Said>,
}

#[derive(Default)]
pub(crate) struct Said(Mutex<Vec<StageEvent>>);

impl EventSink for Said {
    fn send(&self, event: StageEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Said {
    pub(crate) fn warnings(&self) -> Vec<String> {
        let warning = |event: &StageEvent| match event {
            StageEvent::Warning { message } => Some(message.clone()),
            _ => None,
        };
        self.0.lock().unwrap().iter().filter_map(warning).collect()
    }
}

/// A stage's result.
pub(crate) struct Made {
    pub(crate) outcome: Outcome,
    pub(crate) out: PathBuf,
}

impl Made {
    pub(crate) fn text(&self, name: &str) -> String {
        fs_err::read_to_string(self.out.join(name)).unwrap()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        Self { folder, store, inputs: BTreeMap::new(), definitions: BTreeMap::new(), said: Arc::default() }
    }

    /// Writes a file; gives its path for a config.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// Writes a file of bytes; gives its path for a config.
    pub(crate) fn bytes(&self, name: &str, content: &[u8]) -> String {
        let path = self.file(name, "");
        fs_err::write(&path, content).unwrap();
        path
    }

    /// The folder that files are written to.
    pub(crate) fn folder(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Makes the output of another stage known under its name.
    pub(crate) fn input(&mut self, name: &str, made: &Path) {
        // The store takes files away from the folder, and a test may want to look at them again.
        let copy = tempfile::tempdir_in(self.folder.path()).unwrap();
        copy_folder(made, copy.path());
        let (output, _) = self.store.put_tree(copy.path()).unwrap();
        self.inputs.insert(name.to_owned(), Input { stage: name.to_owned(), output });
    }

    /// The output known under a name.
    pub(crate) fn artifact(&self, name: &str) -> Artifact {
        let Input { stage, output } = self.inputs[name].clone();
        let tree = self.store.tree(&output).unwrap().unwrap();
        Artifact::new(stage, output, tree, self.store.clone())
    }

    pub(crate) fn definition(&mut self, name: &str, kind: &str, config: Value) {
        let definition = Definition { kind: kind.to_owned(), name: name.to_owned(), config };
        self.definitions.insert(name.to_owned(), definition);
    }

    pub(crate) fn run(&self, kind: &dyn Kind, config: Value) -> Result<Made, Failure> {
        let context = self.context(kind, config);
        let outcome = kind.as_stage().unwrap().run(&context)?;
        Ok(Made { outcome, out: context.out() })
    }

    fn context(&self, kind: &dyn Kind, config: Value) -> Context {
        let described = decode(kind, &config);
        let attempt = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        fs_err::create_dir_all(attempt.join("out")).unwrap();
        fs_err::create_dir_all(attempt.join("scratch")).unwrap();
        let mut order = WorkOrder {
            stage: format!("{}.test", kind.name()),
            kind: kind.name().to_owned(),
            key: Key::of("test", b""),
            recipe: String::new(),
            config,
            definitions: BTreeMap::new(),
            inputs: BTreeMap::new(),
            files: BTreeMap::new(),
            seed: 17,
            device: "cpu".into(),
            threads: 2,
            offline: true,
            less_at_once: false,
            store: self.store.root().to_owned(),
            attempt,
            run: "test".into(),
        };
        self.resolve("", &described, &mut order);
        Context::new(order, self.store.clone(), self.said.clone(), Cancel::default())
    }

    fn resolve(&self, path: &str, described: &Described, order: &mut WorkOrder) {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match described {
            Described::Table(members) => {
                members.iter().for_each(|(name, value)| self.resolve(&below(name), value, order));
            }
            Described::List(items) => {
                items.iter().enumerate().for_each(|(i, value)| self.resolve(&below(&i.to_string()), value, order));
            }
            Described::Reference(reference) => {
                if let Some(input) = self.inputs.get(&reference.name) {
                    order.inputs.insert(path.to_owned(), input.clone());
                } else {
                    let definition = self.definitions[&reference.name].clone();
                    let folder = PathBuf::from(definition.config["path"].as_str().unwrap());
                    order.files.insert(below("path"), self.folder_input(&folder));
                    order.definitions.insert(path.to_owned(), definition);
                }
            }
            Described::File(file) => {
                if file.select != Select::File {
                    let globs = match &file.select {
                        Select::Tree(globs) => globs.include.clone(),
                        _ => vec!["*".to_owned()],
                    };
                    order.files.insert(path.to_owned(), self.tree_input(&file.path, &globs));
                    return;
                }
                let digest = self.store.digest_of(&file.path).unwrap().0;
                let input = FileInput { path: file.path.clone(), digest, members: None };
                order.files.insert(path.to_owned(), input);
            }
            Described::Value(_) | Described::Mention(_) | Described::Nothing => {}
        }
    }

    /// The files of a folder by their endings: enough of globs for tests, the engine has the rest.
    fn tree_input(&self, folder: &Path, globs: &[String]) -> FileInput {
        let mut members = BTreeMap::new();
        let mut open = vec![(String::new(), folder.to_owned())];
        while let Some((prefix, below)) = open.pop() {
            for entry in fs_err::read_dir(below).unwrap() {
                let path = entry.unwrap().path();
                let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
                if path.is_dir() {
                    open.push((format!("{name}/"), path));
                } else if globs.iter().any(|glob| name.ends_with(glob.trim_start_matches('*'))) {
                    members.insert(name, self.store.digest_of(&path).unwrap().0);
                }
            }
        }
        FileInput { path: folder.to_owned(), digest: *members.values().next().unwrap(), members: Some(members) }
    }

    fn folder_input(&self, folder: &Path) -> FileInput {
        if folder.is_file() {
            let digest = self.store.digest_of(folder).unwrap().0;
            return FileInput { path: folder.to_owned(), digest, members: None };
        }
        let names = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let members: BTreeMap<_, _> = names
            .filter(|name| matches(crate::model_folder::MODEL_FILES, name))
            .map(|name| (name.clone(), self.store.digest_of(&folder.join(&name)).unwrap().0))
            .collect();
        let digest = *members.values().next().unwrap();
        FileInput { path: folder.to_owned(), digest, members: Some(members) }
    }
}

/// Decodes a table that is right.
pub(crate) fn decode(kind: &dyn Kind, config: &Value) -> Described {
    let mut report = Diagnostics::default();
    match kind.decode(&Node::from_json(config), &mut report) {
        Some(decoded) if !report.has_errors() => decoded.described(),
        _ => panic!("{:?}", messages(&report)),
    }
}

/// What is wrong with a table.
pub(crate) fn faults(kind: &dyn Kind, config: &Value) -> Vec<String> {
    let mut report = Diagnostics::default();
    kind.decode(&Node::from_json(config), &mut report);
    messages(&report)
}

fn messages(report: &Diagnostics) -> Vec<String> {
    report.sorted().iter().map(|diagnostic| diagnostic.message.clone()).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs_err::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), &target).unwrap();
        }
    }
}
