//! What can go wrong with a user's data, one variant per fault: each names the place, `hint` says what to do.

use std::path::{Path, PathBuf};

/// A fault in data, a tokenizer, a template or a file of this crate's own formats.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused. The message names the file.
    #[error("{}", system_error(path, source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row of a source file is not what it should be.
    #[error("{}:{line}{}: {message}", path.display(), column.map(|c| format!(":{c}")).unwrap_or_default())]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: u64,
        /// Column in characters, counted from 1, where it is known.
        column: Option<usize>,
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A file as a whole is not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A value or a combination of values that cannot work.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A file of one of this crate's formats is damaged or of another version.
    #[error("{}: {message}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A program of the user's did not do what it should.
    #[error("{message}")]
    Program {
        /// What it did.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The work was told to stop.
    #[error("stopped on request")]
    Cancelled,
}

/// The result of everything in this crate that can fail.
pub type DataResult<T> = Result<T, DataError>;

impl DataError {
    /// What a user can do about it, as one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => {
                    Some("paths are relative to the experiment file; is the name right?".into())
                }
                std::io::ErrorKind::StorageFull => Some("free some space, or use another store with --cache".into()),
                _ => None,
            },
            Self::Row { hint, .. }
            | Self::File { hint, .. }
            | Self::Invalid { hint, .. }
            | Self::Program { hint, .. } => hint.clone(),
            Self::Corrupt { .. } => {
                Some("`stillhouse cache verify` finds damaged artifacts so that they are made again".into())
            }
            Self::Cancelled => None,
        }
    }

    /// Wraps an error of the operating system with the file it is about.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// The same of a file that this project wrote: an artifact's, or one of a stage that is running. Where it is not there, nobody misspelled its
    /// name: it was lost.
    pub fn own_io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let failed = Self::io(path);
        move |source| failed(source).of_own_file()
    }

    /// What an error says where the file that it is about is one of this project's own.
    pub(crate) fn of_own_file(self) -> Self {
        match self {
            Self::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::corrupt(path, "the file is gone from the cache or the working folder")
            }
            other => other,
        }
    }

    /// A value that cannot work, with a hint.
    pub fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), hint: Some(hint.into()) }
    }

    /// A damaged file of one of this crate's formats.
    pub fn corrupt(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Corrupt { path: path.as_ref().to_path_buf(), message: message.into() }
    }
}

/// `fs_err` names the file and what was tried in its messages; other system errors name nothing.
fn system_error(path: &Path, source: &std::io::Error) -> String {
    match source.get_ref() {
        Some(told) => told.to_string(),
        None => format!("{}: {source}", path.display()),
    }
}
