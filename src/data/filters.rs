//! Filters: which rows a dataset keeps. One file each, one line in [`FILTERS`].

mod length;
mod near_duplicate;
mod refusal;

use stillhouse_spec::entry;
use stillhouse_stage::spec::registry::Component;
use stillhouse_stage::spec::{Entry, Registry};

pub use length::Length;
pub use near_duplicate::NearDuplicate;
pub use refusal::Refusal;

use crate::answer::Outcome;
use crate::prompt::Message;

/// Every filter.
pub static FILTERS: &[Entry<dyn Filter>] = &[
    entry!("length", Length as dyn Filter),
    entry!("near-duplicate", NearDuplicate as dyn Filter),
    entry!("refusal", Refusal as dyn Filter),
];

/// A filter as it is written in a dataset: settings only.
pub trait Filter: Component + Send + Sync {
    /// Begins a pass over a dataset's rows.
    fn start(&self) -> Box<dyn Pass>;
}

/// A filter at work: it sees the rows once, in order, those that earlier filters kept.
pub trait Pass {
    /// Whether the row stays.
    fn keeps(&mut self, row: &Judged<'_>) -> bool;
}

/// What a filter sees of a row.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The conversation before the completion; empty for plain text.
    pub messages: &'a [Message],
    /// What is learned.
    pub completion: &'a str,
    /// Tokens of the whole row.
    pub tokens: usize,
    /// What kind of reply it is, for rows that come from a teacher.
    pub outcome: Option<Outcome>,
}

impl Registry for dyn Filter {
    const WHAT: &'static str = "filter";

    fn entries() -> &'static [Entry<Self>] {
        FILTERS
    }
}

#[cfg(test)]
pub(crate) fn judged(completion: &str) -> Judged<'_> {
    Judged { messages: &[], completion, tokens: completion.len(), outcome: None }
}
