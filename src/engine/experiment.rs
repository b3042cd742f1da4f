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

    /// The stage of a name, and if there is none, the names that begin like it or could be meant.
    ///
    /// # Errors
    /// The candidates for a message.
    pub fn find(&self, name: &str) -> Result<StageId, Vec<String>> {
        if let Some((id, _)) = self.stages().find(|(_, stage)| stage.name == name) {
            return Ok(id);
        }
        let of_table: Vec<_> = self.stages().filter(|(_, stage)| stage.table.label == name).collect();
        match of_table.as_slice() {
            [(id, _)] => return Ok(*id),
            [] => {}
            several => return Err(several.iter().map(|(_, stage)| stage.name.clone()).collect()),
        }
        // A plain name is enough where only one kind has it.
        let plain: Vec<_> = self
            .stages()
            .filter(|(_, stage)| stage.name.split_once('.').is_some_and(|(_, plain)| plain == name))
            .collect();
        match plain.as_slice() {
            [(id, _)] => Ok(*id),
            _ => Err(self.stages().map(|(_, stage)| stage.name.clone()).collect()),
        }
    }

    /// The stages that a stage reads.
    pub fn upstream(&self, id: StageId) -> impl Iterator<Item = StageId> {
        self.graph.neighbors_directed(id, petgraph::Direction::Incoming)
    }

    /// The stages that read a stage.
    pub fn downstream(&self, id: StageId) -> impl Iterator<Item = StageId> {
        self.graph.neighbors_directed(id, petgraph::Direction::Outgoing)
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
