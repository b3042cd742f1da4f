//! A listing of keys says of each what may be written, what it is when left out, and whether it is in a key.

#![allow(dead_code, clippy::unwrap_used, reason = "tests; configs are only listed")]

use std::collections::BTreeMap;

use serde_json::json;
use stillhouse_spec::listing::{Listed, keys};
use stillhouse_spec::{Config, Execution, FilePath, Ref, Target};

#[derive(Clone, Debug)]
struct Models;

impl Target for Models {
    const KINDS: &'static [&'static str] = &["model", "student"];
}

/// Trains.
#[derive(Clone, Debug, Config)]
struct Training {
    /// Steps in all.
    ///
    /// More about them.
    #[config(min = 1)]
    steps: u32,
    /// Where it begins.
    from: Option<Ref<Models>>,
    /// Texts.
    texts: Vec<FilePath>,
    /// How it changes.
    #[config(default = Schedule::Constant)]
    schedule: Schedule,
    /// At once.
    #[config(default = Execution(Limits { rows: 8 }))]
    limits: Execution<Limits>,
    /// By name.
    #[config(default)]
    weights: BTreeMap<String, f64>,
}

/// How the learning rate changes.
#[derive(Clone, Debug, Config)]
enum Schedule {
    /// Not at all.
    Constant,
    /// Down along a cosine.
    Cosine(Cosine),
}

/// A cosine.
#[derive(Clone, Debug, Config)]
struct Cosine {
    /// Steps before it.
    #[config(default = 10)]
    warmup: u32,
}

/// Limits.
#[derive(Clone, Debug, Config)]
struct Limits {
    /// Rows.
    #[config(default = 8, min = 1)]
    rows: u32,
}

fn listed(path: &str) -> Listed {
    keys(&Training::schema()).into_iter().find(|key| key.path == path).unwrap()
}

#[test]
fn every_key_and_choice_is_listed_once() {
    let paths: std::collections::BTreeSet<String> = keys(&Training::schema()).into_iter().map(|key| key.path).collect();
    let wanted = [
        "steps",
        "from",
        "texts",
        "schedule",
        "schedule.constant",
        "schedule.cosine",
        "schedule.cosine.warmup",
        "limits",
        "limits.rows",
        "weights",
    ];
    assert_eq!(paths, wanted.map(String::from).into());
    assert_eq!(keys(&Training::schema()).len(), wanted.len());
}

#[test]
fn a_key_says_its_type_its_default_and_one_line() {
    let steps = listed("steps");
    assert_eq!((steps.kind.as_str(), steps.required, &steps.default), ("integer ≥ 1", true, &None));
    assert_eq!(steps.about, "Steps in all.");
    assert_eq!(listed("from").kind, "name of model or student");
    assert!(!listed("from").required);
    assert_eq!(listed("texts").kind, "list of files");
    assert_eq!(listed("weights").kind, "table of numbers");
    assert_eq!(listed("schedule").default, Some(json!("constant")));
    assert_eq!(listed("schedule.cosine.warmup").default, Some(json!(10)));
    assert!(listed("schedule.cosine").choice && !listed("schedule").choice);
}

#[test]
fn what_is_inside_an_execution_setting_is_execution_and_has_its_default() {
    assert!(listed("limits").execution && listed("limits.rows").execution);
    assert!(!listed("steps").execution && !listed("schedule.cosine.warmup").execution);
    assert_eq!(listed("limits.rows").default, Some(json!(8)));
}
