//! Where prompts come from: one file each, one line in [`SOURCES`].

use std::path::PathBuf;

use stillhouse_spec::entry;
use stillhouse_stage::spec::registry::Component;
use stillhouse_stage::spec::{Entry, Registry};
use stillhouse_stage::{Context, Failure};

use super::code::CodePrompts;
use super::csv::CsvPrompts;
use super::jsonl::JsonlPrompts;
use super::list::ListPrompts;
use super::parquet::ParquetPrompts;
use super::row::ImageAt;
use super::text::TextPrompts;
use crate::error::{DataError, DataResult};
use crate::prompt::{Message, Prompt};
use crate::string_or::StringOr;

/// Every source.
pub static SOURCES: &[Entry<dyn PromptSource>] = &[
    entry!("list", ListPrompts as dyn PromptSource),
    entry!("text", StringOr<TextPrompts> as dyn PromptSource),
    entry!("jsonl", JsonlPrompts as dyn PromptSource),
    entry!("csv", CsvPrompts as dyn PromptSource),
    entry!("parquet", ParquetPrompts as dyn PromptSource),
    entry!("code", CodePrompts as dyn PromptSource),
];

/// A source as it is written: settings only.
pub trait PromptSource: Component + Send + Sync {
    /// Whether its own table says what stands before a prompt.
    fn has_own_system(&self) -> bool {
        false
    }

    /// The first of so many rows that shows an image, looked for before anything runs; nothing where none can.
    fn first_image(&self, most: usize) -> Option<ImageAt> {
        let _ = most;
        None
    }

    /// Opens it.
    ///
    /// # Errors
    /// A file that cannot be read, a template that is none.
    fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn PromptReader>, Failure>;
}

impl Registry for dyn PromptSource {
    const WHAT: &'static str = "source of prompts";

    fn entries() -> &'static [Entry<Self>] {
        SOURCES
    }
}

/// An open source: prompts one at a time, in an order that depends on nothing but the files.
pub trait PromptReader {
    /// The next prompt.
    ///
    /// # Errors
    /// [`DataError::Row`] for a row that is not what it should be: the next call goes on behind it. Any other error is the end.
    fn next_prompt(&mut self) -> DataResult<Option<Prompt>>;

    /// What was left out on purpose: what → how many.
    fn dropped(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// The error of a source that ended without a row, where it is one.
    fn without_rows(&self) -> Option<DataError> {
        None
    }
}

/// What a source is opened with.
pub struct Opening<'a> {
    /// The stage.
    pub context: &'a Context,
    /// The source's key in the table: fields of its table are named below it.
    pub name: &'static str,
    /// What stands before every prompt, for sources without a setting of their own.
    pub system: Option<&'a str>,
}

impl Opening<'_> {
    /// The file that a field of the source's table names.
    ///
    /// # Errors
    /// If it changed or is gone.
    pub fn file(&self, field: &str) -> Result<PathBuf, Failure> {
        self.context.file(&format!("{}.{field}", self.name))
    }

    /// The files of the folder that a field of the source's table names, by name.
    ///
    /// # Errors
    /// If one of them changed or is gone.
    pub fn files(&self, field: &str) -> Result<Vec<(String, PathBuf)>, Failure> {
        self.context.files(&format!("{}.{field}", self.name))
    }
}

/// A prompt of one text, behind the instructions.
pub(super) fn plain(text: String, system: Option<&str>) -> Prompt {
    let messages = system.map(Message::system).into_iter().chain([Message::user(text)]).collect();
    Prompt::new(messages, None)
}
