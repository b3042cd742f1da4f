//! A resolved experiment: every name bound, every cell expanded, equal stages of different cells one node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};
use stillhouse_spec::{Canonical, Described, FileUse, Node, Origin};
use stillhouse_stage::{AnyConfig, Kind, StageKind};

/// One table of the file in one form (a sweep may give a table several).
pub struct TableForm {
    /// `kind.name`
    pub label: String,
    /// The kind.
    pub kind: &'static dyn Kind,
    /// The body, as decoded again by a worker.
    pub body: Node,
    /// The decoded body.
    pub config: Box<dyn AnyConfig>,
    /// What the body means to a key.
    pub described: Described,
    /// The place of the table's name.
    pub at: Origin,
    /// The seed that the table gives itself.
    pub seed: Option<u64>,
}

/// A stage: a node of the graph.
pub struct Stage {
    /// `kind.name`, with the axes of the sweep that distinguish it: `student.small[lr=0.0005]`.
    pub name: String,
    /// Its table.
    pub table: Arc<TableForm>,
    /// Its kind.
    pub kind: &'static dyn StageKind,
    /// The identity that goes into the recipe.
    pub identity: Canonical,
    /// The seed that goes into the recipe.
    pub seed: u64,
    /// Path of the config field → the stage that it names, and the parts of its output that are read.
    pub inputs: BTreeMap<String, (StageId, Vec<&'static str>)>,
    /// Path of the config field → the file or folder that it names.
    pub files: BTreeMap<String, FileUse>,
    /// Path of the config field → the definition that it names.
    pub definitions: BTreeMap<String, Arc<TableForm>>,
    /// Path of the config field → the table that it only mentions: it changes nothing of the result.
    pub mentions: BTreeMap<String, Arc<TableForm>>,
    /// How many cells of the sweep contain it.
    pub cells: usize,
}

/// A node of [`Experiment::graph`].
pub type StageId = NodeIndex<u32>;

/// Text, resolved: the value between a file and a plan.
pub struct Experiment {
    /// Its name.
    pub name: String,
    /// The file, as given.
    pub file: PathBuf,
    /// Upstream → downstream; the weight of an edge is the path of the field that makes it.
    pub graph: DiGraph<Stage, String>,
    /// The stages in an order in which every stage comes after those it reads.
    pub order: Vec<StageId>,
    /// How many cells the sweep has; 1 without a sweep.
    pub cells: usize,
    /// How many stages there would be if cells shared none.
    pub stages_unshared: usize,
}

impl Experiment {
    /// The stages in order.
    pub fn stages(&self) -> impl Iterator<Item = (StageId, &Stage)> {
        self.order.iter().map(|id| (*id, &self.graph[*id]))
    }

    /// Stages as a reader of the file meets them, the forms of one table together.
    #[must_use]
    pub fn as_in_the_file(&self, mut stages: Vec<StageId>) -> Vec<StageId> {
        stages.sort_by_key(|id| (self.graph[*id].table.at, *id));
        stages
    }

    /// The stages that a name means: one by its whole name, all forms of a table by its label, or by its plain name where
    /// only one kind has it.
    #[must_use]
    pub fn find(&self, name: &str) -> Vec<StageId> {
        let of = |means: &dyn Fn(&Stage) -> bool| -> Vec<StageId> {
            self.stages().filter(|(_, stage)| means(stage)).map(|(id, _)| id).collect()
        };
        let whole = of(&|stage| stage.name == name);
        if !whole.is_empty() {
            return whole;
        }
        let of_label = of(&|stage| stage.table.label == name);
        if !of_label.is_empty() {
            return of_label;
        }
        let plain = of(&|stage| stage.table.label.split_once('.').is_some_and(|(_, plain)| plain == name));
        let labels: std::collections::BTreeSet<&str> =
            plain.iter().map(|id| self.graph[*id].table.label.as_str()).collect();
        if labels.len() == 1 { plain } else { Vec::new() }
    }

    /// Path of the config field → label of the table that a stage names there today.
    #[must_use]
    pub fn names(&self, id: StageId) -> BTreeMap<String, String> {
        let stage = &self.graph[id];
        let inputs =
            stage.inputs.iter().map(|(path, (upstream, _))| (path.clone(), self.graph[*upstream].name.clone()));
        let definitions = stage.definitions.iter().map(|(path, table)| (path.clone(), table.label.clone()));
        inputs.chain(definitions).collect()
    }

    /// The stages that a stage reads.
    pub fn upstream(&self, id: StageId) -> impl Iterator<Item = StageId> {
        self.graph.neighbors_directed(id, petgraph::Direction::Incoming)
    }

    /// The stages that read a stage.
    pub fn downstream(&self, id: StageId) -> impl Iterator<Item = StageId> {
        self.graph.neighbors_directed(id, petgraph::Direction::Outgoing)
    }

    /// The stages that a run does which is to make only these; all when there are none.
    #[must_use]
    pub fn wanted(&self, only: &[StageId]) -> Vec<StageId> {
        if only.is_empty() { self.order.clone() } else { self.cone(only) }
    }

    /// A stage and all that it needs, in order: what `--only` runs.
    #[must_use]
    pub fn cone(&self, targets: &[StageId]) -> Vec<StageId> {
        let mut wanted = vec![false; self.graph.node_count()];
        let mut open = targets.to_vec();
        while let Some(id) = open.pop() {
            if !std::mem::replace(&mut wanted[id.index()], true) {
                open.extend(self.upstream(id));
            }
        }
        self.order.iter().copied().filter(|id| wanted[id.index()]).collect()
    }
}
