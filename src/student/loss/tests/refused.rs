//! Settings that make no sense are refused where they stand.

use serde_json::json;
use stillhouse_spec::registry::Each;
use stillhouse_spec::{Diagnostics, Node};

use super::*;

fn complaints(table: &serde_json::Value) -> String {
    let mut report = Diagnostics::default();
    let _ = Each::<dyn Loss>::decode(&Node::from_json(table), &mut report);
    report.sorted().iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_loss_that_would_be_infinite_with_a_tail_says_so() {
    for (table, what) in [
        (json!({ "reverse-kl": { "tail": "renormalise-teacher" } }), "reverse KL is infinite"),
        (
            json!({ "adaptive-kl": { "tail": "renormalise-teacher" } }),
            "adaptive KL, which is partly reverse KL, is infinite",
        ),
        (json!({ "jsd": { "tail": "renormalise-teacher", "beta": 1 } }), "`jsd` with `beta = 1`"),
        (
            json!({ "reverse-skewed-kl": { "tail": "renormalise-teacher", "alpha": 0 } }),
            "`reverse-skewed-kl` with `alpha = 0`",
        ),
    ] {
        let said = complaints(&table);
        assert!(said.contains(what) && said.contains("renormalise-teacher"), "{table}: {said}");
    }
}

#[test]
fn settings_out_of_range_say_so() {
    for (table, what) in [
        (json!({ "jsd": { "beta": 1.5 } }), "`beta` must be at most 1, not 1.5"),
        (json!({ "skewed-kl": { "alpha": 1 } }), "`alpha` must be less than 1, not 1"),
        (json!({ "reverse-skewed-kl": { "alpha": 1.0 } }), "`alpha` must be less than 1, not 1"),
        (json!({ "total-variation": { "temperature": 0 } }), "`temperature` must be more than 0"),
        (json!({ "sampled-cross-entropy": { "samples": 0 } }), "`samples` must be at least 1"),
        (json!({ "forward-kl": { "weight": -1 } }), "`weight` must be at least 0"),
        (json!({ "forward-kl": { "tail": "zero" } }), "unknown choice `zero`"),
        (json!({ "hidden-mse": { "projection": "linear" } }), "unknown choice `linear`"),
        (json!({ "hidden-mse": { "layers": [{ "student": 1 }] } }), "missing `teacher`"),
        (json!({ "hidden-cosine": { "layers": [{ "student": -1, "teacher": 2 }] } }), "-1"),
    ] {
        let said = complaints(&table);
        assert!(said.contains(what), "{table}: {said}");
    }
}

#[test]
fn every_loss_needs_no_setting() {
    for entry in LOSSES {
        assert_eq!(complaints(&json!({ entry.name: {} })), "", "{}", entry.name);
    }
}
