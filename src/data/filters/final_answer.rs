//! What a completion says in the end, so that two ways to the same result agree.

use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, Node};

use super::regex::compile;

/// Which part of a completion is its answer. Answers are compared without case, white space around and within, and the
/// sign of punctuation at their ends; numbers by their value.
#[derive(Clone, Debug, Config)]
pub enum FinalAnswer {
    /// All of it.
    Whole,
    /// The last line that is not blank.
    LastLine,
    /// The last number.
    LastNumber,
    /// What a pattern finds last.
    Pattern(AnswerPattern),
}

/// Where an answer stands.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct AnswerPattern {
    /// A regular expression; its first group is the answer, all of it where it has none: `'#### (.+)'`.
    pub regex: String,
}

fn sound(config: &AnswerPattern, node: &Node, report: &mut Diagnostics) {
    if let Err(reason) = compile(&config.regex) {
        report.push(Diagnostic::error(node.at, reason));
    }
}

/// Takes answers out of completions.
pub(super) struct Extractor(Option<regex::Regex>, FinalAnswer);

/// A number with or without sign, thousands and decimals.
const NUMBER: &str = r"[-+]?\d[\d,]*(?:\.\d+)?";

impl Extractor {
    pub(super) fn new(answer: &FinalAnswer) -> Result<Self, String> {
        let pattern = match answer {
            FinalAnswer::Pattern(pattern) => Some(compile(&pattern.regex)?),
            FinalAnswer::LastNumber => Some(compile(NUMBER)?),
            FinalAnswer::Whole | FinalAnswer::LastLine => None,
        };
        Ok(Self(pattern, answer.clone()))
    }

    /// The answer as it is compared; none where there is none.
    pub(super) fn answer(&self, completion: &str) -> Option<String> {
        let text = match (&self.0, &self.1) {
            (Some(pattern), _) => {
                let found = pattern.captures_iter(completion).last()?;
                found.get(1).or_else(|| found.get(0))?.as_str()
            }
            (None, FinalAnswer::LastLine) => completion.lines().rev().find(|line| !line.trim().is_empty())?,
            (None, _) => completion,
        };
        let normal = normalise(text);
        (!normal.is_empty()).then_some(normal)
    }
}

fn normalise(text: &str) -> String {
    let ends =
        |character: char| character.is_whitespace() || (character.is_ascii_punctuation() && !"-+%".contains(character));
    let text =
        text.trim().trim_end_matches(ends).trim_start_matches(|character: char| ends(character) && character != '.');
    let plain = text.replace(',', "");
    match plain.parse::<f64>() {
        Ok(number) if number.is_finite() => number.to_string(),
        _ => text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(of: &FinalAnswer, text: &str) -> Option<String> {
        Extractor::new(of).unwrap().answer(text)
    }

    #[test]
    fn each_way_finds_its_part() {
        let text = "2 and 2.\nSo: 1,200.50 apples.\n\n";
        let pattern = |regex: &str| FinalAnswer::Pattern(AnswerPattern { regex: regex.into() });
        assert_eq!(answer(&FinalAnswer::LastNumber, text).unwrap(), "1200.5");
        assert_eq!(answer(&FinalAnswer::LastLine, text).unwrap(), "so: 1,200.50 apples");
        assert_eq!(answer(&FinalAnswer::Whole, " Yes.\n").unwrap(), "yes");
        assert_eq!(answer(&pattern(r"So: (\S+)"), text).unwrap(), "1200.5");
        assert_eq!(answer(&pattern("apples"), text).unwrap(), "apples");
        assert_eq!(answer(&FinalAnswer::LastNumber, "none"), None);
        assert_eq!(answer(&FinalAnswer::Whole, " ... "), None);
    }

    #[test]
    fn numbers_are_compared_by_value_and_words_without_case() {
        for (one, other) in [("4", "4.0"), ("$1,000", "1000"), ("-3", "-3."), ("**Paris**", "paris"), ("a  b", "A b!")]
        {
            assert_eq!(normalise(one), normalise(other), "{one} and {other}");
        }
        assert_ne!(normalise("-3"), normalise("3"));
        assert_ne!(normalise("3 %"), normalise("3"));
    }
}
