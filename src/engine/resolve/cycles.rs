//! An order in which every table comes after those it names, or the circle that prevents one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use petgraph::Direction;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use stillhouse_spec::{Diagnostic, Diagnostics};

use super::cell::CellTables;
use super::references::Bound;

/// Labels, what is named first and else as in the file; every circle is reported with its whole path.
pub(super) fn order(bound: &Bound, tables: &CellTables, report: &mut Diagnostics) -> Option<Vec<String>> {
    let mut graph = DiGraph::<&str, ()>::new();
    let nodes: BTreeMap<&str, NodeIndex> = bound.keys().map(|label| (label.as_str(), graph.add_node(label))).collect();
    for (label, links) in bound {
        for target in links.values() {
            if let (Some(from), Some(to)) = (nodes.get(label.as_str()), nodes.get(target.as_str())) {
                graph.update_edge(*from, *to, ());
            }
        }
    }
    let components = tarjan_scc(&graph);
    let mut whole = true;
    for component in &components {
        if component.len() > 1 || component.iter().any(|node| graph.contains_edge(*node, *node)) {
            whole = false;
            report_cycle(&graph, component, bound, tables, report);
        }
    }
    whole.then(|| as_in_the_file(&graph, tables))
}

/// Of the tables whose named ones are all out, the one that stands first in the file comes next.
fn as_in_the_file(graph: &DiGraph<&str, ()>, tables: &CellTables) -> Vec<String> {
    let place = |node: NodeIndex| tables.get(graph[node]).map(|(_, table)| table.at);
    let mut open: Vec<usize> = graph.node_indices().map(|node| graph.neighbors(node).count()).collect();
    let free = graph.node_indices().filter(|node| open[node.index()] == 0);
    let mut ready: BinaryHeap<Reverse<_>> = free.map(|node| Reverse((place(node), node))).collect();
    let mut order = Vec::with_capacity(open.len());
    while let Some(Reverse((_, node))) = ready.pop() {
        order.push(graph[node].to_owned());
        for naming in graph.neighbors_directed(node, Direction::Incoming) {
            open[naming.index()] -= 1;
            if open[naming.index()] == 0 {
                ready.push(Reverse((place(naming), naming)));
            }
        }
    }
    order
}

fn report_cycle(
    graph: &DiGraph<&str, ()>,
    component: &[NodeIndex],
    bound: &Bound,
    tables: &CellTables,
    report: &mut Diagnostics,
) {
    // Walk inside the component until a table comes up again: that part of the walk is a circle.
    let Some(start) = component.iter().copied().min_by_key(|node| graph[*node]) else { return };
    let mut walk = vec![start];
    let cycle = loop {
        let here = walk[walk.len() - 1];
        let next = graph.neighbors(here).filter(|node| component.contains(node)).min_by_key(|node| graph[*node]);
        let Some(next) = next else { return };
        let first = walk.iter().position(|node| *node == next);
        walk.push(next);
        if let Some(first) = first {
            break walk.split_off(first);
        }
    };
    let names: Vec<&str> = cycle.iter().map(|node| graph[*node]).collect();
    let Some((_, table)) = tables.get(names[0]) else { return };
    let mut error = Diagnostic::error(table.at, format!("tables name each other in a circle: {}", names.join(" → ")));
    for pair in names.windows(2) {
        let field = bound.get(pair[0]).and_then(|links| links.iter().find(|(_, target)| *target == pair[1]));
        if let (Some((path, _)), Some((_, table))) = (field, tables.get(pair[0])) {
            error = error.related(table.at, format!("{} names {} under `{path}`", pair[0], pair[1]));
        }
    }
    report.push(error.hint("a stage can only read what is made before it"));
}
