//! The work order: all that a stage needs to run, in one file, so that any process on any host can do it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stillhouse_store::{Digest, Key};

/// One stage to run, fully resolved. Written as `order.json` into the attempt's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkOrder {
    /// `kind.name`, for messages.
    pub stage: String,
    /// The kind.
    pub kind: String,
    /// The key that the result will be recorded under.
    pub key: Key,
    /// The recipe's text: hashes to `key`.
    pub recipe: String,
    /// The table as it was written (JSON of the tree); the kind decodes it again.
    pub config: serde_json::Value,
    /// Path of the config field → the definition that it names.
    pub definitions: BTreeMap<String, Definition>,
    /// Path of the config field → the upstream output.
    pub inputs: BTreeMap<String, Input>,
    /// Path of the config field → the file or folder.
    pub files: BTreeMap<String, FileInput>,
    /// The seed of everything random.
    pub seed: u64,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Threads that the stage may keep busy.
    pub threads: usize,
    /// Whether the network is off limits.
    pub offline: bool,
    /// A worker ran out of memory over this order and had noted that less at once is possible ([`AtRisk`](crate::AtRisk)):
    /// the kind shall do half as much at once, where that changes no result but for rounding.
    #[serde(default)]
    pub less_at_once: bool,
    /// The store.
    pub store: PathBuf,
    /// The attempt's folder: scratch, log, output.
    pub attempt: PathBuf,
    /// The run that ordered it.
    pub run: String,
}

/// A definition that a stage uses, as it was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Definition {
    /// `teacher`, `model`, `suite`
    pub kind: String,
    /// Its name, for messages.
    pub name: String,
    /// The table (JSON of the tree).
    pub config: serde_json::Value,
}

/// An upstream output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// The stage that made it.
    pub stage: String,
    /// The digest of its whole tree.
    pub output: Digest,
}

/// A file or folder that the config names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileInput {
    /// Absolute, or relative to the working folder of the run.
    pub path: PathBuf,
    /// What it held when the recipe was made.
    pub digest: Digest,
    /// For a folder: the files that count, by name; `None` for a single file.
    pub members: Option<BTreeMap<String, Digest>>,
}
