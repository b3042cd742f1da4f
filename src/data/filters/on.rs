//! Which of a row's texts a filter looks at.

use stillhouse_stage::spec::Config;

use super::Judged;

/// Which of a row's texts a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum On {
    /// The conversation before the completion.
    Prompt,
    /// What is learned.
    Completion,
    /// Each of them.
    Both,
}

impl On {
    /// The texts, turn by turn.
    pub(crate) fn texts<'a>(self, row: &Judged<'a>) -> impl Iterator<Item = &'a str> {
        let messages = if self == Self::Completion { &[] } else { row.messages };
        let completion = (self != Self::Prompt).then_some(row.completion);
        messages.iter().map(|message| message.content.as_str()).chain(completion)
    }
}
