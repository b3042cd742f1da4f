//! `stillhouse why FILE STAGE`

use std::process::ExitCode;

use serde_json::json;
use stillhouse_engine::{Experiment, Explainer, StageId, remarks};
use stillhouse_spec::suggest;
use stillhouse_store::Store;

use crate::args::{Format, Global, Why};
use crate::error::CliError;
use crate::{render, session};

/// Explains one stage.
pub fn run(command: &Why, global: &Global) -> Result<ExitCode, CliError> {
    let (experiment, report) = session::experiment(&command.experiment)?;
    let store = Store::open(&global.cache)?;
    let (plan, _) = session::planned(&experiment, &store, report)?;
    let ids = find(&experiment, &command.stage)?;
    let [id] = ids.as_slice() else {
        let names: Vec<&str> = ids.iter().map(|id| experiment.graph[*id].name.as_str()).collect();
        return Err(CliError::arguments(
            format!("`{}` means several stages", command.stage),
            format!("one of {}", suggest::list(&names)),
        ));
    };
    let Some(stage) = plan.stage(*id) else {
        return Err(CliError::arguments(
            format!("{} is not in the plan", command.stage),
            "`stillhouse plan` lists them",
        ));
    };
    let why = Explainer::new(&plan, &experiment, &store, store.histories()?).why(stage)?;
    let remarks = remarks(&plan, stage, &why, &experiment, &store)?;
    match global.format {
        Format::Json => {
            let mut value = why.to_json();
            value["remarks"] = json!(remarks);
            value["name"] = json!(stage.name);
            value["decision"] = json!(stage.decision.word());
            value["key"] = json!(stage.key);
            value["recipe"] = stage
                .recipe
                .as_ref()
                .map_or(json!(null), |recipe| serde_json::from_str(&recipe.text()).unwrap_or_default());
            render::data(&value.to_string());
        }
        Format::Text => render::data(&render::plan::why(stage, &why, &remarks)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The stages that an argument means: at least one.
pub fn find(experiment: &Experiment, name: &str) -> Result<Vec<StageId>, CliError> {
    let found = experiment.find(name);
    if !found.is_empty() {
        return Ok(found);
    }
    let hint = suggest::hint(name, experiment.stages().map(|(_, stage)| stage.name.as_str()));
    Err(CliError::arguments(format!("there is no stage `{name}` in {}", experiment.file.display()), hint))
}
