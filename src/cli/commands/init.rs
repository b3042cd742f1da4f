//! `stillhouse init [FILE]`

use std::io::Write;
use std::process::ExitCode;

use stillhouse_stage::Failure;

use crate::args::Init;
use crate::error::CliError;
use crate::render;

/// An experiment that anybody can adapt; a test checks that it is right.
const EXAMPLE: &str = include_str!("init.toml");

/// Writes the example; never over a file that is there.
pub fn run(command: &Init) -> Result<ExitCode, CliError> {
    let created = fs_err::OpenOptions::new().write(true).create_new(true).open(&command.file);
    let mut file = created.map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            let message = format!("{} is there already", command.file.display());
            return CliError::arguments(message, "give another name: `stillhouse init my-experiment.toml`");
        }
        Failure::from(error).into()
    })?;
    file.write_all(EXAMPLE.as_bytes())?;
    let name = command.file.display();
    render::words(&format!("wrote {name}\nhint: set the teacher's base-url and model, then `stillhouse check {name}`"));
    Ok(ExitCode::SUCCESS)
}
