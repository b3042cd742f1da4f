//! Learning from the student's own text: it writes the completions of some examples itself, the teacher beside it says
//! what it would have said at each of their tokens (generalised knowledge distillation, Agarwal et al., 2024, arXiv
//! 2306.13649).
//!
//! What is written at a step depends on the weights before it and on random numbers that belong to the trajectory, the
//! step and the row, so an interrupted training goes on with the same texts.

use burn::module::AutodiffModule;
use serde::{Deserialize, Serialize};
use stillhouse_data::batch::Batch;
use stillhouse_data::lm::{Finish, GenerateRequest, Sampling};
use stillhouse_spec::Config;
use stillhouse_store::Key;

use super::batch::StepBatch;
use super::state::State;
use crate::backend::TrainBackend;
use crate::error::Result;
use crate::generate::generate;
use crate::model::DecoderConfig;
use crate::precision::Precision;
use crate::weights::LoadedModel;

/// Which completions the student writes itself. Each row then holds one example.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct OnPolicy {
    /// Share of the examples (λ): 0 none, 1 all. Each is drawn by itself.
    #[config(default = 0.5, min = 0, max = 1)]
    pub share: f64,
    /// Divides the logits while it writes; 0 takes the most likely token.
    #[config(default = 1.0, min = 0)]
    pub temperature: f64,
    /// At most so many tokens; left out, as many as the row has room for.
    #[config(min = 1)]
    pub max_tokens: Option<usize>,
}

/// A completion that the student wrote in training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rollout {
    /// The step that learned from it, from 1.
    pub step: u64,
    /// Which example of the data gave the prompt.
    pub example: usize,
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// What the student wrote, the end token included.
    pub completion: Vec<u32>,
    /// Why it ended: `stop` or `length`.
    pub finish: String,
}

/// [`OnPolicy`] at work.
#[derive(Debug, Clone, Copy)]
pub struct OnPolicySampler<'a> {
    /// The settings.
    pub rule: &'a OnPolicy,
    /// Tokens that end a text.
    pub stop_ids: &'a [u32],
    /// Tokens of its tokenizer, the first so many ids: what lies behind them is no text, and a teacher may not have it.
    pub vocabulary: usize,
}

impl OnPolicySampler<'_> {
    /// The step's batch with some completions replaced, and what the student wrote. `key` is that of the state before the
    /// step.
    ///
    /// # Errors
    /// None that a batch of the plan can cause.
    pub(super) fn mix<B: TrainBackend>(
        &self,
        state: &State<B>,
        config: &DecoderConfig,
        key: &Key,
        step: StepBatch,
    ) -> Result<(StepBatch, Vec<Rollout>)> {
        let mut batch = step.batch;
        let drawn: Vec<(usize, GenerateRequest)> =
            (0..batch.rows).filter_map(|row| Some((row, self.request(&batch, key, row)?))).collect();
        if drawn.is_empty() {
            return Ok((StepBatch { batch, teacher: step.teacher }, Vec::new()));
        }
        // It writes with its weights as they are, as it will when it is used.
        let decoder = state.decoder().valid().in_precision(Precision::F32);
        let model = LoadedModel { decoder, config: config.clone(), rotary: state.rotary().clone() };
        let (rows, requests): (Vec<usize>, Vec<GenerateRequest>) = drawn.into_iter().unzip();
        let written = generate(&model, &requests, &mut |_, _| true)?;
        let mut rollouts = Vec::with_capacity(rows.len());
        for ((row, request), written) in rows.into_iter().zip(requests).zip(written) {
            let example = batch.placements.iter().find(|placement| placement.row == row);
            let example = example.map_or(0, |placement| placement.example);
            replace(&mut batch, row, &request.prompt, &written.tokens);
            rollouts.push(Rollout {
                step: state.steps() + 1,
                example,
                prompt: request.prompt,
                completion: written.tokens,
                finish: match written.finish {
                    Finish::Stop => "stop".into(),
                    Finish::Length => "length".into(),
                },
            });
        }
        // Stored distributions are of other texts; the teacher beside the student reads these.
        Ok((StepBatch { batch, teacher: step.teacher.without_distributions() }, rollouts))
    }

    /// What the student is to continue in a row; none where the row keeps its text.
    fn request(&self, batch: &Batch, key: &Key, row: usize) -> Option<GenerateRequest> {
        let (coin, seed) = random_numbers(key, row);
        if coin >= self.rule.share {
            return None;
        }
        let places = row * batch.length..(row + 1) * batch.length;
        let first = batch.scored[places.clone()].iter().position(|scored| *scored)?;
        let prompt = batch.inputs[places][..=first].to_vec();
        // A row of n positions holds n + 1 tokens: the last is only predicted.
        let room = batch.length + 1 - prompt.len();
        let sampling = Sampling {
            temperature: self.rule.temperature as f32,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            max_tokens: self.rule.max_tokens.map_or(room, |most| most.min(room)),
            stop_ids: self.stop_ids.to_vec(),
            allowed: Some(self.vocabulary),
        };
        Some(GenerateRequest { prompt, sampling, seed })
    }
}

/// A number in [0, 1) that decides, and a seed for the text: BLAKE3 of `"stillhouse/rollout/1\0" ‖ key ‖ row u32
/// little-endian`, its first and second eight bytes.
fn random_numbers(key: &Key, row: usize) -> (f64, u64) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/rollout/1\0");
    hasher.update(key.as_bytes());
    hasher.update(&(row as u32).to_le_bytes());
    let hash = hasher.finalize();
    let eight = |from: usize| u64::from_le_bytes(std::array::from_fn(|place| hash.as_bytes()[from + place]));
    ((eight(0) >> 11) as f64 / (1u64 << 53) as f64, eight(8))
}

/// Puts prompt and completion into a row in place of what lies there.
fn replace(batch: &mut Batch, row: usize, prompt: &[u32], completion: &[u32]) {
    let tokens = [prompt, completion].concat();
    let start = row * batch.length;
    // It no longer holds what was laid into it.
    batch.placements.retain(|placement| placement.row != row);
    for place in 0..batch.length {
        let filled = place + 1 < tokens.len();
        let at = start + place;
        batch.inputs[at] = if filled { tokens[place] } else { 0 };
        batch.targets[at] = if filled { tokens[place + 1] } else { 0 };
        batch.scored[at] = filled && place + 1 >= prompt.len();
        batch.segments[at] = u32::from(filled);
        batch.positions[at] = if filled { place as u32 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use stillhouse_data::batch::Placement;

    use super::*;

    #[test]
    fn a_row_holds_the_prompt_and_what_was_written_and_counts_only_that() {
        let mut batch = Batch {
            rows: 2,
            length: 4,
            inputs: vec![1, 2, 3, 4, 5, 6, 7, 8],
            targets: vec![2, 3, 4, 5, 6, 7, 8, 9],
            scored: vec![false, true, true, true, false, true, true, true],
            segments: vec![1; 8],
            positions: vec![0, 1, 2, 3, 0, 1, 2, 3],
            placements: vec![Placement { row: 0, offset: 0, example: 7 }, Placement { row: 1, offset: 0, example: 8 }],
        };
        let untouched = batch.clone();
        replace(&mut batch, 1, &[5, 6], &[20, 21]);
        assert_eq!(batch.inputs[..4], untouched.inputs[..4]);
        assert_eq!(batch.inputs[4..], [5, 6, 20, 0]);
        assert_eq!(batch.targets[4..], [6, 20, 21, 0]);
        assert_eq!(batch.scored[4..], [false, true, true, false]);
        assert_eq!(batch.segments[4..], [1, 1, 1, 0]);
        assert_eq!(batch.positions[4..], [0, 1, 2, 0]);
        assert_eq!(batch.placements, untouched.placements[..1]);
    }

    #[test]
    fn the_numbers_of_a_row_belong_to_trajectory_step_and_row() {
        let (one, other) = (Key::of("test", b"1"), Key::of("test", b"2"));
        assert_eq!(random_numbers(&one, 3), random_numbers(&one, 3));
        assert_ne!(random_numbers(&one, 3), random_numbers(&one, 4));
        assert_ne!(random_numbers(&one, 3), random_numbers(&other, 3));
        let coins: Vec<f64> = (0..2_000).map(|row| random_numbers(&one, row).0).collect();
        let mean = coins.iter().sum::<f64>() / 2_000.0;
        assert!((mean - 0.5).abs() < 0.03 && coins.iter().all(|coin| (0.0..1.0).contains(coin)), "{mean}");
    }
}
