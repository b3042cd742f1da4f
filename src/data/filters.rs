//! Filters: which rows a dataset keeps. One file each, one line in [`FILTERS`].

mod agreement;
mod best_of;
mod exact_duplicate;
mod final_answer;
mod language;
mod length;
mod near_duplicate;
mod on;
mod personal_data;
mod redaction;
mod refusal;
mod regex;
mod repetition;
mod score;
mod secrets;
mod semantic_duplicate;
mod verifier;
pub(crate) mod words;

use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;
use stillhouse_spec::entry;
use stillhouse_stage::spec::registry::Component;
use stillhouse_stage::spec::{Entry, Registry};
use stillhouse_stage::{Artifact, Context, Failure};

pub use agreement::Agreement;
pub use best_of::BestOf;
pub use exact_duplicate::ExactDuplicate;
pub use final_answer::FinalAnswer;
pub use language::Language;
pub use length::Length;
pub use near_duplicate::NearDuplicate;
pub use on::On;
pub use personal_data::PersonalData;
pub use redaction::Action;
pub use refusal::Refusal;
pub(crate) use refusal::declines;
pub use regex::Regex;
pub use repetition::Repetition;
pub use score::{Score, Unknown};
pub use secrets::Secrets;
pub use semantic_duplicate::SemanticDuplicate;
pub use verifier::Verifier;

use crate::answer::Outcome;
use crate::error::DataResult;
use crate::prompt::Message;

/// Every filter.
pub static FILTERS: &[Entry<dyn Filter>] = &[
    entry!("agreement", Agreement as dyn Filter),
    entry!("best-of", BestOf as dyn Filter),
    entry!("exact-duplicate", ExactDuplicate as dyn Filter),
    entry!("language", Language as dyn Filter),
    entry!("length", Length as dyn Filter),
    entry!("near-duplicate", NearDuplicate as dyn Filter),
    entry!("personal-data", PersonalData as dyn Filter),
    entry!("refusal", Refusal as dyn Filter),
    entry!("regex", Regex as dyn Filter),
    entry!("repetition", Repetition as dyn Filter),
    entry!("score", Score as dyn Filter),
    entry!("secrets", Secrets as dyn Filter),
    entry!("semantic-duplicate", SemanticDuplicate as dyn Filter),
    entry!("verifier", Verifier as dyn Filter),
];

/// A filter as it is written in a dataset: settings only.
pub trait Filter: Component + Send + Sync {
    /// Begins a pass over a dataset's rows.
    ///
    /// # Errors
    /// A file that the filter needs and that is not what it should be.
    fn start(&self, place: &Place<'_>) -> Result<Box<dyn Pass>, Failure>;

    /// Whether it runs a program of the user's, which must not outlive the stage.
    fn runs_a_program(&self) -> bool {
        false
    }

    /// Whether it gives rows other texts.
    fn changes_texts(&self) -> bool {
        false
    }

    /// What becomes of a row whose text a filter before this one changed, where it finds rows by their text: `is dropped`.
    fn of_changed_texts(&self) -> Option<&'static str> {
        None
    }

    /// The field in which it names a stage that made vectors of the rows' texts.
    fn embeddings_field(&self) -> Option<&'static str> {
        None
    }
}

/// A filter at work: it sees the rows in order, those that earlier filters kept.
pub trait Pass {
    /// Judges a batch of rows: a verdict for each, in their order. All samples of a prompt come in one batch, one behind
    /// the other. Where else a batch ends must not matter.
    ///
    /// # Errors
    /// Whatever makes it impossible to judge; an unwanted row is a verdict.
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>>;
}

/// What becomes of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It stays, and this is how good it is: for filters behind this one that choose by score.
    Score(f64),
    /// It stays with other texts.
    Change(Box<Texts>),
    /// It goes; the reason in words.
    Drop(String),
}

/// The texts of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// The conversation before the completion.
    pub messages: Vec<Message>,
    /// What is learned.
    pub completion: String,
    /// The source's own answer.
    pub reference: Option<String>,
}

/// What a filter sees of a row.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// Which source of the mix it comes from.
    pub source: u32,
    /// Where in that source, from 1.
    pub line: u64,
    /// The id of its prompt; plain text has none.
    pub prompt: Option<&'a str>,
    /// Which sample of that prompt.
    pub sample: u32,
    /// The conversation before the completion; empty for plain text.
    pub messages: &'a [Message],
    /// What is learned.
    pub completion: &'a str,
    /// The source's own answer, where it has one.
    pub reference: Option<&'a str>,
    /// Tokens of the whole row.
    pub tokens: usize,
    /// What kind of reply it is, for rows that come from a teacher.
    pub outcome: Option<Outcome>,
    /// How good an earlier filter found it.
    pub score: Option<f64>,
}

impl<'a> Judged<'a> {
    /// A text by itself, of no source.
    #[must_use]
    pub fn of_text(completion: &'a str) -> Self {
        Self {
            source: 0,
            line: 0,
            prompt: None,
            sample: 0,
            messages: &[],
            completion,
            reference: None,
            tokens: 0,
            outcome: None,
            score: None,
        }
    }

    /// Whether both are samples of one prompt: answers of one source to the same question.
    fn is_sample_beside(&self, other: &Self) -> bool {
        self.outcome.is_some() && (self.source, self.prompt) == (other.source, other.prompt)
    }
}

/// The samples of each prompt, as ranges; a row that is no teacher's answer is alone.
pub(crate) fn samples(rows: &[Judged<'_>]) -> Vec<Range<usize>> {
    let mut start = 0;
    rows.chunk_by(|one, next| one.is_sample_beside(next))
        .map(|chunk| {
            let range = start..start + chunk.len();
            start = range.end;
            range
        })
        .collect()
}

/// Where a filter stands: how it reaches what its fields name.
pub struct Place<'a> {
    field: String,
    context: Option<&'a Context>,
}

impl<'a> Place<'a> {
    /// A filter of a running stage; `field` is the path of its table.
    #[must_use]
    pub fn new(context: &'a Context, field: String) -> Self {
        Self { field, context: Some(context) }
    }

    /// Outside of any stage: for filters that name neither files nor stages.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { field: String::new(), context: None }
    }

    /// The stage.
    fn context(&self) -> Result<&'a Context, Failure> {
        self.context.ok_or_else(|| Failure::internal("a filter outside of a stage has no files"))
    }

    /// The file that a field of the filter names.
    fn file(&self, field: &str) -> Result<PathBuf, Failure> {
        self.context()?.file(&format!("{}.{field}", self.field))
    }

    /// The output of the stage that a field of the filter names.
    pub(crate) fn input(&self, field: &str) -> Result<Artifact, Failure> {
        self.context()?.input(&format!("{}.{field}", self.field))
    }
}

/// A pass that judges each row by itself, on all processors.
struct EachRow<F>(F);

impl<F: Fn(&Judged<'_>) -> Verdict + Sync> Pass for EachRow<F> {
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        Ok(rows.par_iter().map(&self.0).collect())
    }
}

impl Registry for dyn Filter {
    const WHAT: &'static str = "filter";

    fn entries() -> &'static [Entry<Self>] {
        FILTERS
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A row without a prompt.
    pub(crate) fn judged(completion: &str) -> Judged<'_> {
        Judged { line: 1, tokens: completion.len(), ..Judged::of_text(completion) }
    }

    /// A teacher's answer to a prompt.
    pub(crate) fn sampled<'a>(prompt: &'a str, sample: u32, completion: &'a str) -> Judged<'a> {
        Judged { prompt: Some(prompt), sample, outcome: Some(Outcome::Ok), ..judged(completion) }
    }

    pub(crate) fn verdicts(filter: &dyn Filter, rows: &[Judged<'_>]) -> Vec<Verdict> {
        filter.start(&Place::nowhere()).unwrap().judge(rows).unwrap()
    }

    pub(crate) fn kept(filter: &dyn Filter, rows: &[Judged<'_>]) -> Vec<bool> {
        verdicts(filter, rows).iter().map(|verdict| !matches!(verdict, Verdict::Drop(_))).collect()
    }

    /// Why each row goes; empty for those that stay.
    pub(crate) fn reasons(filter: &dyn Filter, rows: &[Judged<'_>]) -> Vec<String> {
        let reason = |verdict| match verdict {
            Verdict::Drop(reason) => reason,
            _ => String::new(),
        };
        verdicts(filter, rows).into_iter().map(reason).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{judged, sampled};
    use super::*;

    #[test]
    fn the_slice_is_sorted_and_every_filter_says_what_it_does() {
        assert!(FILTERS.is_sorted_by_key(|entry| entry.name));
        assert!(FILTERS.iter().all(|entry| !entry.about().is_empty()));
    }

    #[test]
    fn samples_of_a_prompt_stand_together_and_other_rows_alone() {
        let other_source = Judged { source: 1, ..sampled("b", 0, "x") };
        let rows =
            [sampled("a", 0, "x"), sampled("a", 1, "y"), sampled("b", 0, "x"), other_source, judged("x"), judged("y")];
        assert_eq!(samples(&rows), [0..2, 2..3, 3..4, 4..5, 5..6]);
    }
}
