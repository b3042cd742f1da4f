//! Runs a model over the scored tokens of examples, a batch at a time so that memory stays flat.

use stillhouse_data::example::{Example, ExampleReader};
use stillhouse_data::lm::{LanguageModel, LmError};
use stillhouse_stage::Failure;

/// How much goes through a model at once.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimit {
    /// At most this many tokens.
    pub tokens: usize,
    /// At most this many scored tokens: whoever keeps a whole distribution of each chooses it.
    pub scored: usize,
}

impl BatchLimit {
    /// For a pass that keeps a number a token.
    pub const STREAMED: Self = Self { tokens: 8_192, scored: usize::MAX };

    /// For a pass that keeps the whole distributions of a batch: 128 MiB of them.
    pub fn keeping_distributions(vocabulary: usize) -> Self {
        let bytes_a_token = vocabulary.max(1) * size_of::<f32>();
        Self { scored: ((128 << 20) / bytes_a_token).max(1), ..Self::STREAMED }
    }
}

/// Calls `work(first, batch)` with the examples of a part of a dataset, batch by batch: `first` is the place of
/// the batch's first example. A batch holds at least one example, however long.
///
/// # Errors
/// What reading or `work` gives.
pub fn for_each_batch(
    examples: &ExampleReader,
    limit: BatchLimit,
    mut work: impl FnMut(usize, &[Example]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut batch: Vec<Example> = Vec::new();
    let (mut first, mut tokens, mut scored) = (0, 0, 0);
    for place in 0..examples.len() {
        let example = examples.get(place)?;
        let (more_tokens, more_scored) = (example.tokens.len(), example.scored_tokens());
        let full = tokens + more_tokens > limit.tokens || scored + more_scored > limit.scored;
        if full && !batch.is_empty() {
            work(first, &batch)?;
            batch.clear();
            (first, tokens, scored) = (place, 0, 0);
        }
        tokens += more_tokens;
        scored += more_scored;
        batch.push(example);
    }
    if batch.is_empty() { Ok(()) } else { work(first, &batch) }
}

/// A model with the name that messages give it.
pub struct Scorer<'a> {
    /// The model.
    pub model: &'a mut dyn LanguageModel,
    /// `student.small`, `model.smollm2`.
    pub label: &'a str,
}

impl Scorer<'_> {
    /// Calls `visit(example, target, log_probs)` for each scored token of a batch: the index of the example in
    /// the batch, the token's id, and the model's log-probabilities over the vocabulary for that place.
    ///
    /// Within an example tokens come in order; examples may interleave. `first` is the place of the batch in its
    /// dataset, for messages.
    ///
    /// # Errors
    /// An example that is too long for the model or has a token it does not know; what the model gives.
    pub fn score(
        &mut self,
        first: usize,
        batch: &[Example],
        visit: &mut dyn FnMut(usize, u32, &[f32]),
    ) -> Result<(), Failure> {
        for (index, example) in batch.iter().enumerate() {
            self.check_length(first + index, example.tokens.len())?;
            self.check_vocabulary(first + index, &example.tokens)?;
        }
        let sequences: Vec<Vec<u32>> = batch.iter().map(|example| example.tokens.clone()).collect();
        let scored: Result<(), LmError> = self.model.score(&sequences, &mut |row, position, log_probs| {
            let target = position + 1;
            if batch[row].scored[target] {
                visit(row, batch[row].tokens[target], log_probs);
            }
        });
        Ok(scored?)
    }

    /// Whether a sequence of so many tokens fits the model.
    ///
    /// # Errors
    /// A failure of the input that names the example.
    pub fn check_length(&self, place: usize, tokens: usize) -> Result<(), Failure> {
        let longest = self.model.max_length();
        if tokens <= longest {
            return Ok(());
        }
        Err(Failure::input(format!("example {place} has {tokens} tokens, but {} takes at most {longest}", self.label))
            .hint("drop long rows with the dataset's `length` filter, or train with more positions"))
    }

    fn check_vocabulary(&self, place: usize, tokens: &[u32]) -> Result<(), Failure> {
        let vocabulary = self.model.vocabulary();
        match tokens.iter().find(|id| **id as usize >= vocabulary) {
            None => Ok(()),
            Some(id) => Err(Failure::input(format!(
                "example {place} has the token {id}, but {} knows only {vocabulary} tokens",
                self.label
            ))
            .hint("the data was tokenised with the tokenizer of another model")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scripted, example, write_part};

    #[test]
    fn batches_cover_every_example_once_and_respect_both_limits() {
        let lengths = [3, 5, 9, 2, 2, 2, 40, 1 + 1];
        let folder = tempfile::tempdir().unwrap();
        let examples: Vec<Example> = lengths.iter().map(|length| example(&vec![0; *length])).collect();
        let reader = write_part(folder.path(), &examples);
        let mut seen = Vec::new();
        let limit = BatchLimit { tokens: 10, scored: 6 };
        for_each_batch(&reader, limit, |first, batch| {
            seen.push((first, batch.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(0, 2), (2, 1), (3, 3), (6, 1), (7, 1)]);
    }

    #[test]
    fn only_marked_tokens_are_visited() {
        let mut model = Scripted::uniform(4);
        let mut examples = vec![example(&[0, 1, 2, 3])];
        examples[0].scored[2] = false;
        let mut seen = Vec::new();
        Scorer { model: &mut model, label: "student.a" }
            .score(0, &examples, &mut |row, target, _| seen.push((row, target)))
            .unwrap();
        assert_eq!(seen, [(0, 1), (0, 3)]);
    }

    #[test]
    fn an_example_that_is_too_long_is_named() {
        let mut model = Scripted::uniform(4);
        model.max_length = 3;
        let error = Scorer { model: &mut model, label: "student.a" }
            .score(7, &[example(&[0, 1, 2]), example(&[0, 1, 2, 3])], &mut |_, _, _| ())
            .unwrap_err();
        assert_eq!(error.message, "example 8 has 4 tokens, but student.a takes at most 3");
        assert!(error.hint.is_some());
    }

    #[test]
    fn a_token_the_model_does_not_know_is_named() {
        let mut model = Scripted::uniform(4);
        let error = Scorer { model: &mut model, label: "student.a" }
            .score(0, &[example(&[0, 4])], &mut |_, _, _| ())
            .unwrap_err();
        assert_eq!(error.message, "example 0 has the token 4, but student.a knows only 4 tokens");
    }
}
