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
fn what_early_stopping_can_not_go_by_is_refused_at_its_key_and_says_what_helps() {
    let refused = |loss: Value, teacher: bool, key: [&str; 2], value: Value| {
        let mut config = table(2, loss);
        if teacher {
            config["teacher"] = json!("bard");
        }
        config[key[0]] = json!({});
        if key[0] == "early-stop" {
            config["early-stop"]["every"] = json!(1);
        }
        let mut node = Node::from_json(&config);
        let at = stillhouse_spec::Origin::new(3, 10..20);
        let value = Node { at, ..Node::from_json(&value) };
        node.set_path(&key.map(str::to_owned), at, value).unwrap();
        let mut report = stillhouse_spec::Diagnostics::default();
        Student.decode(&node, &mut report);
        let said = report.sorted();
        assert!(said.iter().all(|error| error.at == Some(at) && error.hint.is_some()), "{said:?}");
        said.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")
    };
    let metric = |loss: Value, teacher, metric: &str| refused(loss, teacher, ["early-stop", "metric"], json!(metric));
    assert!(refused(both(), false, ["early-stop", "every"], json!(3)).starts_with("nothing is ever measured"));
    assert!(refused(both(), false, ["keep", "best"], json!(1)).starts_with("`keep.best` goes by"));
    assert!(metric(both(), false, "nothing").starts_with("there is no loss `nothing`"));
    let beside = |name: &str| json!({ "cross-entropy": {}, "jsd": {}, name: { "weight": 0 } });
    for (name, teacher, said) in [
        ("hidden-mse", true, "no hidden states are read for it and nothing is measured"),
        ("forward-kl", false, "no teacher's distributions are read for it"),
        ("uld", false, "no teacher's distributions are read for it"),
    ] {
        let message = metric(beside(name), teacher, name);
        assert!(message.starts_with(&format!("`{name}` has the weight 0, so ")) && message.contains(said), "{message}");
    }
    // What is computed all the same can be gone by.
    assert_eq!(metric(beside("forward-kl"), true, "forward-kl"), "");
    assert_eq!(metric(json!({ "cross-entropy": { "weight": 0 }, "jsd": {} }), false, "cross-entropy"), "");
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
