//! What becomes of what a filter finds inside a text.

use std::ops::Range;

use stillhouse_stage::spec::Config;

use super::{Judged, Texts, Verdict};

/// What becomes of a row in which something is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Action {
    /// A mark stands in its place, `[email]`, and the row is tokenised again: it has no teacher's signals then.
    Redact,
    /// The row goes.
    Drop,
}

/// A part of a text, and what it is: `email`.
pub(super) type Finding = (Range<usize>, &'static str);

/// Looks for something in every text of a row, the reference included.
pub(super) fn judge(row: &Judged<'_>, action: Action, find: impl Fn(&str) -> Vec<Finding>) -> Verdict {
    let mut found = Vec::new();
    let mut clean = |text: &str| {
        let findings = apart(find(text));
        found.extend(findings.iter().map(|(_, what)| *what));
        redacted(text, &findings)
    };
    let messages = row.messages.iter().map(|message| message.with_texts(&mut clean));
    let texts = Texts {
        messages: messages.collect(),
        completion: clean(row.completion),
        reference: row.reference.map(&mut clean),
    };
    match (found.first(), action) {
        (None, _) => Verdict::Keep,
        (Some(_), Action::Redact) => Verdict::Change(Box::new(texts)),
        (Some(what), Action::Drop) => Verdict::Drop(format!("there is something of the kind `{what}` in it")),
    }
}

/// Findings in order; of those that overlap one, which begins first.
fn apart(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|(place, _)| (place.start, std::cmp::Reverse(place.end)));
    let mut apart: Vec<Finding> = Vec::new();
    for (place, what) in findings {
        match apart.last_mut() {
            Some((last, _)) if place.start < last.end => last.end = last.end.max(place.end),
            _ => apart.push((place, what)),
        }
    }
    apart
}

fn redacted(text: &str, findings: &[Finding]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut next = 0;
    for (place, what) in findings {
        out.push_str(&text[next..place.start]);
        out.push('[');
        out.push_str(what);
        out.push(']');
        next = place.end;
    }
    out.push_str(&text[next..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_that_overlap_become_one_mark() {
        let findings = apart(vec![(4..9, "b"), (0..6, "a"), (12..14, "c")]);
        assert_eq!(findings, [(0..9, "a"), (12..14, "c")]);
        assert_eq!(redacted("0123456789abcdef", &findings), "[a]9ab[c]ef");
    }
}
