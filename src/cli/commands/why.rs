//! `stillhouse why FILE STAGE`

use std::process::ExitCode;

use serde_json::json;
use stillhouse_engine::Experiment;
use stillhouse_store::Store;

use crate::args::{Format, Global, Why};
use crate::error::CliError;
use crate::{render, session};

/// Explains one stage.
pub fn run(command: &Why, global: &Global) -> Result<ExitCode, CliError> {
    let (experiment, report) = session::experiment(&command.experiment)?;
    let store = Store::open(&global.cache)?;
    let (plan, _) = session::planned(&experiment, &store, report)?;
    let id = find(&experiment, &command.stage)?;
    let Some(stage) = plan.stage(id) else {
        return Err(CliError::arguments(format!("{} is not in the plan", command.stage), "`stillhouse plan` lists them"));
    };
    let why = plan.why(stage, &experiment, &store)?;
    match global.format {
        Format::Json => {
            let mut value = why.to_json();
            value["name"] = json!(stage.name);
            value["decision"] = json!(stage.decision.word());
            value["key"] = json!(stage.key);
            value["recipe"] = stage.recipe.as_ref().map_or(json!(null), |recipe| {
                serde_json::from_str(&recipe.text()).unwrap_or_default()
            });
            render::data(&value.to_string());
        }
        Format::Text => render::data(&render::plan::why(stage, &why)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The stage that an argument means.
pub fn find(experiment: &Experiment, name: &str) -> Result<stillhouse_engine::StageId, CliError> {
    experiment.find(name).map_err(|candidates| {
        let close = stillhouse_spec::suggest::did_you_mean(name, candidates.iter().map(String::as_str));
        let hint = match close {
            Some(close) if close != name => format!("did you mean `{close}`?"),
            _ => format!("one of {}", candidates.join(", ")),
        };
        CliError::arguments(format!("there is no stage `{name}` in {}", experiment.file.display()), hint)
    })
}
