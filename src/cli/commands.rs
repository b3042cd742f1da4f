//! One file a command.

mod cache;
mod check;
mod doctor;
mod generate;
mod init;
mod kinds;
mod log;
mod plan;
mod run;
mod runs;
mod schema;
mod show;
mod why;
mod worker;

use std::process::ExitCode;

use crate::args::{Arguments, Command};
use crate::error::CliError;
use crate::logging;

/// Does what the arguments say.
pub fn run(arguments: &Arguments) -> Result<ExitCode, CliError> {
    let global = &arguments.global;
    logging::start();
    match &arguments.command {
        Command::Check(command) => Ok(check::run(command, global)),
        Command::Plan(command) => plan::run(command, global),
        Command::Run(command) => run::run(command, global),
        Command::Why(command) => why::run(command, global),
        Command::Runs(command) => runs::run(command, global),
        Command::Show(command) => show::run(command, global),
        Command::Log(command) => log::run(command, global),
        Command::Cache(command) => cache::run(command, global),
        Command::Schema => schema::run(),
        Command::Kinds(command) => kinds::run(command, global),
        Command::Doctor => doctor::run(global),
        Command::Generate(command) => generate::run(command, global),
        Command::Init(command) => init::run(command),
        Command::Worker(command) => worker::run(command),
    }
}
