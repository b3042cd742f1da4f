//! What ends a command: diagnostics of a file, or one line with a hint. Each has its exit code.

use std::process::ExitCode;

use serde_json::{Value, json};
use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Class, Failure};
use stillhouse_store::StoreError;

use crate::args::{Format, Global};
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
        match (&self, global.format) {
            (_, Format::Json) => return self.print_json(),
            (Self::File(diagnostics), Format::Text) => render::diagnostics::print(diagnostics, global),
            (Self::Failure(failure, _), Format::Text) => render::failure(failure, global),
        }
        ExitCode::from(self.code())
    }

    /// Prints it as an object on a line of standard error, the one form that every command's error has with `--format json`
    /// (API), and answers the exit code.
    pub fn print_json(self) -> ExitCode {
        render::words(&self.to_json().to_string());
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::File(_) => WRONG_FILE,
            Self::Failure(_, code) => *code,
        }
    }

    /// What is wrong with a file is listed in `diagnostics`.
    fn to_json(&self) -> Value {
        let code = self.code();
        match self {
            Self::Failure(failure, _) => {
                json!({ "error": failure.message, "class": failure.class, "hint": failure.hint, "exit-code": code })
            }
            Self::File(diagnostics) => {
                let errors = diagnostics.error_count();
                let error = format!("the experiment file has {errors} error{}", if errors == 1 { "" } else { "s" });
                let diagnostics = render::diagnostics::to_json(diagnostics);
                json!({
                    "error": error, "class": Class::Input, "hint": null, "exit-code": code, "diagnostics": diagnostics,
                })
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
            Self::Failure(failure, _) if wrong_name => {
                Self::Failure(Failure { class: Class::Input, ..failure }, WRONG_ARGUMENTS)
            }
            other => other,
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Failure(Failure::from(error), Class::Environment.exit_code())
    }
}
