//! The kind `[dataset.X]`: sources are mixed, filtered, split and tokenised into what a student trains on.
//!
//! ```text
//! train/      examples.bin  rows.jsonl      see [`crate::example`]
//! holdout/    the same
//! tokenizer/  tokenizer.json …              the tokenizer's files as they were
//! signals/    signals.bin                   the teachers' signals for the rows kept, where there are any
//! dropped.jsonl                             every row left out, with the reason
//! stats.json                                the figures of the record
//! ```
//!
//! Rows go through in this order: tokenise → exact duplicates → filters, as listed → weights → holdout.

mod artifact;
mod assemble;
mod config;
mod gate;
mod output;
mod select;
mod signals;
mod source;
mod statistics;
#[cfg(test)]
mod tests;
mod windows;

use stillhouse_stage::{Context, Failure, Inherited, Kind, Needs, Outcome, StageKind, View, kind};

pub use artifact::{DatasetArtifact, HOLDOUT, TRAIN};
pub use config::{
    ChatTemplateChoice, DatasetConfig, JsonlRows, LongRows, LossOn, SignalsConfig, Source, TextRows, TextUnit,
};
pub use statistics::{PartStatistics, SignalStatistics, Statistics};

use crate::model::tokenizer_folder;
use crate::tokenizer::Tokenizer;

/// The kind.
pub struct Dataset;

impl Kind for Dataset {
    kind!("dataset", DatasetConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn inherits(&self) -> &'static [Inherited] {
        &[Inherited { key: "tokenizer", from_kind: "student", from_key: "tokenizer", link: "data" }]
    }
}

impl StageKind for Dataset {
    // 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, _view: &View<'_>) -> Needs {
        Needs { compute: true, ..Needs::default() }
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: DatasetConfig = context.config()?;
        if config.tokenizer.is_none() {
            return Err(Failure::input("the dataset has no tokenizer, and no student that trains on it names one")
                .hint("add `tokenizer = \"…\"`: a model folder's, or one trained in a `[tokenizer.X]`"));
        }
        let files = tokenizer_folder(context, "tokenizer")?;
        let tokenizer = Tokenizer::load(&files)?;
        let sources = source::open_all(&config, context)?;
        let assembler = assemble::Assembler::new(&config, &tokenizer, &sources, context)?;
        if tokenizer.eos().is_none() {
            context.warn("the tokenizer names no end-of-sequence token: students will not learn where to stop");
        }
        source::warn_of_unused_signals(&sources, &assembler, context);

        let mut gate = gate::Gate::open(&config, context)?;
        for source in &sources {
            source.read(&assembler, context, &mut |drafts| gate.take(drafts))?;
        }
        let mut passed = gate.close()?;
        warn_of_sources_without_rows(&passed, context);
        let chosen = select::by_weight(&config.mix, &passed.kept)?;
        let parts = select::split(&passed.kept, &chosen, config.holdout);

        let written = output::write(&config, &mut passed, &parts, &sources, &tokenizer, &files, context)?;
        let statistics = Statistics::new(&config, &tokenizer, &passed, &chosen, written)?;
        statistics.write(&context.out())?;
        Ok(Outcome::with_metrics(statistics.metrics()))
    }
}

/// A source that gives nothing while others do would only be missed when the student is bad at it.
fn warn_of_sources_without_rows(passed: &gate::Passed, context: &Context) {
    if passed.kept.is_empty() {
        return;
    }
    for (source, read) in passed.read.iter().enumerate() {
        if !passed.kept.iter().any(|row| row.source as usize == source) {
            context.warn(format!(
                "source {source} (from 0) of `mix` gives nothing: of its {read} rows none is left (`dropped.jsonl` of the \
                 dataset says why)"
            ));
        }
    }
}
