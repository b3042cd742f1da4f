//! Why a stage failed: whose fault, one line, what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose fault a failure is; each has an exit code of its own (documented API).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The user's data or settings.
    Input,
    /// The machine: disk full, no permission, out of memory, no device.
    Environment,
    /// A teacher's server.
    Teacher,
    /// A budget is used up; what was paid for is kept.
    Budget,
    /// A program of the user's (`command`) failed.
    Command,
    /// Training went wrong: NaN, a loss spike.
    Training,
    /// Stopped by the user.
    Interrupted,
    /// A fault of ours.
    Internal,
}

impl Class {
    /// The exit code of a run whose worst failure is of this class.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Input | Self::Command | Self::Training => 3,
            Self::Environment => 4,
            Self::Teacher => 5,
            Self::Budget => 6,
            Self::Interrupted => 130,
            Self::Internal => 70,
        }
    }
}

/// A failure as the user reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault.
    pub class: Class,
    /// One line that names the place.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of a class.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None }
    }

    /// The user's data or settings are at fault.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Class::Input, message)
    }

    /// The machine is at fault.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Class::Environment, message)
    }

    /// We are at fault: something that must not happen happened.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Class::Internal, message)
    }

    /// The user stopped it.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(Class::Interrupted, "stopped")
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Turns an I/O error into a failure of the machine, with the words of what was tried in front.
    ///
    /// # Errors
    /// The converted error.
    pub fn io<T>(result: std::io::Result<T>, what: &str) -> Result<T, Self> {
        result.map_err(|error| Self::from(error).context(what))
    }

    /// Puts words in front of the message.
    #[must_use]
    pub fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let failure = Self::environment(error.to_string());
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                failure.hint("free space on the disk (`stillhouse cache gc`), then run again: what is done is kept")
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                failure.hint("the place must be writable; `--cache DIR` names another store")
            }
            _ => failure,
        }
    }
}

impl From<stillhouse_store::StoreError> for Failure {
    fn from(error: stillhouse_store::StoreError) -> Self {
        let failure = Self::environment(error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
