//! Teacher-forced log-probabilities of every answer's tokens, written as signals that are found by content.

use std::path::Path;

use serde_json::json;
use stillhouse_data::lm::LanguageModel;
use stillhouse_data::signals::{SIGNALS_FILE, SequenceKey, SignalHeader, SignalWriter, TopK};
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_stage::Failure;

use super::run::Reached;
use crate::answers::CaptureConfig;

/// What the distributions of one call may take in memory.
const KEPT_BYTES: usize = 64 << 20;

/// The signals of a stage.
pub struct Signals {
    writer: SignalWriter,
    teacher: String,
    /// `None` keeps the whole vocabulary.
    top_k: Option<usize>,
    width: usize,
    positions: u64,
}

impl Signals {
    /// Creates the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(
        folder: &Path,
        capture: &CaptureConfig,
        teacher: &str,
        tokenizer: &Tokenizer,
        vocabulary: usize,
    ) -> Result<Self, Failure> {
        let path = folder.join(SIGNALS_FILE);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        let header = SignalHeader {
            teachers: vec![teacher.to_owned()],
            tokenizer: tokenizer.digest().to_owned(),
            vocabulary: u32::try_from(vocabulary).unwrap_or(u32::MAX),
        };
        let top_k = capture.top_k.map(|k| (k as usize).min(vocabulary));
        let width = top_k.map_or(vocabulary * 4, |k| k * 8);
        let writer = SignalWriter::create(&path, header, capture.precision.into())?;
        Ok(Self { writer, teacher: teacher.to_owned(), top_k, width, positions: 0 })
    }

    /// Scores answers and writes their signals, in their order.
    ///
    /// # Errors
    /// If the model fails or gives what is no distribution.
    pub fn add(&mut self, model: &mut dyn LanguageModel, answered: &[Reached]) -> Result<(), Failure> {
        let mut rest: Vec<&Reached> = answered.iter().filter(|one| !one.tokens.completion.is_empty()).collect();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|one| {
                bytes += one.tokens.completion.len() * self.width;
                bytes <= KEPT_BYTES
            });
            let some = fitting.count().max(1);
            let group: Vec<&Reached> = rest.drain(..some).collect();
            self.add_group(model, &group)?;
        }
        Ok(())
    }

    fn add_group(&mut self, model: &mut dyn LanguageModel, group: &[&Reached]) -> Result<(), Failure> {
        let sequences: Vec<Vec<u32>> = group.iter().map(|one| one.tokens.sequence()).collect();
        let mut rows: Vec<Vec<TopK>> =
            group.iter().map(|one| Vec::with_capacity(one.tokens.completion.len())).collect();
        let mut order = Vec::new();
        let mut sound = true;
        let top_k = self.top_k;
        model.score(&sequences, &mut |row, position, log_probs| {
            // The distribution at `position` is that of the next token: the last one of the prompt speaks of the
            // completion's first.
            if position + 1 < group[row].tokens.prompt.len() {
                return;
            }
            sound &= !log_probs.iter().any(|log_prob| log_prob.is_nan());
            rows[row].push(match top_k {
                Some(k) => most_likely(log_probs, k, &mut order),
                None => TopK { ids: Vec::new(), log_probs: log_probs.to_vec() },
            });
        })?;
        if !sound {
            return Err(Failure::input("the teacher's distribution has entries that are not numbers (NaN)")
                .hint("are its weights whole? half precision overflows with some models: use f32 weights"));
        }
        for ((one, sequence), row) in group.iter().zip(&sequences).zip(rows) {
            if row.len() != one.tokens.completion.len() {
                let (found, wanted) = (row.len(), one.tokens.completion.len());
                return Err(Failure::internal(format!("{found} distributions for {wanted} tokens")));
            }
            let first = u32::try_from(one.tokens.prompt.len()).unwrap_or(u32::MAX);
            self.writer.add(SequenceKey::of(&self.teacher, sequence), first, &row)?;
            self.positions += row.len() as u64;
        }
        Ok(())
    }

    /// Completes the file; gives its figures.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<serde_json::Value, Failure> {
        let sequences = self.writer.finish()?;
        Ok(json!({ "sequences": sequences, "positions": self.positions, "top-k": self.top_k }))
    }
}

/// The k most likely tokens, most likely first, the lower id first among equals.
fn most_likely(log_probs: &[f32], k: usize, order: &mut Vec<u32>) -> TopK {
    let by = |a: &u32, b: &u32| log_probs[*b as usize].total_cmp(&log_probs[*a as usize]).then(a.cmp(b));
    order.clear();
    order.extend(0..u32::try_from(log_probs.len()).unwrap_or(u32::MAX));
    if k < order.len() {
        order.select_nth_unstable_by(k, by);
        order.truncate(k);
    }
    order.sort_unstable_by(by);
    TopK { ids: order.clone(), log_probs: order.iter().map(|id| log_probs[*id as usize]).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_come_first_and_ties_go_to_the_lower_id() {
        let mut order = Vec::new();
        let top = most_likely(&[-3.0, -1.0, -2.0, -1.0, -9.0], 3, &mut order);
        assert_eq!(top, TopK { ids: vec![1, 3, 2], log_probs: vec![-1.0, -1.0, -2.0] });
        assert_eq!(most_likely(&[-1.0, -0.5], 7, &mut order).ids, [1, 0]);
    }
}
