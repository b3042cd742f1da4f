//! Attention without a matrix of all scores: blocks of queries, only the keys that any of them can see, and for the
//! backward pass one number a query (the logarithm of its softmax's mass) from which the weights are made again.
//!
//! Tasks are (row, key-value head) pairs: the gradients of a key and a value then belong to one task, and every sum has
//! one order.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::super::{AttentionShape, Visibility};
use super::numbers::{numbers, tensor};
use super::product::{Matrix, multiply};
use super::rows::{exp, largest, sum};
use super::simd::vectorised;

/// Queries of a block. Keys that no query of the block sees are skipped.
const BLOCK: usize = 64;

impl AttentionShape {
    /// Numbers between a query and the next of the same head.
    fn query_stride(&self) -> usize {
        self.heads * self.width
    }

    fn key_stride(&self) -> usize {
        self.groups * self.width
    }

    fn tasks(&self) -> impl IndexedParallelIterator<Item = (usize, usize)> + use<> {
        let groups = self.groups;
        (0..self.batch * groups).into_par_iter().map(move |task| (task / groups, task % groups))
    }
}

/// One head's inputs: slices that begin at its first number.
struct Head<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
}

struct Inputs<'a> {
    shape: &'a AttentionShape,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
}

impl<'a> Inputs<'a> {
    fn head(&self, row: usize, head: usize) -> Head<'a> {
        let shape = self.shape;
        let group = head / shape.shared();
        let keys = row * shape.room * shape.key_stride() + group * shape.width;
        Head { query: &self.query[self.query_start(row, head)..], key: &self.key[keys..], value: &self.value[keys..] }
    }

    fn query_start(&self, row: usize, head: usize) -> usize {
        row * self.shape.queries * self.shape.query_stride() + head * self.shape.width
    }
}

/// A block of queries and the keys it can see.
#[derive(Clone, Copy)]
struct Block {
    first_query: usize,
    queries: usize,
    first_key: usize,
    keys: usize,
}

fn blocks(shape: &AttentionShape, visibility: &Visibility, row: usize) -> Vec<Block> {
    let block = |first_query: usize| {
        let queries = BLOCK.min(shape.queries - first_query);
        let ranges = (first_query..first_query + queries).map(|query| visibility.range(row, query));
        let (first, last) = ranges.fold((usize::MAX, 0), |(low, high), (first, last)| (low.min(first), high.max(last)));
        Block { first_query, queries, first_key: first, keys: last + 1 - first }
    };
    (0..shape.queries).step_by(BLOCK).map(block).collect()
}

/// Attention's output and, for the backward pass, the logarithm of every softmax's mass.
///
/// # Shapes
/// - query, output: `[batch, queries, heads, width]`
/// - key, value: `[batch, keys and room, key-value heads, width]`
/// - masses: `[batch, key-value heads, heads of the group, queries]`
pub(super) fn attention_forward(
    shape: &AttentionShape,
    query: &FlexTensor,
    key: &FlexTensor,
    value: &FlexTensor,
    visibility: &Visibility,
) -> (FlexTensor, Vec<f32>) {
    let (query, key, value) = (numbers(query), numbers(key), numbers(value));
    let inputs = Inputs { shape, query: query.storage(), key: key.storage(), value: value.storage() };
    let (queries, width) = (shape.queries, shape.width);
    let made: Vec<(Vec<f32>, Vec<f32>)> = shape
        .tasks()
        .map(|(row, group)| {
            let mut out = vec![0.0; shape.shared() * queries * width];
            let mut masses = vec![0.0; shape.shared() * queries];
            let mut scores = Vec::new();
            let blocks = blocks(shape, visibility, row);
            for member in 0..shape.shared() {
                let head = inputs.head(row, group * shape.shared() + member);
                let out = &mut out[member * queries * width..][..queries * width];
                let masses = &mut masses[member * queries..][..queries];
                for block in &blocks {
                    fill_scores(shape, &head, block, &mut scores);
                    vectorised(|| {
                        for (query, row_scores) in scores.chunks_exact_mut(block.keys).enumerate() {
                            let query = block.first_query + query;
                            masses[query] = softmax_visible(row_scores, block, visibility.range(row, query));
                        }
                    });
                    let values = keys_of(shape, head.value, block);
                    let weights = Matrix::new(&scores, block.queries, block.keys, block.keys);
                    multiply(&mut out[block.first_query * width..], width, weights, values, 1.0, false);
                }
            }
            (out, masses)
        })
        .collect();
    let (parts, masses): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    let out = interleave(shape, &parts, shape.queries, shape.shared());
    (tensor([shape.batch, queries, shape.heads, width], out), masses.concat())
}

/// Gradients of query, key and value.
///
/// With weights `P`, output gradient `g` and `δ = Σ g·out` of a query: `dV = Pᵀg`, `dS = P·(gVᵀ − δ)`, `dQ = dS·K·scale`,
/// `dK = dSᵀ·Q·scale`.
pub(super) fn attention_backward(
    shape: &AttentionShape,
    [query, key, value]: [&FlexTensor; 3],
    visibility: &Visibility,
    output: &FlexTensor,
    masses: &[f32],
    gradient: &FlexTensor,
) -> [FlexTensor; 3] {
    let (query, key, value) = (numbers(query), numbers(key), numbers(value));
    let (output, gradient) = (numbers(output), numbers(gradient));
    let inputs = Inputs { shape, query: query.storage(), key: key.storage(), value: value.storage() };
    let (output, gradient) = (output.storage::<f32>(), gradient.storage::<f32>());
    let (queries, keys, width) = (shape.queries, shape.keys, shape.width);
    let made: Vec<[Vec<f32>; 3]> = shape
        .tasks()
        .zip(masses.par_chunks(shape.shared() * queries))
        .map(|((row, group), masses)| {
            let mut dq = vec![0.0; shape.shared() * queries * width];
            let (mut dk, mut dv) = (vec![0.0; keys * width], vec![0.0; keys * width]);
            let (mut weights, mut slopes) = (Vec::new(), Vec::new());
            let blocks = blocks(shape, visibility, row);
            for member in 0..shape.shared() {
                let head_number = group * shape.shared() + member;
                let head = inputs.head(row, head_number);
                let start = inputs.query_start(row, head_number);
                let (output, gradient) = (&output[start..], &gradient[start..]);
                let dq = &mut dq[member * queries * width..][..queries * width];
                let masses = &masses[member * queries..][..queries];
                for block in &blocks {
                    fill_scores(shape, &head, block, &mut weights);
                    vectorised(|| {
                        for (query, row_weights) in weights.chunks_exact_mut(block.keys).enumerate() {
                            let query = block.first_query + query;
                            weights_again(row_weights, block, visibility.range(row, query), masses[query]);
                        }
                    });
                    let step = shape.query_stride();
                    let gradients = Matrix::new(&gradient[block.first_query * step..], block.queries, width, step);
                    let values = keys_of(shape, head.value, block);
                    let block_weights = Matrix::new(&weights, block.queries, block.keys, block.keys);
                    multiply(
                        &mut dv[block.first_key * width..],
                        width,
                        block_weights.transposed(),
                        gradients,
                        1.0,
                        true,
                    );

                    slopes.clear();
                    slopes.resize(block.queries * block.keys, 0.0);
                    multiply(&mut slopes, block.keys, gradients, values.transposed(), 1.0, false);
                    vectorised(|| {
                        for query in 0..block.queries {
                            let at = (block.first_query + query) * step;
                            let (out, g) = (&output[at..][..width], &gradient[at..][..width]);
                            let delta = sum(width, |i| out[i] * g[i]);
                            let places = query * block.keys..(query + 1) * block.keys;
                            for (slope, weight) in slopes[places.clone()].iter_mut().zip(&weights[places]) {
                                *slope = weight * (*slope - delta);
                            }
                        }
                    });
                    let block_slopes = Matrix::new(&slopes, block.queries, block.keys, block.keys);
                    let key_block = keys_of(shape, head.key, block);
                    multiply(
                        &mut dq[block.first_query * width..],
                        width,
                        block_slopes,
                        key_block,
                        shape.scale(),
                        false,
                    );
                    let query_block = Matrix::new(&head.query[block.first_query * step..], block.queries, width, step);
                    let dk = &mut dk[block.first_key * width..];
                    multiply(dk, width, block_slopes.transposed(), query_block, shape.scale(), true);
                }
            }
            [dq, dk, dv]
        })
        .collect();
    let part = |which: usize| -> Vec<&[f32]> { made.iter().map(|task| task[which].as_slice()).collect() };
    let key_shape = [shape.batch, keys, shape.groups, width];
    [
        tensor([shape.batch, queries, shape.heads, width], interleave(shape, &part(0), queries, shape.shared())),
        tensor(key_shape, interleave(shape, &part(1), keys, 1)),
        tensor(key_shape, interleave(shape, &part(2), keys, 1)),
    ]
}

/// `scores = Q Kᵀ · scale` of a block.
fn fill_scores(shape: &AttentionShape, head: &Head<'_>, block: &Block, scores: &mut Vec<f32>) {
    scores.clear();
    scores.resize(block.queries * block.keys, 0.0);
    let step = shape.query_stride();
    let queries = Matrix::new(&head.query[block.first_query * step..], block.queries, shape.width, step);
    let keys = keys_of(shape, head.key, block);
    multiply(scores, block.keys, queries, keys.transposed(), shape.scale(), false);
}

fn keys_of<'a>(shape: &AttentionShape, data: &'a [f32], block: &Block) -> Matrix<'a> {
    Matrix::new(&data[block.first_key * shape.key_stride()..], block.keys, shape.width, shape.key_stride())
}

/// Splits a row of scores into what is hidden before, visible, and hidden behind.
#[inline(always)]
fn split<'a>(row: &'a mut [f32], block: &Block, (first, last): (usize, usize)) -> [&'a mut [f32]; 3] {
    let (before, rest) = row.split_at_mut(first - block.first_key);
    let (visible, behind) = rest.split_at_mut(last + 1 - first);
    [before, visible, behind]
}

/// Scores become weights; hidden ones 0. Gives the logarithm of the mass.
#[inline(always)]
fn softmax_visible(row: &mut [f32], block: &Block, range: (usize, usize)) -> f32 {
    let [before, visible, behind] = split(row, block, range);
    before.fill(0.0);
    behind.fill(0.0);
    let largest = largest(visible);
    visible.iter_mut().for_each(|score| *score = exp(*score - largest));
    let mass = sum(visible.len(), |i| visible[i]);
    let scale = 1.0 / mass;
    visible.iter_mut().for_each(|weight| *weight *= scale);
    largest + mass.ln()
}

/// The same weights again, from the logarithm of the mass.
#[inline(always)]
fn weights_again(row: &mut [f32], block: &Block, range: (usize, usize), log_mass: f32) {
    let [before, visible, behind] = split(row, block, range);
    before.fill(0.0);
    behind.fill(0.0);
    visible.iter_mut().for_each(|score| *score = exp(*score - log_mass));
}

/// From one `[members, positions, width]` a task to `[batch, positions, groups × members, width]`.
fn interleave(
    shape: &AttentionShape,
    parts: &[impl AsRef<[f32]> + Sync],
    positions: usize,
    members: usize,
) -> Vec<f32> {
    let (groups, width) = (shape.groups, shape.width);
    let mut out = vec![0.0; shape.batch * positions * groups * members * width];
    out.par_chunks_mut(groups * members * width).enumerate().with_min_len(16).for_each(|(place, out)| {
        let (row, position) = (place / positions, place % positions);
        for (head, out) in out.chunks_exact_mut(width).enumerate() {
            let (group, member) = (head / members, head % members);
            let from = (member * positions + position) * width;
            out.copy_from_slice(&parts[row * groups + group].as_ref()[from..from + width]);
        }
    });
    out
}
