//! `parquet`: a Parquet file.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostics, FilePath, Node};

use super::row::{ImageAt, RowPrompts, RowSettings, first_image};
use super::source::{Opening, PromptReader, PromptSource};
use crate::source::ParquetReader;

/// A Parquet file, its rows filled into a template. Messages count rows from 1.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct ParquetPrompts {
    /// The file.
    pub path: FilePath,
    /// The prompt, in minijinja: `"{{ instruction }}\n{{ context }}"`. A field that the file lacks is an error.
    pub template: Option<String>,
    /// Instead of a template, the field that holds a conversation: a list of `{ role, content }` or of `{ from, value }`.
    pub messages: Option<String>,
    /// What every source of rows has besides.
    #[config(inline)]
    pub rows: RowSettings,
}

fn sound(config: &ParquetPrompts, node: &Node, report: &mut Diagnostics) {
    config.rows.check(&config.template, &config.messages, node, report);
}

impl PromptSource for ParquetPrompts {
    fn has_own_system(&self) -> bool {
        true
    }

    fn first_image(&self, most: usize) -> Option<ImageAt> {
        first_image(ParquetReader::open(&self.path.path), &self.messages, most)
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn PromptReader>, Failure> {
        let rows = ParquetReader::open(&opening.file("path")?)?;
        let fill = self.rows.open(&self.template, &self.messages, opening)?;
        Ok(Box::new(RowPrompts { rows: Box::new(rows), fill }))
    }
}
