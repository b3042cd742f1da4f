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
//! Rows go through in this order: tokenise → exact duplicates → filters, as listed → decontamination against other
//! evaluation data → weights → holdout → decontamination of the training rows against the holdout.

mod artifact;
mod assemble;
mod captured;
mod check;
mod complete;
mod config;
mod decontaminate;
mod diversity;
mod dropped;
mod evaluated;
mod gate;
mod look;
mod measured;
mod output;
mod select;
mod signals;
mod source;
mod spread;
mod statistics;
#[cfg(test)]
mod tests;
mod windows;

use stillhouse_stage::spec::{Diagnostics, Node};
use stillhouse_stage::{Context, Failure, Inherited, Kind, Needs, Outcome, Placement, StageKind, View, kind};

pub use artifact::{DatasetArtifact, HOLDOUT, TRAIN};
pub use config::{
    ChatTemplateChoice, DatasetConfig, Decontamination, Evaluated, JsonlRows, LongRows, LossOn, Rows, SignalsConfig,
    Source, Split, TextRows, TextUnit,
};
pub use decontaminate::{DecontaminationStatistics, EvaluationStatistics};
pub use diversity::{Diversity, Spread};
pub use dropped::{DROPPED_FILE, DroppedRow};
pub use look::{Fate, RowName, ShownRow};
pub use measured::Measured;
pub use statistics::{MatchedStatistics, PartStatistics, SignalStatistics, Statistics};

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

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        check::tokenizer(view, report);
        check::signals(view, report);
    }

    fn complete(&self, name: &str, body: &mut Node, tree: &Node) {
        complete::evaluation_data(name, body, tree);
    }
}

impl StageKind for Dataset {
    // 1: the first.
    // 2: training rows that share 13 words with held-out ones are left out.
    // 3: nulls in templates as in prompts; decontamination reads a question and its answer in a row, and the filters
    //    `secrets` and `personal-data` find more.
    // 4: `secrets` finds Amazon's keys, and `personal-data` passes over what only looks like addresses and numbers.
    fn revision(&self) -> u32 {
        4
    }

    fn needs(&self, view: &View<'_>) -> Needs {
        let config = view.config_as::<DatasetConfig>();
        let runs_a_program = config.is_some_and(|config| config.filters.iter().any(|one| one.value.runs_a_program()));
        // The worker stands guard: when the engine dies, it kills all of the program's processes.
        let placement = if runs_a_program { Placement::Worker } else { Placement::Inline };
        Needs { placement, compute: true, ..Needs::default() }
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: DatasetConfig = context.config()?;
        if config.tokenizer.is_none() {
            return Err(Failure::input("the dataset has no tokenizer, and no student that trains on it names one")
                .hint("add `tokenizer = \"…\"`: a model folder's, or one trained in a `[tokenizer.X]`"));
        }
        let files = tokenizer_folder(context, "tokenizer")?;
        let tokenizer = Tokenizer::load(&files)?;
        let mut sources = source::open_all(&config, &tokenizer, context)?;
        let assembler = assemble::Assembler::new(&config, &tokenizer, &sources, context)?;
        if tokenizer.eos().is_none() {
            context.warn("the tokenizer names no end-of-sequence token: students will not learn where to stop");
        }
        source::warn_of_unused_signals(&sources, &assembler, context);

        let mut evaluations = decontaminate::Evaluations::open(&config, context)?;
        let mut gate = gate::Gate::open(&config, &assembler, context)?;
        let mut bad_rows = Vec::new();
        for source in &mut sources {
            bad_rows.push(source.read(&assembler, context, &mut |drafts| gate.take(drafts))?);
        }
        let mut passed = gate.close()?;
        warn_of_sources_without_rows(&passed, context);
        warn_of_teachers_alone(&config, context);
        let left = decontaminate::against(&mut evaluations, &mut passed)?;
        let chosen = select::by_weight(&config.mix, &passed.kept, left.clone())?;
        let mut parts = select::split(&passed.kept, &chosen, config.holdout);
        let decontaminated = decontaminate::holdout(&config, evaluations, &mut passed, &mut parts)?;
        if let Some(statistics) = &decontaminated {
            decontaminate::warn(statistics, passed.kept.len(), context);
        }

        let written = output::write(&config, &passed, &parts, &sources, &tokenizer, &files, context)?;
        let statistics = Statistics::new(&config, &tokenizer, passed, &left, &parts, written, decontaminated)?;
        statistics.write(&context.out())?;
        let mut metrics = statistics.metrics();
        if bad_rows.iter().any(Option::is_some) {
            // In the order of the mix; null where bad rows stop the stage.
            metrics["bad-rows"] = bad_rows.into();
        }
        Ok(Outcome::with_metrics(metrics))
    }
}

/// A student of nothing but teachers' answers has no text of a person to hold on to.
fn warn_of_teachers_alone(config: &DatasetConfig, context: &Context) {
    if config.mix.iter().all(|source| source.answers.is_some()) {
        context.warn(
            "every row is a teacher's answer: over several generations such data loses its variety; mix in real data \
             (`jsonl` or `text`, with `weight`), and watch `diversity` in the record",
        );
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
