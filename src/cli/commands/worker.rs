//! `stillhouse worker ATTEMPT`

use std::process::ExitCode;

use crate::args::Worker;
use crate::error::CliError;
use crate::kinds::KINDS;

/// Does one work order.
pub fn run(command: &Worker) -> Result<ExitCode, CliError> {
    crate::logging::into(&command.attempt.join("log"))?;
    stillhouse_engine::worker::work(&command.attempt, command.tied, KINDS)?;
    Ok(ExitCode::SUCCESS)
}
