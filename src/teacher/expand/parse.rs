//! From a reply to prompts: what is in it, and why some of it is none.

use std::sync::LazyLock;

use regex::Regex;
use stillhouse_data::answer::Outcome;
use stillhouse_data::novelty::{Known, count_words, sounds_like_a_refusal};

use super::config::{ExpandConfig, ReplyIs};
use crate::reply::Reply;

/// Why something that the teacher wrote is no new prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The reply is no whole answer; its outcome.
    Outcome(Outcome),
    /// The reply says that it declines.
    Refusal,
    /// The reply is no numbered list.
    Unparseable,
    /// The token limit cut it off.
    Cut,
    /// It has fewer words than it must.
    TooShort,
    /// It has more words than it may.
    TooLong,
    /// It is there already.
    Duplicate,
    /// It is nearly one that is there; how like it is.
    NearDuplicate(String),
    /// There are as many as wanted.
    Limit,
}

impl Reject {
    /// The word used in files and figures.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Outcome(outcome) => outcome.name(),
            Self::Refusal => Outcome::Refusal.name(),
            Self::Unparseable => Outcome::Unparseable.name(),
            Self::Cut => Outcome::Cut.name(),
            Self::TooShort => "too-short",
            Self::TooLong => "too-long",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate(_) => "near-duplicate",
            Self::Limit => "limit",
        }
    }

    /// What is to be said beyond the word.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::NearDuplicate(detail) => Some(detail),
            _ => None,
        }
    }
}

impl From<Known> for Reject {
    fn from(known: Known) -> Self {
        match known {
            Known::Duplicate => Self::Duplicate,
            Known::NearDuplicate(detail) => Self::NearDuplicate(detail),
        }
    }
}

/// What a reply brings: texts in their order, with the reason of those that are none.
#[must_use]
pub fn candidates(reply: &Reply, config: &ExpandConfig) -> Vec<(String, Result<(), Reject>)> {
    let whole = |reject| vec![(reply.text.clone(), Err(reject))];
    match reply.outcome {
        Outcome::Ok | Outcome::Cut => {}
        other => return whole(Reject::Outcome(other)),
    }
    if sounds_like_a_refusal(&reply.text) {
        return whole(Reject::Refusal);
    }
    let cut = reply.outcome == Outcome::Cut;
    let mut texts = match config.reply() {
        ReplyIs::Prompt => vec![whole_prompt(&reply.text)],
        ReplyIs::List => items(&reply.text),
    };
    let unfinished = if cut { texts.pop() } else { None };
    if texts.is_empty() && unfinished.is_none() {
        return whole(Reject::Unparseable);
    }
    let judged = texts.into_iter().map(|text| {
        let fits = fits(&text, config);
        (text, fits)
    });
    judged.chain(unfinished.map(|text| (text, Err(Reject::Cut)))).collect()
}

fn fits(text: &str, config: &ExpandConfig) -> Result<(), Reject> {
    match count_words(text) {
        words if words < config.min_words => Err(Reject::TooShort),
        words if words > config.max_words => Err(Reject::TooLong),
        _ => Ok(()),
    }
}

/// `3. `, `3) `, `**3.** `, `Request 3: `: the number and what stands behind it.
static MARKER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^[*_#]*\s*(?:(?i:requests?|prompts?|tasks?|instructions?|questions?)\s+)?#?(\d{1,3})\s*[*_]*[.):][*_]*(?:\s+|$)(.*)$").ok()
});

/// The items of a numbered list. An item goes on until the next number stands at the beginning of a line, so that lists
/// within an item stay whole; what stands before the first is an introduction.
fn items(text: &str) -> Vec<String> {
    let (mut items, mut expected): (Vec<String>, Option<u32>) = (Vec::new(), None);
    for line in text.lines() {
        let marked = MARKER.as_ref().and_then(|marker| marker.captures(line.trim_end()));
        let numbered =
            marked.and_then(|found| Some((found.get(1)?.as_str().parse::<u32>().ok()?, found.get(2)?.as_str())));
        match numbered {
            Some((number, rest)) if expected.is_none_or(|expected| number == expected) => {
                expected = Some(number + 1);
                items.push(rest.to_owned());
            }
            _ => {
                if let Some(item) = items.last_mut() {
                    item.push('\n');
                    item.push_str(line);
                }
            }
        }
    }
    items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// A reply that is one prompt, without the heading and the quotes that some teachers put around it.
fn whole_prompt(text: &str) -> String {
    static HEADING: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"^[*_#\s]*(?i:(?:the\s+)?(?:new|rewritten)\s+(?:request|prompt|instruction))[*_#]*\s*:[*_#]*\s*")
            .ok()
    });
    let text = text.trim();
    let text = HEADING.as_ref().and_then(|heading| heading.find(text)).map_or(text, |found| &text[found.end()..]);
    let quoted = |open, close| {
        let inner = text.strip_prefix(open)?.strip_suffix(close)?;
        (!inner.contains([open, close])).then_some(inner)
    };
    quoted('"', '"').or_else(|| quoted('\u{201c}', '\u{201d}')).unwrap_or(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_list_comes_apart_whatever_its_numbers_look_like() {
        let reply = "Sure! Here they are:\n\n1. Name three rivers.\n2) Write a poem:\n   - short\n   1. in rhyme\n**3.** Why?\nRequest 4: How so?\n6. no item\n5:\n";
        let expected =
            ["Name three rivers.", "Write a poem:\n   - short\n   1. in rhyme", "Why?", "How so?\n6. no item"];
        assert_eq!(items(reply), expected);
        assert_eq!(items("9. It goes on\n10. after nine\n"), ["It goes on", "after nine"]);
        assert_eq!(items("Name three rivers, 1.5 times."), [""; 0]);
        assert_eq!(items("1.5 million people live there"), [""; 0], "a number is no item");
    }

    #[test]
    fn a_prompt_loses_its_heading_and_quotes_only() {
        assert_eq!(whole_prompt("  **Rewritten request:** \"Name four rivers.\"\n"), "Name four rivers.");
        assert_eq!(whole_prompt("#New Prompt#: Name four rivers."), "Name four rivers.");
        assert_eq!(whole_prompt("\"Yes\" or \"no\""), "\"Yes\" or \"no\"");
        assert_eq!(whole_prompt("New requests: which are they?"), "New requests: which are they?");
    }
}
