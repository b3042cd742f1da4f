//! Whether a student can have seen what it is measured on: known from the tables, before anything runs.
//!
//! A dataset keeps its own holdout out of its training rows, and what suites alone measure on (see `dataset`). What is left is a suite that
//! measures on one dataset a student that trained on another.

use stillhouse_data::dataset::{DatasetConfig, Source};
use stillhouse_spec::{Described, Diagnostic, Diagnostics};
use stillhouse_stage::View;

use crate::suite::Suite;

/// Warns of data that a suite measures on and that the student's own data was never held against.
pub(super) fn check(view: &View<'_>, suites: usize, report: &mut Diagnostics) {
    let Some(student) = view.follow("model").filter(|model| model.label.starts_with("student.")) else { return };
    let Some(trained) = student.follow("data") else { return };
    for place in 0..suites {
        let path = format!("suites.{place}");
        let Some(suite) = view.follow(&path) else { continue };
        let Some(metrics) = suite.config_as::<Suite>().map(|suite| &suite.metrics.values) else { continue };
        for (name, metric) in metrics {
            let Some(measured) = suite.follow(&format!("{name}.data")) else { continue };
            let on_holdout = match metric.described() {
                Described::Table(members) => matches!(members.get("split"), None | Some(Described::Nothing)),
                _ => true,
            };
            if measured.label != trained.label && may_share_rows(&trained, &measured, on_holdout) {
                let plain = measured.label.strip_prefix("dataset.").unwrap_or(measured.label);
                let message = format!(
                    "{} was trained on {} and is measured on {}, which that was not held against: it may have seen rows of it",
                    student.label, trained.label, measured.label
                );
                report.push(Diagnostic::warning(view.place(&path), message).hint(format!(
                    "`[{}] decontaminate = {{ against = [{{ dataset = \"{plain}\" }}] }}` leaves such rows out; or measure on a \
                     dataset that no student trains on",
                    trained.label
                )));
            }
        }
    }
}

/// Whether rows that are measured on may stand in what was trained on.
fn may_share_rows(trained: &View<'_>, measured: &View<'_>, on_holdout: bool) -> bool {
    let config = |view: &View<'_>| view.config_as::<DatasetConfig>().cloned();
    let (Some(own), Some(other)) = (config(trained), config(measured)) else { return false };
    let against = own.decontaminate.against.as_deref();
    // Switched off by whoever wrote it.
    if own.decontaminate.words == 0 || against.is_some_and(<[_]>::is_empty) {
        return false;
    }
    let held = (0..against.map_or(0, <[_]>::len)).any(|number| {
        let evaluated = trained.follow(&format!("decontaminate.against.{number}.dataset"));
        evaluated.is_some_and(|evaluated| evaluated.label == measured.label)
    });
    // The side of a prompt is chosen by its content: where both hold the same share out, one that both have is held out in both.
    let by_prompt = |config: &DatasetConfig| config.mix.iter().all(|Source { text, .. }| text.is_none());
    let same_side = on_holdout && own.holdout == other.holdout && by_prompt(&own) && by_prompt(&other);
    !held && !same_side
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};
    use stillhouse_data::dataset::Dataset;
    use stillhouse_spec::{Config, Node, Origin};
    use stillhouse_stage::{AnyConfig, Kind, Surroundings};

    use super::*;
    use crate::stage::EvalConfig;
    use crate::suite::SuiteKind;

    /// Tables by label, and what a table names at a path.
    #[derive(Default)]
    struct Around {
        tables: BTreeMap<&'static str, Box<dyn AnyConfig>>,
        names: BTreeMap<(&'static str, &'static str), &'static str>,
    }

    impl Surroundings for Around {
        fn follow(&self, label: &str, path: &str) -> Option<View<'_>> {
            let named = self.names.iter().find(|((from, at), _)| *from == label && *at == path)?.1;
            Some(self.view(named))
        }
    }

    impl Around {
        fn view(&self, label: &'static str) -> View<'_> {
            let kind: &'static dyn Kind = if label.starts_with("suite.") { &SuiteKind } else { &Dataset };
            View::new(label, kind, &*self.tables[label], Origin::NOWHERE, self)
        }

        fn add<C: Config + std::fmt::Debug + Send + Sync + 'static>(&mut self, label: &'static str, body: &Value) {
            let config = C::decode(&Node::from_json(body), &mut Diagnostics::default()).unwrap();
            self.tables.insert(label, Box::new(config));
        }
    }

    /// What is said of a student of `b` that is measured on `a`.
    fn said(a: Value, b: Value, metric: &Value, against_a: bool) -> Vec<String> {
        let mut around = Around::default();
        around.add::<DatasetConfig>("dataset.a", &a);
        around.add::<DatasetConfig>("dataset.b", &b);
        around.add::<Suite>("suite.s", &json!({ "perplexity": metric }));
        let eval = json!({ "model": "b", "suites": ["s"] });
        // Nothing of a student is looked at but what it names.
        around.add::<EvalConfig>("student.b", &eval);
        around.add::<EvalConfig>("eval.e", &eval);
        around.names.extend([
            (("eval.e", "model"), "student.b"),
            (("eval.e", "suites.0"), "suite.s"),
            (("student.b", "data"), "dataset.b"),
            (("suite.s", "perplexity.data"), "dataset.a"),
        ]);
        if against_a {
            around.names.insert(("dataset.b", "decontaminate.against.0.dataset"), "dataset.a");
        }
        let mut report = Diagnostics::default();
        check(&around.view("eval.e"), 1, &mut report);
        report.sorted().iter().map(|said| said.message.clone()).collect()
    }

    #[test]
    fn a_suite_on_data_that_was_not_kept_out_of_the_student_s_own_is_warned_of() {
        let rows = |holdout: f64| json!({ "mix": [{ "answers": "x" }], "holdout": holdout });
        let text = |holdout: f64| json!({ "mix": [{ "text": "x.txt" }], "holdout": holdout });
        let on_holdout = json!({ "data": "a" });
        let warning = "student.b was trained on dataset.b and is measured on dataset.a, which that was not held against: it \
                       may have seen rows of it";
        assert_eq!(said(rows(0.1), rows(0.2), &on_holdout, false), [warning]);
        assert_eq!(said(rows(0.1), rows(0.1), &on_holdout, false), [""; 0], "a prompt of both is held out in both");
        assert_eq!(said(rows(0.1), text(0.1), &on_holdout, false), [warning], "windows of text are cut otherwise");
        assert_eq!(said(rows(0.1), rows(0.1), &json!({ "data": "a", "split": "train" }), false), [warning]);
        let mut held = rows(0.2);
        held["decontaminate"] = json!({ "against": [{ "dataset": "a" }] });
        assert_eq!(said(rows(0.1), held.clone(), &on_holdout, true), [""; 0]);
        assert_eq!(said(rows(0.1), held, &on_holdout, false), [warning], "held against another one only");
        for off in [json!({ "words": 0 }), json!({ "against": [] })] {
            let mut settings = rows(0.2);
            settings["decontaminate"] = off;
            assert_eq!(said(rows(0.1), settings, &on_holdout, false), [""; 0]);
        }
    }
}
