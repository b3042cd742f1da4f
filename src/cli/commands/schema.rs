//! `stillhouse schema`

use std::process::ExitCode;

use crate::error::CliError;
use crate::kinds::KINDS;
use crate::render;

/// Prints the JSON Schema of experiment files.
pub fn run() -> Result<ExitCode, CliError> {
    let schema = stillhouse_engine::schema::experiment_schema(KINDS);
    let text = serde_json::to_string_pretty(&schema).map_err(std::io::Error::from)?;
    render::data(&text);
    Ok(ExitCode::SUCCESS)
}
