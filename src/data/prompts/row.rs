//! What sources of rows have in common: a row is filled into templates, or holds a conversation.

use std::path::PathBuf;

use stillhouse_stage::Failure;
use stillhouse_stage::spec::types::Selection;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, DirectoryPath, Node, Select};

use super::conversation::{Conversation, Images, shows_image};
use super::source::{Opening, PromptReader};
use crate::error::{DataError, DataResult};
use crate::prompt::{Message, Prompt};
use crate::source::{Object, RowTemplate, Rows};

/// All files of a folder.
#[derive(Clone, Debug)]
pub struct AllFiles;

impl Selection for AllFiles {
    const SELECT: Select = Select::Everything;
}

/// The settings that every source of rows has beside `template` and `messages`, of which each says where its fields are.
#[derive(Clone, Debug, Config)]
pub struct RowSettings {
    /// The folder of the images that conversations name by their path. Its content is part of the key.
    pub images: Option<DirectoryPath<AllFiles>>,
    /// Instructions that stand before the prompt, a template too; nothing where it comes out empty.
    pub system: Option<String>,
    /// The answer that the source gives, a template too: `"{{ output }}"`. For evaluations.
    pub reference: Option<String>,
}

impl RowSettings {
    /// Reports settings that do not go together.
    pub(super) fn check(
        &self,
        template: &Option<String>,
        messages: &Option<String>,
        node: &Node,
        report: &mut Diagnostics,
    ) {
        match (template, messages) {
            (None, None) => report.push(Diagnostic::error(node.at, "missing `template`").hint(
                "add `template = \"{{ field }}\"`, or `messages = \"field\"` where a field holds a whole conversation",
            )),
            (Some(_), Some(_)) => report.push(
                Diagnostic::error(node.at, "`template` stands beside `messages`")
                    .hint("a prompt comes from one of them: remove the other"),
            ),
            _ => {}
        }
        if self.images.is_some() && messages.is_none() {
            report.push(
                Diagnostic::error(node.at, "`images` stands without `messages`")
                    .hint("only conversations name images; remove it"),
            );
        }
    }

    /// Compiles the templates and lists the images.
    pub(super) fn open(
        &self,
        template: &Option<String>,
        messages: &Option<String>,
        opening: &Opening<'_>,
    ) -> Result<Fill, Failure> {
        let compiled =
            |source: &Option<String>, key| source.as_deref().map(|source| RowTemplate::new(source, key)).transpose();
        let asked = match (template, messages) {
            (Some(template), _) => Asked::Template(RowTemplate::new(template, "template")?),
            (None, Some(field)) => {
                let images = if self.images.is_some() { Some(opening.files("images")?) } else { None };
                Asked::Conversation(Conversation::new(field.clone(), Images::new(images)))
            }
            (None, None) => return Err(Failure::internal("a source of rows has neither `template` nor `messages`")),
        };
        Ok(Fill {
            asked,
            system: compiled(&self.system, "system")?,
            reference: compiled(&self.reference, "reference")?,
        })
    }
}

/// A row that shows an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageAt {
    /// The file.
    pub path: PathBuf,
    /// Its line or row, from 1.
    pub line: u64,
}

/// The first of so many rows whose conversation shows an image. What cannot be read is found when it is.
pub(super) fn first_image(rows: DataResult<impl Rows>, messages: &Option<String>, most: usize) -> Option<ImageAt> {
    let (mut rows, field) = (rows.ok()?, messages.as_ref()?);
    for _ in 0..most {
        match rows.next_object() {
            Ok(Some(object)) if object.fields.get(field).is_some_and(shows_image) => {
                return Some(ImageAt { path: rows.path().to_owned(), line: object.line });
            }
            Ok(Some(_)) | Err(DataError::Row { .. }) => {}
            Ok(None) | Err(_) => break,
        }
    }
    None
}

/// Makes a row a prompt.
pub(super) struct Fill {
    asked: Asked,
    system: Option<RowTemplate>,
    reference: Option<RowTemplate>,
}

enum Asked {
    Template(RowTemplate),
    Conversation(Conversation),
}

impl Fill {
    fn prompt(&self, path: &std::path::Path, object: &Object) -> DataResult<Prompt> {
        let render = |template: &Option<RowTemplate>| template.as_ref().map(|it| it.render(path, object)).transpose();
        let (messages, told) = match &self.asked {
            Asked::Conversation(conversation) => conversation.of(path, object)?,
            Asked::Template(template) => {
                let text = template.render(path, object)?;
                if text.trim().is_empty() {
                    return Err(DataError::Row {
                        path: path.to_path_buf(),
                        line: object.line,
                        column: None,
                        message: "the prompt comes out empty".into(),
                        hint: Some("remove the row, or use other fields in `template`".into()),
                    });
                }
                (vec![Message::user(text)], None)
            }
        };
        // A conversation that brings instructions of its own keeps them.
        let own = messages.iter().any(|message| message.role == "system");
        let system = if own { None } else { render(&self.system)?.filter(|text| !text.trim().is_empty()) };
        let reference = render(&self.reference)?.filter(|text| !text.trim().is_empty()).or(told);
        Ok(Prompt::new(system.map(Message::system).into_iter().chain(messages).collect(), reference))
    }
}

/// An open source of rows.
pub(super) struct RowPrompts {
    pub rows: Box<dyn Rows>,
    pub fill: Fill,
}

impl PromptReader for RowPrompts {
    fn next_prompt(&mut self) -> DataResult<Option<Prompt>> {
        let object = self.rows.next_object()?;
        object.map(|object| self.fill.prompt(self.rows.path(), &object)).transpose()
    }
}
