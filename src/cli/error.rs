//! What ends a command: diagnostics of a file, or one line with a hint. Each has its exit code.

use std::process::ExitCode;

use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Class, Failure};
use stillhouse_store::StoreError;

use crate::args::Global;
use crate::render;

/// The exit code of an experiment file that is wrong.
pub const WRONG_FILE: u8 = 1;
/// The exit code of wrong arguments.
pub const WRONG_ARGUMENTS: u8 = 64;

/// Why a command ended early.
pub enum CliError {
    /// The experiment file is wrong.
    File(Box<Diagnostics>),
    /// A failure in words.
    Failure(Failure, u8),
}

impl CliError {
    /// The arguments name something that is not there.
    pub fn arguments(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failure(Failure::input(message).hint(hint), WRONG_ARGUMENTS)
    }

    /// Prints it and answers the exit code.
    pub fn print(self, global: &Global) -> ExitCode {
        match self {
            Self::File(diagnostics) => {
                render::diagnostics::print(&diagnostics, global);
                ExitCode::from(WRONG_FILE)
            }
            Self::Failure(failure, code) => {
                render::failure(&failure, global);
                ExitCode::from(code)
            }
        }
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let code = failure.class.exit_code();
        Self::Failure(failure, code)
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        // A name that stands for nothing is a wrong argument; everything else is the machine's fault.
        let wrong_name = matches!(error, StoreError::NotFound { .. } | StoreError::BadName { .. });
        match Self::from(Failure::from(error)) {
            Self::Failure(failure, _) if wrong_name => Self::Failure(failure, WRONG_ARGUMENTS),
            other => other,
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Failure(Failure::from(error), Class::Environment.exit_code())
    }
}
