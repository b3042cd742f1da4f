//! The kind `[prompts.X]`: what is to be asked, from a list, a file of lines or a file of JSON objects.

use std::collections::BTreeSet;

use serde_json::json;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, FilePath, Node};
use stillhouse_stage::{Context, Failure, Kind, Outcome, StageKind, kind};

use crate::error::{DataError, DataResult};
use crate::prompt::{Message, PROMPTS_FILE, Prompt, write_prompts};
use crate::random::Stream;
use crate::source::{LineReader, Object, ObjectReader, RowTemplate};
use crate::string_or::StringOr;

/// A set of prompts. Give exactly one of `list`, `text` and `jsonl`. A prompt that was there before is left out.
#[derive(Clone, Debug, Config)]
#[config(check = one_source)]
pub struct PromptsConfig {
    /// The prompts themselves.
    pub list: Option<Vec<String>>,
    /// A file of one prompt a line; blank lines are skipped.
    pub text: Option<StringOr<TextPrompts>>,
    /// A file of one JSON object a line, filled into a template.
    pub jsonl: Option<JsonlPrompts>,
    /// Instructions that stand before every prompt (for `list` and `text`; `jsonl` has its own).
    pub system: Option<String>,
    /// Use only so many.
    #[config(min = 1)]
    pub limit: Option<usize>,
    /// Put them into a random order first, by the experiment's seed: with `limit`, a random sample.
    #[config(default)]
    pub shuffle: bool,
}

/// A file of lines.
#[derive(Clone, Debug, Config)]
pub struct TextPrompts {
    /// The file.
    pub path: FilePath,
}

/// A file of JSON objects.
#[derive(Clone, Debug, Config)]
pub struct JsonlPrompts {
    /// The file.
    pub path: FilePath,
    /// The prompt, in minijinja: `"{{ instruction }}\n{{ context }}"`. A field that a row lacks is an error.
    pub template: String,
    /// Instructions that stand before the prompt, a template too; nothing where it comes out empty.
    pub system: Option<String>,
    /// The answer that the source gives, a template too: `"{{ output }}"`. For evaluations.
    pub reference: Option<String>,
}

fn one_source(config: &PromptsConfig, node: &Node, report: &mut Diagnostics) {
    let given = [config.list.is_some(), config.text.is_some(), config.jsonl.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        report.push(
            Diagnostic::error(node.at, "prompts come from exactly one of `list`, `text` and `jsonl`")
                .hint("make one table for each, and list them where they are used"),
        );
    }
    if config.list.as_ref().is_some_and(Vec::is_empty) {
        report.push(Diagnostic::error(node.at, "`list` is empty"));
    }
    let blank = |list: &Vec<String>| list.iter().position(|prompt| prompt.trim().is_empty());
    if let Some(place) = config.list.as_ref().and_then(blank) {
        report.push(
            Diagnostic::error(node.at, format!("prompt {} of `list` is blank", place + 1))
                .hint("remove it: it asks nothing"),
        );
    }
    if config.jsonl.is_some() && config.system.is_some() {
        report.push(
            Diagnostic::error(node.at, "`system` stands beside `jsonl`")
                .hint("write it in the table: `jsonl = { …, system = \"…\" }`"),
        );
    }
}

/// The kind.
pub struct Prompts;

impl Kind for Prompts {
    kind!("prompts", PromptsConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }
}

impl StageKind for Prompts {
    // 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: PromptsConfig = context.config()?;
        let mut source = PromptSource::open(&config, context)?;
        let mut kept = Keeper::new(&config, context)?;
        while !kept.is_full() {
            if context.is_cancelled() {
                return Err(Failure::interrupted());
            }
            let Some(prompt) = source.next_prompt()? else { break };
            kept.take(prompt)?;
        }
        source.had_some(kept.counts.rows)?;
        let Counts { rows, duplicates, written } = kept.finish(context.seed())?;
        Ok(Outcome::with_metrics(json!({
            "prompts": written,
            "rows": rows,
            "dropped": { "duplicate": duplicates, "blank-line": source.blank_lines() },
        })))
    }
}

/// Where prompts come from, one at a time.
enum PromptSource {
    List { texts: std::vec::IntoIter<String>, system: Option<String> },
    Text { lines: LineReader, system: Option<String>, blank: u64 },
    Jsonl { objects: ObjectReader, templates: Box<Templates> },
}

struct Templates {
    prompt: RowTemplate,
    system: Option<RowTemplate>,
    reference: Option<RowTemplate>,
}

impl PromptSource {
    fn open(config: &PromptsConfig, context: &Context) -> Result<Self, Failure> {
        let PromptsConfig { list, text, jsonl, system, limit: _, shuffle: _ } = config;
        if let Some(texts) = list {
            return Ok(Self::List { texts: texts.clone().into_iter(), system: system.clone() });
        }
        if text.is_some() {
            let lines = LineReader::open(&context.file("text.path")?)?;
            return Ok(Self::Text { lines, system: system.clone(), blank: 0 });
        }
        let Some(JsonlPrompts { path: _, template, system, reference }) = jsonl else {
            return Err(Failure::input("prompts come from exactly one of `list`, `text` and `jsonl`"));
        };
        let optional =
            |source: &Option<String>, key| source.as_deref().map(|source| RowTemplate::new(source, key)).transpose();
        let templates = Templates {
            prompt: RowTemplate::new(template, "template")?,
            system: optional(system, "system")?,
            reference: optional(reference, "reference")?,
        };
        Ok(Self::Jsonl { objects: ObjectReader::open(&context.file("jsonl.path")?)?, templates: Box::new(templates) })
    }

    fn next_prompt(&mut self) -> DataResult<Option<Prompt>> {
        match self {
            Self::List { texts, system } => Ok(texts.next().map(|text| plain(text, system.as_deref()))),
            Self::Text { lines, system, blank } => loop {
                let Some(line) = lines.next_line()? else { return Ok(None) };
                if !line.text.trim().is_empty() {
                    return Ok(Some(plain(line.text.to_owned(), system.as_deref())));
                }
                *blank += 1;
            },
            Self::Jsonl { objects, templates } => {
                let object = objects.next_object()?;
                object.map(|object| templates.prompt(objects.path(), &object)).transpose()
            }
        }
    }

    /// A file in which nothing was found is no set of prompts. A list of none is refused when it is read, and a file of
    /// objects when it ends.
    fn had_some(&self, rows: u64) -> DataResult<()> {
        match self {
            Self::Text { lines, .. } if rows == 0 => Err(lines.only_blank("prompts")),
            _ => Ok(()),
        }
    }

    fn blank_lines(&self) -> u64 {
        match self {
            Self::Text { blank, .. } => *blank,
            _ => 0,
        }
    }
}

impl Templates {
    fn prompt(&self, path: &std::path::Path, object: &Object) -> DataResult<Prompt> {
        let render = |template: &Option<RowTemplate>| template.as_ref().map(|it| it.render(path, object)).transpose();
        let text = self.prompt.render(path, object)?;
        if text.trim().is_empty() {
            return Err(DataError::Row {
                path: path.to_path_buf(),
                line: object.line,
                column: None,
                message: "the prompt comes out empty".into(),
                hint: Some("remove the row, or use other fields in `template`".into()),
            });
        }
        let system = render(&self.system)?.filter(|text| !text.trim().is_empty());
        let reference = render(&self.reference)?;
        let messages = system.map(Message::system).into_iter().chain([Message::user(text)]).collect();
        Ok(Prompt::new(messages, reference))
    }
}

fn plain(text: String, system: Option<&str>) -> Prompt {
    let messages = system.map(Message::system).into_iter().chain([Message::user(text)]).collect();
    Prompt::new(messages, None)
}

/// Writes prompts as they come; only a shuffle holds them all.
struct Keeper {
    writer: crate::jsonl::JsonlWriter<Prompt>,
    held: Option<Vec<Prompt>>,
    limit: Option<usize>,
    // 64 bits a prompt, as in its id: a hundred thousand of them take a megabyte or two.
    seen: BTreeSet<u64>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    rows: u64,
    duplicates: u64,
    written: u64,
}

impl Keeper {
    fn new(config: &PromptsConfig, context: &Context) -> DataResult<Self> {
        Ok(Self {
            writer: write_prompts(&context.out().join(PROMPTS_FILE))?,
            held: config.shuffle.then(Vec::new),
            limit: config.limit,
            seen: BTreeSet::new(),
            counts: Counts::default(),
        })
    }

    fn is_full(&self) -> bool {
        self.held.is_none() && self.limit.is_some_and(|limit| self.counts.written >= limit as u64)
    }

    fn take(&mut self, prompt: Prompt) -> DataResult<()> {
        self.counts.rows += 1;
        if !self.seen.insert(prompt.id_bits()) {
            self.counts.duplicates += 1;
            return Ok(());
        }
        match &mut self.held {
            Some(held) => held.push(prompt),
            None => {
                self.writer.write(&prompt)?;
                self.counts.written += 1;
            }
        }
        Ok(())
    }

    fn finish(mut self, seed: u64) -> DataResult<Counts> {
        if let Some(mut held) = self.held {
            Stream::new("prompts", seed, 0).shuffle(&mut held);
            held.truncate(self.limit.unwrap_or(usize::MAX));
            for prompt in &held {
                self.writer.write(prompt)?;
            }
            self.counts.written = held.len() as u64;
        }
        self.writer.finish()?;
        Ok(self.counts)
    }
}

#[cfg(test)]
mod tests;
