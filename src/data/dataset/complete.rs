//! Which evaluation data a dataset is decontaminated against, where its table does not say.
//!
//! A dataset that only suites name is *evaluation data*; any other is trained on. Whatever is trained on must not share
//! words with evaluation data, so its table gets `decontaminate.against`: what the suites of the experiment measure on.
//! Evaluation data needs nothing, and a dataset that a student trains on is never evaluation data of another: each would
//! wait for the other. (A dataset's own holdout is no matter of other tables: it always counts.)

use std::collections::{BTreeMap, BTreeSet};

use stillhouse_stage::spec::{Node, Origin, Table, Value};

/// Fills `decontaminate.against` of the dataset `name`, where the file has suites that measure on other data.
pub(super) fn evaluation_data(name: &str, body: &mut Node, tree: &Node) {
    let Value::Table(table) = &mut body.value else { return };
    let settings = table.get("decontaminate").cloned();
    let off = |settings: &Table| {
        settings.get("against").is_some()
            || settings.get("words").is_some_and(|words| matches!(words.value, Value::Integer(0)))
    };
    if settings.as_ref().is_some_and(|settings| settings.as_table().is_none_or(off)) {
        return;
    }
    let trained_on: BTreeSet<&str> = students(tree).collect();
    let mut evaluated = suites(tree);
    evaluated.retain(|(data, _), _| !trained_on.contains(data));
    let is_evaluation_data = evaluated.keys().any(|(data, _)| *data == name);
    if evaluated.is_empty() || is_evaluation_data {
        return;
    }
    let items = evaluated.into_iter().map(|((data, split), at)| {
        let text = |text: &str| Node { value: Value::String(text.to_owned()), at };
        let mut item = Table::default();
        item.set("dataset", at, text(data));
        item.set("split", at, text(split));
        Node { value: Value::Table(item), at }
    });
    let against = Node { value: Value::Array(items.collect()), at: body.at };
    let mut settings = settings.unwrap_or_else(|| Node::empty_table(body.at));
    if let Value::Table(members) = &mut settings.value {
        members.set("against", body.at, against);
    }
    table.set("decontaminate", body.at, settings);
}

/// The tables of a kind.
fn tables<'t>(tree: &'t Node, kind: &str) -> impl Iterator<Item = &'t Table> {
    let bodies = tree.as_table().and_then(|root| root.get(kind)).and_then(Node::as_table);
    bodies.into_iter().flat_map(|bodies| &bodies.entries).filter_map(|(_, (_, body))| body.as_table())
}

/// A reference to a dataset without its kind.
fn plain(reference: &str) -> &str {
    reference.strip_prefix("dataset.").unwrap_or(reference)
}

/// The datasets that students train on.
fn students(tree: &Node) -> impl Iterator<Item = &str> {
    tables(tree, "student").filter_map(|student| student.get("data")?.as_str()).map(plain)
}

/// The data that suites measure on: (dataset, split) → where it is written.
fn suites(tree: &Node) -> BTreeMap<(&str, &str), Origin> {
    let metrics =
        tables(tree, "suite").flat_map(|suite| suite.entries.values()).filter_map(|(_, metric)| metric.as_table());
    let data = metrics.filter_map(|metric| {
        let data = metric.get("data")?;
        let split = metric.get("split").and_then(Node::as_str).unwrap_or("holdout");
        Some(((plain(data.as_str()?), split), data.at))
    });
    data.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    fn completed(name: &str, file: &Json) -> Json {
        let tree = Node::from_json(file);
        let mut body = Node::from_json(&file["dataset"][name]);
        evaluation_data(name, &mut body, &tree);
        body.to_json()
    }

    fn file() -> Json {
        json!({
            "dataset": { "train": {}, "other": {}, "bench": {}, "exam": {}, "off": { "decontaminate": { "words": 0 } } },
            "student": { "s": { "data": "dataset.train" } },
            "suite": {
                "a": { "perplexity": { "data": "bench" }, "exact-match": { "data": "dataset.exam", "split": "train" } },
                "b": { "perplexity": { "data": "train" }, "agreement": { "data": "bench", "split": "holdout" } },
            },
        })
    }

    #[test]
    fn what_is_trained_on_is_held_against_what_suites_alone_name() {
        let against = json!([{ "dataset": "bench", "split": "holdout" }, { "dataset": "exam", "split": "train" }]);
        let expected = json!({ "decontaminate": { "against": against } });
        assert_eq!(completed("train", &file()), expected);
        assert_eq!(completed("other", &file()), expected, "a program may train on what no student names");
        let mut eight = file();
        eight["dataset"]["train"] = json!({ "decontaminate": { "words": 8 } });
        assert_eq!(completed("train", &eight), json!({ "decontaminate": { "words": 8, "against": against } }));
    }

    #[test]
    fn evaluation_data_and_what_says_it_itself_are_left_alone() {
        assert_eq!(completed("bench", &file()), json!({}));
        assert_eq!(completed("off", &file()), json!({ "decontaminate": { "words": 0 } }));
        let mut own = file();
        own["dataset"]["train"] = json!({ "decontaminate": { "against": [] } });
        assert_eq!(completed("train", &own), own["dataset"]["train"]);
        let only_own = json!({
            "dataset": { "train": {} },
            "student": { "s": { "data": "train" } },
            "suite": { "a": { "perplexity": { "data": "train" } } },
        });
        assert_eq!(completed("train", &only_own), json!({}), "a holdout of its own needs no table");
    }
}
