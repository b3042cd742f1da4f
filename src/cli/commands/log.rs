//! `stillhouse log [STAGE]`

use std::process::ExitCode;

use stillhouse_engine::logs;
use stillhouse_store::Store;

use crate::args::{Global, Log};
use crate::error::CliError;
use crate::render;

/// Shows the log of a stage, or of a whole run.
pub fn run(command: &Log, global: &Global) -> Result<ExitCode, CliError> {
    let store = Store::open_existing(&global.cache)?;
    let runs = match &command.run {
        Some(text) => vec![store.find_run(text)?],
        None => store.runs()?,
    };
    let Some(stage) = &command.stage else {
        let Some(run) = runs.first() else {
            return Err(CliError::arguments("there is no run yet", "`stillhouse run FILE` makes one"));
        };
        render::data(fs_err::read_to_string(run.path.join("log"))?.trim_end());
        return Ok(ExitCode::SUCCESS);
    };
    let mut logs = runs.iter().map(|run| logs::path(&run.path, stage));
    let Some(path) = logs.find(|path| path.exists()) else {
        return Err(CliError::arguments(
            format!("no run has a log of `{stage}`"),
            "a stage that said nothing leaves none; `stillhouse runs` lists runs",
        ));
    };
    let bytes = fs_err::read(&path)?;
    render::data(String::from_utf8_lossy(&bytes).trim_end());
    Ok(ExitCode::SUCCESS)
}
