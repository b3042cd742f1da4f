//! Faults of statistics as failures of a stage.

use stillhouse_stage::Failure;

use crate::bootstrap::BootstrapError;

impl From<BootstrapError> for Failure {
    fn from(error: BootstrapError) -> Self {
        match error {
            BootstrapError::Settings { .. } | BootstrapError::Empty | BootstrapError::Overflow { .. } => {
                Self::input(error.to_string())
            }
            // Metrics look for such values first, with better words.
            BootstrapError::NotFinite { .. } => Self::internal(error.to_string()),
        }
    }
}
