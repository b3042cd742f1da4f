use std::collections::BTreeSet;

use serde_json::{Value, json};
use stillhouse_spec::{Canonical, Origin, Reference};
use stillhouse_stage::{AnyConfig, Surroundings};

use super::*;

fn decode(json: &Value) -> (Option<Suite>, Vec<String>) {
    let mut report = Diagnostics::default();
    let suite = Suite::decode(&Node::from_json(json), &mut report);
    let messages = report.sorted().iter().map(|diagnostic| diagnostic.message.clone()).collect();
    (suite, messages)
}

#[test]
fn a_misspelt_metric_is_named() {
    let (suite, messages) = decode(&json!({ "perplexty": { "data": "train" } }));
    assert!(suite.is_none());
    assert_eq!(messages, ["unknown metric `perplexty`"]);
}

#[test]
fn the_identity_of_a_suite_is_its_metrics_without_their_defaults() {
    let described = |json: Value| decode(&json).0.map(|suite| suite.describe());
    let plain = described(json!({ "perplexity": { "data": "train" } }));
    let spelt_out = described(json!({ "perplexity": { "data": "train", "split": "holdout" } }));
    assert_eq!(plain, spelt_out);
    let Some(Described::Table(members)) = plain else { panic!("a suite is a table") };
    let Described::Table(perplexity) = &members["perplexity"] else { panic!("a metric is a table") };
    assert_eq!(perplexity.keys().collect::<Vec<_>>(), ["data"]);
    let Described::Reference(Reference { parts, .. }) = &perplexity["data"] else { panic!("data is a reference") };
    // The tokenizer of the dataset is compared with the model's, so another tokenizer must be another key.
    assert_eq!(BTreeSet::from_iter(parts.iter().copied()), BTreeSet::from(["holdout", "tokenizer"]));
    let train = described(json!({ "perplexity": { "data": "train", "split": "train" } }));
    let Some(Described::Table(members)) = train else { panic!("a suite is a table") };
    let Described::Table(perplexity) = &members["perplexity"] else { panic!("a metric is a table") };
    assert_eq!(perplexity["split"], Described::Value(Canonical::from("train")));
}

/// A suite whose agreement names a teacher, which names a model of its own, or none.
struct Tables {
    teacher: Suite,
    local: bool,
}

impl Surroundings for Tables {
    fn follow(&self, label: &str, path: &str) -> Option<View<'_>> {
        let config: &dyn AnyConfig = &self.teacher;
        match (label, path) {
            ("suite.s", "agreement.teacher") => {
                Some(View::new("teacher.big", &SuiteKind, config, Origin::NOWHERE, self))
            }
            ("teacher.big", "model") if self.local => {
                Some(View::new("model.big", &SuiteKind, config, Origin::NOWHERE, self))
            }
            _ => None,
        }
    }
}

fn check(local: bool) -> Vec<String> {
    let suite = decode(&json!({ "agreement": { "teacher": "big", "data": "train" } })).0.unwrap();
    let tables = Tables { teacher: suite.clone(), local };
    let mut report = Diagnostics::default();
    SuiteKind.check(&View::new("suite.s", &SuiteKind, &suite, Origin::NOWHERE, &tables), &mut report);
    let words = report.sorted();
    words.iter().map(|one| format!("{} | {}", one.message, one.hint.as_deref().unwrap_or_default())).collect()
}

#[test]
fn agreement_with_a_server_is_refused_before_anything_runs() {
    let messages = check(false);
    assert_eq!(messages.len(), 1);
    assert!(messages[0].starts_with("`agreement` needs whole distributions, which teacher.big does not give | name a"));
    assert!(messages[0].contains("exact-match"));
}

#[test]
fn agreement_with_a_local_teacher_is_fine() {
    assert_eq!(check(true), Vec::<String>::new());
}
