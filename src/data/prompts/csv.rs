//! `csv`: a file of records whose first one names the fields.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, FilePath, Node};

use super::row::{ImageAt, RowPrompts, RowSettings, first_image};
use super::source::{Opening, PromptReader, PromptSource};
use crate::source::CsvReader;

/// A file of comma-separated values whose first record names the fields, filled into a template.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct CsvPrompts {
    /// The file.
    pub path: FilePath,
    /// What stands between two fields: `"\t"` for tabs.
    #[config(default = ",".to_owned())]
    pub delimiter: String,
    /// The prompt, in minijinja: `"{{ instruction }}\n{{ context }}"`. A field that the header does not name is an error.
    pub template: Option<String>,
    /// Instead of a template, the field that holds a conversation, as JSON: a list of `{ role, content }` or of `{ from, value }`.
    pub messages: Option<String>,
    /// What every source of rows has besides.
    #[config(inline)]
    pub rows: RowSettings,
}

impl CsvPrompts {
    fn delimiter(&self) -> Option<u8> {
        match self.delimiter.as_bytes() {
            [b'"' | b'\n' | b'\r'] => None,
            [one] if one.is_ascii() => Some(*one),
            _ => None,
        }
    }
}

fn sound(config: &CsvPrompts, node: &Node, report: &mut Diagnostics) {
    config.rows.check(&config.template, &config.messages, node, report);
    if config.delimiter().is_none() {
        let at = node.as_table().and_then(|table| table.get("delimiter")).map_or(node.at, |node| node.at);
        report.push(
            Diagnostic::error(at, "`delimiter` must be one ASCII character, neither a quote nor a line end")
                .hint("\",\", \";\", \"|\" or \"\\t\""),
        );
    }
}

impl PromptSource for CsvPrompts {
    fn has_own_system(&self) -> bool {
        true
    }

    fn first_image(&self, most: usize) -> Option<ImageAt> {
        first_image(CsvReader::open(&self.path.path, self.delimiter().unwrap_or(b',')), &self.messages, most)
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn PromptReader>, Failure> {
        let rows = CsvReader::open(&opening.file("path")?, self.delimiter().unwrap_or(b','))?;
        let fill = self.rows.open(&self.template, &self.messages, opening)?;
        Ok(Box::new(RowPrompts { rows: Box::new(rows), fill }))
    }
}
