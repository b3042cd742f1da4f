//! `text`: a file of one prompt a line.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, FilePath};

use super::source::{Opening, PromptReader, PromptSource, plain};
use crate::error::{DataError, DataResult};
use crate::prompt::Prompt;
use crate::source::LineReader;
use crate::string_or::StringOr;

/// A file of one prompt a line; blank lines are skipped.
#[derive(Clone, Debug, Config)]
pub struct TextPrompts {
    /// The file.
    pub path: FilePath,
}

impl PromptSource for StringOr<TextPrompts> {
    fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn PromptReader>, Failure> {
        let lines = LineReader::open(&opening.file("path")?)?;
        Ok(Box::new(Text { lines, system: opening.system.map(str::to_owned), blank: 0 }))
    }
}

struct Text {
    lines: LineReader,
    system: Option<String>,
    blank: u64,
}

impl PromptReader for Text {
    fn next_prompt(&mut self) -> DataResult<Option<Prompt>> {
        while let Some(line) = self.lines.next_line()? {
            if !line.text.trim().is_empty() {
                return Ok(Some(plain(line.text.to_owned(), self.system.as_deref())));
            }
            self.blank += 1;
        }
        Ok(None)
    }

    fn dropped(&self) -> Vec<(&'static str, u64)> {
        vec![("blank-line", self.blank)]
    }

    fn without_rows(&self) -> Option<DataError> {
        Some(self.lines.only_blank("prompts"))
    }
}
