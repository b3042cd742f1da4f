//! A student's errors as failures of its stage.

use stillhouse_stage::{Class, Failure};

use crate::error::StudentError;

impl From<StudentError> for Failure {
    fn from(error: StudentError) -> Self {
        let hint = error.hint();
        let message = error.to_string();
        let failure = match error {
            StudentError::Data(error) => return error.into(),
            StudentError::Store(error) => return (*error).into(),
            StudentError::Io { source, .. } => Self { message, ..Self::from(source) },
            StudentError::Diverged { .. } => Self::new(Class::Training, message),
            StudentError::Device { .. } | StudentError::OutOfMemory { .. } => Self::environment(message),
            StudentError::Cancelled => return Self::interrupted(),
            _ => Self::input(message),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
