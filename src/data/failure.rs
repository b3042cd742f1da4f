//! Faults of this crate as failures of a stage: whose fault each is.

use std::io::ErrorKind;

use stillhouse_stage::{Class, Failure};

use crate::error::DataError;
use crate::lm::{LmError, LmErrorKind};

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        let (message, hint) = (error.to_string(), error.hint());
        let failure = match error {
            // A path that names nothing is a slip of the user's; a disk that is full is not.
            DataError::Io { source, .. } if source.kind() == ErrorKind::NotFound => Self::input(message),
            DataError::Io { source, .. } => Self { message, ..Self::from(source) },
            DataError::Row { .. } | DataError::File { .. } | DataError::Invalid { .. } => Self::input(message),
            DataError::Corrupt { .. } => Self::environment(message),
            DataError::Program { .. } => Self::new(Class::Command, message),
            DataError::Cancelled => Self::interrupted(),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<LmError> for Failure {
    fn from(error: LmError) -> Self {
        let LmError { kind, message, hint } = error;
        let class = match kind {
            LmErrorKind::Input => Class::Input,
            LmErrorKind::Device => Class::Environment,
            LmErrorKind::Cancelled => return Self::interrupted(),
            LmErrorKind::Internal => Class::Internal,
        };
        Self { class, message, hint }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::answer::read_answers;
    use crate::embeddings::EmbeddingReader;
    use crate::model_folder::ModelFolder;
    use crate::signals::SignalReader;

    #[test]
    fn a_missing_file_of_the_user_is_a_slip_and_one_of_ours_or_a_full_disk_is_not() {
        let of = |kind: ErrorKind| Failure::from(DataError::io(Path::new("x.jsonl"))(kind.into()));
        assert_eq!(of(ErrorKind::NotFound).class, Class::Input);
        let lost = |error: DataError| {
            let failure = Failure::from(error);
            (failure.class, failure.hint.is_some_and(|hint| hint.contains("cache verify")))
        };
        let ours = Path::new("/nowhere/0123abcd");
        for error in [
            DataError::own_io(ours)(ErrorKind::NotFound.into()),
            read_answers(ours).err().unwrap(),
            SignalReader::open(ours).err().unwrap(),
            EmbeddingReader::open(ours).err().unwrap(),
            ModelFolder::from_files("student.small", [("config.json".to_owned(), ours.to_owned())])
                .read_text("config.json")
                .unwrap_err(),
        ] {
            assert_eq!(lost(error), (Class::Environment, true));
        }
        assert_eq!(Failure::from(DataError::own_io(ours)(ErrorKind::StorageFull.into())).class, Class::Environment);
        let full = of(ErrorKind::StorageFull);
        assert_eq!(full.class, Class::Environment);
        assert!(full.message.starts_with("x.jsonl: ") && full.hint.is_some());
    }
}
