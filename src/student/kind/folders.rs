//! The model folders that a student names, looked at before anything is paid or trained: by their configuration and the
//! heads of their weights' files, which takes milliseconds whatever their size.

use stillhouse_data::model::ModelConfig;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_spec::{Diagnostic, Diagnostics};
use stillhouse_stage::View;

use super::config::StudentConfig;
use super::initial::Beginning;
use crate::error::Result;
use crate::weights::look_at;

/// A model that a student begins with, is cut from or learns beside must be one that can be read.
pub(super) fn readable(view: &View<'_>, report: &mut Diagnostics) {
    let Some(config) = view.config_as::<StudentConfig>() else { return };
    let begins_with = match config.init.value.beginning() {
        Beginning::Fresh(_) => None,
        Beginning::Weights(field) | Beginning::Cut(field, _) => view.follow(field),
    };
    let teacher = view.follow("teacher").and_then(|teacher| teacher.follow("model"));
    for model in begins_with.iter().chain(&teacher) {
        let Some(named) = model.config_as::<ModelConfig>() else { continue };
        // What is not there is reported where paths are looked at.
        if !named.path.path.exists() {
            continue;
        }
        if let Err(error) = look(model, named) {
            let found = Diagnostic::error(named.path.at, error.to_string());
            let found = match error.hint() {
                Some(hint) => found.hint(hint),
                None => found,
            };
            report.push(found.related(view.at, format!("{} needs this model", view.label)));
        }
    }
}

fn look(model: &View<'_>, named: &ModelConfig) -> Result<()> {
    let folder = ModelFolder::open(&named.path.path)?;
    look_at(&ModelFolder { label: model.label.to_owned(), ..folder })
}
