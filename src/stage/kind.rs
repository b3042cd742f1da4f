//! What a kind of table is.

use std::any::Any;
use std::fmt;

use serde::{Deserialize, Serialize};
use stillhouse_spec::{Config, Described, Diagnostics, Node, Value};

use crate::context::Context;
use crate::explained::Explained;
use crate::failure::Failure;
use crate::forecast::{Ahead, Forecast};

/// A decoded table of any kind.
pub trait AnyConfig: fmt::Debug + Send + Sync {
    /// See [`Config::describe`].
    fn described(&self) -> Described;
    /// For downcasting to the kind's config struct.
    fn as_any(&self) -> &dyn Any;
}

impl<C: Config + fmt::Debug + Send + Sync + 'static> AnyConfig for C {
    fn described(&self) -> Described {
        self.describe()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A kind of table: `[name.X]`.
pub trait Kind: Send + Sync {
    /// The table's name.
    fn name(&self) -> &'static str;

    /// The JSON Schema of its body; the description is the docs of its config struct.
    fn schema(&self) -> serde_json::Value;

    /// Decodes a body, reporting all that is wrong.
    fn decode(&self, node: &Node, report: &mut Diagnostics) -> Option<Box<dyn AnyConfig>>;

    /// The stage that it is; `None` for a definition.
    fn as_stage(&self) -> Option<&dyn StageKind> {
        None
    }

    /// Checks that need the tables around it (does the data carry what the loss needs?). Called once every name of the
    /// file is resolved.
    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        let _ = (view, report);
    }

    /// Keys that may be left out because other tables say them:
    /// `dataset` takes a missing `tokenizer` from the `student`s whose `data` names it, when they agree.
    fn inherits(&self) -> &'static [Inherited] {
        &[]
    }

    /// Fills keys of a body from the other tables of the file, where that takes more than [`Kind::inherits`] can say:
    /// `dataset` finds the suites of the experiment. `tree` is the whole file; nothing in it is decoded yet.
    fn complete(&self, name: &str, body: &mut Node, tree: &Node) {
        let _ = (name, body, tree);
    }
}

/// See [`Kind::inherits`].
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// The key that may be missing.
    pub key: &'static str,
    /// The kind of table that it is taken from.
    pub from_kind: &'static str,
    /// The key there.
    pub from_key: &'static str,
    /// The key of that table which names this one.
    pub link: &'static str,
}

/// Implements the first three methods of [`Kind`] from a config struct: `kind!("answers", AnswersConfig);`
#[macro_export]
macro_rules! kind {
    ($name:literal, $config:ty) => {
        fn name(&self) -> &'static str {
            $name
        }

        fn schema(&self) -> ::serde_json::Value {
            <$config as $crate::spec::Config>::schema()
        }

        fn decode(
            &self,
            node: &$crate::spec::Node,
            report: &mut $crate::spec::Diagnostics,
        ) -> Option<Box<dyn $crate::AnyConfig>> {
            let config = <$config as $crate::spec::Config>::decode(node, report)?;
            Some(Box::new(config))
        }
    };
}
pub use crate::kind;

/// A kind that runs.
pub trait StageKind: Kind {
    /// The revision of its meaning: part of every key. Bump it when equal settings give another result, with a line of
    /// history beside it.
    fn revision(&self) -> u32;

    /// Whether the seed can change its output; where it cannot, the seed is in no key.
    fn is_seeded(&self) -> bool {
        true
    }

    /// What it needs while it runs. Called with names resolved.
    fn needs(&self, view: &View<'_>) -> Needs {
        let _ = view;
        Needs::default()
    }

    /// What a run of it would ask of teachers, as far as that can be told without asking: `plan` shows it. Called only
    /// for stages whose result is not there. It may look into the store, but must be quick: a plan has thousands of stages.
    fn forecast(&self, ahead: &Ahead<'_>) -> Option<Forecast> {
        let _ = ahead;
        None
    }

    /// What `why` says beside the comparison of recipes: how much of the work is there already, how much other settings could
    /// share, and why not more. It may read all that the stage reads, and take a second.
    fn remarks(&self, explained: &Explained<'_>) -> Vec<String> {
        let _ = explained;
        Vec::new()
    }

    /// Does the work: reads inputs through the context, writes its output below [`Context::out`]. Blocking; equal recipes
    /// must give equal bytes. Called in the engine's process or in a worker, see [`Needs::placement`].
    ///
    /// # Errors
    /// A [`Failure`] as the user shall read it.
    fn run(&self, context: &Context) -> Result<Outcome, Failure>;
}

/// Where a stage runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// On a thread of the engine: light stages, and those that only wait for others (a server, a program).
    #[default]
    Inline,
    /// In a worker process: whatever may crash, run out of memory or needs a device.
    Worker,
}

/// What a stage needs while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Where it runs.
    pub placement: Placement,
    /// Whether it keeps processors busy (stages that do share them; those that wait for others do not count).
    pub compute: bool,
    /// Whether it uses the device, when the device is a GPU.
    pub device: bool,
    /// Bytes of memory it is expected to take; 0 when small.
    pub memory: u64,
    /// The stages that it shares work with when they run one after another, not at once.
    pub family: Option<Family>,
}

/// Stages of one kind that share work: each leaves in the store what the next can go on from. They run one after another,
/// lowest order first of those that are ready. Of one family are those that give the same name and are equal in all
/// settings, inputs, files and the seed, but for the settings that they say they may differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Keys of the table in which members may differ.
    pub apart_from: &'static [&'static str],
    /// What members have in common in these settings all the same.
    pub name: String,
    /// A member's place.
    pub order: u64,
}

/// What a stage made, beyond the files it wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Figures for the record: an object.
    pub metrics: serde_json::Value,
    /// Where it came from, for the record: teacher model as the server named it, device, versions. Never in a key.
    #[serde(default)]
    pub provenance: serde_json::Value,
    /// Whether the work went on from an earlier attempt's.
    #[serde(default)]
    pub resumed: bool,
}

impl Outcome {
    /// An outcome with metrics.
    #[must_use]
    pub fn with_metrics(metrics: serde_json::Value) -> Self {
        Self { metrics, ..Self::default() }
    }
}

/// A table with the tables it names: how a kind looks around in [`Kind::check`] and [`StageKind::needs`].
pub struct View<'a> {
    /// `kind.name`
    pub label: &'a str,
    /// The kind.
    pub kind: &'static dyn Kind,
    /// The decoded body.
    pub config: &'a dyn AnyConfig,
    /// The place of the table.
    pub at: stillhouse_spec::Origin,
    body: Option<&'a Node>,
    surroundings: &'a dyn Surroundings,
}

/// Who knows which table a reference names.
pub trait Surroundings {
    /// The table that the field at `path` of the table `label` names.
    fn follow(&self, label: &str, path: &str) -> Option<View<'_>>;
}

impl<'a> View<'a> {
    /// A view of a table.
    pub fn new(
        label: &'a str,
        kind: &'static dyn Kind,
        config: &'a dyn AnyConfig,
        at: stillhouse_spec::Origin,
        surroundings: &'a dyn Surroundings,
    ) -> Self {
        Self { label, kind, config, at, body: None, surroundings }
    }

    /// The same with the table as it was written, so that [`View::place`] knows where its keys stand.
    #[must_use]
    pub fn with_body(self, body: &'a Node) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Where the key at `path` (`"capture.top-k"`, `"mix.0"`) was written, or the innermost table around it that was; the place of
    /// the table itself where none of it was.
    #[must_use]
    pub fn place(&self, path: &str) -> stillhouse_spec::Origin {
        let Some(mut node) = self.body else { return self.at };
        let mut at = self.at;
        for name in path.split('.') {
            let found = match &node.value {
                Value::Table(table) => table.get(name),
                Value::Array(items) => name.parse().ok().and_then(|index: usize| items.get(index)),
                _ => None,
            };
            let Some(found) = found else { break };
            (node, at) = (found, found.at);
        }
        at
    }

    /// The table that the field at `path` names: `"data"`, `"mix.0.answers"`.
    #[must_use]
    pub fn follow(&self, path: &str) -> Option<View<'a>> {
        self.surroundings.follow(self.label, path)
    }

    /// The decoded body as its kind's config struct.
    #[must_use]
    pub fn config_as<C: 'static>(&self) -> Option<&'a C> {
        self.config.as_any().downcast_ref()
    }
}
