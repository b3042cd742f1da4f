//! `[sweep]`: one file, many cells. A cell is the tree with some values replaced.

use crate::config::expected;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Origin, Value};
use crate::read::{Spec, at_everywhere, key_path, only_keys, set_existing};

/// More cells than this are taken for a mistake.
const MOST_CELLS: usize = 100_000;

/// One point of a sweep; a file without a sweep has one cell without values.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Per axis: the path and the value as text.
    pub values: Vec<(String, String)>,
    /// The tree of this cell, without the `[sweep]` table.
    pub tree: Node,
}

struct Axis {
    written: String,
    path: Vec<String>,
    at: Origin,
    values: Vec<Node>,
}

impl Spec {
    /// The cells of the sweep, the last axis fastest.
    #[must_use]
    pub fn cells(&self, report: &mut Diagnostics) -> Vec<Cell> {
        let mut tree = self.tree.clone();
        let sweep = match &mut tree.value {
            Value::Table(table) => table.entries.shift_remove("sweep"),
            _ => None,
        };
        let Some((_, sweep)) = sweep else { return vec![Cell { values: Vec::new(), tree }] };
        let axes = axes(&sweep, report);
        let count = axes.iter().map(|axis| axis.values.len()).try_fold(1usize, usize::checked_mul);
        if count.is_none_or(|count| count > MOST_CELLS) {
            report.push(
                Diagnostic::error(sweep.at, format!("the grid has more than {MOST_CELLS} cells"))
                    .hint("every combination of all axes is one cell"),
            );
            return vec![Cell { values: Vec::new(), tree }];
        }
        let mut cells = vec![Cell { values: Vec::new(), tree }];
        for axis in &axes {
            let pairs = cells.iter().flat_map(|cell| axis.values.iter().map(move |value| (cell, value)));
            cells = pairs.filter_map(|(cell, value)| cell.with(axis, value, report)).collect();
        }
        cells
    }
}

impl Cell {
    fn with(&self, axis: &Axis, value: &Node, report: &mut Diagnostics) -> Option<Self> {
        let mut cell = self.clone();
        cell.values.push((axis.written.clone(), shown(value)));
        set_existing(&mut cell.tree, &axis.path, axis.at, at_everywhere(value.clone(), value.at), report).then_some(cell)
    }
}

fn axes(sweep: &Node, report: &mut Diagnostics) -> Vec<Axis> {
    if only_keys(sweep, &["grid"], report).is_none() {
        return Vec::new();
    }
    let Some(grid) = sweep.as_table().and_then(|table| table.get("grid")) else {
        let hint = "grid = { \"student.small.steps\" = [100, 200] }";
        report.push(Diagnostic::error(sweep.at, "missing `grid`").hint(hint));
        return Vec::new();
    };
    let Value::Table(table) = &grid.value else {
        report.push(expected("a table of paths and lists", grid));
        return Vec::new();
    };
    let mut axes = Vec::new();
    for (written, (at, node)) in &table.entries {
        let mut axis_of = |written: &str, node: &Node| match (&node.value, key_path(written)) {
            (_, None) => report.push(
                Diagnostic::error(*at, "not a path of keys").hint("for example \"student.small.optimizer.adamw.lr\""),
            ),
            (Value::Array(values), Some(_)) if values.is_empty() => {
                report.push(Diagnostic::error(node.at, "an axis without values makes a grid without cells"));
            }
            (Value::Array(values), Some(path)) => {
                axes.push(Axis { written: written.to_owned(), path, at: *at, values: values.clone() });
            }
            _ => report.push(expected("a list of values", node).hint("one cell for each of them")),
        };
        // Unquoted paths arrive as nested tables: `student.small.steps = [1, 2]` means the same.
        for (path, leaf) in leaves(written, node) {
            axis_of(&path, leaf);
        }
    }
    axes
}

fn leaves<'a>(written: &str, node: &'a Node) -> Vec<(String, &'a Node)> {
    match &node.value {
        Value::Table(table) if !table.entries.is_empty() => table
            .entries
            .iter()
            .flat_map(|(name, (_, child))| leaves(&format!("{written}.{name}"), child))
            .collect(),
        _ => vec![(written.to_owned(), node)],
    }
}

fn shown(node: &Node) -> String {
    match &node.value {
        Value::String(text) => text.clone(),
        Value::Float(value) => format!("{value:?}"),
        _ => node.to_json().to_string(),
    }
}
