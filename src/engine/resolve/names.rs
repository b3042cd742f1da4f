//! Names for the forms of a table that a sweep makes: `student.small[lr=0.0005]`.

use std::collections::{BTreeMap, BTreeSet};

/// One name a node, in the order of `nodes` (label, cells that contain it). A label with one form keeps its name; else
/// the axes that tell its forms apart are added, each by the end of its path.
pub(super) fn distinguish(nodes: &[(String, Vec<usize>)], cells: &[Vec<(String, String)>]) -> Vec<String> {
    let mut forms: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, (label, _)) in nodes.iter().enumerate() {
        forms.entry(label).or_default().push(index);
    }
    let short = short_names(cells.first().map_or(&[], Vec::as_slice));
    let mut names: Vec<String> = nodes.iter().map(|(label, _)| label.clone()).collect();
    for (label, members) in forms {
        if members.len() == 1 {
            continue;
        }
        // An axis tells forms apart if every form lies in one value of it.
        let value_of = |node: usize, axis: usize| -> Option<&str> {
            let values: BTreeSet<&str> = nodes[node].1.iter().map(|cell| cells[*cell][axis].1.as_str()).collect();
            if values.len() == 1 { values.first().copied() } else { None }
        };
        let axes: Vec<usize> =
            (0..short.len()).filter(|axis| members.iter().all(|node| value_of(*node, *axis).is_some())).collect();
        for node in members {
            let values: Vec<String> =
                axes.iter().filter_map(|axis| Some(format!("{}={}", short[*axis], value_of(node, *axis)?))).collect();
            names[node] = format!("{label}[{}]", values.join(","));
        }
    }
    names
}

/// The shortest ends of the axes' paths that differ: `lr`, or `adamw.lr` beside `muon.lr`.
fn short_names(axes: &[(String, String)]) -> Vec<String> {
    let paths: Vec<Vec<&str>> = axes.iter().map(|(path, _)| path.split('.').collect()).collect();
    let end = |path: &[&str], parts: usize| path[path.len().saturating_sub(parts)..].join(".");
    let shortest = |(index, path): (usize, &Vec<&str>)| {
        let unique = |parts: &usize| {
            let mine = end(path, *parts);
            paths.iter().enumerate().all(|(other, path)| other == index || end(path, *parts) != mine)
        };
        end(path, (1..path.len()).find(unique).unwrap_or(path.len()))
    };
    paths.iter().enumerate().map(shortest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(values: &[(&str, &str)]) -> Vec<(String, String)> {
        values.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_form_is_named_by_the_axes_that_tell_it_apart() {
        let cells = [
            cell(&[("student.s.optimizer.adamw.lr", "0.1"), ("eval.e.seed", "1")]),
            cell(&[("student.s.optimizer.adamw.lr", "0.1"), ("eval.e.seed", "2")]),
            cell(&[("student.s.optimizer.adamw.lr", "0.2"), ("eval.e.seed", "1")]),
            cell(&[("student.s.optimizer.adamw.lr", "0.2"), ("eval.e.seed", "2")]),
        ];
        let nodes = [
            ("prompts.p".to_owned(), vec![0, 1, 2, 3]),
            ("student.s".to_owned(), vec![0, 1]),
            ("student.s".to_owned(), vec![2, 3]),
            ("eval.e".to_owned(), vec![0]),
            ("eval.e".to_owned(), vec![1]),
        ];
        let names = distinguish(&nodes, &cells);
        assert_eq!(
            names,
            ["prompts.p", "student.s[lr=0.1]", "student.s[lr=0.2]", "eval.e[lr=0.1,seed=1]", "eval.e[lr=0.1,seed=2]"]
        );
    }

    #[test]
    fn ends_of_paths_grow_until_they_differ() {
        let axes = cell(&[
            ("student.a.optimizer.adamw.lr", "1"),
            ("student.b.optimizer.muon.lr", "2"),
            ("student.a.steps", "3"),
        ]);
        assert_eq!(short_names(&axes), ["adamw.lr", "muon.lr", "steps"]);
    }
}
