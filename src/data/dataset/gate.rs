//! Which rows stay: exact duplicates and filters. What stays waits in a file until the mix is known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use stillhouse_stage::{Context, Failure};

use super::assemble::{Draft, Made};
use super::config::DatasetConfig;
use crate::error::DataResult;
use crate::example::{ExampleReader, ExampleWriter, Row};
use crate::filters::{Judged, Pass};
use crate::jsonl::JsonlWriter;
use crate::prompt::Message;
use crate::signals::SequenceKey;

/// The artifact's list of rows that were left out.
pub(super) const DROPPED_FILE: &str = "dropped.jsonl";

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
}

/// What came through.
pub(super) struct Passed {
    /// In the order of the sources.
    pub(super) kept: Vec<Kept>,
    /// The content of `kept`, in the same order.
    pub(super) examples: ExampleReader,
    /// Rows read, by source.
    pub(super) read: Vec<u64>,
    /// Reason → rows left out.
    pub(super) dropped: BTreeMap<&'static str, u64>,
}

/// A line of the list of rows that were left out.
#[derive(Serialize)]
struct DroppedRow {
    source: u32,
    line: u64,
    why: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
}

pub(super) struct Gate {
    filters: Vec<(&'static str, Box<dyn Pass>)>,
    seen: BTreeSet<u128>,
    spool: PathBuf,
    writer: ExampleWriter,
    list: JsonlWriter<DroppedRow>,
    kept: Vec<Kept>,
    read: Vec<u64>,
    dropped: BTreeMap<&'static str, u64>,
}

impl Gate {
    pub(super) fn open(config: &DatasetConfig, context: &Context) -> Result<Self, Failure> {
        let spool = context.scratch().join("rows");
        let mut dropped: BTreeMap<&'static str, u64> = config.filters.iter().map(|filter| (filter.name, 0)).collect();
        dropped.insert(DUPLICATE, 0);
        Ok(Self {
            filters: config.filters.iter().map(|filter| (filter.name, filter.value.start())).collect(),
            seen: BTreeSet::new(),
            writer: ExampleWriter::create(&spool)?,
            spool,
            list: JsonlWriter::create(&context.out().join(DROPPED_FILE))?,
            kept: Vec::new(),
            read: vec![0; config.mix.len()],
            dropped,
        })
    }

    pub(super) fn take(&mut self, drafts: Vec<Draft>) -> DataResult<()> {
        drafts.into_iter().try_for_each(|draft| self.judge(draft))
    }

    fn judge(&mut self, draft: Draft) -> DataResult<()> {
        let Draft { row, outcome, made } = draft;
        self.read[row.source as usize] += 1;
        let Made { example, signal_keys } = match made {
            Ok(made) => made,
            Err(why) => return self.drop(&row, why),
        };
        let content = content(&row);
        if !self.seen.insert(content) {
            return self.drop(&row, DUPLICATE);
        }
        let judged =
            Judged { messages: &row.messages, completion: &row.completion, tokens: example.tokens.len(), outcome };
        let refused = self.filters.iter_mut().find_map(|(name, pass)| (!pass.keeps(&judged)).then_some(*name));
        if let Some(why) = refused {
            return self.drop(&row, why);
        }
        let group = match &row.prompt {
            Some(prompt) => hash("stillhouse/group/1\0", [prompt.as_str()]) as u64,
            None => (content >> 64) as u64,
        };
        self.kept.push(Kept { source: row.source, group, rank: content as u64, signal_keys });
        self.writer.add(&example, &row)
    }

    fn drop(&mut self, row: &Row, why: &'static str) -> DataResult<()> {
        *self.dropped.entry(why).or_default() += 1;
        let line = DroppedRow { source: row.source, line: row.line, why, prompt: row.prompt.clone() };
        self.list.write(&line)
    }

    pub(super) fn close(self) -> DataResult<Passed> {
        self.list.finish()?;
        self.writer.finish()?;
        let examples = ExampleReader::open(&self.spool)?;
        Ok(Passed { kept: self.kept, examples, read: self.read, dropped: self.dropped })
    }
}

/// What makes two rows the same: conversation and completion.
fn content(row: &Row) -> u128 {
    let turns = row.messages.iter().flat_map(|Message { role, content }| [role.as_str(), content.as_str()]);
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
