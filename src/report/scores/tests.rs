use serde_json::json;
use stillhouse_stage::{Event, How};

use super::*;
use crate::fold;
use crate::testing::{eval_finished, figure, finished, quickstart, with_names};

/// Row → value, of one figure on the only suite.
fn rows(events: &[Event], figure: &str) -> BTreeMap<String, f64> {
    let tables = scores(&fold(events));
    assert_eq!(tables.len(), 1);
    tables[0].targets.iter().map(|(target, figures)| (target.clone(), figures[figure].value)).collect()
}

fn pairs<const N: usize>(rows: [(&str, f64); N]) -> BTreeMap<String, f64> {
    rows.into_iter().map(|(target, value)| (target.to_owned(), value)).collect()
}

/// The run after somebody gave each of two tables the other's name: every record is found again, by its key, for the
/// evaluation whose model has the same content as before.
fn after_swapping(events: &[Event], one: &str, other: &str) -> Vec<Event> {
    let mut events = events.to_vec();
    for event in &mut events {
        let Event::StageFinished { how, names, .. } = event else { continue };
        *how = How::Reused;
        for label in names.values_mut() {
            if label == one {
                *label = other.to_owned();
            } else if label == other {
                *label = one.to_owned();
            }
        }
    }
    events
}

#[test]
fn two_students_that_swap_names_swap_their_numbers() {
    let before = quickstart();
    let expected = [("model.teacher", 4.1499), ("student.hard", 5.7132), ("student.soft", 5.3132)];
    assert_eq!(rows(&before, "perplexity"), pairs(expected));
    let after = after_swapping(&before, "student.hard", "student.soft");
    let expected = [("model.teacher", 4.1499), ("student.hard", 5.3132), ("student.soft", 5.7132)];
    assert_eq!(rows(&after, "perplexity"), pairs(expected));
    // The mark of the best goes with the numbers.
    let table = scores_table(&fold(&after), Layout::Text);
    let best = table.lines().find(|line| line.contains("5.31 ± 0.24 *"));
    assert!(best.is_some_and(|line| line.starts_with("student.hard ")), "{table}");
}

#[test]
fn a_suite_has_the_name_that_it_has_in_this_run_wherever_it_stands_in_a_list() {
    let figures = json!({ "kl": figure(0.25, None, "", "lower") });
    let intervals = json!({ "resamples": 1000, "confidence": 0.95 });
    let eval =
        |stage: &str, metrics, names: &[(&str, &str)]| with_names(finished(stage, How::Reused, 0.0, metrics), names);
    let both = json!({ "scores": { "suites.0": figures, "suites.1": figures }, "intervals": intervals });
    let one = json!({ "scores": { "suites.0": figures }, "intervals": intervals });
    let found = scores(&fold(&[
        eval("eval.a", both, &[("model", "student.a"), ("suites.0", "suite.short"), ("suites.1", "suite.long")]),
        eval("eval.b", one, &[("model", "student.b"), ("suites.0", "suite.long")]),
    ]));
    let found: Vec<(&str, Vec<&str>)> =
        found.iter().map(|suite| (suite.suite.as_str(), suite.targets.keys().map(String::as_str).collect())).collect();
    assert_eq!(found, [("short", vec!["student.a"]), ("long", vec!["student.a", "student.b"])]);
}

#[test]
fn a_log_without_names_is_shown_by_stage_and_path() {
    let event = eval_finished("eval.hard", "student.hard", &[("kl", 0.25, None, "", "lower")]);
    let found = scores(&fold(&[with_names(event, &[])]));
    assert_eq!(found[0].suite, "suites.0");
    assert_eq!(found[0].targets.keys().collect::<Vec<_>>(), ["eval.hard"]);
}

#[test]
fn a_log_can_be_read_that_was_written_before_there_were_names() {
    let event = eval_finished("eval.hard", "student.hard", &[("kl", 0.25, None, "", "lower")]);
    let mut line = serde_json::to_value(&event).unwrap();
    line.as_object_mut().unwrap().remove("names");
    line["metrics"]["model"] = "student.hard".into();
    line["metrics"]["scores"] = json!({ "held-out": line["metrics"]["scores"]["suites.0"] });
    let found = scores(&fold(&[serde_json::from_value(line).unwrap()]));
    // The model that the old record names may have been renamed since it was made, so it is not believed.
    assert_eq!(found[0].targets.keys().collect::<Vec<_>>(), ["eval.hard"]);
    assert_eq!(found[0].suite, "held-out");
}
