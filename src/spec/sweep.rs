//! `[sweep]`: one file, many cells. A cell is the tree with some values replaced.
//!
//! A faulty axis is reported and left out: there is always a cell, so that the rest of the file is checked too.

mod shown;

use crate::config::expected;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Origin, Table, Value};
use crate::read::{Spec, at_everywhere, key_path, only_keys, set_existing};

/// More cells than this are taken for a mistake.
const MOST_CELLS: usize = 100_000;

/// One point of a sweep; a file without a sweep has one cell without values.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Per axis: the path and the value as a name shows it: one line of at most 24 characters, distinct in its axis.
    pub values: Vec<(String, String)>,
    /// The tree of this cell, without the `[sweep]` table.
    pub tree: Node,
}

/// A path and what it is set to.
struct Axis {
    written: String,
    path: Vec<String>,
    at: Origin,
    /// Each value as names show it, and itself.
    values: Vec<(String, Node)>,
}

impl Spec {
    /// The cells of the sweep, the last axis fastest; at least one.
    #[must_use]
    pub fn cells(&self, report: &mut Diagnostics) -> Vec<Cell> {
        let mut tree = self.tree.clone();
        let sweep = match &mut tree.value {
            Value::Table(table) => table.entries.shift_remove("sweep"),
            _ => None,
        };
        let base = Cell { values: Vec::new(), tree };
        let Some((_, sweep)) = sweep else { return vec![base] };
        let axes = axes(&sweep, &base.tree, report);
        let count = axes.iter().map(|axis| axis.values.len()).try_fold(1usize, usize::checked_mul);
        if count.is_none_or(|count| count > MOST_CELLS) {
            report.push(
                Diagnostic::error(sweep.at, format!("the grid has more than {MOST_CELLS} cells"))
                    .hint("every combination of all axes is one cell"),
            );
            return vec![base];
        }
        let mut cells = vec![base];
        for axis in &axes {
            let pairs = cells.iter().flat_map(|cell| axis.values.iter().map(move |value| (cell, value)));
            cells = pairs.map(|(cell, value)| cell.with(axis, value, report)).collect();
        }
        cells
    }
}

impl Cell {
    fn with(&self, axis: &Axis, (shown, value): &(String, Node), report: &mut Diagnostics) -> Self {
        let mut cell = self.clone();
        cell.values.push((axis.written.clone(), shown.clone()));
        set_existing(&mut cell.tree, &axis.path, axis.at, at_everywhere(value.clone(), value.at), report);
        cell
    }
}

/// The sound axes of a sweep over a tree.
fn axes(sweep: &Node, base: &Node, report: &mut Diagnostics) -> Vec<Axis> {
    let Some(grid) = grid(sweep, report) else { return Vec::new() };
    let mut axes: Vec<Axis> = Vec::new();
    for (written, (at, node)) in &grid.entries {
        // Unquoted paths arrive as nested tables: `student.small.steps = [1, 2]` means the same.
        for (written, leaf) in leaves(written, node) {
            if let Some(axis) = axis(written, *at, leaf, base, report)
                && !overlaps(&axis, &axes, report)
            {
                axes.push(axis);
            }
        }
    }
    axes
}

fn grid<'a>(sweep: &'a Node, report: &mut Diagnostics) -> Option<&'a Table> {
    only_keys(sweep, &["grid"], report)?;
    let Some(grid) = sweep.as_table().and_then(|table| table.get("grid")) else {
        let hint = "grid = { \"student.small.steps\" = [100, 200] }";
        report.push(Diagnostic::error(sweep.at, "missing `grid`").hint(hint));
        return None;
    };
    match grid.as_table() {
        None => report.push(expected("a table of paths and lists", grid)),
        Some(table) if table.entries.is_empty() => {
            report.push(Diagnostic::error(grid.at, "the grid has no axis").hint(
                "name a key and its values, or take `[sweep]` out: grid = { \"student.small.steps\" = [100, 200] }",
            ))
        }
        Some(_) => {}
    }
    grid.as_table()
}

/// Every leaf of nested tables with its dotted path, as TOML writes it.
fn leaves<'a>(written: &str, node: &'a Node) -> Vec<(String, &'a Node)> {
    match &node.value {
        Value::Table(table) if !table.entries.is_empty() => {
            table.entries.iter().flat_map(|(name, (_, child))| leaves(&format!("{written}.{name}"), child)).collect()
        }
        _ => vec![(written.to_owned(), node)],
    }
}

fn axis(written: String, at: Origin, list: &Node, base: &Node, report: &mut Diagnostics) -> Option<Axis> {
    let Some(path) = key_path(&written) else {
        let hint = "for example \"student.small.optimizer.adamw.lr\"";
        report.push(Diagnostic::error(at, "not a path of keys").hint(hint));
        return None;
    };
    let Value::Array(values) = &list.value else {
        report.push(expected("a list of values", list).hint("one cell for each of them"));
        return None;
    };
    let Some(first) = values.first() else {
        report.push(Diagnostic::error(list.at, "an axis without values makes a grid without cells"));
        return None;
    };
    if path[0] == "sweep" {
        report.push(Diagnostic::error(at, "a sweep cannot sweep over itself").hint("name a key of another table"));
        return None;
    }
    // Whether a path can be set does not depend on the value, nor on other axes, as none overlaps.
    if !set_existing(&mut base.clone(), &path, at, first.clone(), report) {
        return None;
    }
    let values = shown::name_each(different(values, report));
    Some(Axis { written, path, at, values })
}

/// The values that differ from those before them; each other one is an error: its cells would be the same twice.
fn different<'a>(values: &'a [Node], report: &mut Diagnostics) -> Vec<&'a Node> {
    let mut kept: Vec<&Node> = Vec::new();
    for value in values {
        match kept.iter().find(|earlier| means_the_same(earlier, value)) {
            Some(earlier) => report.push(
                Diagnostic::error(value.at, "an axis has this value twice")
                    .hint("remove one: both make the same cells")
                    .related(earlier.at, "the same value"),
            ),
            None => kept.push(value),
        }
    }
    kept
}

/// Whether two values are the same setting. `1` and `1.0` are: a field that takes both takes them for one number.
fn means_the_same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::String(a), Value::String(b)) | (Value::Datetime(a), Value::Datetime(b)) => a == b,
        (Value::Integer(a), Value::Integer(b)) => a == b,
        (Value::Boolean(a), Value::Boolean(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a == b || a.is_nan() && b.is_nan(),
        (Value::Integer(whole), Value::Float(float)) | (Value::Float(float), Value::Integer(whole)) => {
            float.fract() == 0.0 && *float as i128 == i128::from(*whole)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| means_the_same(a, b)),
        (Value::Table(a), Value::Table(b)) => {
            let same = |(name, (_, a)): (&String, &(Origin, Node))| b.get(name).is_some_and(|b| means_the_same(a, b));
            a.entries.len() == b.entries.len() && a.entries.iter().all(same)
        }
        _ => false,
    }
}

/// Reports an axis over what an earlier one sets, in whole or in part.
fn overlaps(axis: &Axis, earlier: &[Axis], report: &mut Diagnostics) -> bool {
    let met = earlier.iter().find(|other| axis.path.starts_with(&other.path) || other.path.starts_with(&axis.path));
    let Some(other) = met else { return false };
    let message = if axis.path == other.path {
        format!("two axes set `{}`", axis.written)
    } else {
        format!("the axes `{}` and `{}` overlap", other.written, axis.written)
    };
    let error = Diagnostic::error(axis.at, message).hint("an axis must not set what another one sets");
    report.push(error.related(other.at, "the other axis"));
    true
}
