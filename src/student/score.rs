//! Log-probabilities and hidden states of whole sequences.

use burn::tensor::{Int, Tensor, TensorData};

use crate::error::{Result, StudentError};
use crate::generate::check_tokens;
use crate::kernels::{Kernels, Visibility};
use crate::model::ModelInput;
use crate::weights::LoadedModel;

/// Positions of one forward pass, padding included.
const BATCH_POSITIONS: usize = 4096;
/// Numbers that are on the host at once: 64 MB.
const CHUNK_ELEMENTS: usize = 1 << 24;

/// Gets a sequence's number, a position in it, and what the model says there.
pub type Visit<'a> = dyn FnMut(usize, usize, &[f32]) + 'a;

/// For every sequence and every position but the last, `visit(row, position, log_probs)` with the distribution of the
/// token at `position + 1`. Sequences of one length run together.
///
/// # Errors
/// An empty or too long sequence, or a token beyond the vocabulary: the sequence is named.
pub fn score<B: Kernels>(model: &LoadedModel<B>, sequences: &[Vec<u32>], visit: &mut Visit<'_>) -> Result<()> {
    read(model, sequences, model.config.vocabulary, |hidden| log_probabilities(model, hidden), visit)
}

/// As [`score`], but `visit` gets the normed hidden state: what the head makes the logits of.
///
/// # Errors
/// As [`score`].
pub fn hidden<B: Kernels>(model: &LoadedModel<B>, sequences: &[Vec<u32>], visit: &mut Visit<'_>) -> Result<()> {
    read(model, sequences, model.config.hidden, |hidden| hidden, visit)
}

/// What the head alone makes of hidden states, one after the other in `states`: `visit(number, log_probs)`.
///
/// # Errors
/// Numbers that are no states of this model.
pub fn score_hidden<B: Kernels>(
    model: &LoadedModel<B>,
    states: &[f32],
    visit: &mut dyn FnMut(usize, &[f32]),
) -> Result<()> {
    let (vocabulary, width) = (model.config.vocabulary, model.config.hidden);
    if !states.len().is_multiple_of(width) {
        let found = states.len();
        return Err(StudentError::request(format!("{found} numbers are no hidden states of {width} each")));
    }
    let chunk = (CHUNK_ELEMENTS / vocabulary.max(width)).max(1);
    for (number, some) in states.chunks(chunk * width).enumerate() {
        let rows = TensorData::new(some.to_vec(), [some.len() / width, width]);
        let rows = Tensor::<B, 2>::from_data(rows, &model.decoder.device());
        for (row, log_probs) in on_host(log_probabilities(model, rows)).chunks_exact(vocabulary).enumerate() {
            visit(number * chunk + row, log_probs);
        }
    }
    Ok(())
}

fn log_probabilities<B: Kernels>(model: &LoadedModel<B>, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
    B::log_probabilities(model.decoder.logits(hidden))
}

/// A matrix row by row.
fn on_host<B: Kernels>(matrix: Tensor<B, 2>) -> Vec<f32> {
    // f32 by the conversion, so the fallback is never taken.
    matrix.into_data().convert::<f32>().into_vec().unwrap_or_default()
}

/// Visits `says` of the hidden states at every position, `width` numbers each.
fn read<B: Kernels>(
    model: &LoadedModel<B>,
    sequences: &[Vec<u32>],
    width: usize,
    says: impl Fn(Tensor<B, 2>) -> Tensor<B, 2>,
    visit: &mut Visit<'_>,
) -> Result<()> {
    for (number, sequence) in sequences.iter().enumerate() {
        check_tokens(model, &format!("sequence {number}"), sequence)?;
    }
    let mut order: Vec<usize> = (0..sequences.len()).filter(|number| sequences[*number].len() > 1).collect();
    order.sort_by_key(|number| sequences[*number].len());
    while !order.is_empty() {
        let batch = next_batch(&mut order, sequences);
        let (hidden, wanted) = read_batch(model, sequences, &batch);
        for chunk in wanted.chunks((CHUNK_ELEMENTS / width).max(1)) {
            let places: Vec<i32> = chunk.iter().map(|place| place.among as i32).collect();
            let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [chunk.len()]), &hidden.device());
            let said = on_host(says(hidden.clone().select(0, places)));
            for (place, row) in chunk.iter().zip(said.chunks_exact(width)) {
                visit(place.sequence, place.position, row);
            }
        }
    }
    Ok(())
}

/// Takes the longest sequences that fit one pass together.
fn next_batch(order: &mut Vec<usize>, sequences: &[Vec<u32>]) -> Vec<usize> {
    let longest = order.last().map_or(1, |number| sequences[*number].len());
    let rows = (BATCH_POSITIONS / longest).max(1);
    order.split_off(order.len().saturating_sub(rows))
}

/// Where a position of a sequence stands in a pass.
struct Place {
    sequence: usize,
    position: usize,
    /// Row of the hidden states.
    among: usize,
}

/// Hidden states of some sequences, padding among them, and where those of each position are.
fn read_batch<B: Kernels>(
    model: &LoadedModel<B>,
    sequences: &[Vec<u32>],
    batch: &[usize],
) -> (Tensor<B, 2>, Vec<Place>) {
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
        wanted.extend((0..span).map(|position| Place { sequence: *number, position, among: start + position }));
    }
    let visibility = Visibility::from_segments(&segments, batch.len(), time);
    let input = ModelInput { tokens, positions, visibility };
    (model.decoder.hidden(&input, &model.rotary, None), wanted)
}
