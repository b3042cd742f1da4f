//! `#[derive(Config)]`: decoding, errors, schema, and what a table contributes to a key.

#![allow(dead_code, clippy::unwrap_used, reason = "tests; not each needs all of the support, nor reads all fields")]

mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use stillhouse_spec::{Config, Described, Diagnostics, Execution, Ref, Target};
use support::{Folder, places, read_text};

/// Trains.
#[derive(Clone, Debug, Config)]
struct Training {
    /// Steps in all.
    #[config(min = 1, max = 1000)]
    steps: u32,
    /// Learning rate.
    #[config(default = 0.5, above = 0)]
    learning_rate: f64,
    /// Decay of an average.
    #[config(default = 0.9, min = 0, below = 1)]
    decay: f64,
    /// How it changes.
    #[config(default = Schedule::Constant)]
    schedule: Schedule,
    /// Rows at once: in no key.
    #[config(default = Execution(8), min = 1)]
    rows: Execution<u32>,
    /// A note.
    note: Option<String>,
    /// What is filtered out.
    #[config(default)]
    filters: Vec<Filter>,
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

/// A filter.
#[derive(Clone, Debug, Config)]
enum Filter {
    /// Refusals.
    Refusal,
    /// Copies.
    NearDuplicate,
}

/// Decodes the table `[t.x]` of a text.
fn decode<T: Config>(text: &str) -> (Option<T>, Diagnostics) {
    let (spec, mut report) = read_text(text, &[]);
    let node = spec.tree.at_path(&["t".to_owned(), "x".to_owned()]).cloned().unwrap();
    let decoded = T::decode(&node, &mut report);
    (decoded, report)
}

fn sound<T: Config>(body: &str) -> T {
    let (decoded, report) = decode(&format!("[t.x]\n{body}\n"));
    decoded.unwrap_or_else(|| panic!("{:?}", places(&report)))
}

fn faults(body: &str) -> Vec<String> {
    let (decoded, report) = decode::<Training>(&format!("[t.x]\n{body}\n"));
    assert!(decoded.is_none());
    places(&report)
}

#[test]
fn every_error_of_a_table_is_reported_under_its_characters() {
    let body = "stepps = 3\nlearning-rate = 0\n  schedule = \"cosin\"\nrows = \"many\"\nnote = 3\nfilters = [\"refusal\", 4, { near-duplicat = {} }]";
    assert_eq!(
        faults(body),
        [
            // The table as a whole stands where its header does.
            "1:1 missing `steps`",
            "2:1 unknown key `stepps`",
            "3:17 `learning-rate` must be more than 0, not 0",
            "4:14 unknown choice `cosin`",
            "5:8 expected an integer, found a string",
            "6:8 expected a string, found an integer",
            "7:23 expected a choice, found an integer",
            "7:28 unknown choice `near-duplicat`",
        ]
    );
}

#[test]
fn bounds_are_kept() {
    for (body, fault) in [
        ("steps = 0", "2:9 `steps` must be at least 1, not 0"),
        ("steps = 1001", "2:9 `steps` must be at most 1000, not 1001"),
        ("steps = -1", "2:9 `steps` must be at least 1, not -1"),
        ("steps = 5_000_000_000", "2:9 `steps` must be at most 1000, not 5000000000"),
        ("steps = 1\nlearning-rate = -0.5", "3:17 `learning-rate` must be more than 0, not -0.5"),
        ("steps = 1\ndecay = 1", "3:9 `decay` must be less than 1, not 1"),
        ("steps = 1\ndecay = 1.5", "3:9 `decay` must be less than 1, not 1.5"),
        ("steps = 1\nrows = 0", "3:8 `rows` must be at least 1, not 0"),
    ] {
        assert_eq!(faults(body), [fault]);
    }
}

#[test]
fn numbers_that_are_not_finite_are_said_to_be_that() {
    for written in ["inf", "+inf", "-inf", "nan", "+nan", "-nan"] {
        assert_eq!(faults(&format!("steps = 1\nlearning-rate = {written}")), ["3:17 not a finite number"]);
        assert_eq!(faults(&format!("steps = {written}")), ["2:9 expected an integer, found a float"]);
    }
}

#[test]
fn a_choice_is_a_string_or_a_table_of_one_key() {
    for written in ["\"cosine\"", "{ cosine = {} }", "{ cosine = { warmup = 10 } }"] {
        let training: Training = sound(&format!("steps = 1\nschedule = {written}"));
        assert!(matches!(training.schedule, Schedule::Cosine(Cosine { warmup: 10 })), "{written}");
    }
    for written in ["\"constant\"", "{ constant = {} }"] {
        let training: Training = sound(&format!("steps = 1\nschedule = {written}"));
        assert!(matches!(training.schedule, Schedule::Constant), "{written}");
    }
    for (written, fault) in [
        ("{}", "3:12 expected exactly one choice, found none"),
        ("{ constant = {}, cosine = {} }", "3:12 expected exactly one choice, found `constant`, `cosine`"),
        ("{ constant = { warmup = 1 } }", "3:27 unknown key `warmup`"),
        ("{ cosine = 3 }", "3:23 expected a table, found an integer"),
        ("true", "3:12 expected a choice, found a boolean"),
    ] {
        assert_eq!(faults(&format!("steps = 1\nschedule = {written}")), [fault]);
    }
}

#[test]
fn a_schema_tells_fields_bounds_defaults_and_choices() {
    let schema = Training::schema();
    assert_eq!(schema["type"], "object");
    assert_eq!(schema["description"], "Trains.");
    assert_eq!(schema["required"], json!(["steps"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    let fields = &schema["properties"];
    assert_eq!(
        fields["steps"],
        json!({ "type": "integer", "minimum": 1, "maximum": 1000, "description": "Steps in all." })
    );
    assert_eq!(
        fields["learning-rate"],
        json!({ "type": "number", "exclusiveMinimum": 0, "default": 0.5, "description": "Learning rate." })
    );
    assert_eq!(
        fields["decay"],
        json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1, "default": 0.9, "description": "Decay of an average." })
    );
    assert_eq!(fields["filters"]["type"], "array");
    let choices = fields["schedule"]["anyOf"].as_array().unwrap();
    assert_eq!(choices[0], json!({ "const": "constant", "description": "Not at all." }));
    assert_eq!(choices[1], json!({ "const": "cosine", "description": "Down along a cosine." }));
    assert_eq!(choices[2]["required"], json!(["cosine"]));
    assert_eq!(choices[2]["properties"]["cosine"]["properties"]["warmup"]["default"], 10);
}

#[test]
fn a_choice_with_a_needed_option_is_never_a_bare_string() {
    /// Any.
    #[derive(Clone, Debug, Config)]
    enum Needy {
        /// Trains.
        Training(Training),
    }
    let choices = Needy::schema()["anyOf"].as_array().unwrap().clone();
    assert_eq!(choices.len(), 1);
    assert_eq!(choices[0]["type"], "object");
}

/// What a config contributes, as JSON.
fn described(value: &Described) -> Value {
    match value {
        Described::Value(value) => serde_json::from_str(&value.text()).unwrap(),
        Described::Table(members) => members.iter().map(|(name, value)| (name.clone(), described(value))).collect(),
        Described::List(items) => items.iter().map(described).collect(),
        Described::Reference(reference) => json!({ "reference": reference.name, "parts": reference.parts }),
        Described::File(file) => json!({ "file": file.path }),
        Described::Mention(reference) => json!({ "mention": reference.name }),
        Described::Nothing => Value::Null,
    }
}

#[test]
fn a_default_written_or_left_out_contributes_nothing() {
    let bare = sound::<Training>("steps = 1").describe();
    assert_eq!(described(&bare), json!({ "steps": 1 }));
    let written = "steps = 1\nlearning-rate = 0.5\nschedule = \"constant\"\nfilters = []";
    assert_eq!(sound::<Training>(written).describe(), bare);
    let other =
        sound::<Training>("steps = 1\nlearning-rate = 0.25\nschedule = { cosine = { warmup = 10 } }\nnote = \"n\"");
    assert_eq!(
        described(&other.describe()),
        json!({ "steps": 1, "learning-rate": 0.25, "schedule": { "cosine": {} }, "note": "n" })
    );
}

/// Trains in a way of its own.
#[derive(Clone, Debug, Config)]
#[config(check = warm_cosine)]
struct Inlined {
    /// A name.
    name: String,
    /// What it shares with others.
    #[config(inline)]
    training: Training,
    /// And more of it.
    #[config(inline)]
    cosine: Cosine,
}

fn warm_cosine(made: &Inlined, node: &stillhouse_spec::Node, report: &mut Diagnostics) {
    if made.cosine.warmup > made.training.steps {
        report.push(stillhouse_spec::Diagnostic::error(node.at, "`warmup` is longer than `steps`"));
    }
}

#[test]
fn inline_fields_stand_in_the_table_around_them() {
    let made = sound::<Inlined>("name = \"n\"\nsteps = 40\nwarmup = 4");
    assert_eq!((made.name.as_str(), made.training.steps, made.cosine.warmup), ("n", 40, 4));
    assert_eq!(described(&made.describe()), json!({ "name": "n", "steps": 40, "warmup": 4 }));
    let at_default = sound::<Inlined>("name = \"n\"\nsteps = 40\nwarmup = 10");
    assert_eq!(described(&at_default.describe()), json!({ "name": "n", "steps": 40 }));

    let schema = Inlined::schema();
    assert_eq!(schema["required"], json!(["name", "steps"]));
    assert_eq!(schema["properties"]["decay"], Training::schema()["properties"]["decay"]);
    assert_eq!(schema["properties"]["warmup"], Cosine::schema()["properties"]["warmup"]);

    let faults = |body: &str| {
        let (decoded, report) = decode::<Inlined>(&format!("[t.x]\n{body}\n"));
        (decoded.is_none(), places(&report))
    };
    let (none, found) = faults("name = 1\nlearning-rate = 0\nwarmupp = 3");
    assert!(none);
    assert_eq!(
        found,
        [
            "1:1 missing `steps`",
            "2:8 expected a string, found an integer",
            "3:17 `learning-rate` must be more than 0, not 0",
            "4:1 unknown key `warmupp`",
        ]
    );
    assert_eq!(faults("name = \"n\"\nsteps = 3").1, ["1:1 `warmup` is longer than `steps`"]);
}

#[test]
fn a_whole_number_is_the_same_setting_as_its_float() {
    assert_eq!(
        sound::<Training>("steps = 1\nlearning-rate = 2").describe(),
        sound::<Training>("steps = 1\nlearning-rate = 2.0").describe()
    );
}

#[test]
fn execution_contributes_nothing() {
    assert_eq!(sound::<Training>("steps = 1\nrows = 64").describe(), sound::<Training>("steps = 1").describe());
}

/// A dataset.
#[derive(Clone, Debug)]
struct Dataset;
impl Target for Dataset {
    const KINDS: &'static [&'static str] = &["dataset"];
}

/// Which rows.
#[derive(Clone, Copy, Debug, Config)]
enum Split {
    /// For training.
    Train,
    /// Held out.
    Holdout,
}

impl Split {
    fn part(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Holdout => "holdout",
        }
    }
}

/// Reads parts of a dataset.
#[derive(Clone, Debug, Config)]
struct Reads {
    /// All of it.
    all: Ref<Dataset>,
    /// Fixed parts.
    #[config(parts = "train, tokenizer")]
    fixed: Ref<Dataset>,
    /// A chosen part.
    #[config(part_from = split)]
    chosen: Option<Ref<Dataset>>,
    /// Both.
    #[config(parts = "train,tokenizer", part_from = split)]
    both: Vec<Ref<Dataset>>,
    /// Which.
    split: Split,
}

#[test]
fn parts_of_a_reference_are_those_fixed_and_that_chosen() {
    let body = |split: &str| format!("all = \"d\"\nfixed = \"d\"\nchosen = \"d\"\nboth = [\"d\"]\nsplit = \"{split}\"");
    let parts = |split: &str| {
        let json = described(&sound::<Reads>(&body(split)).describe());
        [&json["all"], &json["fixed"], &json["chosen"], &json["both"][0]].map(|member| member["parts"].clone())
    };
    assert_eq!(
        parts("holdout"),
        [json!([]), json!(["train", "tokenizer"]), json!(["holdout"]), json!(["train", "tokenizer", "holdout"]),]
    );
    assert_eq!(parts("train")[3], json!(["train", "tokenizer"]), "each part once");
}

/// One of the ways to write a table: the order of its keys, and what stands between them.
fn written(order: Vec<usize>, space: &str, inline: bool) -> String {
    let fields = [
        ("steps", format!("{space}7{space}")),
        ("learning-rate", "2.5e-1".to_owned()),
        ("schedule", format!("{{{space}cosine{space}={space}{{ warmup = 3 }} }}")),
        ("note", "\"a note\"".to_owned()),
        ("filters", format!("[{space}\"refusal\",{space}\"near-duplicate\"{space}]")),
        ("rows", order.len().to_string()),
    ];
    let lines = order.iter().map(|index| format!("{}{space}={}", fields[*index].0, fields[*index].1));
    if inline {
        format!("t = {{ x = {{ {} }} }}\n", lines.collect::<Vec<_>>().join(&format!(",{space}")))
    } else {
        format!("[t.x]\n{}\n", lines.collect::<Vec<_>>().join(&format!("{space}# why\n\n{space}")))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_table_contributes_does_not_depend_on_how_it_is_laid_out(
        order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle(),
        space in "[ \t]{0,4}",
        inline in any::<bool>(),
    ) {
        let text = written(order, &space, inline);
        let folder = Folder::with(&[("experiment.toml", &text)]);
        let (spec, mut report) = folder.read("experiment.toml", &[]);
        let node = spec.tree.at_path(&["t".to_owned(), "x".to_owned()]).unwrap();
        let training = Training::decode(node, &mut report).ok_or_else(|| TestCaseError::fail(format!("{text}{:?}", places(&report))))?;
        prop_assert_eq!(described(&training.describe()), json!({
            "steps": 7, "learning-rate": 0.25, "schedule": { "cosine": { "warmup": 3 } }, "note": "a note",
            "filters": ["refusal", "near-duplicate"],
        }));
    }
}
