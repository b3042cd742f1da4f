//! What becomes of a question that gets no usable reply: the same words, and the same meaning, in every stage that asks.

use stillhouse_data::answer::Outcome;
use stillhouse_spec::Config;

/// What becomes of a question that gets no usable reply, though others do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Config)]
pub enum OnFailed {
    /// The stage fails, after all others are answered. The next run asks it again.
    #[default]
    Fail,
    /// The stage goes on with a reply without words in its place, and later runs don't ask it.
    Keep,
    /// The stage goes on without it, lists it in `dropped.jsonl`, and later runs don't ask it.
    Drop,
    /// It is asked again with another seed, `ask-again-times` at most.
    AskAgain,
}

/// What becomes of replies to questions of a stage's own.
#[derive(Clone, Debug, Default, PartialEq, Config)]
pub struct FailedConfig {
    /// No usable reply came in `limits.attempts` attempts, though other questions were answered.
    #[config(default = OnFailed::Fail)]
    pub failed: OnFailed,
}

impl OnFailed {
    /// Whether a question whose `attempt`th asking, counted from 0, brought this is asked again, where that is done `times`
    /// times at most.
    #[must_use]
    pub fn asks_again(self, attempt: u32, outcome: Outcome, times: u32) -> bool {
        self == Self::AskAgain && outcome == Outcome::Failed && attempt < times
    }
}
