//! Tables that are refused, and what of a table is in the key.

use serde_json::{Value, json};
use stillhouse_spec::Node;

use super::*;

#[test]
fn a_table_that_can_not_be_trained_is_refused_before_anything_runs() {
    let complaints = |config: &Value| {
        let mut report = stillhouse_spec::Diagnostics::default();
        Student.decode(&Node::from_json(config), &mut report);
        report.sorted().iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(complaints(&table(2, both())), "");
    for (field, value, word) in [
        ("steps", json!(0), "`steps` must be at least 1"),
        ("optimizer", json!({ "adamw": { "lr": 0.0 } }), "`lr` must be more than 0"),
        ("schedule", json!({ "wsd": { "warmup": 2, "decay": 2 } }), "do not fit into 2 steps"),
        ("loss", json!({ "cross-entropy": { "weight": 0.0 } }), "nothing to learn"),
        ("loss", json!({ "forward-ki": {} }), "unknown loss `forward-ki`"),
        ("precision", json!("fp16"), "unknown choice `fp16`"),
        ("loss", json!("hidden-mse"), "`hidden-mse` compares with the hidden states of a teacher beside the student"),
        ("loss", json!({ "cross-entropy": {}, "hidden-cosine": {} }), "and none is named"),
        ("ema", json!(1.0), "`ema` must be less than 1, not 1"),
        ("ema", json!(1.5), "`ema` must be less than 1, not 1.5"),
        ("optimizer", json!({ "adamw": { "lr": 1e-3, "beta1": 1.0 } }), "`beta1` must be less than 1, not 1"),
        ("optimizer", json!({ "adamw": { "lr": 1e-3, "beta2": 1 } }), "`beta2` must be less than 1, not 1"),
        (
            "optimizer",
            json!({ "muon": { "momentum": 1, "adamw": { "lr": 1e-3 } } }),
            "`momentum` must be less than 1, not 1",
        ),
        ("keep", json!({ "best": 2 }), "there is none"),
        ("keep", json!({ "last": 0 }), "`last` must be at least 1"),
        ("early-stop", json!({ "every": 3 }), "nothing is ever measured: `every` is 3, but there are 2 steps"),
        ("early-stop", json!({ "every": 1, "metric": "cross-entropi" }), "there is no loss `cross-entropi` to measure"),
        ("batch", json!({ "rows": 2, "tokens": 64 }), "`batch.rows` has no meaning beside `batch.tokens`"),
        ("batch", json!({ "pack": true, "tokens": 64 }), "`batch.pack` has no meaning"),
        ("spike", json!({ "factor": 1.0 }), "`factor` must be more than 1"),
        ("lora", json!({ "rank": 0 }), "`rank` must be at least 1"),
        ("batch", json!({ "rows": 100_000_000 }), "`rows` must be at most 65536"),
        ("batch", json!({ "length": 1_000_000_000 }), "`length` must be at most 1048576"),
        ("optimizer", json!({ "muon": {} }), "missing `adamw`"),
        ("init", json!({ "qwen4": {} }), "`qwen4`"),
        ("init", json!({ "qwen3": { "layers": 1, "hidden": 32, "heads": 5 } }), "does not divide `hidden` = 32"),
        (
            "init",
            json!({ "mistral": { "layers": 1_000_000_000, "hidden": 4096, "heads": 32 } }),
            "whose training takes",
        ),
        ("init", json!({ "cut": { "from": "other" } }), "nothing is cut away"),
    ] {
        let mut config = table(2, both());
        config[field] = value;
        let said = complaints(&config);
        assert!(said.contains(word), "{field}: {said}");
    }
    let mut moving = table(4, json!({ "cross-entropy": { "weight": { "from": 1.0, "to": 0.5, "over": 2 } } }));
    moving["early-stop"] = json!({ "every": 2 });
    assert!(complaints(&moving).contains("can't be compared"), "{}", complaints(&moving));
    moving["early-stop"]["metric"] = json!("cross-entropy");
    assert_eq!(complaints(&moving), "");
}

#[test]
fn only_what_changes_the_weights_is_in_the_key() {
    let described = |config: &Value| {
        let mut report = stillhouse_spec::Diagnostics::default();
        Student.decode(&Node::from_json(config), &mut report).unwrap().described()
    };
    let base = table(2, both());
    let execution = [
        ("micro-batch", json!(7)),
        ("checkpoint-every", json!(7)),
        ("log-every", json!(7)),
        ("keep", json!({ "last": 3, "every": 10, "max-bytes": 1_000_000 })),
        ("spike", json!({ "factor": 2.0 })),
        ("gradient-checkpointing", json!(true)),
    ];
    for (field, value) in execution {
        let mut config = base.clone();
        config[field] = value;
        assert_eq!(described(&config), described(&base), "{field}");
    }
    let identity = [
        ("clip", json!(0.5)),
        ("precision", json!("bf16")),
        ("freeze", json!(["embed"])),
        ("lora", json!({})),
        ("ema", json!(0.9)),
        ("early-stop", json!({ "every": 1 })),
        ("batch", json!({ "tokens": 64 })),
        ("optimizer", json!({ "muon": { "adamw": { "lr": 1e-2 } } })),
    ];
    for (field, value) in identity {
        let mut config = base.clone();
        config[field] = value;
        assert_ne!(described(&config), described(&base), "{field}");
    }
}

/// What is held out is read only where it is measured, and then its content is in the key.
#[test]
fn the_held_out_part_is_in_the_key_of_a_student_that_measures_on_it() {
    use stillhouse_spec::Described;
    let parts = |config: &Value| {
        let mut report = stillhouse_spec::Diagnostics::default();
        let Described::Table(members) = Student.decode(&Node::from_json(config), &mut report).unwrap().described()
        else {
            panic!("a student is a table");
        };
        match &members["data"] {
            Described::Reference(reference) => reference.parts.clone(),
            other => panic!("{other:?}"),
        }
    };
    let mut config = table(4, both());
    assert_eq!(parts(&config), ["train", "tokenizer", "signals"]);
    config["early-stop"] = json!({ "every": 2 });
    assert_eq!(parts(&config), ["train", "tokenizer", "signals", "holdout"]);
}
