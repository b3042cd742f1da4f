//! Log-probabilities of whole sequences.

use burn::tensor::{Int, Tensor, TensorData};

use crate::error::Result;
use crate::generate::check_tokens;
use crate::kernels::{Kernels, Visibility};
use crate::model::ModelInput;
use crate::weights::LoadedModel;

/// Positions of one forward pass, padding included.
const BATCH_POSITIONS: usize = 4096;
/// Numbers of the log-probabilities that are held at once: 64 MB.
const CHUNK_ELEMENTS: usize = 1 << 24;

/// For every sequence and every position but the last, `visit(row, position, log_probs)` with the distribution of the
/// token at `position + 1`. Sequences of one length run together.
///
/// # Errors
/// An empty or too long sequence, or a token beyond the vocabulary: the sequence is named.
pub fn score<B: Kernels>(
    model: &LoadedModel<B>,
    sequences: &[Vec<u32>],
    visit: &mut dyn FnMut(usize, usize, &[f32]),
) -> Result<()> {
    for (number, sequence) in sequences.iter().enumerate() {
        check_tokens(model, &format!("sequence {number}"), sequence)?;
    }
    let mut order: Vec<usize> = (0..sequences.len()).filter(|number| sequences[*number].len() > 1).collect();
    order.sort_by_key(|number| sequences[*number].len());
    while !order.is_empty() {
        let batch = next_batch(&mut order, sequences);
        score_batch(model, sequences, &batch, visit);
    }
    Ok(())
}

/// Takes the longest sequences that fit one pass together.
fn next_batch(order: &mut Vec<usize>, sequences: &[Vec<u32>]) -> Vec<usize> {
    let longest = order.last().map_or(1, |number| sequences[*number].len());
    let rows = (BATCH_POSITIONS / longest).max(1);
    order.split_off(order.len().saturating_sub(rows))
}

fn score_batch<B: Kernels>(
    model: &LoadedModel<B>,
    sequences: &[Vec<u32>],
    batch: &[usize],
    visit: &mut dyn FnMut(usize, usize, &[f32]),
) {
    // The last token of a sequence is predicted but never read.
    let time = batch.iter().map(|number| sequences[*number].len() - 1).max().unwrap_or(0);
    let mut tokens = vec![0; batch.len() * time];
    let mut positions = vec![0; batch.len() * time];
    let mut segments = vec![0; batch.len() * time];
    let mut wanted = Vec::new();
    for (row, number) in batch.iter().enumerate() {
        let span = sequences[*number].len() - 1;
        let start = row * time;
        tokens[start..start + span].copy_from_slice(&sequences[*number][..span]);
        segments[start..start + span].fill(1);
        positions[start..start + span].iter_mut().zip(0..).for_each(|(position, i)| *position = i);
        wanted.extend((0..span).map(|position| (*number, position, start + position)));
    }
    let visibility = Visibility::from_segments(&segments, batch.len(), time);
    let hidden = model.decoder.hidden(&ModelInput { tokens, positions, visibility }, &model.rotary, None);
    let vocabulary = model.config.vocabulary;
    for chunk in wanted.chunks((CHUNK_ELEMENTS / vocabulary).max(1)) {
        let places: Vec<i32> = chunk.iter().map(|(_, _, place)| *place as i32).collect();
        let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [chunk.len()]), &hidden.device());
        let logits = model.decoder.logits(hidden.clone().select(0, places));
        let log_probs = B::log_probabilities(logits).into_data().convert::<f32>();
        // f32 by the conversion above, so the fallback is never taken.
        let log_probs: Vec<f32> = log_probs.into_vec().unwrap_or_default();
        for ((number, position, _), row) in chunk.iter().zip(log_probs.chunks_exact(vocabulary)) {
            visit(*number, *position, row);
        }
    }
}
