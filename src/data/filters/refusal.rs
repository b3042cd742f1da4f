//! Drops answers in which a teacher declines.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::Config;

use super::{EachRow, Filter, Judged, Pass, Place, Verdict};
use crate::answer::Outcome;

/// Drops answers in which a teacher declines: those the provider marks so, and those that begin like one (in English).
#[derive(Clone, Copy, Debug, Config)]
pub struct Refusal {}

/// Only so many characters of an answer's beginning are looked at: a refusal comes first, and a long answer that
/// quotes one is none.
const BEGINNING: usize = 160;

/// Who declines, and how. A refusal has one of each, the second after the first.
const SPEAKERS: &[&str] = &["i", "i'm", "i am", "as an ai", "as a language model", "as an ai language model"];
const REFUSALS: &[&str] = &[
    "can't assist",
    "cannot assist",
    "can't help with",
    "cannot help with",
    "can't provide",
    "cannot provide",
    "can't fulfill",
    "cannot fulfill",
    "can't comply",
    "cannot comply",
    "can't answer",
    "cannot answer",
    "can't do that",
    "cannot do that",
    "unable to assist",
    "unable to help",
    "unable to provide",
    "unable to fulfill",
    "unable to comply",
    "not able to assist",
    "not able to help",
    "not able to provide",
    "won't be able to",
    "must decline",
    "have to decline",
    "do not have the ability",
    "don't have the ability",
];
const APOLOGIES: &[&str] = &["i'm sorry, but", "i am sorry, but", "sorry, but i", "i apologize, but i"];

impl Filter for Refusal {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        Ok(Box::new(EachRow(judge)))
    }
}

fn judge(row: &Judged<'_>) -> Verdict {
    if row.outcome == Some(Outcome::Refusal) {
        Verdict::Drop("the teacher's server marks it as a refusal".into())
    } else if declines(row.completion) {
        Verdict::Drop("it begins like a refusal".into())
    } else {
        Verdict::Keep
    }
}

pub(crate) fn declines(text: &str) -> bool {
    let beginning: String = text.trim_start().chars().take(BEGINNING).collect();
    let beginning = beginning.to_lowercase().replace('\u{2019}', "'");
    let first_sentence = beginning.split_inclusive(['.', '!', '\n']).next().unwrap_or_default();
    let apology = APOLOGIES.iter().any(|apology| first_sentence.starts_with(apology));
    let speaker = SPEAKERS
        .iter()
        .any(|speaker| first_sentence.strip_prefix(speaker).is_some_and(|rest| rest.starts_with([' ', ','])));
    (apology || speaker) && REFUSALS.iter().any(|refusal| first_sentence.contains(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::testing::{judged, kept};

    #[test]
    fn refusals_are_dropped() {
        for text in [
            "I'm sorry, but I can't assist with that.",
            "I\u{2019}m sorry, but I cannot help with this request. Instead…",
            " As an AI language model, I am unable to provide medical advice.",
            "I cannot fulfill this request.",
            "Sorry, but I won't be able to do so.",
        ] {
            assert_eq!(kept(&Refusal {}, &[judged(text)]), [false], "{text}");
        }
        let marked = Judged { outcome: Some(Outcome::Refusal), ..judged("No.") };
        assert_eq!(kept(&Refusal {}, &[marked]), [false]);
    }

    #[test]
    fn answers_that_only_sound_like_it_stay() {
        for text in [
            "I'm sorry to hear that. Here is what you can do:",
            "The law says: \"I cannot provide it\".",
            "It cannot assist the pump because the valve is closed.",
            "Ivan is unable to help.",
            "I think so. I cannot help with the rest.",
            "",
        ] {
            assert_eq!(kept(&Refusal {}, &[judged(text)]), [true], "{text}");
        }
    }
}
