//! Drops rows whose chosen texts are those of a row before them.

use std::collections::HashSet;

use rayon::prelude::*;
use stillhouse_stage::Failure;
use stillhouse_stage::spec::Config;

use super::{Filter, Judged, On, Pass, Place, Verdict, words};
use crate::error::DataResult;

/// Drops rows whose chosen texts are those of a row before them. Rows that are equal in all and letter by letter never
/// stay, with or without this filter. On the prompt alone it keeps the first sample of every prompt.
#[derive(Clone, Copy, Debug, Config)]
pub struct ExactDuplicate {
    /// The texts that are compared.
    #[config(default = On::Both)]
    pub on: On,
    /// Case, punctuation and white space are disregarded: only the words count.
    #[config(default = true)]
    pub normalise: bool,
}

impl Filter for ExactDuplicate {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        Ok(Box::new(Seen { filter: *self, texts: HashSet::new() }))
    }
}

struct Seen {
    filter: ExactDuplicate,
    texts: HashSet<u128>,
}

impl Pass for Seen {
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        let contents: Vec<u128> = rows.par_iter().map(|row| self.filter.content(row)).collect();
        let verdict = |content| match self.texts.insert(content) {
            true => Verdict::Keep,
            false => Verdict::Drop(format!("the {} of a row before it", self.filter.what())),
        };
        Ok(contents.into_iter().map(verdict).collect())
    }
}

impl ExactDuplicate {
    fn what(&self) -> &'static str {
        match self.on {
            On::Prompt => "prompt",
            On::Completion => "completion",
            On::Both => "texts",
        }
    }

    fn content(&self, row: &Judged<'_>) -> u128 {
        let mut hasher = blake3::Hasher::new();
        for text in self.on.texts(row) {
            let words = if self.normalise { words::hashes(text) } else { Vec::new() };
            // A text without words is nothing but its signs.
            if words.is_empty() {
                let text = if self.normalise { text.trim() } else { text };
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            } else {
                hasher.update(&(words.len() as u64).to_le_bytes());
                words.iter().for_each(|word| _ = hasher.update(&word.to_le_bytes()));
            }
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        u128::from_le_bytes(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::testing::{judged, kept, reasons};
    use crate::prompt::Message;

    #[test]
    fn only_words_count_unless_letters_are_to() {
        let rows = ["It is four.", "it is FOUR", "It is five.", "!", "?", " ?"].map(judged);
        assert_eq!(
            kept(&ExactDuplicate { on: On::Both, normalise: true }, &rows),
            [true, false, true, true, true, false]
        );
        assert_eq!(kept(&ExactDuplicate { on: On::Both, normalise: false }, &rows), [true; 6]);
    }

    #[test]
    fn the_chosen_texts_are_compared() {
        let (a, b) = ([Message::user("a")], [Message::user("b")]);
        let row = |messages, completion| Judged { messages, ..judged(completion) };
        let rows = [row(&a, "x"), row(&a, "y"), row(&b, "x"), row(&a, "x")];
        let filter = |on| ExactDuplicate { on, normalise: true };
        assert_eq!(kept(&filter(On::Prompt), &rows), [true, false, true, false]);
        assert_eq!(kept(&filter(On::Both), &rows), [true, true, true, false]);
        let reasons = reasons(&filter(On::Completion), &rows);
        assert_eq!(reasons, ["", "", "the completion of a row before it", "the completion of a row before it"]);
    }
}
