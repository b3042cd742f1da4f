//! `stillhouse worker ATTEMPT`

use std::process::ExitCode;

use crate::args::Worker;
use crate::error::CliError;
use crate::kinds::KINDS;

/// Does one work order.
pub fn run(command: &Worker) -> Result<ExitCode, CliError> {
    if !command.attempt.join(stillhouse_engine::worker::ORDER).exists() {
        let message = format!("there is no work order in {}", command.attempt.display());
        return Err(CliError::arguments(
            message,
            "`stillhouse run` starts workers; there is no need to start one by hand",
        ));
    }
    crate::logging::into(&command.attempt.join("log"))?;
    stillhouse_engine::worker::work(&command.attempt, command.tied, KINDS)?;
    Ok(ExitCode::SUCCESS)
}
