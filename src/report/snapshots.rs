//! The whole texts, as a person sees them.

use insta::assert_snapshot;
use serde_json::json;
use stillhouse_stage::store::{Digest, Key, Record, Tree, TreeEntry};

use crate::grid::TEXT_WIDTH;
use crate::testing::{eval_finished, failed_run, quickstart, run_started};
use crate::{Encodings, Layout, fold, run_page, runs_list, scores_table, stage_json, stage_page};

#[test]
fn a_finished_run_shows_students_scores_and_counts() {
    assert_snapshot!(run_page(&fold(&quickstart()), Layout::Text));
}

#[test]
fn a_finished_run_as_markdown() {
    assert_snapshot!(run_page(&fold(&quickstart()), Layout::Markdown));
}

#[test]
fn a_failed_run_says_why_and_what_to_do() {
    assert_snapshot!(run_page(&fold(&failed_run()), Layout::Text));
}

#[test]
fn many_metrics_go_into_several_tables_that_fit_the_terminal() {
    let names = ["perplexity", "bits-per-byte", "kl", "top-1", "exact-match", "rouge-l", "arc-easy", "openbookqa"];
    let figures: Vec<_> =
        names.iter().map(|name| (*name, 0.512_34, Some((0.4911, 0.5301)), "fraction", "higher")).collect();
    let events = [
        eval_finished("eval.a", "student.with-a-rather-long-name", &figures),
        eval_finished("eval.b", "student.b", &figures[..3]),
    ];
    let text = scores_table(&fold(&events), Layout::Text);
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= usize::from(TEXT_WIDTH), "{widest}");
    assert_snapshot!(text);
}

#[test]
fn lopsided_intervals_missing_intervals_and_equal_models_are_all_shown() {
    let events = [
        eval_finished("eval.greedy", "student.a", &[("perplexity", 8.2, Some((7.9, 11.4)), "", "lower")]),
        eval_finished("eval.other", "student.a", &[("perplexity", 9.1, None, "", "lower")]),
    ];
    assert_snapshot!(scores_table(&fold(&events), Layout::Text));
}

#[test]
fn runs_are_listed_with_how_they_ended() {
    let (done, failed, killed) = (fold(&quickstart()), fold(&failed_run()), fold(&[run_started(3)]));
    assert_snapshot!(runs_list([(&done, false), (&failed, false), (&killed, false), (&killed, true)], Layout::Text));
}

fn record() -> (Record, Tree) {
    let recipe = json!({
        "kind": "eval", "revision": 1, "identity": { "suites": [{ "perplexity": {} }], "confidence": 0.99 },
        "inputs": { "model": "77".repeat(32) }, "files": {}, "seed": 17,
    });
    let text = recipe.to_string();
    let file = |path: &str, length| TreeEntry {
        path: path.into(),
        digest: Digest::of(path.as_bytes()),
        length,
        executable: false,
    };
    let files = Tree::new(vec![file("items.jsonl", 48_112), file("scores.json", 1_204)]).unwrap();
    let record = Record {
        format: 1,
        key: Key::of("stillhouse/stage/1", text.as_bytes()),
        kind: "eval".into(),
        revision: 1,
        stage: "eval.small".into(),
        recipe: text,
        output: Digest::of(b"tree"),
        metrics: json!({ "scores": { "suites.0": { "kl": { "value": 0.278_132_198_7, "n": 120 } } } }),
        provenance: json!({
            "device": "cpu", "threads": 2,
            "names": { "model": "student.small", "suites.0": "suite.held-out" },
        }),
        created: "2026-11-22T15:24:54Z".into(),
        seconds: 3.1,
        run: "261122-152330".into(),
    };
    (record, files)
}

#[test]
fn a_stage_is_shown_with_recipe_metrics_provenance_and_files() {
    let (record, files) = record();
    assert_snapshot!(stage_page(&record, &files, Encodings::Own, Layout::Text));
}

#[test]
fn a_stage_as_json_has_its_recipe_as_an_object() {
    let (record, files) = record();
    let json = stage_json(&record, &files, Encodings::Own);
    assert_eq!(json["recipe"]["identity"]["confidence"], 0.99);
    assert_eq!(json["files"][1]["bytes"], 1_204);
    assert_eq!(json["key"], record.key.to_string());
}

#[test]
fn an_empty_run_shows_no_tables() {
    assert_eq!(scores_table(&fold([]), Layout::Text), "");
    assert_eq!(runs_list([], Layout::Text), "");
}
