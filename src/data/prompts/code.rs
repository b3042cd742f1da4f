//! `code`: pieces of source code, filled into a template that asks for something to be done with them.

mod cut;
mod language;

use std::collections::VecDeque;
use std::path::PathBuf;

use serde_json::{Map, Value};
use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, FileTree, Node};

use super::source::{Opening, PromptReader, PromptSource, plain};
use crate::error::{DataError, DataResult};
use crate::prompt::Prompt;
use crate::source::{Object, RowTemplate};
use cut::{Cutter, Piece};

/// A tree of source files, cut into pieces that are filled into a template.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct CodePrompts {
    /// The files.
    pub files: FileTree,
    /// What is asked of a piece.
    pub task: Option<CodeTask>,
    /// Instead of `task`, a template of your own, in minijinja, over `code`, `path`, `language`, `name` and `line`.
    pub template: Option<String>,
    /// Where pieces begin and end.
    #[config(default = CodeCut::Definitions)]
    pub cut: CodeCut,
    /// The longest piece, in characters. A longer definition is cut at those inside it, or else by lines.
    #[config(default = 4000, min = 100)]
    pub max_characters: usize,
    /// Shorter pieces ask nothing worth an answer: they are left out, and counted.
    #[config(default = 40)]
    pub min_characters: usize,
    /// Lines that a piece repeats of the one before it, where it is cut by lines.
    #[config(default = 5)]
    pub overlap_lines: usize,
}

/// What is asked of a piece of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum CodeTask {
    /// What it does, and how.
    Explain,
    /// The same, written better.
    Refactor,
    /// The same, with documentation.
    Document,
    /// Tests for it.
    Test,
}

/// Where pieces begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum CodeCut {
    /// A function, a type, a class: with the comments before it. Known in Rust, Python, JavaScript, TypeScript, Go and C;
    /// other files, and those without any definition, are cut by lines.
    Definitions,
    /// As many whole lines as `max-characters` holds.
    Lines,
}

impl CodeTask {
    fn template(self) -> &'static str {
        match self {
            Self::Explain => {
                "Explain what this {{ language }} code does, and how.\n\n{{ path }}:\n```{{ language }}\n{{ code }}\n```"
            }
            Self::Refactor => {
                "Refactor this {{ language }} code so that it is easier to read and to change. It must go on doing the same. \
                 Give the whole code.\n\n{{ path }}:\n```{{ language }}\n{{ code }}\n```"
            }
            Self::Document => {
                "Add documentation comments to this {{ language }} code, in the usual style of the language. Change nothing \
                 else. Give the whole code.\n\n{{ path }}:\n```{{ language }}\n{{ code }}\n```"
            }
            Self::Test => {
                "Write unit tests for this {{ language }} code, with the usual test framework of the language. Cover the \
                 edge cases.\n\n{{ path }}:\n```{{ language }}\n{{ code }}\n```"
            }
        }
    }
}

fn sound(config: &CodePrompts, node: &Node, report: &mut Diagnostics) {
    if config.task.is_some() == config.template.is_some() {
        report.push(
            Diagnostic::error(node.at, "`code` needs exactly one of `task` and `template`")
                .hint("task = \"explain\", \"refactor\", \"document\" or \"test\"; template = \"…{{ code }}…\""),
        );
    }
    if config.min_characters > config.max_characters {
        report.push(Diagnostic::error(node.at, "`min-characters` is larger than `max-characters`"));
    }
}

impl PromptSource for CodePrompts {
    fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn PromptReader>, Failure> {
        let Self { files: _, task, template, cut, max_characters, min_characters, overlap_lines } = self;
        let template = template.as_deref().or(task.map(CodeTask::template)).unwrap_or("{{ code }}");
        Ok(Box::new(Code {
            files: opening.files("files")?.into_iter(),
            template: RowTemplate::new(template, "template")?,
            system: opening.system.map(str::to_owned),
            cutter: Cutter { cut: *cut, most: *max_characters, overlap: *overlap_lines },
            least: *min_characters,
            file: None,
            pieces: VecDeque::new(),
            small: 0,
            long: 0,
        }))
    }
}

struct Code {
    files: std::vec::IntoIter<(String, PathBuf)>,
    template: RowTemplate,
    system: Option<String>,
    cutter: Cutter,
    least: usize,
    file: Option<(String, PathBuf)>,
    pieces: VecDeque<Piece>,
    small: u64,
    long: u64,
}

impl Code {
    fn open_next(&mut self) -> DataResult<bool> {
        let Some((name, path)) = self.files.next() else { return Ok(false) };
        let bytes = fs_err::read(&path).map_err(DataError::io(&path))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
            let line = before.matches('\n').count() as u64 + 1;
            DataError::Row {
                path: path.clone(),
                line,
                column: Some(before.rsplit('\n').next().unwrap_or_default().chars().count() + 1),
                message: "not valid UTF-8".into(),
                hint: Some("list it in `exclude`, or save it as UTF-8".into()),
            }
        })?;
        let pieces = self.cutter.pieces(&name, &text);
        self.long += pieces.long_lines;
        self.pieces.extend(pieces.pieces);
        self.file = Some((name, path));
        Ok(true)
    }

    fn prompt(&self, name: &str, path: &std::path::Path, piece: Piece) -> DataResult<Prompt> {
        let Piece { code, line, name: definition, language } = piece;
        let fields: Map<String, Value> = [
            ("code", code.into()),
            ("path", name.into()),
            ("language", language.into()),
            ("name", definition.into()),
            ("line", line.into()),
        ]
        .into_iter()
        .map(|(name, value): (&str, Value)| (name.to_owned(), value))
        .collect();
        let text = self.template.render(path, &Object { line, fields })?;
        Ok(plain(text, self.system.as_deref()))
    }
}

impl PromptReader for Code {
    fn next_prompt(&mut self) -> DataResult<Option<Prompt>> {
        loop {
            while let Some(piece) = self.pieces.pop_front() {
                if piece.code.trim().chars().count() < self.least {
                    self.small += 1;
                    continue;
                }
                if let Some((name, path)) = &self.file {
                    return self.prompt(name, path, piece).map(Some);
                }
            }
            if !self.open_next()? {
                return Ok(None);
            }
        }
    }

    fn dropped(&self) -> Vec<(&'static str, u64)> {
        vec![("short-piece", self.small), ("long-line", self.long)]
    }

    fn without_rows(&self) -> Option<DataError> {
        Some(DataError::invalid(
            "no file of the tree holds a piece of code that is long enough",
            "lower `min-characters`, or choose other files",
        ))
    }
}
