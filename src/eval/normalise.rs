//! When two answers count as the same text.

use regex::Regex;
use thiserror::Error;

/// What is disregarded when two texts are compared. Acts in the order of the fields, on both texts: the
/// options and the order of lm-evaluation-harness' `exact_match`, and white space after them as MiniLLM's
/// evaluation does.
#[derive(Debug, Clone, Default)]
pub struct Normalisation {
    /// Whatever one of these matches is removed.
    pub patterns: Vec<Regex>,
    /// Lower-case both.
    pub case: bool,
    /// Remove ASCII punctuation.
    pub punctuation: bool,
    /// Remove the digits 0 to 9.
    pub numbers: bool,
    /// Trim, and collapse each run of white space to one space.
    pub white_space: bool,
}

/// A pattern that is no regular expression.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the pattern `{pattern}` is not a regular expression: {reason}")]
pub struct BadPattern {
    /// As written.
    pub pattern: String,
    /// What the parser said, in one line.
    pub reason: String,
}

impl Normalisation {
    /// Reads the patterns.
    ///
    /// # Errors
    /// The first pattern that is no regular expression.
    pub fn patterns(patterns: &[String]) -> Result<Vec<Regex>, BadPattern> {
        patterns.iter().map(|pattern| compile(pattern)).collect()
    }

    /// The text that is compared in place of `text`.
    pub fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.patterns {
            text = pattern.replace_all(&text, "").into_owned();
        }
        if self.case {
            text = text.to_lowercase();
        }
        if self.punctuation {
            text.retain(|character| !character.is_ascii_punctuation());
        }
        if self.numbers {
            text.retain(|character| !character.is_ascii_digit());
        }
        if self.white_space {
            text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        text
    }
}

fn compile(pattern: &str) -> Result<Regex, BadPattern> {
    Regex::new(pattern).map_err(|error| {
        // The parser draws the pattern with a caret over several lines; the reason is in the last one.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        BadPattern { pattern: pattern.to_owned(), reason: reason.trim_start_matches("error: ").to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_disregarded_unless_asked() {
        assert_eq!(Normalisation::default().apply(" The 7  Cats!\n"), " The 7  Cats!\n");
    }

    #[test]
    fn each_option_removes_its_own_part() {
        let none = Normalisation::default;
        let text = " The 7  Cats!\n";
        assert_eq!(Normalisation { case: true, ..none() }.apply(text), " the 7  cats!\n");
        assert_eq!(Normalisation { punctuation: true, ..none() }.apply(text), " The 7  Cats\n");
        assert_eq!(Normalisation { numbers: true, ..none() }.apply(text), " The   Cats!\n");
        assert_eq!(Normalisation { white_space: true, ..none() }.apply(text), "The 7 Cats!");
    }

    #[test]
    fn patterns_act_before_the_other_options() {
        let patterns = Normalisation::patterns(&[r"(?s).*#### ".to_owned(), ",".to_owned()]).unwrap();
        let normalisation = Normalisation { patterns, case: true, white_space: true, ..Normalisation::default() };
        assert_eq!(normalisation.apply("So 2 × 600:\n#### 1,200 "), "1200");
    }

    #[test]
    fn white_space_left_by_removed_parts_is_collapsed_last() {
        let normalisation = Normalisation { punctuation: true, white_space: true, ..Normalisation::default() };
        assert_eq!(normalisation.apply("yes - no"), "yes no");
    }

    #[test]
    fn a_broken_pattern_is_named_with_the_reason_on_one_line() {
        let error = Normalisation::patterns(&["(a".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "the pattern `(a` is not a regular expression: unclosed group");
    }
}
