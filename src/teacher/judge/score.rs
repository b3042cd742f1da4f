//! Finds the score in a judgement.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use stillhouse_data::answer::Outcome;

use super::config::{ScaleConfig, ScoreIs};
use crate::reply::Reply;

/// Why a judgement has no score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoScore {
    /// The reply is none that could hold one; its outcome.
    Outcome(Outcome),
    /// There is no number, or no JSON with the member.
    Unparseable,
    /// The number is none of the scale's.
    OutsideOfScale,
}

impl NoScore {
    /// The word used in files and figures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outcome(outcome) => outcome.name(),
            Self::Unparseable => Outcome::Unparseable.name(),
            Self::OutsideOfScale => "outside-of-scale",
        }
    }
}

/// Reads scores.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Where they stand.
    pub score: ScoreIs,
    /// Which there are.
    pub scale: ScaleConfig,
}

impl Reader {
    /// The score in a reply. One that was cut may have said it before.
    ///
    /// # Errors
    /// [`NoScore`].
    pub fn read(&self, reply: &Reply) -> Result<f64, NoScore> {
        match (reply.outcome, &self.score) {
            (Outcome::Ok, _) | (Outcome::Cut, ScoreIs::Json(_)) => {}
            // The last number of half a judgement is any number.
            (other, _) => return Err(NoScore::Outcome(other)),
        }
        let found = match &self.score {
            ScoreIs::LastNumber => last_number(&reply.text, self.scale.max),
            ScoreIs::Json(field) => last_member(&reply.text, field),
        };
        let score = found.ok_or(if reply.outcome == Outcome::Ok {
            NoScore::Unparseable
        } else {
            NoScore::Outcome(reply.outcome)
        })?;
        let ScaleConfig { min, max } = self.scale;
        if (min..=max).contains(&score) { Ok(score) } else { Err(NoScore::OutsideOfScale) }
    }
}

static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\d+(?:[.,]\d+)?").ok());

/// The last number of a text; the one before it where that is out of so many: `4/5`, `4 out of 5`, `4 of 5`.
fn last_number(text: &str, max: f64) -> Option<f64> {
    let numbers: Vec<_> = NUMBER.as_ref()?.find_iter(text).collect();
    let value = |place: &regex::Match<'_>| -> Option<f64> {
        let number: f64 = place.as_str().replace(',', ".").parse().ok()?;
        let before = text[..place.start()].strip_suffix(['-', '\u{2212}']);
        // A dash behind a word or a number is no sign: `1-5`, `GPT-4`.
        let negative =
            before.is_some_and(|before| before.is_empty() || before.ends_with(|c: char| c.is_whitespace() || c == ':'));
        Some(if negative { -number } else { number })
    };
    let last = numbers.last()?;
    if let [.., before, _] = numbers.as_slice() {
        let between =
            text[before.end()..last.start()].trim_matches(|c: char| c.is_whitespace() || matches!(c, '*' | '_'));
        if matches!(between, "/" | "out of" | "of") && value(last) == Some(max) {
            return value(before);
        }
    }
    value(last)
}

/// A member of the last JSON object in a text, whatever stands around it.
fn last_member(text: &str, field: &str) -> Option<f64> {
    let mut found = None;
    let mut start = 0;
    while let Some(offset) = text[start..].find('{') {
        let at = start + offset;
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                if let Some(number) = value.get(field).and_then(number) {
                    found = Some(number);
                }
                start = at + values.byte_offset().max(1);
            }
            _ => start = at + 1,
        }
    }
    found
}

/// A number, or a text that is one.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Usage;

    fn read(score: ScoreIs, text: &str) -> Result<f64, NoScore> {
        let reply = Reply {
            outcome: Outcome::Ok,
            text: text.to_owned(),
            finish: "stop".to_owned(),
            model: String::new(),
            usage: Usage::default(),
            token_ids: None,
            vector: None,
            tokens: None,
        };
        Reader { score, scale: ScaleConfig::default() }.read(&reply)
    }

    #[test]
    fn the_last_number_is_the_score() {
        let read = |text| read(ScoreIs::LastNumber, text);
        for (text, score) in [
            ("It has 3 faults of 10.\nScore: 4", 4.0),
            ("Score: **4.5**.", 4.5),
            ("Score: 4,5", 4.5),
            ("I give it 2/5", 2.0),
            ("3 out of 5!", 3.0),
            ("**3** / **5**", 3.0),
            ("on a scale of 1-5: 2", 2.0),
            ("score:-1 no, 5", 5.0),
            ("5", 5.0),
        ] {
            assert_eq!(read(text), Ok(score), "{text}");
        }
        assert_eq!(read("It is good."), Err(NoScore::Unparseable));
        assert_eq!(read("Score: 10"), Err(NoScore::OutsideOfScale));
        assert_eq!(read("Score: -3"), Err(NoScore::OutsideOfScale));
        assert_eq!(read("Score: 8/10"), Err(NoScore::OutsideOfScale), "out of another number than the best");
    }

    #[test]
    fn a_member_of_the_last_object_is_the_score() {
        let read = |text| read(ScoreIs::Json("score".to_owned()), text);
        assert_eq!(read(r#"{"why": "{short}", "score": 4}"#), Ok(4.0));
        assert_eq!(read("Well.\n```json\n{\"score\": \"3.5\"}\n```\nSo be it {"), Ok(3.5));
        assert_eq!(read(r#"{"score": 1} no, {"score": 2} {"other": 5}"#), Ok(2.0));
        for text in ["4", r#"{"scores": 4}"#, r#"{"score": "good"}"#, r#"{"score": null}"#, "{\"score\": 4"] {
            assert_eq!(read(text), Err(NoScore::Unparseable), "{text}");
        }
        assert_eq!(read(r#"{"score": 6}"#), Err(NoScore::OutsideOfScale));
    }
}
