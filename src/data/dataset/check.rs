//! What a dataset's table asks of the tables around it and cannot have.

use stillhouse_stage::View;
use stillhouse_stage::spec::{Described, Diagnostic, Diagnostics};

use super::DatasetConfig;
use crate::model::check_tokenizer;

/// A tokenizer that is a model folder's must be in it.
pub(super) fn tokenizer(view: &View<'_>, report: &mut Diagnostics) {
    if let Some(model) = view.follow("tokenizer") {
        check_tokenizer(&model, view, report);
    }
}

/// Other signals are made of distributions: of hidden states and of draws there is nothing to cut or to encode anew.
pub(super) fn signals(view: &View<'_>, report: &mut Diagnostics) {
    let Some(config) = view.config_as::<DatasetConfig>().filter(|config| config.signals.is_some()) else { return };
    for answers in (0..config.mix.len()).filter_map(|source| view.follow(&format!("mix.{source}.answers"))) {
        let Some((what, instead)) = kept(&answers) else { continue };
        let message = format!("`signals` makes other signals of distributions, but {} keeps {what}", answers.label);
        report.push(
            Diagnostic::error(view.place("signals"), message)
                .hint(format!(
                    "leave `signals` out: {instead}; or capture what can be cut: `capture = {{ top-k = 128 }}` or `{{ full = true }}`"
                ))
                .related(answers.at, "these answers"),
        );
    }
}

/// What answers keep that is no distribution, and what becomes of it without `signals`.
fn kept(answers: &View<'_>) -> Option<(&'static str, &'static str)> {
    let Described::Table(members) = answers.config.described() else { return None };
    let Described::Table(capture) = members.get("capture")? else { return None };
    if capture.contains_key("hidden") {
        return Some(("hidden states", "a student makes whole distributions of them with the teacher's head"));
    }
    capture.contains_key("samples").then_some(("drawn targets", "a student learns from them as they are"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stillhouse_stage::spec::{Config, Node, Origin};
    use stillhouse_stage::{AnyConfig, Kind, Surroundings, kind};

    use super::*;
    use crate::dataset::Dataset;
    use crate::model::{Model, ModelConfig};

    /// Answers, as far as their `capture` goes.
    #[derive(Clone, Debug, Config)]
    struct Captured {
        top_k: Option<u32>,
        samples: Option<u32>,
        hidden: Option<String>,
    }

    #[derive(Clone, Debug, Config)]
    struct SomeAnswers {
        capture: Option<Captured>,
    }

    struct AnswersKind;

    impl Kind for AnswersKind {
        kind!("answers", SomeAnswers);
    }

    struct Around {
        answers: SomeAnswers,
        model: ModelConfig,
    }

    impl Surroundings for Around {
        fn follow(&self, _: &str, path: &str) -> Option<View<'_>> {
            let view = |label, kind, config| Some(View::new(label, kind, config, Origin::NOWHERE, self));
            match path {
                "mix.0.answers" => view("answers.a", &AnswersKind, &self.answers as &dyn AnyConfig),
                "tokenizer" => view("model.m", &Model, &self.model as &dyn AnyConfig),
                _ => None,
            }
        }
    }

    fn decoded<C: Config>(body: &Value) -> C {
        C::decode(&Node::from_json(body), &mut Diagnostics::default()).unwrap()
    }

    fn said(capture: &Value, signals: Option<Value>, folder: &std::path::Path) -> Vec<String> {
        let mut body = json!({ "mix": [{ "answers": "a" }], "tokenizer": "m" });
        if let Some(signals) = signals {
            body["signals"] = signals;
        }
        let around =
            Around { answers: decoded(&json!({ "capture": capture })), model: decoded(&json!({ "path": folder })) };
        let (node, config) = (Node::from_json(&body), decoded::<DatasetConfig>(&body));
        let mut report = Diagnostics::default();
        let view = View::new("dataset.d", &Dataset, &config, Origin::NOWHERE, &around).with_body(&node);
        Dataset.check(&view, &mut report);
        report
            .sorted()
            .iter()
            .map(|one| format!("{} | {}", one.message, one.hint.clone().unwrap_or_default()))
            .collect()
    }

    #[test]
    fn signals_of_what_is_no_distribution_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        let said = |capture: Value, signals| said(&capture, signals, folder.path());
        for (capture, what) in
            [(json!({ "hidden": "f16" }), "hidden states"), (json!({ "samples": 8 }), "drawn targets")]
        {
            for signals in [json!({ "top-k": 5 }), json!({ "encoding": "compact" })] {
                let words = said(capture.clone(), Some(signals));
                let message =
                    format!("`signals` makes other signals of distributions, but answers.a keeps {what} | leave");
                assert!(words.len() == 1 && words[0].starts_with(&message), "{words:?}");
            }
            assert_eq!(said(capture, None), [""; 0]);
        }
        assert_eq!(said(json!({ "top-k": 50 }), Some(json!({ "top-k": 5 }))), [""; 0]);
    }

    #[test]
    fn a_tokenizer_of_a_folder_without_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let of = |folder: &std::path::Path| said(&json!({ "top-k": 50 }), None, folder);
        assert_eq!(of(&folder.path().join("nowhere")), [""; 0], "said where paths are looked at");
        fs_err::write(folder.path().join("config.json"), "{}").unwrap();
        let words = of(folder.path());
        assert!(
            words.len() == 1 && words[0].starts_with("model.m has no tokenizer.json | the folder has config.json; put"),
            "{words:?}"
        );
        let gguf = folder.path().join("model.gguf");
        fs_err::write(&gguf, "").unwrap();
        assert_eq!(of(&gguf), [""; 0]);
    }
}
