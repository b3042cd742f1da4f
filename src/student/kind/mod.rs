//! The stage `[student.X]`.

mod check;
mod config;
mod failure;
mod head;
mod identity;
mod initial;
mod narrator;
mod opening;
mod run;
mod stored;
mod teacher;

pub use config::{BatchConfig, StudentConfig, Teachers};
pub use initial::{Beginning, INITS, Initial, PretrainedModels};

use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Context, Failure, Kind, Needs, Outcome, Placement, StageKind, View, kind};

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
    }
}

impl StageKind for Student {
    // 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, _: &View<'_>) -> Needs {
        Needs { placement: Placement::Worker, compute: true, device: true, ..Needs::default() }
    }

    fn remarks(&self, view: &View<'_>) -> Vec<String> {
        let Some(config) = view.config_as::<StudentConfig>() else { return Vec::new() };
        vec![format!("with more steps it would share {}", config.shared())]
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        run::run(context)
    }
}

#[cfg(test)]
mod tests;
