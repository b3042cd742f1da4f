//! A look at a dataset's rows: pages, samples, and what became of one.

use std::fmt;

use serde::Serialize;

use super::artifact::{DatasetArtifact, HOLDOUT, TRAIN};
use super::dropped::{DROPPED_FILE, DroppedRow};
use crate::error::{DataError, DataResult};
use crate::example::Row;
use crate::jsonl::JsonlReader;
use crate::random::Stream;

/// A row of a dataset with where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShownRow {
    /// `train` or `holdout`.
    pub part: &'static str,
    /// Its place in the part, from 0.
    pub place: usize,
    /// Tokens of the whole row.
    pub tokens: usize,
    /// Tokens that are learned.
    pub scored_tokens: usize,
    /// The row.
    pub row: Row,
}

/// What names a row: where it comes from, or its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowName {
    /// `0:17`: source 0 of the mix, line (or place among its answers) 17.
    Line(u32, u64),
    /// The beginning of a prompt's id: all its samples.
    Prompt(String),
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is in the dataset.
    Kept(Box<ShownRow>),
    /// It was left out, and why.
    Dropped(DroppedRow),
}

/// Fewest hexadecimal digits of a prompt's id that name it.
const SHORTEST_ID: usize = 4;

impl RowName {
    /// Reads `0:17` or the beginning of a prompt's id.
    ///
    /// # Errors
    /// A text that is neither.
    pub fn parse(text: &str) -> DataResult<Self> {
        let line = text.split_once(':').and_then(|(source, line)| Some((source.parse().ok()?, line.parse().ok()?)));
        if let Some((source, line)) = line {
            return Ok(Self::Line(source, line));
        }
        if text.len() >= SHORTEST_ID && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Prompt(text.to_ascii_lowercase()));
        }
        Err(DataError::invalid(
            format!("`{text}` names no row"),
            "a row is named by source and line (`0:17`), or by the first digits of its prompt's id",
        ))
    }

    fn is(&self, source: u32, line: u64, prompt: Option<&str>) -> bool {
        match self {
            Self::Line(wanted_source, wanted_line) => (*wanted_source, *wanted_line) == (source, line),
            Self::Prompt(beginning) => prompt.is_some_and(|prompt| prompt.starts_with(beginning)),
        }
    }
}

impl fmt::Display for RowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(source, line) => write!(f, "line {line} of source {source}"),
            Self::Prompt(beginning) => write!(f, "a prompt {beginning}…"),
        }
    }
}

impl DatasetArtifact {
    /// Rows of a part, in order: `count` of them after the first `skip`.
    ///
    /// # Errors
    /// A damaged artifact.
    pub fn page(&self, part: &'static str, skip: usize, count: usize) -> DataResult<Vec<ShownRow>> {
        self.shown(part, |place, _| (skip..skip.saturating_add(count)).contains(&place))
    }

    /// Some rows of a part by chance, the same each time.
    ///
    /// # Errors
    /// A damaged artifact.
    pub fn sample(&self, part: &'static str, count: usize) -> DataResult<Vec<ShownRow>> {
        let mut places: Vec<usize> = (0..self.examples(part)?.len()).collect();
        Stream::new("show-sample", 0, 0).shuffle(&mut places);
        places.truncate(count);
        places.sort_unstable();
        self.shown(part, |place, _| places.binary_search(&place).is_ok())
    }

    /// The rows that were left out, in order.
    ///
    /// # Errors
    /// A damaged artifact.
    pub fn dropped(&self) -> DataResult<JsonlReader<DroppedRow>> {
        JsonlReader::open(&self.file(DROPPED_FILE)?)
    }

    /// What became of the rows of a name; nothing where no row has it, or where it was given up for the weights.
    ///
    /// # Errors
    /// A damaged artifact.
    pub fn fate(&self, name: &RowName) -> DataResult<Vec<Fate>> {
        let mut found = Vec::new();
        for part in [TRAIN, HOLDOUT] {
            let rows = self.shown(part, |_, row| name.is(row.source, row.line, row.prompt.as_deref()))?;
            found.extend(rows.into_iter().map(|row| Fate::Kept(Box::new(row))));
        }
        for row in self.dropped()? {
            let row = row?;
            if name.is(row.source, row.line, row.prompt.as_deref()) {
                found.push(Fate::Dropped(row));
            }
        }
        Ok(found)
    }

    fn shown(&self, part: &'static str, wanted: impl Fn(usize, &Row) -> bool) -> DataResult<Vec<ShownRow>> {
        let examples = self.examples(part)?;
        let mut shown = Vec::new();
        for (place, row) in examples.rows()?.enumerate() {
            let row = row?;
            if wanted(place, &row) {
                let example = examples.get(place)?;
                let (tokens, scored_tokens) = (example.tokens.len(), example.scored_tokens());
                shown.push(ShownRow { part, place, tokens, scored_tokens, row });
            }
        }
        Ok(shown)
    }
}
