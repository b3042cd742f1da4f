//! The figures of a dataset: in its artifact and in its record.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::DatasetConfig;
use super::decontaminate::DecontaminationStatistics;
use super::diversity::Diversity;
use super::gate::Passed;
use super::output::Written;
use super::select::Parts;
use crate::batch::BatchPlan;
use crate::error::{DataError, DataResult};
use crate::example::Example;
use crate::server_tokens::Matched;
use crate::signals::{Quality, Tried};
use crate::tokenizer::Tokenizer;

/// The artifact's file of figures.
pub const STATISTICS_FILE: &str = "stats.json";

/// A dataset in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Statistics {
    /// What is trained on.
    pub train: PartStatistics,
    /// What is held out.
    pub holdout: PartStatistics,
    /// The sources, in the order of the mix.
    pub sources: Vec<SourceStatistics>,
    /// Reason → rows left out.
    pub dropped: BTreeMap<String, u64>,
    /// Filter → rows whose texts it changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<String, u64>,
    /// What evaluation data took out, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decontamination: Option<DecontaminationStatistics>,
    /// How varied the completions are that are trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity: Option<Diversity>,
    /// The longest row allowed, in tokens.
    pub max_length: usize,
    /// The smallest vocabulary a student needs.
    pub vocabulary: usize,
    /// [`crate::tokenizer::Tokenizer::digest`].
    pub tokenizer: String,
    /// The signals, where they are kept otherwise than they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<SignalStatistics>,
}

/// Signals in figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SignalStatistics {
    /// How they are kept.
    pub encoding: String,
    /// Positions.
    pub positions: u64,
    /// Bytes of their file a position.
    pub bytes_per_token: f64,
    /// What is lost, where whole distributions were stored to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// The same where only the most likely tokens were stored: against those, and all others as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_quality: Option<Quality>,
    /// What each encoding would take and cost of what a server told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encodings: Vec<Tried>,
}

/// A part in figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartStatistics {
    /// Rows.
    pub rows: u64,
    /// Tokens, prompts included.
    pub tokens: u64,
    /// Tokens that are learned.
    pub scored_tokens: u64,
    /// Bytes of the text that is learned.
    pub scored_bytes: u64,
    /// Rows for which there is a teacher's signal.
    pub rows_with_signal: u64,
    /// Lengths of the rows in tokens.
    pub length: Lengths,
    /// The share of positions that carry a token when rows are packed into rows of the longest length.
    pub packing: f64,
    #[serde(skip)]
    lengths: Vec<u32>,
}

/// The spread of lengths, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Shortest.
    pub min: u32,
    /// Half are at most this.
    pub median: u32,
    /// 95 in 100 are at most this.
    pub p95: u32,
    /// Longest.
    pub max: u32,
}

/// What could be made of a server's log-probabilities, in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MatchedStatistics {
    /// Tokens of the answers.
    pub tokens: u64,
    /// The share of them with a distribution.
    pub matched: f64,
    /// The share of the server's mass that is kept there.
    pub mass: f64,
    /// Alternatives that are no token of the dataset's tokenizer, or several.
    pub left_out: u64,
}

impl From<Matched> for MatchedStatistics {
    fn from(matched: Matched) -> Self {
        let (share, mass) = (matched.share(), matched.mass_share());
        Self { tokens: matched.tokens, matched: share, mass, left_out: matched.left_out }
    }
}

/// A source in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceStatistics {
    /// `answers`, `jsonl` or `text`.
    pub kind: String,
    /// Rows read.
    pub read: u64,
    /// Rows that passed the filters.
    pub kept: u64,
    /// Rows used after the weights.
    pub used: u64,
    /// Of a server's log-probabilities, where it gave some: what is in the dataset's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<MatchedStatistics>,
}

impl PartStatistics {
    pub(super) fn count(&mut self, example: &Example, has_signal: bool) {
        self.rows += 1;
        self.tokens += example.tokens.len() as u64;
        self.scored_tokens += example.scored_tokens() as u64;
        self.scored_bytes += example.bytes;
        self.rows_with_signal += u64::from(has_signal);
        self.lengths.push(example.tokens.len() as u32);
    }

    fn finish(mut self, max_length: usize) -> DataResult<Self> {
        if self.lengths.is_empty() {
            return Ok(self);
        }
        self.packing = BatchPlan::new(&self.lengths, 1, max_length, 0, true)?.efficiency();
        self.lengths.sort_unstable();
        // The smallest length that at least this share of rows does not exceed.
        let quantile = |share: f64| self.lengths[((self.lengths.len() as f64 * share).ceil() as usize).max(1) - 1];
        self.length = Lengths { min: quantile(0.0), median: quantile(0.5), p95: quantile(0.95), max: quantile(1.0) };
        Ok(self)
    }
}

impl Statistics {
    pub(super) fn new(
        config: &DatasetConfig,
        tokenizer: &Tokenizer,
        passed: Passed,
        left: &[usize],
        used: &Parts,
        written: Written,
        decontamination: Option<DecontaminationStatistics>,
    ) -> DataResult<Self> {
        let of = |number: usize, places: &mut dyn Iterator<Item = &usize>| {
            places.filter(|place| passed.kept[**place].source as usize == number).count() as u64
        };
        let sources = config.mix.iter().enumerate().map(|(number, source)| SourceStatistics {
            kind: source.name().to_owned(),
            read: passed.read[number],
            kept: of(number, &mut left.iter()),
            used: of(number, &mut used.train.iter().chain(&used.holdout)),
            log_probs: written.matched.get(number).copied().flatten().map(MatchedStatistics::from),
        });
        let sources = sources.collect();
        Ok(Self {
            sources,
            train: written.train.finish(config.max_length)?,
            holdout: written.holdout.finish(config.max_length)?,
            dropped: passed.dropped.finish()?,
            changed: passed.changed.iter().map(|(filter, rows)| ((*filter).to_owned(), *rows)).collect(),
            decontamination,
            diversity: written.diversity,
            max_length: config.max_length,
            vocabulary: tokenizer.vocabulary(),
            tokenizer: tokenizer.digest().to_owned(),
            signals: written.signals,
        })
    }

    pub(super) fn write(&self, out: &Path) -> DataResult<()> {
        let path = out.join(STATISTICS_FILE);
        let mut json = serde_json::to_string_pretty(self).map_err(|error| DataError::own_io(&path)(error.into()))?;
        json.push('\n');
        fs_err::write(&path, json).map_err(DataError::own_io(&path))
    }

    /// For the record.
    pub(super) fn metrics(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}
