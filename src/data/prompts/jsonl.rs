//! `jsonl`: a file of one JSON object a line.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostics, DirectoryPath, FilePath, Node};

use super::row::{AllFiles, ImageAt, RowPrompts, RowSettings, first_image};
use super::source::{Opening, PromptReader, PromptSource};
use crate::source::ObjectReader;

/// A file of one JSON object a line, filled into a template.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct JsonlPrompts {
    /// The file.
    pub path: FilePath,
    /// The prompt, in minijinja: `"{{ instruction }}\n{{ context }}"`. A field that a row lacks is an error.
    pub template: Option<String>,
    /// Instead of a template, the field that holds a conversation: a list of `{ role, content }` or of `{ from, value }`.
    pub messages: Option<String>,
    /// The folder of the images that conversations name by their path. Its content is part of the key.
    pub images: Option<DirectoryPath<AllFiles>>,
    /// Instructions that stand before the prompt, a template too; nothing where it comes out empty.
    pub system: Option<String>,
    /// The answer that the source gives, a template too: `"{{ output }}"`. For evaluations.
    pub reference: Option<String>,
}

impl JsonlPrompts {
    fn settings(&self) -> RowSettings<'_> {
        let Self { path: _, template, messages, images, system, reference } = self;
        RowSettings { template, messages, images: images.is_some(), system, reference }
    }
}

fn sound(config: &JsonlPrompts, node: &Node, report: &mut Diagnostics) {
    config.settings().check(node, report);
}

impl PromptSource for JsonlPrompts {
    fn has_own_system(&self) -> bool {
        true
    }

    fn first_image(&self, most: usize) -> Option<ImageAt> {
        first_image(ObjectReader::open(&self.path.path), &self.messages, most)
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn PromptReader>, Failure> {
        let rows = ObjectReader::open(&opening.file("path")?)?;
        Ok(Box::new(RowPrompts { rows: Box::new(rows), fill: self.settings().open(opening)? }))
    }
}
