//! A model folder that runs here: it answers, and tells its whole distribution where that is wanted.

mod forecast;
mod run;
mod session;
mod signals;

use stillhouse_data::model::check_tokenizer;
use stillhouse_spec::{Config, Diagnostics, Execution, Ref, Target};
use stillhouse_stage::{Ahead, Failure, Forecast, Needs, Outcome, Placement, View};

use super::capability::{self, Capabilities};
use super::terms::TermsConfig;
use super::{Job, Known, Provider};
use crate::answers::{AnswersConfig, OnFailed};
use crate::session::{Asks, Session};

/// A model that runs on this machine.
#[derive(Clone, Debug, Config)]
pub struct Local {
    /// The model.
    pub model: Ref<Models>,
    /// Whether prompts go through the tokenizer's chat template, where it has one. Without it the model continues their
    /// text.
    #[config(default = true)]
    pub chat_template: bool,
    /// Answers that are made before the next ones are begun: what a kill loses at most.
    #[config(default = Execution(32), min = 1)]
    pub batch: Execution<usize>,
    /// What its answers may be used for.
    pub terms: Execution<Option<TermsConfig>>,
}

/// What may be a local teacher.
#[derive(Clone, Copy, Debug)]
pub struct Models;

impl Target for Models {
    const KINDS: &'static [&'static str] = &["model"];
}

/// Reports what a stage that asks a teacher of this machine will miss, before anything is done; nothing of other teachers.
pub fn check(stage: &View<'_>, report: &mut Diagnostics) {
    let Some(teacher) = stage.follow("teacher") else { return };
    if let Some(model) = teacher.follow("model") {
        check_tokenizer(&model, &teacher, report);
    }
}

impl Provider for Local {
    fn capabilities(&self) -> Capabilities {
        capability::LOCAL
    }

    fn sees_nothing(&self) -> Option<&'static str> {
        Some("a local teacher reads text only")
    }

    fn needs(&self) -> Needs {
        Needs { placement: Placement::Worker, compute: true, device: true, ..Needs::default() }
    }

    fn forecast(&self, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
        forecast::forecast(self, answers, ahead)
    }

    fn forecast_requests(
        &self,
        known: Known<'_>,
        like_them: u64,
        on_failed: OnFailed,
        ahead: &Ahead<'_>,
    ) -> Option<Forecast> {
        forecast::forecast_requests(self, known, like_them, on_failed, ahead)
    }

    fn open<'a>(&self, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
        session::open(self, asks)
    }

    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        run::run(self, job)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stillhouse_data::model::{Model, ModelConfig};
    use stillhouse_spec::{Node, Origin};
    use stillhouse_stage::{AnyConfig, Kind, Surroundings};

    use super::*;
    use crate::answers::tests::bench::NoModels;
    use crate::answers::{Answers, AnswersConfig};
    use crate::definition::{Teacher, TeacherConfig};
    use crate::expand::{Expand, ExpandConfig};
    use crate::judge::{Judge, JudgeConfig};

    struct Around {
        teacher: TeacherConfig,
        model: ModelConfig,
    }

    impl Surroundings for Around {
        fn follow(&self, label: &str, path: &str) -> Option<View<'_>> {
            let view = |label, kind, config| Some(View::new(label, kind, config, Origin::NOWHERE, self));
            match (label, path) {
                ("teacher.t", "model") => view("model.m", &Model, &self.model as &dyn AnyConfig),
                (_, "teacher") => view("teacher.t", &Teacher, &self.teacher as &dyn AnyConfig),
                _ => None,
            }
        }
    }

    fn decoded<C: Config>(body: &Value) -> C {
        C::decode(&Node::from_json(body), &mut Diagnostics::default()).unwrap()
    }

    #[test]
    fn a_model_folder_without_a_tokenizer_is_found_by_check_whatever_asks() {
        static ANSWERS: Answers = Answers { loader: &NoModels };
        static EXPAND: Expand = Expand { loader: &NoModels };
        static JUDGE: Judge = Judge { loader: &NoModels };
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("config.json"), "{}").unwrap();
        let around = Around {
            teacher: decoded(&json!({ "provider": "local", "model": "m" })),
            model: decoded(&json!({ "path": folder.path() })),
        };
        let answers: AnswersConfig = decoded(&json!({ "prompts": "p", "teacher": "t" }));
        let expand: ExpandConfig = decoded(&json!({ "seeds": "p", "teacher": "t", "per-round": 1 }));
        let judge: JudgeConfig = decoded(&json!({ "answers": "a", "teacher": "t" }));
        let stages: [(&'static dyn Kind, &dyn AnyConfig); 3] =
            [(&ANSWERS, &answers), (&EXPAND, &expand), (&JUDGE, &judge)];
        let said = |(kind, config): (&'static dyn Kind, &dyn AnyConfig)| {
            let mut report = Diagnostics::default();
            kind.check(&View::new("stage.s", kind, config, Origin::NOWHERE, &around), &mut report);
            report.sorted().iter().map(|one| one.message.clone()).collect::<Vec<_>>()
        };
        for stage in stages {
            assert_eq!(said(stage), ["model.m has no tokenizer.json"], "{}", stage.0.name());
        }
        fs_err::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        for stage in stages {
            assert_eq!(said(stage), [""; 0], "{}", stage.0.name());
        }
    }
}
