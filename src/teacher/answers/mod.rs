//! The stage `[answers.X]`: prompts answered by a teacher, written in the order of the prompts.

mod config;
mod failed;
mod images;
mod output;
mod policy;
mod questions;

use stillhouse_data::lm::ModelLoader;
use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Ahead, Context, Failure, Forecast, Kind, Needs, Outcome, StageKind, View, kind};

#[cfg(test)]
pub(crate) mod tests;

pub use config::{AnswersConfig, CaptureConfig, DrawingConfig, OnRejected, Prompts, SamplingConfig};
pub use failed::{FailedConfig, OnFailed};
pub use output::{CAPTURED_FILE, Captured, DROPPED_FILE, Dropped, Output};
pub use policy::{AtLast, FormatConfig, OutcomesConfig, Policy, Treatment, Verdict};
pub use questions::Questions;

use crate::definition::{TeacherConfig, needs_of};
use crate::provider::{Job, local};

/// The kind. The command line gives it the means to open models, for teachers that run here.
pub struct Answers {
    /// Opens models.
    pub loader: &'static dyn ModelLoader,
}

impl Kind for Answers {
    kind!("answers", AnswersConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        let Some(answers) = view.config_as::<AnswersConfig>() else { return };
        if let Some(teacher) = view.follow("teacher").and_then(|teacher| teacher.config_as::<TeacherConfig>()) {
            teacher.settings.check(answers, &|path| view.place(path), report);
            local::check(view, report);
            if let Some(why) = teacher.settings.sees_nothing() {
                images::check(view, why, report);
            }
        }
    }
}

impl StageKind for Answers {
    /// 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, view: &View<'_>) -> Needs {
        needs_of(view)
    }

    fn forecast(&self, ahead: &Ahead<'_>) -> Option<Forecast> {
        let answers = ahead.view.config_as::<AnswersConfig>()?;
        let teacher = ahead.view.follow("teacher")?;
        teacher.config_as::<TeacherConfig>()?.settings.forecast(answers, ahead)
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let answers: AnswersConfig = context.config()?;
        let teacher: TeacherConfig = context.definition("teacher")?;
        let name = &context.definition_order("teacher")?.name;
        if let Some(why) = teacher.settings.sees_nothing() {
            images::refuse(context, why)?;
        }
        teacher.settings.answer(&Job { context, answers: &answers, teacher: name, loader: self.loader })
    }
}
