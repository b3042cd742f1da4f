//! The stage `[student.X]`.

mod check;
mod config;
mod failure;
mod folders;
mod head;
mod identity;
mod initial;
mod job;
mod narrator;
mod opening;
mod run;
mod sharing;
mod stored;
mod teacher;

pub use config::{BatchConfig, StudentConfig, Teachers};
pub use initial::{Beginning, INITS, Initial, PretrainedModels};

use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Context, Explained, Failure, Kind, Needs, Outcome, Placement, StageKind, View, kind};

/// The kind.
pub struct Student;

impl Kind for Student {
    kind!("student", StudentConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        check::teacher(view, report);
        check::layers(view, report);
        check::cut(view, report);
        check::trained_weights(view, report);
        check::rows(view, report);
        folders::readable(view, report);
    }
}

impl StageKind for Student {
    // 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, view: &View<'_>) -> Needs {
        let family = view.config_as::<StudentConfig>().and_then(StudentConfig::family);
        Needs { placement: Placement::Worker, compute: true, device: true, family, ..Needs::default() }
    }

    fn remarks(&self, explained: &Explained<'_>) -> Vec<String> {
        sharing::remarks(explained)
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        run::run(context)
    }
}

#[cfg(test)]
mod tests;
