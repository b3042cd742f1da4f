//! Spec → Experiment: decode each table by its kind, bind names, expand the sweep, find cycles.

mod cell;
mod cycles;
mod names;
pub(crate) mod references;

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;
use petgraph::graph::DiGraph;
use stillhouse_spec::{Diagnostic, Diagnostics, Spec, read};
use stillhouse_stage::Kind;

use crate::experiment::{Experiment, Stage, StageId, TableForm};
use cell::{CellTables, Decoder};
use references::Reach;

/// Resolves a spec against the kinds there are. Everything wrong goes into `report`; `None` if anything was an error.
pub fn resolve(spec: &Spec, kinds: &'static [&'static dyn Kind], report: &mut Diagnostics) -> Option<Experiment> {
    let cells = spec.cells(report);
    let mut decoder = Decoder::new(kinds);
    let mut interned = Interned::default();
    for (index, cell) in cells.iter().enumerate() {
        let tables = decoder.tables(&cell.tree, report);
        let Some(reach) = Reach::of(&tables, kinds, report) else { continue };
        reach.check(&tables, report);
        if !report.has_errors() {
            let seed = read::header(&cell.tree, report).seed;
            interned.add_cell(index, &tables, &reach, seed);
        }
    }
    if report.has_errors() {
        return None;
    }
    if interned.stages.is_empty() {
        report.push(
            Diagnostic::general(format!("{} has no stage to run", spec.path.display()))
                .hint(format!("stages are {}", stage_kinds(kinds))),
        );
        return None;
    }
    let axes: Vec<_> = cells.iter().map(|cell| cell.values.clone()).collect();
    let names = names::distinguish(&interned.labels(), &axes);
    let mut graph = DiGraph::<Stage, String>::default();
    let unshared = interned.stages.values().map(|stage| stage.cells.len()).sum();
    let ids: Vec<StageId> = interned
        .stages
        .into_values()
        .zip(names)
        .map(|(node, name)| graph.add_node(Stage { name, cells: node.cells.len(), ..node.stage }))
        .collect();
    for downstream in ids.iter().copied() {
        let edges: Vec<_> = graph[downstream].inputs.iter().map(|(path, (from, _))| (*from, path.clone())).collect();
        for (upstream, path) in edges {
            graph.add_edge(upstream, downstream, path);
        }
    }
    // Nodes were added upstream first, cell by cell, so their indices are an order already: the one of the file's cells.
    let order = graph.node_indices().collect();
    Some(Experiment {
        name: spec.header.name.0.clone(),
        file: spec.path.clone(),
        graph,
        order,
        cells: cells.len(),
        stages_unshared: unshared,
    })
}

/// The stage kinds as a message lists them.
#[must_use]
pub fn stage_kinds(kinds: &[&'static dyn Kind]) -> String {
    let stages = kinds.iter().filter(|kind| kind.as_stage().is_some());
    stages.map(|kind| format!("`[{}.…]`", kind.name())).collect::<Vec<_>>().join(", ")
}

/// The nodes so far: a stage of a later cell that equals one of an earlier cell is that node.
#[derive(Default)]
struct Interned {
    stages: IndexMap<StageForm, InternedStage>,
    /// Definitions get numbers the same way, so that a stage differs when a definition of its does.
    definitions: BTreeMap<(usize, NamedForms), usize>,
}

/// Forms of all that a table names, by field.
type NamedForms = Vec<(String, usize)>;

/// What makes two stages one: the form of their table, their seed, the forms of all they name.
type StageForm = (usize, u64, NamedForms);

struct InternedStage {
    stage: Stage,
    cells: Vec<usize>,
}

impl Interned {
    fn labels(&self) -> Vec<(String, Vec<usize>)> {
        self.stages.values().map(|node| (node.stage.table.label.clone(), node.cells.clone())).collect()
    }

    fn add_cell(&mut self, cell: usize, tables: &CellTables, reach: &Reach, seed: u64) {
        // Label → (number, stage?) of what this cell's tables became; upstream comes first in `reach.order`.
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        for label in &reach.order {
            let Some((form, table)) = tables.get(label) else { continue };
            let links: Vec<(String, usize)> = reach
                .links(label)
                .filter_map(|(path, target)| Some((path.to_owned(), *numbers.get(target)?)))
                .collect();
            let number = match table.kind.as_stage() {
                None => {
                    let next = self.definitions.len();
                    *self.definitions.entry((form, links)).or_insert(next)
                }
                Some(kind) => {
                    let seed = if kind.is_seeded() { table.seed.unwrap_or(seed) } else { 0 };
                    let entry = self.stages.entry((form, seed, links));
                    let index = entry.index();
                    let node = entry.or_insert_with(|| {
                        // Bound and upstream, so it has a number.
                        let number = |label: &str| StageId::new(numbers.get(label).copied().unwrap_or(index));
                        InternedStage {
                            stage: make_stage(table, kind, tables, reach, seed, &number),
                            cells: Vec::new(),
                        }
                    });
                    node.cells.push(cell);
                    index
                }
            };
            numbers.insert(label, number);
        }
    }
}

fn make_stage(
    table: &Arc<TableForm>,
    kind: &'static dyn stillhouse_stage::StageKind,
    tables: &CellTables,
    reach: &Reach,
    seed: u64,
    number: &dyn Fn(&str) -> StageId,
) -> Stage {
    let expanded = reach.expand(table, tables);
    Stage {
        name: table.label.clone(),
        table: Arc::clone(table),
        kind,
        identity: expanded.identity,
        seed,
        inputs: expanded.inputs.into_iter().map(|(path, (label, parts))| (path, (number(&label), parts))).collect(),
        files: expanded.files,
        definitions: expanded.definitions,
        mentions: expanded.mentions,
        cells: 0,
    }
}
