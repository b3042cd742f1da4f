//! What a running stage sees of the world.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stillhouse_spec::{Config, Diagnostics, Node};
use stillhouse_store::{Digest, Store, Tree};

use crate::event::StageEvent;
use crate::failure::Failure;
use crate::order::WorkOrder;
use crate::risk::AtRisk;

/// Where a stage's events go.
pub trait EventSink: Send + Sync {
    /// Takes one event; never blocks for long.
    fn send(&self, event: StageEvent);
}

/// Whether the user asked to stop. Cheap to clone and to ask.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks all who look to stop at the next good point.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A running stage's order, store and voice.
#[derive(Clone)]
pub struct Context {
    order: Arc<WorkOrder>,
    store: Store,
    sink: Arc<dyn EventSink>,
    cancel: Cancel,
}

impl Context {
    /// The context of an order.
    #[must_use]
    pub fn new(order: WorkOrder, store: Store, sink: Arc<dyn EventSink>, cancel: Cancel) -> Self {
        Self { order: Arc::new(order), store, sink, cancel }
    }

    /// The stage's own table.
    ///
    /// # Errors
    /// An internal failure if it does not decode: it did when the plan was made.
    pub fn config<C: Config>(&self) -> Result<C, Failure> {
        decode(&self.order.config, &self.order.stage)
    }

    /// The definition that the field at `path` names.
    ///
    /// # Errors
    /// An internal failure if there is none.
    pub fn definition<C: Config>(&self, path: &str) -> Result<C, Failure> {
        decode(&self.definition_order(path)?.config, path)
    }

    /// The definition at `path` as written, with its kind and name.
    ///
    /// # Errors
    /// An internal failure if there is none.
    pub fn definition_order(&self, path: &str) -> Result<&crate::order::Definition, Failure> {
        let found = self.order.definitions.get(path);
        found.ok_or_else(|| Failure::internal(format!("{} has no definition `{path}`", self.order.stage)))
    }

    /// Whether the field at `path` names a stage (and not a definition, or nothing).
    #[must_use]
    pub fn has_input(&self, path: &str) -> bool {
        self.order.inputs.contains_key(path)
    }

    /// The output of the stage that the field at `path` names.
    ///
    /// # Errors
    /// An internal failure if there is none; of the environment if the store lost it.
    pub fn input(&self, path: &str) -> Result<Artifact, Failure> {
        let Some(input) = self.order.inputs.get(path) else {
            return Err(Failure::internal(format!("{} has no input `{path}`", self.order.stage)));
        };
        let tree = self.store.tree(&input.output).map_err(Failure::from)?;
        let Some(tree) = tree else {
            return Err(Failure::environment(format!("the output of {} is gone from the store", input.stage))
                .hint("run again: it will be made again"));
        };
        Ok(Artifact::new(input.stage.clone(), input.output, tree, self.store.clone()))
    }

    /// The file or folder that the field at `path` names, after a look that it still holds what was hashed.
    ///
    /// # Errors
    /// A failure of the input if it changed or is gone.
    pub fn file(&self, path: &str) -> Result<PathBuf, Failure> {
        let Some(file) = self.order.files.get(path) else {
            return Err(Failure::internal(format!("{} has no file `{path}`", self.order.stage)));
        };
        let checks: Vec<(PathBuf, Digest)> = match &file.members {
            None => vec![(file.path.clone(), file.digest)],
            Some(members) => members.iter().map(|(name, digest)| (file.path.join(name), *digest)).collect(),
        };
        for (member, expected) in checks {
            if !self.store.digest_of(&member).is_ok_and(|(found, _)| found == expected) {
                return Err(Failure::input(format!("{} changed while the experiment ran", member.display()))
                    .hint("run again: the new content has a key of its own"));
            }
        }
        Ok(file.path.clone())
    }

    /// The files of the folder that the field at `path` names, by name and in its order, after the same look.
    ///
    /// # Errors
    /// A failure of the input if one changed or is gone, or the field names a file.
    pub fn files(&self, path: &str) -> Result<Vec<(String, PathBuf)>, Failure> {
        let folder = self.file(path)?;
        let members = self.order.files.get(path).and_then(|file| file.members.as_ref());
        let Some(members) = members else {
            return Err(Failure::input(format!("{} is a file, a folder is needed", folder.display())));
        };
        Ok(members.keys().map(|name| (name.clone(), folder.join(name))).collect())
    }

    /// The digest of the file or folder at `path`: stable whatever it is called.
    #[must_use]
    pub fn file_digest(&self, path: &str) -> Option<Digest> {
        self.order.files.get(path).map(|file| file.digest)
    }

    /// Where the output goes: an empty folder; all files below it become the artifact.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        self.order.attempt.join("out")
    }

    /// A folder for what need not be kept.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.order.attempt.join("scratch")
    }

    /// The store, for what outlives an attempt: teacher replies, checkpoints.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The order.
    #[must_use]
    pub fn order(&self) -> &WorkOrder {
        &self.order
    }

    /// The attempt's folder (output, scratch, log).
    #[must_use]
    pub fn attempt(&self) -> &Path {
        &self.order.attempt
    }

    /// The seed of everything random in the stage.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.order.seed
    }

    /// Whether to stop at the next good point and answer [`Failure::interrupted`].
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The flag itself, for code that does not know stages.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Notes what is about to be done that may take more memory than there is, in place of what was noted before.
    pub fn at_risk(&self, risk: &AtRisk) {
        risk.note(&self.order.attempt);
    }

    /// Says something.
    pub fn say(&self, event: StageEvent) {
        self.sink.send(event);
    }

    /// So much of so much is done.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: &str) {
        self.say(StageEvent::Progress { done, total, unit: unit.to_owned() });
    }

    /// Something the user should know.
    pub fn warn(&self, message: impl Into<String>) {
        self.say(StageEvent::Warning { message: message.into() });
    }

    /// Something worth a line.
    pub fn note(&self, message: impl Into<String>) {
        self.say(StageEvent::Note { message: message.into() });
    }
}

fn decode<C: Config>(json: &serde_json::Value, what: &str) -> Result<C, Failure> {
    let mut report = Diagnostics::default();
    let decoded = C::decode(&Node::from_json(json), &mut report);
    decoded.ok_or_else(|| {
        let words: Vec<&str> = report.sorted().iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        Failure::internal(format!("the work order's `{what}` does not decode: {}", words.join("; ")))
    })
}

/// An upstream output: files by name, content by digest.
#[derive(Clone)]
pub struct Artifact {
    /// The stage that made it.
    pub stage: String,
    /// The digest of the whole tree.
    pub digest: Digest,
    /// What it holds.
    pub tree: Tree,
    store: Store,
}

impl Artifact {
    /// The output of a record that is in the store.
    #[must_use]
    pub fn new(stage: String, digest: Digest, tree: Tree, store: Store) -> Self {
        Self { stage, digest, tree, store }
    }

    /// Where the content of a file lies (read-only, under a name of the store's).
    ///
    /// # Errors
    /// An internal failure if there is no such file.
    pub fn path(&self, name: &str) -> Result<PathBuf, Failure> {
        self.find(name).ok_or_else(|| Failure::internal(format!("the output of {} has no `{name}`", self.stage)))
    }

    /// Like [`Artifact::path`], where a file may be missing.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let entry = self.tree.entries().iter().find(|entry| entry.path == name)?;
        Some(self.store.blob_path(&entry.digest))
    }

    /// Every file below a folder, by its name within it: `files("tokenizer")` gives `tokenizer.json`, ….
    pub fn files(&self, folder: &str) -> impl Iterator<Item = (String, PathBuf)> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.tree.entries().iter().filter_map(move |entry| {
            let name = entry.path.strip_prefix(&prefix)?;
            Some((name.to_owned(), self.store.blob_path(&entry.digest)))
        })
    }
}
