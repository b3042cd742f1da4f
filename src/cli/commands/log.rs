//! `stillhouse log [STAGE]`

use std::collections::BTreeSet;
use std::process::ExitCode;

use stillhouse_engine::logs;
use stillhouse_spec::suggest;
use stillhouse_store::{RunEntry, Store};

use crate::args::{Global, Log};
use crate::commands::{runs, show};
use crate::error::CliError;
use crate::render;

/// Shows the log of a stage, or of a whole run.
pub fn run(command: &Log, global: &Global) -> Result<ExitCode, CliError> {
    let store = Store::open_existing(&global.cache)?;
    let runs: Vec<RunEntry> = match &command.run {
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
    let log_of = |stage: &str| runs.iter().map(|run| logs::path(&run.path, stage)).find(|path| path.exists());
    let path = match log_of(stage) {
        Some(path) => path,
        None => {
            let names = stages(&runs);
            let names = || names.iter().map(String::as_str);
            let Some(whole) = show::whole_name(stage, names()) else {
                let message = format!("no run has a stage `{stage}`");
                let close = suggest::did_you_mean(stage, names()).map(|close| format!("did you mean `{close}`?"));
                return Err(CliError::arguments(
                    message,
                    close.unwrap_or_else(|| "`stillhouse show RUN` lists its stages".to_owned()),
                ));
            };
            log_of(&whole).ok_or_else(|| {
                let hint = format!("a stage that said nothing leaves none; `stillhouse show {whole}` shows its result");
                CliError::arguments(format!("there is no log of `{whole}`"), hint)
            })?
        }
    };
    let bytes = fs_err::read(&path)?;
    render::data(String::from_utf8_lossy(&bytes).trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Every stage that the newest runs had to do with.
fn stages(runs: &[RunEntry]) -> BTreeSet<String> {
    const LOOKED_AT: usize = 50;
    runs.iter().take(LOOKED_AT).flat_map(|run| runs::record(run).stages.into_keys()).collect()
}
