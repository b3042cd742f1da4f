//! Which rows stay: exact duplicates and filters. What stays waits in a file until the mix is known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rayon::prelude::*;
use stillhouse_stage::{Context, Failure};

use super::assemble::{Assembler, Draft, Made};
use super::config::DatasetConfig;
use super::dropped::{Dropped, DroppedRow};
use crate::answer::Outcome;
use crate::embeddings::{EMBEDDINGS_FILE, Embedded, EmbeddingReader, TextDigest};
use crate::error::DataResult;
use crate::example::{ExampleReader, ExampleWriter, Row};
use crate::filters::{Judged, Pass, Place, Texts, Verdict};
use crate::prompt::Prompt;
use crate::signals::SequenceKey;

/// Rows that filters see at once; all samples of a prompt are in one batch, whatever it takes.
const BATCH: usize = 4096;

/// The reason of rows that are a row before them again.
const DUPLICATE: &str = "duplicate";

/// A row that stays, without its content.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) source: u32,
    /// Rows of one group fall on one side of the holdout: those of a prompt; a window of plain text has its own.
    pub(super) group: u64,
    /// A hash of the content: the order in which rows are given up for the weights.
    pub(super) rank: u64,
    /// As in [`Made`].
    pub(super) signal_keys: Vec<SequenceKey>,
    /// The text that a vector was made of, where a filter has changed the row since.
    pub(super) embedded: Option<TextDigest>,
}

/// What came through.
pub(super) struct Passed {
    /// In the order of the sources.
    pub(super) kept: Vec<Kept>,
    /// The content of `kept`, in the same order.
    pub(super) examples: ExampleReader,
    /// Rows read, by source.
    pub(super) read: Vec<u64>,
    /// Rows left out.
    pub(super) dropped: Dropped,
    /// Filter → rows whose texts it changed.
    pub(super) changed: BTreeMap<&'static str, u64>,
    /// The vectors by which the rows' spread is measured.
    pub(super) vectors: Option<EmbeddingReader>,
}

pub(super) struct Gate<'a> {
    assembler: &'a Assembler<'a>,
    filters: Vec<(&'static str, Box<dyn Pass>)>,
    waiting: Vec<Waiting>,
    seen: BTreeSet<u128>,
    spool: PathBuf,
    writer: ExampleWriter,
    kept: Vec<Kept>,
    read: Vec<u64>,
    dropped: Dropped,
    changed: BTreeMap<&'static str, u64>,
    vectors: Option<EmbeddingReader>,
}

/// A row on its way through the filters.
struct Waiting {
    row: Row,
    outcome: Option<Outcome>,
    finished: bool,
    made: Result<Made, Refused>,
    content: u128,
    score: Option<f64>,
    changed: bool,
    /// As in [`Kept`].
    embedded: Option<TextDigest>,
}

/// Why a row goes: a word, and what the filter says beyond it.
struct Refused {
    why: &'static str,
    detail: Option<String>,
}

impl Waiting {
    fn new(draft: Draft) -> Self {
        let Draft { row, outcome, finished, made } = draft;
        let made = made.map_err(|why| Refused { why, detail: None });
        Self { content: content(&row), row, outcome, finished, made, score: None, changed: false, embedded: None }
    }

    fn refuse(&mut self, why: &'static str, detail: Option<String>) {
        self.made = Err(Refused { why, detail });
    }

    /// As filters see it; nothing of a row that goes already.
    fn judged(&self) -> Option<Judged<'_>> {
        let made = self.made.as_ref().ok()?;
        let Row { source, line, prompt, sample, messages, completion, reference, prompt_tokens: _ } = &self.row;
        Some(Judged {
            source: *source,
            line: *line,
            prompt: prompt.as_deref(),
            sample: *sample,
            messages,
            completion,
            reference: reference.as_deref(),
            tokens: made.example.tokens.len(),
            outcome: self.outcome,
            score: self.score,
        })
    }

    /// Takes other texts and makes an example of them. What vectors of `embedded` stand for is the text that was there first.
    fn change(&mut self, texts: Texts, assembler: &Assembler<'_>, embedded: Option<Embedded>) -> DataResult<()> {
        let Ok(made) = &self.made else { return Ok(()) };
        let of_now = || Some(TextDigest::of(&embedded?.text(&self.row.messages, &self.row.completion)?));
        let embedded = if self.changed { self.embedded } else { of_now() };
        let Texts { messages, completion, reference } = texts;
        let row = Row { messages, completion, reference, ..self.row.clone() };
        let draft = assembler.assemble_again(row, self.outcome, self.finished, &made.example)?;
        *self = Self { score: self.score, changed: true, embedded, ..Self::new(draft) };
        Ok(())
    }

    /// What it stays with, or why it goes.
    fn kept(&self) -> Result<Kept, &Refused> {
        let made = self.made.as_ref()?;
        let group = match &self.row.prompt {
            // Prompts that a filter has made equal fall on one side, too.
            Some(_) if self.changed => prompt_group(&Prompt::id_of(&self.row.messages)),
            Some(prompt) => prompt_group(prompt),
            None => (self.content >> 64) as u64,
        };
        let (signal_keys, embedded) = (made.signal_keys.clone(), self.embedded);
        Ok(Kept { source: self.row.source, group, rank: self.content as u64, signal_keys, embedded })
    }
}

impl<'a> Gate<'a> {
    pub(super) fn open(
        config: &DatasetConfig,
        assembler: &'a Assembler<'a>,
        context: &Context,
    ) -> Result<Self, Failure> {
        let spool = context.scratch().join("rows");
        let mut filters = Vec::new();
        for (number, filter) in config.filters.iter().enumerate() {
            let place = Place::new(context, format!("filters.{number}.{}", filter.name));
            filters.push((filter.name, filter.value.start(&place)?));
        }
        let reasons = config.filters.iter().map(|filter| filter.name).chain([DUPLICATE]);
        Ok(Self {
            assembler,
            filters,
            waiting: Vec::new(),
            seen: BTreeSet::new(),
            writer: ExampleWriter::create(&spool)?,
            spool,
            kept: Vec::new(),
            read: vec![0; config.mix.len()],
            dropped: Dropped::create(&context.out(), reasons)?,
            changed: BTreeMap::new(),
            vectors: vectors(config, context)?,
        })
    }

    pub(super) fn take(&mut self, drafts: Vec<Draft>) -> DataResult<()> {
        for draft in drafts {
            let next = Waiting::new(draft);
            let beside = self.waiting.last().is_some_and(|last| {
                next.outcome.is_some() && (last.row.source, &last.row.prompt) == (next.row.source, &next.row.prompt)
            });
            if self.waiting.len() >= BATCH && !beside {
                self.judge()?;
            }
            self.waiting.push(next);
        }
        Ok(())
    }

    /// Judges the batch that waits.
    fn judge(&mut self) -> DataResult<()> {
        let mut batch = std::mem::take(&mut self.waiting);
        for waiting in &mut batch {
            self.read[waiting.row.source as usize] += 1;
            if waiting.made.is_ok() && !self.seen.insert(waiting.content) {
                waiting.refuse(DUPLICATE, None);
            }
        }
        let embedded = self.vectors.as_ref().map(EmbeddingReader::of);
        for (name, pass) in &mut self.filters {
            let changed = filter(name, pass.as_mut(), &mut batch, self.assembler, embedded)?;
            if changed > 0 {
                *self.changed.entry(name).or_default() += changed;
            }
        }
        for waiting in &batch {
            match waiting.kept() {
                Ok(kept) => self.kept.push(kept),
                Err(Refused { why, detail }) => {
                    self.dropped.add(DroppedRow::new(&waiting.row, why, detail.clone()))?;
                    continue;
                }
            }
            if let Ok(made) = &waiting.made {
                self.writer.add(&made.example, &waiting.row)?;
            }
        }
        Ok(())
    }

    pub(super) fn close(mut self) -> DataResult<Passed> {
        self.judge()?;
        self.writer.finish()?;
        let examples = ExampleReader::open(&self.spool)?;
        let Self { kept, read, dropped, changed, vectors, .. } = self;
        Ok(Passed { kept, examples, read, dropped, changed, vectors })
    }
}

/// The vectors by which the rows' spread is measured: those that the table names, else those of its first filter that names some.
fn vectors(config: &DatasetConfig, context: &Context) -> Result<Option<EmbeddingReader>, Failure> {
    let of_filter = config.filters.iter().enumerate().find_map(|(number, filter)| {
        let field = filter.value.embeddings_field()?;
        Some((Place::new(context, format!("filters.{number}.{}", filter.name)), field))
    });
    let artifact = match (&config.embeddings, of_filter) {
        (Some(_), _) => context.input("embeddings")?,
        (None, Some((place, field))) => place.input(field)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(EmbeddingReader::open(&artifact.path(EMBEDDINGS_FILE)?)?))
}

/// Lets a filter judge those of a batch that are still there; gives how many rows it changed.
fn filter(
    name: &'static str,
    pass: &mut dyn Pass,
    batch: &mut [Waiting],
    assembler: &Assembler<'_>,
    embedded: Option<Embedded>,
) -> DataResult<u64> {
    let rows: Vec<Judged<'_>> = batch.iter().filter_map(Waiting::judged).collect();
    let verdicts = pass.judge(&rows)?;
    let there = batch.iter_mut().filter(|waiting| waiting.made.is_ok());
    let judged: Vec<(&mut Waiting, Verdict)> = there.zip(verdicts).collect();
    let changes = judged.into_par_iter().map(|(waiting, verdict)| match verdict {
        Verdict::Keep => Ok(0),
        Verdict::Score(score) => {
            waiting.score = Some(score);
            Ok(0)
        }
        Verdict::Drop(detail) => {
            waiting.refuse(name, Some(detail));
            Ok(0)
        }
        Verdict::Change(texts) => waiting.change(*texts, assembler, embedded).map(|()| 1),
    });
    changes.try_reduce(|| 0, |a, b| Ok(a + b))
}

fn prompt_group(id: &str) -> u64 {
    hash("stillhouse/group/1\0", [id]) as u64
}

/// What makes two rows the same: conversation and completion.
fn content(row: &Row) -> u128 {
    let turns = row.messages.iter().flat_map(|message| {
        let images = message.images().map(|image| image.url.as_str());
        [message.role.as_str(), message.content.as_str()].into_iter().chain(images)
    });
    hash("stillhouse/row/1\0", turns.chain([row.completion.as_str()]))
}

fn hash<'a>(domain: &str, texts: impl IntoIterator<Item = &'a str>) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.as_bytes());
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    let bytes = hasher.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&bytes.as_bytes()[..16]);
    u128::from_le_bytes(half)
}
