//! The sources of a mix, read in order.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use stillhouse_stage::{Context, Failure};

use super::assemble::{Assembler, Draft, EMPTY, RawRow};
use super::captured::CapturedSource;
use super::config::{DatasetConfig, JsonlRows, TextUnit};
use super::windows::Windows;
use crate::answer::{ANSWERS_FILE, Answer, read_answers};
use crate::bad_rows::{BadRows, OnBadRow};
use crate::captured::CAPTURED_FILE;
use crate::error::{DataError, DataResult};
use crate::prompt::{Message, Prompt};
use crate::server_tokens::Matched;
use crate::signals::{HEADS, SIGNALS_FILE, SignalReader};
use crate::source::{LineReader, Object, ObjectReader, RowTemplate};
use crate::tokenizer::Tokenizer;

/// Rows that are tokenised at once, on all processors.
const CHUNK: usize = 256;
/// The same where a row comes with a server's log-probabilities, each of which is many times as large as its token.
const CAPTURED_CHUNK: usize = 32;
/// Less than this of a server's log-probabilities in the dataset's tokens is a warning.
const FEW: f64 = 0.5;
/// Bytes of plain text that are tokenised at once.
const BLOCK: usize = 256 << 10;

/// Takes drafts in the order of their source.
pub(super) type Sink<'a> = &'a mut dyn FnMut(Vec<Draft>) -> DataResult<()>;

/// A source that can be read.
pub(super) struct OpenSource {
    number: u32,
    rows: OpenRows,
    /// A teacher's signals for its answers; a server's once all is read.
    pub(super) signals: Option<SignalReader>,
    /// The heads that belong to its teachers' hidden states, by the names of their files.
    pub(super) heads: Vec<(String, PathBuf)>,
    /// A server's log-probabilities, until all is read.
    pub(super) captured: Option<CapturedSource>,
    /// What could be made of them, then.
    pub(super) matched: Option<Matched>,
}

/// Where its rows come from.
enum OpenRows {
    Answers(PathBuf),
    Jsonl(Box<OpenJsonl>),
    Text { path: PathBuf, document: TextUnit },
}

/// A file of JSON objects that can be read.
struct OpenJsonl {
    path: PathBuf,
    prompt: RowTemplate,
    completion: RowTemplate,
    system: Option<RowTemplate>,
    on_bad_row: OnBadRow,
}

/// Opens every source, so that what is missing fails before any work.
pub(super) fn open_all(
    config: &DatasetConfig,
    tokenizer: &Tokenizer,
    context: &Context,
) -> Result<Vec<OpenSource>, Failure> {
    let opened = config.mix.iter().enumerate().map(|(number, source)| open(number, source, context));
    let mut sources: Vec<OpenSource> = opened.collect::<Result<_, _>>()?;
    // A file of signals has one width: that of local teachers, whose vocabularies may be padded, where there are some.
    let local = sources.iter().filter_map(|source| source.signals.as_ref().map(SignalReader::header));
    let widths = local.filter(|header| header.tokenizer == tokenizer.digest()).map(|header| header.vocabulary);
    let vocabulary = widths.max().unwrap_or(u32::try_from(tokenizer.vocabulary()).unwrap_or(u32::MAX));
    for (number, source) in sources.iter_mut().enumerate().filter(|(_, source)| source.signals.is_none()) {
        if !matches!(source.rows, OpenRows::Answers(_)) {
            continue;
        }
        let Some(path) = context.input(&format!("mix.{number}.answers"))?.find(CAPTURED_FILE) else { continue };
        let signals = context.scratch().join(format!("captured-{number}.bin"));
        let captured = CapturedSource::open(path, signals, tokenizer.digest(), vocabulary)?;
        source.captured = Some(captured);
    }
    Ok(sources)
}

fn open(number: usize, source: &super::Source, context: &Context) -> Result<OpenSource, Failure> {
    let field = |name: &str| format!("mix.{number}.{name}");
    let (mut signals, mut heads) = (None, Vec::new());
    let rows = if source.answers.is_some() {
        let artifact = context.input(&field("answers"))?;
        signals = artifact.find(SIGNALS_FILE).map(|path| SignalReader::open(&path)).transpose()?;
        heads = artifact.files(HEADS).collect();
        OpenRows::Answers(artifact.path(ANSWERS_FILE)?)
    } else if let Some(rows) = &source.jsonl {
        let JsonlRows { path: _, prompt, completion, system, on_bad_row } = &rows.0;
        OpenRows::Jsonl(Box::new(OpenJsonl {
            path: context.file(&field("jsonl.path"))?,
            prompt: RowTemplate::new(prompt, "prompt")?,
            completion: RowTemplate::new(completion, "completion")?,
            system: system.as_deref().map(|system| RowTemplate::new(system, "system")).transpose()?,
            on_bad_row: *on_bad_row,
        }))
    } else if let Some(rows) = &source.text {
        OpenRows::Text { path: context.file(&field("text.path"))?, document: rows.document }
    } else {
        return Err(Failure::input(format!("source {number} of `mix` names nothing")));
    };
    Ok(OpenSource { number: number as u32, rows, signals, heads, captured: None, matched: None })
}

/// Signals of another tokenizer, or of prompts rendered otherwise, fit no row: better said than found out.
pub(super) fn warn_of_unused_signals(sources: &[OpenSource], assembler: &Assembler<'_>, context: &Context) {
    for source in sources {
        if let Some(signals) = &source.signals
            && !assembler.takes_ids_of(&signals.header().tokenizer)
        {
            context.warn(format!(
                "the teacher's signals of source {} (from 0) are not used: they need the teacher's tokenizer and \
                 `chat-template = \"auto\"`",
                source.number
            ));
        }
    }
}

/// With the server's own tokenizer nearly all fits; where little does, the tokenizer is another.
fn warn_of_few(source: u32, matched: &Matched, context: &Context) {
    if matched.tokens == 0 || matched.share().min(matched.mass_share()) >= FEW {
        return;
    }
    let (tokens, mass) = (matched.share() * 100.0, matched.mass_share() * 100.0);
    context.warn(format!(
        "only {tokens:.1} % of the tokens of source {source} (from 0) have a distribution of its server, with {mass:.1} % of \
         what the server said there: its tokens are not those of the dataset's tokenizer, or it gave no alternatives"
    ));
}

impl OpenSource {
    /// The teachers whose signals it has.
    pub(super) fn teachers(&self) -> Vec<String> {
        if let Some(captured) = &self.captured {
            return vec![captured.teacher.clone()];
        }
        self.signals.as_ref().map(|signals| signals.header().teachers.clone()).unwrap_or_default()
    }

    /// Reads all rows. Gives the figures of bad rows, where they may be left out.
    pub(super) fn read(
        &mut self,
        assembler: &Assembler<'_>,
        context: &Context,
        sink: Sink<'_>,
    ) -> Result<Option<serde_json::Value>, Failure> {
        let mut read = 0;
        let mut counted = |drafts: Vec<Draft>| {
            if context.is_cancelled() {
                return Err(DataError::Cancelled);
            }
            read += drafts.len() as u64;
            context.progress(read, None, "rows");
            sink(drafts)
        };
        match &self.rows {
            OpenRows::Answers(path) => {
                let mut captured = self.captured.take();
                self.read_answers(path, captured.as_mut(), assembler, &mut counted)?;
                if let Some(captured) = captured {
                    let (signals, matched) = captured.finish()?;
                    warn_of_few(self.number, &matched, context);
                    (self.signals, self.matched) = (Some(signals), Some(matched));
                }
            }
            OpenRows::Jsonl(jsonl) => {
                let bad_rows = self.read_jsonl(jsonl, assembler, &mut counted)?;
                bad_rows.some_are_good(read)?;
                bad_rows.warn(context);
                return Ok(bad_rows.figures());
            }
            OpenRows::Text { path, document } => self.read_text(path, *document, assembler, &mut counted)?,
        }
        Ok(None)
    }

    fn read_answers(
        &self,
        path: &Path,
        mut captured: Option<&mut CapturedSource>,
        assembler: &Assembler<'_>,
        sink: Sink<'_>,
    ) -> DataResult<()> {
        let mut lines = captured.as_ref().map(|captured| captured.lines()).transpose()?;
        let chunk = if captured.is_some() { CAPTURED_CHUNK } else { CHUNK };
        let rows = read_answers(path)?.zip(1..).map(|(answer, line)| {
            let answer = answer?;
            let said = lines.as_mut().map(|lines| lines.beside(&answer)).transpose()?;
            let Answer { prompt, sample, messages, reference, text, finish: _, outcome, tokens } = answer;
            let finished = outcome.is_whole();
            let (source, outcome) = (self.number, Some(outcome));
            Ok(RawRow {
                source,
                line,
                prompt,
                sample,
                messages,
                completion: text,
                reference,
                outcome,
                finished,
                tokens,
                said,
            })
        });
        in_chunks(rows, chunk, assembler, &mut |mut drafts| {
            if let Some(captured) = &mut captured {
                captured.take(&mut drafts)?;
            }
            sink(drafts)
        })
    }

    fn read_jsonl(&self, jsonl: &OpenJsonl, assembler: &Assembler<'_>, sink: Sink<'_>) -> DataResult<BadRows> {
        let OpenJsonl { path, prompt, completion, system, on_bad_row } = jsonl;
        let bad_rows = RefCell::new(BadRows::new(*on_bad_row));
        let mut objects = ObjectReader::open(path)?;
        let row = |object: Object| {
            let system = system.as_ref().map(|system| system.render(path, &object)).transpose()?;
            let system = system.filter(|text| !text.trim().is_empty()).map(Message::system);
            let asked = prompt.render(path, &object)?;
            if asked.trim().is_empty() {
                return Err(DataError::Row {
                    path: path.clone(),
                    line: object.line,
                    column: None,
                    message: "the prompt comes out empty".into(),
                    hint: Some("remove the row, or use other fields in `prompt`; plain text is a source `text`".into()),
                });
            }
            let messages: Vec<Message> = system.into_iter().chain([Message::user(asked)]).collect();
            let completion = completion.render(path, &object)?;
            Ok(RawRow {
                source: self.number,
                line: object.line,
                prompt: Prompt::id_of(&messages),
                sample: 0,
                messages,
                reference: Some(completion.clone()),
                completion,
                outcome: None,
                finished: true,
                tokens: None,
                said: None,
            })
        };
        let rows =
            std::iter::from_fn(|| objects.next_object().transpose()).filter_map(|object| match object.and_then(row) {
                Ok(row) => Some(Ok(row)),
                Err(fault) => bad_rows.borrow_mut().pass(fault).err().map(Err),
            });
        // A teacher may say nothing; a person's file that does has the wrong field or a broken row.
        in_chunks(rows, CHUNK, assembler, &mut |mut drafts| {
            let mut fault = Ok(());
            drafts.retain(|draft| {
                let silent = draft.made.as_ref().err() == Some(&EMPTY);
                if silent && fault.is_ok() {
                    fault = bad_rows.borrow_mut().pass(DataError::Row {
                        path: path.clone(),
                        line: draft.row.line,
                        column: None,
                        message: "the completion is empty: there is nothing to learn".into(),
                        hint: Some("remove the row, or use another field in `completion`".into()),
                    });
                }
                !silent
            });
            fault?;
            sink(drafts)
        })?;
        Ok(bad_rows.into_inner())
    }

    fn read_text(&self, path: &Path, unit: TextUnit, assembler: &Assembler<'_>, sink: Sink<'_>) -> DataResult<()> {
        let mut windows = Windows::new(assembler.tokenizer, assembler.max_length, self.number);
        let mut lines = LineReader::open(path)?;
        let mut all_blank = true;
        let mut block = String::new();
        windows.begin()?;
        while let Some(line) = lines.next_line()? {
            let blank = line.text.trim().is_empty();
            all_blank &= blank;
            match unit {
                TextUnit::Line if blank => {}
                TextUnit::Line => {
                    windows.begin()?;
                    windows.add(line.text)?;
                    windows.end();
                    sink(windows.take(true)?)?;
                }
                TextUnit::Whole => {
                    // Tokens do span blank lines, so a block ends before a line that is not.
                    if block.len() >= BLOCK && !blank {
                        windows.add(&std::mem::take(&mut block))?;
                        sink(windows.take(false)?)?;
                    }
                    block.push_str(line.text);
                    block.push('\n');
                }
            }
        }
        if all_blank {
            return Err(lines.only_blank("text"));
        }
        if unit == TextUnit::Whole {
            windows.add(&block)?;
            windows.end();
            sink(windows.take(true)?)?;
        }
        Ok(())
    }
}

fn in_chunks(
    rows: impl Iterator<Item = DataResult<RawRow>>,
    size: usize,
    assembler: &Assembler<'_>,
    sink: Sink<'_>,
) -> DataResult<()> {
    let mut chunk = Vec::with_capacity(size);
    let mut flush = |chunk: &mut Vec<RawRow>| {
        let drafts: DataResult<Vec<Draft>> = chunk.par_drain(..).map(|raw| assembler.assemble(raw)).collect();
        sink(drafts?)
    };
    for row in rows {
        chunk.push(row?);
        if chunk.len() == size {
            flush(&mut chunk)?;
        }
    }
    flush(&mut chunk)
}
